"""Secrets: keys, tokens and passwords are sent only where they belong and never shown; the emulator serves no files."""

import asyncio
import base64
import gzip
import json
import logging
import socket
import traceback
from collections.abc import Mapping
from contextlib import closing, suppress
from http.client import HTTPConnection
from urllib.parse import quote, urlsplit

import g4f.errors
import pytest
import trustme
from g4f.client import AsyncClient

from g4f_websim import Websim
from g4f_websim.emulator import Emulator
from g4f_websim.emulator.server import MAX_REQUEST_BYTES
from g4f_websim.wire.endpoints import CHAT_PATH
from g4f_websim.wire.redaction import MAX_SEARCHED_CHARS
from tests.support.calls import G4F_ERRORS, HELLO, base64url, call_websim
from tests.support.fast_server import socks_proxy
from tests.support.interpreter import run_python
from tests.support.limits import MAX_SECONDS
from tests.support.loopback import HOST
from tests.support.raw_server import RawServer, Request, Step, http_response, raw_server
from tests.support.tls import server_context

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

# What shows a secret; of some secrets the beginning, because a text may be truncated.
FORMS = {
    "key": KEY,
    "other key": ENVIRONMENT_KEY,
    "e-mail address": LOCAL_PART,
    "claims of the token": CLAIMS[:20],
    "signature of the token": SIGNATURE,
    "password of the proxy": PASSWORD,
    "percent-encoded password": QUOTED_PASSWORD,
    "login of the proxy": BASIC_LOGIN[:12],
}
# Where an error may show a secret.
PLACES = {
    "message": str,
    "repr": repr,
    "arguments": lambda error: repr(error.args),
    "attributes": lambda error: repr(vars(error)),
    "traceback": lambda error: "".join(traceback.format_exception(error)),
}


def leaks_in(text: str) -> list[str]:
    """Return the names of the secrets in a text."""
    return [name for name, form in FORMS.items() if form in text]


def leaks_of(error: BaseException | None) -> list[tuple[str, list[str]]]:
    """Return where an error, its cause or its context shows which secrets."""
    if error is None:
        return []
    leaks = [(place, leaks_in(show(error))) for place, show in PLACES.items() if leaks_in(show(error))]
    return leaks + leaks_of(error.__cause__) + leaks_of(error.__context__)


@pytest.fixture
async def output(debug_lines, caplog, capfd):
    """A function that returns what was logged or printed so far, with all logs at their most detailed level."""
    asyncio.get_running_loop().set_debug(True)
    caplog.set_level(0)
    logging.captureWarnings(True)
    yield lambda: "\n".join([*debug_lines, caplog.text, *capfd.readouterr()])
    logging.captureWarnings(False)


async def error_of(model: str | None = None, **arguments: object) -> Exception:
    """Return the error of a call, which shows no secret."""
    with pytest.raises((*G4F_ERRORS, ValueError)) as raised:
        await call_websim(model, HELLO, **{"api_key": JWT, **arguments})
    assert leaks_of(raised.value) == []
    return raised.value


# After this many characters, a message of the maximum length ends in the middle of the token.
CHARS_BEFORE_SECRET = 190
# The characters of the token before the end of the searched text.
KEPT_CHARS = 60

ECHOES = {
    "unchanged": lambda text: text,
    "in JSON": lambda text: json.dumps({"error": text}),
    "in escaped JSON": lambda text: json.dumps({"error": text}).replace("/", "\\/").replace("@", "\\u0040"),
    "percent-encoded": lambda text: quote(text, safe=""),
    "after an escaped line break": lambda text: text.replace("Bearer ", "Bearer\\n").replace(EMAIL, f"\\n{EMAIL}"),
    "token in a title": lambda text: f"<html><title>{JWT[:90]}</title>{text}",
    "field names": lambda text: json.dumps(dict.fromkeys(text.split())),
    "truncated by the message": lambda text: "x" * CHARS_BEFORE_SECRET + text,
    "truncated by the search limit": lambda text: " " * (MAX_SEARCHED_CHARS - len("Bearer ") - KEPT_CHARS) + text,
}


@pytest.mark.parametrize("status", [200, 302, 403, 429, 500])
@pytest.mark.parametrize("echo", ECHOES.values(), ids=ECHOES)
async def test_error_does_not_show_secrets_that_a_server_echoes(server, output, monkeypatch, echo, status):
    def respond(request: Request) -> list[bytes]:
        lines = request.head.decode().split("\r\n")
        login = next(line.partition(": ")[2] for line in lines if line.lower().startswith("authorization"))
        return [http_response(echo(f"{login} {EMAIL}").encode(), status, [("Location", quote(login))])]

    server.respond = respond
    monkeypatch.setenv("WEBSIM_API_KEY", ENVIRONMENT_KEY)
    await error_of("flux")
    assert leaks_in(output()) == []


