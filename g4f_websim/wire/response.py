"""Read the text or the image URL from a response body."""

import json
import re
from contextlib import suppress
from typing import Any
from urllib.parse import urljoin, urlsplit

from g4f.errors import NoMediaResponseError, ResponseError

from ..transport.causes import (
    BROKEN_RESPONSE,
    IF_CHANGED,
    RATE_LIMIT_WORDS,
    RATE_LIMITED,
    RUN_CHECK,
    TRY_LATER,
    Cause,
    Reason,
    UnexpectedBodyError,
)
from .redaction import is_html

INVALID_JSON = object()
MISSING = object()
# No number in a response is used. Parsed as a float, an integer of thousands of digits is not an error.
_DECODER = json.JSONDecoder(parse_int=float)

# JSON permits lone surrogates, which cannot be encoded as UTF-8.
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")

MAX_SHOWN_KEYS = 8


def chat_text(body: str) -> str:
    """Return the text in the body of a chat response.

    A body that is neither JSON nor an HTML page, and does not begin with `{`, is the text itself.

    Raises:
        UnexpectedBodyError: the body does not contain a text.
    """
    content = _read_field(body, "content", ResponseError)
    if content is None and RATE_LIMIT_WORDS in body.lower():
        raise UnexpectedBodyError(RATE_LIMITED)
    content = (body if content is None else content).strip()
    if not content:
        raise UnexpectedBodyError(_no_content("a response without content", ResponseError))
    return content if content.isascii() else _LONE_SURROGATE.sub("\ufffd", content)


def image_url(body: str, site: str) -> str:
    """Return the URL of the image in the body of an image response.

    Args:
        body: the response body.
        site: the URL of the site, to which a path in the response is relative.

    Raises:
        UnexpectedBodyError: the body does not contain the URL of an image.
    """
    url = _read_field(body, "url", NoMediaResponseError) or ""
    with suppress(ValueError):  # urljoin and urlsplit raise it for a URL like //[
        url = urljoin(site, url) if url.startswith("/") else url
        if _is_image_url(url):
            return url
    raise UnexpectedBodyError(_no_content("a response without an image", NoMediaResponseError))


def _read_field(body: str, name: str, kind: type[Exception]) -> str | None:
    """Return the text in a field of a JSON object, "" if the field is null, or None if the body is not JSON at all.

    Raises:
        UnexpectedBodyError: the body is an HTML page, incomplete JSON, or JSON without a text in that field.
    """
    data = _parse(body)
    if data is INVALID_JSON:
        if is_html(body):
            raise UnexpectedBodyError(_html_page(kind))
        if body.lstrip().startswith("{"):
            raise UnexpectedBodyError(BROKEN_RESPONSE._replace(error=kind))
        return None
    value = data.get(name, MISSING) if isinstance(data, dict) else MISSING
    if value is None or isinstance(value, str):
        return value or ""
    raise UnexpectedBodyError(_other_fields(data, name, kind))


def _parse(body: str) -> Any:
    try:
        return _DECODER.decode(body)
    except ValueError:
        return INVALID_JSON
    except RecursionError:  # valid JSON, but nested too deeply to be one of Websim's responses
        return None


def _is_image_url(url: str) -> bool:
    if not url.isprintable() or " " in url:
        return False
    if url.startswith("data:image/"):
        # urlsplit() would keep the whole image in its cache.
        return True
    parts = urlsplit(url)
    return parts.scheme in ("http", "https") and bool(parts.hostname)


def _html_page(kind: type[Exception]) -> Cause:
    advice = f"a captive portal or a proxy may respond instead, or WEBSIM_URL is wrong: set WEBSIM_URL; {RUN_CHECK}"
    return Cause(Reason.API_MOVED, "something other than the API responded", advice, kind)


def _no_content(summary: str, kind: type[Exception]) -> Cause:
    return Cause(Reason.NO_CONTENT, summary, f"try other words, {TRY_LATER}", kind)


def _other_fields(data: Any, expected: str, kind: type[Exception]) -> Cause:
    if isinstance(data, dict) and expected in data:
        summary = f"a response whose field {expected} is not text"
    elif not isinstance(data, dict):
        summary = f"a response that is not a JSON object with the field {expected}"
    else:
        shown = ", ".join(list(data)[:MAX_SHOWN_KEYS]) or "none"
        summary = f"a response without the field {expected}; its fields: {shown}"
    return Cause(Reason.API_CHANGED, summary, IF_CHANGED, kind)
