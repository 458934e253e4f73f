"""What the command `g4f-websim` prints on a terminal: errors, log lines, and that a request is under way."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from typing import Any, NoReturn, TextIO

import g4f.debug
from g4f.errors import MissingRequirementsError

from ..transport.log import logger

PREFIX = "g4f-websim: "
WAITING = f"{PREFIX}waiting for the response ..."

# Control characters can change the title of a terminal or write to the clipboard. Line ends and tabs are harmless.
_CONTROLS = {code: "\N{REPLACEMENT CHARACTER}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}
_CONTROLS[ord("\r")] = ""


class _LogHandler(logging.Handler):
    """Show log records on stderr, unless g4f shows them itself (--debug)."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record; a closed stderr must not make a request fail."""
        if not g4f.debug.logging:
            with suppress(OSError):
                warn(record.getMessage())


class _Waiting:
    """A line on a terminal that says that a request is under way, and that disappears before anything else is shown."""

    _shown = False

    def show(self) -> None:
        if _is_terminal(sys.stderr):
            print(WAITING, end="", file=sys.stderr, flush=True)
            self._shown = True

    def clear(self) -> None:
        if self._shown:
            self._shown = False
            print("\r" + " " * len(WAITING), end="\r", file=sys.stderr, flush=True)


class _Output:
    """The standard output: the line of `_Waiting` ends before a text, and a terminal receives no control characters."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        _waiting.clear()
        return self._stream.write(_shown_on(self._stream, text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


_waiting = _Waiting()


@contextmanager
def waiting() -> Iterator[None]:
    """Show on a terminal that a request is under way, and keep control characters of the response from it."""
    if not g4f.debug.logging:
        _waiting.show()
    try:
        output: Any = _Output(sys.stdout) if sys.stdout else None
        with redirect_stdout(output):
            yield
    finally:
        _waiting.clear()


def show_log() -> None:
    """Show log records on stderr: on a terminal those of level INFO, in a file or pipe those of level WARNING."""
    if sys.stderr and not logger.handlers:
        logger.addHandler(_LogHandler())
        logger.setLevel(logging.INFO if _is_terminal(sys.stderr) else logging.WARNING)


def one_line(error: Exception) -> str:
    """Return the message of an error on one line. If a package is missing, the line says what to install."""
    if isinstance(error, ModuleNotFoundError) and (error.name or "").startswith("g4f."):
        return f"this release of g4f has no {error.name}; run: pip install --upgrade g4f"
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f'g4f needs {error.name} for this; run: pip install "g4f[api,gui]"'
    if isinstance(error, MissingRequirementsError) and "markitdown" in str(error):
        return 'g4f needs markitdown to read web pages; run: pip install "markitdown[all]"'
    text = " ".join(str(error).split())
    # The ValueError for a malformed argument names the argument, so the name of the class says nothing more.
    return text if type(error) is ValueError else f"{type(error).__name__}: {text}"


def warn(message: str) -> None:
    """Print a message on stderr."""
    _waiting.clear()
    if sys.stderr:
        print(_shown_on(sys.stderr, PREFIX + message), file=sys.stderr, flush=True)


def fail(message: str, status: int) -> NoReturn:
    """Print an error message and end the program."""
    warn(message)
    sys.exit(status)


def _shown_on(stream: TextIO, text: str) -> str:
    """Return a text, without control characters if the stream is a terminal."""
    return text.translate(_CONTROLS) if _is_terminal(stream) else text


def _is_terminal(stream: TextIO | None) -> bool:
    return bool(stream and stream.isatty())
