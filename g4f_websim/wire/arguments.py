"""Check arguments. The error for a malformed argument names it, describes a valid value, and shows the invalid one."""

from typing import Any

from .redaction import redact

# The maximum length of an invalid value in an error.
MAX_SHOWN_CHARS = 80
# JSON parsers may disagree about larger integers (RFC 8259, section 6).
MAX_INT = 2**53 - 1


def require(ok: object, name: str, expected: str, value: Any) -> None:
    """Raise a `ValueError` unless the value of an argument is valid.

    Args:
        ok: whether the value is valid.
        name: the name of the argument.
        expected: a description of a valid value, with an example.
        value: the value.

    Raises:
        ValueError: `ok` is false.
    """
    if not ok:
        raise invalid(name, expected, value)


def require_text(name: str, value: Any) -> str:
    """Return a text without lone surrogates, which strict JSON parsers refuse; an empty string for None.

    Raises:
        ValueError: the value is not a text.
    """
    require(value is None or isinstance(value, str), name, "text", value)
    return without_surrogates(value or "")


def check_timeout(timeout: Any) -> float | None:
    """Return the seconds that a call may take, None if `timeout` is None or 0, or raise a `ValueError`."""
    if timeout is None:
        return None
    is_number = isinstance(timeout, (int, float)) and not isinstance(timeout, bool)
    require(is_number and 0 <= timeout <= MAX_INT, "timeout", "seconds, as in timeout=60", timeout)
    return float(timeout) if timeout else None


def check_retries(max_attempts: Any, backoff: Any, max_wait: Any) -> None:
    """Raise a `ValueError` if one of these attributes of `Websim` is malformed; the message names it."""
    is_count = isinstance(max_attempts, int) and max_attempts >= 0
    require(is_count, "Websim.max_attempts", "an integer of at least 0, as in 3", max_attempts)
    for name, seconds in (("Websim.backoff", backoff), ("Websim.max_wait", max_wait)):
        require(isinstance(seconds, (int, float)) and seconds >= 0, name, "seconds, as in 2.0", seconds)


def invalid(name: str, expected: str, value: Any) -> ValueError:
    """Return the error for an invalid value; see `require`."""
    try:
        # A token may have been passed as another argument.
        shown = redact(repr(value))[:MAX_SHOWN_CHARS]
    except (ValueError, RecursionError):  # an integer of more than 4,300 digits, or a list nested too deeply
        shown = "this value"
    return ValueError(f"{name}: {expected}, not {shown}")


def without_surrogates(text: str) -> str:
    """Return a text in which each pair of surrogates is its character, and each lone surrogate is U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
