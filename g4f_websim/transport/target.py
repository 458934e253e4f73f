"""The target of a request: its endpoint and its proxy, which are checked, and the secrets that no message may show.

No error shows a malformed URL: a password may stand anywhere in it.
"""

import base64
import os
from dataclasses import dataclass, field
from functools import lru_cache
from urllib.parse import SplitResult, quote, unquote, unquote_to_bytes, urlsplit

from ..wire.endpoints import DEFAULT_URL, URL_VARIABLE
from ..wire.redaction import REDACTED

HTTP_SCHEMES = ("http", "https")
SOCKS_SCHEMES = ("socks4", "socks5", "socks5h")
# The schemes that an error may show. What stands before "://" in another URL may be a part of a password.
KNOWN_SCHEMES = (*HTTP_SCHEMES, *SOCKS_SCHEMES, "socks", "socks4a", "ftp", "ws", "wss", "file")

# The settings of the site, and the valid forms of a site and of a proxy.
SITE_NAME = f"{URL_VARIABLE} or Websim.url"
SITE_FORM = f"a URL like {DEFAULT_URL} with the scheme http or https and a valid host and port"
PROXY_FORM = (
    "a URL like http://user:password@host:3128 with the scheme http, https, socks4, socks5 or socks5h and a valid host "
    "and port"
)
# aiohttp_socks sends no other logins, and has no default port.
SOCKS_FORM = (
    "the URL of a SOCKS proxy with a port and with a user and password of at most 255 ASCII characters each, as in "
    "socks5://user:password@host:1080"
)
MAX_SOCKS_LOGIN_CHARS = 255

# g4f passes the value of this variable as `proxy`.
PROXY_VARIABLE = "G4F_PROXY"

# A shorter key is a placeholder such as "none". Redacting it would remove ordinary words from a message.
MIN_KEY_CHARS = 7


@dataclass(slots=True)
class Target:
    """The endpoint that a request is sent to, with the token and the proxy.

    Args:
        url: the URL of the endpoint.
        token: the Websim token that is sent, if any.
        api_key: the caller's key, which no message may show even if it is not sent.
        proxy: URL of an http, https, socks4, socks5 or socks5h proxy, if any.
        unsent_key: whether a key was given that is not a Websim token and so is not sent.

    Raises:
        ValueError: one of the URLs is malformed or has an unsupported scheme.
    """

    url: str
    token: str | None = field(default=None, repr=False)
    api_key: str | None = field(default=None, repr=False)
    proxy: str | None = field(default=None, repr=False)
    unsent_key: bool = field(default=False, repr=False)

    def __post_init__(self) -> None:
        _check_url(SITE_NAME, self.url, HTTP_SCHEMES, SITE_FORM)
        if not self.proxy:
            return
        name = PROXY_VARIABLE if self.proxy == os.environ.get(PROXY_VARIABLE) else "proxy"
        parts = _check_url(name, self.proxy, HTTP_SCHEMES + SOCKS_SCHEMES, PROXY_FORM)
        if parts.path not in ("", "/"):
            raise malformed_url(name, PROXY_FORM, self.proxy)
        if parts.scheme in SOCKS_SCHEMES and not _is_usable_for_socks(parts):
            raise malformed_url(name, SOCKS_FORM, self.proxy)

    @property
    def host(self) -> str:
        """The host and port of the endpoint."""
        return host_in(urlsplit(self.url))

    @property
    def proxy_host(self) -> str:
        """The host and port of the proxy."""
        return host_in(urlsplit(self.proxy or ""))

    @property
    def socks_proxy(self) -> str | None:
        """The URL of the proxy, if it is a SOCKS proxy."""
        if not self.proxy:
            return None
        parts = urlsplit(self.proxy)
        if parts.username and parts.password is None:
            # aiohttp_socks ignores a user without a password.
            parts = parts._replace(netloc=f"{parts.username}:@{host_in(parts)}")
        return parts.geturl() if parts.scheme in SOCKS_SCHEMES else None

    @property
    def http_proxy(self) -> str | None:
        """The URL of the proxy, if it is an HTTP proxy, in a form whose login aiohttp sends as UTF-8.

        aiohttp sends the characters of a login as Latin-1, so each byte of the login in UTF-8 becomes one character.
        """
        if not self.proxy or (parts := urlsplit(self.proxy)).scheme not in HTTP_SCHEMES:
            return None
        login = parts.netloc.rpartition("@")[0]
        if unquote(login).isascii():
            return parts.geturl()
        login = ":".join(quote(unquote_to_bytes(part).decode("latin-1"), safe="") for part in login.split(":", 1))
        return parts._replace(netloc=f"{login}@{host_in(parts)}").geturl()

    @property
    def secrets(self) -> list[str]:
        """The strings that must not appear in an error or a log line."""
        proxy = urlsplit(self.proxy or "")
        passwords = [parts.password or "" for parts in (proxy, urlsplit(self.url))]
        key = self.api_key if len(self.api_key or "") >= MIN_KEY_CHARS else None
        secrets = [self.token, key, *passwords, *map(unquote, passwords)]
        if proxy.password:
            # The value of the Proxy-Authorization header; a proxy may repeat it in an error page.
            login = unquote_to_bytes(f"{proxy.username}:{proxy.password}")
            secrets.append(base64.b64encode(login).decode())
        return [secret for secret in secrets if secret]


def is_valid_url(url: str) -> bool:
    """Return whether requests can be sent to a URL."""
    try:
        Target(url)
    except ValueError:
        return False
    return True


def origin_in(parts: SplitResult) -> str:
    """Return the scheme, host and port of a URL, without a user and password."""
    return f"{parts.scheme}://{host_in(parts)}"


def host_in(parts: SplitResult) -> str:
    """Return the host and port in a URL, without a user and password."""
    return parts.netloc.rpartition("@")[2]


def without_login(url: str) -> str:
    """Return a URL without its user and password."""
    parts = urlsplit(url)
    return parts._replace(netloc=host_in(parts)).geturl()


def _is_usable_for_socks(parts: SplitResult) -> bool:
    logins = [unquote(parts.username or ""), unquote(parts.password or "")]
    return bool(parts.port) and all(login.isascii() and len(login) <= MAX_SOCKS_LOGIN_CHARS for login in logins)


def malformed_url(name: str, form: str, url: str) -> ValueError:
    """Return the error for a malformed URL, which shows no more of the URL than a known scheme.

    Args:
        name: the name of the setting.
        form: the form of a valid value, in words.
        url: the malformed value.
    """
    scheme, separator, _ = url.partition("://")
    shown = f"{scheme}://{REDACTED}" if separator and scheme.lower() in KNOWN_SCHEMES else REDACTED
    return ValueError(f"{name}: {form}, not {shown!r}")


@lru_cache  # most calls go to the same site, through the same proxy
def _check_url(name: str, url: str, schemes: tuple[str, ...], form: str) -> SplitResult:
    """Return the parts of a URL.

    Raises:
        ValueError: the URL is malformed.
    """
    try:
        parts = urlsplit(url)
        if parts.scheme in schemes and parts.hostname and parts.port != 0 and _is_plain(url, parts):
            return parts
    except ValueError:
        pass
    raise malformed_url(name, form, url)


def _is_plain(url: str, parts: SplitResult) -> bool:
    """Return whether a URL has only a scheme, a login, a host and a path; urlsplit() drops line ends from the parts."""
    return url.isprintable() and " " not in url and not set("?#") & set(url) and "@" not in parts.path
