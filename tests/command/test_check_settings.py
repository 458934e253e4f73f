"""How `g4f-websim check` corrects malformed settings, before it sends anything and without showing them."""

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

URL_FORM = "a URL like https://websim.com with the scheme http or https and a valid host and port"
PROXY_FORM = "a URL like http://user:password@host:3128 with the scheme http, https, socks4, socks5 or socks5h"
PROJECT_FORM = "1 to 64 of A-Z a-z 0-9 _ -"
NO_PROXY = "unset G4F_PROXY"
USE_HTTP_PROXY = 'export G4F_PROXY="http://${G4F_PROXY#*://}"'

# Each row: value of WEBSIM_URL, the URL that is proposed beside the default, if any.
URLS = [
    ("websim.example", "https://websim.example"),
    ("localhost:8765/", "http://localhost:8765"),
    (f"htps://user:{MARKER}@websim.example", "https://websim.example"),
    *((url, None) for url in ("websim.com", "https://", "http://localhost:99999", "websim.com;$(reboot)")),
    *(
        (url, None)
        for url in (TOKEN, f"{TOKEN}, not a URL", "https://a.example?b", FOREIGN_KEY, f"{FOREIGN_KEY}.example")
    ),
    *((url, None) for url in (f"websim.example:443:ann:{MARKER}", f"http://websim.example:443@ann:{MARKER}")),
    ("htp://websim.example:443@ann:4711", None),
]
# Each row: variable, value, the form that is named, lines to paste.
OTHERS = [
    ("WEBSIM_PROJECT_ID", "my project", PROJECT_FORM, [SET_PROJECT, "unset WEBSIM_PROJECT_ID"]),
    ("WEBSIM_PROJECT_ID", TOKEN, PROJECT_FORM, [SET_PROJECT, "unset WEBSIM_PROJECT_ID"]),
    (
        "G4F_PROXY",
        "socks5://a.example",
        "the URL of a SOCKS proxy",
        ["export G4F_PROXY=socks5://<host>:<port>", NO_PROXY],
    ),
    *(
        ("G4F_PROXY", f"{scheme}{login}127.0.0.1:3128", PROXY_FORM, [USE_HTTP_PROXY, NO_PROXY])
        for scheme in ("", "htp://")
        for login in ("", f"user:{MARKER}@")
    ),
    *(
        ("G4F_PROXY", proxy, PROXY_FORM, [SET_PROXY, NO_PROXY])
        for proxy in (
            "http://127.0.0.1:99999",
            "http:/127.0.0.1:3128",
            "ftp://127.0.0.1:0",
            "x",
            f"a.example:80:u:{MARKER}",
        )
    ),
]


@pytest.mark.parametrize(("url", "corrected"), URLS)
def test_corrects_url_or_proposes_the_default(run_check, monkeypatch, url, corrected):
    monkeypatch.setattr(Websim, "url", url)
    monkeypatch.setenv("WEBSIM_API_KEY", FOREIGN_KEY)
    result = run_check()
    assert (result.status, result.requests) == (1, [])
    assert f"Nothing was sent, because a setting is malformed. WEBSIM_URL: {URL_FORM} " in " ".join(result.text.split())
    assert "the default, https://websim.com:" in result.advice
    assert "4711" not in result.text
    assert result.to_paste == ([f"export WEBSIM_URL={corrected}"] if corrected else []) + [USE_DEFAULT]


@pytest.mark.parametrize(
    ("url", "corrected"), [("websim.example", "websim.example"), ("http://a:99999", "api.websim.com")]
)
def test_corrects_url_of_also(websim_server, run_check, url, corrected):
    result = run_check("--also", url)
    assert result.status == 1
    assert f"--also: {URL_FORM} " in " ".join(result.text.split())
    assert result.to_paste == [f"g4f-websim check --also https://{corrected}"]
    assert not websim_server.requests


@pytest.mark.parametrize(("name", "value", "form", "lines"), OTHERS)
def test_proposes_lines_for_malformed_setting(websim_server, run_check, monkeypatch, name, value, form, lines):
    monkeypatch.setenv(name, value)
    result = run_check()
    assert result.status == 1
    assert f"{name}: {form}" in " ".join(result.text.split())
    assert result.to_paste == lines
    assert not websim_server.requests


def test_line_to_paste_replaces_the_scheme_of_a_proxy(monkeypatch):
    monkeypatch.setenv("G4F_PROXY", "htp://user:pass@127.0.0.1:3128")
    assert run_in_shell(USE_HTTP_PROXY, "G4F_PROXY") == "http://user:pass@127.0.0.1:3128"


def test_says_where_to_find_the_id_if_a_project_url_does_not_contain_it(websim_server, run_check, monkeypatch):
    monkeypatch.setenv("WEBSIM_PROJECT_ID", "https://websim.com/@ann/my-game")
    result = run_check()
    assert "does not contain the id. See https://websim.com/api/v1/users/ann/slugs/my-game," in result.advice
    assert not websim_server.requests


# Every proposed setting is accepted


properties = settings(max_examples=100, derandomize=True, database=None, deadline=None)

# Malformed URLs are made of these parts.
PARTS = [
    *("http", "https", "htp", ":", "//", "://", "localhost", "127.0.0.1", "websim.com", "a", "[::1]", "\u00e9"),
    *(":8080", ":99999", ":0", "ann:pass@", "@", "/", "/p", "/p/", "?b", "#c", ".", "-"),
    *(" ", "\n", "%41", "$(id)", "'", '"'),
]


def is_accepted(check_value: Callable[[str], object], value: str) -> bool:
    try:
        check_value(value)
    except ValueError:
        return False
    return True


def pasted_values(steps: list[Step], name: str, value: str) -> list[str]:
    """Return the values that a variable has after each line to paste; placeholders such as <host> are filled in."""
    lines = [line.replace("g4f-websim check --also ", f"export {name}=") for step in steps for line in step.lines]
    for placeholder, filled in {"<host>": "proxy.example", "<port>": "3128", "<id>": "mine"}.items():
        lines = [line.replace(placeholder, filled) for line in lines]
    script = "\n".join(f"({line}\nprintf '%s\\0' \"${name}\")" for line in lines)
    output = subprocess.check_output(["sh", "-c", script], text=True, env={name: value}, timeout=MAX_SECONDS)
    return output.split("\0")[:-1]


def check_proxy(url: str) -> Target:
    return Target("https://websim.com", proxy=url)


@properties
@given(value=st.lists(st.sampled_from(PARTS), max_size=6).map("".join))
@example(value="http://localhost:99999")
@pytest.mark.parametrize(
    ("check_value", "propose", "name"),
    [
        (Target, lambda url: probe.steps_for_url(url, "") + probe.steps_for_also(url, ""), "WEBSIM_URL"),
        (check_proxy, probe.steps_for_proxy, "G4F_PROXY"),
        (check_project_id, probe.steps_for_project, "WEBSIM_PROJECT_ID"),
    ],
)
def test_every_proposed_setting_is_accepted(check_value, propose, name, value):
    assume(not is_accepted(check_value, value))
    for proposed in pasted_values(propose(value), name, value):
        # An unset variable is empty.
        assert proposed == "" or is_accepted(check_value, proposed)
