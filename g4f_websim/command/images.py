"""Request images from Websim one by one, download them, and recognize them by their contents.

The commands `image` and `batch` share this module. files.py names and writes the files.
"""

import base64
import ipaddress
import os
import re
import socket
from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes, urljoin, urlsplit

from aiohttp import ClientResponse, ClientSession, ClientTimeout
from g4f.requests.aiohttp import get_connector

from ..provider import Websim
from ..transport.connections import HEADERS
from ..transport.target import PROXY_VARIABLE, Target, without_login
from ..wire.bodies import IMAGE_PAGE, build_headers
from ..wire.endpoints import DEFAULT_URL
from ..wire.redaction import MAX_SEARCHED_CHARS, is_html

DOWNLOAD_TIMEOUT = ClientTimeout(total=120, sock_connect=30)

# Websim's images are a few megabytes large.
MAX_IMAGE_BYTES = 64 * 1024 * 1024

# Decoding takes 220 bytes for each percent-encoded byte. Clients of Websim have seen none.
MAX_ESCAPES = 500_000

MAX_REDIRECTS = 10
REDIRECT_STATUSES = (301, 302, 303, 307, 308)

_LOCAL_NAME = re.compile(r"(.*\.)?localhost(\.localdomain)?|ip6-(localhost|loopback)")
_PLAIN_NAME = re.compile(r"[a-z0-9._-]+")
# The only IPv6 addresses that are assigned to hosts on the internet (RFC 4291, section 2.4).
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")


class Format(NamedTuple):
    """An image format.

    Attributes:
        name: the name.
        suffixes: the suffixes of its files, the usual one first.
        start: a pattern for the first bytes.
        is_complete: whether data with such a start has its end too.
    """

    name: str
    suffixes: tuple[str, ...]
    start: bytes
    is_complete: Callable[[bytes], object]


# A download shorter than its Content-Length is an error of aiohttp. The ends of the usual formats are checked too,
# because a data: URI has no Content-Length. Software may add a few bytes after the end of a PNG or JPEG image.
FORMATS = (
    Format("PNG", (".png",), rb"\x89PNG\r\n\x1a\n", lambda data: b"IEND\xaeB`\x82" in data),
    Format("JPEG", (".jpg", ".jpeg", ".jpe", ".jfif"), rb"\xff\xd8\xff", lambda data: b"\xff\xd9" in data),
    Format("GIF", (".gif",), rb"GIF8[79]a", lambda data: data.rstrip(b"\0").endswith(b";")),
    Format("WebP", (".webp",), rb"RIFF.{4}WEBP", lambda data: len(data) >= 8 + int.from_bytes(data[4:8], "little")),
    Format("AVIF", (".avif",), rb".{4}ftyp(avif|avis|mif1)", bool),
    # "BM" alone may begin a text: two reserved fields are zero, and the second header has one of seven sizes.
    Format("BMP", (".bmp", ".dib"), rb"BM.{4}\0{4}.{4}[\x0c\x28\x34\x38\x40\x6c\x7c]\0{3}", bool),
)


class DownloadError(Exception):
    """An image could not be downloaded or decoded. The message contains no secret."""


async def request_image(provider: type[Websim] = Websim, **arguments: Any) -> str:
    """Request one image with arguments of `create_async_generator`, and return its URL."""
    arguments = {"messages": None, "proxy": os.environ.get(PROXY_VARIABLE), **arguments}
    responses: Any = provider.create_async_generator(provider.default_image_model, **arguments)
    (url,) = [url async for response in responses for url in response.get_list()]
    return str(url)


async def fetch_image(url: str) -> tuple[bytes, Format]:
    """Return the image at a `data:` URI or a web URL, and its format.

    The request has the headers of the request that made the image, but not the user's token.

    Raises:
        DownloadError: the URL may not be opened, the download failed, or the data is not an image. The message ends
            with the URL, unless it is a `data:` URI.
    """
    is_data = url.startswith("data:")
    try:
        data = decode_data_uri(url) if is_data else await _download(url)
        return data, _recognize(data)
    except TimeoutError:
        reason = f"no response within {DOWNLOAD_TIMEOUT.total:g} s"
    except DownloadError as error:
        reason = str(error)
    except Exception as error:  # aiohttp, ssl and the SOCKS library raise exceptions of many classes
        # Their messages may contain the password of the proxy.
        reason = "malformed" if is_data else f"the download failed ({type(error).__name__})"
    raise DownloadError(f"{reason}: {'a data: URI of Websim' if is_data else without_login(url)}") from None


