"""The steps that the check proposes: a sentence, and lines to paste into a shell."""

from ..transport.causes import Step, quoted
from ..transport.target import PROXY_VARIABLE
from ..wire.bodies import PROJECT_VARIABLE

CHECK = "g4f-websim check"
SET_PROXY = f"export {PROXY_VARIABLE}"
SET_HTTP_PROXY = f"{SET_PROXY}=http://<host>:<port>"
PROJECT_PAGE = "websim.com/p/<id>"


def set_project(start: str) -> Step:
    """Return the step that sets WEBSIM_PROJECT_ID.

    Args:
        start: the beginning of the sentence.
    """
    return Step(f"{start} its id, the last part of {PROJECT_PAGE}:", (f"export {PROJECT_VARIABLE}=<id>",))


def export(variable: str, url: str) -> str:
    """Return a line that sets an environment variable to a URL."""
    return f"export {variable}={quoted(url)}"
