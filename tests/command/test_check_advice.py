"""What `g4f-websim check` advises: the cause, the words, and the lines to paste, for each thing that can go wrong."""

import errno
import os
import re
import socketserver
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pytest
import trustme

from g4f_websim import Websim
from g4f_websim.command import check_request
from g4f_websim.emulator import Fault
from tests.support.check import (
    EMAIL,
    EXPIRED_TOKEN,
    FOREIGN_KEY,
    LOG_IN,
    MARKER,
    NO_PROXY,
    SET_PROJECT,
    SET_PROXY,
    SET_URL,
    TOKEN,
    UPGRADE,
    USE_DEFAULT,
    USE_RANDOM,
    json_fault,
    page,
    redirect,
    refusal,
    replace_known_hosts,
    run_in_shell,
)
from tests.support.limits import MAX_SECONDS
from tests.support.loopback import HOST
from tests.support.raw_server import http_response, raw_server_in_thread
from tests.support.tls import server_context

CHALLENGE = page(403, "Just a moment...", **{"cf-mitigated": "challenge"})
CHECK_AGAIN = ["g4f-websim check"]
REPORT = ["g4f-websim check --report"]
MOVED = [USE_DEFAULT, *UPGRADE, SET_URL]
TRUST = ["g4f-websim check --also https://websim.example", "export WEBSIM_URL=https://websim.example"]
EXPIRED_BODY = {"error": {"cause": {"code": "ERR_JWT_EXPIRED", "payload": {"email": EMAIL}}}}

NO_PROJECT = refusal(404, "Project not found")
NOT_FOUND = refusal(404, "Not Found")


class Case(NamedTuple):
    """A failure and what the check says about it."""

    fault: Fault  # the response to both requests
    cause: str  # the beginning of the cause
    lines: list[str]  # the lines to paste
    words: str = ""  # words of the advice
    key: str = ""  # the value of WEBSIM_API_KEY


CASES = {
    "project": Case(
        NO_PROJECT,
        "Websim refused the project id (Project not found)",
        [SET_PROJECT],
        "Open a project of your own on https://websim.com, and set its id, the last part of websim.com/p/<id>:",
    ),
    "login needed": Case(refusal(401, EMAIL), "login needed (***)", LOG_IN, "the value of authToken in"),
    "expired": Case(
        refusal(401, "no"), "the login token expired on 2023-11-14 22:13 UTC", LOG_IN, "Log in", EXPIRED_TOKEN
    ),
    "expired by its code": Case(json_fault(400, EXPIRED_BODY), "the login token expired (", LOG_IN, "Log in", TOKEN),
    "token refused": Case(refusal(403, TOKEN), "Websim refused the login token", LOG_IN, "Or try from another", TOKEN),
    "other key": Case(refusal(401, FOREIGN_KEY), "login needed; the given key is not", LOG_IN, "Log in", FOREIGN_KEY),
    "rate limit": Case(
        refusal(429, "no", retry_after="30"),
        "too many requests",
        CHECK_AGAIN,
        "Wait 30 s, log in, or use another provider. Then check again:",
        TOKEN,
    ),
    "no credits": Case(refusal(402, "Pay"), "no credits left", [*CHECK_AGAIN, *LOG_IN], "Wait for new credits,"),
    "challenge": Case(CHALLENGE, "Cloudflare sent a bot challenge", [], "Try from another network, without a VPN."),
    "region": Case(Fault(status=451), "blocked for legal reasons", [SET_PROXY], "Try from another network."),
    "fields": Case(
        json_fault(200, {EMAIL: 1, "\x1b[31m" + "x" * 500: 1}),
        "a response without the field content; its fields: ***, [31",
        UPGRADE,
        "The API may have changed.",
    ),
    "bad request": Case(refusal(400, "bad"), "Websim refused the request (bad)", UPGRADE),
    "server error": Case(Fault(status=500), "the server failed", REPORT, "Try again later or use another provider."),
    "no content": Case(json_fault(200, {"content": ""}), "a response without content", REPORT, "Try again later"),
    "truncated": Case(Fault(status=200, body=b'{"content": "a'), "the response broke off", REPORT, "Try again later"),
    "not found": Case(
        page(404, "No"), "the API is not at this URL", MOVED, "Use the default site, https://websim.com:"
    ),
    "portal": Case(
        page(200, "Hotel"),
        "something other than the API responded",
        [USE_DEFAULT, *CHECK_AGAIN, *MOVED[1:]],
        "If your network shows a login page, log in. Then check again:",
    ),
    "other host": Case(
        redirect(f"https://websim.example/v2?{MARKER}"),
        "a redirect to https://websim.example/v2, ",
        [USE_DEFAULT, *TRUST],
        "If you trust it as a new host of Websim, check it:",
    ),
    "other path": Case(redirect("/v2"), "a redirect to ", MOVED),
    "malicious redirect": Case(redirect("https://a$(touch${IFS}pwned).example/"), "a redirect to ", MOVED),
    "redirect to a key": Case(redirect(f"https://{FOREIGN_KEY}.example/"), "a redirect to ", MOVED, key=FOREIGN_KEY),
    "login page": Case(redirect(f"/login?token={MARKER}"), "a redirect to ", LOG_IN),
    "network": Case(
        redirect(f"http://a.example/login#{MARKER}"),
        "a redirect to http://a.example/login, a login page",
        LOG_IN,
        "If http://a.example is the login page of your network, open it in a browser and log in. Log in with",
    ),
}


