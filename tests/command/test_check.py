"""`g4f-websim check`: what it sends, the settings and the report that it prints, and what it never prints."""

import re

import pytest

from g4f_websim import Websim
from g4f_websim.emulator import Fault
from g4f_websim.wire.endpoints import CHAT_PATH, IMAGE_PATH
from tests.support.calls import make_token
from tests.support.check import (
    EXPIRED_TOKEN,
    FOREIGN_KEY,
    MARKER,
    NO_PROXY,
    SET_PROJECT,
    SET_PROXY,
    SET_URL,
    TOKEN,
    USE_DEFAULT,
    USE_RANDOM,
    page,
    redirect,
    refusal,
    run_in_shell,
)
from tests.support.loopback import HOST
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


def test_sends_configured_project_id_and_token_through_the_proxy(other_server, run_check, monkeypatch):
    monkeypatch.setattr(Websim, "url", "http://websim.example")
    monkeypatch.setenv("WEBSIM_PROJECT_ID", "https://websim.com/p/ke3_xh5gai3gjkmruomu")
    monkeypatch.setenv("WEBSIM_API_KEY", TOKEN)
    monkeypatch.setenv("G4F_PROXY", other_server.url.replace("//", f"//user:{MARKER}@"))
    result = run_check("--report")
    assert result.status == 0
    assert "project: configured, login: token, proxy: yes" in result.text
    assert result.lines[2] == "project  ke3_xh5gai3gjkmruomu"
    assert result.lines[4] == f"proxy    {other_server.url}"
    assert [request.json["project_id"] for request in other_server.requests] == ["ke3_xh5gai3gjkmruomu"] * 2
    assert [request.header("authorization") for request in other_server.requests] == [f"Bearer {TOKEN}"] * 2


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
    result = run_check(*sites, "--report")
    assert [line.split()[0] for line in result.requests] == ["chat", "image", "lookup", *["chat"] * 5]
    assert f"\nGET {websim_server.url}/api/v1/projects/mine\nstatus: 200, " in result.text


def test_tries_each_site_of_also_once_and_without_the_token_until_one_works(
    websim_server, other_server, run_check, monkeypatch, closed_port
):
    monkeypatch.setenv("WEBSIM_API_KEY", TOKEN)
    websim_server.inject(Fault(status=404), times=2)
    closed = f"{HOST}:{closed_port}"
    also = [websim_server.url, f"http://{closed}", f"http://{closed}", f"{other_server.url}/", f"http://{closed}/late"]
    result = run_check(*[part for url in also for part in ("--also", url)])
    assert result.requests[2:] == [
        f"chat   -  {closed}: no connection",
        f"chat   200  {other_server.url.removeprefix('http://')}: ok",
    ]
    assert [request.header("authorization") for request in other_server.requests] == [None]
    assert result.advice == f"Use {other_server.url}, which responds. It will receive your login token:"
    assert result.to_paste == [f"export WEBSIM_URL={other_server.url}"]


# Settings


@pytest.mark.parametrize(
    ("key", "shown", "reported"),
    [
        ("", "none (WEBSIM_API_KEY is not set)", "none"),
        (TOKEN, "a token that expires on 2096-10-02 07:06 UTC", "token"),
        (EXPIRED_TOKEN, "a token that expired on 2023-11-14 22:13 UTC", "expired token"),
        (make_token(sub=MARKER), "a token without an expiry date", "token"),
        (FOREIGN_KEY, "none (WEBSIM_API_KEY is not a Websim token, so it is not sent)", "none"),
    ],
)
def test_shows_versions_and_settings(websim_server, run_check, monkeypatch, key, shown, reported):
    monkeypatch.setenv("WEBSIM_API_KEY", key)
    result = run_check("--report")
    assert f"\nproject: random, login: {reported}, proxy: none\n" in result.text
    assert re.match(r"g4f-websim \S+, g4f \S+, aiohttp \S+, Python 3\.\S+, \w+ \w+\n", result.text)
    assert result.lines[1:6] == [
        f"site     {websim_server.url}",
        "project  random (WEBSIM_PROJECT_ID is not set)",
        f"login    {shown}",
        "proxy    none (G4F_PROXY is not set)",
        "",
    ]


