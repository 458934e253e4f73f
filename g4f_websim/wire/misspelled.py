"""Recognize misspelled names of arguments and models."""

from functools import lru_cache

# Clients of g4f's server choose the names, so not all of them are kept.
MAX_KEPT_NAMES = 1000

# Shorter names are one edit away from many words.
MIN_CHARS = 3


@lru_cache(MAX_KEPT_NAMES)
def meant_name(name: str, known: tuple[str, ...]) -> str | None:
    """Return the known name that a misspelled name is one edit away from; None if the name is known or far from all.

    An edit adds, drops or replaces one character, or swaps two neighbors; upper and lower case are the same. One digit
    in place of another is a different version, not a misspelled name.
    """
    if name in known:
        return None
    names = (other for other in known if len(other) >= MIN_CHARS)
    return next((other for other in names if _is_one_edit(name.lower(), other.lower())), None)


def _is_one_edit(first: str, second: str) -> bool:
    while first and second and first[0] == second[0]:
        first, second = first[1:], second[1:]
    while first and second and first[-1] == second[-1]:
        first, second = first[:-1], second[:-1]
    if first.isdigit() and second.isdigit():
        return False
    return max(len(first), len(second)) <= 1 or (len(first) == 2 and first == second[::-1])
