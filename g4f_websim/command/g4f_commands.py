"""Run g4f's commands with Websim as the provider of `client` and `api`, and with servers on loopback.

g4f_fixes.py changes what these commands do, and stdin.py reads what is piped into `client`.
"""

import argparse
import importlib
import io
import ipaddress
import os
import re
import socket
import sys
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from pathlib import Path

from g4f import debug
from g4f.image import is_accepted_format

from .. import Websim
from ..emulator.command import is_port
from ..wire.bodies import strip_provider_prefix
from . import g4f_fixes
from .provider_list import provider_list
from .stdin import add_standard_input
from .terminal import fail, waiting, warn

PROVIDER: str = Websim.__name__

# The commands that listen: the module and the names of g4f's parser and of the function that runs the command.
SERVERS = {
    "api": ("g4f.cli", "get_api_parser", "run_api_args"),
    "dev": ("g4f.cli", "get_api_parser", "run_api_args"),
    "gui": ("g4f.gui.run", "gui_parser", "run_gui_args"),
    "mcp": ("g4f.cli", "get_mcp_parser", "run_mcp_args"),
    "systray": ("g4f.cli", "get_tray_parser", "run_tray_args"),
    "tray": ("g4f.cli", "get_tray_parser", "run_tray_args"),
}
G4F_COMMANDS = ("client", *SERVERS, "auth", "pa", "test", "version")

# g4f listens on all interfaces, where everybody could use the user's login.
LOOPBACK, ALL_INTERFACES = "127.0.0.1", "0.0.0.0"
# g4f's default ports of its server.
PORTS = {"api": 1337, "dev": 8080}

KEY_VARIABLE = "G4F_API_KEY"

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
    # Python sets sys.stdin to None if the process has no standard input; g4f calls its methods.
    sys.stdin = sys.stdin or io.StringIO()
    if command == "client":
        _run_client(argv)
    elif command in SERVERS:
        # Except mcp, they load all of g4f's providers, and g4f then downloads its provider list.
        with nullcontext(True) if command == "mcp" else provider_list() as has_list:
            _run_server(command, argv, has_list and not is_offline)
    else:
        import g4f.cli

        # g4f reads the command from sys.argv, and its help shows the first word as the name of the program.
        sys.argv = [f"g4f-websim {command}", command, *argv]
        g4f.cli.main()
    return 0


# The client


def _run_client(argv: Sequence[str]) -> None:
    import g4f.cli.client

    parser = g4f.cli.client.get_parser()
    parser.set_defaults(provider=PROVIDER)
    options = _parse("client", parser, argv)
    # g4f ignores the case of a provider's name.
    is_websim = options.provider.lower() == PROVIDER.lower()
    if is_websim:
        _check_output(options)
    _check_files(options.input)
    options.input = add_standard_input(options.input)
    g4f_fixes.apply(g4f_fixes.FIXES if options.debug else g4f_fixes.CLIENT_FIXES)
    if not options.edit:
        g4f_fixes.apply(g4f_fixes.OUTPUT_FIXES)
    debug.logging = debug.logging or options.debug
    with nullcontext() if is_websim else provider_list(), waiting():
        g4f.cli.client.run_client_args(options)


def _check_output(options: argparse.Namespace) -> None:
    """Fail if the response cannot be saved, or if text would be saved in a file named cat.png."""
    if options.output and options.output.is_dir():
        fail(f"-O {options.output} is a folder; name a file, as in {options.output / 'out.txt'}", status=1)
    if not options.output or options.output.suffix.lower() not in IMAGE_SUFFIXES or options.edit:
        return
    model = strip_provider_prefix(options.model, Websim.image_models)
    if model not in Websim.image_models:
        named = model or "the default model"
        advice = f"use -m {Websim.default_image_model}"
        fail(f"-O {options.output} is an image, but {named} is not an image model; {advice}", status=1)


def _check_files(inputs: Sequence[str]) -> None:
    """Fail if the first words name a file that g4f cannot send.

    g4f would send the name of a missing file as text, and its error for a file of another format contains no name.
    """
    for word in inputs:
        if word.startswith(("http://", "https://")):
            continue
        # Path.is_file() raises an OSError for a text that is too long for the name of a file.
        if not os.path.isfile(word):  # noqa: PTH113
            if Path(word).suffix.lower() in FILE_SUFFIXES and not re.search(r"\s", word):
                fail(f"no such file: {word}", status=1)
            return  # g4f takes the other words for text
        if not _can_be_sent(Path(word)):
            fail(f"{word} is neither UTF-8 text nor a JPEG, PNG, GIF or WebP image", status=1)


