"""`g4f-websim check`: find out whether Websim works from this machine and, if not, why.

It sends one request to each endpoint. If the chat request fails, it sends at most six more, with other settings that
are known to work. check_settings.py reads the settings, and diagnosis.py chooses what to try and what to advise.
"""

import argparse
import asyncio
import json
import platform
import re
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from urllib.parse import urlsplit

from ..provider import Websim
from ..transport import attempts
from ..transport.causes import Step
from ..transport.failures import timed_out, timeout_error
from ..transport.target import PROXY_VARIABLE, Target
from ..wire import bodies, response, tokens
from ..wire.endpoints import CHAT_PATH, IMAGE_PATH
from ..wire.redaction import excerpt, redact
from . import diagnosis
from .check_settings import TOKEN_FILE, SettingError, Settings, check_also, read_settings, without_login
from .diagnosis import Probe, Results

COLUMNS = 100
INDENT = " " * 4
MAX_EXCERPT_CHARS = 300
MAX_SHOWN_HOST_CHARS = 40

# The timeout of one request in seconds. A user waits for the result, so it is shorter than the timeout of a call.
TIMEOUT = 60.0

MESSAGES = [{"role": "user", "content": "Say hello."}]

REPORTED_HEADERS = ("date", "server", "content-type", "retry-after", "location")
REPORTED_PREFIX = "cf-"


def main(argv: Sequence[str]) -> int:
    """Run the check and return the exit status: 0 if both endpoints work, else 1.

    Args:
        argv: the arguments after `g4f-websim check`.
    """
    options = _parse(argv)
    _print(_environment())
    try:
        settings = read_settings()
        for url in options.also:
            check_also(url)
    except SettingError as error:
        _print(f"\nNothing was sent, because a setting is malformed.\n{error}")
        _print_steps(error.steps)
        return 1
    _print_settings(settings)
    results = _run(settings, [url.rstrip("/") for url in options.also])
    failed = diagnosis.failure_to_explain(results)
    steps = diagnosis.steps_for(failed, results) if failed else []
    if failed:
        _print_cause(failed, results)
        _print_steps(steps)
    if not any(diagnosis.COPY_TOKEN in step.lines for step in steps):
        _print_unused_token(settings)
    if options.report:
        _print_report(settings, results)
    return 1 if failed else 0


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "g4f-websim check", description="Find out whether Websim works here, and if not, why."
    )
    also_help = "another site to try if Websim does not work; it does not receive your login; may be repeated"
    parser.add_argument("--also", metavar="URL", action="append", default=[], help=also_help)
    parser.add_argument("--report", action="store_true", help="print a block for a bug report, without secrets")
    return parser.parse_args(argv)


# Settings


def _environment() -> str:
    packages = ", ".join(f"{name} {version(name)}" for name in ("g4f-websim", "g4f", "aiohttp"))
    return f"{packages}, Python {platform.python_version()}, {platform.system()} {platform.machine()}"


def _print_settings(settings: Settings) -> None:
    project_id = redact(settings.project_id, settings.target().secrets)
    has_login = " (with a user and password)" if "@" in settings.site else ""
    lines = {
        "site": redact(settings.shown_site, settings.target().secrets) + has_login,
        "project": project_id or f"random ({bodies.PROJECT_VARIABLE} is not set)",
        "login": _describe_login(settings),
        "proxy": _describe_proxy(settings),
    }
    for name, value in lines.items():
        _print(f"{name:<9}{value}", continued=" " * 9)
    _print("")


def _describe_login(settings: Settings) -> str:
    if settings.token:
        expiry = tokens.token_expiry(settings.token)
        state = "expired" if tokens.is_expired(settings.token) else "expires"
        return f"a token that {state} on {expiry:%Y-%m-%d %H:%M} UTC" if expiry else "a token without an expiry date"
    if settings.key:
        return f"none ({tokens.TOKEN_VARIABLE} is not a Websim token, so it is not sent)"
    return f"none ({tokens.TOKEN_VARIABLE} is not set)"


def _describe_proxy(settings: Settings) -> str:
    scheme = urlsplit(settings.proxy or "").scheme
    return f"{scheme}://{settings.target().proxy_host}" if settings.proxy else f"none ({PROXY_VARIABLE} is not set)"


# Requests


def _run(settings: Settings, also: list[str]) -> Results:
    """Send the requests of the check, and print a line for each."""
    results = Results(_probe("chat", settings), _probe("image", settings), [])
    if not results.chat.error:
        return results
    for other in diagnosis.alternatives(results.chat, also):
        if not results.others:
            _print("\nTrying what else is known to work:")
        results.others.append(_probe("chat", other, prefix=_describe_change(settings, other)))
        if not results.others[-1].error:
            break
    return results


def _describe_change(settings: Settings, other: Settings) -> str:
    if other.site == settings.site:
        return "with a random project: "
    return f"{excerpt(other.target().host, other.target().secrets, MAX_SHOWN_HOST_CHARS)}: "


