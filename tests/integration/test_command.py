"""The command g4f-websim as a user meets it: words in, text and an exit status out."""

import base64
import importlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from functools import cache

import httpx
import pytest

from g4f_websim import __version__, cli
from g4f_websim.emulator import Fault
from g4f_websim.provider import CHAT_PATH
from tests.support.calls import HELLO, PNG_URI
from tests.support.paths import ROOT
from tests.support.processes import ANSWER, API, MODULE, PNG_MAGIC, SCRIPT, first_on_path, make_home, run, server, stop

PNG = base64.b64decode(PNG_URI.partition(",")[2])

REFUSED_FOR_LONG = Fault(status=429, headers={"Retry-After": "3600"})
REFUSED_FOR_A_MOMENT = Fault(status=429, headers={"Retry-After": "0.1"})

# The command, but for the waits between tries.
WITHOUT_WAITS = (
    sys.executable,
    "-c",
    "import sys; from g4f_websim import Websim, cli; Websim.backoff = 0; sys.exit(cli.main())",
)
WITHOUT_INPUT = ("sh", "-c", 'exec "$@" <&-', "sh", *SCRIPT)

TERMINAL_COLUMNS = 80

ISOLATED = 'ip link set lo up && exec "$@"'
CHAT_WITH_SERVER = """
import sys
from pathlib import Path
from tests.support.paths import ROOT
from tests.support.processes import API, server
with server("--offline", *API, home=Path(sys.argv[1])) as started:
    print(started.chat())
"""


@pytest.fixture
def home(tmp_path):
    return make_home(tmp_path / "home")


@pytest.fixture
def taken_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.fixture
def closed_url():
    with socket.socket() as taken_but_not_listening:
        taken_but_not_listening.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken_but_not_listening.getsockname()[1]}"


def is_short(text):
    return 1 <= len(text.splitlines()) <= 2 and "Traceback" not in text


@pytest.mark.parametrize("command", [SCRIPT, MODULE], ids=["script", "module"])
def test_a_chat_is_answered(home, command):
    done = run("--offline", "client", "Hello", home=home, command=command)
    assert (done.returncode, done.stdout, done.stderr) == (0, ANSWER + "\n", "")


def test_what_is_said_offline_is_not_sent_along_later(home, websim):
    run("--offline", "client", "A secret", home=home)
    run("client", "Hello", home=home, WEBSIM_URL=websim.url)
    assert websim.requests[-1].json["messages"] == HELLO


def test_a_picture_is_saved(home):
    done = run("--offline", "client", "-m", "flux", "a cat", "-O", "cat.png", home=home)
    assert (done.returncode, done.stderr) == (0, "")
    assert home.joinpath("cat.png").read_bytes().startswith(PNG_MAGIC)


def test_what_is_piped_in_is_asked(home):
    assert run("--offline", "client", home=home, said="Hello, pipe").stdout.strip() == f"{ANSWER}, pipe"


def test_a_picture_is_shown(home, websim):
    home.joinpath("dot.png").write_bytes(PNG)
    done = run("client", "dot.png", "What is this?", home=home, WEBSIM_URL=websim.url)
    assert done.returncode == 0, done.stderr
    content = websim.requests[-1].json["messages"][-1]["content"]
    assert {"type": "image_url", "image_url": {"url": PNG_URI}} in content


def test_instructions_are_the_systems_turn(home, websim):
    run("client", "-i", "Be brief.", "Hello", home=home, WEBSIM_URL=websim.url)
    assert websim.requests[-1].json["messages"][0] == {"role": "system", "content": "Be brief."}


def test_a_provider_that_the_user_names_goes_before_websim(home, websim):
    done = run("client", "-p", "Nobody", "Hello", home=home, WEBSIM_URL=websim.url)
    assert (done.returncode, "Nobody" in done.stderr, list(websim.requests)) == (1, True, [])


@pytest.mark.parametrize("command", [SCRIPT, WITHOUT_INPUT], ids=["empty", "closed"])
def test_a_client_without_input_says_so(home, command):
    done = run("--offline", "client", home=home, command=command)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "No input provided. Use -h.\n")


def test_a_chat_needs_no_standard_input(home):
    done = run("--offline", "client", "Hello", home=home, command=WITHOUT_INPUT)
    assert done.stdout.strip() == ANSWER


def test_a_rate_limit_is_told_in_short(home, websim):
    websim.misbehave(REFUSED_FOR_LONG)
    done = run("client", "Hello", home=home, WEBSIM_URL=websim.url)
    assert done.returncode == 1
    assert is_short(done.stderr)
    assert "429" in done.stderr


def test_a_refused_connection_is_told_in_short(home, closed_url):
    done = run("client", "Hello", home=home, command=WITHOUT_WAITS, WEBSIM_URL=closed_url)
    assert done.returncode == 1
    assert is_short(done.stderr)
    assert "no connection" in done.stderr


def test_a_wrong_address_is_told_in_short(home):
    done = run("client", "Hello", home=home, WEBSIM_URL="websim.com")
    assert done.returncode == 1
    assert is_short(done.stderr)
    assert "WEBSIM_URL" in done.stderr


def test_debug_shows_where_an_error_comes_from(home, websim):
    websim.misbehave(REFUSED_FOR_LONG)
    assert "Traceback" in run("client", "--debug", "Hello", home=home, WEBSIM_URL=websim.url).stderr


def test_a_wait_is_told_at_a_terminal(home, websim):
    websim.misbehave(REFUSED_FOR_A_MOMENT)
    screen, terminal = os.openpty()
    done = run("client", "Hello", home=home, stderr=terminal, WEBSIM_URL=websim.url)
    os.set_blocking(screen, False)
    shown = os.read(screen, 10_000).decode()
    os.close(screen)
    os.close(terminal)
    assert "waiting 0.1 s before try 2 of 3" in shown
    assert done.stdout.strip() == ANSWER


