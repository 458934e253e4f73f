"""Run the command `g4f-websim` in a process of its own: to its end, or as a server during a test."""

from __future__ import annotations

import atexit
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from g4f_websim.emulator import Emulator
from g4f_websim.offline import write_provider_list
from g4f_websim.transport.log import logger
from tests.support.calls import HELLO
from tests.support.limits import MAX_SECONDS
from tests.support.loopback import HOST, refusing_socket
from tests.support.responses import image_at

SCRIPT = (str(Path(sysconfig.get_path("scripts"), "g4f-websim")),)
MODULE = (sys.executable, "-m", "g4f_websim")

# The operating system chooses the port, which the server prints.
API = ("api", "--bind", "127.0.0.1:0", "--disable-colors", "--disable-pa-auto-download")
URL_IN_OUTPUT = r"(?i)(?:running|listens|listening) on (?:\x1b\[1m)?(http://[\w.]+:\d+)"

LOG = "output.txt"

SECONDS_TO_START = 60
SECONDS_TO_STOP = 20
POLL_SECONDS = 0.02

TERMINAL_BYTES = 10_000
TERMINAL_END = b"\0"

SETTING_PREFIXES = ("WEBSIM_", "G4F_")
# This proxy refuses connections, so g4f's requests to the internet fail at once.
_REFUSING = refusing_socket()
atexit.register(_REFUSING.close)
NO_INTERNET = dict.fromkeys(
    ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), f"http://{HOST}:{_REFUSING.getsockname()[1]}"
)
LOOPBACK = dict.fromkeys(("NO_PROXY", "no_proxy"), f"{HOST},localhost")


def make_home(folder: Path) -> Path:
    """Create the home folder of a process, with the provider list that g4f would download, and return it."""
    write_provider_list(folder / "cache")
    folder.joinpath("tmp").mkdir()
    return folder


def environment(home: Path, **variables: str) -> dict[str, str]:
    """Return the environment of a process that writes below `home` only.

    Args:
        home: a folder of `make_home`.
        variables: the settings; those of the test process are not inherited.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(SETTING_PREFIXES)}
    folders = {"HOME": home, "G4F_CONFIG_DIR": home / "config", "G4F_CACHE_DIR": home / "cache", "TMPDIR": home / "tmp"}
    return inherited | {name: str(folder) for name, folder in folders.items()} | NO_INTERNET | LOOPBACK | variables


def first_on_path(folder: Path) -> str:
    """Return a PYTHONPATH on which `folder` comes first."""
    return os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])


def run_command(
    *words: str,
    home: Path,
    command: Sequence[str] = SCRIPT,
    stdin: str = "",
    stdout: int = subprocess.PIPE,
    stderr: int = subprocess.PIPE,
    **variables: str,
) -> subprocess.CompletedProcess[str]:
    """Run the command to its end.

    Args:
        words: the words after the command.
        home: a folder of `make_home`; also the working folder.
        command: the command.
        stdin: the text on its standard input.
        stdout, stderr: file descriptors for its output and its errors.
        variables: additional environment variables.
    """
    return subprocess.run(
        [*command, *words],
        cwd=home,
        env=environment(home, **variables),
        input=stdin,
        stdout=stdout,
        stderr=stderr,
        text=True,
        timeout=MAX_SECONDS,
    )


def read_terminal(screen: int, terminal: int) -> str:
    """Return all that was written to a terminal; the kernel may hand it over in several pieces."""
    os.write(terminal, TERMINAL_END)
    shown = b""
    while not shown.endswith(TERMINAL_END):
        shown += os.read(screen, TERMINAL_BYTES)
    return shown.removesuffix(TERMINAL_END).decode()


def run_on_terminal(*words: str, home: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end with a terminal as its stderr; the arguments are those of `run_command`."""
    screen, terminal = os.openpty()
    try:
        done = run_command(*words, home=home, stderr=terminal, **variables)
        done.stderr = read_terminal(screen, terminal)
        return done
    finally:
        os.close(screen)
        os.close(terminal)