@pytest.mark.parametrize(("fault", "cause", "lines", "words", "key"), CASES.values(), ids=CASES)
def test_explains_response(websim_server, run_check, monkeypatch, fault, cause, lines, words, key):
    monkeypatch.setenv("WEBSIM_API_KEY", key)
    websim_server.inject(fault, times=2)
    result = run_check("--report")
    assert result.status == 1
    host = websim_server.url.removeprefix("http://")
    assert result.cause.startswith(f"Response {fault.status} from {host}: {cause}")
    assert "run g4f-websim check" not in result.text
    assert words in result.advice
    assert result.to_paste == lines
    sent = f"Bearer {key}" if key not in ("", FOREIGN_KEY) else None
    assert [request.header("authorization") for request in websim_server.requests] == [sent, sent]


@pytest.mark.parametrize(
    ("status", "verdict"),
    [(200, "The project mine exists."), (404, "The project mine does not exist."), (503, None), (302, None)],
)
@pytest.mark.parametrize("random_works", [True, False])
def test_says_whether_the_refused_project_exists(run_check, monkeypatch, status, verdict, random_works):
    monkeypatch.setenv("WEBSIM_PROJECT_ID", "mine")
    monkeypatch.setenv("WEBSIM_API_KEY", TOKEN)
    refused = [http_response(b"this project is private", 403)]
    fine = [http_response(b'{"content": "Hello"}')]
    scripts = [refused, refused, [http_response(b"{}", status)], fine if random_works else refused]
    with raw_server_in_thread(*scripts) as server:
        monkeypatch.setattr(Websim, "url", server.url)
        result = run_check()
        head = server.requests[2].head.decode()
    assert "\nTrying what else is known to work:\n" in result.text
    assert head.startswith("GET /api/v1/projects/mine HTTP/1.1\r\n")
    assert "uthorization" not in head
    assert result.requests[2].startswith(f"lookup {status}  ")
    assert result.requests[3].startswith("chat   200" if random_works else "chat   403")
    assert "with a random project: " in result.requests[3]
    assert result.cause.endswith(f" {verdict}") if verdict else "exist" not in result.cause
    assert result.to_paste == ([SET_PROJECT, USE_RANDOM] if random_works else [SET_PROJECT])
    assert len(server.requests) == 4


def test_does_not_show_a_key_as_the_project(websim_server, run_check, monkeypatch):
    for name in ("WEBSIM_PROJECT_ID", "WEBSIM_API_KEY"):
        monkeypatch.setenv(name, FOREIGN_KEY)
    websim_server.inject(NO_PROJECT, times=2)
    assert run_check("--report").cause.endswith(" The project *** exists.")


@pytest.mark.parametrize(
    ("works", "fault", "words", "lines"),
    [
        ("chat", refusal(500, "no GPU"), "Chat works, images do not.", REPORT),
        ("image", refusal(500, "no model"), "Images work, chat does not.", REPORT),
        ("chat", NOT_FOUND, "Chat works, images do not.", UPGRADE),
    ],
)
def test_says_which_endpoint_works(websim_server, run_check, works, fault, words, lines):
    if works == "chat":
        websim_server.reply("Hello")
    websim_server.inject(fault)
    result = run_check()
    assert result.status == 1
    assert f"\n\n{words}\nCause: Response {fault.status} from " in result.text
    assert result.to_paste == lines
    assert "Trying" not in result.text


# Other sites


