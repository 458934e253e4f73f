"""Run g4f's client, server and GUI with Websim as the provider.

g4f's other commands run unchanged.
"""

import argparse
import io
import os
import re
import socket
import sys
from collections.abc import Sequence
from contextlib import ExitStack, redirect_stderr, suppress
from pathlib import Path

from g4f.image import is_accepted_format

from .. import Websim
from ..emulator.command import is_port
from ..wire.bodies import strip_provider_prefix
from .provider_list import provider_list
from .terminal import fail

PROVIDER: str = Websim.__name__

G4F_COMMANDS = ("client", "api", "gui", "auth", "dev", "mcp", "pa", "systray", "test", "tray", "version")

# These commands load all of g4f's providers, and g4f then downloads its provider list.
COMMANDS_WITH_ALL_PROVIDERS = ("api", "dev", "gui", "systray", "tray")

# g4f's option (8.7 and later) against a download of further providers from GitHub when the server starts.
NO_DOWNLOAD_OPTION = "--disable-pa-auto-download"

# g4f's default for `api`.
API_PORT = "1337"

GUI_HOST = "127.0.0.1"
ALL_HOSTS = ("0.0.0.0", "::", "")

# An SVG is text, which a chat can return.
IMAGE_SUFFIXES = frozenset({".avif", ".bmp", ".gif", ".heic", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
FILE_SUFFIXES = IMAGE_SUFFIXES | {".csv", ".docx", ".html", ".json", ".md", ".pdf", ".py", ".svg", ".txt", ".xml"}


def run_g4f_command(command: str, argv: Sequence[str], is_offline: bool) -> int:
    """Run a command of g4f.

    Args:
        command: one of `G4F_COMMANDS`.
        argv: the arguments after the command.
        is_offline: whether the network must not be used.

    Returns:
        The exit status.
    """
    with ExitStack() as stack:
        if command == "client":
            return _run_client(argv, stack)
        if command == "api":
            return _run_api(argv, is_offline, stack)
        if command == "gui":
            return _run_gui(argv, is_offline, stack)
        if command in COMMANDS_WITH_ALL_PROVIDERS:
            stack.enter_context(provider_list())
        return _run_g4f(command, argv)


def _run_g4f(command: str, argv: Sequence[str]) -> int:
    """Run g4f's command line."""
    import g4f.cli

    # g4f reads the command from sys.argv, and its help shows the first word as the name of the program.
    sys.argv = [f"g4f-websim {command}", command, *argv]
    # Python sets sys.stdin to None if the process has no standard input; g4f calls its methods.
    sys.stdin = sys.stdin or io.StringIO()
    g4f.cli.main()
    return 0


def _run_client(argv: Sequence[str], stack: ExitStack) -> int:
    """Run g4f's client with Websim as the default provider, and report mistakes that g4f would not report."""
    import g4f.cli.client

    # Of two --provider options the last one counts: the user's.
    argv = ["--provider", PROVIDER, *argv]
    options = _parse("client", g4f.cli.client.get_parser(), argv)
    if _is_websim(options.provider):
        _check_image_model(options)
    else:
        stack.enter_context(provider_list())
    _check_files(options.input)
    before = _modified(options.output)
    run = _run_g4f if options.debug else _run_without_traceback
    status = run("client", argv)
    if options.output and _modified(options.output) == before and not options.edit:
        fail(f"nothing was saved in {options.output}", status=1)
    return status


def _run_without_traceback(command: str, argv: Sequence[str]) -> int:
    """Run g4f's client, and raise its error instead of the SystemExit that follows a printed traceback.

    g4f's client catches all exceptions, prints a traceback and calls sys.exit(1). Python keeps the exception as the
    context of the SystemExit. What the client prints on stderr is held back until it ends.
    """
    printed = io.StringIO()
    try:
        with redirect_stderr(printed):
            return _run_g4f(command, argv)
    except SystemExit as end:
        error = end.__context__
        if end.code == 1 and isinstance(error, Exception):
            printed = io.StringIO()  # without the traceback: the error itself is reported
            raise error from None
        raise
    finally:
        print(printed.getvalue(), end="", file=sys.stderr)


def _run_api(argv: Sequence[str], is_offline: bool, stack: ExitStack) -> int:
    """Run g4f's server with Websim as the default provider, even without a network."""
    import g4f.cli

    argv = ["--provider", PROVIDER, *argv]
    parser = g4f.cli.get_api_parser()
    options = _parse("api", parser, argv)
    _check_address(options.bind, options.port)
    # g4f's worker processes do not see the command line.
    os.environ["G4F_PROVIDER"] = options.provider
    has_network = stack.enter_context(provider_list()) and not is_offline
    is_supported = not parser.parse_known_args([NO_DOWNLOAD_OPTION])[1]
    if not has_network and is_supported:
        argv = [NO_DOWNLOAD_OPTION, *argv]
    return _run_g4f("api", argv)


def _run_gui(argv: Sequence[str], is_offline: bool, stack: ExitStack) -> int:
    """Run g4f's web page on loopback, even without a network, and print the URL to open."""
    # g4f's default is to listen on all interfaces.
    argv = ["--host", GUI_HOST, *argv]
    # First, because g4f's parser loads all providers to list them in its help.
    has_network = stack.enter_context(provider_list())
    import g4f.gui
    from g4f.gui.gui_parser import gui_parser

    options = _parse("gui", gui_parser(), argv)
    if not is_port(str(options.port)):
        fail(f"--port PORT, as in 8080, not {options.port}", status=2)
    _check_can_listen(options.host, options.port, "--host or --port")
    # If a package for g4f's GUI is missing, g4f stores the error, and raises it when the GUI is run below.
    if not getattr(g4f.gui, "import_error", None):
        print(_gui_instruction(options.host, options.port), flush=True)
        if is_offline or not has_network:
            print("g4f-websim: g4f downloads the page itself, which may not load without a network", file=sys.stderr)
    return _run_g4f("gui", argv)


# Checks before g4f starts


def _parse(command: str, parser: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.Namespace:
    """Parse the arguments as g4f will, before g4f starts. For --help and for an unknown option, end the program."""
    parser.prog = f"g4f-websim {command}"
    return parser.parse_args(argv)


def _is_websim(provider: str) -> bool:
    # g4f ignores the case of a provider's name.
    return provider.lower() == PROVIDER.lower()


def _check_image_model(options: argparse.Namespace) -> None:
    """Fail if the output is an image and the model is not: g4f would save nothing, or text in a file named cat.png."""
    if not options.output or options.output.suffix.lower() not in IMAGE_SUFFIXES or options.edit:
        return
    model = strip_provider_prefix(options.model)
    if model not in Websim.image_models:
        reason = f"{model} is not an image model" if model else "no image model was named"
        models = " or ".join(f"-m {name}" for name in Websim.image_models)
        fail(f"-O {options.output} is an image, but {reason}; use {models}", status=1)


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
                fail(f"{word} is neither text nor a JPEG, PNG, GIF or WebP image", status=1)
            continue
        if Path(word).suffix.lower() in FILE_SUFFIXES and not re.search(r"\s", word):
            fail(f"no such file: {word}", status=1)
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
            fail(f"--bind HOST:PORT, as in 127.0.0.1:8080, not {bind}", status=2)
    else:
        host, port = ALL_HOSTS[0], port or API_PORT
        if not is_port(port):
            fail(f"--port PORT, as in 8080, not {port}", status=2)
    _check_can_listen(host, int(port), "--bind or --port")


def _check_can_listen(host: str, port: int, options: str) -> None:
    """Fail if a port is in use or forbidden: g4f would report the error only after lines that look like success."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        fail(f"{error.strerror}; choose another {options}", status=1)


def _gui_instruction(host: str, port: int) -> str:
    """Return what to open and to choose: g4f prints the URL in the middle of Flask's messages, and without /chat/."""
    host = GUI_HOST if host in ALL_HOSTS else host
    url = f"http://[{host}]:{port}/chat/" if ":" in host else f"http://{host}:{port}/chat/"
    where = url if port else "the URL below"
    return f"Open {where} and choose the provider Websim."