def errors_on_terminal(call: Callable[[], Any]) -> str:
    """Call a function of this process with a terminal as its stderr, and return what the terminal shows."""
    screen, terminal = os.openpty()
    logger.handlers.clear()  # the command adds one for its stderr if there is none
    try:
        with open(terminal, "w", closefd=False) as stream, redirect_stderr(stream):
            call()
        return read_terminal(screen, terminal)
    finally:
        logger.handlers.clear()
        logger.setLevel(logging.NOTSET)
        os.close(screen)
        os.close(terminal)


@contextmanager
def started(*words: str, home: Path, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """Start the command, and kill it at the end unless it has ended.

    The arguments are those of `run_command`.
    """
    with _with_ctrl_c():
        process = subprocess.Popen(
            [*SCRIPT, *words],
            cwd=home,
            env=environment(home, **variables),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def interrupt_download(emulator: Emulator, *words: str, home: Path) -> tuple[str, str]:
    """Press Ctrl-C during the download of an image, and return the errors of the command and the URL of the image."""
    with socket.create_server((HOST, 0)) as listener:
        url = f"http://{HOST}:{listener.getsockname()[1]}/cat.png"
        emulator.inject(image_at(url))
        with started(*words, home=home, WEBSIM_URL=emulator.url) as process:
            listener.settimeout(MAX_SECONDS)
            connection, _ = listener.accept()
            with connection:
                process.send_signal(signal.SIGINT)
                _, errors = process.communicate(timeout=MAX_SECONDS)
    assert process.returncode == 130
    return errors, url


@dataclass(frozen=True)
class Server:
    """A running server; see `server`."""

    process: subprocess.Popen[bytes]
    home: Path

    @property
    def output(self) -> str:
        """Everything that it has printed, including errors."""
        return self.home.joinpath(LOG).read_text(errors="replace")

    @property
    def url(self) -> str:
        """The URL that it listens on."""
        return self.wait_for_output(URL_IN_OUTPUT)[0]

    def wait_for_output(self, pattern: str, times: int = 1) -> list[str]:
        """Wait until a pattern matches `times` times in the output, and return the matches."""
        deadline = time.monotonic() + SECONDS_TO_START
        while len(found := re.findall(pattern, self.output)) < times:
            assert self.process.poll() is None, f"the server ended:\n{self.output}"
            assert time.monotonic() < deadline, f"the server does not start:\n{self.output}"
            time.sleep(POLL_SECONDS)
        return found

    def chat(self, **fields: Any) -> str:
        """Send HELLO over HTTP and return the text of the response."""
        body = {"messages": HELLO, **fields}
        response = httpx.post(f"{self.url}/v1/chat/completions", json=body, timeout=MAX_SECONDS)
        assert response.is_success, f"{response.text}\n{self.output}"
        return response.json()["choices"][0]["message"]["content"]

    def get(self, path: str) -> Any:
        """Return the JSON at a path."""
        return httpx.get(self.url + path, timeout=MAX_SECONDS).raise_for_status().json()


@contextmanager
def server(*words: str, home: Path, command: Sequence[str] = SCRIPT, **variables: str) -> Iterator[Server]:
    """Start a server, wait until it listens, and stop it by Ctrl-C at the end.

    The arguments are those of `run_command`.
    """
    with home.joinpath(LOG).open("wb") as output, _with_ctrl_c():
        process = subprocess.Popen(
            [*command, *words],
            cwd=home,
            env=environment(home, **variables),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    started = Server(process, home)
    try:
        assert started.url
        yield started
    finally:
        stop(process, signal.SIGINT)


def stop(process: subprocess.Popen[bytes], how: signal.Signals) -> None:
    """Stop a server and its workers by a signal; fail if the server does not stop in time."""
    process.send_signal(how)
    try:
        process.wait(SECONDS_TO_STOP)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def _with_ctrl_c() -> Iterator[None]:
    """Let a child process receive Ctrl-C even if this process ignores it, as in the background of a shell."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
