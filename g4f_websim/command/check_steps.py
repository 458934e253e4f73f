"""The steps that the check proposes: a sentence, and lines to paste into a shell."""

import re
from typing import NamedTuple
from urllib.parse import quote

from ..transport.target import PROXY_VARIABLE
from ..wire.bodies import PROJECT_VARIABLE

CHECK = "g4f-websim check"
SET_PROXY = f"export {PROXY_VARIABLE}"
SET_HTTP_PROXY = f"{SET_PROXY}=http://<host>:<port>"
# Replaces the scheme of the proxy's URL. The shell inserts the rest, so that no password is shown.
USE_HTTP_PROXY = f'{SET_PROXY}="http://${{{PROXY_VARIABLE}#*://}}"'
PROJECT_PAGE = "websim.com/p/<id>"

_SHELL_CHARACTER = re.compile(r"[^\w/:@%\[\]=+,~.-]")


class Step(NamedTuple):
    """Something to do, and the lines to paste for it."""

    text: str
    lines: tuple[str, ...] = ()


def set_project(start: str) -> Step:
    """Return the step that sets WEBSIM_PROJECT_ID.

    Args:
        start: the beginning of the sentence.
    """
    return Step(f"{start} its id, the last part of {PROJECT_PAGE}:", (f"export {PROJECT_VARIABLE}=<id>",))


def use_no_proxy() -> Step:
    """Return the step that unsets G4F_PROXY, as an alternative to the step before it."""
    return Step("Or use no proxy:", (f"unset {PROXY_VARIABLE}",))


def export(variable: str, url: str) -> str:
    """Return a line that sets an environment variable to a URL."""
    return f"export {variable}={quoted(url)}"


def quoted(url: str) -> str:
    """Return a URL whose special characters are percent-encoded, so that a shell does not interpret them."""
    return _SHELL_CHARACTER.sub(lambda match: quote(match[0]), url)
