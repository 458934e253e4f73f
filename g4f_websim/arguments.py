"""Check arguments: a malformed one is a `ValueError` that names it and shows a valid value and the invalid one."""

from typing import Any

from .redaction import redact

# An error shows no more of an invalid value.
MAX_SHOWN_CHARS = 80


def check(ok: object, name: str, expected: str, value: Any) -> None:
    """Raise a `ValueError`, unless `ok`.

    Args:
        ok: whether the value is valid.
        name: the name of the argument.
        expected: what a valid value is, with an example.
        value: the value.
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
