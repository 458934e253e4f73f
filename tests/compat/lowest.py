"""Run calls and tests with the lowest aiohttp and g4f that pyproject.toml allows: `python -m tests.compat.lowest`."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

from tests.support.paths import ROOT

# The tests that show what depends on aiohttp: requests, responses, errors and the emulator's server.
TESTS = ("transport/test_faults.py", "transport/test_attempts.py", "emulator/test_server.py", "wire/test_response.py")
# The packages of the extra `test` that these tests need; it has many more.
NEEDED = ("brotli", "pytest", "trustme")
# Packages that the tests need and that usually come with g4f.
FURTHER = ("pillow", "requests")

# How long the installation or the tests may take.
SECONDS_FOR_STEP = 900

CHECK = ("-m", "g4f_websim", "--offline", "check")

# Four calls: a chat, a stream, and a chat and an image in one event loop.
CALLS = """
import asyncio
import g4f
from g4f.client import AsyncClient, Client
from g4f_websim import Websim
from g4f_websim.offline import offline

HELLO = [{"role": "user", "content": "Hello"}]
REPLY = "You said: Hello"

async def chat_and_image():
    client = AsyncClient(provider=Websim)
    image = client.images.generate("a cat", response_format="url")
    return await asyncio.gather(client.chat.completions.create(HELLO), image)

with offline() as emulator:
    completion = Client(provider="Websim").chat.completions.create(HELLO)
    assert completion.choices[0].message.content.endswith(REPLY), completion
    chunks = list(g4f.ChatCompletion.create("", HELLO, provider=Websim, stream=True))
    assert "".join(map(str, chunks)).endswith(REPLY), chunks
    completion, images = asyncio.run(chat_and_image())
    assert completion.choices[0].message.content.endswith(REPLY), completion
    assert images.data[0].url.endswith(".png"), images
    assert len(emulator.requests) == 4, emulator.requests
print("four calls through g4f's clients: passed")
"""


def main() -> int:
    """Run all steps in a virtual environment, and return the exit status of the first that fails, or 0."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = [requirement.replace(">=", "==") for requirement in project["dependencies"]]
    needed = [each for each in project["optional-dependencies"]["test"] if each.startswith(NEEDED)]
    print(f"{' and '.join(pinned)} on Python {sys.version.split()[0]}", flush=True)
    tests = [str(ROOT / "tests" / name) for name in TESTS]
    steps = (
        ("-m", "pip", "install", "--quiet", *pinned, *needed, *FURTHER, "--editable", str(ROOT)),
        ("-c", CALLS),
        CHECK,
        ("-m", "pytest", "-q", "-p", "no:cacheprovider", *tests),
    )
    with tempfile.TemporaryDirectory(prefix="g4f-websim-lowest-") as folder:
        venv.create(folder, with_pip=True)
        python = Path(folder, "Scripts" if sys.platform == "win32" else "bin", "python")
        for step in steps:
            status = subprocess.run([python, *step], cwd=folder, timeout=SECONDS_FOR_STEP).returncode
            if status:
                return status
    return 0


if __name__ == "__main__":
    sys.exit(main())
