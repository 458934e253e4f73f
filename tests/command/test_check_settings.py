"""How `g4f-websim check` corrects malformed settings, before it sends anything."""

import subprocess
from collections.abc import Callable

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from g4f_websim import Websim
from g4f_websim.command import probe
from g4f_websim.transport.causes import Step
from g4f_websim.transport.target import Target
from g4f_websim.wire.bodies import check_project_id
from tests.support.check import FOREIGN_KEY, MARKER, SET_PROJECT, SET_PROXY, TOKEN, USE_DEFAULT, run_in_shell
from tests.support.limits import MAX_SECONDS


@pytest.mark.parametrize(
    ("url", "shown", "corrected"),
    [
        ("websim.example", "websim.example", "https://websim.example"),
        ("localhost:8765/", "localhost:8765", "http://localhost:8765"),
        (f"htps://user:{MARKER}@websim.example", "htps://websim.example", "https://websim.example"),
    ],
)
def test_corrects_url(run_check, monkeypatch, url, shown, corrected):
    monkeypatch.setattr(Websim, "url", url)
    result = run_check()
    assert result.status == 1
    assert "\n\nNothing was sent, because a setting is malformed.\nWEBSIM_URL: a URL like " in result.text
    assert result.to_paste == [f"export WEBSIM_URL={corrected}", USE_DEFAULT]
    assert result.requests == []


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("websim.com", "websim.com"),
        ("https://", "https:"),
        ("http://localhost:99999", "http://localhost:99999"),
        ("websim.com;$(reboot)", "websim.com;$(reboot)"),
        (TOKEN, "***"),
        (f"{TOKEN}, not a URL", "***, not a URL"),
        ("https://a.example?b", "https://a.example?b"),
        (FOREIGN_KEY, "***"),
        (f"{FOREIGN_KEY}.example", "***.example"),
    ],
)
def test_proposes_default_url_if_the_url_cannot_be_corrected(run_check, monkeypatch, url, shown):
    monkeypatch.setattr(Websim, "url", url)
    monkeypatch.setenv("WEBSIM_API_KEY", FOREIGN_KEY)
    result = run_check()
    assert result.advice == "Use the default, https://websim.com:"
    assert result.to_paste == [USE_DEFAULT]


def test_rejects_a_malformed_project_id(websim_server, run_check, monkeypatch):
    monkeypatch.setenv("WEBSIM_PROJECT_ID", "my project")
    result = run_check()
    assert result.status == 1
    assert "WEBSIM_PROJECT_ID: 1 to 64 of A-Z a-z 0-9 _ -" in result.text
    assert result.to_paste == [SET_PROJECT, "unset WEBSIM_PROJECT_ID"]
    assert not websim_server.requests


def test_says_where_to_find_the_id_if_a_project_url_does_not_contain_it(websim_server, run_check, monkeypatch):
    monkeypatch.setenv("WEBSIM_PROJECT_ID", "https://websim.com/@ann/my-game")
    result = run_check()
    assert "does not contain the id. See https://websim.com/api/v1/users/ann/slugs/my-game," in result.advice
    assert not websim_server.requests


def test_does_not_show_a_token_in_the_wrong_variable(websim_server, run_check, monkeypatch):
    monkeypatch.setenv("WEBSIM_PROJECT_ID", TOKEN)
    assert "WEBSIM_PROJECT_ID: 1 to 64 of" in run_check().text


@pytest.mark.parametrize(
    ("proxy", "shown"),
    [
        (f"user:{MARKER}@127.0.0.1:3128", "127.0.0.1:3128"),
        (f"htp://user:{MARKER}@127.0.0.1:3128", "htp://127.0.0.1:3128"),
        ("127.0.0.1:3128", "127.0.0.1:3128"),
    ],
)
def test_corrects_the_scheme_of_a_proxy(websim_server, run_check, monkeypatch, proxy, shown):
    monkeypatch.setenv("G4F_PROXY", proxy)
    result = run_check()
    assert "G4F_PROXY: a URL like http://user:password@host:3128 with" in result.text
    assert result.to_paste[1:] == ["unset G4F_PROXY"]
    assert run_in_shell(result.to_paste[0], "G4F_PROXY") == f"http://{proxy.removeprefix('htp://')}"
    assert not websim_server.requests


