"""A pytest fixture for tests of applications that use Websim.

Enable it in a conftest.py: `pytest_plugins = ["g4f_websim.testing"]`.
"""

from collections.abc import Iterator

import pytest

from .emulator import Emulator, Fault
from .offline import accept_images_from
from .provider import Websim

__all__ = ["Fault", "websim_server"]

# Retries in tests take milliseconds.
BACKOFF = 0.001


@pytest.fixture
def websim_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    """The emulator, to which `Websim` and child processes send their requests during one test.

    `requests` holds the requests received. `reply("42")`, `reply_image(png)` and `inject(Fault(status=429))` choose the
    next responses, in the order of the calls.
    """
    with Emulator() as emulator, accept_images_from(emulator.url):
        monkeypatch.setattr(Websim, "url", emulator.url)
        monkeypatch.setattr(Websim, "backoff", BACKOFF)
        monkeypatch.setenv("WEBSIM_URL", emulator.url)
        monkeypatch.delenv("G4F_PROXY", raising=False)
        yield emulator