@pytest.mark.parametrize("is_default", [True, False])
def test_advises_the_other_host_of_websim_if_it_works(
    websim_server, other_server, known_hosts, run_check, monkeypatch, is_default
):
    site, works = (websim_server, other_server) if is_default else (other_server, websim_server)
    monkeypatch.setattr(Websim, "url", site.url)
    monkeypatch.setenv("WEBSIM_API_KEY", TOKEN)
    site.inject(NOT_FOUND, times=2)
    result = run_check()
    assert result.requests[2:] == [f"chat   200  {works.url.removeprefix('http://')}: ok"]
    assert result.advice == f"Use {'' if is_default else 'the default, '}{works.url}, which responds:"
    assert result.to_paste == [f"export WEBSIM_URL={works.url}" if is_default else USE_DEFAULT]
    assert len(site.requests) == 2
    assert [request.header("authorization") for request in works.requests] == [f"Bearer {TOKEN}"]


@pytest.mark.parametrize(
    ("chat", "image", "other_chat", "cause", "lines"),
    [
        (NOT_FOUND, NOT_FOUND, NOT_FOUND, "404 from {site}: the API is not at this URL", [*UPGRADE, SET_URL]),
        (
            CHALLENGE,
            CHALLENGE,
            NO_PROJECT,
            "404 from {other}: Websim refused the project id",
            ["export WEBSIM_URL=http://{other}", SET_PROJECT],
        ),
        (NO_PROJECT, CHALLENGE, NO_PROJECT, "404 from {site}: Websim refused the project id", [SET_PROJECT]),
        (refusal(429, "no"), refusal(429, "no"), None, "429 from {site}: too many requests", [*CHECK_AGAIN, *LOG_IN]),
    ],
    ids=["no host reached", "other host reached", "site reached", "rate limit"],
)
def test_explains_the_refusal_of_the_host_that_was_reached(
    websim_server, other_server, known_hosts, run_check, chat, image, other_chat, cause, lines
):
    for fault in (chat, image):
        websim_server.inject(fault)
    if other_chat:
        other_server.inject(other_chat)
    result = run_check()
    hosts = {"site": websim_server.url.removeprefix("http://"), "other": other_server.url.removeprefix("http://")}
    assert result.status == 1
    assert result.cause.startswith("Response " + cause.format(**hosts))
    assert result.to_paste == [line.format(**hosts) for line in lines]
    assert len(other_server.requests) == (1 if other_chat else 0)


def test_advises_to_remove_the_path_from_the_url(websim_server, run_check, monkeypatch):
    monkeypatch.setattr(Websim, "url", f"{websim_server.url}/api/v1")
    result = run_check()
    assert result.advice == "Remove the path /api/v1 from WEBSIM_URL:"
    assert result.to_paste == [f"export WEBSIM_URL={websim_server.url}"]


# The connection


def test_advises_to_open_the_site_that_refuses_connections(run_check, monkeypatch, closed_port):
    monkeypatch.setattr(Websim, "url", f"http://{HOST}:{closed_port}")
    result = run_check("--report")
    assert [line.split("  ")[-1] for line in result.requests] == ["no connection", "no connection"]
    reason = os.strerror(errno.ECONNREFUSED)
    assert result.cause == f"No response from {HOST}:{closed_port}: no connection ({reason})"
    assert "run g4f-websim check" not in result.text
    assert "Open the site in a browser, to see whether this machine reaches it." in result.advice
    assert result.to_paste == [USE_DEFAULT, SET_PROXY]


def test_advises_a_proxy_if_no_host_of_websim_is_reached(run_check, monkeypatch, closed_port):
    url = f"http://{HOST}:{closed_port}"
    replace_known_hosts(monkeypatch, url, f"http://localhost:{closed_port}")
    monkeypatch.setattr(Websim, "url", url)
    result = run_check()
    assert [line.split()[1] for line in result.requests] == ["-", "-", "-"]
    assert result.to_paste == [SET_PROXY]


def test_reports_a_closed_connection_after_one_request(websim_server, run_check):
    websim_server.inject(Fault(disconnect=True), times=2)
    report = run_check("--report").text.partition("### g4f-websim check")[2]
    assert re.search(r"\nstatus: -, \S+ s\nerror: No response from .*: the connection was closed", report)
    assert len(websim_server.requests) == 2


def test_ends_a_request_without_a_response_after_the_timeout(websim_server, run_check, monkeypatch):
    monkeypatch.setattr(check_request, "TIMEOUT", 0.02)
    websim_server.inject(Fault(delay=5), times=2)
    result = run_check()
    assert [line.split("  ")[-1] for line in result.requests] == ["no response within 0.02 s"] * 2
    assert result.cause == f"No response from {websim_server.url.removeprefix('http://')} within 0.02 s"