@pytest.mark.parametrize("proxy", ["http://127.0.0.1:99999", "http:/127.0.0.1:3128", "ftp://127.0.0.1:0", "x"])
def test_proposes_a_template_if_a_proxy_cannot_be_corrected(websim_server, run_check, monkeypatch, proxy):
    monkeypatch.setenv("G4F_PROXY", proxy)
    assert run_check().to_paste == [SET_PROXY, "unset G4F_PROXY"]


def test_corrects_the_url_of_also(websim_server, run_check):
    result = run_check("--also", "websim.example")
    assert result.status == 1
    expected = "a URL like https://websim.com with the scheme http or https and a valid host and port"
    assert f"--also: {expected} What to do:" in " ".join(result.text.split())
    assert result.to_paste == ["g4f-websim check --also https://websim.example"]
    assert not websim_server.requests


def test_proposes_the_other_host_of_websim_if_the_url_of_also_cannot_be_corrected(websim_server, run_check):
    assert run_check("--also", "http://localhost:99999").to_paste == ["g4f-websim check --also https://api.websim.com"]


# Every proposed setting is accepted


properties = settings(max_examples=100, derandomize=True, database=None, deadline=None)

# Malformed URLs are made of these parts.
PARTS = [
    *("http", "https", "htp", ":", "//", "://", "localhost", "127.0.0.1", "websim.com", "a", "[::1]", "\u00e9"),
    *(":8080", ":99999", ":0", "ann:pass@", "@", "/", "/p", "/p/", "?b", "#c", ".", "-"),
    *(" ", "\n", "%41", "$(id)", "'", '"'),
]
URLS = st.lists(st.sampled_from(PARTS), max_size=6).map("".join)


def is_accepted(check_value: Callable[[str], object], value: str) -> bool:
    try:
        check_value(value)
    except ValueError:
        return False
    return True


def pasted_values(steps: list[Step], name: str, value: str) -> list[str]:
    """Return the values that a variable has after each line to paste; placeholders such as <host> are filled in."""
    lines = [line for step in steps for line in step.lines]
    for placeholder, filled in {"<host>": "proxy.example", "<port>": "3128", "<id>": "mine"}.items():
        lines = [line.replace(placeholder, filled) for line in lines]
    script = "\n".join(f"({line}\nprintf '%s\\0' \"${name}\")" for line in lines)
    output = subprocess.check_output(["sh", "-c", script], text=True, env={name: value}, timeout=MAX_SECONDS)
    return output.split("\0")[:-1]


@properties
@given(url=URLS)
@example(url="http://localhost:99999")
def test_every_proposed_url_is_accepted(url):
    assume(not is_accepted(Target, url))
    for value in pasted_values(probe.steps_for_url(url, ""), "WEBSIM_URL", url):
        assert value == "" or is_accepted(Target, value)
    for step in probe.steps_for_also(url, ""):
        assert all(is_accepted(Target, line.removeprefix("g4f-websim check --also ")) for line in step.lines)


@properties
@given(proxy=URLS)
@example(proxy="http://127.0.0.1:99999")
def test_every_proposed_proxy_is_accepted(proxy):
    def check_proxy(url: str) -> Target:
        return Target("https://websim.com", proxy=url)

    assume(not is_accepted(check_proxy, proxy))
    for value in pasted_values(probe.steps_for_proxy(proxy), "G4F_PROXY", proxy):
        assert is_accepted(check_proxy, value)


@properties
@given(project_id=URLS)
def test_every_proposed_project_id_is_accepted(project_id):
    assume(not is_accepted(check_project_id, project_id))
    for value in pasted_values(probe.steps_for_project(project_id), "WEBSIM_PROJECT_ID", project_id):
        assert value == "" or is_accepted(check_project_id, value)
