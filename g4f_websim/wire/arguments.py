"""Check arguments. The error for a malformed argument names it, describes a valid value, and shows the invalid one."""

from typing import Any

from .redaction import redact

# The maximum length of an invalid value in an error.
MAX_SHOWN_CHARS = 80


def check(ok: object, name: str, expected: str, value: Any) -> None:
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


def invalid(name: str, expected: str, value: Any) -> ValueError:
    """Return the error for an invalid value; see `check`."""
    try:
        # A token may have been passed as another argument.
        shown = redact(repr(value))[:MAX_SHOWN_CHARS]
    except ValueError:  # Python refuses to print an integer of more than 4,300 digits
        shown = "this value"
    return ValueError(f"{name}: {expected}, not {shown}")
