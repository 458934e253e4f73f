"""The command g4f-websim in a process of its own: run to its end, or a server for as long as a test needs it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from g4f_websim.emulator import fill_offline_cache
from tests.support.calls import HELLO

SCRIPT = (str(Path(sysconfig.get_path("scripts"), "g4f-websim")),)
MODULE = (sys.executable, "-m", "g4f_websim")

# The system chooses the port, and the server's first words say which.
API = ("api", "--bind", "127.0.0.1:0", "--disable-colors", "--disable-pa-auto-download")
ADDRESS = r"(?:unning|listens) on (http://127\.0\.0\.1:\d+)"

# What the embedded Websim says to HELLO, and how its pictures begin.
ANSWER = "This is the offline Websim; no model was asked. You said: Hello"
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"

LOG = "output.txt"

SECONDS_TO_START = 60
SECONDS_TO_STOP = 20
SECONDS_TO_ANSWER = 60
POLL_SECONDS = 0.02

SETTINGS = ("WEBSIM_", "G4F_")
# Nobody listens there: what g4f would ask of the internet fails at once.
NO_INTERNET = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), "http://127.0.0.1:9")
LOOPBACK = dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1,localhost")


def make_home(folder: Path) -> Path:
    """Fill a folder with what g4f needs there, and return it."""
    fill_offline_cache(folder / "cache")
    folder.joinpath("tmp").mkdir()
    return folder


def environment(home: Path, **variables: str) -> dict[str, str]:
    """Return the environment of a process that keeps all its files in `home` and has no settings but `variables`."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(SETTINGS)}
    folders = {"HOME": home, "G4F_CONFIG_DIR": home / "config", "G4F_CACHE_DIR": home / "cache", "TMPDIR": home / "tmp"}
    return {
        **inherited,
        **{name: str(folder) for name, folder in folders.items()},
        **NO_INTERNET,
        **LOOPBACK,
        **variables,
    }


def first_on_path(folder: Path) -> str:
    """Return a PYTHONPATH on which the modules in `folder` go before all others."""
    return os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])


def run(
    *words: str,
    home: Path,
    command: Sequence[str] = SCRIPT,
    stderr: int = subprocess.PIPE,
    said: str = "",
    **variables: str,
) -> subprocess.CompletedProcess[str]:
    """Run the command to its end.

    Args:
        words: what follows the command's name.
        home: see `make_home`; also the working folder.
        command: how the command is called.
        stderr: the file descriptor for its errors.
        said: its standard input.
        variables: further environment variables.
    """
    return subprocess.run(
        [*command, *words],
        cwd=home,
        env=environment(home, **variables),
        input=said,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        timeout=SECONDS_TO_ANSWER,
    )


@dataclass(frozen=True)
class Server:
    """A server under way; see `server`."""

    process: subprocess.Popen[bytes]
    home: Path

    @property
    def output(self) -> str:
        """All that it has printed, errors too."""
        return self.home.joinpath(LOG).read_text(errors="replace")

    @property
    def url(self) -> str:
        return self.wait_for_output(ADDRESS)[0]

    def wait_for_output(self, pattern: str, times: int = 1) -> list[str]:
        """Return what the pattern matches in the output, as soon as it does so that often."""
        deadline = time.monotonic() + SECONDS_TO_START
        while len(found := re.findall(pattern, self.output)) < times:
            assert self.process.poll() is None, f"the server ended:\n{self.output}"
            assert time.monotonic() < deadline, f"the server does not start:\n{self.output}"
            time.sleep(POLL_SECONDS)
        return found

    def chat(self, **fields: Any) -> str:
        """Say hello over HTTP, and return the answer."""
        body = {"messages": HELLO, **fields}
        response = httpx.post(f"{self.url}/v1/chat/completions", json=body, timeout=SECONDS_TO_ANSWER)
        assert response.is_success, f"{response.text}\n{self.output}"
        return response.json()["choices"][0]["message"]["content"]

    def get(self, path: str) -> Any:
        """Return the JSON at a path."""
        return httpx.get(self.url + path, timeout=SECONDS_TO_ANSWER).raise_for_status().json()


@contextmanager
def server(*words: str, home: Path, command: Sequence[str] = SCRIPT, **variables: str) -> Iterator[Server]:
    """Start a server, wait until it listens, and end it by Ctrl-C in the end; the arguments are those of `run`."""
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
    """End a server and its workers, and fail if it takes force."""
    process.send_signal(how)
    try:
        process.wait(SECONDS_TO_STOP)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def _with_ctrl_c() -> Iterator[None]:
    """Let a child heed Ctrl-C even where this process, in the background, does not."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
