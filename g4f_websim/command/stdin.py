"""Add what is piped into the client to its prompt."""

import os
import stat
import sys
import threading
from collections.abc import Sequence

from .terminal import fail, warn

SECONDS_BEFORE_HINT = 2.0
HINT = "reading standard input until it ends; if nothing is piped in, run the command with </dev/null"


def add_standard_input(words: Sequence[str]) -> list[str]:
    """Return the words of a prompt, followed by the text on standard input.

    With a prompt, standard input is read only if it is a pipe or a file. The text is never taken for a file or a URL.

    Args:
        words: files, URLs, and a prompt.
    """
    text = _read(with_prompt=bool(words))
    if not text.strip():
        return list(words)
    if words and not words[-1].startswith(("http://", "https://")) and not os.path.isfile(words[-1]):  # noqa: PTH113
        return [*words[:-1], f"{words[-1]}\n\n{text}"]
    return [*words, f"\n{text}"]  # no URL and no file begins with a line end


def _read(with_prompt: bool) -> str:
    stream = getattr(sys.stdin, "buffer", None)  # none if the process has no standard input
    if stream is None or stream.isatty():
        return ""
    mode = os.fstat(stream.fileno()).st_mode
    if with_prompt and not stat.S_ISFIFO(mode) and not stat.S_ISREG(mode):
        return ""
    timer = threading.Timer(SECONDS_BEFORE_HINT, warn, [HINT])
    timer.daemon = True
    timer.start()
    try:
        content = stream.read()
    finally:
        timer.cancel()
    try:
        return str(content, "utf-8-sig")
    except UnicodeDecodeError as error:
        advice = "convert it, or name an image as a file: g4f-websim client cat.png 'What is this?'"
        fail(f"standard input is not UTF-8 text (byte {error.start}); {advice}", status=1)
