"""Log a warning, once for each name, about ignored arguments and unknown models whose names may be misspelled."""

import logging
from collections.abc import Iterable
from functools import lru_cache

from .transport.log import log

# Clients of g4f's server choose the names, so not all of them are kept.
MAX_NOTED_NAMES = 1000

# Shorter names are one edit away from many words.
MIN_CHARS = 3


@lru_cache(MAX_NOTED_NAMES)
def warn_of_argument(name: str, known: tuple[str, ...]) -> None:
    """Log a warning if the name of an ignored argument may be misspelled.

    Args:
        name: the name.
        known: the names of the arguments that are not ignored.
    """
    if meant := meant_name(name, known):
        log(logging.WARNING, f"the argument {name!r} is ignored: did you mean {meant}?")


@lru_cache(MAX_NOTED_NAMES)
def warn_of_model(name: str, known: tuple[str, ...]) -> None:
    """Log a warning if the name of the model of a chat may be misspelled.

    Args:
        name: the name.
        known: the names of the models.
    """
    if meant := meant_name(name, known):
        log(logging.WARNING, f"the model {name!r} is not known: did you mean {meant}?")


def meant_name(name: str, known: Iterable[str]) -> str | None:
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
