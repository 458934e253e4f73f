"""`g4f-websim check`: find out whether Websim works from this machine and, if not, why.

It sends one request to each endpoint. If the chat request fails, it sends at most six more, with other settings that
are known to work. check_settings.py reads the settings, check_request.py sends the requests, and diagnosis.py chooses
what to try and to advise.
"""

import argparse
import platform
import re
import textwrap
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from urllib.parse import urlsplit

from ..errors import Reason
from ..transport.causes import Step
from ..transport.target import PROXY_VARIABLE, without_login
from ..wire import tokens
from ..wire.bodies import PROJECT_VARIABLE
from ..wire.redaction import excerpt, redact
from . import diagnosis
from .check_request import CheckResult, Kind, send_request
from .check_settings import SettingError, Settings, read_settings

COLUMNS = 100
INDENT = " " * 4
MAX_EXCERPT_CHARS = 300
MAX_FURTHER_REQUESTS = 6

REPORTED_HEADERS = ("date", "server", "content-type", "retry-after", "location")
REPORTED_PREFIX = "cf-"


def main(argv: Sequence[str]) -> int:
    """Run the check with the arguments of the command, and return 0 if both endpoints work, else 1."""
    options = _parse(argv)
    _print(_environment())
    try:
        settings = read_settings(options.also)
    except SettingError as error:
        _print(f"\nNothing was sent, because a setting is malformed.\n{error}")
        _print_steps(error.steps)
        return 1
    _print_settings(settings)
    chat, image = _send("chat", settings), _send("image", settings)
    lookup, others = _try_alternatives(chat, options.also) if chat.cause else (None, [])
    failed = diagnosis.failure_to_explain(chat, image, others)
    if failed:
        _print_cause(failed, chat, image, lookup)
        _print_steps(diagnosis.steps_for(failed, chat, image, others))
    if options.report:
        _print_report(settings, [chat, image, *([lookup] if lookup else []), *others])
    return 1 if failed else 0


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "g4f-websim check", description="Find out whether Websim works here, and if not, why."
    )
    also_help = "another site to try if Websim does not work; it does not receive your login; may be repeated"
    parser.add_argument("--also", metavar="URL", action="append", default=[], help=also_help)
    parser.add_argument("--report", action="store_true", help="print a block for a bug report, without secrets")
    options = parser.parse_args(argv)
    options.also = [url.rstrip("/") for url in options.also]
    return options


# Settings


def _environment() -> str:
    packages = ", ".join(f"{name} {version(name)}" for name in ("g4f-websim", "g4f", "aiohttp"))
    return f"{packages}, Python {platform.python_version()}, {platform.system()} {platform.machine()}"


def _print_settings(settings: Settings) -> None:
    secrets, scheme = settings.target().secrets, urlsplit(settings.proxy or "").scheme
    lines = {
        "site": redact(without_login(settings.site), secrets),
        "project": redact(settings.project_id, secrets) or f"random ({PROJECT_VARIABLE} is not set)",
        "login": _describe_login(settings),
        "proxy": f"{scheme}://{settings.target().proxy_host}" if scheme else f"none ({PROXY_VARIABLE} is not set)",
    }
    for name, value in lines.items():
        _print(f"{name:<9}{value}", continued=" " * 9)
    _print("")


def _describe_login(settings: Settings) -> str:
    if settings.token:
        expiry = tokens.token_expiry(settings.token)
        state = "expired" if tokens.is_expired(settings.token) else "expires"
        return f"a token that {state} on {expiry:%Y-%m-%d %H:%M} UTC" if expiry else "a token without an expiry date"
    state = "not a Websim token, so it is not sent" if settings.key else "not set"
    return f"none ({tokens.TOKEN_VARIABLE} is {state})"


# Requests


