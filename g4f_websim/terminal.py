"""The error messages and log lines of the command `g4f-websim` on stderr."""

import logging
import sys
from typing import NoReturn

import g4f.debug
from g4f.errors import MissingRequirementsError

from .log import logger


def show_log_on_terminal() -> None:
    """Show retries and waiting on stderr, unless it is a file or g4f shows them itself (--debug)."""
    if sys.stderr and sys.stderr.isatty():
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("g4f-websim: %(message)s"))
        handler.addFilter(lambda record: not g4f.debug.logging)
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)


def one_line(error: Exception) -> str:
    """Return an error as one line that says what to install if a package is missing."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f'g4f needs {error.name} for this; run: pip install "g4f[api,gui]"'
    if isinstance(error, MissingRequirementsError) and "markitdown" in str(error):
        return 'g4f needs markitdown to read web pages; run: pip install "markitdown[all]"'
    text = " ".join(str(error).split())
    # The provider raises a ValueError for a malformed argument, and names the argument.
    return text if type(error) is ValueError else f"{type(error).__name__}: {text}"


def fail(message: str, status: int) -> NoReturn:
    """Print an error message and end the program."""
    print(f"g4f-websim: {message}", file=sys.stderr)
    sys.exit(status)
