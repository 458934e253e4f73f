"""What `g4f-websim check` advises if Websim refuses the project or the request."""

import pytest

from g4f_websim.emulator import Fault
from tests.support.check import EMAIL, LOG_IN, SET_PROJECT, SET_PROXY, UPGRADE, json_fault, page, refusal

# The project


def test_advises_a_project_of_your_own_if_a_random_one_is_refused(websim_server, run_check):
    websim_server.inject(refusal(404, "Project not found"), times=2)
    result = run_check()
    assert result.status == 1
    assert result.requests == ["chat   404  Websim refused the project id", "image  404  Websim refused the project id"]
    assert result.cause.startswith("Websim refused the project id. Response 404 from 127.0.0.1:")
    assert result.cause.endswith(': {"error": "Project not found"}')
    assert result.advice == (
        "Open a project of your own on https://websim.com, and set its id, the last part of websim.com/p/<id>:"
    )
    assert result.to_paste == [SET_PROJECT]
    assert len(websim_server.requests) == 2


def test_advises_random_projects_if_only_the_configured_one_is_refused(websim_server, run_check, monkeypatch):
    monkeypatch.setenv("WEBSIM_PROJECT_ID", "mine")
    websim_server.inject(refusal(400, "invalid project_id"), times=2)
    result = run_check()
    assert result.status == 1
    assert result.requests[2:] == ["chat   200  with a random project: ok"]
    assert result.to_paste == ["unset WEBSIM_PROJECT_ID", SET_PROJECT]
    assert "Use random project ids:" in result.advice
    assert len(websim_server.requests) == 3


def test_advises_a_project_of_your_own_if_every_project_is_refused(websim_server, run_check, monkeypatch):
    monkeypatch.setenv("WEBSIM_PROJECT_ID", "mine")
    websim_server.inject(refusal(403, "this project is private"), times=3)
    result = run_check()
    assert result.requests[2:] == ["chat   403  with a random project: Websim refused the project id"]
    assert result.to_paste == [SET_PROJECT]
    assert len(websim_server.requests) == 3


# The request


@pytest.mark.parametrize(
    "fault",
    [page(403, "Just a moment...", **{"cf-mitigated": "challenge"}), refusal(503, "", cf_mitigated="challenge")],
)
def test_advises_another_network_after_a_bot_challenge(websim_server, run_check, fault):
    websim_server.inject(fault, times=2)
    result = run_check()
    assert result.cause.startswith("Cloudflare sent a bot challenge.")
    assert result.advice.startswith("Try from another network, without a VPN.")
    assert result.to_paste == [SET_PROXY]


@pytest.mark.parametrize("fault", [refusal(402, "Payment required"), refusal(403, "Insufficient credits")])
def test_advises_to_wait_or_log_in_if_no_credits_are_left(websim_server, other_server, run_check, fault):
    websim_server.inject(fault, times=2)
    result = run_check("--also", other_server.url)
    assert result.cause.startswith("No credits left.")
    assert result.to_paste == [f"export WEBSIM_URL={other_server.url}"]
    websim_server.inject(fault, times=2)
    assert run_check().to_paste == ["g4f-websim check", *LOG_IN]


def test_advises_another_network_if_the_region_is_blocked(websim_server, run_check):
    websim_server.inject(Fault(status=451), times=2)
    result = run_check()
    assert result.cause.startswith("Blocked for legal reasons.")
    assert result.advice.startswith("Try from another network.")


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        (json_fault(200, {"choices": [], EMAIL: 1}), "A response without the field content; its fields: choices, ***."),
        (Fault(status=405, body=b""), "Websim does not accept this kind of request."),
        (refusal(422, "messages.0: expected array"), "Websim does not accept this kind of request."),
        (refusal(400, "bad"), "Websim refused the request."),
    ],
)
def test_advises_an_upgrade_if_the_api_has_changed(websim_server, run_check, fault, cause):
    websim_server.inject(fault, times=2)
    result = run_check()
    assert result.cause.startswith(cause)
    assert result.advice.startswith("The API may have changed. Install the newest g4f-websim:")
    assert result.to_paste == UPGRADE


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        (Fault(status=500), "The server failed."),
        (json_fault(200, {"content": ""}), "A response without content."),
        (Fault(status=200, body=b'{"content": "a'), "The response broke off."),
    ],
)
def test_advises_to_wait_and_then_to_report_if_the_server_fails(websim_server, run_check, fault, cause):
    websim_server.inject(fault, times=2)
    result = run_check()
    assert result.cause.startswith(cause)
    assert result.advice.startswith("Try again later or use another provider. If this persists, report it")
    assert result.to_paste == ["g4f-websim check --report"]