def _try_alternatives(chat: CheckResult, also: Iterable[str]) -> tuple[CheckResult | None, list[CheckResult]]:
    """Look up a project that was refused, and send chats with other settings until one succeeds."""
    lookup: CheckResult | None = None
    others: list[CheckResult] = []
    alternatives = list(diagnosis.alternatives(chat, also))
    if alternatives:
        _print("\nTrying what else is known to work:")
    if chat.reason == Reason.PROJECT_REFUSED and chat.settings.project_id:
        lookup = _send("lookup", chat.settings)
    for settings in alternatives[: MAX_FURTHER_REQUESTS - (1 if lookup else 0)]:
        is_same_site = settings.site == chat.settings.site
        what = "with a random project" if is_same_site else settings.target().host
        others.append(_send("chat", settings, f"{what}: "))
        if not others[-1].cause:
            break
    return lookup, others


def _send(kind: Kind, settings: Settings, prefix: str = "") -> CheckResult:
    """Send one request and print its result in one line."""
    start = f"{kind:<7}"
    print(start, end="", flush=True)
    result = send_request(kind, settings)
    end = f"{result.status or '-':<5}{result.seconds:>6.2f} s  "
    _print(end + excerpt(prefix + result.verdict, result.target.secrets, COLUMNS - len(start + end)))
    return result


# The result


def _print_cause(failed: CheckResult, chat: CheckResult, image: CheckResult, lookup: CheckResult | None) -> None:
    """Print why Websim does not work."""
    _print("")
    if not (chat.cause and image.cause):
        _print("Images work, chat does not." if chat.cause else "Chat works, images do not.")
    cause = failed.failure
    if lookup and lookup.project_state:
        cause += f"\n{_sentence(lookup.project_state)}."
    _print(f"Cause: {cause}", continued=" " * len("Cause: "))


def _print_steps(steps: Iterable[Step]) -> None:
    """Print what to do: sentences, and lines to paste."""
    _print("\nWhat to do:")
    for step in steps:
        _print(f"- {_sentence(step.text)}", continued="  ")
        for line in step.lines:
            # A shell joins lines that end with a backslash. Spaces before a later part would belong to the command.
            parts = re.findall(f".{{1,{COLUMNS - len(INDENT) - 1}}}", line)
            print(INDENT + "\\\n".join(parts), flush=True)


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def _print_report(settings: Settings, results: list[CheckResult]) -> None:
    """Print a Markdown block for a bug report, without secrets."""
    project = "configured" if settings.project_id else "random"
    token = ("expired token" if tokens.is_expired(settings.token) else "token") if settings.token else "none"
    _print(f"\n### g4f-websim check\n\n```text\n{_environment()}")
    _print(f"project: {project}, login: {token}, proxy: {'yes' if settings.proxy else 'none'}")
    for result in results:
        method, secrets = "GET" if result.kind == "lookup" else "POST", result.target.secrets
        _print("")
        _print(f"{method} {redact(without_login(result.target.url), secrets)}", continued=INDENT)
        _print(f"status: {result.status or '-'}, {result.seconds:.2f} s")
        for name, value in _reported_fields(result):
            _print(f"{name}: {excerpt(value, secrets, MAX_EXCERPT_CHARS)}", continued=INDENT)
    _print("```")


def _reported_fields(result: CheckResult) -> Iterable[tuple[str, str]]:
    response = result.outcome.response
    if not response:
        yield "error", result.failure
        return
    for name, value in response.headers.items():
        if name.lower() in REPORTED_HEADERS or name.lower().startswith(REPORTED_PREFIX):
            # The query or the fragment of a location may contain a token.
            yield name.lower(), re.split("[?#]", value)[0] if name.lower() == "location" else value
    yield "body", response.text


def _print(text: str, continued: str = "") -> None:
    """Print lines, wrapped to the width of a terminal; all but the first are indented by `continued`."""
    first, *more = text.split("\n")
    for line in (first, *(continued + line for line in more)):
        for part in textwrap.wrap(line, COLUMNS, subsequent_indent=continued, break_on_hyphens=False) or [""]:
            print(part, flush=True)
