"""g4f's own command line with Websim registered, and named as the provider where
you name none.

commands of this package:
  check                 ask both of Websim's endpoints once and say what came
  emulator [--port N]   serve the offline Websim alone until Ctrl-C

commands of g4f's, each with a --help of its own:
  client    a question:  g4f-websim client "What is the capital of France?"
            a picture:   g4f-websim client -m flux "a cat" -O cat.png
  api       an OpenAI-compatible server:  g4f-websim api --bind 127.0.0.1:8080
  gui       the web page
"""

import argparse
import asyncio
import io
import os
import re
import signal
import sys
import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import g4f.debug

from . import Websim, __version__

# g4f's commands that take --provider. It comes before the user's own words, of which the last one counts.
WITH_PROVIDER = ("client", "api")

# An option of `api` in later g4f lines.
NO_DOWNLOAD = "--disable-pa-auto-download"

CHECK_SECONDS = 60.0
CHECK = [{"role": "user", "content": "Say hello."}]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    Args:
        arguments: the words after the command's name; those of the process where it is None.
    """
    parser = argparse.ArgumentParser(
        "g4f-websim", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--offline", action="store_true", help="ask the embedded Websim; no network is needed")
    parser.add_argument("--version", action="version", version=f"g4f-websim {__version__}")
    parser.add_argument("command", metavar="COMMAND", help="one of those above")
    parser.add_argument("words", metavar="...", nargs=argparse.REMAINDER, help="what the command takes")
    options = parser.parse_args(arguments)
    try:
        if not options.offline:
            return _run(options.command, options.words)
        from .emulator import offline

        with offline():
            return _run(options.command, options.words, offline=True)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def _run(command: str, words: list[str], offline: bool = False) -> int:
    if command == "emulator":
        from .emulator import serve

        return serve(words)
    if command == "check":
        argparse.ArgumentParser("g4f-websim check", description=_check.__doc__).parse_args(words)
        return asyncio.run(_check())
    if sys.stderr.isatty():
        _tell_waits()
    try:
        import g4f.cli

        defaults = ["--provider", Websim.__name__] if command in WITH_PROVIDER else []
        # What g4f's help is to call the command.
        sys.argv = [f"g4f-websim {command}", command, *defaults, *words]
        # A closed standard input is None, which g4f does not expect.
        sys.stdin = sys.stdin or io.StringIO()
        if command == "client" and not {"-d", "--debug"} & set(words):
            _shorten_errors()
        if command == "api":
            _prepare_server(offline)
        g4f.cli.main()
    except Exception as error:  # g4f lets all of them through
        print(_in_a_line(error), file=sys.stderr)
        return 1
    return 0


def _in_a_line(error: BaseException | None) -> str:
    if isinstance(error, ImportError):
        return f'g4f-websim: g4f needs {error.name} for this; run: pip install "g4f[api,gui]"'
    return f"g4f-websim: {type(error).__name__}: {error}"


def _prepare_server(offline: bool) -> None:
    """Name the provider in the environment too, since g4f's workers see no command line, and spare the network."""
    parser = g4f.cli.get_api_parser()
    os.environ["G4F_PROVIDER"] = parser.parse_known_args(sys.argv[2:])[0].provider
    if offline and not parser.parse_known_args([NO_DOWNLOAD])[1]:
        sys.argv.insert(2, NO_DOWNLOAD)


def _tell_waits() -> None:
    """Show on stderr what the provider tells g4f's log, which is silent otherwise."""
    log = g4f.debug.log

    def log_and_tell(*text: Any, **options: Any) -> None:
        if not g4f.debug.logging and str(text[0]).startswith("Websim:"):
            print(*text, file=sys.stderr)
        log(*text, **options)

    g4f.debug.log = log_and_tell


def _shorten_errors() -> None:
    """Let g4f's client print an error in a line where it would print a traceback."""
    import g4f.cli.client

    vars(g4f.cli.client)["traceback"] = SimpleNamespace(format_exc=lambda: _in_a_line(sys.exc_info()[1]))


async def _check() -> int:
    """Ask both endpoints once and print a line for each; the exit status is 0 if both answer."""

    class Once(Websim):
        max_tries = 1

    exit_status = 0
    for url, model in ((Once.chat_api_endpoint, None), (Once.image_api_endpoint, Once.default_image_model)):
        start = time.perf_counter()
        status, verdict = "200", "ok  it answers, nothing to do"
        try:
            proxy = os.environ.get("G4F_PROXY")
            async for _ in Once.create_async_generator(model, CHECK, proxy=proxy, timeout=CHECK_SECONDS):
                pass
        except Exception as error:  # whatever it is, it is what the user wants to know
            found = re.match(r"Response (\d+)", str(error))
            status, verdict, exit_status = found[1] if found else "no status", f"FAILED  {error}", 1
        print(f"{url}  {status}  {time.perf_counter() - start:.2f} s  {verdict}")
    return exit_status