def proxy_url(server: RawServer) -> str:
    """Return the URL of a server as a proxy with a login."""
    return f"http://{USER}:{QUOTED_PASSWORD}@{server.host}"


def login_headers(request: Request) -> bytes:
    """Return the headers of a request that contain a token or a password."""
    return b"\n".join(line for line in request.head.splitlines() if b"uthorization" in line)


async def test_error_does_not_show_token_of_unusual_form(server, monkeypatch):
    token = f"{base64url('{' + chr(10) + json.dumps('alg') + ': 1}')}.{CLAIMS}.{SIGNATURE}"
    assert Websim.is_provider_api_key(token)
    monkeypatch.setenv("WEBSIM_API_KEY", token)
    server.respond = lambda request: [http_response(login_headers(request), 400)]
    error = await error_of(api_key=KEY, proxy=proxy_url(server))
    assert "authorization: Bearer ***" in str(error)


FAILURES = {
    "closed": [],
    "reset": [Step.RESET],
    "malformed": [f"HTTP/1.1 200 OK\r\nContent-Length: {JWT} {PASSWORD}\r\n\r\n".encode()],
    "malformed header": [f"HTTP/1.1 200 OK\r\n{JWT}\0{BASIC_LOGIN}: x\r\n\r\n".encode()],
    "login in the body": [http_response(BASIC_LOGIN.encode(), 407)],
    "login in the reason phrase": [f"HTTP/1.1 407 {BASIC_LOGIN} {PASSWORD}\r\n\r\n".encode()],
    "redirect": [http_response(status=302, headers=[("Location", f"http://{USER}:{QUOTED_PASSWORD}@{HOST}/")])],
    "timeout": [Step.STALL],
}


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("script", FAILURES.values(), ids=FAILURES)
async def test_error_of_http_proxy_does_not_show_secrets(server, output, monkeypatch, script, scheme):
    server.respond = lambda request: script
    monkeypatch.setattr(Websim, "url", f"{scheme}://websim.example")
    is_timeout = script == [Step.STALL]
    error = await error_of(proxy=proxy_url(server), timeout=0.5 if is_timeout else MAX_SECONDS)
    assert isinstance(error, TimeoutError) is is_timeout
    assert server.requests
    assert leaks_in(output()) == []


UNUSUAL_PASSWORDS = ("marker of password", "marker%", "marker'\"\\", "markér", "€marker", "[marker", "marker" * 50)


@pytest.mark.parametrize("scheme", ["http", "https", "socks4", "socks5", "socks5h", "ftp"])
async def test_error_of_dead_proxy_does_not_show_password(server, output, monkeypatch, closed_port, scheme):
    for password in (*UNUSUAL_PASSWORDS, QUOTED_PASSWORD):
        monkeypatch.setitem(FORMS, "unusual password", "mark")
        error = await error_of(proxy=f"{scheme}://{USER}:{password}@{HOST}:{closed_port}")
        assert isinstance(error, ValueError | g4f.errors.ResponseError)
    assert leaks_in(output()) == []


async def test_error_behind_socks_proxy_does_not_show_password(server):
    with socks_proxy(PASSWORD) as host:
        for echo in (PASSWORD, QUOTED_PASSWORD):
            server.respond = lambda request, echo=echo: [http_response(echo.encode(), 400)]
            error = await error_of(proxy=f"socks5://{USER}:{QUOTED_PASSWORD}@{host}")
            assert "Websim refused the request (***)" in str(error)


async def test_error_through_g4f_client_does_not_show_secrets(server, output, monkeypatch):
    monkeypatch.setenv("WEBSIM_API_KEY", ENVIRONMENT_KEY)
    server.respond = lambda request: [http_response(login_headers(request), 400)]
    for key in (KEY, JWT):
        with pytest.raises(g4f.errors.ResponseStatusError) as raised:
            await AsyncClient(provider="Websim", api_key=key).chat.completions.create(HELLO)
        assert leaks_of(raised.value) == []
    assert leaks_in(output()) == []


# The tests of the check hold that it prints no secret.
@pytest.mark.parametrize(("key", "options"), [(JWT, ["--debug"]), (ENVIRONMENT_KEY, [])])
async def test_command_does_not_print_secrets(server, key, options):
    server.respond = lambda request: [http_response(login_headers(request) + f" {EMAIL}".encode(), 400)]
    stdout, stderr = await asyncio.to_thread(
        run_python,
        *("-X", "dev", "-m", "g4f_websim", "client", *options, "Hello"),
        status=1,
        WEBSIM_URL="http://websim.example",
        WEBSIM_API_KEY=key,
        G4F_PROXY=proxy_url(server),
        G4F_DISABLE_VERSION_CHECK="1",
    )
    assert "400" in stdout + stderr
    assert leaks_in(stdout + stderr) == []


