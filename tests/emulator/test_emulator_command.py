"""The options of `g4f-websim emulator`."""

from select import select

import httpx
import pytest

from g4f_websim.emulator import Emulator
from g4f_websim.emulator.command import serve
from g4f_websim.wire.endpoints import CHAT_PATH
from tests.support.calls import CHAT, send_chat
from tests.support.limits import MAX_SECONDS
from tests.support.processes import make_home, server


def chat(emulator):
    return httpx.post(emulator.url + CHAT_PATH, json=CHAT)


def test_limits_rate(tmp_path):
    with server("emulator", "--limit", "1/1m", "--no-retry-after", home=make_home(tmp_path)) as emulator:
        accepted, refused = chat(emulator), chat(emulator)
    assert (accepted.status_code, refused.status_code) == (200, 429)
    assert "Retry-After" not in refused.headers


def test_limits_requests_at_same_time(tmp_path):
    argv = ("emulator", "--max-in-flight", "1", "--delay", "600")
    with (
        server(*argv, home=make_home(tmp_path)) as emulator,
        send_chat(emulator.url) as first,
        send_chat(emulator.url) as second,
    ):
        (refused,), _, _ = select([first, second], [], [], MAX_SECONDS)
        head = refused.recv(1000)
    assert head.startswith(b"HTTP/1.1 429 ")
    assert b"\r\nRetry-After: 1\r\n" in head


def test_replies_in_turn_after_failures(tmp_path):
    argv = ("--reply", "first", "--reply", "second", "--fail", "503:2", "--fail", "402:1")
    with server("emulator", *argv, home=make_home(tmp_path)) as emulator:
        responses = [chat(emulator) for _ in range(6)]
    assert [response.status_code for response in responses] == [503, 503, 402, 200, 200, 200]
    assert [response.json()["content"] for response in responses[3:]] == ["first", "second", "first"]


def test_fails_every_request_and_prints_a_line_for_each_without_headers_and_body(tmp_path):
    with server("emulator", "--fail", "503", home=make_home(tmp_path)) as emulator:
        httpx.post(emulator.url + CHAT_PATH, json=CHAT, headers={"Authorization": "Bearer secret"})
        chat(emulator)
        httpx.get(emulator.url + "/missing")
        lines = emulator.wait_for_output(r"(?m)^\[.+\] (.+)$", times=3)
    assert lines == [*[f'"POST {CHAT_PATH} HTTP/1.1" 503'] * 2, '"GET /missing HTTP/1.1" 404']


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--limit", "10"], "argument --limit: a limit is REQUESTS/PERIOD, such as 10/10s or 100/1m, not '10'"),
        (["--max-in-flight", "four"], "argument --max-in-flight: invalid int value: 'four'"),
        (["--delay", "soon"], "argument --delay: invalid float value: 'soon'"),
        (["--port", "65536"], "argument --port: expected a number from 0 to 65535, not '65536'"),
        (["--port", "http"], "argument --port: expected a number from 0 to 65535, not 'http'"),
        (["--fail", "200"], "argument --fail: expected the status of an error, as in 503 or 503:2, not '200'"),
        (["--fail", "503:x"], "argument --fail: expected the status of an error, as in 503 or 503:2, not '503:x'"),
    ],
)
def test_names_malformed_argument(argv, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        serve(argv)
    assert message in capsys.readouterr().err


def test_names_port_in_use(capsys):
    with Emulator() as emulator:
        assert serve(["--port", emulator.url.rpartition(":")[2]]) == 1
    assert capsys.readouterr().err.strip().endswith("; choose another --port")
