"""Read a response body: the text of a chat, the URL of an image, the words of an error."""

import json
import re
from contextlib import suppress
from typing import Any
from urllib.parse import urljoin, urlsplit

from ..errors import NoMediaResponseError, Reason, ResponseError, WebsimError
from .redaction import MAX_SEARCHED_CHARS, is_html

# Public clients of Websim show that a response body may report a rate limit in these words, whatever the status.
RATE_LIMIT_WORDS = "rate limit exceeded"

# Of a longer body only one string and what surrounds it is parsed: a list of millions of lists fills the memory.
# A longer text is not searched for JSON; a model writes less.
MAX_PARSED_CHARS = 512 * 1024
MAX_BRACKETS = 20
MAX_URL_CHARS = 10_000
MAX_SHOWN_KEYS = 8

EVENT_STREAM = "an event stream instead of JSON"

INVALID_JSON = object()
MISSING = object()
# No number in a response is used. Parsed as a float, an integer of thousands of digits is not an error.
_DECODER = json.JSONDecoder(parse_int=float)

# Codecs of Python that are no charsets of the web. Decoding punycode takes quadratic time.
_OTHER_CODECS = re.compile(r"idna|punycode|undefined|(raw.)?unicode.escape|u(tf)?.?7|unicode.1.1.utf.7", re.IGNORECASE)
# JSON permits lone surrogates, which cannot be encoded as UTF-8. `decode` puts them in place of invalid bytes.
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_NOT_TEXT = re.compile("[\0-\x08\x0b\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff]")
_EVENTS = re.compile(r"\s*+((event|id|retry)?:[^\r\n]*+\s*+)*+data:")
# The beginning of a JSON object or array, other than a bracket in a sentence.
_JSON_START = re.compile(r'\{\s*["}]|\[\s*(["{}\[\]0-9-]|true\b|false\b|null\b)')
_FENCE = re.compile(r"(?<![`~])(`{3,}+|~{3,}+)[\w-]*+\s")


class UnexpectedBodyError(Exception):
    """A response has a successful status but not the expected content; never raised to the caller.

    Args:
        reason: the name of what happened.
        summary: what happened.
        kind: the class of the error of the call.
    """

    def __init__(self, reason: Reason, summary: str, kind: type[WebsimError]) -> None:
        super().__init__(summary)
        self.reason, self.summary, self.kind = reason, summary, kind


def decode(body: bytes, charset: str | None) -> str:
    """Return a body as text: JSON in its own encoding, other text in the charset of the response or else in UTF-8.

    Bytes that are no text in that charset become lone surrogates.

    Args:
        body: the body.
        charset: the charset in the header `Content-Type`, if any.
    """
    encoding: str = json.detect_encoding(body[:4])
    # JSON is UTF-8 whatever a header says (RFC 8259). Only in UTF-16 and UTF-32 does it begin with zero bytes.
    if encoding == "utf-8" and charset and body[:MAX_SEARCHED_CHARS].lstrip()[:1] not in (b"{", b"["):
        encoding = "utf-8" if _OTHER_CODECS.fullmatch(charset) else charset
    try:
        return body.decode(encoding, "surrogateescape")
    except (LookupError, ValueError):
        return body.decode("utf-8", "surrogateescape")


def chat_text(body: str) -> str:
    """Return the text in the body of a chat response.

    A body that is not JSON is the text itself, unless it is an HTML page, an event stream or not text at all.

    Raises:
        UnexpectedBodyError: the body does not contain a text.
    """
    content = _read_field(body, "content", ResponseError)
    if content is None:
        content = body
        if _NOT_TEXT.search(body):
            raise UnexpectedBodyError(Reason.BROKEN_RESPONSE, "a response that is not text", ResponseError)
        if RATE_LIMIT_WORDS in body[:MAX_SEARCHED_CHARS].lower():
            raise UnexpectedBodyError(Reason.RATE_LIMITED, "too many requests", ResponseError)
    content = content.strip()
    if not content:
        raise UnexpectedBodyError(Reason.NO_CONTENT, "a response without content", ResponseError)
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
        url = urljoin(site, url) if url.startswith("/") and len(url) <= MAX_URL_CHARS else url
        if _is_image_url(url):
            return url
    raise UnexpectedBodyError(Reason.NO_CONTENT, "a response without an image", NoMediaResponseError)


def json_text(content: str) -> str:
    """Return the JSON in a chat text, without a Markdown fence and words around it; other text unchanged.

    Args:
        content: the text of a chat for which JSON was requested.
    """
    if len(content) > MAX_PARSED_CHARS or _parse(content) is not INVALID_JSON:
        return content
    return _longest_json(content) or _fenced_json(content) or content


