"""What `g4f-websim check` advises if the API is not at the URL, and how it checks other sites."""

import pytest

from g4f_websim import Websim
from g4f_websim.emulator import Fault
from g4f_websim.wire.endpoints import CHAT_PATH
from tests.support.check import (
    FOREIGN_KEY,
    MARKER,
    SET_PROJECT,
    SET_PROXY,
    SET_URL,
    TOKEN,
    UPGRADE,
    USE_DEFAULT,
    page,
    redirect,
    refusal,
    replace_known_hosts,
)
from tests.support.loopback import HOST

# The API has moved


@pytest.mark.parametrize("fault", [refusal(404, "Not Found"), page(404, "Not found"), Fault(status=410)])
def test_advises_the_default_url_if_the_api_is_not_at_the_configured_url(websim_server, run_check, fault):
    websim_server.inject(fault, times=2)
    result = run_check()
    assert result.cause.startswith("The API is not at this URL. Response 4")
    assert result.to_paste == [USE_DEFAULT, SET_URL]
    assert "WEBSIM_URL is not the default, https://websim.com." in result.advice
    assert len(websim_server.requests) == 2


def test_advises_to_remove_the_path_from_the_url(websim_server, run_check, monkeypatch):
    monkeypatch.setattr(Websim, "url", f"{websim_server.url}/api/v1")
    result = run_check()
    assert result.advice == "Remove the path /api/v1 from WEBSIM_URL:"
    assert result.to_paste == [f"export WEBSIM_URL={websim_server.url}"]


def test_advises_to_check_the_host_of_a_redirect(websim_server, run_check):
    websim_server.inject(redirect(f"https://websim.example/api?token={MARKER}"), times=2)
    result = run_check("--report")
    assert "A redirect to https://websim.example/api, which was not followed." in result.cause
    assert "If you trust it as a new host of Websim, check it:" in result.advice
    assert result.to_paste == [
        "g4f-websim check --also https://websim.example",
        "export WEBSIM_URL=https://websim.example",
    ]


def test_advises_https_after_a_redirect_to_https(websim_server, run_check):
    https = websim_server.url.replace("http:", "https:")
    websim_server.inject(redirect(https + CHAT_PATH), times=2)
    assert f"export WEBSIM_URL={https}" in run_check().to_paste


def test_advises_an_upgrade_after_a_redirect_to_another_path(websim_server, run_check):
    websim_server.inject(redirect("/api/v2"), times=2)
    assert run_check().to_paste == [USE_DEFAULT, *UPGRADE, SET_URL]


@pytest.mark.parametrize(
    "location",
    [
        *("https://a$(touch${IFS}pwned).example/", "https://;reboot", f"https://{FOREIGN_KEY}.example/"),
        *("//[", "https://", "https://websim.example:99999/", "https://websim.example:0/"),
    ],
)
def test_does_not_propose_a_malicious_or_malformed_target_of_a_redirect(
    websim_server, run_check, monkeypatch, location
):
    monkeypatch.setenv("WEBSIM_API_KEY", FOREIGN_KEY)
    websim_server.inject(redirect(location), times=2)
    assert run_check().to_paste == [USE_DEFAULT, SET_URL]


def test_names_a_captive_portal(websim_server, run_check):
    websim_server.inject(page(200, "Hotel Wi-Fi"), times=2)
    result = run_check()
    assert result.cause.startswith("Something other than the API responded. Response 200 from ")
    assert "Hotel Wi-Fi" in result.cause
    assert result.advice.startswith(
        f"A captive portal or a proxy may have responded. Open {websim_server.url} in a browser. "
        "If your network shows a login page, log in. Then check again:"
    )
    assert result.to_paste == ["g4f-websim check", USE_DEFAULT, SET_URL]


# The other host of Websim


def test_advises_the_other_host_of_websim_if_it_works(websim_server, other_server, known_hosts, run_check):
    websim_server.inject(refusal(404, "Not Found"), times=2)
    result = run_check()
    host = other_server.url.removeprefix("http://")
    assert result.status == 1
    assert result.requests[2:] == [f"chat   200  {host}: ok"]
    assert result.advice == f"Use {other_server.url}, which responds:"
    assert result.to_paste == [f"export WEBSIM_URL={other_server.url}"]
    assert [len(websim_server.requests), len(other_server.requests)] == [2, 1]


def test_advises_the_default_host_if_it_works(websim_server, other_server, known_hosts, run_check, monkeypatch):
    monkeypatch.setattr(Websim, "url", other_server.url)
    other_server.inject(Fault(status=503), times=2)
    result = run_check()
    assert result.advice == f"Use the default, {websim_server.url}, which responds:"
    assert result.to_paste == [USE_DEFAULT]


def test_advises_an_upgrade_if_neither_host_of_websim_has_the_api(websim_server, other_server, known_hosts, run_check):
    for emulator in (websim_server, other_server):
        emulator.inject(refusal(404, "Not Found"), times=2)
    result = run_check()
    assert result.to_paste == [*UPGRADE, SET_URL]
    assert [len(websim_server.requests), len(other_server.requests)] == [2, 1]


def test_explains_the_refusal_of_the_host_that_was_reached(websim_server, other_server, known_hosts, run_check):
    websim_server.inject(page(403, "Just a moment...", **{"cf-mitigated": "challenge"}), times=2)
    other_server.inject(refusal(404, "Project not found"))
    result = run_check()
    assert result.cause.startswith(f"Websim refused the project id. Response 404 from {other_server.url[7:]}")
    assert result.to_paste == [f"export WEBSIM_URL={other_server.url}", SET_PROJECT]


def test_advises_a_proxy_if_no_host_of_websim_is_reached(run_check, monkeypatch, closed_port):
    url = f"http://{HOST}:{closed_port}"
    replace_known_hosts(monkeypatch, url, f"http://localhost:{closed_port}")
    monkeypatch.setattr(Websim, "url", url)
    result = run_check()
    assert [line.split()[1] for line in result.requests] == ["-", "-", "-"]
    assert result.advice.startswith(f"Open {url} in a browser, to see whether this machine reaches")
    assert result.to_paste == [SET_PROXY]


# The sites of --also


def test_sends_requests_to_the_sites_of_also_until_one_works(websim_server, other_server, run_check, closed_port):
    websim_server.inject(Fault(status=404), times=2)
    closed = f"{HOST}:{closed_port}"
    result = run_check(
        "--also", f"http://{closed}", "--also", f"{other_server.url}/", "--also", f"http://{closed}/late"
    )
    assert result.requests[2:] == [
        f"chat   -  {closed}: no connection",
        f"chat   200  {other_server.url.removeprefix('http://')}: ok",
    ]
    assert result.to_paste == [f"export WEBSIM_URL={other_server.url}"]


def test_does_not_send_the_token_to_the_sites_of_also(websim_server, other_server, run_check, monkeypatch):
    monkeypatch.setenv("WEBSIM_API_KEY", TOKEN)
    websim_server.inject(Fault(status=404), times=2)
    result = run_check("--also", other_server.url)
    assert [request.header("authorization") for request in other_server.requests] == [None]
    assert result.advice == f"Use {other_server.url}, which responds. It will receive your login token:"


def test_sends_one_request_to_each_different_site_of_also(websim_server, other_server, run_check):
    websim_server.inject(Fault(status=404), times=2)
    other_server.inject(Fault(status=404))
    run_check("--also", websim_server.url, "--also", other_server.url, "--also", other_server.url)
    assert [len(websim_server.requests), len(other_server.requests)] == [2, 1]
