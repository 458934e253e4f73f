"""Run every snippet and command of the README against the emulator, and compare what they print with the page."""

import doctest
import importlib.metadata
import os
import re
import subprocess
import sys
import sysconfig
from typing import NamedTuple

import pytest

from g4f_websim.testing import Fault
from tests.support.calls import PNG
from tests.support.limits import MAX_SECONDS
from tests.support.paths import ROOT
from tests.support.processes import make_home, server

README = ROOT.joinpath("README.md").read_text(encoding="utf-8")

SERVER = "127.0.0.1:8080"
# The user's first steps in a clone, which the test environment has already done.
CLONE_COMMANDS = ("python3 -m venv", "pip install")

# What the emulator is told to reply where the page shows it, instead of the usual text.
REPLIES = ("Paris", '{"capital": "Paris"}')
# The response that the page's error is about: a longer delay than a call may wait.
RATE_LIMITED = Fault(status=429, headers={"Retry-After": "120"})


class Example(NamedTuple):
    """A block of code on the page, and the output that the page shows below it."""

    language: str
    code: str
    output: str


def examples_of(page: str) -> list[Example]:
    blocks = re.findall(r"^```(\w+)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    following = [*blocks[1:], ("", "")]
    return [
        Example(language, code, output if kind == "text" else "")
        for (language, code), (kind, output) in zip(blocks, following, strict=True)
        if language != "text"
    ]


EXAMPLES = examples_of(README)
SNIPPETS = [example for example in EXAMPLES if example.language == "python"]
COMMANDS = [example for example in EXAMPLES if example.language == "sh"]
(SERVER_COMMAND,) = [example for example in COMMANDS if SERVER in example.code]
(SERVER_SNIPPET,) = [example for example in SNIPPETS if SERVER in example.code]
TEST_FILES = {match[1]: example.code for example in SNIPPETS if (match := re.match(r"# (\w+\.py)\n", example.code))}


@pytest.fixture(autouse=True)
def surroundings(websim_server, monkeypatch, tmp_path):
    # The commands are those of this environment, whether or not it is active.
    monkeypatch.setenv("PATH", sysconfig.get_path("scripts"), prepend=os.pathsep)
    tmp_path.joinpath("paris.png").write_bytes(PNG)


def output_of(*command: str) -> str:
    """Run a command, which must succeed and print no error, and return what it prints."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=MAX_SECONDS)
    errors = re.sub(r"^g4f-websim: \d+ of \d+.*\n", "", done.stderr, flags=re.MULTILINE)  # progress
    assert (done.returncode, errors) == (0, ""), done.stdout
    return done.stdout


def assert_prints(expected: str, printed: str) -> None:
    options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    assert doctest.OutputChecker().check_output(expected, printed, options), (
        f"expected:\n{expected}\nprinted:\n{printed}"
    )


def prepare(server, example: Example) -> None:
    """Let the emulator respond as the page shows."""
    if "except WebsimError" in example.code:
        server.inject(RATE_LIMITED)
    # Replies are used in turn, so a request for an image gets a fault that changes nothing.
    for line in example.output.splitlines():
        if line in REPLIES:
            server.reply(line)
        elif ".png" in line:
            server.inject(Fault())


def last_line(example: Example) -> str:
    return example.code.strip().splitlines()[-1]


@pytest.mark.parametrize(
    "example",
    [example for example in SNIPPETS if example.output and example != SERVER_SNIPPET],
    ids=last_line,
)
def test_snippet_prints_what_the_page_shows(example, websim_server, capsys):
    prepare(websim_server, example)
    exec(example.code, {})
    printed, errors = capsys.readouterr()
    assert_prints(example.output, printed)
    assert errors == ""


@pytest.mark.parametrize(
    "example",
    [example for example in COMMANDS if "g4f-websim" in example.code and example != SERVER_COMMAND],
    ids=last_line,
)
def test_command_prints_what_the_page_shows(example, websim_server):
    prepare(websim_server, example)
    lines = [line.removeprefix("pip install . && ") for line in example.code.splitlines()]
    outputs = [output_of("sh", "-c", line) for line in lines if not line.startswith(CLONE_COMMANDS)]
    assert_prints(example.output, "".join(outputs))


def test_every_snippet_is_run():
    not_run = [example for example in SNIPPETS if not example.output and example.code not in TEST_FILES.values()]
    assert not_run == []


def test_application_test_passes(tmp_path, monkeypatch):
    # The plugins of other packages take long to import.
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    for name, code in TEST_FILES.items():
        tmp_path.joinpath(name).write_text(code)
    assert "1 passed" in output_of(sys.executable, "-m", "pytest", "test_application.py")


def test_openai_client_reaches_the_server(tmp_path, capsys):
    words = SERVER_COMMAND.code.replace(SERVER, "127.0.0.1:0").split()[1:]
    with server("--offline", *words, "--disable-colors", home=make_home(tmp_path)) as api:
        exec(SERVER_SNIPPET.code.replace(f"http://{SERVER}", api.url), {})
    assert_prints(SERVER_SNIPPET.output, capsys.readouterr().out)


@pytest.mark.parametrize("requirement", re.findall(r'pip install "(.+?)"', README))
def test_extras_to_install_exist(requirement):
    name, extras = re.match(r"([\w.-]+)\[(.+)\]", requirement).groups()
    metadata = importlib.metadata.metadata("g4f-websim" if name == "." else name)
    assert set(extras.split(",")) <= set(metadata.get_all("Provides-Extra"))


def test_internal_links_exist():
    titles = re.findall(r"^#+ (.+)$", README, re.MULTILINE)
    anchors = {"#" + re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
    links = re.findall(r"\]\(([^)]+)\)", README)
    missing = [link for link in links if link not in anchors and not link.startswith("https:")]
    assert links
    assert [link for link in missing if not ROOT.joinpath(link).exists()] == []


def test_page_shows_no_image():
    # The package index would not find the file of a relative link.
    assert "![" not in README
    assert "<img" not in README
