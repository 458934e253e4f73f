"""`g4f-websim check` against the emulator and raw servers: what it prints, and what it sends."""

from __future__ import annotations

import asyncio
import io
import json
import re
import socketserver
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import pytest
import trustme
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from g4f_websim import Websim, check, check_settings, check_steps, diagnosis
from g4f_websim.emulator import Emulator, Fault
from g4f_websim.endpoints import CHAT_PATH, IMAGE_PATH
from g4f_websim.request import check_project_id
from g4f_websim.target import Target
from tests.support.calls import make_token
from tests.support.limits import MAX_SECONDS
from tests.support.processes import make_home, run_command
from tests.support.raw_server import HOST, RawServer, Step, raw_server
from tests.support.raw_server import http_response as response
from tests.support.tls import server_context

COLUMNS = 100


properties = settings(max_examples=100, derandomize=True, database=None, deadline=None)

# All secrets of these tests contain this word.
MARKER = "marker"
EMAIL = f"{MARKER}@example.com"
TOKEN = make_token(exp=4_000_000_000, email=EMAIL)
EXPIRED_TOKEN = make_token(exp=1_700_000_000, email=EMAIL)
STORED_TOKEN = make_token(exp=4_000_000_001, email=EMAIL)
FOREIGN_KEY = f"sk-{MARKER}"

COPY_TOKEN = """export WEBSIM_API_KEY=$(sed -n 's/.*"authToken" *: *"\\([^"]*\\)".*/\\1/p' ~/.websim-cli.json)"""
LOG_IN = ["websim-cli login", COPY_TOKEN, "export WEBSIM_API_KEY=<token>"]
UPGRADE = ["pip install --upgrade g4f-websim", "g4f-websim check --report"]
SET_PROJECT = "export WEBSIM_PROJECT_ID=<id>"
SET_URL = "export WEBSIM_URL=https://<host>"
SET_PROXY = "export G4F_PROXY=http://<host>:<port>"
USE_DEFAULT = "unset WEBSIM_URL"


@dataclass(frozen=True)
class Result:
    """What a person reads after a check."""

    status: int
    text: str

    @property
    def lines(self) -> list[str]:
        return self.text.splitlines()

    @property
    def requests(self) -> list[str]:
        """The line of each request, without its seconds."""
        return [re.sub(r" +[0-9.]+ s  ", "  ", line) for line in self.lines if re.match("(chat|image) ", line)]

    @property
    def cause(self) -> str:
        """The cause, on one line."""
        rest = self.text.partition("\nCause: ")[2]
        return " ".join(line.strip() for line in takewhile(bool, rest.splitlines()))

    @property
    def advice(self) -> str:
        """The words of what to do, on one line."""
        return " ".join(line.removeprefix("- ").strip() for line in self._steps if not line.startswith("    "))

    @property
    def to_paste(self) -> list[str]:
        """The lines to paste."""
        return [line.strip() for line in self._steps if line.startswith("    ")]

    @property
    def _steps(self) -> list[str]:
        return list(takewhile(bool, self.text.partition("What to do:\n")[2].splitlines()))


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    for name in check_settings.OTHER_PROXY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def run_check(capsys) -> Callable[..., Result]:
    """Return a function that runs the check; no line of it may be wide, and no secret may be in it."""

    def run_and_read(*words: str) -> Result:
        status = check.main(words)
        printed = capsys.readouterr()
        assert printed.err == ""
        assert [line for line in printed.out.splitlines() if len(line) > COLUMNS or line != line.rstrip()] == []
        assert MARKER not in printed.out
        assert "\n\n\n" not in printed.out
        for token in (TOKEN, EXPIRED_TOKEN, STORED_TOKEN):
            assert token[-20:] not in printed.out
        return Result(status, printed.out)

    return run_and_read


@pytest.fixture
def websim(websim_server) -> Emulator:
    return websim_server


@pytest.fixture
def other() -> Iterator[Emulator]:
    """A second host with the same API."""
    with Emulator() as emulator:
        yield emulator


@pytest.fixture
def default_site(websim, other, monkeypatch):
    """Websim's two known hosts, played by two emulators."""
    replace_known_hosts(monkeypatch, websim.url, other.url)


def replace_known_hosts(monkeypatch, default_url: str, api_url: str) -> None:
    for module in (check_settings, diagnosis):
        monkeypatch.setattr(module, "DEFAULT_URL", default_url)
        monkeypatch.setattr(module, "API_URL", api_url)


def json_fault(status: int, content: object, **headers: str) -> Fault:
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return Fault(status=status, headers=headers, body=json.dumps(content).encode())


def refusal(status: int, reason: str, **headers: str) -> Fault:
    return json_fault(status, {"error": reason}, **headers)


def redirect(location: str) -> Fault:
    return Fault(status=307, headers={"Location": location}, body=b"")


def page(status: int, title: str, **headers: str) -> Fault:
    body = f"<!doctype html><html><head><title>{title}</title></head><body>{EMAIL}</body></html>"
    return Fault(status=status, headers={"Content-Type": "text/html", **headers}, body=body.encode())


def store_token(home, content: str) -> None:
    home.joinpath(".websim-cli.json").write_text(content)


def run_in_shell(line: str, show: str) -> str:
    """Run lines in a shell and return the value of a variable."""
    return subprocess.check_output(["sh", "-c", f'{line}\nprintf %s "${show}"'], text=True, timeout=MAX_SECONDS)


