"""Read `Retry-After`, the header in which a server says when to send the next request."""

import email.utils
import math
import re
import time
from collections.abc import Mapping
from datetime import UTC

from ..errors import MAX_RETRY_AFTER

# A larger number is not a number of seconds but a point in time: 2001 in seconds, 1973 in milliseconds.
MIN_EPOCH_SECONDS, MIN_EPOCH_MILLISECONDS = 1e9, 1e11


def parse_retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds in `Retry-After` (RFC 9110, section 10.2.3), at most 900, or None if there is no valid value.

    Some servers send a point in time, in seconds or milliseconds since 1970, rather than seconds. A point in time is
    measured against the header `Date`, since the clock of this machine may be wrong.
    """
    value = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", value):
        number = float(value)
        if number < MIN_EPOCH_SECONDS:
            return min(number, MAX_RETRY_AFTER)
        point: float | None = number / 1000 if number >= MIN_EPOCH_MILLISECONDS else number
    else:
        point = _parse_date(value)
    if point is None or not math.isfinite(point):
        return None
    now = _parse_date(headers.get("Date", ""))
    return min(max(0.0, point - (time.time() if now is None else now)), MAX_RETRY_AFTER)


def _parse_date(text: str) -> float | None:
    """Return an HTTP date in seconds since 1970, or None if it is malformed."""
    try:
        date = email.utils.parsedate_to_datetime(text)
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