def test_does_not_show_the_password_of_the_site(websim_server, run_check, monkeypatch):
    monkeypatch.setattr(Websim, "url", websim_server.url.replace("http://", f"HTTP://user:{MARKER}@"))
    websim_server.inject(refusal(404, f"no {MARKER}"), times=2)
    result = run_check("--report")
    assert result.lines[1] == f"site     {websim_server.url}"
    assert result.cause.startswith(f"Response 404 from {websim_server.url.removeprefix('http://')}: ")


SITE_FORM = "a URL like https://websim.com with the scheme http or https and a valid host and port"
# For each setting: its form, the lines to paste, and malformed values.
MALFORMED = {
    "WEBSIM_URL": (
        SITE_FORM,
        [SET_URL, USE_DEFAULT],
        ("websim", "http://localhost:99999", f"htps://ann:{MARKER}@websim.com", TOKEN, FOREIGN_KEY),
    ),
    "G4F_PROXY": (
        "a URL like http://user:password@host:3128 with the scheme http, https, socks4, socks5 or socks5h",
        [SET_PROXY, NO_PROXY],
        ("ftp://127.0.0.1:1", "http://127.0.0.1:99999", f"ann:{MARKER}@127.0.0.1:1"),
    ),
    "WEBSIM_PROJECT_ID": (
        "1 to 64 of A-Z a-z 0-9 _ - (the last part of websim.com/p/<id>)",
        [SET_PROJECT, USE_RANDOM],
        ("my project", TOKEN, FOREIGN_KEY + ".", "https://websim.com/@ann/cat"),
    ),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_rejects_malformed_setting_without_showing_it(websim_server, run_check, monkeypatch, name):
    form, lines, values = MALFORMED[name]
    for value in values:
        monkeypatch.setenv(name, value)
        if name == "WEBSIM_URL":
            monkeypatch.setattr(Websim, "url", value)
        result = run_check()
        assert result.status == 1
        text = " ".join(result.text.split())
        assert f"Nothing was sent, because a setting is malformed. {name}: {form}" in text
        assert result.to_paste == lines
        assert ("/api/v1/users/NAME/slugs/PROJECT describes" in result.advice) is (name == "WEBSIM_PROJECT_ID")
    assert not websim_server.requests


def test_proposes_site_with_its_missing_scheme(websim_server, run_check, monkeypatch):
    monkeypatch.setattr(Websim, "url", "websim.example:8443")
    assert run_check().to_paste == ["export WEBSIM_URL=https://websim.example:8443", USE_DEFAULT]


def test_rejects_malformed_site_of_also_and_socks_proxy(websim_server, run_check, monkeypatch):
    result = run_check("--also", websim_server.url, "--also", "websim.example")
    assert result.status == 1
    assert f"--also: {SITE_FORM} " in " ".join(result.text.split())
    assert result.to_paste == ["g4f-websim check --also https://api.websim.com"]
    monkeypatch.setenv("G4F_PROXY", "socks5://a.example")
    result = run_check()
    assert "G4F_PROXY: the URL of a SOCKS proxy" in result.text
    assert result.to_paste == ["export G4F_PROXY=socks5://<host>:<port>", NO_PROXY]
    assert not websim_server.requests


# The report


def test_report_shows_requests_and_chosen_headers(websim_server, run_check):
    headers = {"cf-ray": "8a1-FRA", "Set-Cookie": MARKER, "Retry-After": "7", "X-Other": "hidden"}
    websim_server.inject(page(503, "Down", **headers))
    websim_server.inject(redirect(f"https://ann:{MARKER}@websim.example/x?{MARKER}"))
    report = run_check("--report").text.partition("\n\n### g4f-websim check\n\n```text\n")[2]
    assert report.startswith("g4f-websim ")
    assert f"\nPOST {websim_server.url}{CHAT_PATH}\nstatus: 503, " in report
    for line in ("cf-ray: 8a1-FRA", "retry-after: 7", "body: an HTML page: <title>Down</title>"):
        assert f"\n{line}\n" in report
    assert "\nlocation: https://" in report
    assert "hidden" not in report
    assert report.endswith("\n```\n")


# The output


def test_wraps_a_long_url_so_that_a_shell_joins_it(websim_server, run_check):
    websim_server.inject(Fault(status=404), times=2)
    with raw_server_in_thread() as server:
        url = server.url + "/deeper" * 40
        result = run_check("--also", url)
    pasted = result.text.partition("    export")[2]
    assert run_in_shell(f"export{pasted}", "WEBSIM_URL") == url
