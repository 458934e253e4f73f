"""The command `g4f-websim`: g4f's commands, `emulator`, `check`, and the user's mistakes.

It runs in a process of its own, unless it ends before it does anything.
"""

import errno
import importlib
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path

import httpx
import pytest

from g4f_websim import __version__
from g4f_websim.command import main
from g4f_websim.emulator import Fault
from g4f_websim.wire.endpoints import CHAT_PATH
from tests.support.calls import HELLO, PNG, PNG_URI
from tests.support.limits import MAX_SECONDS
from tests.support.paths import ROOT
from tests.support.processes import (
    MODULE,
    SCRIPT,
    environment,
    first_on_path,
    read_terminal,
    run_command,
    run_on_terminal,
    server,
    stop,
)
from tests.support.responses import LONG_RATE_LIMIT, PNG_MAGIC, REPLY

# Longer than the delay before the queue is reported.
SHORT_RATE_LIMIT = Fault(status=429, headers={"Retry-After": "0.5"})
BUSY = Fault(status=503, headers={"Retry-After": "0.1"})

# Runs several command lines in one process, because the import of g4f takes long.
RUN_LINES = (
    sys.executable,
    "-c",
    "import shlex, sys; from g4f_websim.command.main import main; [main(shlex.split(line)) for line in sys.argv[1:]]",
)
WITH_WARNING = (
    sys.executable,
    "-c",
    "import logging, sys; from g4f_websim.command.main import main; "
    "status = main(); logging.getLogger('g4f_websim').warning('something is odd'); sys.exit(status)",
)
# Ends Python as Ctrl-C does, at the moment at which a module is imported.
INTERRUPTS_IMPORT = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a process in the background ignores Ctrl-C
class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "NAME":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder)
"""

TERMINAL_COLUMNS = 80
COMMANDS = ("client", "image", "api", "gui", "check", "emulator")

NO_PROVIDER_LIST = "g4f's list of providers could not be downloaded from its site"
OPEN_TO_EVERYBODY = "g4f-websim: everybody who can reach 0.0.0.0"

ISOLATED = 'ip link set lo up && exec "$@"'
CHAT_WITH_CLIENT_AND_SERVER = """
import sys
from pathlib import Path
from tests.support.processes import API, run_command, server
home = Path(sys.argv[1])
print(run_command("--offline", "client", "Hello", home=home).stdout, end="")
with server("--offline", *API, home=home) as started:
    print(started.chat())