@contextmanager
def raw_server_in_thread(*scripts: object, **options: object) -> Iterator[RawServer]:
    """Run a raw server in a thread, because the check blocks this one."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def call(coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(MAX_SECONDS)

    stack = AsyncExitStack()
    try:
        server = call(stack.enter_async_context(raw_server(**options)))
        server.play(*scripts)
        yield server
    finally:
        call(stack.aclose())
        loop.call_soon_threadsafe(loop.stop)
        thread.join(MAX_SECONDS)
        loop.close()


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


# It works


def test_sends_one_request_to_each_endpoint_that_works(websim, other, run_check):
    result = run_check("--also", other.url)
    assert result.status == 0
    assert result.requests == ["chat   200  ok", "image  200  ok"]
    assert [request.path for request in websim.requests] == [CHAT_PATH, IMAGE_PATH]
    assert not other.requests


def test_shows_versions_and_settings(websim, run_check):
    result = run_check()
    assert re.match(r"g4f-websim \S+, g4f \S+, aiohttp \S+, Python 3\.\S+, \w+ \w+\n", result.text)
    assert result.lines[1:6] == [
        f"site     {websim.url}",
        "project  random (WEBSIM_PROJECT_ID is not set)",
        "login    none (WEBSIM_API_KEY is not set)",
        "proxy    none (G4F_PROXY is not set)",
        "",
    ]


def test_sends_configured_project_and_token(websim, run_check, monkeypatch):
    monkeypatch.setenv("WEBSIM_PROJECT_ID", "https://websim.com/p/ke3_xh5gai3gjkmruomu")
    monkeypatch.setenv("WEBSIM_API_KEY", TOKEN)
    result = run_check()
    assert result.lines[2:4] == [
        "project  ke3_xh5gai3gjkmruomu",
        "login    a token that expires on 2096-10-02 07:06 UTC",
    ]
    assert {request.json["project_id"] for request in websim.requests} == {"ke3_xh5gai3gjkmruomu"}
    assert {request.header("authorization") for request in websim.requests} == {f"Bearer {TOKEN}"}


def test_sends_random_projects_of_both_shapes(websim, run_check):
    run_check()
    chat, image = (request.json["project_id"] for request in websim.requests)
    assert re.fullmatch("[a-z0-9]{3}_[a-z0-9]{16}", chat)
    assert re.fullmatch("[a-z0-9]{7}_[a-z0-9]{12}", image)


@pytest.mark.parametrize(
    ("key", "shown"),
    [
        (EXPIRED_TOKEN, "a token that expired on 2023-11-14 22:13 UTC"),
        (make_token(sub=MARKER), "a token without an expiry date"),
        (FOREIGN_KEY, "none (WEBSIM_API_KEY is not a Websim token, so it is not sent)"),
    ],
)
def test_describes_login(websim, run_check, monkeypatch, key, shown):
    monkeypatch.setenv("WEBSIM_API_KEY", key)
    assert run_check().lines[3] == f"login    {shown}"


def test_sends_requests_through_the_proxy(websim, other, run_check, monkeypatch):
    monkeypatch.setattr(Websim, "url", "http://websim.example")
    monkeypatch.setenv("G4F_PROXY", other.url.replace("//", f"//user:{MARKER}@"))
    result = run_check()
    assert result.status == 0
    assert result.lines[4] == f"proxy    {other.url}"
    assert len(other.requests) == 2


def test_does_not_take_an_upper_case_scheme_for_a_login(websim, run_check, monkeypatch):
    monkeypatch.setattr(Websim, "url", websim.url.replace("http", "HTTP"))
    assert "user and password" not in run_check().text


def test_help_fits_into_the_width(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(COLUMNS))
    with pytest.raises(SystemExit, match="0"):
        check.main(["--help"])
    lines = capsys.readouterr().out.splitlines()
    assert any("--also URL" in line for line in lines)
    assert [line for line in lines if len(line) > COLUMNS] == []


# The project is refused


def test_advises_a_project_of_your_own_if_a_random_one_is_refused(websim, run_check):
    websim.inject(refusal(404, "Project not found"), times=2)
    result = run_check()
    assert result.status == 1
    assert result.requests == ["chat   404  Websim refused the project id", "image  404  Websim refused the project id"]
    assert result.cause.startswith("Websim refused the project id. Response 404 from 127.0.0.1:")
    assert result.cause.endswith(': {"error": "Project not found"}')
    assert result.advice == (
        "Open a project of your own on https://websim.com, and set its id, the last part of websim.com/p/<id>:"
    )
    assert result.to_paste == [SET_PROJECT]
    assert len(websim.requests) == 2


def test_advises_random_projects_if_only_the_configured_one_is_refused(websim, run_check, monkeypatch):
    monkeypatch.setenv("WEBSIM_PROJECT_ID", "mine")
    websim.inject(refusal(400, "invalid project_id"), times=2)
    result = run_check()
    assert result.status == 1
    assert result.requests[2:] == ["chat   200  with a random project: ok"]
    assert result.to_paste == ["unset WEBSIM_PROJECT_ID", SET_PROJECT]
    assert "Use random project ids:" in result.advice
    assert len(websim.requests) == 3


def test_advises_a_project_of_your_own_if_every_project_is_refused(websim, run_check, monkeypatch):
    monkeypatch.setenv("WEBSIM_PROJECT_ID", "mine")
    websim.inject(refusal(403, "this project is private"), times=3)
    result = run_check()
    assert result.requests[2:] == ["chat   403  with a random project: Websim refused the project id"]
    assert result.to_paste == [SET_PROJECT]
    assert len(websim.requests) == 3


# Login


def test_advises_to_log_in(websim, run_check):
    websim.inject(refusal(401, f"no user {EMAIL}"), times=2)
    result = run_check()
    assert result.cause.startswith("Login needed. Response 401 from ")
    assert result.to_paste == LOG_IN
    assert "the value of authToken in ~/.websim-cli.json" in result.advice


def test_says_when_the_token_expired(websim, run_check, monkeypatch):
    monkeypatch.setenv("WEBSIM_API_KEY", EXPIRED_TOKEN)
    websim.inject(refusal(401, f"{EXPIRED_TOKEN} expired"), times=2)
    result = run_check()
    assert result.cause.startswith("The login token expired on 2023-11-14 22:13 UTC. Response 401 ")
    assert result.to_paste == LOG_IN


def test_advises_a_new_login_or_another_network_if_the_token_is_refused(websim, run_check, monkeypatch):
    monkeypatch.setenv("WEBSIM_API_KEY", TOKEN)
    websim.inject(refusal(403, "forbidden"), times=2)
    result = run_check()
    assert result.cause.startswith("Websim refused the login token.")
    assert result.to_paste == LOG_IN
    assert result.advice.endswith("Or try from another network.")


def test_does_not_send_the_key_of_another_service(websim, run_check, monkeypatch):
    monkeypatch.setenv("WEBSIM_API_KEY", FOREIGN_KEY)
    websim.inject(refusal(401, f"not {FOREIGN_KEY}"), times=2)
    result = run_check("--report")
    assert result.cause.startswith("Login needed.")
    assert result.to_paste == LOG_IN
    assert [request.header("authorization") for request in websim.requests] == [None, None]


def test_advises_to_log_in_if_the_site_redirects_to_its_login_page(websim, run_check):
    websim.inject(redirect(f"/login?token={MARKER}"), times=2)
    result = run_check("--report")
    assert f"A redirect to {websim.url}/login, a login page, which was not followed." in result.cause
    assert result.to_paste == LOG_IN


def test_names_the_login_page_of_the_network(websim, run_check):
    websim.inject(redirect(f"http://portal.example/login#{MARKER}"), times=2)
    result = run_check("--report")
    assert "A redirect to http://portal.example/login, a login page" in result.cause
    assert result.advice.startswith(
        "If http://portal.example is the login page of your network, open it in a browser and log in. Log in with"
    )


def test_offers_the_stored_token_but_does_not_send_it(websim, run_check, home):
    store_token(home, json.dumps({"authToken": STORED_TOKEN}))
    result = run_check()
    assert result.status == 0
    assert result.text.endswith(
        f"\n\n~/.websim-cli.json has a login token, which was not sent. To use it:\n    {COPY_TOKEN}\n"
    )
    assert [request.header("authorization") for request in websim.requests] == [None, None]


@pytest.mark.parametrize("key", ["", FOREIGN_KEY, EXPIRED_TOKEN])
def test_advises_to_log_in_with_the_stored_token(websim, run_check, home, monkeypatch, key):
    monkeypatch.setenv("WEBSIM_API_KEY", key)
    store_token(home, json.dumps({"authToken": STORED_TOKEN}))
    websim.inject(Fault(status=401), times=2)
    result = run_check()
    assert result.to_paste == [COPY_TOKEN]
    assert result.advice == "Log in with the token that websim-cli stored in ~/.websim-cli.json:"
    assert result.text.count(COPY_TOKEN) == 1


@pytest.mark.parametrize("key", ["", EXPIRED_TOKEN])
def test_does_not_offer_an_expired_stored_token(websim, run_check, home, monkeypatch, key):
    monkeypatch.setenv("WEBSIM_API_KEY", key)
    store_token(home, json.dumps({"authToken": EXPIRED_TOKEN}))
    assert "websim-cli" not in run_check().text
    websim.inject(Fault(status=401), times=2)
    assert run_check().to_paste == LOG_IN


@pytest.mark.parametrize("content", ["", "{}", "[]", "null", '{"authToken": 1}', '{"authToken": "x"}', "[" * 100_000])
def test_ignores_file_without_token(websim, run_check, home, content):
    store_token(home, content)
    result = run_check()
    assert result.status == 0
    assert "websim-cli" not in result.text


@pytest.mark.parametrize("layout", [{"indent": 2}, {"separators": (",", ":")}, {"separators": (", ", " : ")}])
def test_pasted_line_sets_the_stored_token(home, layout):
    store_token(home, json.dumps({"user": "x", "authToken": STORED_TOKEN, "created": "y"}, **layout))
    assert run_in_shell(COPY_TOKEN, "WEBSIM_API_KEY") == STORED_TOKEN


# The API has moved


@pytest.mark.parametrize("fault", [refusal(404, "Not Found"), page(404, "Not found"), Fault(status=410)])
def test_advises_the_default_url_if_the_api_is_not_at_the_configured_url(websim, run_check, fault):
    websim.inject(fault, times=2)
    result = run_check()
    assert result.cause.startswith("The API is not at this URL. Response 4")
    assert result.to_paste == [USE_DEFAULT, SET_URL]
    assert "WEBSIM_URL is not the default, https://websim.com." in result.advice
    assert len(websim.requests) == 2


def test_advises_to_remove_the_path_from_the_url(websim, run_check, monkeypatch):
    monkeypatch.setattr(Websim, "url", f"{websim.url}/api/v1")
    result = run_check()
    assert result.advice == "Remove the path /api/v1 from WEBSIM_URL:"
    assert result.to_paste == [f"export WEBSIM_URL={websim.url}"]


def test_names_the_host_of_a_redirect_as_one_to_check(websim, run_check):
    websim.inject(redirect(f"https://websim.example/api?token={MARKER}"), times=2)
    result = run_check("--report")
    assert "A redirect to https://websim.example/api, which was not followed." in result.cause
    assert "If you trust it as a new host of Websim, check it:" in result.advice
    assert result.to_paste == [
        "g4f-websim check --also https://websim.example",
        "export WEBSIM_URL=https://websim.example",
    ]


def test_advises_https_after_a_redirect_to_https(websim, run_check):
    https = websim.url.replace("http:", "https:")
    websim.inject(redirect(https + CHAT_PATH), times=2)
    assert f"export WEBSIM_URL={https}" in run_check().to_paste


def test_advises_an_upgrade_after_a_redirect_to_another_path(websim, run_check):
    websim.inject(redirect("/api/v2"), times=2)
    assert run_check().to_paste == [USE_DEFAULT, *UPGRADE, SET_URL]


@pytest.mark.parametrize(
    "location",
    [
        *("https://a$(touch${IFS}pwned).example/", "https://;reboot", f"https://{FOREIGN_KEY}.example/"),
        *("//[", "https://", "https://websim.example:99999/", "https://websim.example:0/"),
    ],
)
def test_does_not_propose_a_malicious_or_malformed_target_of_a_redirect(websim, run_check, monkeypatch, location):
    monkeypatch.setenv("WEBSIM_API_KEY", FOREIGN_KEY)
    websim.inject(redirect(location), times=2)
    assert run_check().to_paste == [USE_DEFAULT, SET_URL]


def test_names_a_captive_portal(websim, run_check):
    websim.inject(page(200, "Hotel Wi-Fi"), times=2)
    result = run_check()
    assert result.cause.startswith("Something other than the API responded. Response 200 from ")
    assert "Hotel Wi-Fi" in result.cause
    assert result.advice.startswith(
        f"A captive portal or a proxy may have responded. Open {websim.url} in a browser. "
        "If your network shows a login page, log in. Then check again:"
    )
    assert result.to_paste == ["g4f-websim check", USE_DEFAULT, SET_URL]


# Websim's other host, and --also


def test_advises_the_other_host_of_websim_if_it_works(websim, other, default_site, run_check):
    websim.inject(refusal(404, "Not Found"), times=2)
    result = run_check()
    host = other.url.removeprefix("http://")
    assert result.status == 1
    assert result.requests[2:] == [f"chat   200  {host}: ok"]
    assert result.advice == f"Use {other.url}, which responds:"
    assert result.to_paste == [f"export WEBSIM_URL={other.url}"]
    assert [len(websim.requests), len(other.requests)] == [2, 1]


def test_advises_the_default_host_if_it_works(websim, other, default_site, run_check, monkeypatch):
    monkeypatch.setattr(Websim, "url", other.url)
    other.inject(Fault(status=503), times=2)
    result = run_check()
    assert result.advice == f"Use the default, {websim.url}, which responds:"
    assert result.to_paste == [USE_DEFAULT]


def test_advises_an_upgrade_if_neither_host_of_websim_has_the_api(websim, other, default_site, run_check):
    for emulator in (websim, other):
        emulator.inject(refusal(404, "Not Found"), times=2)
    result = run_check()
    assert result.to_paste == [*UPGRADE, SET_URL]
    assert [len(websim.requests), len(other.requests)] == [2, 1]


def test_explains_the_refusal_of_the_host_that_was_reached(websim, other, default_site, run_check):
    websim.inject(page(403, "Just a moment...", **{"cf-mitigated": "challenge"}), times=2)
    other.inject(refusal(404, "Project not found"))
    result = run_check()
    assert result.cause.startswith(f"Websim refused the project id. Response 404 from {other.url[7:]}")
    assert result.to_paste == [f"export WEBSIM_URL={other.url}", SET_PROJECT]


def test_advises_a_proxy_if_no_host_of_websim_is_reached(run_check, monkeypatch, closed_port):
    url = f"http://{HOST}:{closed_port}"
    replace_known_hosts(monkeypatch, url, f"http://localhost:{closed_port}")
    monkeypatch.setattr(Websim, "url", url)
    result = run_check()
    assert [line.split()[1] for line in result.requests] == ["-", "-", "-"]
    assert result.advice.startswith(f"Open {url} in a browser, to see whether this machine reaches")
    assert result.to_paste == [SET_PROXY]


def test_sends_requests_to_the_sites_of_also_until_one_works(websim, other, run_check, closed_port):
    websim.inject(Fault(status=404), times=2)
    closed = f"{HOST}:{closed_port}"
    result = run_check("--also", f"http://{closed}", "--also", f"{other.url}/", "--also", f"http://{closed}/late")
    assert result.requests[2:] == [
        f"chat   -  {closed}: no connection",
        f"chat   200  {other.url.removeprefix('http://')}: ok",
    ]
    assert result.to_paste == [f"export WEBSIM_URL={other.url}"]


def test_does_not_send_the_token_to_the_sites_of_also(websim, other, run_check, monkeypatch):
    monkeypatch.setenv("WEBSIM_API_KEY", TOKEN)
    websim.inject(Fault(status=404), times=2)
    result = run_check("--also", other.url)
    assert [request.header("authorization") for request in other.requests] == [None]
    assert result.advice == f"Use {other.url}, which responds. It will receive your login token:"


def test_sends_one_request_to_each_different_site_of_also(websim, other, run_check):
    websim.inject(Fault(status=404), times=2)
    other.inject(Fault(status=404))
    run_check("--also", websim.url, "--also", other.url, "--also", other.url)
    assert [len(websim.requests), len(other.requests)] == [2, 1]


def test_sends_at_most_eight_requests(websim, other, run_check, monkeypatch):
    monkeypatch.setenv("WEBSIM_PROJECT_ID", "mine")
    websim.inject(refusal(404, "no such project"), times=8)
    sites = [part for number in range(9) for part in ("--also", f"{other.url}/{number}")]
    result = run_check(*sites)
    assert len(result.requests) == 8
    assert len(websim.requests) == 3


def test_wraps_a_long_url_so_that_a_shell_joins_it(websim, run_check):
    websim.inject(Fault(status=404), times=2)
    with raw_server_in_thread() as server:
        url = server.url + "/deeper" * 40
        result = run_check("--also", url)
    pasted = result.text.partition("    export")[2]
    assert run_in_shell(f"export{pasted}", "WEBSIM_URL") == url


# Websim declines


@pytest.mark.parametrize(
    "fault",
    [page(403, "Just a moment...", **{"cf-mitigated": "challenge"}), refusal(503, "", cf_mitigated="challenge")],
)
def test_advises_another_network_after_a_bot_challenge(websim, run_check, fault):
    websim.inject(fault, times=2)
    result = run_check()
    assert result.cause.startswith("Cloudflare sent a bot challenge.")
    assert result.advice.startswith("Try from another network, without a VPN.")
    assert result.to_paste == [SET_PROXY]


@pytest.mark.parametrize("fault", [refusal(402, "Payment required"), refusal(403, "Insufficient credits")])
def test_advises_to_wait_or_log_in_if_no_credits_are_left(websim, other, run_check, fault):
    websim.inject(fault, times=2)
    result = run_check("--also", other.url)
    assert result.cause.startswith("No credits left.")
    assert result.to_paste == [f"export WEBSIM_URL={other.url}"]
    websim.inject(fault, times=2)
    assert run_check().to_paste == ["g4f-websim check", *LOG_IN]


def test_sends_nothing_more_after_a_rate_limit(websim, default_site, other, run_check, monkeypatch):
    monkeypatch.setenv("WEBSIM_API_KEY", TOKEN)
    websim.inject(refusal(429, "Rate limit exceeded", retry_after="30"), times=2)
    result = run_check()
    assert result.cause.startswith("Too many requests. Response 429 from ")
    assert result.advice == "Wait 30 s, log in, or use another provider. Then check again:"
    assert result.to_paste == ["g4f-websim check"]
    assert not other.requests


def test_advises_another_network_if_the_region_is_blocked(websim, run_check):
    websim.inject(Fault(status=451), times=2)
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
def test_advises_an_upgrade_if_the_api_has_changed(websim, run_check, fault, cause):
    websim.inject(fault, times=2)
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
def test_advises_to_wait_and_then_to_report_if_the_server_fails(websim, run_check, fault, cause):
    websim.inject(fault, times=2)
    result = run_check()
    assert result.cause.startswith(cause)
    assert result.advice.startswith("Try again later or use another provider. If this persists, report it")
    assert result.to_paste == ["g4f-websim check --report"]


# One endpoint only


def test_says_that_only_chat_works(websim, other, run_check):
    websim.reply("Hello")
    websim.inject(refusal(500, "no GPU"))
    result = run_check("--also", other.url)
    assert result.status == 1
    assert "\n\nChat works, images do not.\nCause: The server failed.\n" in result.text
    assert not other.requests


def test_says_that_only_images_work(websim, run_check):
    websim.inject(refusal(500, "no model"))
    result = run_check()
    assert result.status == 1
    assert "\n\nImages work, chat does not.\nCause: The server failed.\n" in result.text


def test_advises_an_upgrade_if_only_one_endpoint_has_moved(websim, run_check):
    websim.reply("Hello")
    websim.inject(refusal(404, "Not Found"))
    assert run_check().to_paste == UPGRADE


# The network


def test_advises_to_open_the_site_that_refuses_connections(run_check, monkeypatch, closed_port):
    monkeypatch.setattr(Websim, "url", f"http://{HOST}:{closed_port}")
    result = run_check("--report")
    assert [line.split("  ")[-1] for line in result.requests] == ["no connection", "no connection"]
    assert re.fullmatch(r"No response from 127.0.0.1:\d+: no connection \(.*\)", result.cause)
    assert "run g4f-websim check" not in result.text
    assert result.advice.startswith(f"Open {Websim.url} in a browser, to see whether this machine reaches it.")
    assert result.to_paste == [SET_PROXY, USE_DEFAULT]


def test_names_the_variable_with_a_proxy_for_other_programs(run_check, monkeypatch, closed_port):
    monkeypatch.setattr(Websim, "url", f"http://{HOST}:{closed_port}")
    monkeypatch.setenv("https_proxy", f"http://user:{MARKER}@127.0.0.1:3128")
    result = run_check()
    assert "https_proxy is not used. If you need a proxy:" in result.advice
    assert result.to_paste == ['export G4F_PROXY="$https_proxy"', USE_DEFAULT]


def test_does_not_propose_a_malformed_proxy_for_other_programs(run_check, monkeypatch, closed_port):
    monkeypatch.setattr(Websim, "url", f"http://{HOST}:{closed_port}")
    monkeypatch.setenv("https_proxy", "proxy.example:3128")
    assert run_check().to_paste == [SET_PROXY, USE_DEFAULT]


def test_reports_a_closed_connection_after_one_request(websim, run_check):
    websim.inject(Fault(disconnect=True), times=2)
    result = run_check()
    assert "the connection was closed" in result.cause
    assert len(websim.requests) == 2


def test_opens_a_connection_for_each_request(run_check, monkeypatch):
    monkeypatch.setattr(check, "TIMEOUT", 5)
    chat = response(b'{"content": "Hello"}').replace(b"close", b"keep-alive")
    image = response(b'{"url": "https://websim.example/cat.png"}')
    # The server reads nothing more from the first connection. On a reused one, a request may be sent twice.
    with raw_server_in_thread([chat, Step.STALL], [image]) as server:
        monkeypatch.setattr(Websim, "url", server.url)
        assert run_check().status == 0
        assert len(server.requests) == 2


def test_does_not_advise_a_proxy_if_one_is_set(other, run_check, monkeypatch):
    monkeypatch.setattr(Websim, "url", "http://websim.example")
    monkeypatch.setenv("G4F_PROXY", other.url)
    other.inject(Fault(disconnect=True), times=2)
    assert run_check().to_paste == [USE_DEFAULT]


def test_ends_a_request_without_a_response_after_the_timeout(websim, run_check, monkeypatch):
    monkeypatch.setattr(check, "TIMEOUT", 0.02)
    websim.inject(Fault(delay=5), times=2)
    result = run_check()
    assert [line.split("  ")[-1] for line in result.requests] == ["no response within 0.02 s"] * 2
    assert result.cause == f"No response from {websim.url.removeprefix('http://')} within 0.02 s"


def test_advises_http_for_a_server_without_tls(websim, run_check, monkeypatch):
    monkeypatch.setattr(Websim, "url", websim.url.replace("http:", "https:"))
    result = run_check()
    assert result.advice == "The server does not speak https. Use http:"
    assert result.to_paste == [f"export WEBSIM_URL={websim.url}"]


def test_advises_to_check_the_clock_if_the_certificate_is_not_valid(run_check, monkeypatch):
    with raw_server_in_thread(tls=server_context(trustme.CA(), HOST)) as server:
        monkeypatch.setattr(Websim, "url", server.url)
        result = run_check()
    assert "the certificate is not valid" in result.cause
    assert result.advice.startswith("Check the clock and WEBSIM_URL; a network login or a proxy may respond")


# The proxy


def test_names_the_proxy_that_refuses_connections(websim, run_check, monkeypatch, closed_port):
    proxy = f"{HOST}:{closed_port}"
    monkeypatch.setenv("G4F_PROXY", f"http://user:{MARKER}@{proxy}")
    result = run_check()
    assert f"the proxy {proxy} does not respond" in result.cause
    assert result.to_paste == [SET_PROXY, "unset G4F_PROXY"]
    assert not websim.requests


def test_names_the_https_proxy_that_does_not_speak_tls(websim, other, run_check, monkeypatch):
    proxy = other.url.replace("http://", f"https://user:{MARKER}@")
    monkeypatch.setenv("G4F_PROXY", proxy)
    result = run_check("--report")
    assert f"no TLS connection to the proxy {other.url.removeprefix('http://')}" in result.cause
    assert "If it is one of the many proxies whose URL begins with http://:" in result.advice
    assert result.to_paste[1:] == ["export G4F_PROXY=https://<host>:<port>", "unset G4F_PROXY"]
    assert run_in_shell(result.to_paste[0], "G4F_PROXY") == proxy.replace("https:", "http:")
    assert not websim.requests


def test_names_the_https_proxy_whose_certificate_is_not_valid(websim, run_check, monkeypatch):
    with raw_server_in_thread(tls=server_context(trustme.CA(), HOST)) as proxy:
        monkeypatch.setenv("G4F_PROXY", proxy.url)
        result = run_check()
    assert f"the certificate of the proxy {proxy.host} is not valid" in result.cause
    assert result.to_paste == ["export G4F_PROXY=https://<host>:<port>", "unset G4F_PROXY"]
    assert not websim.requests


def test_names_the_site_that_does_not_speak_tls_behind_a_proxy(run_check, monkeypatch):
    monkeypatch.setattr(Websim, "url", "https://websim.example")
    with tunnel(b"220 mail.example ready\r\n") as proxy:
        monkeypatch.setenv("G4F_PROXY", proxy)
        result = run_check()
    assert result.to_paste == ["export WEBSIM_URL=http://websim.example"]


def test_does_not_blame_the_proxy_if_a_tunnel_is_closed(run_check, monkeypatch):
    monkeypatch.setattr(Websim, "url", "https://websim.example")
    with tunnel(b"") as proxy:
        monkeypatch.setenv("G4F_PROXY", proxy)
        result = run_check()
    assert "No response from websim.example: no connection" in result.cause
    assert result.to_paste == [USE_DEFAULT]


def test_advises_the_form_of_a_proxy_url_with_a_login(other, run_check, monkeypatch):
    monkeypatch.setattr(Websim, "url", "http://websim.example")
    monkeypatch.setenv("G4F_PROXY", other.url)
    other.inject(Fault(status=407, body=b""), times=2)
    result = run_check()
    host = other.url.removeprefix("http://")
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


# Malformed settings


@pytest.mark.parametrize(
    ("url", "shown", "corrected"),
    [
        ("websim.example", "websim.example", "https://websim.example"),
        ("localhost:8765/", "localhost:8765", "http://localhost:8765"),
        (f"htps://user:{MARKER}@websim.example", "htps://websim.example", "https://websim.example"),
    ],
)
def test_corrects_url(run_check, monkeypatch, url, shown, corrected):
    monkeypatch.setattr(Websim, "url", url)
    result = run_check()
    assert result.status == 1
    assert "\n\nNothing was sent, because a setting is malformed.\nWEBSIM_URL: a URL like " in result.text
    assert f"not '{shown}'" in result.text
    assert result.to_paste == [f"export WEBSIM_URL={corrected}", USE_DEFAULT]
    assert result.requests == []


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("websim.com", "websim.com"),
        ("https://", "https:"),
        ("http://localhost:99999", "http://localhost:99999"),
        ("websim.com;$(reboot)", "websim.com;$(reboot)"),
        (TOKEN, "***"),
        (f"{TOKEN}, not a URL", "***, not a URL"),
        ("https://a.example?b", "https://a.example?b"),
        (FOREIGN_KEY, "***"),
        (f"{FOREIGN_KEY}.example", "***.example"),
    ],
)
def test_proposes_default_url_if_the_url_cannot_be_corrected(run_check, monkeypatch, url, shown):
    monkeypatch.setattr(Websim, "url", url)
    monkeypatch.setenv("WEBSIM_API_KEY", FOREIGN_KEY)
    result = run_check()
    assert f"not '{shown}'" in " ".join(result.lines)
    assert result.advice == "Use the default, https://websim.com:"
    assert result.to_paste == [USE_DEFAULT]


def test_rejects_a_malformed_project_id(websim, run_check, monkeypatch):
    monkeypatch.setenv("WEBSIM_PROJECT_ID", "my project")
    result = run_check()
    assert result.status == 1
    assert "WEBSIM_PROJECT_ID: 1 to 64 of A-Z a-z 0-9 _ -" in result.text
    assert result.to_paste == [SET_PROJECT, "unset WEBSIM_PROJECT_ID"]
    assert not websim.requests


def test_names_the_page_that_describes_a_project_without_an_id(websim, run_check, monkeypatch):
    monkeypatch.setenv("WEBSIM_PROJECT_ID", "https://websim.com/@ann/my-game")
    result = run_check()
    assert "does not contain the id. See https://websim.com/api/v1/users/ann/slugs/my-game," in result.advice
    assert not websim.requests


def test_does_not_show_a_token_in_the_wrong_variable(websim, run_check, monkeypatch):
    monkeypatch.setenv("WEBSIM_PROJECT_ID", TOKEN)
    assert "not '***" in run_check().text


@pytest.mark.parametrize(
    ("proxy", "shown"),
    [
        (f"user:{MARKER}@127.0.0.1:3128", "127.0.0.1:3128"),
        (f"htp://user:{MARKER}@127.0.0.1:3128", "htp://127.0.0.1:3128"),
        ("127.0.0.1:3128", "127.0.0.1:3128"),
    ],
)
def test_corrects_the_scheme_of_a_proxy(websim, run_check, monkeypatch, proxy, shown):
    monkeypatch.setenv("G4F_PROXY", proxy)
    result = run_check()
    assert "G4F_PROXY: a URL like http://user:password@host:3128 with" in result.text
    assert f"not '{shown}'" in result.text
    assert result.to_paste[1:] == ["unset G4F_PROXY"]
    assert run_in_shell(result.to_paste[0], "G4F_PROXY") == f"http://{proxy.removeprefix('htp://')}"
    assert not websim.requests


@pytest.mark.parametrize("proxy", ["http://127.0.0.1:99999", "http:/127.0.0.1:3128", "ftp://127.0.0.1:0", "x"])
def test_proposes_a_proxy_url_to_fill_in_if_the_url_cannot_be_corrected(websim, run_check, monkeypatch, proxy):
    monkeypatch.setenv("G4F_PROXY", proxy)
    assert run_check().to_paste == [SET_PROXY, "unset G4F_PROXY"]


def test_corrects_the_url_of_also(websim, run_check):
    result = run_check("--also", "websim.example")
    assert result.status == 1
    expected = "a URL like https://websim.com with the scheme http or https and a valid host and port"
    assert f"--also: {expected}, not 'websim.example'" in " ".join(result.text.split())
    assert result.to_paste == ["g4f-websim check --also https://websim.example"]
    assert not websim.requests


def test_proposes_the_other_host_of_websim_if_the_url_of_also_cannot_be_corrected(websim, run_check):
    assert run_check("--also", "http://localhost:99999").to_paste == ["g4f-websim check --also https://api.websim.com"]


# Malformed URLs are made of these parts.
PARTS = ["http", "https", "htp", ":", "//", "://", "localhost", "127.0.0.1", "websim.com", "a", ":8080", ":99999", ":0"]
PARTS += [
    "ann:pass@",
    "@",
    "/",
    "/p",
    "/p/",
    "?b",
    "#c",
    " ",
    "\n",
    "%41",
    ".",
    "-",
    "[::1]",
    "\u00e9",
    "$(id)",
    "'",
    '"',
]
URLS = st.lists(st.sampled_from(PARTS), max_size=6).map("".join)


def is_accepted(check_value: Callable[[str], object], value: str) -> bool:
    try:
        check_value(value)
    except ValueError:
        return False
    return True


def pasted_values(steps: list[check_steps.Step], name: str, value: str) -> list[str]:
    """Return the values that a variable has after each line to paste; placeholders such as <host> are filled in."""
    lines = [line for step in steps for line in step.lines]
    for placeholder, filled in {"<host>": "proxy.example", "<port>": "3128", "<id>": "mine"}.items():
        lines = [line.replace(placeholder, filled) for line in lines]
    script = "\n".join(f"({line}\nprintf '%s\\0' \"${name}\")" for line in lines)
    output = subprocess.check_output(["sh", "-c", script], text=True, env={name: value}, timeout=MAX_SECONDS)
    return output.split("\0")[:-1]


@properties
@given(url=URLS)
@example(url="http://localhost:99999")
def test_every_proposed_url_is_accepted(url):
    assume(not is_accepted(Target, url))
    for value in pasted_values(check_settings.steps_for_url(url), "WEBSIM_URL", url):
        assert value == "" or is_accepted(Target, value)
    for step in check_settings.steps_for_also(url):
        assert all(is_accepted(Target, line.removeprefix("g4f-websim check --also ")) for line in step.lines)


@properties
@given(proxy=URLS)
@example(proxy="http://127.0.0.1:99999")
def test_every_proposed_proxy_is_accepted(proxy):
    def check_proxy(url: str) -> Target:
        return Target("https://websim.com", proxy=url)

    assume(not is_accepted(check_proxy, proxy))
    for value in pasted_values(check_settings.steps_for_proxy(proxy), "G4F_PROXY", proxy):
        assert is_accepted(check_proxy, value)


@properties
@given(project_id=URLS)
def test_every_proposed_project_id_is_accepted(project_id):
    assume(not is_accepted(check_project_id, project_id))
    for value in pasted_values(check_settings.steps_for_project(project_id), "WEBSIM_PROJECT_ID", project_id):
        assert value == "" or is_accepted(check_project_id, value)


# The report and the output


def test_report_shows_requests_and_chosen_headers(websim, run_check):
    headers = {"cf-ray": "8a1-FRA", "Set-Cookie": MARKER, "Retry-After": "7", "X-Other": "hidden"}
    websim.inject(page(503, "Down", **headers))
    websim.inject(redirect(f"https://ann:{MARKER}@websim.example/x?{MARKER}"))
    report = run_check("--report").text.partition("\n\n### g4f-websim check\n\n```text\n")[2]
    assert report.startswith("g4f-websim ")
    assert "\nproject: random, login: none, proxy: none\n" in report
    assert f"\nPOST {websim.url}{CHAT_PATH}\nstatus: 503, " in report
    for line in ("cf-ray: 8a1-FRA", "retry-after: 7", "body: an HTML page: <title>Down</title>"):
        assert f"\n{line}\n" in report
    assert "\nlocation: https://" in report
    assert "hidden" not in report
    assert report.endswith("\n```\n")


@pytest.mark.parametrize(("key", "shown"), [(TOKEN, "token"), (EXPIRED_TOKEN, "expired token")])
def test_report_names_settings(websim, run_check, monkeypatch, key, shown):
    monkeypatch.setenv("WEBSIM_API_KEY", key)
    monkeypatch.setenv("WEBSIM_PROJECT_ID", "mine")
    monkeypatch.setenv("G4F_PROXY", websim.url)
    assert f"project: configured, login: {shown}, proxy: yes" in run_check("--report").text


def test_report_shows_errors_without_response(websim, run_check):
    websim.inject(Fault(disconnect=True))
    report = run_check("--report").text
    assert re.search(r"\nstatus: -, \S+ s\nerror: No response from .*: the connection was closed", report)


def test_does_not_show_the_password_of_the_site(websim, run_check, monkeypatch):
    monkeypatch.setattr(Websim, "url", websim.url.replace("//", f"//user:{MARKER}@"))
    websim.inject(refusal(404, f"no {MARKER}"), times=2)
    result = run_check("--report")
    assert result.lines[1] == f"site     {websim.url} (with a user and password)"


def test_prints_no_control_character_of_a_body(websim, run_check):
    websim.inject(json_fault(200, {"\x1b[31m" + "x" * 500: 1, "two words": EMAIL}), times=2)
    result = run_check("--report")
    assert "\x1b" not in result.text


def test_replaces_characters_that_the_output_cannot_represent(websim, monkeypatch):
    websim.inject(Fault(status=500, body="größer".encode()), times=2)
    output = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", output)
    assert check.main([]) == 1
    output.seek(0)
    assert "gr??er" in output.read()


def test_ends_quietly_if_the_reader_of_the_output_does(websim, tmp_path):
    home = make_home(tmp_path)
    script = f'"{sys.executable}" -m g4f_websim check | head -1'
    done = run_command(home=home, command=("sh", "-c", script), WEBSIM_URL=websim.url)
    assert done.stdout.startswith("g4f-websim ")
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == ""
