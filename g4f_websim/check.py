"""`g4f-websim check`: find out whether Websim works from this machine and, if not, why.

It sends one request to each endpoint. If one fails, it tries what else is known to work, with at most six requests.
"""

import argparse
import asyncio
import json
import os
import platform
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

from . import login, request, response, transport
from .causes import RUN_CHECK, Reason
from .endpoints import API_URL, CHAT_PATH, DEFAULT_URL, IMAGE_PATH
from .errors import timeout_error
from .provider import Websim
from .redaction import excerpt, redact
from .target import PROXY_VARIABLE, Target

COLUMNS = 100
INDENT = " " * 4
MAX_FURTHER_REQUESTS = 6
MAX_EXCERPT_CHARS = 300

# Seconds for one request: a person waits for the result.
TIMEOUT = 60.0

MESSAGES = [{"role": "user", "content": "Say hello."}]

# The login of websim-cli, Websim's own command line tool.
TOKEN_FILE = "~/.websim-cli.json"
TOKEN_FIELD = "authToken"
COPY_TOKEN = f"""export {login.TOKEN_VARIABLE}=$(sed -n 's/.*"{TOKEN_FIELD}": *"\\([^"]*\\)".*/\\1/p' {TOKEN_FILE})"""

REPORTED_HEADERS = ("date", "server", "content-type", "retry-after", "location")
REPORTED_PREFIX = "cf-"

# Each of Websim's hosts, with the other one.
_OTHER_HOST = {DEFAULT_URL: API_URL, API_URL: DEFAULT_URL}

# How a line that the user can paste begins.
_PASTED = ("export ", "unset ", "g4f-websim ", "pip ", "websim-cli ")

# No other host or project can help: the proxy fails for all of them, or the API works and declines.
_FINAL_REASONS = (Reason.PROXY_FAILED, Reason.RATE_LIMITED, Reason.NO_CREDITS)


@dataclass(frozen=True)
class Settings:
    """What a request is sent with; an empty project id stands for a random one."""

    site: str
    project_id: str = ""
    token: str | None = None
    proxy: str | None = None

    def target(self, path: str) -> Target:
        """Return where a request to an endpoint goes."""
        # The key is named even if it is not sent, so that it is redacted.
        return Target(self.site + path, self.token, os.environ.get(login.TOKEN_VARIABLE), self.proxy)


@dataclass(frozen=True)
class Probe:
    """One request and its result; `error` is None if it was answered."""

    kind: str
    settings: Settings
    target: Target
    seconds: float
    response: transport.Response | None
    error: Any

    @property
    def status(self) -> str:
        """The HTTP status, or a dash if no response arrived."""
        status = self.response.status if self.response else self.error.status
        return str(status or "-")

    @property
    def verdict(self) -> str:
        """The result in words."""
        if not self.error:
            return "ok"
        message = str(self.error)
        for start in (f"Response {self.status} from {self.target.host}: ", f"No response from {self.target.host}: "):
            message = message.removeprefix(start)
        return message


def main(argv: Sequence[str]) -> int:
    """Run the check and return the exit status: 0 if both endpoints answer, else 1.

    Args:
        argv: the arguments after `g4f-websim check`.
    """
    parser = argparse.ArgumentParser(
        "g4f-websim check", description="Find out whether Websim works here, and if not, why."
    )
    parser.add_argument(
        "--also",
        metavar="URL",
        action="append",
        default=[],
        type=_site,
        help="another site to try if Websim fails, without your login; may be repeated",
    )
    parser.add_argument("--report", action="store_true", help="print a report for a bug report; it contains no secret")
    options = parser.parse_args(argv)
    environment = _environment()
    _print(environment)
    try:
        settings = _read_settings()
    except ValueError as error:
        _print(f"Nothing was sent: {error}")
        return 1
    probes = asyncio.run(_run(settings, options.also))
    failed = next((probe for probe in probes if probe.error), None)
    if failed:
        _print_diagnosis(failed, probes)
    if options.report:
        _print_report(environment, probes)
    return 1 if failed else 0


def _site(url: str) -> str:
    try:
        Target(url)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("WEBSIM_URL: ")) from None
    return url.rstrip("/")


def _environment() -> str:
    packages = ", ".join(f"{name} {version(name)}" for name in ("g4f-websim", "g4f", "aiohttp"))
    return f"{packages}, Python {platform.python_version()}, {platform.system()} {platform.machine()}"