# What is sent. The tests of arguments hold which keys are sent, and what a proxy receives.


async def test_token_is_sent_in_one_header_only(server):
    await call_websim(None, HELLO, api_key=JWT)
    (request,) = server.requests
    without_header = request.head.replace(f"authorization: Bearer {JWT}\r\n".encode(), b"", 1)
    assert without_header != request.head
    assert leaks_in((without_header + request.body).decode()) == []


# What names another server, and how.
OTHER_TARGETS = [
    *(("status", status) for status in (300, 301, 302, 303, 305, 307, 308)),
    *(("header", name) for name in ("Refresh", "Alt-Svc", "Content-Location", "Link")),
    *(("argument", name) for name in ("base_url", "api_base", "url", "host", "api_endpoint", "chat_api_endpoint")),
    *(("variable", name) for name in ("HTTP_PROXY", "http_proxy")),
]


@pytest.mark.parametrize(("kind", "name"), OTHER_TARGETS)
async def test_other_server_receives_no_request(server, monkeypatch, kind, name):
    async with raw_server() as other:
        if kind == "status":
            server.play([http_response(status=name, headers=[("Location", other.url)])])
        if kind == "header":
            server.play([http_response(b'{"content": "fine"}', headers=[(name, f"0; url={other.url}")])])
        if kind == "variable":
            monkeypatch.setenv(name, other.url)
        for _ in range(2):
            with suppress(g4f.errors.ResponseStatusError):
                await call_websim(None, HELLO, api_key=JWT, **({name: other.url} if kind == "argument" else {}))
    assert len(server.requests) == 2
    assert not other.requests


async def test_netrc_and_cookies_are_ignored(server, monkeypatch, tmp_path):
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine {HOST} login {USER} password {KEY}")
    monkeypatch.setenv("NETRC", str(netrc))
    server.play([http_response(b'{"content": "fine"}', headers=[("Set-Cookie", f"session={SIGNATURE}; Path=/")])])
    await call_websim(None, HELLO)
    await call_websim(None, HELLO)
    for request in server.requests:
        assert b"authorization" not in request.head.lower()
        assert b"cookie" not in request.head.lower()


async def test_tls_verification_cannot_be_switched_off(monkeypatch):
    for name, value in (("PYTHONHTTPSVERIFY", "0"), ("CURL_CA_BUNDLE", ""), ("NODE_TLS_REJECT_UNAUTHORIZED", "0")):
        monkeypatch.setenv(name, value)
    arguments = {"ssl": False, "verify": False, "verify_ssl": False, "ssl_context": None, "insecure": True}
    async with raw_server(tls=server_context(trustme.CA(), HOST)) as untrusted:
        monkeypatch.setattr(Websim, "url", untrusted.url)
        assert "the certificate is not valid" in str(await error_of(**arguments))
    assert not untrusted.requests


# The emulator


def request_emulator(emulator: Emulator, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] = {}):
    """Send a request with a path exactly as given, and return the status and the body of the response."""
    with closing(HTTPConnection(urlsplit(emulator.url).netloc, timeout=MAX_SECONDS)) as connection:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        return response.status, response.read()


FILE_PATHS = [
    *("/etc/passwd", "//etc/passwd", "/../../../../etc/passwd", "/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd"),
    *("/..%2f..%2f..%2f..%2fetc/passwd", "/\\..\\..\\etc\\passwd", "/etc/passwd%00.png", "file:///etc/passwd"),
    *("/offline/../../../etc/passwd", "/offline/1x1/..%2f..%2f..%2fetc%2fpasswd.png", "/emulator/server.py"),
]


def test_emulator_serves_no_files_and_rejects_other_methods(websim_server):
    for path in FILE_PATHS:
        status, body = request_emulator(websim_server, "GET", path)
        assert (path, status) in ((path, 400), (path, 404))
        assert len(body) < 100
    for method in ("PUT", "DELETE", "PATCH", "TRACE", "OPTIONS", "GET"):
        assert request_emulator(websim_server, method, CHAT_PATH)[0] == 405


def test_emulator_listens_on_loopback_only(websim_server):
    parts = urlsplit(websim_server.url)
    assert parts.hostname == HOST
    with socket.socket() as other, pytest.raises(OSError):
        other.connect(("127.0.0.2", parts.port))


def test_emulator_rejects_large_body(websim_server):
    large = bytes(MAX_REQUEST_BYTES + 1)
    assert request_emulator(websim_server, "POST", CHAT_PATH, large)[0] == 413
    compressed = gzip.compress(large, 1)
    assert request_emulator(websim_server, "POST", CHAT_PATH, compressed, {"Content-Encoding": "gzip"})[0] == 413
    assert not websim_server.requests
