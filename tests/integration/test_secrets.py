"""Keys, tokens and passwords go where they belong and nowhere else, and the embedded Websim gives nothing away."""

import asyncio
import base64
import gzip
import http.client
import json
import logging
import os
import socket
import sys
import traceback
from urllib.parse import quote, urlsplit

import g4f.debug
import g4f.errors
import pytest
import trustme
from g4f.client import AsyncClient

from g4f_websim import Websim, provider
from g4f_websim.emulator import Emulator
from g4f_websim.emulator.server import MAX_REQUEST_BYTES
from g4f_websim.endpoints import CHAT_PATH
from tests.support.calls import HELLO, ask
from tests.support.fast_server import socks_proxy
from tests.support.raw_server import HOST, Request, Step, raw_server
from tests.support.raw_server import http as response
from tests.support.tls import server_context


def base64url(data: str) -> str:
    return base64.urlsafe_b64encode(data.encode()).decode().rstrip("=")


KEY = "sk-marker-of-key"
ENVIRONMENT_KEY = "sk-marker-of-environment"
LOCAL_PART = "marker.of.email"
EMAIL = f"{LOCAL_PART}@example.com"
CLAIMS = base64url(json.dumps({"sub": "1", "email": EMAIL}))
SIGNATURE = "marker-of-signature"
JWT = ".".join([base64url(json.dumps({"alg": "HS256"})), CLAIMS, SIGNATURE])

USER = "user"
PASSWORD = "marker@of/pass?word"
QUOTED_PASSWORD = quote(PASSWORD, safe="")
BASIC_LOGIN = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()

# None of these may be seen, nor what is left where one is cut.
ODD_PASSWORDS = ("marker of password", "marker%", "marker'\"\\", "markér", "€marker", "[marker", QUOTED_PASSWORD)
MARKERS = (KEY, ENVIRONMENT_KEY, LOCAL_PART, CLAIMS[:20], SIGNATURE, PASSWORD, QUOTED_PASSWORD, BASIC_LOGIN[:12])

SECONDS_STALLED = 0.2


@pytest.fixture
async def told(monkeypatch, caplog, capfd):
    """Return what was logged or printed so far, every log being at its most talkative."""
    lines = []
    asyncio.get_running_loop().set_debug(True)
    caplog.set_level(0)
    monkeypatch.setattr(g4f.debug, "logging", True)
    monkeypatch.setattr(g4f.debug, "log_handler", lambda *text, file=None: lines.append(" ".join(map(str, text))))
    logging.captureWarnings(True)
    yield lambda: "\n".join([*lines, caplog.text, *capfd.readouterr()])
    logging.captureWarnings(False)


def markers_in(text: str) -> list[str]:
    return [marker for marker in MARKERS if marker in text]


def said_by(error: BaseException | None) -> str:
    """Return all that an error and those behind it can show."""
    if error is None:
        return ""
    texts = [str(error), repr(error), repr(error.args), *traceback.format_exception(error)]
    return "\n".join([*texts, said_by(error.__cause__), said_by(error.__context__)])


async def error_of(model: str | None = None, **arguments: object) -> Exception:
    with pytest.raises(Exception) as raised:
        await ask(model, HELLO, **{"api_key": JWT, **arguments})
    assert raised.type.__module__.startswith("g4f")
    return raised.value


def in_pieces(said: str) -> str:
    return " ".join(f"{said[:length]}\n{' ' * 50}" for length in range(0, len(said), 7))


ECHOES = {
    "as it came": lambda said: said,
    "in JSON": lambda said: json.dumps({"error": said}),
    "in JSON, escaped": lambda said: json.dumps({"error": said}).replace("/", "\\/").replace("@", "\\u0040"),
    "percent-encoded": lambda said: quote(said, safe=""),
    "after a letter": lambda said: said.replace("Bearer ", "Bearer\\n").replace(LOCAL_PART, f"\\n{LOCAL_PART}"),
    "in a page's title": lambda said: f"<html><title>{EMAIL}</title>{said}",
    "in a page's title, the token": lambda said: f"<html><title>{JWT[:90]}</title>{said}",
    "cut to pieces": in_pieces,
    "cut, after a letter": lambda said: f"n{JWT[:-5]}",
    "at the end of what is shown": lambda said: "x" * 190 + said,
    "at the end of what is looked at": lambda said: " " * (10_000 - len("Bearer ") - 60) + said,
    "the address at the end of what is looked at": lambda said: " " * (10_000 - len(LOCAL_PART)) + EMAIL,
}


