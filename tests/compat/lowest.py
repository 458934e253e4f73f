"""Run real calls with the lowest aiohttp and g4f that pyproject.toml allows: `python -m tests.compat.lowest`."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from tests.support.paths import ROOT

# What the tests below need besides.
FOR_TESTS = (
    "integration/test_faults.py",
    "integration/test_transport.py",
    "integration/test_emulator.py",
    "unit/test_response.py",
)
TESTS = (
    "integration/test_faults.py",
    "integration/test_transport.py",
    "unit/test_response.py",
    "integration/test_emulator.py",
)

OFFLINE_COMMAND = ("-m", "g4f_websim", "--offline", "check")
OFFLINE_CALLS = """
import asyncio
import g4f
from g4f.client import AsyncClient, Client
from g4f_websim import Websim
from g4f_websim.emulator import Emulator

HELLO = [{"role": "user", "content": "Hello"}]

async def calls_in_one_loop():
    client = AsyncClient(provider=Websim)
    chat, picture = await asyncio.gather(client.chat.completions.create(HELLO), client.images.generate("a cat"))
    assert chat.choices[0].message.content.endswith("You said: Hello"), chat
    assert picture.data[0].url.endswith(".png"), picture

g4f.debug.version_check = False
with Emulator() as emulator:
    Websim.url = emulator.url
    chat = Client(provider="Websim").chat.completions.create(HELLO)
    assert chat.choices[0].message.content.endswith("You said: Hello"), chat
    chunks = g4f.ChatCompletion.create("", HELLO, provider=Websim, stream=True)
    assert "".join(map(str, chunks)).endswith("You said: Hello")
    asyncio.run(calls_in_one_loop())
    assert len(emulator.requests) == 4, emulator.requests
print("four calls through g4f's clients: as they should be")
"""


def lowest(requirements: str) -> list[str]:
    """Return the requirements of the package, each at its lowest version.

    Args:
        requirements: the text of pyproject.toml.
    """
    (listed,) = re.findall(r"^dependencies = \[(.*)\]$", requirements, re.MULTILINE)
    return [f"{name}=={version}" for name, version in re.findall(r'"([\w.-]+)>=([\w.]+)"', listed)]


def main() -> int:
    pinned = lowest((ROOT / "pyproject.toml").read_text())
    print(f"with {' and '.join(pinned)} on Python {sys.version.split()[0]}", flush=True)
    with tempfile.TemporaryDirectory(prefix="g4f-websim-lowest-") as folder:
        venv.create(folder, with_pip=True)
        python = Path(folder, "Scripts" if sys.platform == "win32" else "bin", "python")

        def run(*words: str) -> int:
            return subprocess.run([python, *words], cwd=folder).returncode

        steps = (
            ("-m", "pip", "install", "--quiet", *pinned, *FOR_TESTS, "--editable", str(ROOT)),
            ("-c", OFFLINE_CALLS),
            OFFLINE_COMMAND,
            ("-m", "pytest", "-q", "-p", "no:cacheprovider", *(str(ROOT / "tests" / name) for name in TESTS)),
        )
        return next(filter(None, (run(*step) for step in steps)), 0)


if __name__ == "__main__":
    sys.exit(main())