def _probe(kind: str, settings: Settings, prefix: str = "") -> Probe:
    """Send one request and print its result in one line."""
    print(f"{kind:<7}", end="", flush=True)
    is_image = kind == "image"
    target = settings.target(IMAGE_PATH if is_image else CHAT_PATH)
    started = time.perf_counter()
    # A new event loop opens a new connection. On a reused one, a request could be sent twice.
    outcome = asyncio.run(_send(_build(settings, target, is_image), _reader(settings, is_image)))
    probe = Probe(settings, target, time.perf_counter() - started, outcome.response, outcome.error, outcome.cause)
    start = f"{probe.status or '-':<5}{probe.seconds:>6.2f} s  "
    _print(start + excerpt(prefix + probe.verdict, target.secrets, COLUMNS - len(f"{kind:<7}{start}")))
    return probe


async def _send(prepared: attempts.Request, read: Callable[[str], str]) -> attempts.Outcome:
    try:
        async with asyncio.timeout(TIMEOUT):
            return await attempts.attempt_once(prepared, read)
    except TimeoutError:
        return attempts.Outcome(error=timeout_error(TIMEOUT, prepared.target), cause=timed_out(TIMEOUT))


def _build(settings: Settings, target: Target, is_image: bool) -> attempts.Request:
    project_id = settings.project_id or Websim.generate_project_id(for_image=is_image)
    if is_image:
        body, page = bodies.image_body(project_id, MESSAGES, None, None), bodies.IMAGE_PAGE
    else:
        body, page = bodies.chat_body(project_id, MESSAGES), bodies.CHAT_PAGE
    headers = bodies.build_headers(settings.site, page, settings.token)
    return attempts.Request(target, headers, json.dumps(body).encode())


def _reader(settings: Settings, is_image: bool) -> Callable[[str], str]:
    return (lambda body: response.image_url(body, settings.site)) if is_image else response.chat_text


# The result


def _print_cause(failed: Probe, results: Results) -> None:
    """Print why Websim does not work."""
    _print("")
    if not results.image.error:
        _print("Images work, chat does not.")
    elif not results.chat.error:
        _print("Chat works, images do not.")
    _print(f"Cause: {_describe_cause(failed)}", continued=" " * len("Cause: "))


def _describe_cause(failed: Probe) -> str:
    if not failed.response:
        return diagnosis.sentence(failed.message)
    body = excerpt(failed.response.text, failed.target.secrets, MAX_EXCERPT_CHARS)
    response_line = f"Response {failed.status} from {failed.target.host}"
    return f"{diagnosis.sentence(failed.verdict)}.\n{response_line}{f': {body}' if body else '.'}"


def _print_steps(steps: list[Step]) -> None:
    """Print what to do: sentences, and lines to paste."""
    _print("\nWhat to do:")
    for step in steps:
        _print(f"- {step.text}", continued="  ")
        for line in step.lines:
            _print_pasted(line)


def _print_pasted(line: str) -> None:
    """Print a line to paste. A long line is printed in parts that end with a backslash, so that a shell joins them."""
    length = COLUMNS - len(INDENT) - len("\\")
    parts = [line[start : start + length] for start in range(0, len(line), length)]
    # Only the first part is indented: spaces before another one would become part of the command.
    for part in (INDENT + "\\\n".join(parts)).split("\n"):
        _write(part)


def _print_unused_token(settings: Settings) -> None:
    """Print how to use the token that websim-cli stored, if no token is in use."""
    if settings.new_token and not settings.token:
        _print(f"\n{TOKEN_FILE} has a login token, which was not sent. To use it:")
        _print_pasted(diagnosis.COPY_TOKEN)


def _print_report(settings: Settings, results: Results) -> None:
    """Print a Markdown block for a bug report, without secrets."""
    project = "configured" if settings.project_id else "random"
    token = ("expired token" if tokens.is_expired(settings.token) else "token") if settings.token else "none"
    _print(f"\n### g4f-websim check\n\n```text\n{_environment()}")
    _print(f"project: {project}, login: {token}, proxy: {'yes' if settings.proxy else 'none'}")
    for probe in (results.chat, results.image, *results.others):
        _print_reported(probe)
    _print("```")


def _print_reported(probe: Probe) -> None:
    secrets = probe.target.secrets
    _print("")
    _print(f"POST {redact(without_login(probe.target.url), secrets)}", continued=INDENT)
    _print(f"status: {probe.status or '-'}, {probe.seconds:.2f} s")
    if not probe.response:
        _print(f"error: {probe.message}", continued=INDENT)
        return
    for name, value in probe.response.headers.items():
        if name.lower() in REPORTED_HEADERS or name.lower().startswith(REPORTED_PREFIX):
            # The query or the fragment of a location may contain a token.
            value = re.split("[?#]", value)[0] if name.lower() == "location" else value
            _print(f"{name.lower()}: {excerpt(value, secrets, MAX_EXCERPT_CHARS)}", continued=INDENT)
    _print(f"body: {excerpt(probe.response.text, secrets, MAX_EXCERPT_CHARS)}", continued=INDENT)


def _print(text: str, continued: str = "") -> None:
    """Print text, wrapped to the width of a terminal.

    Args:
        text: one or more lines.
        continued: the indentation of all lines but the first.
    """
    first, *more = text.split("\n")
    for line in (first, *(continued + line for line in more)):
        for part in textwrap.wrap(line, COLUMNS, subsequent_indent=continued, break_on_hyphens=False) or [""]:
            _write(part)


def _write(line: str) -> None:
    """Print a line; characters that a terminal or a file cannot represent are replaced."""
    # Python sets sys.stdout to None if the process has no standard output.
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    print(line.encode(encoding, "replace").decode(encoding), flush=True)