@pytest.mark.parametrize("status", [200, 302, 400, 401, 403, 429, 500, 504])
@pytest.mark.parametrize("echo", ECHOES.values(), ids=ECHOES)
async def test_what_a_server_echoes_shows_no_secret(server, told, monkeypatch, echo, status):
    def echoing(request: Request) -> list[bytes]:
        lines = request.head.decode().split("\r\n")
        said = next(line.partition(": ")[2] for line in lines if line.lower().startswith("authorization"))
        return [response(echo(f"{said} {EMAIL}").encode(), status, [("Location", quote(said))])]

    server.respond = echoing
    monkeypatch.setattr(provider, "TOKEN", ENVIRONMENT_KEY)
    error = await error_of("flux")
    assert markers_in(said_by(error) + told()) == []


@pytest.mark.parametrize("with_proxy", [False, True])
async def test_a_token_of_an_unusual_form_is_not_shown_either(server, monkeypatch, with_proxy):
    token = f"{base64url('{' + chr(10) + json.dumps('alg') + ': 1}')}.{CLAIMS}.{SIGNATURE}"
    assert Websim.is_provider_api_key(token)
    monkeypatch.setattr(provider, "TOKEN", token)
    server.respond = lambda request: [response(logins_of(request), 400)]
    proxy = f"http://{USER}:{QUOTED_PASSWORD}@{server.host}" if with_proxy else None
    error = await error_of(api_key=KEY, proxy=proxy)
    assert "authorization: Bearer ***" in str(error)
    assert markers_in(said_by(error)) == []


WAYS_TO_FAIL = {
    "closed": [],
    "reset": [Step.RESET],
    "stalled": [Step.STALL],
    "malformed": [f"HTTP/1.1 200 OK\r\nContent-Length: {JWT} {PASSWORD}\r\n\r\n".encode()],
    "a header that is none": [f"HTTP/1.1 200 OK\r\n{JWT}\0{BASIC_LOGIN}: x\r\n\r\n".encode()],
    "refused": [response(BASIC_LOGIN.encode(), 407)],
    "refused in the reason": [f"HTTP/1.1 407 {BASIC_LOGIN} {PASSWORD}\r\n\r\n".encode()],
    "redirected": [response(status=302, headers=[("Location", f"http://{USER}:{QUOTED_PASSWORD}@{HOST}/")])],
}


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("script", WAYS_TO_FAIL.values(), ids=WAYS_TO_FAIL)
async def test_a_proxy_that_fails_shows_no_secret(server, told, monkeypatch, script, scheme):
    server.respond = lambda request: script
    monkeypatch.setattr(Websim, "url", f"{scheme}://websim.example")
    error = await error_of(proxy=f"http://{USER}:{QUOTED_PASSWORD}@{server.host}", timeout=SECONDS_STALLED)
    assert markers_in(said_by(error) + told()) == []


@pytest.mark.parametrize("scheme", ["http", "https", "socks4", "socks5", "socks5h", "ftp"])
@pytest.mark.parametrize("password", ODD_PASSWORDS)
async def test_a_proxy_that_is_not_there_shows_no_password(server, told, password, scheme):
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        proxy = f"{scheme}://{USER}:{password}@{HOST}:{taken.getsockname()[1]}"
        with pytest.raises((ValueError, g4f.errors.ResponseError)) as raised:
            await ask(None, HELLO, proxy=proxy)
    assert "marker" not in said_by(raised.value) + told()


@pytest.mark.parametrize("said", [PASSWORD, QUOTED_PASSWORD])
async def test_what_is_said_behind_a_socks_proxy_shows_no_password(server, said):
    server.respond = lambda request: [response(said.encode(), 400)]
    with socks_proxy(PASSWORD) as host:
        error = await error_of(proxy=f"socks5://{USER}:{QUOTED_PASSWORD}@{host}")
    assert "Response 400: ***" in str(error)


def logins_of(request: Request) -> bytes:
    """Return the lines of a request that a server should not say again."""
    return b"\n".join(line for line in request.head.splitlines() if b"uthorization" in line)


