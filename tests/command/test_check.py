"""`g4f-websim check`: what it sends, the settings and the report that it prints, and what it never prints."""

import io
import re
import sys

import pytest

from g4f_websim import Websim
from g4f_websim.command import check
from g4f_websim.emulator import Fault
from g4f_websim.wire.endpoints import CHAT_PATH, IMAGE_PATH
from tests.support.calls import make_token
from tests.support.check import (
    COLUMNS,
    EMAIL,
    EXPIRED_TOKEN,
    FOREIGN_KEY,
    MARKER,
    TOKEN,
    json_fault,
    page,
    redirect,
    refusal,
    run_in_shell,
)
from tests.support.loopback import HOST
from tests.support.processes import make_home, run_command
from tests.support.raw_server import Step, http_response, raw_server_in_thread

# Requests


def test_sends_one_request_to_each_endpoint_that_works(websim_server, other_server, run_check):
    result = run_check("--also", other_server.url)
    assert result.status == 0
    assert result.requests == ["chat   200  ok", "image  200  ok"]
    assert [request.path for request in websim_server.requests] == [CHAT_PATH, IMAGE_PATH]
    chat, image = (request.json["project_id"] for request in websim_server.requests)
    assert re.fullmatch("[a-z0-9]{3}_[a-z0-9]{16}", chat)
    assert re.fullmatch("[a-z0-9]{7}_[a-z0-9]{12}", image)
    assert not other_server.requests


def test_sends_configured_project_id_and_token(websim_server, run_check, monkeypatch):
    monkeypatch.setenv("WEBSIM_PROJECT_ID", "https://websim.com/p/ke3_xh5gai3gjkmruomu")
    monkeypatch.setenv("WEBSIM_API_KEY", TOKEN)
    result = run_check()
    assert result.lines[2] == "project  ke3_xh5gai3gjkmruomu"
    assert {request.json["project_id"] for request in websim_server.requests} == {"ke3_xh5gai3gjkmruomu"}
    assert {request.header("authorization") for request in websim_server.requests} == {f"Bearer {TOKEN}"}


def test_sends_requests_through_the_proxy(other_server, run_check, monkeypatch):
    monkeypatch.setattr(Websim, "url", "http://websim.example")
    monkeypatch.setenv("G4F_PROXY", other_server.url.replace("//", f"//user:{MARKER}@"))
    result = run_check()
    assert result.status == 0
    assert result.lines[4] == f"proxy    {other_server.url}"
    assert len(other_server.requests) == 2


def test_opens_a_connection_for_each_request(run_check, monkeypatch):
    chat = http_response(b'{"content": "Hello"}').replace(b"close", b"keep-alive")
    image = http_response(b'{"url": "https://websim.example/cat.png"}')
    # The server reads nothing more from the first connection. On a reused one, a request may be sent twice.
    with raw_server_in_thread([chat, Step.STALL], [image]) as server:
        monkeypatch.setattr(Websim, "url", server.url)
        assert run_check().status == 0
        assert len(server.requests) == 2


def test_sends_at_most_six_further_requests(websim_server, other_server, run_check, monkeypatch):
    monkeypatch.setenv("WEBSIM_PROJECT_ID", "mine")
    websim_server.inject(refusal(404, "no such project"), times=8)
    other_server.inject(Fault(status=404), times=9)
    sites = [part for number in range(9) for part in ("--also", f"{other_server.url}/{number}")]
    result = run_check(*sites)
    assert [line.split()[0] for line in result.requests] == ["chat", "image", "lookup", *["chat"] * 5]


def test_sends_requests_to_the_sites_of_also_until_one_works(websim_server, other_server, run_check, closed_port):
    websim_server.inject(Fault(status=404), times=2)
    closed = f"{HOST}:{closed_port}"
    also = [f"http://{closed}", f"{other_server.url}/", f"http://{closed}/late"]
    result = run_check(*[part for url in also for part in ("--also", url)])
    assert result.requests[2:] == [
        f"chat   -  {closed}: no connection",
        f"chat   200  {other_server.url.removeprefix('http://')}: ok",
    ]
    assert result.to_paste == [f"export WEBSIM_URL={other_server.url}"]


def test_does_not_send_the_token_to_the_sites_of_also(websim_server, other_server, run_check, monkeypatch):
    monkeypatch.setenv("WEBSIM_API_KEY", TOKEN)
    websim_server.inject(refusal(402, "Payment required"), times=2)
    result = run_check("--also", other_server.url)
    assert [request.header("authorization") for request in other_server.requests] == [None]
    assert result.advice == f"Use {other_server.url}, which responds. It will receive your login token:"


def test_sends_one_request_to_each_different_site_of_also(websim_server, other_server, run_check):
    websim_server.inject(Fault(status=404), times=2)
    other_server.inject(Fault(status=404))
    run_check("--also", websim_server.url, "--also", other_server.url, "--also", other_server.url)
    assert [len(websim_server.requests), len(other_server.requests)] == [2, 1]


# Settings


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


