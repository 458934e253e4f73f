"""For tests of applications that use Websim: a pytest fixture with the embedded Websim in it.

In a conftest.py: `from g4f_websim.testing import websim`.
"""

from collections.abc import Iterator

import pytest

from . import Websim
from .emulator import Emulator, Fault

__all__ = ["Fault", "websim"]

BACKOFF_SECONDS = 0.001


@pytest.fixture
def websim(monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    """An embedded Websim that `Websim` and child processes are aimed at during one test, with waits of milliseconds.

    Its `requests` are those that came, and `misbehave(Fault(status=429))` spoils the next answer.
    """
    with Emulator() as emulator:
        monkeypatch.setattr(Websim, "url", emulator.url)
        monkeypatch.setattr(Websim, "backoff", BACKOFF_SECONDS)
        monkeypatch.setenv("WEBSIM_URL", emulator.url)
        yield emulator
