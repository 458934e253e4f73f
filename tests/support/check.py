"""Fixtures that run `g4f-websim check`, what a person reads after it, and what Websim may respond."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import takewhile

import pytest

from g4f_websim.command import check, check_settings, diagnosis
from g4f_websim.emulator import Emulator, Fault
from tests.support.calls import make_token
from tests.support.limits import MAX_SECONDS

COLUMNS = 100

# All secrets of these tests contain this word.
MARKER = "marker"
EMAIL = f"{MARKER}@example.com"
TOKEN = make_token(exp=4_000_000_000, email=EMAIL)
EXPIRED_TOKEN = make_token(exp=1_700_000_000, email=EMAIL)
FOREIGN_KEY = f"sk-{MARKER}"

# Lines to paste.
LOG_IN = ["websim-cli login", "export WEBSIM_API_KEY=<token>"]
UPGRADE = ["pip install --upgrade g4f-websim", "g4f-websim check --report"]
SET_PROJECT = "export WEBSIM_PROJECT_ID=<id>"
SET_URL = "export WEBSIM_URL=https://<host>"
USE_RANDOM = "unset WEBSIM_PROJECT_ID"
SET_PROXY = "export G4F_PROXY=http://<host>:<port>"
NO_PROXY = "unset G4F_PROXY"
USE_DEFAULT = "unset WEBSIM_URL"


@dataclass(frozen=True)
class Result:
    """What a person reads after a check."""

    status: int
    text: str

    @property
    def lines(self) -> list[str]:
        return self.text.splitlines()

    @property
    def requests(self) -> list[str]:
        """The line of each request, without its seconds."""
        return [
            re.sub(r" +[0-9.]+ s  ", "  ", line) for line in self.lines if re.match("(chat|image|lookup) +[-0-9]", line)
        ]

    @property
    def cause(self) -> str:
        """The cause, on one line."""
        rest = self.text.partition("\nCause: ")[2]
        return " ".join(line.strip() for line in takewhile(bool, rest.splitlines()))

    @property
    def advice(self) -> str:
        """The words of what to do, on one line."""
        return " ".join(line.removeprefix("- ").strip() for line in self._steps if not line.startswith("    "))

    @property
    def to_paste(self) -> list[str]:
        """The lines to paste."""
        return [line.strip() for line in self._steps if line.startswith("    ")]

    @property
    def _steps(self) -> list[str]:
        return list(takewhile(bool, self.text.partition("What to do:\n")[2].splitlines()))


@pytest.fixture
def run_check(capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """A function that runs the check; no line of its output may be wide or contain a secret."""

    def run_and_read(*words: str) -> Result:
        status = check.main(words)
        printed = capsys.readouterr()
        assert printed.err == ""
        assert [line for line in printed.out.splitlines() if len(line) > COLUMNS or line != line.rstrip()] == []
        assert MARKER not in printed.out
        assert all(line.isprintable() for line in printed.out.splitlines())
        assert "\n\n\n" not in printed.out
        for token in (TOKEN, EXPIRED_TOKEN):
            assert token[-20:] not in printed.out
        return Result(status, printed.out)

    return run_and_read


@pytest.fixture
def other_server() -> Iterator[Emulator]:
    """An emulator beside `websim_server`, for a second site or for a proxy."""
    with Emulator() as emulator:
        yield emulator


@pytest.fixture
def known_hosts(websim_server: Emulator, other_server: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the two hosts of Websim by two emulators: websim.com by `websim_server`, the other by `other_server`."""
    replace_known_hosts(monkeypatch, websim_server.url, other_server.url)


def replace_known_hosts(monkeypatch: pytest.MonkeyPatch, default_url: str, api_url: str) -> None:
    """Replace the two hosts of Websim that the check knows."""
    for module in (check_settings, diagnosis):
        monkeypatch.setattr(module, "DEFAULT_URL", default_url)
        monkeypatch.setattr(module, "API_URL", api_url)


def json_fault(status: int, content: object, **headers: str) -> Fault:
    """Return a response with JSON as its body; underscores in the names of headers become hyphens."""
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return Fault(status=status, headers=headers, body=json.dumps(content).encode())


def refusal(status: int, reason: str, **headers: str) -> Fault:
    """Return an error of the API."""
    return json_fault(status, {"error": reason}, **headers)


def redirect(location: str) -> Fault:
    """Return a redirect."""
    return Fault(status=307, headers={"Location": location}, body=b"")


def page(status: int, title: str, **headers: str) -> Fault:
    """Return an HTML page that contains an email address."""
    body = f"<!doctype html><html><head><title>{title}</title></head><body>{EMAIL}</body></html>"
    return Fault(status=status, headers={"Content-Type": "text/html", **headers}, body=body.encode())


def run_in_shell(line: str, show: str) -> str:
    """Run lines in a shell and return the value of a variable."""
    return subprocess.check_output(["sh", "-c", f'{line}\nprintf %s "${show}"'], text=True, timeout=MAX_SECONDS)