def _read_settings() -> Settings:
    """Read the settings and print them.

    Raises:
        ValueError: a setting is malformed; the message names it.
    """
    key = os.environ.get(login.TOKEN_VARIABLE)
    proxy = os.environ.get(PROXY_VARIABLE)
    token = key if login.is_token(key) else None
    settings = Settings(Websim.url.rstrip("/"), request.check_project_id(None), token, proxy)
    target = settings.target("")
    _print(f"site     {_redacted(settings.site, target)}")
    _print(f"project  {settings.project_id or f'random ({request.PROJECT_VARIABLE} is not set)'}")
    _print(f"login    {_describe_login(key)}")
    _print(f"proxy    {target.proxy_host or f'none ({PROXY_VARIABLE} is not set)'}\n")
    return settings


def _describe_login(key: str | None) -> str:
    if login.is_token(key):
        expiry = login.token_expiry(key)
        state = "expired" if login.is_expired(key) else "expires"
        return f"a token that {state} on {expiry:%Y-%m-%d %H:%M} UTC" if expiry else "a token without an expiry date"
    if key:
        return f"none ({login.TOKEN_VARIABLE} is not a Websim token, so it is not sent)"
    if _has_stored_token():
        return f"none; {TOKEN_FILE} has a token. To use it:\n{INDENT}{COPY_TOKEN}"
    return f"none ({login.TOKEN_VARIABLE} is not set)"


def _has_stored_token() -> bool:
    """Return whether websim-cli stored a token; the token is not used."""
    try:
        return login.is_token(json.loads(Path(TOKEN_FILE).expanduser().read_text()).get(TOKEN_FIELD))
    except (OSError, ValueError, AttributeError):
        return False


async def _run(settings: Settings, also: list[str]) -> list[Probe]:
    """Send the requests, print a line for each, and return what they led to."""
    chat, image = await _probe("chat", settings), await _probe("image", settings)
    probes = [chat, image]
    if not chat.error or chat.error.reason in _FINAL_REASONS:
        return probes
    for number, other in enumerate(_alternatives(chat, also)):
        if number == 0:
            _print("\nTrying what else is known to work:")
        probes.append(await _probe("chat", other, prefix=f"{_describe_change(settings, other)}: "))
        if not probes[-1].error:
            break
    return probes


def _alternatives(chat: Probe, also: list[str]) -> Iterator[Settings]:
    """Yield the settings that are worth a try after a chat that failed."""
    settings = chat.settings
    candidates = []
    if chat.error.reason == Reason.PROJECT_REFUSED and settings.project_id:
        candidates.append(replace(settings, project_id=""))
    if settings.site in _OTHER_HOST:
        candidates.append(replace(settings, site=_OTHER_HOST[settings.site]))
    # A host that is not known to be Websim's does not get the login token.
    candidates += [replace(settings, site=site, token=None) for site in also if site != settings.site]
    yield from candidates[:MAX_FURTHER_REQUESTS]


def _describe_change(settings: Settings, other: Settings) -> str:
    return other.site if other.site != settings.site else "with a random project"


async def _probe(kind: str, settings: Settings, prefix: str = "") -> Probe:
    """Send one request and print its result in one line."""
    is_image = kind == "image"
    project_id = settings.project_id or Websim.generate_project_id(for_image=is_image)
    read: Callable[[str], str]
    if is_image:
        target, read = settings.target(IMAGE_PATH), lambda body: response.image_url(body, settings.site)
        body = request.image_body(project_id, MESSAGES, None, None)
    else:
        target, read = settings.target(CHAT_PATH), response.chat_text
        body = request.chat_body(project_id, MESSAGES)
    page = request.IMAGE_PAGE if is_image else request.CHAT_PAGE
    headers = request.build_headers(settings.site, page, settings.token)
    started = time.perf_counter()
    try:
        async with asyncio.timeout(TIMEOUT):
            outcome = await transport.attempt_once(transport.Request(target, headers, json.dumps(body).encode()), read)
    except TimeoutError:
        outcome = transport.Outcome(error=timeout_error(TIMEOUT, target))
    probe = Probe(kind, settings, target, time.perf_counter() - started, outcome.response, outcome.error)
    start = f"{kind:<7}{probe.status:<5}{probe.seconds:>6.2f} s  "
    print(start + excerpt(prefix + probe.verdict, target.secrets, COLUMNS - len(start)), flush=True)
    return probe


def _print_diagnosis(failed: Probe, probes: list[Probe]) -> None:
    """Print the cause in words and the lines to paste."""
    working = next((probe for probe in probes if probe.kind == "chat" and not probe.error), None)
    if failed.kind == "chat" and working:
        steps = _steps_to(working, failed)
    else:
        steps = _steps_after(failed)
    _print("\nCause: " + str(failed.error).replace(f"; {RUN_CHECK}", ""))
    if steps:
        _print("\nWhat to do:")
    for step in steps:
        # Lines to paste are not wrapped.
        print(f"{INDENT}{step}" if step.startswith(_PASTED) else textwrap.fill(step, COLUMNS), flush=True)


