"""Remove secrets from text that an error, a log line or a report shows."""

import re
from collections.abc import Iterable

# A hostile body may be megabytes long; only its first characters are searched and shown.
MAX_SEARCHED_CHARS = 10_000

REDACTED = "***"

# The tags with which pages begin; a page may lack the outer ones.
_HTML = re.compile(
    r"\s*+(<!--.{0,1000}?-->\s*+)*+<(!doctype|\?xml|html|head|body|title|meta|link|script|style|center|div|h1|p)\b",
    re.IGNORECASE | re.DOTALL,
)
_TITLE = re.compile(r"<title>.{0,100}?</title>", re.IGNORECASE | re.DOTALL)

# A JSON Web Token begins with "ey", the base64url form of the start of a JSON object. Also matches a truncated token.
_JWT = re.compile(r"ey[A-DI-L][A-Za-z0-9_-]{5,}(\.[A-Za-z0-9_-]*){0,2}")
# "@" may be percent-encoded or a JSON escape.
_EMAIL = re.compile(r"[^\s@\"'<>:,;/]{1,64}(@|%40|\\u0040)[^\s@\"'<>:,;/]+", re.IGNORECASE)
# The user and password in a URL, in whatever encoding aiohttp shows them.
_USER_INFO = re.compile(r"(?<=://)[^\s/?#\"'<>]*@")
# Removed from truncated text, because the last word may be the beginning of an e-mail address.
_LAST_WORD = re.compile(r"[^\s\"'<>:,;/*]{0,80}\Z")


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """Return `text` on one line, without secrets and without characters that control a terminal.

    Args:
        text: any text, a response body for example.
        secrets: strings to remove, in addition to JSON Web Tokens, e-mail addresses, and users and passwords in URLs.
    """
    secrets = sorted(filter(None, secrets), key=len, reverse=True)
    longest = len(secrets[0]) if secrets else 0
    is_truncated = len(text) > MAX_SEARCHED_CHARS + longest
    text = text[: MAX_SEARCHED_CHARS + longest]
    for secret in secrets:
        text = text.replace(secret, REDACTED)
    if is_truncated:
        # The last characters may be the beginning of a secret.
        text = text[: len(text) - longest]
    text = _EMAIL.sub(REDACTED, _JWT.sub(REDACTED, _USER_INFO.sub("", text)))
    if is_truncated:
        text = _LAST_WORD.sub("", text)
    # str.isprintable() is false for escape sequences and for lone surrogates, which cannot be printed.
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def excerpt(text: str, secrets: Iterable[str], max_chars: int) -> str:
    """Return the beginning of a text, redacted; of an HTML page, only the title.

    Args:
        text: any text, a response body for example.
        secrets: strings to remove, see `redact`.
        max_chars: the maximum length of the result.
    """
    if is_html(text):
        title = _TITLE.search(text, 0, MAX_SEARCHED_CHARS)
        text = f"an HTML page: {title[0]}" if title else "an HTML page"
    text = redact(text, secrets)
    return text if len(text) <= max_chars else text[: max(0, max_chars - 1)] + "…"


def is_html(text: str) -> bool:
    """Return whether a body is an HTML page, such as Cloudflare sends instead of a JSON response."""
    return _HTML.match(text, 0, MAX_SEARCHED_CHARS) is not None
