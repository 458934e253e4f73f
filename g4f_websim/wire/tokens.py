"""Recognize Websim's login tokens, and read when they expire.

Websim issues JSON Web Tokens (`websim-cli login` stores one). Any other key belongs to another service.
"""

import base64
import json
import os
import re
import string
from datetime import UTC, datetime
from typing import Any

TOKEN_VARIABLE = "WEBSIM_API_KEY"

# What surrounds a key that is copied from a header, a settings file or a web page: also curly quotes, and the mark that
# some editors write at the start of a file.
_QUOTES = "\"'`\u201c\u201d\u2018\u2019"
_BEFORE_KEY = re.compile(rf"(?:[\s{_QUOTES}\ufeff]|bearer(?=[\s{_QUOTES}]))*", re.IGNORECASE)
_AFTER_KEY = _QUOTES + string.whitespace + ",;"

_JWT = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.[A-Za-z0-9_-]+")


def clean_key(key: Any) -> str:
    """Return a key as it was pasted (str or bytes) without `Bearer`, quotes and blanks around it; empty for no key."""
    if isinstance(key, bytes):
        key = key.decode("utf-8", "replace")
    return _BEFORE_KEY.sub("", key, count=1).rstrip(_AFTER_KEY) if isinstance(key, str) else ""


def is_token(key: Any) -> bool:
    """Return whether `key` has the form of a JSON Web Token, the only kind of key that Websim issues."""
    match = _JWT.fullmatch(key) if isinstance(key, str) else None
    return match is not None and "alg" in _decode_part(match[1])


def find_token(api_key: Any) -> tuple[str, list[str]]:
    """Return the login token: the caller's key if it is a Websim token, or else WEBSIM_API_KEY if that is one.

    Args:
        api_key: the caller's key, or None.

    Returns:
        The token, empty if there is none, and where keys were found that are no tokens, which are not sent.
    """
    others: list[str] = []
    for source, key in (("api_key", api_key), (TOKEN_VARIABLE, os.environ.get(TOKEN_VARIABLE))):
        if key:
            token = clean_key(key)
            if is_token(token):
                return token, others
            others.append(source)
    return "", others


def token_expiry(token: str | None) -> datetime | None:
    """Return when a token expires according to its `exp` claim, or None if the claim is missing or malformed."""
    match = _JWT.fullmatch(token or "")
    expiry = _decode_part(match[2]).get("exp") if match else None
    if not isinstance(expiry, int | float):
        return None
    try:
        return datetime.fromtimestamp(expiry, UTC)
    except (ValueError, OverflowError, OSError):
        return None


def is_expired(token: str | None) -> bool:
    """Return whether the `exp` claim of a token has passed."""
    expiry = token_expiry(token)
    return expiry is not None and expiry <= datetime.now(UTC)


def _decode_part(part: str) -> dict[str, Any]:
    """Return the JSON object in a base64url part of a token, or an empty dict if it contains anything else."""
    try:
        # Python ignores more padding than necessary.
        decoded = json.loads(base64.urlsafe_b64decode(part + "=="))
    except (ValueError, RecursionError):
        return {}
    return decoded if isinstance(decoded, dict) else {}
