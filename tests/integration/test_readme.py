"""Everything that the README tells a reader to run is run, against the embedded Websim."""

import base64
import importlib.metadata
import os
import re
import socket
import subprocess
import sys
import sysconfig
import time

import pytest

from tests.support.calls import PNG_URI
from tests.support.paths import ROOT

README = ROOT.joinpath("README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
SNIPPETS = [text for kind, text in BLOCKS if kind == "python"]
COMMANDS = [line for kind, text in BLOCKS if kind == "sh" for line in text.splitlines()]

ADDRESS = "127.0.0.1:8080"
ASKS_SERVER = "from openai"
IS_TEST = "# test_application.py"
START_SECONDS = 60


@pytest.fixture(autouse=True)
def surroundings(websim_server, monkeypatch, tmp_path):
    # The commands are those of this environment, whether or not it is active.
    monkeypatch.setenv("PATH", sysconfig.get_path("scripts"), prepend=os.pathsep)
    tmp_path.joinpath("cat.png").write_bytes(base64.b64decode(PNG_URI.partition(",")[2]))
    return websim_server


def run(*command: str, **options) -> str:
    done = subprocess.run(command, capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr
    return done.stdout


@pytest.mark.parametrize("snippet", [text for text in SNIPPETS if ASKS_SERVER not in text and IS_TEST not in text])
def test_a_snippet_runs_as_it_stands(snippet, websim_server):
    assert run(sys.executable, "-c", snippet).strip()
    assert websim_server.requests


def test_the_test_of_an_application_passes(tmp_path):
    (snippet,) = [text for text in SNIPPETS if IS_TEST in text]
    tmp_path.joinpath("test_application.py").write_text(snippet)
    assert "1 passed" in run(sys.executable, "-m", "pytest", "-p", "no:asyncio", "test_application.py")


def test_a_client_of_openais_asks_the_server(unused_tcp_port):
    address = f"127.0.0.1:{unused_tcp_port}"
    (command,) = [line for line in COMMANDS if ADDRESS in line]
    (snippet,) = [text for text in SNIPPETS if ASKS_SERVER in text]
    server = subprocess.Popen(
        [*command.replace("g4f-websim", "g4f-websim --offline").replace(ADDRESS, address).split()],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until_open(unused_tcp_port)
        printed = run(sys.executable, "-c", snippet.replace(ADDRESS, address))
    finally:
        server.terminate()
        server.wait()
    assert "You said: What is the capital of France?" in printed
    assert ".png" in printed


def wait_until_open(port: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except ConnectionRefusedError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


@pytest.mark.parametrize("command", [line for line in COMMANDS if "g4f-websim" in line and ADDRESS not in line])
def test_a_command_runs_as_it_stands(command, tmp_path):
    assert run("sh", "-c", command.removeprefix("pip install . && ")).strip()
    assert ("-O cat.png" in command) == (tmp_path.joinpath("cat.png").stat().st_size > 100)


@pytest.mark.parametrize("requirement", re.findall(r'pip install "(.+?)"', "\n".join(COMMANDS)))
def test_what_pip_is_told_to_install_can_be_had(requirement):
    name, extras = requirement.rstrip("]").split("[")
    metadata = importlib.metadata.metadata("g4f-websim" if name == "." else name)
    assert set(extras.split(",")) <= set(metadata.get_all("Provides-Extra"))


def test_every_link_inside_the_page_leads_somewhere():
    titles = re.findall(r"^#+ (.+)$", README, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
    assert set(re.findall(r"\]\(#(.+?)\)", README)) <= anchors