"""


@pytest.fixture
def used_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.fixture
def closed_url(closed_port):
    return f"http://127.0.0.1:{closed_port}"


def assert_fails_on_one_line(done, *expected, status=1):
    assert done.returncode == status, done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert [text for text in expected if text not in done.stderr] == []


def end(capsys, *words):
    """Run the command in this process until it ends by SystemExit; return the status, the output and the errors."""
    with pytest.raises(SystemExit) as raised:
        main.main(words)
    return raised.value.code, *capsys.readouterr()


def run_lines(*lines, home, emulator):
    """Run command lines in one process; all must succeed."""
    done = run_command(*lines, home=home, command=RUN_LINES, WEBSIM_URL=emulator.url)
    assert (done.returncode, done.stderr) == (0, "")


def redirected(redirection):
    """Return the command with a redirection of the shell."""
    return ("sh", "-c", f'exec "$@" {redirection}', "sh", *SCRIPT)


def run_without_package(package, *words, home):
    """Run the command as if a package were not installed."""
    home.joinpath(f"{package}.py").write_text(f'raise ModuleNotFoundError("No module {package}", name="{package}")')
    return run_command(*words, home=home, PYTHONPATH=first_on_path(home))


# The client


def test_client_keeps_offline_conversation_separate_and_downloads_no_provider_list(home, websim_server):
    empty = home / "empty"
    offline = run_command("--offline", "client", "A secret", home=home)
    variables = {"WEBSIM_URL": websim_server.url, "G4F_CACHE_DIR": str(empty)}
    online = run_command("client", "Hello", home=home, command=MODULE, **variables)
    assert (offline.returncode, offline.stdout, offline.stderr) == (0, REPLY.replace("Hello", "A secret\n"), "")
    assert (online.returncode, online.stdout, online.stderr) == (0, f"{REPLY}\n", "")
    assert websim_server.requests[-1].json["messages"] == HELLO
    assert not empty.exists()


def test_client_saves_image_whole_text_or_edited_code_block(home, websim_server):
    texts = ["Grüße", "Run this:\n\n```python\nprint(1)\n```", "data: three rows", "/media/x"]
    for text in ["Here it is:\n```python\nprint(2)\n```", *texts]:
        websim_server.reply(text)
    home.joinpath("program.py").write_text("print(0)")
    run_lines(
        "client -e program.py Say 2.",
        *(f"client A program -O {number}.txt" for number in range(len(texts))),
        "client -m flux a cat -O cat.png",
        home=home,
        emulator=websim_server,
    )
    assert [home.joinpath(f"{number}.txt").read_text("utf-8") for number in range(len(texts))] == texts
    assert home.joinpath("program.py").read_text().strip() == "print(2)"
    assert home.joinpath("cat.png").read_bytes().startswith(PNG_MAGIC)


@pytest.mark.parametrize(
    ("words", "stdin", "sent"),
    [
        (("Summarize", "this:"), "\ufeffone\n\n  Grüße\n", "Summarize this:\n\none\n\n  Grüße"),
        ((), "notes.txt", "notes.txt"),
        (("Hello",), " \n", "Hello"),
        (("notes.txt",), "What is this?", "What is this?\n\n```file: notes.txt\nsecret\n```"),
    ],
)
def test_client_adds_piped_text_below_prompt(home, websim_server, words, stdin, sent):
    home.joinpath("notes.txt").write_text("secret")
    done = run_command("client", *words, home=home, stdin=stdin, WEBSIM_URL=websim_server.url)
    assert (done.returncode, done.stderr) == (0, "")
    assert websim_server.requests[-1].json["messages"][-1]["content"] == sent


def test_client_adds_file_on_stdin_to_prompt(home):
    home.joinpath("notes.txt").write_text("notes")
    done = run_command("--offline", "client", "Summarize this:", home=home, command=redirected("<notes.txt"))
    assert done.stdout.endswith("You said: Summarize this:\n\nnotes\n")


def test_client_says_that_it_reads_stdin_that_does_not_end(home):
    with subprocess.Popen(
        [*SCRIPT, "--offline", "client", "Hello"],
        env=environment(home), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as client:  # fmt: skip
        assert "</dev/null" in client.stderr.readline()
        output, errors = client.communicate(", pipe", timeout=MAX_SECONDS)
    assert (output, errors) == (f"{REPLY}\n\n, pipe\n", "")


def test_client_sends_repeated_question_as_it_is(home, websim_server):
    question = "Go  on\n\n\n\nplease"
    websim_server.reply("First.")
    run_lines(*[f"client {shlex.quote(question)}"] * 2, home=home, emulator=websim_server)
    contents = [message["content"] for message in websim_server.requests[-1].json["messages"]]
    assert contents == [question, "First.", question]


def test_client_sends_files_and_instructions(home, websim_server):
    home.joinpath("dot.png").write_bytes(PNG)
    home.joinpath("notes.txt").write_text("Grüße", encoding="utf-8")
    words = ("-i", "Be brief.", "dot.png", "notes.txt", "What is this?")
    assert run_command("client", *words, home=home, WEBSIM_URL=websim_server.url).returncode == 0
    instructions, question = websim_server.requests[-1].json["messages"]
    assert instructions == {"role": "system", "content": "Be brief."}
    assert {"type": "image_url", "image_url": {"url": PNG_URI}} in question["content"]
    assert "Grüße" in str(question["content"])


def test_client_sends_text_that_looks_like_a_file(home, websim_server):
    texts = ["Is there a cat.png?", "What is cat.png", "Node.js", "word" * 100]
    lines = ["client -N Is there a cat.png?", *(f"client -N {shlex.quote(text)}" for text in texts[1:])]
    run_lines(*lines, home=home, emulator=websim_server)
    assert [request.json["messages"][-1]["content"] for request in websim_server.requests] == texts


def test_client_without_stdin_and_without_prompt_fails(home):
    done = run_command("--offline", "client", home=home, command=redirected("<&-"))
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "No input provided. Use -h.\n")


# Commands


@pytest.mark.parametrize("words", [("--offline", "check"), ("--offline", "client", "Hello")])
def test_succeeds_without_stdout(home, words):
    done = run_command(*words, home=home, command=redirected(">&-"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_error_without_stderr_has_its_status(home):
    assert run_command("nonsense", home=home, command=redirected("2>&-")).returncode == 2


def test_replaces_characters_that_stdout_cannot_encode(home):
    done = run_command("--offline", "client", "Grüße, €", home=home, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Gr??e, ?" in done.stdout


@pytest.mark.parametrize("words", [("gui",), ("--offline", "gui")], ids=" ".join)
def test_gui_listens_on_loopback_and_says_which_url_to_open(home, words):
    with server(*words, "--port", "0", home=home) as gui:
        _, instruction, below = gui.output.partition("Open the URL below and choose the provider Websim.")
        assert instruction
        assert gui.url.startswith("http://127.0.0.1:")
        assert gui.url in below
        assert ("may not load without a network" in gui.output) == ("--offline" in words)


@pytest.mark.parametrize(
    ("line", "is_open", "is_protected"),
    [
        ("tray --port 0", False, False),
        ("mcp --http --port 0", False, False),
        ("mcp --http --port 0 --host 0.0.0.0", True, False),
        ("api --bind 0.0.0.0:0", True, False),
        ("api --bind 0.0.0.0:0 --g4f-api-key secret", True, True),
    ],
)
def test_server_listens_on_loopback_or_warns_and_deletes_its_folder(home, line, is_open, is_protected):
    with server("--offline", *line.split(), home=home) as started:
        assert started.url
        assert ("0.0.0.0" in started.output) == is_open
        assert (OPEN_TO_EVERYBODY in started.output) == (is_open and not is_protected)
        stop(started.process, signal.SIGTERM)
    assert list(home.joinpath("tmp").iterdir()) == []


def test_emulator_runs_until_ctrl_c(home):
    with server("emulator", home=home) as emulator:
        url = emulator.url
        response = httpx.post(url + CHAT_PATH, json={"project_id": "a", "messages": HELLO})
        stop(emulator.process, signal.SIGINT)
    assert response.json()["content"] == REPLY
    assert emulator.process.returncode == 128 + signal.SIGINT
    first, second, *_ = emulator.output.splitlines()
    assert first == f"The emulator listens on {url}; press Ctrl-C to stop it."
    assert second == f"To use it from another program, set WEBSIM_URL={url}"


@pytest.mark.parametrize(("word", "output"), [("version", "g4f "), ("mcp", "")])
def test_other_g4f_command_runs(home, word, output):
    done = run_command(word, home=home)
    assert (done.returncode, done.stdout[: len(output)]) == (0, output)


def test_import_of_main_module_runs_no_command(capsys):
    importlib.import_module("g4f_websim.__main__")
    assert capsys.readouterr() == ("", "")


# Help and version


@pytest.mark.parametrize("words", [("--version",), ("-V",), ("client", "--version"), ("check", "--version")])
def test_prints_version(words, capsys):
    with suppress(SystemExit):
        main.main(words)
    assert capsys.readouterr().out == f"g4f-websim {__version__}\n"


@pytest.mark.parametrize("words", [(), ("help",), ("--help",), ("-h",), ("--offline",)])
def test_prints_help(words, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(TERMINAL_COLUMNS))
    with suppress(SystemExit):
        main.main(words)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("usage: g4f-websim")
    assert [line for line in lines if len(line) > TERMINAL_COLUMNS] == []
    examples = "\n".join(lines)
    assert [command for command in COMMANDS if f"g4f-websim {command}" not in examples] == []


@pytest.mark.parametrize("word", ["api", "client", "image", "check", "emulator"])
def test_prints_help_of_command(word, capsys):
    status, output, errors = end(capsys, "--offline", word, "--help")
    assert (status, errors) == (0, "")
    assert output.startswith(f"usage: g4f-websim {word} [-h]")


# Mistakes on the command line


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("chekc", "unknown command: chekc; did you mean check?"),
        ("Client", "unknown command: Client; did you mean client?"),
        ("8080", "unknown command: 8080"),
        (
            "What is the capital?",
            "unknown command: What is the capital?; for a chat, use: g4f-websim client 'What is the capital?'",
        ),
    ],
)
def test_unknown_command_fails_with_suggestion(word, message, capsys):
    with pytest.raises(SystemExit, match="^2$"):
        main.main([word])
    first, *rest = capsys.readouterr().err.splitlines()
    assert first == f"g4f-websim: {message}"
    assert [command for command in COMMANDS if f"g4f-websim {command}" not in "\n".join(rest)] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_offline_after_command_fails(command, capsys):
    with pytest.raises(SystemExit, match="^2$"):
        main.main([command, "--offline", "two words"])
    expected = f"g4f-websim: --offline comes before the command: g4f-websim --offline {command} 'two words'\n"
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("-m", "fluxx", "a cat", "-O", "x.png"), "-O x.png is an image, but fluxx is not an image model; use -m flux"),
        (("-m", "gemini-1.5-pro", "a cat", "-O", "x.JPG"), "gemini-1.5-pro is not an image model; use -m flux"),
        (("a cat", "-O", "x.webp"), "but the default model is not an image model; use -m flux"),
        (("Hello", "-O", "."), "-O . is a folder; name a file, as in out.txt"),
        (("nofile.png", "What is this?"), "no such file: nofile.png"),
        (("dot.png", "nofile.txt", "Compare."), "no such file: nofile.txt"),
        (("empty.png", "Why?"), "empty.png is neither UTF-8 text nor a JPEG, PNG, GIF or WebP image"),
        (("text.png", "Why?"), "text.png is neither UTF-8 text nor a JPEG, PNG, GIF or WebP image"),
        (("cat.heic", "Why?"), "cat.heic is neither UTF-8 text nor a JPEG, PNG, GIF or WebP image"),
        (("cat.pdf", "Why?"), "cat.pdf is neither UTF-8 text nor a JPEG, PNG, GIF or WebP image"),
    ],
)
def test_unusable_file_fails_before_request(words, message, websim_server, capsys):
    heic = b"\0\0\0\x18ftypheic\xff"
    files = {"dot.png": PNG, "empty.png": b"", "text.png": b"text", "cat.heic": heic, "cat.pdf": b"%PDF\xff"}
    for name, content in files.items():
        Path(name).write_bytes(content)
    status, output, errors = end(capsys, "client", *words)
    assert (status, output, len(errors.splitlines())) == (1, "", 1)
    assert errors.endswith(f"{message}\n")
    assert websim_server.requests == []


def test_g4f_without_client_is_reported(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "g4f.cli.client", None)
    message = "g4f-websim: this release of g4f has no g4f.cli.client; run: pip install --upgrade g4f\n"
    assert end(capsys, "client", "Hello") == (1, "", message)


def test_client_that_saves_nothing_fails(home, websim_server, closed_url):
    websim_server.inject(Fault(body=json.dumps({"url": f"{closed_url}/cat.png"}).encode()))
    home.joinpath("cat.png").write_bytes(PNG)
    done = run_command("client", "-m", "Websim:FLUX", "a cat", "-O", "cat.png", home=home, WEBSIM_URL=websim_server.url)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "g4f-websim: nothing was saved in cat.png"
    assert "Error fetching media" in done.stderr


def test_argument_that_is_not_utf8_fails(capsys):
    message = "an argument is not UTF-8 text: 'caf\\udce9'; check the encoding of your terminal or script"
    assert end(capsys, "client", "caf\udce9") == (2, "", f"g4f-websim: {message}\n")


def test_stdin_that_is_not_utf8_fails_before_request(home, websim_server):
    home.joinpath("latin1.txt").write_bytes(b"caf\xe9")
    command = redirected("<latin1.txt")
    done = run_command("client", "Translate", home=home, command=command, WEBSIM_URL=websim_server.url)
    assert_fails_on_one_line(done, "standard input is not UTF-8 text (byte 3)")
    assert websim_server.requests == []


def test_web_page_without_markitdown_names_package(home, closed_url):
    done = run_without_package("markitdown", "client", closed_url, "What is this?", home=home)
    assert_fails_on_one_line(done, 'g4f needs markitdown to read web pages; run: pip install "markitdown[all]"')


@pytest.mark.parametrize("bind", ["127.0.0.1:abc", "8080", ":8080", "127.0.0.1:65536", "[::1]:8080"])
def test_malformed_bind_fails(bind, capsys):
    message = f"g4f-websim: --bind HOST:PORT, as in 127.0.0.1:8080, not {bind}\n"
    assert end(capsys, "api", "--bind", bind) == (2, "", message)


@pytest.mark.parametrize(("command", "port"), [("api", "abc"), ("api", "65536"), ("gui", "65536"), ("gui", "-1")])
def test_malformed_port_fails(command, port, capsys):
    message = f"g4f-websim: --port PORT, as in 8080, not {port}\n"
    assert end(capsys, "--offline", command, f"--port={port}") == (2, "", message)


@pytest.mark.parametrize(("command", "options"), [("api", "--bind or --port"), ("gui", "--host or --port")])
def test_used_port_of_server_fails(command, options, used_port, capsys):
    status, output, errors = end(capsys, "--offline", command, "--port", str(used_port))
    assert (status, output, len(errors.splitlines())) == (1, "", 1)
    assert os.strerror(errno.EADDRINUSE) in errors
    assert errors.endswith(f"; choose another {options}\n")


@pytest.mark.parametrize(("command", "package"), [("api", "uvicorn"), ("gui", "flask")])
def test_missing_package_is_named(home, command, package):
    done = run_without_package(package, "--offline", command, home=home)
    assert_fails_on_one_line(done, f'g4f needs {package} for this; run: pip install "g4f[api,gui]"')


# Errors and log messages


def test_rate_limit_fails_on_one_line(home, websim_server):
    websim_server.inject(LONG_RATE_LIMIT)
    done = run_command("client", "Hello", home=home, WEBSIM_URL=websim_server.url)
    assert_fails_on_one_line(done, "RateLimitError: ", "would wait 900 s", "max_wait")


def test_malformed_url_fails_on_one_line(home):
    assert_fails_on_one_line(run_command("client", "Hello", home=home, WEBSIM_URL="websim.com"), "WEBSIM_URL")


def test_terminal_shows_request_retry_and_queue(home, websim_server):
    websim_server.inject(BUSY)
    websim_server.inject(SHORT_RATE_LIMIT)
    done = run_on_terminal("client", "Hello", home=home, WEBSIM_URL=websim_server.url)
    shown, erased, log = done.stderr.split("\r", 2)
    assert shown == "g4f-websim: waiting for the response ..."
    assert erased == " " * len(shown)
    retry, queue = log.splitlines()
    assert re.match(r"g4f-websim: .*503.* before attempt 2 of 3", retry)
    assert re.match(r"g4f-websim: rate limit of 127.0.0.1:\d+: 1 call waits, .* sent in about 1 s", queue)
    assert done.stdout.strip() == REPLY


def test_debug_shows_retry_once_and_traceback(home, websim_server):
    websim_server.inject(BUSY)
    websim_server.inject(LONG_RATE_LIMIT)
    done = run_on_terminal("client", "--debug", "Hello", home=home, WEBSIM_URL=websim_server.url)
    assert done.stdout.count("before attempt 2 of 3") == 1
    assert "Traceback" in done.stderr
    assert "g4f-websim: " not in done.stderr


def test_redirected_stderr_shows_warnings_only(home, websim_server):
    websim_server.inject(BUSY)
    done = run_command("client", "Hello", home=home, command=WITH_WARNING, WEBSIM_URL=websim_server.url)
    assert (done.stdout, done.stderr) == (f"{REPLY}\n", "g4f-websim: something is odd\n")


@pytest.mark.parametrize("on_terminal", [True, False])
def test_control_characters_reach_pipes_only(home, websim_server, on_terminal):
    websim_server.reply("a\x1b]0;title\x07\x9b31m\tb\r\nc")
    screen, terminal = os.openpty()
    stdout = terminal if on_terminal else subprocess.PIPE
    done = run_command("client", "Hello", home=home, stdout=stdout, WEBSIM_URL=websim_server.url)
    output = read_terminal(screen, terminal) if on_terminal else done.stdout
    os.close(screen)
    os.close(terminal)
    expected = "a\N{REPLACEMENT CHARACTER}]0;title" + 2 * "\N{REPLACEMENT CHARACTER}" + "31m\tb\nc\n"
    # Python reads \r\n as \n from a pipe in text mode; a terminal ends every line with \r\n.
    assert output.replace("\r\n", "\n") == (expected if on_terminal else "a\x1b]0;title\x07\x9b31m\tb\nc\n")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
@pytest.mark.parametrize(
    ("command", "name"), [(SCRIPT, "g4f"), (SCRIPT, "g4f_websim.command.main"), (MODULE, "aiohttp")]
)
def test_ctrl_c_during_imports_prints_nothing(home, command, name):
    folder = home / "path"
    folder.mkdir()
    # Python imports this module when it starts. Ctrl-C arrives when the command begins to import `name`.
    folder.joinpath("sitecustomize.py").write_text(INTERRUPTS_IMPORT.replace("NAME", name))
    done = run_command("client", "Hello", home=home, command=command, PYTHONPATH=first_on_path(folder))
    assert (done.returncode, done.stdout, done.stderr) == (128 + signal.SIGINT, "", "")


@pytest.mark.parametrize("words", [("--offline", "client", "Hello"), ("emulator",), ("-h",)])
def test_closed_stdout_prints_no_traceback(home, words):
    reader, writer = os.pipe()
    os.close(reader)
    # Without a buffer, the error occurs in argparse, which ignores it, and the status is 0.
    done = run_command(*words, home=home, stdout=writer, PYTHONUNBUFFERED="")
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


# Without g4f's site


def test_server_and_its_workers_start_without_provider_list(home, websim_server):
    empty = home / "empty"
    # The command names the provider, even if a variable of g4f names another one.
    variables = {"WEBSIM_URL": websim_server.url, "G4F_CACHE_DIR": str(empty), "G4F_PROVIDER": "Nobody"}
    # As a user starts the server, without --disable-pa-auto-download.
    with server("api", "--bind", "localhost:0", "--disable-colors", "--workers", "2", home=home, **variables) as api:
        api.wait_for_output("Application startup complete", times=2)
        assert api.chat() == REPLY
        assert api.output.count(NO_PROVIDER_LIST) == 1
        assert "g4f-websim: everybody" not in api.output
        assert "Auto-download" not in api.output
    assert list(empty.rglob("providers.json")) == []
    assert list(home.joinpath("tmp").iterdir()) == []


def test_gui_help_needs_no_provider_list(home):
    done = run_command("gui", "--help", home=home, G4F_CACHE_DIR=str(home / "empty"))
    assert (done.returncode, done.stdout[:21]) == (0, "usage: g4f-websim gui")
    assert_fails_on_one_line(done, NO_PROVIDER_LIST, status=0)


def test_unknown_provider_fails_without_provider_list(home, websim_server):
    variables = {"WEBSIM_URL": websim_server.url, "G4F_CACHE_DIR": str(home / "empty")}
    done = run_command("client", "-p", "Typo", "Hello", home=home, **variables)
    missing_list, unknown_provider = done.stderr.splitlines()
    assert done.returncode == 1
    assert NO_PROVIDER_LIST in missing_list
    assert "Typo" in unknown_provider
    assert websim_server.requests == []


# Without any network


@cache
def isolate_network():
    """Return the words that start a command without any network but a loopback interface of its own."""
    for words in (("unshare", "--net"), ("unshare", "--net", "--map-root-user")):
        isolated = (*words, "sh", "-c", ISOLATED, "sh")
        if shutil.which("unshare"):
            done = subprocess.run([*isolated, "true"], capture_output=True, timeout=MAX_SECONDS)
            if done.returncode == 0:
                return isolated
    return pytest.skip("this machine cannot isolate a process from the network (unshare --net)")


def test_offline_client_and_server_need_no_network(home):
    program = (*isolate_network(), sys.executable, "-c", CHAT_WITH_CLIENT_AND_SERVER, str(home))
    done = run_command(command=program, home=home, PYTHONPATH=first_on_path(ROOT))
    assert (done.stdout, done.stderr) == (f"{REPLY}\n" * 2, "")