def _can_be_sent(file: Path) -> bool:
    """Return whether g4f's client can send a file: as an image in one of its formats, or as UTF-8 text."""
    content = file.read_bytes()
    with suppress(ValueError):
        is_accepted_format(content)
        return True
    with suppress(UnicodeDecodeError):
        content.decode()
        return file.suffix.lower() not in IMAGE_SUFFIXES
    return False


# Servers


def _run_server(command: str, argv: Sequence[str], has_network: bool) -> None:
    """Run a command that listens, on loopback unless the user names another host."""
    module, get_parser, run = SERVERS[command]
    # g4f's parser of the GUI loads all providers to list them in its help.
    g4f = importlib.import_module(module)
    parser = getattr(g4f, get_parser)()
    is_api = get_parser == "get_api_parser"
    parser.set_defaults(host=LOOPBACK)
    if is_api:
        is_dev = command == "dev"
        parser.set_defaults(provider=PROVIDER, port=PORTS[command], debug=is_dev, reload=is_dev)
        # The download of further providers from GitHub (g4f 8.7 and later) has no timeout.
        parser.set_defaults(disable_pa_auto_download=not has_network)
    options = _parse(command, parser, argv)
    host, port = _address(options)
    if is_api:
        options.bind = f"{host}:{port}"
        # When the server starts, the variable replaces the option.
        os.environ["G4F_PROVIDER"] = options.provider
    if command != "mcp" or options.http:
        is_open = _check_can_listen(host, port, "--bind or --port" if is_api else "--host or --port")
        has_key = is_api and (options.g4f_api_key or os.environ.get(KEY_VARIABLE))
        if is_open and not has_key:
            advice = "protect it with --g4f-api-key KEY" if is_api else f"use --host {LOOPBACK}"
            warn(f"everybody who can reach {host} can use this server and your Websim login; {advice}")
    g4f_fixes.apply(g4f_fixes.FIXES if command in ("gui", "mcp") else g4f_fixes.SERVER_FIXES)
    if command == "gui":
        missing = getattr(importlib.import_module("g4f.gui"), "import_error", None)
        if missing:  # a package that g4f needs is not installed
            raise missing
        _print_gui_url(host, port, has_network)
    getattr(g4f, run)(options)


def _address(options: argparse.Namespace) -> tuple[str, int]:
    """Return the host and the port to listen on; g4f's error for malformed ones does not name the option."""
    host, port = options.host, str(options.port)
    if not is_port(port):
        fail(f"--port PORT, as in 8080, not {port}", status=2)
    if getattr(options, "bind", None) is not None:
        host, _, port = options.bind.partition(":")
        if not host or not is_port(port):
            fail(f"--bind HOST:PORT, as in 127.0.0.1:8080, not {options.bind}", status=2)
    return host, int(port)


def _check_can_listen(host: str, port: int, options: str) -> bool:
    """Return whether other machines could reach a server, and fail if the port is in use or forbidden.

    g4f would report the error only after lines that look like success.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.create_server((host, port), family=family) as listener:
            return not ipaddress.ip_address(listener.getsockname()[0]).is_loopback
    except OSError as error:
        fail(f"{error.strerror}; choose another {options}", status=1)


def _print_gui_url(host: str, port: int, has_network: bool) -> None:
    """Print what to open and to choose: g4f prints the URL among Flask's messages, and without /chat/."""
    host = LOOPBACK if host == ALL_INTERFACES else host
    where = f"http://{host}:{port}/chat/" if port and ":" not in host else "the URL below"
    print(f"Open {where} and choose the provider {PROVIDER}.", flush=True)
    if not has_network:
        warn("g4f downloads the page itself, which may not load without a network")


def _parse(command: str, parser: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.Namespace:
    """Parse the arguments as g4f would, with help that names the host that this package chooses."""
    parser.prog = f"g4f-websim {command}"
    help_of_g4f = parser.format_help
    parser.format_help = lambda: help_of_g4f().replace(ALL_INTERFACES, LOOPBACK)  # type: ignore[method-assign]
    return parser.parse_args(argv)
