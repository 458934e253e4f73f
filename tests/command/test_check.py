"""What `g4f-websim check` sends and shows: one request to each endpoint, the settings, and which endpoints work."""

import re

from g4f_websim import Websim
from g4f_websim.command import check
from g4f_websim.wire.endpoints import CHAT_PATH, IMAGE_PATH
from tests.support.check import MARKER, TOKEN, UPGRADE, refusal
from tests.support.raw_server import Step, http_response, raw_server_in_thread


def test_sends_one_request_to_each_endpoint_that_works(websim_server, other_server, run_check):
    result = run_check("--also", other_server.url)
    assert result.status == 0
    assert result.requests == ["chat   200  ok", "image  200  ok"]
    assert [request.path for request in websim_server.requests] == [CHAT_PATH, IMAGE_PATH]
    assert not other_server.requests


def test_shows_versions_and_settings(websim_server, run_check):
    result = run_check()
    assert re.match(r"g4f-websim \S+, g4f \S+, aiohttp \S+, Python 3\.\S+, \w+ \w+\n", result.text)
    assert result.lines[1:6] == [
        f"site     {websim_server.url}",
        "project  random (WEBSIM_PROJECT_ID is not set)",
        "login    none (WEBSIM_API_KEY is not set)",
        "proxy    none (G4F_PROXY is not set)",
        "",
    ]


def test_sends_configured_project_id_and_token(websim_server, run_check, monkeypatch):
    monkeypatch.setenv("WEBSIM_PROJECT_ID", "https://websim.com/p/ke3_xh5gai3gjkmruomu")
    monkeypatch.setenv("WEBSIM_API_KEY", TOKEN)
    result = run_check()
    assert result.lines[2:4] == [
        "project  ke3_xh5gai3gjkmruomu",
        "login    a token that expires on 2096-10-02 07:06 UTC",
    ]
    assert {request.json["project_id"] for request in websim_server.requests} == {"ke3_xh5gai3gjkmruomu"}
    assert {request.header("authorization") for request in websim_server.requests} == {f"Bearer {TOKEN}"}


def test_sends_random_project_ids_of_both_forms(websim_server, run_check):
    run_check()
    chat, image = (request.json["project_id"] for request in websim_server.requests)
    assert re.fullmatch("[a-z0-9]{3}_[a-z0-9]{16}", chat)
    assert re.fullmatch("[a-z0-9]{7}_[a-z0-9]{12}", image)


def test_sends_requests_through_the_proxy(websim_server, other_server, run_check, monkeypatch):
    monkeypatch.setattr(Websim, "url", "http://websim.example")
    monkeypatch.setenv("G4F_PROXY", other_server.url.replace("//", f"//user:{MARKER}@"))
    result = run_check()
    assert result.status == 0
    assert result.lines[4] == f"proxy    {other_server.url}"
    assert len(other_server.requests) == 2


def test_url_with_upper_case_scheme_has_no_user_and_password(websim_server, run_check, monkeypatch):
    monkeypatch.setattr(Websim, "url", websim_server.url.replace("http", "HTTP"))
    assert "user and password" not in run_check().text


def test_opens_a_connection_for_each_request(run_check, monkeypatch):
    monkeypatch.setattr(check, "TIMEOUT", 5)
    chat = http_response(b'{"content": "Hello"}').replace(b"close", b"keep-alive")
    image = http_response(b'{"url": "https://websim.example/cat.png"}')
    # The server reads nothing more from the first connection. On a reused one, a request may be sent twice.
    with raw_server_in_thread([chat, Step.STALL], [image]) as server:
        monkeypatch.setattr(Websim, "url", server.url)
        assert run_check().status == 0
        assert len(server.requests) == 2


def test_sends_nothing_more_after_a_rate_limit(websim_server, known_hosts, other_server, run_check, monkeypatch):
    monkeypatch.setenv("WEBSIM_API_KEY", TOKEN)
    websim_server.inject(refusal(429, "Rate limit exceeded", retry_after="30"), times=2)
    result = run_check()
    assert result.cause.startswith("Too many requests. Response 429 from ")
    assert result.advice == "Wait 30 s, log in, or use another provider. Then check again:"
    assert result.to_paste == ["g4f-websim check"]
    assert not other_server.requests


def test_sends_at_most_eight_requests(websim_server, other_server, run_check, monkeypatch):
    monkeypatch.setenv("WEBSIM_PROJECT_ID", "mine")
    websim_server.inject(refusal(404, "no such project"), times=8)
    sites = [part for number in range(9) for part in ("--also", f"{other_server.url}/{number}")]
    result = run_check(*sites)
    assert len(result.requests) == 8
    assert len(websim_server.requests) == 3


# One endpoint only


def test_says_that_only_chat_works(websim_server, other_server, run_check):
    websim_server.reply("Hello")
    websim_server.inject(refusal(500, "no GPU"))
    result = run_check("--also", other_server.url)
    assert result.status == 1
    assert "\n\nChat works, images do not.\nCause: The server failed.\n" in result.text
    assert not other_server.requests


def test_says_that_only_images_work(websim_server, run_check):
    websim_server.inject(refusal(500, "no model"))
    result = run_check()
    assert result.status == 1
    assert "\n\nImages work, chat does not.\nCause: The server failed.\n" in result.text


def test_advises_an_upgrade_if_only_one_endpoint_has_moved(websim_server, run_check):
    websim_server.reply("Hello")
    websim_server.inject(refusal(404, "Not Found"))
    assert run_check().to_paste == UPGRADE
