"""What comes back: Websim's answers turned into text and pictures, its refusals into what an error may say.

Nothing here reaches the network, and no secret leaves: what a server says is shown only after `scrub`.
"""

import json
import re
from collections.abc import Iterable
from contextlib import suppress
from typing import Any
from urllib.parse import urljoin, urlsplit

from g4f.errors import NoMediaResponseError, ResponseError

# What an error shows of a server's words. Secrets are looked for in a longer stretch, so that none is cut in two.
EXCERPT_CHARS = 300
SCRUBBED_CHARS = 10_000

_HTML = re.compile(r"\s*<(!doctype|html|head|body)\b", re.IGNORECASE)
_TITLE = re.compile(r"<title>.{0,100}?</title>", re.IGNORECASE | re.DOTALL)
# Also what is left of them where the stretch ends in their midst.
_JWT = re.compile(r"ey[A-DI-L][A-Za-z0-9_-]{5,}(\.[A-Za-z0-9_-]*){0,2}")
_EMAIL = re.compile(r"[^\s@\"'<>:,;/]{1,64}(@|%40|\\u0040)[^\s@\"'<>:,;/]+", re.IGNORECASE)
# Where the stretch ends in the midst of an address, its start.
_CUT_WORD = re.compile(r"[^\s@\"'<>:,;/*]{0,64}\Z")
# JSON allows the halves of surrogate pairs, which no encoder takes.
_HALF_A_PAIR = re.compile("[\ud800-\udfff]")

NO_JSON = object()
# No number is of use here; as floats, those of thousands of digits are no error.
_DECODER = json.JSONDecoder(parse_int=float)


def chat_text(text: str) -> str:
    """Return the answer in the body of a chat response.

    Raises:
        ResponseError: there is none.
    """
    answer = _parse(text)
    content = answer.get("content") if isinstance(answer, dict) else None
    if answer is NO_JSON:
        if is_html(text):
            raise ResponseError(f"an HTML page instead of an answer{_title(text)}")
        if text.lstrip().startswith("{"):
            raise ResponseError("an answer that breaks off")
        content = text
    if not isinstance(content, str) or not (content := content.strip()):
        raise ResponseError("an answer without content")
    return _HALF_A_PAIR.sub("\ufffd", content)


def picture_url(text: str, site: str) -> str:
    """Return the picture's address in the body of an image response; a path is one of `site`.

    Raises:
        NoMediaResponseError: there is none, or none that a picture can have.
    """
    answer = _parse(text)
    url = answer.get("url") if isinstance(answer, dict) else None
    if isinstance(url, str):
        with suppress(ValueError):  # of urljoin and urlsplit, for an address like //[
            url = urljoin(site, url) if url.startswith("/") else url
            if _is_picture_address(url):
                return url
    raise NoMediaResponseError("an answer without a picture" + (_title(text) if is_html(text) else ""))


def is_html(text: str) -> bool:
    """Whether a body is a web page, as Cloudflare sends in place of the service's own answer."""
    return _HTML.match(text) is not None


def excerpt(text: str, secrets: Iterable[str]) -> str:
    """Return what may be shown of a body: 300 characters of it at most, and no secret among them."""
    return scrub(f"an HTML page{_title(text)}" if is_html(text) else text, secrets)[:EXCERPT_CHARS]


def scrub(text: str, secrets: Iterable[str]) -> str:
    """Return `text` in one line and without the secrets given, JSON Web Tokens and e-mail addresses."""
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, "***")
    is_cut = len(text) > SCRUBBED_CHARS
    text = _JWT.sub("***", text[:SCRUBBED_CHARS])
    text = _EMAIL.sub("***", _CUT_WORD.sub("", text) if is_cut else text)
    # Nothing that steers a terminal, and no half of a surrogate pair, which cannot be printed.
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def _parse(text: str) -> Any:
    try:
        return _DECODER.decode(text)
    except ValueError:
        return NO_JSON
    except RecursionError:
        return None


def _title(text: str) -> str:
    # g4f tells Cloudflare's pages by their titles, tags included.
    match = _TITLE.search(text, 0, SCRUBBED_CHARS)
    return f": {match[0]}" if match else ""


def _is_picture_address(url: str) -> bool:
    if not url.isprintable() or " " in url:
        return False
    if url.startswith("data:image/"):
        # Not for urlsplit, which would keep the whole picture in its cache.
        return True
    parts = urlsplit(url)
    return parts.scheme in ("http", "https") and bool(parts.hostname)