@pytest.mark.parametrize(
    ("key", "shown"),
    [
        (TOKEN, "a token that expires on 2096-10-02 07:06 UTC"),
        (EXPIRED_TOKEN, "a token that expired on 2023-11-14 22:13 UTC"),
        (make_token(sub=MARKER), "a token without an expiry date"),
        (FOREIGN_KEY, "none (WEBSIM_API_KEY is not a Websim token, so it is not sent)"),
    ],
)
def test_describes_login(websim_server, run_check, monkeypatch, key, shown):
    monkeypatch.setenv("WEBSIM_API_KEY", key)
    assert run_check().lines[3] == f"login    {shown}"


def test_url_with_upper_case_scheme_has_no_user_and_password(websim_server, run_check, monkeypatch):
    monkeypatch.setattr(Websim, "url", websim_server.url.replace("http", "HTTP"))
    assert "user and password" not in run_check().text


def test_does_not_show_the_password_of_the_site(websim_server, run_check, monkeypatch):
    monkeypatch.setattr(Websim, "url", websim_server.url.replace("//", f"//user:{MARKER}@"))
    websim_server.inject(refusal(404, f"no {MARKER}"), times=2)
    assert run_check("--report").lines[1] == f"site     {websim_server.url} (with a user and password)"


# The report


def test_report_shows_requests_and_chosen_headers(websim_server, run_check):
    headers = {"cf-ray": "8a1-FRA", "Set-Cookie": MARKER, "Retry-After": "7", "X-Other": "hidden"}
    websim_server.inject(page(503, "Down", **headers))
    websim_server.inject(redirect(f"https://ann:{MARKER}@websim.example/x?{MARKER}"))
    report = run_check("--report").text.partition("\n\n### g4f-websim check\n\n```text\n")[2]
    assert report.startswith("g4f-websim ")
    assert "\nproject: random, login: none, proxy: none\n" in report
    assert f"\nPOST {websim_server.url}{CHAT_PATH}\nstatus: 503, " in report
    for line in ("cf-ray: 8a1-FRA", "retry-after: 7", "body: an HTML page: <title>Down</title>"):
        assert f"\n{line}\n" in report
    assert "\nlocation: https://" in report
    assert "hidden" not in report
    assert report.endswith("\n```\n")


def test_report_shows_the_request_about_a_project(websim_server, run_check, monkeypatch):
    monkeypatch.setenv("WEBSIM_PROJECT_ID", "mine")
    websim_server.inject(refusal(404, "no such project"), times=2)
    assert f"\nGET {websim_server.url}/api/v1/projects/mine\nstatus: 200, " in run_check("--report").text


@pytest.mark.parametrize(("key", "shown"), [(TOKEN, "token"), (EXPIRED_TOKEN, "expired token")])
def test_report_names_settings(websim_server, run_check, monkeypatch, key, shown):
    monkeypatch.setenv("WEBSIM_API_KEY", key)
    monkeypatch.setenv("WEBSIM_PROJECT_ID", "mine")
    monkeypatch.setenv("G4F_PROXY", websim_server.url)
    assert f"project: configured, login: {shown}, proxy: yes" in run_check("--report").text


def test_report_shows_errors_without_response(websim_server, run_check):
    websim_server.inject(Fault(disconnect=True))
    report = run_check("--report").text
    assert re.search(r"\nstatus: -, \S+ s\nerror: No response from .*: the connection was closed", report)


# The output


def test_help_fits_into_the_width(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(COLUMNS))
    with pytest.raises(SystemExit, match="0"):
        check.main(["--help"])
    lines = capsys.readouterr().out.splitlines()
    assert any("--also URL" in line for line in lines)
    assert [line for line in lines if len(line) > COLUMNS] == []


def test_wraps_a_long_url_so_that_a_shell_joins_it(websim_server, run_check):
    websim_server.inject(Fault(status=404), times=2)
    with raw_server_in_thread() as server:
        url = server.url + "/deeper" * 40
        result = run_check("--also", url)
    pasted = result.text.partition("    export")[2]
    assert run_in_shell(f"export{pasted}", "WEBSIM_URL") == url


def test_prints_no_control_character_of_a_body(websim_server, run_check):
    websim_server.inject(json_fault(200, {"\x1b[31m" + "x" * 500: 1, "two words": EMAIL}), times=2)
    assert "\x1b" not in run_check("--report").text


def test_replaces_characters_that_the_output_cannot_represent(websim_server, monkeypatch):
    websim_server.inject(Fault(status=500, body="größer".encode()), times=2)
    output = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", output)
    assert check.main([]) == 1
    output.seek(0)
    assert "gr??er" in output.read()


def test_prints_no_error_if_the_reader_of_its_output_ends(websim_server, tmp_path):
    home = make_home(tmp_path)
    script = f'"{sys.executable}" -m g4f_websim check | head -1'
    done = run_command(home=home, command=("sh", "-c", script), WEBSIM_URL=websim_server.url)
    assert done.stdout.startswith("g4f-websim ")
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == ""
