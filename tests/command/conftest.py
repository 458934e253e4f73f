"""The home folder of the commands that the tests run in processes of their own."""

from pathlib import Path

import pytest

from tests.support.processes import make_home


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The current folder, as the home folder of a process."""
    return make_home(tmp_path)