def _longest_json(content: str) -> str:
    """Return the longest JSON object or array in a text, or an empty string if there is none or one is malformed."""
    longest, end = "", 0
    for _ in range(MAX_BRACKETS):
        start = _JSON_START.search(content, end)
        if not start:
            break
        try:
            _, end = _DECODER.raw_decode(content, start.start())
        except (ValueError, RecursionError):  # truncated or malformed: a part would not be what was requested
            return ""
        longest = max(longest, content[start.start() : end], key=len)
    return longest


def _fenced_json(content: str) -> str:
    """Return the JSON in the first Markdown fence of a text, or an empty string if it contains none."""
    fence = _FENCE.search(content)
    fenced = content[fence.end() :].partition(fence[1])[0].strip() if fence else ""
    return fenced if _parse(fenced) is not INVALID_JSON else ""


def error_words(body: str) -> str:
    """Return the message in the body of an error, or the body if it contains none."""
    data = _parse(body) if len(body) <= MAX_PARSED_CHARS else None
    if not isinstance(data, dict):
        return body
    error = data.get("error")
    nested = error.get("message") if isinstance(error, dict) else error
    words = (nested, data.get("message"), data.get("detail"))
    return next((word for word in words if isinstance(word, str) and word.strip()), body)


def require_no_event_stream(content_type: str, body: str) -> None:
    """Raise an `UnexpectedBodyError` if a body that is not JSON has the content type of server-sent events."""
    if content_type.lower().startswith("text/event-stream") and _first_char(body) != "{":
        raise UnexpectedBodyError(Reason.API_CHANGED, EVENT_STREAM, ResponseError)


def _read_field(body: str, name: str, kind: type[WebsimError]) -> str | None:
    """Return the text in a field of a JSON object, "" if the field is null, or None if the body is not JSON at all.

    Raises:
        UnexpectedBodyError: the body is an HTML page, events, incomplete JSON, or JSON without a text in that field.
    """
    data = _parse(body) if len(body) <= MAX_PARSED_CHARS else _parse_large(body, name)
    if data is INVALID_JSON:
        if is_html(body):
            raise UnexpectedBodyError(Reason.API_MOVED, "something other than the API responded", kind)
        if _EVENTS.match(body, 0, MAX_SEARCHED_CHARS):
            raise UnexpectedBodyError(Reason.API_CHANGED, EVENT_STREAM, kind)
        if _first_char(body) == "{":
            raise UnexpectedBodyError(Reason.BROKEN_RESPONSE, "the response broke off", kind)
        return None
    value = data.get(name, MISSING) if isinstance(data, dict) else MISSING
    if value is None or isinstance(value, str):
        return value or ""
    raise UnexpectedBodyError(Reason.API_CHANGED, _describe_fields(data, name), kind)


def _parse(body: str) -> Any:
    try:
        return _DECODER.decode(body)
    except ValueError:
        return INVALID_JSON
    except RecursionError:  # valid JSON, but nested too deeply to be one of Websim's responses
        return None


def _parse_large(body: str, name: str) -> Any:
    """Return the JSON in a large body, if a long string in the field `name` is what makes it large, or else None."""
    first = _first_char(body)
    if first != "{":
        return None if first == "[" else INVALID_JSON
    field = re.compile(rf'"{name}"\s*:\s*(?=")').search(body, 0, MAX_PARSED_CHARS)
    if not field:
        return None
    try:
        value, end = _DECODER.raw_decode(body, field.end())
    except ValueError:
        return INVALID_JSON
    if len(body) - end > MAX_PARSED_CHARS:
        return None
    data = _parse(f'{body[: field.end()]}""{body[end:]}')
    if isinstance(data, dict) and data.get(name) == "":
        data[name] = value
    return data


def _first_char(body: str) -> str:
    return body[:MAX_SEARCHED_CHARS].lstrip()[:1]


def _is_image_url(url: str) -> bool:
    if not url.isprintable() or " " in url:
        return False
    if url.startswith("data:image/"):
        # urlsplit() would keep the whole image in its cache.
        return True
    if len(url) > MAX_URL_CHARS:
        return False
    parts = urlsplit(url)
    return parts.scheme in ("http", "https") and bool(parts.hostname)


def _describe_fields(data: Any, expected: str) -> str:
    if not isinstance(data, dict):
        return f"a response that is not a JSON object with the field {expected}"
    if expected in data:
        return f"a response whose field {expected} is not text"
    shown = ", ".join(list(data)[:MAX_SHOWN_KEYS]) or "none"
    return f"a response without the field {expected}; its fields: {shown}"
