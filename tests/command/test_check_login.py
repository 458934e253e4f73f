"""What `g4f-websim check` says about the login token, and what it advises if login is needed."""

import json
from collections.abc import Callable

import pytest

from g4f_websim.emulator import Fault
from tests.support.calls import make_token
from tests.support.check import (
    COPY_TOKEN,
    EMAIL,
    EXPIRED_TOKEN,
    FOREIGN_KEY,
    LOG_IN,
    MARKER,
    STORED_TOKEN,
    TOKEN,
    redirect,
    refusal,
    run_in_shell,
)


@pytest.mark.parametrize(
    ("key", "shown"),
    [
        (EXPIRED_TOKEN, "a token that expired on 2023-11-14 22:13 UTC"),
        (make_token(sub=MARKER), "a token without an expiry date"),
        (FOREIGN_KEY, "none (WEBSIM_API_KEY is not a Websim token, so it is not sent)"),
    ],
)
def test_describes_login(websim_server, run_check, monkeypatch, key, shown):
    monkeypatch.setenv("WEBSIM_API_KEY", key)
    assert run_check().lines[3] == f"login    {shown}"


def test_advises_to_log_in(websim_server, run_check):
    websim_server.inject(refusal(401, f"no user {EMAIL}"), times=2)
    result = run_check()
    assert result.cause.startswith("Login needed. Response 401 from ")
    assert result.to_paste == LOG_IN
    assert "the value of authToken in ~/.websim-cli.json" in result.advice


def test_says_when_the_token_expired(websim_server, run_check, monkeypatch):
    monkeypatch.setenv("WEBSIM_API_KEY", EXPIRED_TOKEN)
    websim_server.inject(refusal(401, f"{EXPIRED_TOKEN} expired"), times=2)
    result = run_check()
    assert result.cause.startswith("The login token expired on 2023-11-14 22:13 UTC. Response 401 ")
    assert result.to_paste == LOG_IN


def test_advises_a_new_login_or_another_network_if_the_token_is_refused(websim_server, run_check, monkeypatch):
    monkeypatch.setenv("WEBSIM_API_KEY", TOKEN)
    websim_server.inject(refusal(403, "forbidden"), times=2)
    result = run_check()
    assert result.cause.startswith("Websim refused the login token.")
    assert result.to_paste == LOG_IN
    assert result.advice.endswith("Or try from another network.")


def test_does_not_send_the_key_of_another_service(websim_server, run_check, monkeypatch):
    monkeypatch.setenv("WEBSIM_API_KEY", FOREIGN_KEY)
    websim_server.inject(refusal(401, f"not {FOREIGN_KEY}"), times=2)
    result = run_check("--report")
    assert result.cause.startswith("Login needed.")
    assert result.to_paste == LOG_IN
    assert [request.header("authorization") for request in websim_server.requests] == [None, None]


def test_advises_to_log_in_if_the_site_redirects_to_its_login_page(websim_server, run_check):
    websim_server.inject(redirect(f"/login?token={MARKER}"), times=2)
    result = run_check("--report")
    assert f"A redirect to {websim_server.url}/login, a login page, which was not followed." in result.cause
    assert result.to_paste == LOG_IN


def test_names_the_login_page_of_the_network(websim_server, run_check):
    websim_server.inject(redirect(f"http://portal.example/login#{MARKER}"), times=2)
    result = run_check("--report")
    assert "A redirect to http://portal.example/login, a login page" in result.cause
    assert result.advice.startswith(
        "If http://portal.example is the login page of your network, open it in a browser and log in. Log in with"
    )


# The token that websim-cli stored


@pytest.fixture
def store_token(tmp_path, monkeypatch) -> Callable[[str], None]:
    """A function that writes the file in which websim-cli keeps its token, in an empty home folder."""
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))

    def write(content: str) -> None:
        tmp_path.joinpath(".websim-cli.json").write_text(content)

    return write


def test_offers_the_stored_token_but_does_not_send_it(websim_server, run_check, store_token):
    store_token(json.dumps({"authToken": STORED_TOKEN}))
    result = run_check()
    assert result.status == 0
    assert result.text.endswith(
        f"\n\n~/.websim-cli.json has a login token, which was not sent. To use it:\n    {COPY_TOKEN}\n"
    )
    assert [request.header("authorization") for request in websim_server.requests] == [None, None]


@pytest.mark.parametrize("key", ["", FOREIGN_KEY, EXPIRED_TOKEN])
def test_advises_to_log_in_with_the_stored_token(websim_server, run_check, store_token, monkeypatch, key):
    monkeypatch.setenv("WEBSIM_API_KEY", key)
    store_token(json.dumps({"authToken": STORED_TOKEN}))
    websim_server.inject(Fault(status=401), times=2)
    result = run_check()
    assert result.to_paste == [COPY_TOKEN]
    assert result.advice == "Log in with the token that websim-cli stored in ~/.websim-cli.json:"
    assert result.text.count(COPY_TOKEN) == 1


@pytest.mark.parametrize("key", ["", EXPIRED_TOKEN])
def test_does_not_offer_an_expired_stored_token(websim_server, run_check, store_token, monkeypatch, key):
    monkeypatch.setenv("WEBSIM_API_KEY", key)
    store_token(json.dumps({"authToken": EXPIRED_TOKEN}))
    assert "websim-cli" not in run_check().text
    websim_server.inject(Fault(status=401), times=2)
    assert run_check().to_paste == LOG_IN


@pytest.mark.parametrize("content", ["", "{}", "[]", "null", '{"authToken": 1}', '{"authToken": "x"}', "[" * 100_000])
def test_ignores_file_without_token(websim_server, run_check, store_token, content):
    store_token(content)
    result = run_check()
    assert result.status == 0
    assert "websim-cli" not in result.text


@pytest.mark.parametrize("layout", [{"indent": 2}, {"separators": (",", ":")}, {"separators": (", ", " : ")}])
def test_pasted_line_sets_the_stored_token(store_token, layout):
    store_token(json.dumps({"user": "x", "authToken": STORED_TOKEN, "created": "y"}, **layout))
    assert run_in_shell(COPY_TOKEN, "WEBSIM_API_KEY") == STORED_TOKEN