async def test_an_error_that_g4fs_client_hands_on_shows_no_secret(server, told, monkeypatch):
    monkeypatch.setattr(provider, "TOKEN", ENVIRONMENT_KEY)
    server.respond = lambda request: [response(logins_of(request), 400)]
    for key in (KEY, JWT):
        with pytest.raises(g4f.errors.ResponseStatusError) as raised:
            await AsyncClient(provider="Websim", api_key=key).chat.completions.create(HELLO)
        assert markers_in(said_by(raised.value) + told()) == []


@pytest.mark.parametrize("model", ["", "flux"])
async def test_a_key_that_is_no_token_is_sent_to_nobody(server, monkeypatch, model):
    server.respond = lambda request: [response(b'{"content": "fine", "url": "/cat.png"}')]
    monkeypatch.setattr(provider, "TOKEN", ENVIRONMENT_KEY)
    for key in (KEY, {"Websim": KEY}, {"Other": JWT}, None):
        await ask(model, HELLO, api_key=key)
    assert len(server.requests) == 4
    for request in server.requests:
        assert markers_in((request.head + request.body).decode()) == []
        assert b"authorization" not in request.head.lower()


async def test_a_token_is_sent_in_one_header_and_nowhere_else(server):
    await ask(None, HELLO, api_key=JWT)
    (request,) = server.requests
    without_header = request.head.replace(f"authorization: Bearer {JWT}\r\n".encode(), b"", 1)
    assert without_header != request.head
    assert markers_in((without_header + request.body).decode()) == []


async def test_the_environment_has_a_token_only_where_it_is_read(server, monkeypatch):
    monkeypatch.setattr(provider, "TOKEN", JWT)
    await ask(None, HELLO)
    assert f"authorization: Bearer {JWT}".encode() in server.requests[0].head


@pytest.mark.parametrize("status", [300, 301, 302, 303, 305, 307, 308])
async def test_a_redirect_sees_no_request_at_all(server, status):
    async with raw_server() as elsewhere:
        server.respond = lambda request: [response(status=status, headers=[("Location", elsewhere.url)])]
        await error_of()
    assert not elsewhere.requests


@pytest.mark.parametrize("header", ["Refresh", "Alt-Svc", "Content-Location", "Link"])
async def test_no_header_of_an_answer_leads_elsewhere(server, header):
    async with raw_server() as elsewhere:
        server.play([response(b'{"content": "fine"}', headers=[(header, f"0; url={elsewhere.url}")])])
        await ask(None, HELLO, api_key=JWT)
        await ask(None, HELLO, api_key=JWT)
    assert not elsewhere.requests


@pytest.mark.parametrize("name", ["base_url", "api_base", "url", "host", "api_endpoint", "chat_api_endpoint"])
async def test_no_argument_leads_elsewhere(server, name):
    async with raw_server() as elsewhere:
        assert await ask(None, HELLO, api_key=JWT, **{name: elsewhere.url}) == ["fine"]
    assert not elsewhere.requests


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "NETRC"])
async def test_no_variable_of_other_programs_leads_elsewhere(server, monkeypatch, tmp_path, name):
    (tmp_path / ".netrc").write_text(f"machine {HOST} login {USER} password {KEY}")
    async with raw_server() as elsewhere:
        monkeypatch.setenv(name, str(tmp_path / ".netrc") if name == "NETRC" else elsewhere.url)
        assert await ask(None, HELLO, api_key=JWT) == ["fine"]
    assert not elsewhere.requests
    assert markers_in(server.requests[0].head.decode().replace(JWT, "")) == []


async def test_a_cookie_of_one_call_is_not_sent_with_the_next(server):
    server.play([response(b'{"content": "fine"}', headers=[("Set-Cookie", f"session={SIGNATURE}; Path=/")])])
    await ask(None, HELLO)
    await ask(None, HELLO)
    assert b"cookie" not in server.requests[1].head.lower()


async def test_a_plain_proxy_is_given_its_own_login(server, monkeypatch):
    monkeypatch.setattr(Websim, "url", "http://websim.example")
    await ask(None, HELLO, proxy=f"http://{USER}:{QUOTED_PASSWORD}@{server.host}")
    head = server.requests[0].head.decode()
    assert f"Proxy-Authorization: Basic {BASIC_LOGIN}\r\n" in head
    assert markers_in(head.replace(BASIC_LOGIN, "")) == []