async def _download(url: str) -> bytes:
    headers = {str(name): value for name, value in HEADERS.items() if name.lower() != "content-type"}
    headers |= build_headers(without_login(Websim.login_url), IMAGE_PAGE, token=None)
    target = Target(DEFAULT_URL, proxy=os.environ.get(PROXY_VARIABLE))  # only the proxy of the target is used
    connector = get_connector(proxy=target.socks_proxy)
    async with ClientSession(connector=connector, headers=headers, timeout=DOWNLOAD_TIMEOUT) as session:
        for _ in range(MAX_REDIRECTS + 1):
            _require_public(url)
            async with session.get(url, proxy=target.http_proxy, allow_redirects=False) as response:
                if response.status not in REDIRECT_STATUSES or "Location" not in response.headers:
                    return await _read(response)
                url = urljoin(url, response.headers["Location"])
    raise DownloadError(f"more than {MAX_REDIRECTS} redirects")


async def _read(response: ClientResponse) -> bytes:
    if response.status != 200:
        raise DownloadError(f"status {response.status}")
    data = bytearray()
    async for chunk in response.content.iter_any():
        data += chunk
        if len(data) > MAX_IMAGE_BYTES:
            raise DownloadError(f"more than {MAX_IMAGE_BYTES >> 20} MiB")
    return bytes(data)


def _require_public(url: str) -> None:
    """Raise an error unless a URL may be opened: a server must not choose a host of the user's network.

    If the site is a local host itself, its images may be on that host too.
    """
    parts, site = urlsplit(url), urlsplit(Websim.url)
    if parts.scheme not in ("http", "https") or not parts.hostname or not url.isprintable():
        raise DownloadError("no web URL")
    if "@" in parts.netloc and parts.netloc != site.netloc:
        raise DownloadError("a URL with a login, which was not opened")
    host, site_host = parts.hostname.rstrip("."), (site.hostname or "").rstrip(".")
    if not (_is_public(host) or host == site_host or (_is_loopback(host) and _is_loopback(site_host))):
        raise DownloadError(f"{host} is no public host and was not opened")


def _is_public(host: str) -> bool:
    """Return whether a host, in lower case, is a name or a public IP address in any form that systems accept."""
    address = _address(host)
    if isinstance(address, ipaddress.IPv6Address):
        # 6to4 addresses, which are obsolete (RFC 7526), contain an IPv4 address.
        return address in _GLOBAL_UNICAST and address.is_global and address.sixtofour is None
    if address:
        return address.is_global and not address.is_multicast
    # The system or a proxy might read a name that is not plain as an address.
    return bool(_PLAIN_NAME.fullmatch(host)) and not _LOCAL_NAME.fullmatch(host)


def _is_loopback(host: str) -> bool:
    """Return whether a host is this machine."""
    address = _address(host)
    return address.is_loopback if address else not _is_public(host)


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the IP address that a host is, or None if it is a name."""
    if ":" in host:
        return ipaddress.IPv6Address(host.partition("%")[0])
    try:
        # Systems also accept 127.1, 0x7f000001, 017700000001 and 2130706433.
        return ipaddress.IPv4Address(socket.inet_aton(host))
    except (OSError, UnicodeError):
        return None


def decode_data_uri(uri: str) -> bytes:
    """Return the bytes in a `data:` URI (RFC 2397), or raise a `ValueError`."""
    header, _, text = uri.partition(",")
    if text.count("%") > MAX_ESCAPES:
        raise ValueError("too many percent-encoded bytes")
    data = unquote_to_bytes(text)
    if not header.lower().endswith(";base64"):
        return data
    data = data.translate(None, b" \t\r\n")
    return base64.b64decode(data + b"=" * (-len(data) % 4), validate=True)


def _recognize(data: bytes) -> Format:
    """Return the format of an image, judged by its first bytes."""
    if not data:
        raise DownloadError("an empty body instead of an image")
    found = next((known for known in FORMATS if re.match(known.start, data, re.DOTALL)), None)
    if found is None:
        kind = "an HTML page" if is_html(data[:MAX_SEARCHED_CHARS].decode("latin-1")) else "other data"
        raise DownloadError(f"{kind} instead of an image")
    if not found.is_complete(data):
        raise DownloadError(f"a truncated {found.name} image")
    return found
