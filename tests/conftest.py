"""Fixtures for all tests: each test starts in an empty folder and writes nothing into the user's own folders."""

import os
import tempfile
from pathlib import Path

import pytest

# g4f reads these variables when it is imported. pytest imports the plugin after this module.
_FOLDER = tempfile.TemporaryDirectory(prefix="g4f-websim-tests-")
os.environ["G4F_CONFIG_DIR"] = os.environ["G4F_CACHE_DIR"] = _FOLDER.name

from g4f_websim import Websim  # noqa: E402
from g4f_websim.offline import write_provider_list  # noqa: E402
from tests.support.raw_server import raw_server  # noqa: E402

pytest_plugins = ["g4f_websim.testing"]

write_provider_list(Path(_FOLDER.name))


@pytest.fixture(autouse=True)
def fresh_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("WEBSIM_URL", "WEBSIM_PROJECT_ID", "WEBSIM_API_KEY", "G4F_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
async def server(monkeypatch: pytest.MonkeyPatch):
    """A raw server that Websim is aimed at, with waits of milliseconds."""
    async with raw_server() as server:
        monkeypatch.setattr(Websim, "url", server.url)
        monkeypatch.setattr(Websim, "backoff", 0.001)
        yield server