async def test_a_proxy_that_is_to_connect_is_not_given_the_token(server, monkeypatch):
    monkeypatch.setattr(Websim, "url", "https://websim.example")
    server.respond = lambda request: [response(status=403)]
    await error_of(proxy=f"http://{USER}:{QUOTED_PASSWORD}@{server.host}")
    head = server.requests[0].head.decode()
    assert head.startswith("CONNECT websim.example:443 ")
    assert markers_in(head.replace(BASIC_LOGIN, "")) == []


NO_VERIFICATION = {"ssl": False, "verify": False, "verify_ssl": False, "ssl_context": None, "insecure": True}


async def test_nothing_switches_the_verification_of_tls_off(monkeypatch):
    for name, value in (("PYTHONHTTPSVERIFY", "0"), ("CURL_CA_BUNDLE", ""), ("NODE_TLS_REJECT_UNAUTHORIZED", "0")):
        monkeypatch.setenv(name, value)
    async with raw_server(tls=server_context(trustme.CA(), HOST)) as stranger:
        monkeypatch.setattr(Websim, "url", stranger.url)
        assert "certificate verify failed" in str(await error_of(**NO_VERIFICATION))
    assert not stranger.requests


async def run_command(*words: str, **environment: str) -> str:
    """Return all that the command prints, in a process of its own."""
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-X", "dev", "-m", "g4f_websim", *words),
        env={**os.environ, **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    printed, _ = await child.communicate()
    return printed.decode()


@pytest.mark.parametrize("words", [["check"], ["client", "Hello"], ["client", "--debug", "Hello"]])
@pytest.mark.parametrize("key", [JWT, ENVIRONMENT_KEY], ids=["token", "another's key"])
async def test_the_command_prints_no_secret(server, key, words):
    server.respond = lambda request: [response(logins_of(request) + f" {EMAIL}".encode(), 400)]
    proxy = f"http://{USER}:{QUOTED_PASSWORD}@{server.host}"
    printed = await run_command(
        *words, WEBSIM_URL="http://websim.example", WEBSIM_API_KEY=key, G4F_PROXY=proxy, G4F_DISABLE_VERSION_CHECK="1"
    )
    assert "Response 400" in printed
    assert markers_in(printed) == []


def answer_of(emulator: Emulator, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(urlsplit(emulator.url).netloc, timeout=20)
    try:
        connection.putrequest(method, path, skip_host=True)
        for name, value in {"Host": "websim", "Content-Length": str(len(body)), **headers}.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders(body)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


FILES_OF_THE_MACHINE = [
    "/etc/passwd",
    "//etc/passwd",
    "/../../../../etc/passwd",
    "/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
    "/..%2f..%2f..%2f..%2fetc/passwd",
    "/\\..\\..\\etc\\passwd",
    "/etc/passwd%00.png",
    "file:///etc/passwd",
    "/offline/../../../etc/passwd",
    "/offline/1x1/../../../../etc/passwd",
    "/offline/1x1/..%2f..%2f..%2fetc%2fpasswd.png",
    "/offline/1x1/000000000000.png/../../../../etc/passwd",
    "/.env",
    "/emulator/server.py",
    "/static/server.py",
]


@pytest.mark.parametrize("path", FILES_OF_THE_MACHINE)
def test_the_embedded_websim_serves_no_file(websim_server, path):
    status, body = answer_of(websim_server, "GET", path)
    assert status in (400, 404)
    assert len(body) < 100


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "TRACE", "OPTIONS", "GET"])
def test_the_embedded_websim_takes_no_other_method(websim_server, method):
    status, _ = answer_of(websim_server, method, CHAT_PATH)
    assert status == 405


def test_the_embedded_websim_is_on_loopback_alone(websim_server):
    parts = urlsplit(websim_server.url)
    assert parts.hostname == HOST
    with socket.socket() as other, pytest.raises(OSError):
        other.connect(("127.0.0.2", parts.port))


def test_the_embedded_websim_reads_no_endless_body(websim_server):
    status, _ = answer_of(websim_server, "POST", CHAT_PATH, b" " * (MAX_REQUEST_BYTES + 1))
    assert status == 413
    assert not websim_server.requests


def test_the_embedded_websim_unfolds_no_endless_body(websim_server):
    folded = gzip.compress(bytes(MAX_REQUEST_BYTES + 1), 1)
    status, _ = answer_of(websim_server, "POST", CHAT_PATH, folded, Content_Encoding="gzip")
    assert status == 413
