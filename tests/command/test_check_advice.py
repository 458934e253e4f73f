"""What `g4f-websim check` advises: the cause, the words, and the lines to paste, for each thing that can go wrong."""

import json
import re
import socketserver
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import trustme

from g4f_websim import Websim
from g4f_websim.command import probe
from g4f_websim.emulator import Fault
from g4f_websim.wire.endpoints import CHAT_PATH
from tests.support.check import (
    COPY_TOKEN,
    EMAIL,
    EXPIRED_TOKEN,
    FOREIGN_KEY,
    LOG_IN,
    MARKER,
    SET_PROJECT,
    SET_PROXY,
    SET_URL,
    STORED_TOKEN,
    TOKEN,
    UPGRADE,
    USE_DEFAULT,
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

CHALLENGE = {"cf-mitigated": "challenge"}
CHECK_AGAIN = ["g4f-websim check"]
REPORT = ["g4f-websim check --report"]
MOVED = [USE_DEFAULT, SET_URL]
TRUST = ["g4f-websim check --also https://websim.example", "export WEBSIM_URL=https://websim.example"]
EXPIRED_BODY = {"error": {"cause": {"code": "ERR_JWT_EXPIRED", "payload": {"email": EMAIL}}}}
MALICIOUS = ("https://a$(touch${IFS}pwned).example/", "https://;reboot", f"https://{FOREIGN_KEY}.example/")
MALFORMED = ("//[", "https://", "https://websim.example:99999/", "https://websim.example:0/")

# Each row: the response to both requests, the login, the beginning of the cause, the lines to paste.
RESPONSES = {
    "project": (refusal(404, "Project not found"), "", "Websim refused the project id. ", [SET_PROJECT]),
    "login needed": (refusal(401, EMAIL), "", "Login needed. ", LOG_IN),
    "expired": (refusal(401, "no"), EXPIRED_TOKEN, "The login token expired on 2023-11-14 22:13 UTC. ", LOG_IN),
    "expired by its code": (json_fault(400, EXPIRED_BODY), TOKEN, "The login token expired. ", LOG_IN),
    "token refused": (refusal(403, TOKEN), TOKEN, "Websim refused the login token. ", LOG_IN),
    "other key": (refusal(401, FOREIGN_KEY), FOREIGN_KEY, "Login needed; the given key is not a Websim", LOG_IN),
    "rate limit": (refusal(429, "no", retry_after="30"), TOKEN, "Too many requests. ", CHECK_AGAIN),
    "no credits": (refusal(402, "Pay"), "", "No credits left. ", [*CHECK_AGAIN, *LOG_IN]),
    "credits in words": (refusal(403, "Insufficient credits"), TOKEN, "No credits left. ", CHECK_AGAIN),
    "challenge": (page(403, "Just a moment...", **CHALLENGE), "", "Cloudflare sent a bot challenge. ", []),
    "region": (Fault(status=451), "", "Blocked for legal reasons. ", [SET_PROXY]),
    "fields": (json_fault(200, {EMAIL: 1}), "", "A response without the field content; its fields: ***. ", UPGRADE),
    "method": (Fault(status=405, body=b""), "", "Websim does not accept this kind of request. ", UPGRADE),
    "unprocessable": (refusal(422, "bad"), "", "Websim does not accept this kind of request. ", UPGRADE),
    "bad request": (refusal(400, "bad"), "", "Websim refused the request. ", UPGRADE),
    "server error": (Fault(status=500), "", "The server failed. ", REPORT),
    "no content": (json_fault(200, {"content": ""}), "", "A response without content. ", REPORT),
    "truncated": (Fault(status=200, body=b'{"content": "a'), "", "The response broke off. ", REPORT),
    "not found": (refusal(404, "No"), "", "The API is not at this URL. ", MOVED),
    "no page": (page(404, "No"), "", "The API is not at this URL. ", MOVED),
    "portal": (page(200, "Hotel"), "", "Something other than the API responded. ", [*CHECK_AGAIN, *MOVED]),
    "other host": (
        redirect(f"https://websim.example/v2?{MARKER}"),
        "",
        "A redirect to https://websim.example/v2, ",
        TRUST,
    ),
    "other path": (redirect("/v2"), "", "A redirect to ", [USE_DEFAULT, *UPGRADE, SET_URL]),
    "login page": (redirect(f"/login?token={MARKER}"), "", "A redirect to ", LOG_IN),
    "network": (
        redirect(f"http://a.example/login#{MARKER}"),
        "",
        "A redirect to http://a.example/login, a login",
        LOG_IN,
    ),
    **{url: (redirect(url), FOREIGN_KEY, "A redirect to ", MOVED) for url in (*MALICIOUS, *MALFORMED)},
}
WORDS = {
    "project": "Open a project of your own on https://websim.com, and set its id, the last part of websim.com/p/<id>:",
    "login needed": "the value of authToken in ~/.websim-cli.json",
    "token refused": "Or try from another network.",
    "rate limit": "Wait 30 s, log in, or use another provider. Then check again:",
    "challenge": "Try from another network, without a VPN.",
    "region": "Try from another network.",
    "fields": "The API may have changed. Install the newest g4f-websim:",
    "server error": "Try again later or use another provider. If this persists, report it",
    "not found": "WEBSIM_URL is not the default, https://websim.com.",
    "portal": "If your network shows a login page, log in. Then check again:",
    "other host": "If you trust it as a new host of Websim, check it:",
    "network": "If http://a.example is the login page of your network, open it in a browser and log in. Log in with",
}


@pytest.mark.parametrize("name", RESPONSES)
def test_explains_response(websim_server, run_check, monkeypatch, name):
    fault, key, cause, lines = RESPONSES[name]
    monkeypatch.setenv("WEBSIM_API_KEY", key)
    websim_server.inject(fault, times=2)
    result = run_check("--report")
    assert result.status == 1
    assert result.cause.startswith(cause)
    assert f"Response {fault.status} from 127.0.0.1:" in result.cause
    assert WORDS.get(name, "") in result.advice
    assert result.to_paste == lines
    sent = f"Bearer {key}" if key not in ("", FOREIGN_KEY) else None
    assert [request.header("authorization") for request in websim_server.requests] == [sent, sent]


# The project


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
    assert head.startswith("GET /api/v1/projects/mine HTTP/1.1\r\n")
    assert "uthorization" not in head
    assert result.requests[2].startswith(f"lookup {status}  ")
    assert result.requests[3].startswith("chat   200" if random_works else "chat   403")
    assert (verdict in result.cause) if verdict else "exist" not in result.cause
    assert result.to_paste == (["unset WEBSIM_PROJECT_ID", SET_PROJECT] if random_works else [SET_PROJECT])
    assert len(server.requests) == 4


# One endpoint only


@pytest.mark.parametrize(
    ("works", "fault", "words", "lines"),
    [
        ("chat", refusal(500, "no GPU"), "Chat works, images do not.\nCause: The server failed.", REPORT),
        ("image", refusal(500, "no model"), "Images work, chat does not.\nCause: The server failed.", REPORT),
        ("chat", refusal(404, "Not Found"), "Chat works, images do not.\nCause: The API is not", UPGRADE),
    ],
)
def test_says_which_endpoint_works(websim_server, run_check, works, fault, words, lines):
    if works == "chat":
        websim_server.reply("Hello")
    websim_server.inject(fault)
    result = run_check()
    assert result.status == 1
    assert f"\n\n{words}" in result.text
    assert result.to_paste == lines


# Other sites


def test_advises_the_other_host_of_websim_if_it_works(websim_server, other_server, known_hosts, run_check):
    websim_server.inject(refusal(404, "Not Found"), times=2)
    result = run_check()
    assert result.requests[2:] == [f"chat   200  {other_server.url.removeprefix('http://')}: ok"]
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
    assert run_check().to_paste == [*UPGRADE, SET_URL]


def test_explains_the_refusal_of_the_host_that_was_reached(websim_server, other_server, known_hosts, run_check):
    websim_server.inject(page(403, "Just a moment...", **CHALLENGE), times=2)
    other_server.inject(refusal(404, "Project not found"))
    result = run_check()
    assert result.cause.startswith(f"Websim refused the project id. Response 404 from {other_server.url[7:]}")
    assert result.to_paste == [f"export WEBSIM_URL={other_server.url}", SET_PROJECT]


def test_sends_nothing_more_after_a_rate_limit(websim_server, other_server, known_hosts, run_check):
    websim_server.inject(refusal(429, "Rate limit exceeded"), times=2)
    assert run_check().status == 1
    assert not other_server.requests


def test_advises_to_remove_the_path_from_the_url(websim_server, run_check, monkeypatch):
    monkeypatch.setattr(Websim, "url", f"{websim_server.url}/api/v1")
    result = run_check()
    assert result.advice == "Remove the path /api/v1 from WEBSIM_URL:"
    assert result.to_paste == [f"export WEBSIM_URL={websim_server.url}"]


def test_advises_https_after_a_redirect_to_https(websim_server, run_check):
    https = websim_server.url.replace("http:", "https:")
    websim_server.inject(redirect(https + CHAT_PATH), times=2)
    assert f"export WEBSIM_URL={https}" in run_check().to_paste


# The token that websim-cli stored


@pytest.fixture
def store_token(tmp_path, monkeypatch) -> Callable[[str], None]:
    """A function that writes the file in which websim-cli keeps its token, in an empty home folder."""
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    return lambda content: tmp_path.joinpath(".websim-cli.json").write_text(content) and None


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


UNUSABLE_FILES = ["", "{}", "[]", "null", '{"authToken": 1}', '{"authToken": "x"}', "[" * 100_000]


@pytest.mark.parametrize("content", [*UNUSABLE_FILES, json.dumps({"authToken": EXPIRED_TOKEN})])
def test_does_not_offer_an_unusable_stored_token(websim_server, run_check, store_token, content):
    store_token(content)
    result = run_check()
    assert result.status == 0
    assert "websim-cli" not in result.text
    websim_server.inject(Fault(status=401), times=2)
    assert run_check().to_paste == LOG_IN


@pytest.mark.parametrize("layout", [{"indent": 2}, {"separators": (",", ":")}, {"separators": (", ", " : ")}])
def test_pasted_line_sets_the_stored_token(store_token, layout):
    store_token(json.dumps({"user": "x", "authToken": STORED_TOKEN, "created": "y"}, **layout))
    assert run_in_shell(COPY_TOKEN, "WEBSIM_API_KEY") == STORED_TOKEN


# The connection


@pytest.mark.parametrize(
    ("proxy_of_others", "lines"),
    [
        ("", [SET_PROXY, USE_DEFAULT]),
        (f"http://user:{MARKER}@127.0.0.1:3128", ['export G4F_PROXY="$https_proxy"', USE_DEFAULT]),
        ("proxy.example:3128", [SET_PROXY, USE_DEFAULT]),
    ],
    ids=["none", "usable", "malformed"],
)
def test_advises_to_open_the_site_that_refuses_connections(run_check, monkeypatch, closed_port, proxy_of_others, lines):
    monkeypatch.setattr(Websim, "url", f"http://{HOST}:{closed_port}")
    monkeypatch.setenv("https_proxy", proxy_of_others)
    result = run_check("--report")
    assert [line.split("  ")[-1] for line in result.requests] == ["no connection", "no connection"]
    assert re.fullmatch(r"No response from 127.0.0.1:\d+: no connection \(.*\)", result.cause)
    assert "run g4f-websim check" not in result.text
    assert result.advice.startswith(f"Open {Websim.url} in a browser, to see whether this machine reaches it.")
    assert ("https_proxy is not used. If you need a proxy:" in result.advice) is (MARKER in proxy_of_others)
    assert result.to_paste == lines


def test_advises_a_proxy_if_no_host_of_websim_is_reached(run_check, monkeypatch, closed_port):
    url = f"http://{HOST}:{closed_port}"
    replace_known_hosts(monkeypatch, url, f"http://localhost:{closed_port}")
    monkeypatch.setattr(Websim, "url", url)
    result = run_check()
    assert [line.split()[1] for line in result.requests] == ["-", "-", "-"]
    assert result.to_paste == [SET_PROXY]


def test_reports_a_closed_connection_after_one_request(websim_server, run_check):
    websim_server.inject(Fault(disconnect=True), times=2)
    assert "the connection was closed" in run_check().cause
    assert len(websim_server.requests) == 2


def test_ends_a_request_without_a_response_after_the_timeout(websim_server, run_check, monkeypatch):
    monkeypatch.setattr(probe, "TIMEOUT", 0.02)
    websim_server.inject(Fault(delay=5), times=2)
    result = run_check()
    assert [line.split("  ")[-1] for line in result.requests] == ["no response within 0.02 s"] * 2
    assert result.cause == f"No response from {websim_server.url.removeprefix('http://')} within 0.02 s"


def test_advises_http_for_a_server_without_tls(websim_server, run_check, monkeypatch):
    monkeypatch.setattr(Websim, "url", websim_server.url.replace("http:", "https:"))
    result = run_check()
    assert result.advice == "The server does not speak https. Use http:"
    assert result.to_paste == [f"export WEBSIM_URL={websim_server.url}"]


def test_advises_to_check_the_clock_if_the_certificate_is_not_valid(run_check, monkeypatch):
    with raw_server_in_thread(tls=server_context(trustme.CA(), HOST)) as server:
        monkeypatch.setattr(Websim, "url", server.url)
        result = run_check()
    assert "the certificate is not valid" in result.cause
    assert result.advice.startswith("Check the clock and WEBSIM_URL; if Python has no certificates, set SSL_CERT_FILE")


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


def test_names_the_proxy_that_refuses_connections(websim_server, run_check, monkeypatch, closed_port):
    proxy = f"{HOST}:{closed_port}"
    monkeypatch.setenv("G4F_PROXY", f"http://user:{MARKER}@{proxy}")
    result = run_check()
    assert f"no connection through the proxy {proxy} (" in result.cause
    assert result.to_paste == [SET_PROXY, "unset G4F_PROXY"]
    assert not websim_server.requests


def test_names_the_https_proxy_that_does_not_speak_tls(websim_server, other_server, run_check, monkeypatch):
    proxy = other_server.url.replace("http://", f"https://user:{MARKER}@")
    monkeypatch.setenv("G4F_PROXY", proxy)
    result = run_check("--report")
    assert f"no connection through the proxy {other_server.url.removeprefix('http://')}" in result.cause
    assert "If it is one of the many proxies whose URL begins with http://:" in result.advice
    assert result.to_paste[1:] == ["export G4F_PROXY=https://<host>:<port>", "unset G4F_PROXY"]
    assert run_in_shell(result.to_paste[0], "G4F_PROXY") == proxy.replace("https:", "http:")
    assert not websim_server.requests


def test_names_the_https_proxy_whose_certificate_is_not_valid(websim_server, run_check, monkeypatch):
    with raw_server_in_thread(tls=server_context(trustme.CA(), HOST)) as proxy:
        monkeypatch.setenv("G4F_PROXY", proxy.url)
        result = run_check()
    assert f"no connection through the proxy {proxy.host}" in result.cause
    assert result.to_paste == ["export G4F_PROXY=https://<host>:<port>", "unset G4F_PROXY"]
    assert not websim_server.requests


@pytest.mark.parametrize(
    ("reply", "lines"),
    [(b"220 mail.example ready\r\n", ["export WEBSIM_URL=http://websim.example"]), (b"", [USE_DEFAULT])],
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
    assert result.cause.startswith(f"The proxy {host} needs a login.")
    assert result.advice.startswith("Put its user and password into its URL:")
    assert result.to_paste == [f"export G4F_PROXY=http://<user>:<password>@{host}", "unset G4F_PROXY"]


def test_names_the_package_for_a_socks_proxy(run_check, monkeypatch):
    monkeypatch.setitem(sys.modules, "aiohttp_socks", None)
    monkeypatch.setenv("G4F_PROXY", "socks5://proxy.example:1080")
    monkeypatch.setattr(Websim, "url", "http://websim.example")
    result = run_check()
    assert result.cause == "No response from websim.example: a SOCKS proxy needs one more package"
    assert result.to_paste == ["pip install aiohttp_socks"]
