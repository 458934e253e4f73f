"""The command `g4f-websim`: parse the command line and run the command.

g4f's commands are in g4f_commands.py, the package's own in image.py, batch.py, check.py and emulator/.
"""

import argparse
import difflib
import io
import os
import shlex
import sys
from collections.abc import Sequence
from contextlib import nullcontext

from .. import __version__
from ..emulator.command import serve
from ..offline import exit_on_sigterm, offline
from . import batch, check, image, interrupt
from .g4f_commands import G4F_COMMANDS, run_g4f_command
from .terminal import fail, one_line, show_log

DESCRIPTION = "g4f's command line, with Websim as the provider."
COMMANDS_HELP = """\
commands:
  client    chat                g4f-websim client "Why is the sky blue?"
            about an image      g4f-websim client cat.png "What is this?"
  image     save images         g4f-websim image "a cat on a couch" -O cat.png
  batch     many prompts        g4f-websim batch prompts.txt -o responses.jsonl
  api       OpenAI's API        g4f-websim api --bind 127.0.0.1:8080
  gui       the web page        g4f-websim gui
  check     does Websim work?   g4f-websim check
  emulator  emulate Websim      g4f-websim emulator --port 8765

Every command has a --help. g4f's other commands (auth, mcp, pa, ...) work too.
Without a network: g4f-websim --offline client "Hello"
"""

OWN_COMMANDS = {"image": image.main, "batch": batch.main, "check": check.main, "emulator": serve}
COMMANDS = (*OWN_COMMANDS, *G4F_COMMANDS)

VERSION = f"g4f-websim {__version__}"
VERSION_OPTIONS = ("--version", "-v", "-V")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: the arguments after `g4f-websim`; None for those of the process.

    Returns:
        The exit status.
    """
    # If stdout cannot encode a character, g4f's client prints nothing of the response and succeeds.
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="replace")
    try:
        interrupt.raise_again()
        try:
            with exit_on_sigterm():
                return _run(argv)
        finally:
            # Python would flush only at exit, and print "Exception ignored" if that raised a BrokenPipeError.
            if sys.stdout:
                sys.stdout.flush()
    except KeyboardInterrupt:
        return interrupt.STATUS
    except BrokenPipeError:
        # The reader of the output has ended, as in `g4f-websim check | head -1` (Python's documentation of SIGPIPE).
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _run(argv: Sequence[str] | None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    for word in argv:
        if any("\ud800" <= character <= "\udfff" for character in word):
            fail(f"an argument is not UTF-8 text: {word!r}; check the encoding of your terminal or script", status=2)
    parser = _parser()
    options = parser.parse_args(argv)
    command, rest = options.command, options.rest
    if command in (None, "help"):
        parser.print_help()
        return 0
    if command not in COMMANDS:
        fail(f"unknown command: {command}{_suggestion(command)}\n\n{COMMANDS_HELP.rstrip()}", status=2)
    if "--offline" in rest:
        corrected = shlex.join([command, *(word for word in rest if word != "--offline")])
        fail(f"--offline comes before the command: g4f-websim --offline {corrected}", status=2)
    if set(VERSION_OPTIONS) & set(rest):
        print(VERSION)
        return 0
    show_log()
    try:
        with offline() if options.offline else nullcontext():
            if command in OWN_COMMANDS:
                return OWN_COMMANDS[command](rest)
            return run_g4f_command(command, rest, options.offline)
    except BrokenPipeError:
        raise
    except Exception as error:  # any library that g4f uses may have raised it
        fail(one_line(error), status=1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "g4f-websim",
        usage="g4f-websim [--offline] COMMAND ...",
        description=f"{DESCRIPTION}\n\n{COMMANDS_HELP}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--offline", action="store_true", help="use the built-in emulator instead of websim.com")
    parser.add_argument(*VERSION_OPTIONS, action="version", version=VERSION, help="show the version and exit")
    parser.add_argument("command", nargs="?", help=argparse.SUPPRESS)
    parser.add_argument("rest", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser


def _suggestion(command: str) -> str:
    """Return the command that the user probably meant, as the end of an error message."""
    if " " in command:
        return f"; for a chat, use: g4f-websim client {shlex.quote(command)}"
    close = difflib.get_close_matches(command.lower(), COMMANDS, n=1)
    return f"; did you mean {close[0]}?" if close else ""
