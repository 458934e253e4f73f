"""The target of a request: its endpoint and its proxy, which are checked, and the secrets that no message may show."""

import base64
import os
from dataclasses import dataclass, field
from urllib.parse import SplitResult, unquote, urlsplit

from ..wire.endpoints import CHAT_PATH, DEFAULT_URL, IMAGE_PATH, URL_VARIABLE
from ..wire.redaction import redact

HTTP_SCHEMES = ("http", "https")
SOCKS_SCHEMES = ("socks4", "socks5", "socks5h")

# The settings of the site, and the valid forms of a site and of a proxy.
SITE_NAME = f"{URL_VARIABLE} or Websim.url"
SITE_FORM = f"a URL like {DEFAULT_URL} with the scheme http or https and a valid host and port"
PROXY_FORM = (
    "a URL like http://user:password@host:3128 with the scheme http, https, socks4, socks5 or socks5h and a valid host "
    "and port"
)

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

    Attributes:
        host: the host and port of the endpoint.

    Raises:
        ValueError: one of the URLs is malformed or has an unsupported scheme.
    """

    url: str
    token: str | None = field(default=None, repr=False)
    api_key: str | None = field(default=None, repr=False)
    proxy: str | None = field(default=None, repr=False)

    host: str = field(init=False)

    def __post_init__(self) -> None:
        self.host = _check_url(SITE_NAME, self.url, HTTP_SCHEMES, SITE_FORM)
        if self.proxy:
            name = PROXY_VARIABLE if self.proxy == os.environ.get(PROXY_VARIABLE) else "proxy"
            _check_url(name, self.proxy, HTTP_SCHEMES + SOCKS_SCHEMES, PROXY_FORM)

    @property
    def proxy_host(self) -> str:
        """The host and port of the proxy."""
        return host_in(urlsplit(self.proxy or ""))

    @property
    def socks_proxy(self) -> str | None:
        """The proxy, if it is a SOCKS proxy."""
        return self.proxy if self.proxy and urlsplit(self.proxy).scheme in SOCKS_SCHEMES else None

    @property
    def http_proxy(self) -> str | None:
        """The proxy, if it is an HTTP proxy."""
        return None if self.socks_proxy else self.proxy or None

    @property
    def secrets(self) -> list[str]:
        """The strings that must not appear in an error or a log line."""
        proxy = urlsplit(self.proxy or "")
        passwords = [parts.password or "" for parts in (proxy, urlsplit(self.url))]
        key = self.api_key if len(self.api_key or "") >= MIN_KEY_CHARS else None
        secrets = [self.token, key, *passwords, *map(unquote, passwords)]
        if proxy.password:
            # The value of the Proxy-Authorization header; a proxy may repeat it in an error page.
            login = unquote(f"{proxy.username}:{proxy.password}").encode("latin-1", "replace")
            secrets.append(base64.b64encode(login).decode())
        return [secret for secret in secrets if secret]


def is_valid_url(url: str, proxy: str | None = None) -> bool:
    """Return whether requests can be sent to a URL through a proxy."""
    try:
        Target(url, proxy=proxy)
    except ValueError:
        return False
    return True


def origin_in(parts: SplitResult) -> str:
    """Return the scheme, host and port of a URL, without a user and password."""
    return f"{parts.scheme}://{host_in(parts)}"


def host_in(parts: SplitResult) -> str:
    """Return the host and port in a URL, without a user and password."""
    return parts.netloc.rpartition("@")[2]


def _check_url(name: str, url: str, schemes: tuple[str, ...], form: str) -> str:
    """Return the host and port in a URL.

    Raises:
        ValueError: the URL is malformed; the message shows the site or the proxy without its password.
    """
    try:
        parts = urlsplit(url)
        if parts.scheme in schemes and parts.hostname and parts.port != 0 and _is_plain(url, parts):
            return host_in(parts)
    except ValueError:
        pass
    site = url.removesuffix(CHAT_PATH).removesuffix(IMAGE_PATH)
    login, at, rest = site.rpartition("@")
    shown = redact(rest)  # a token may have been set instead of a URL
    if at and "://" in login:
        shown = f"{login.partition('://')[0]}://***@{shown}"
    raise ValueError(f"{name}: {form}, not {shown!r}")


def _is_plain(url: str, parts: SplitResult) -> bool:
    """Return whether a URL has only a scheme, a login, a host and a path; urlsplit() drops line ends from the parts."""
    return url.isprintable() and " " not in url and not (parts.query or parts.fragment or "@" in parts.path)
