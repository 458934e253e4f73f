"""Recognize Websim's login tokens, and read when they expire.

Websim issues JSON Web Tokens (`websim-cli login` stores one). Any other key belongs to another service.
"""

import base64
import json
import re
from datetime import UTC, datetime
from typing import Any

TOKEN_VARIABLE = "WEBSIM_API_KEY"

_JWT = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.[A-Za-z0-9_-]+")


def is_token(key: Any) -> bool:
    """Return whether `key` has the form of a JSON Web Token, the only kind of key that Websim issues."""
    match = _JWT.fullmatch(key) if isinstance(key, str) else None
    return match is not None and "alg" in _decode_part(match[1])


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