def _steps_to(working: Probe, failed: Probe) -> list[str]:
    if working.settings.site != failed.settings.site:
        return [f"Use {working.settings.site}, which answers:", _export("WEBSIM_URL", working.settings.site)]
    return [
        "Your project is refused, a random one is not. Use random ones:",
        f"unset {request.PROJECT_VARIABLE}",
        "or set a project of your own, the last part of websim.com/p/<id>:",
        _export(request.PROJECT_VARIABLE, "<id>"),
    ]


def _steps_after(failed: Probe) -> list[str]:
    """Return what to do about a failure for which nothing that works was found."""
    match failed.error.reason:
        case Reason.PROJECT_REFUSED:
            return [
                f"Open a project of your own on {DEFAULT_URL}. Its id is the last part of websim.com/p/<id>:",
                _export(request.PROJECT_VARIABLE, "<id>"),
            ]
        case Reason.LOGIN_NEEDED | Reason.LOGIN_EXPIRED:
            return [
                f"Log in with Websim's own command line tool. It stores the token in {TOKEN_FILE} ({TOKEN_FIELD}):",
                "websim-cli login",
                COPY_TOKEN,
                "or paste the token yourself:",
                _export(login.TOKEN_VARIABLE, "<token>"),
            ]
        case Reason.API_MOVED:
            return _steps_after_move(failed)
        case Reason.API_CHANGED:
            return ["Look for a newer version:", "pip install --upgrade g4f-websim"]
        case Reason.RATE_LIMITED:
            return [
                "Websim works, but too many requests were sent. Wait, then run the check again:",
                "g4f-websim check",
            ]
        case Reason.PROXY_FAILED:
            return [
                "Correct the proxy:",
                _export(PROXY_VARIABLE, "http://user:password@host:3128"),
                "or use none:",
                f"unset {PROXY_VARIABLE}",
            ]
        case Reason.NO_CONNECTION | Reason.TIMEOUT:
            return _steps_without_connection(failed)
        case _:
            return []


def _steps_after_move(failed: Probe) -> list[str]:
    location = failed.response.headers.get("Location", "") if failed.response else ""
    parts = urlsplit(urljoin(failed.target.url, location))
    origin = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    if location and not failed.target.url.startswith(f"{origin}/"):
        return [
            f"Websim sends you to {origin}. If you trust it, try it:",
            f"g4f-websim check --also {origin}",
            "and if it answers, use it:",
            _export("WEBSIM_URL", origin),
        ]
    if failed.settings.site not in (DEFAULT_URL, API_URL):
        return [f"WEBSIM_URL is not {DEFAULT_URL}. Use the default:", "unset WEBSIM_URL"]
    return [
        f"Open {DEFAULT_URL} in a browser: a network may want a login first, or Websim has moved. If it has moved:",
        _export("WEBSIM_URL", "https://<new host>"),
    ]


def _steps_without_connection(failed: Probe) -> list[str]:
    steps = [
        f"Open {_redacted(failed.settings.site, failed.target)} in a browser to see whether your network reaches it."
    ]
    if not failed.settings.proxy and (os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy")):
        steps += ["HTTPS_PROXY is not used. If you need a proxy:", f'export {PROXY_VARIABLE}="$HTTPS_PROXY"']
    if failed.settings.site not in (DEFAULT_URL, API_URL):
        steps += [f"WEBSIM_URL is not {DEFAULT_URL}. To use the default:", "unset WEBSIM_URL"]
    return steps


def _export(variable: str, value: str) -> str:
    return f"export {variable}={value}"


def _print_report(environment: str, probes: list[Probe]) -> None:
    """Print a Markdown block for a bug report, without secrets."""
    _print(f"\n### g4f-websim check\n\n{environment}")
    for probe in probes:
        _print(f"\n- POST {_redacted(probe.target.url, probe.target)}: {probe.status}, {probe.seconds:.2f} s")
        if not probe.response:
            _print(f"{INDENT}{probe.error}")
            continue
        for name, value in probe.response.headers.items():
            if name.lower() in REPORTED_HEADERS or name.lower().startswith(REPORTED_PREFIX):
                _print(f"{INDENT}{name.lower()}: {_redacted(value, probe.target)}")
        _print(f"{INDENT}body: {excerpt(probe.response.text, probe.target.secrets, MAX_EXCERPT_CHARS)}")


def _redacted(text: str, target: Target) -> str:
    return redact(text, target.secrets)


def _print(text: str) -> None:
    """Print text, wrapped to the width of a terminal."""
    for line in text.split("\n"):
        indent = INDENT if line.startswith(INDENT) else ""
        print(textwrap.fill(line, COLUMNS, subsequent_indent=indent) if len(line) > COLUMNS else line, flush=True)
