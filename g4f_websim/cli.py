"""The command `g4f-websim`: g4f's own command line with Websim registered and chosen as the provider.

This module parses the command line, prepares g4f's commands and runs them. The package's own commands are in
image_command.py, check.py and emulator/.
"""

import argparse
import difflib
import io
import logging
import os
import re
import shlex
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import ExitStack, redirect_stderr, suppress
from pathlib import Path
from typing import NoReturn

import g4f.debug
from g4f.errors import MissingRequirementsError
from g4f.image import is_accepted_format

from . import Websim, __version__, check, image_command
from .emulator.command import is_port, serve
from .offline import exit_on_sigterm, offline
from .provider_list import provider_list

DESCRIPTION = "g4f's command line, with Websim as the provider."
COMMANDS_HELP = """\
commands:
  client    chat                g4f-websim client "Why is the sky blue?"
            about an image      g4f-websim client cat.png "What is this?"
  image     save images         g4f-websim image "a cat on a couch" -O cat.png
  api       OpenAI's API        g4f-websim api --bind 127.0.0.1:8080
  gui       the web page        g4f-websim gui
  check     does Websim work?   g4f-websim check
  emulator  an offline Websim   g4f-websim emulator --port 8765

Every command has a --help. g4f's other commands (auth, mcp, pa, ...) work too.
Without a network: g4f-websim --offline client "Hello"
"""

PROVIDER: str = Websim.__name__

OWN_COMMANDS = ("image", "check", "emulator")
G4F_COMMANDS = ("client", "api", "gui", "auth", "dev", "mcp", "pa", "systray", "test", "tray", "version")

# g4f's server and GUI load all providers, for which g4f downloads its list.
COMMANDS_WITH_ALL_PROVIDERS = ("api", "dev", "gui", "systray", "tray")

VERSION_OPTIONS = ("--version", "-v", "-V")
# g4f's option (8.7 and later) against a download of further providers from GitHub when the server starts.
NO_DOWNLOAD_OPTION = "--disable-pa-auto-download"

# g4f's default for `api`.
API_PORT = "1337"

GUI_HOST = "127.0.0.1"
ALL_HOSTS = ("0.0.0.0", "::", "")

