"""A pytest fixture for tests of applications that use Websim.

To enable it, write `pytest_plugins = ["g4f_websim.testing"]` in the conftest.py in the root folder.
"""

from collections.abc import Iterator

import pytest

from .emulator import Emulator, Fault
from .offline import emulator_settings
from .provider import Websim
from .transport.rate_limit import forget_limits
from .transport.target import PROXY_VARIABLE
from .wire.bodies import PROJECT_VARIABLE
from .wire.tokens import TOKEN_VARIABLE

__all__ = ["Fault", "websim_server"]

# The seconds before a retry in a test, so short that no test has to wait.
BACKOFF = 0.001


@pytest.fixture
def websim_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    """An emulator that receives the requests of `Websim` during one test, also those of child processes.

    The developer's own settings (project, token, proxy) do not apply in the test.

    `requests` contains the received requests. `reply("42")`, `reply_image(png)` and `inject(Fault(status=429))` choose
    the next responses, in the order of these calls.
    """
    forget_limits()
    with Emulator() as emulator:
        for owner, name, value in emulator_settings(emulator.url):
            if owner is None:
                monkeypatch.setenv(name, value)
            else:
                monkeypatch.setattr(owner, name, value)
        monkeypatch.setattr(Websim, "backoff", BACKOFF)
        for name in (PROJECT_VARIABLE, TOKEN_VARIABLE, PROXY_VARIABLE):
            monkeypatch.delenv(name, raising=False)
        yield emulator