def test_advises_http_for_a_server_without_tls(websim_server, run_check, monkeypatch):
    monkeypatch.setattr(Websim, "url", websim_server.url.replace("http:", "https:"))
    result = run_check()
    assert "The server does not speak https. Use http:" in result.advice
    assert f"export WEBSIM_URL={websim_server.url}" in result.to_paste


def test_advises_to_check_the_clock_if_the_certificate_is_not_valid(run_check, monkeypatch):
    with raw_server_in_thread(tls=server_context(trustme.CA(), HOST)) as server:
        monkeypatch.setattr(Websim, "url", server.url)
        result = run_check()
    assert "the certificate is not valid" in result.cause
    assert "Check the clock and WEBSIM_URL; if Python has no certificates, set SSL_CERT_FILE" in result.advice


# The proxy


@contextmanager
def tunnel(reply: bytes) -> Iterator[str]:
    """Run an HTTP proxy that opens tunnels, and yield its URL.

    Args:
        reply: what any site sends through the tunnel in reply to the first bytes of TLS.
    """

    class Handler(socketserver.StreamRequestHandler):
        timeout = MAX_SECONDS

        def handle(self) -> None:
            while self.rfile.readline().strip():
                pass
            self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
            self.connection.recv(65536)
            self.wfile.write(reply)

    with socketserver.TCPServer((HOST, 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://{HOST}:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join(MAX_SECONDS)


@pytest.mark.parametrize("proxy", ["refuses connections", "speaks no TLS", "has no valid certificate"])
def test_names_the_proxy_that_fails(websim_server, other_server, run_check, monkeypatch, closed_port, proxy):
    with raw_server_in_thread(tls=server_context(trustme.CA(), HOST)) as untrusted:
        scheme, host = {
            "refuses connections": ("http", f"{HOST}:{closed_port}"),
            "speaks no TLS": ("https", other_server.url.removeprefix("http://")),
            "has no valid certificate": ("https", untrusted.host),
        }[proxy]
        monkeypatch.setenv("G4F_PROXY", f"{scheme}://user:{MARKER}@{host}")
        result = run_check("--report")
    assert f"no connection through the proxy {host} (" in result.cause
    *use_http, correct, use_none = result.to_paste
    assert (correct, use_none) == (f"export G4F_PROXY={scheme}://<host>:<port>", NO_PROXY)
    http_proxies = [run_in_shell(line, "G4F_PROXY") for line in use_http]
    assert http_proxies == ([f"http://user:{MARKER}@{host}"] if proxy == "speaks no TLS" else [])
    assert not websim_server.requests


@pytest.mark.parametrize(
    ("reply", "lines"),
    [(b"220 mail.example ready\r\n", [USE_DEFAULT, "export WEBSIM_URL=http://websim.example"]), (b"", [USE_DEFAULT])],
)
def test_does_not_blame_the_proxy_if_tls_with_the_site_fails(run_check, monkeypatch, reply, lines):
    monkeypatch.setattr(Websim, "url", "https://websim.example")
    with tunnel(reply) as proxy:
        monkeypatch.setenv("G4F_PROXY", proxy)
        result = run_check()
    assert "No response from websim.example: no connection" in result.cause
    assert result.to_paste == lines


def test_advises_the_form_of_a_proxy_url_with_a_login(other_server, run_check, monkeypatch):
    monkeypatch.setattr(Websim, "url", "http://websim.example")
    monkeypatch.setenv("G4F_PROXY", other_server.url)
    other_server.inject(Fault(status=407, body=b""), times=2)
    result = run_check()
    host = other_server.url.removeprefix("http://")
    assert result.cause == f"Response 407 from websim.example: the proxy {host} needs a login"
    assert result.advice.startswith("Put its user and password into its URL:")
    assert result.to_paste == [f"export G4F_PROXY=http://<user>:<password>@{host}", NO_PROXY]


def test_names_the_package_for_a_socks_proxy(run_check, monkeypatch):
    monkeypatch.setitem(sys.modules, "aiohttp_socks", None)
    monkeypatch.setenv("G4F_PROXY", "socks5://proxy.example:1080")
    monkeypatch.setattr(Websim, "url", "http://websim.example")
    result = run_check()
    assert result.cause == "No response from websim.example: a SOCKS proxy needs one more package"
    assert result.to_paste == ["pip install aiohttp_socks"]