def test_a_wait_is_not_told_elsewhere(home, websim):
    websim.misbehave(REFUSED_FOR_A_MOMENT)
    done = run("client", "Hello", home=home, WEBSIM_URL=websim.url)
    assert (done.stdout.strip(), done.stderr) == (ANSWER, "")


def test_check_reports_that_both_endpoints_answer(home):
    done = run("--offline", "check", home=home)
    chat, image = done.stdout.splitlines()
    assert (done.returncode, done.stderr) == (0, "")
    assert "run_chat_completion  200" in chat
    assert "run_image_generation  200" in image


def test_check_reports_that_nobody_is_there(home, closed_url):
    done = run("check", home=home, WEBSIM_URL=closed_url)
    assert (done.returncode, done.stderr) == (1, "")
    assert [line.count("no connection") for line in done.stdout.splitlines()] == [1, 1]


def test_check_asks_nothing_when_it_is_misspelt(home, websim):
    done = run("check", "chat", home=home, WEBSIM_URL=websim.url)
    assert (done.returncode, list(websim.requests)) == (2, [])
    assert "unrecognized arguments: chat" in done.stderr


def test_check_reports_one_that_refuses(home, websim):
    websim.misbehave(REFUSED_FOR_LONG)
    done = run("check", home=home, WEBSIM_URL=websim.url)
    chat, image = done.stdout.splitlines()
    assert done.returncode == 1
    assert "429" in chat
    assert "200" in image


def test_the_emulator_answers_until_ctrl_c_and_says_no_more(home):
    with server("emulator", home=home) as emulator:
        answer = httpx.post(emulator.url + CHAT_PATH, json={"project_id": "a", "messages": HELLO}).json()
        url = emulator.url
        stop(emulator.process, signal.SIGINT)
    assert answer["content"] == ANSWER
    assert emulator.process.returncode == 128 + signal.SIGINT
    assert emulator.output == (
        f"The offline Websim listens on {url}; Ctrl-C stops it.\nTo aim at it: WEBSIM_URL={url}\n"
    )


def test_the_emulator_says_that_a_port_is_taken(home, taken_port):
    done = run("emulator", "--port", str(taken_port), home=home)
    assert done.returncode == 1
    assert is_short(done.stderr)
    assert "address already in use" in done.stderr


@pytest.mark.parametrize("port", ["65536", "-1"])
def test_the_emulator_refuses_what_is_no_port(port, capsys):
    assert cli.main(["emulator", "--port", port]) == 1
    assert capsys.readouterr().err == "g4f-websim: bind(): port must be 0-65535.; name another --port\n"


def test_the_server_says_that_a_port_is_taken(home, taken_port):
    done = run("--offline", *API, "--bind", f"127.0.0.1:{taken_port}", home=home)
    assert done.returncode != 0
    assert "address already in use" in done.stderr.lower()
    assert "Traceback" not in done.stderr


def test_the_module_runs_nothing_when_it_is_imported(capsys):
    importlib.import_module("g4f_websim.__main__")
    assert capsys.readouterr() == ("", "")


def test_the_version_is_told(home):
    assert run("--version", home=home).stdout == f"g4f-websim {__version__}\n"


def test_the_help_fits_a_terminal(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(TERMINAL_COLUMNS))
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--help"])
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if len(line) > TERMINAL_COLUMNS] == []
    assert lines[0].startswith("usage: g4f-websim")


@pytest.mark.parametrize(
    "command, words",
    [(SCRIPT, ("api", "-h")), (MODULE, ("api", "-h")), (SCRIPT, ("gui", "--help")), (SCRIPT, ("client", "-h"))],
    ids=["api", "module-api", "gui", "client"],
)
def test_the_help_of_a_command_names_it(home, command, words):
    done = run("--offline", *words, home=home, command=command)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: g4f-websim {words[0]} [-h]")


def test_no_command_is_told_with_the_usage(capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main([])
    told = capsys.readouterr().err
    assert told.startswith("usage: g4f-websim")
    assert "COMMAND" in told.splitlines()[-1]


@pytest.mark.parametrize("command, package", [("api", "uvicorn"), ("api", "flask"), ("gui", "flask")])
def test_what_a_missing_package_is_in_is_told(home, command, package):
    home.joinpath(f"{package}.py").write_text(
        f'raise ModuleNotFoundError("No module named {package}", name="{package}")'
    )
    done = run("--offline", command, home=home, PYTHONPATH=first_on_path(home))
    assert done.returncode == 1
    assert is_short(done.stderr)
    assert re.search(r"pip install .*g4f\[.*gui", done.stderr)


@cache
def network_of_its_own():
    """Return the words before a command that take it off every network but a loopback of its own, if there are any."""
    for words in (("unshare", "--net"), ("unshare", "--net", "--map-root-user")):
        isolated = (*words, "sh", "-c", ISOLATED, "sh")
        if shutil.which("unshare") and subprocess.run([*isolated, "true"], capture_output=True).returncode == 0:
            return isolated
    return pytest.skip("this machine gives a process no network of its own (unshare --net)")


def test_offline_a_chat_needs_no_network(home):
    done = run("--offline", "client", "Hello", home=home, command=(*network_of_its_own(), *SCRIPT))
    assert (done.stdout, done.stderr) == (ANSWER + "\n", "")


def test_offline_a_server_needs_no_network(home):
    program = (*network_of_its_own(), sys.executable, "-c", CHAT_WITH_SERVER, str(home))
    done = run(command=program, home=home, PYTHONPATH=first_on_path(ROOT))
    assert (done.stdout, done.stderr) == (ANSWER + "\n", "")
