"""The error messages and log lines of the command `g4f-websim` on stderr."""

import logging
import sys
from typing import NoReturn

import g4f.debug
from g4f.errors import MissingRequirementsError

from ..transport.log import logger


def show_log_on_terminal() -> None:
    """Show the log on stderr, unless stderr is not a terminal or g4f shows the log itself (--debug)."""
    if sys.stderr and sys.stderr.isatty():
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("g4f-websim: %(message)s"))
        handler.addFilter(lambda record: not g4f.debug.logging)
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)


def one_line(error: Exception) -> str:
    """Return the message of an error on one line. If a package is missing, the line says what to install."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f'g4f needs {error.name} for this; run: pip install "g4f[api,gui]"'
    if isinstance(error, MissingRequirementsError) and "markitdown" in str(error):
        return 'g4f needs markitdown to read web pages; run: pip install "markitdown[all]"'
    if isinstance(error, MissingRequirementsError) and "g4f[gui]" in str(error):
        return 'g4f needs more packages for its GUI; run: pip install "g4f[api,gui]"'
    text = " ".join(str(error).split())
    # The ValueError for a malformed argument names the argument, so the name of the class says nothing more.
    return text if type(error) is ValueError else f"{type(error).__name__}: {text}"


def warn(message: str) -> None:
    """Print a message on stderr."""
    if sys.stderr:
        print(f"g4f-websim: {message}", file=sys.stderr, flush=True)


def fail(message: str, status: int) -> NoReturn:
    """Print an error message and end the program."""
    warn(message)
    sys.exit(status)