# An SVG is text, which a chat can return.
IMAGE_SUFFIXES = frozenset({".avif", ".bmp", ".gif", ".heic", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
FILE_SUFFIXES = IMAGE_SUFFIXES | {".csv", ".docx", ".html", ".json", ".md", ".pdf", ".py", ".svg", ".txt", ".xml"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: the words after `g4f-websim`; None for those of the process.

    Returns:
        The exit status.
    """
    # If stdout cannot encode a character, g4f's client prints nothing of the response and succeeds.
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="replace")
    try:
        try:
            with exit_on_sigterm():
                return _run(arguments)
        finally:
            # Python's own flush at exit is too late: it prints "Exception ignored" for a BrokenPipeError.
            if sys.stdout:
                sys.stdout.flush()
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # The reader of the output has ended, as in `g4f-websim check | head -1` (Python's documentation of SIGPIPE).
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


# The command line


def _run(arguments: Sequence[str] | None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    command, words = options.command, options.words
    if command in (None, "help"):
        parser.print_help()
        return 0
    if command not in OWN_COMMANDS + G4F_COMMANDS:
        _fail(f"unknown command: {command}{_suggestion(command)}\n\n{COMMANDS_HELP.rstrip()}", status=2)
    if "--offline" in words:
        rest = shlex.join([command, *(word for word in words if word != "--offline")])
        _fail(f"--offline comes before the command: g4f-websim --offline {rest}", status=2)
    if set(VERSION_OPTIONS) & set(words):
        print(_version())
        return 0
    _show_log_on_terminal()
    try:
        with ExitStack() as stack:
            if options.offline:
                stack.enter_context(offline())
            return _run_command(command, words, options.offline, stack)
    except BrokenPipeError:
        raise
    except Exception as error:  # of any library that g4f uses
        _fail(_one_line(error), status=1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "g4f-websim",
        usage="g4f-websim [--offline] COMMAND ...",
        description=f"{DESCRIPTION}\n\n{COMMANDS_HELP}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--offline", action="store_true", help="use the built-in offline Websim instead of websim.com")
    parser.add_argument(*VERSION_OPTIONS, action="version", version=_version(), help="show the version and exit")
    parser.add_argument("command", nargs="?", help=argparse.SUPPRESS)
    parser.add_argument("words", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser


def _version() -> str:
    return f"g4f-websim {__version__}"


def _suggestion(command: str) -> str:
    """Return the command that the user probably meant, as the end of an error message."""
    if " " in command:
        return f"; for a chat, use: g4f-websim client {shlex.quote(command)}"
    close = difflib.get_close_matches(command.lower(), OWN_COMMANDS + G4F_COMMANDS, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _run_command(command: str, words: list[str], is_offline: bool, stack: ExitStack) -> int:
    """Run a command.

    Args:
        command: one of `OWN_COMMANDS` and `G4F_COMMANDS`.
        words: the words after the command.
        is_offline: whether the network must not be used.
        stack: a stack to close when the command ends.
    """
    if command == "image":
        return image_command.main(words)
    if command == "check":
        return check.main(words)
    if command == "emulator":
        return serve(words)
    if command == "client":
        return _run_client(words, stack)
    if command == "api":
        return _run_api(words, is_offline, stack)
    if command == "gui":
        return _run_gui(words, is_offline, stack)
    if command in COMMANDS_WITH_ALL_PROVIDERS:
        stack.enter_context(provider_list())
    return _run_g4f(command, words)


# g4f's commands


def _run_g4f(command: str, words: Sequence[str]) -> int:
    """Run a command of g4f."""
    import g4f.cli

    # g4f reads the command from sys.argv, and its help shows the first word as the name of the program.
    sys.argv = [f"g4f-websim {command}", command, *words]
    # Python sets sys.stdin to None if the process has no standard input; g4f calls its methods.
    sys.stdin = sys.stdin or io.StringIO()
    g4f.cli.main()
    return 0


def _run_client(words: Sequence[str], stack: ExitStack) -> int:
    """Run g4f's client with Websim as the default provider, and report mistakes that g4f would not report."""
    import g4f.cli.client

    # Of two --provider options the last one counts: the user's.
    words = ["--provider", PROVIDER, *words]
    options = _parse("client", g4f.cli.client.get_parser(), words)
    if _is_websim(options.provider):
        _check_image_model(options)
    else:
        stack.enter_context(provider_list())
    _check_files(options.input)
    before = _modified(options.output)
    run = _run_g4f if options.debug else _run_without_traceback
    status = run("client", words)
    if options.output and _modified(options.output) == before and not options.edit:
        _fail(f"nothing was saved in {options.output}", status=1)
    return status


def _run_without_traceback(command: str, words: Sequence[str]) -> int:
    """Run g4f's client, and raise its error instead of the SystemExit that follows a printed traceback.

    g4f's client catches all exceptions, prints a traceback and calls sys.exit(1). Python keeps the exception as the
    context of the SystemExit. What the client prints on stderr is held back until it ends.
    """
    printed = io.StringIO()
    try:
        with redirect_stderr(printed):
            return _run_g4f(command, words)
    except SystemExit as end:
        error = end.__context__
        if end.code == 1 and isinstance(error, Exception):
            printed = io.StringIO()  # without the traceback: the error itself is reported
            raise error from None
        raise
    finally:
        print(printed.getvalue(), end="", file=sys.stderr)


def _run_api(words: Sequence[str], is_offline: bool, stack: ExitStack) -> int:
    """Run g4f's server with Websim as the default provider, with or without a network."""
    import g4f.cli

    words = ["--provider", PROVIDER, *words]
    parser = g4f.cli.get_api_parser()
    options = _parse("api", parser, words)
    _check_address(options.bind, options.port)
    # g4f's worker processes do not see the command line.
    os.environ["G4F_PROVIDER"] = options.provider
    has_network = stack.enter_context(provider_list()) and not is_offline
    is_supported = not parser.parse_known_args([NO_DOWNLOAD_OPTION])[1]
    if not has_network and is_supported:
        words = [NO_DOWNLOAD_OPTION, *words]
    return _run_g4f("api", words)


def _run_gui(words: Sequence[str], is_offline: bool, stack: ExitStack) -> int:
    """Run g4f's web page on loopback, with or without a network, and print the URL to open."""
    # g4f's default is to listen on all interfaces.
    words = ["--host", GUI_HOST, *words]
    # g4f's parser lists all providers in its help.
    has_network = stack.enter_context(provider_list())
    import g4f.gui
    from g4f.gui.gui_parser import gui_parser

    options = _parse("gui", gui_parser(), words)
    if not is_port(str(options.port)):
        _fail(f"--port PORT, as in 8080, not {options.port}", status=2)
    _check_can_listen(options.host, options.port, "--host or --port")
    # g4f keeps the error if one of the packages that its GUI needs is missing, and raises it below.
    if not getattr(g4f.gui, "import_error", None):
        print(_gui_instruction(options.host, options.port), flush=True)
        if is_offline or not has_network:
            print("g4f-websim: g4f downloads the page itself, which may not load without a network", file=sys.stderr)
    return _run_g4f("gui", words)


# Preparations of g4f's commands


def _parse(command: str, parser: argparse.ArgumentParser, words: Sequence[str]) -> argparse.Namespace:
    """Parse the words as g4f will, before g4f starts; for --help and for an unknown option this ends the program."""
    parser.prog = f"g4f-websim {command}"
    return parser.parse_args(words)


def _is_websim(provider: str) -> bool:
    # g4f ignores the case of a provider's name.
    return provider.lower() == PROVIDER.lower()


def _check_image_model(options: argparse.Namespace) -> None:
    """Fail if the output is an image and the model is not: g4f would save nothing, or text in a file named cat.png."""
    if not options.output or options.output.suffix.lower() not in IMAGE_SUFFIXES or options.edit:
        return
    model = (options.model or "").removeprefix(f"{PROVIDER}:")
    if model not in Websim.image_models:
        reason = f"{model} is not an image model" if model else "no image model was named"
        models = " or ".join(f"-m {name}" for name in Websim.image_models)
        _fail(f"-O {options.output} is an image, but {reason}; use {models}", status=1)


def _check_files(inputs: Sequence[str]) -> None:
    """Fail if the first words name a file that g4f cannot send.

    g4f would send the name of a missing file as text, and its error for a file of another format contains no name.
    """
    for word in inputs:
        if word.startswith(("http://", "https://")):
            continue
        # Path.is_file() raises an OSError for a text that is too long for the name of a file.
        if os.path.isfile(word):  # noqa: PTH113
            if not _can_be_sent(Path(word)):
                _fail(f"{word} is neither text nor a JPEG, PNG, GIF or WebP image", status=1)
            continue
        if Path(word).suffix.lower() in FILE_SUFFIXES and not re.search(r"\s", word):
            _fail(f"no such file: {word}", status=1)
        # g4f takes the other words for text.
        return


def _can_be_sent(file: Path) -> bool:
    """Return whether g4f's client can send a file: as an image in one of its formats, or as UTF-8 text."""
    content = file.read_bytes()
    with suppress(ValueError):
        is_accepted_format(content)
        return True
    if file.suffix.lower() in IMAGE_SUFFIXES:
        return False
    with suppress(UnicodeDecodeError):
        content.decode()
        return True
    return False


def _modified(file: Path | None) -> int | None:
    """Return the time of a file's last change, or None if there is no file."""
    return file.stat().st_mtime_ns if file and file.exists() else None


def _check_address(bind: str | None, port: str | None) -> None:
    """Fail if g4f's server cannot listen there: g4f would raise a ValueError that does not name the option."""
    if bind is not None:
        host, _, port = bind.partition(":")
        if not host or not is_port(port):
            _fail(f"--bind HOST:PORT, as in 127.0.0.1:8080, not {bind}", status=2)
    else:
        host, port = ALL_HOSTS[0], port or API_PORT
        if not is_port(port):
            _fail(f"--port PORT, as in 8080, not {port}", status=2)
    _check_can_listen(host, int(port), "--bind or --port")


def _check_can_listen(host: str, port: int, options: str) -> None:
    """Fail if a port is in use or forbidden: g4f would report that after lines that look like success."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        _fail(f"{error.strerror}; choose another {options}", status=1)


def _gui_instruction(host: str, port: int) -> str:
    """Return what to open and to choose: g4f prints the URL in the middle of Flask's messages, and without /chat/."""
    host = GUI_HOST if host in ALL_HOSTS else host
    url = f"http://[{host}]:{port}/chat/" if ":" in host else f"http://{host}:{port}/chat/"
    where = url if port else "the URL below"
    return f"Open {where} and choose the provider Websim."


# Messages


def _show_log_on_terminal() -> None:
    """Show retries and waiting on stderr, unless it is a file or g4f shows them itself (--debug)."""
    if sys.stderr and sys.stderr.isatty():
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("g4f-websim: %(message)s"))
        handler.addFilter(lambda record: not g4f.debug.logging)
        logger = logging.getLogger("g4f_websim")
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)


def _one_line(error: Exception) -> str:
    """Return an error as one line that says what to install if a package is missing."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f'g4f needs {error.name} for this; run: pip install "g4f[api,gui]"'
    if isinstance(error, MissingRequirementsError) and "markitdown" in str(error):
        return 'g4f needs markitdown to read web pages; run: pip install "markitdown[all]"'
    text = " ".join(str(error).split())
    # The provider raises a ValueError for a malformed argument, and names the argument.
    return text if type(error) is ValueError else f"{type(error).__name__}: {text}"


def _fail(message: str, status: int) -> NoReturn:
    """Print an error message and end the program."""
    print(f"g4f-websim: {message}", file=sys.stderr)
    sys.exit(status)
