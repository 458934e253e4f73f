"""A pytest fixture for tests of applications that use Websim.

To enable it, write `pytest_plugins = ["g4f_websim.testing"]` in the conftest.py in the root folder.
"""

from collections.abc import Iterator

import pytest

from .emulator import Emulator, Fault
from .offline import accept_images_from
from .provider import Websim
from .throttle import forget_limits

__all__ = ["Fault", "websim_server"]

# The seconds before a retry, so short that tests do not wait.
BACKOFF = 0.001


@pytest.fixture
def websim_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    """An emulator that receives the requests of `Websim` during one test, also those of child processes.

    `requests` contains the received requests. `reply("42")`, `reply_image(png)` and `inject(Fault(status=429))` choose
    the next responses, in the order of these calls.
    """
    forget_limits()
    with Emulator() as emulator, accept_images_from(emulator.url):
        monkeypatch.setattr(Websim, "url", emulator.url)
        monkeypatch.setattr(Websim, "backoff", BACKOFF)
        monkeypatch.setenv("WEBSIM_URL", emulator.url)
        monkeypatch.delenv("G4F_PROXY", raising=False)
        yield emulator
