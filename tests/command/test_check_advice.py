"""What `g4f-websim check` advises: the cause, the words, and the lines to paste, for each thing that can go wrong."""

import errno
import os
import re
import socketserver
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

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

# Each row: the response to both requests, the key, the beginning of the cause, words of the advice, lines to paste.
RESPONSES = {
    "project": (
        refusal(404, "Project not found"),
        "",
        "Websim refused the project id (Project not found)",
        "Open a project of your own on https://websim.com, and set its id, the last part of websim.com/p/<id>:",
        [SET_PROJECT],
    ),
    "login needed": (refusal(401, EMAIL), "", "login needed (***)", "the value of authToken in", LOG_IN),
    "expired": (refusal(401, "no"), EXPIRED_TOKEN, "the login token expired on 2023-11-14 22:13 UTC", "Log in", LOG_IN),
    "expired by its code": (json_fault(400, EXPIRED_BODY), TOKEN, "the login token expired (", "Log in", LOG_IN),
    "token refused": (refusal(403, TOKEN), TOKEN, "Websim refused the login token", "Or try from another", LOG_IN),
    "other key": (refusal(401, FOREIGN_KEY), FOREIGN_KEY, "login needed; the given key is not a", "Log in", LOG_IN),
    "rate limit": (
        refusal(429, "no", retry_after="30"),
        TOKEN,
        "too many requests",
        "Wait 30 s, log in, or use another provider. Then check again:",
        CHECK_AGAIN,
    ),
    "no credits": (refusal(402, "Pay"), "", "no credits left", "Wait for new credits,", [*CHECK_AGAIN, *LOG_IN]),
    "challenge": (CHALLENGE, "", "Cloudflare sent a bot challenge", "Try from another network, without a VPN.", []),
    "region": (Fault(status=451), "", "blocked for legal reasons", "Try from another network.", [SET_PROXY]),
    "fields": (
        json_fault(200, {EMAIL: 1, "\x1b[31m" + "x" * 500: 1}),
        "",
        "a response without the field content; its fields: ***, [31",
        "The API may have changed.",
        UPGRADE,
    ),
    "bad request": (refusal(400, "bad"), "", "Websim refused the request (bad)", "", UPGRADE),
    "server error": (Fault(status=500), "", "the server failed", "Try again later or use another provider.", REPORT),
    "no content": (json_fault(200, {"content": ""}), "", "a response without content", "Try again later", REPORT),
    "truncated": (Fault(status=200, body=b'{"content": "a'), "", "the response broke off", "Try again later", REPORT),
    "not found": (
        page(404, "No"),
        "",
        "the API is not at this URL",
        "Use the default site, https://websim.com:",
        MOVED,
    ),
    "portal": (
        page(200, "Hotel"),
        "",
        "something other than the API responded",
        "If your network shows a login page, log in. Then check again:",
        [USE_DEFAULT, *CHECK_AGAIN, *MOVED[1:]],
    ),
    "other host": (
        redirect(f"https://websim.example/v2?{MARKER}"),
        "",
        "a redirect to https://websim.example/v2, ",
        "If you trust it as a new host of Websim, check it:",
        [USE_DEFAULT, *TRUST],
    ),
    "other path": (redirect("/v2"), "", "a redirect to ", "", MOVED),
    "malicious redirect": (redirect("https://a$(touch${IFS}pwned).example/"), "", "a redirect to ", "", MOVED),
    "redirect to a key": (redirect(f"https://{FOREIGN_KEY}.example/"), FOREIGN_KEY, "a redirect to ", "", MOVED),
    "login page": (redirect(f"/login?token={MARKER}"), "", "a redirect to ", "", LOG_IN),
    "network": (
        redirect(f"http://a.example/login#{MARKER}"),
        "",
        "a redirect to http://a.example/login, a login page",
        "If http://a.example is the login page of your network, open it in a browser and log in. Log in with",
        LOG_IN,
    ),
}


@pytest.mark.parametrize(("fault", "key", "cause", "words", "lines"), RESPONSES.values(), ids=RESPONSES)
def test_explains_response(websim_server, run_check, monkeypatch, fault, key, cause, words, lines):
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


@pytest.mark.parametrize(
    ("works", "fault", "words", "lines"),
    [
        ("chat", refusal(500, "no GPU"), "Chat works, images do not.", REPORT),
        ("image", refusal(500, "no model"), "Images work, chat does not.", REPORT),
        ("chat", refusal(404, "Not Found"), "Chat works, images do not.", UPGRADE),
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
    site.inject(refusal(404, "Not Found"), times=2)
    result = run_check()
    assert result.requests[2:] == [f"chat   200  {works.url.removeprefix('http://')}: ok"]
    assert result.advice == f"Use {'' if is_default else 'the default, '}{works.url}, which responds:"
    assert result.to_paste == [f"export WEBSIM_URL={works.url}" if is_default else USE_DEFAULT]
    assert len(site.requests) == 2
    assert [request.header("authorization") for request in works.requests] == [f"Bearer {TOKEN}"]


def test_advises_an_upgrade_if_neither_host_of_websim_has_the_api(websim_server, other_server, known_hosts, run_check):
    for emulator in (websim_server, other_server):
        emulator.inject(refusal(404, "Not Found"), times=2)
    assert run_check().to_paste == [*UPGRADE, SET_URL]


def test_explains_the_refusal_of_the_host_that_was_reached(websim_server, other_server, known_hosts, run_check):
    websim_server.inject(CHALLENGE, times=2)
    other_server.inject(refusal(404, "Project not found"))
    result = run_check()
    assert result.cause.startswith(f"Response 404 from {other_server.url[7:]}: Websim refused the project id")
    assert result.to_paste == [f"export WEBSIM_URL={other_server.url}", SET_PROJECT]


def test_explains_the_refusal_of_the_site_that_was_reached(websim_server, other_server, known_hosts, run_check):
    websim_server.inject(refusal(404, "Project not found"))
    websim_server.inject(CHALLENGE)
    other_server.inject(refusal(404, "Project not found"))
    result = run_check()
    assert result.cause.startswith(f"Response 404 from {websim_server.url[7:]}: Websim refused the project id")
    assert result.to_paste == [SET_PROJECT]


def test_sends_nothing_more_after_a_rate_limit(websim_server, other_server, known_hosts, run_check):
    websim_server.inject(refusal(429, "Rate limit exceeded"), times=2)
    assert run_check().status == 1
    assert not other_server.requests


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
