"""What the results of `g4f-websim check` mean: what else to try, and what to do."""

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from ..errors import Reason
from ..transport.causes import CHECK, TRY_LATER, Cause, Step
from ..transport.failures import INVALID_CERTIFICATE
from ..transport.target import PROXY_VARIABLE, is_valid_url, origin_in, without_login
from ..wire.endpoints import API_URL, DEFAULT_URL, URL_VARIABLE
from ..wire.tokens import TOKEN_VARIABLE, is_expired, is_token
from .probe import SET_PROXY, USE_DEFAULT, USE_RANDOM, Probe, Settings, set_project, set_url

# The login of websim-cli, Websim's own command line tool.
TOKEN_FILE, TOKEN_FIELD = "~/.websim-cli.json", "authToken"
# Variables that other programs read for a proxy; g4f and this package do not.
OTHER_PROXY_VARIABLES = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")

COPY_TOKEN = f"""export {TOKEN_VARIABLE}=$(sed -n 's/.*"{TOKEN_FIELD}" *: *"\\([^"]*\\)".*/\\1/p' {TOKEN_FILE})"""

UPGRADE = [
    Step("The API may have changed. Install the newest g4f-websim:", ("pip install --upgrade g4f-websim",)),
    Step("If it is the newest already, report it with the output of:", (f"{CHECK} --report",)),
]
REPORT = Step("If this persists, report it with the output of:", (f"{CHECK} --report",))

# Another host or project cannot help: the proxy fails for all hosts, or the API works and refuses the request.
FINAL_REASONS = (Reason.PROXY_FAILED, Reason.RATE_LIMITED, Reason.NO_CREDITS)


def stored_token(settings: Settings) -> str | None:
    """Return the token that websim-cli stored, if it differs from the token in use and has not expired."""
    try:
        token = json.loads(Path(TOKEN_FILE).expanduser().read_text("utf-8"))[TOKEN_FIELD]
    except (OSError, ValueError, RuntimeError, LookupError, TypeError):  # no such file, or not the file expected
        return None
    return token if is_token(token) and token != settings.token and not is_expired(token) else None


def alternatives(chat: Probe, also: Iterable[str]) -> Iterator[Settings]:
    """Yield the settings to try after a chat that failed.

    Args:
        chat: the request that failed.
        also: the sites that the user names.
    """
    settings, known = chat.settings, {chat.settings.site}
    if chat.reason not in FINAL_REASONS:
        if chat.reason == Reason.PROJECT_REFUSED and settings.project_id:
            yield replace(settings, project_id="")
        if settings.is_known_site:
            also = [API_URL if settings.site == DEFAULT_URL else DEFAULT_URL, *also]
    for site in also:
        if site not in known:
            known.add(site)
            # A host that is not known to be Websim's does not get the login token.
            yield replace(settings, site=site, sends_token=site in (DEFAULT_URL, API_URL))


def failure_to_explain(chat: Probe, image: Probe, others: list[Probe]) -> Probe | None:
    """Return the failure that says most about the cause, or None if both endpoints work."""
    if not chat.cause:
        return image if image.cause else None
    if chat.reached_api or any(not other.cause for other in others):
        return chat
    # If the API was reached on another host, its refusal says more than the failure of the site.
    return next((other for other in others if other.reached_api), chat)


def steps_for(failed: Probe, chat: Probe, image: Probe, others: list[Probe]) -> list[Step]:
    """Return what to do about a failure.

    Args:
        failed: the result of `failure_to_explain`.
        chat: the chat request to the site.
        image: the image request to the site.
        others: the chat requests with other settings.
    """
    working = next((other for other in others if not other.cause), None)
    if working and working.settings.site == chat.settings.site:
        own_project = set_project("Or open a project of your own, and set")
        return [Step("Use random project ids:", (USE_RANDOM,)), own_project]
    if working:
        return [_use_site(working.settings)]
    if failed in others:
        return [_use_site(failed.settings), *_steps_after(failed)]
    if failed.reason == Reason.API_MOVED and not (chat.cause and image.cause):
        # One endpoint is where it was, so the URL of the site is right.
        return UPGRADE
    return _steps_after(failed)


def _steps_after(failed: Probe) -> list[Step]:
    settings, cause = failed.settings, failed.cause
    assert cause
    advice = Step(f"{sentence(cause.advice)}.")
    match cause.reason:
        case Reason.LOGIN_NEEDED | Reason.LOGIN_EXPIRED:
            other_network = [Step("Or try from another network.")] if failed.status == 403 else []
            return [*cause.steps, *_log_in(settings, "Log in"), *other_network]
        case _ if cause.steps:
            return list(cause.steps)
        case Reason.PROJECT_REFUSED:
            return [set_project(f"Open a project of your own on {DEFAULT_URL}, and set")]
        case Reason.NO_CREDITS | Reason.RATE_LIMITED:
            first = Step(f"{advice.text} Then check again:", (CHECK,))
            return [first] if settings.token else [first, *_log_in(settings, "To log in")]
        case Reason.BOT_CHALLENGE:
            return [advice]
        case Reason.REGION_BLOCKED:
            return [advice, Step("Or use a proxy in another network:", (SET_PROXY,))]
        case Reason.API_MOVED:
            return _steps_after_move(settings, cause, failed.status or 0)
        case Reason.API_CHANGED | Reason.REQUEST_REFUSED:
            return UPGRADE
        case Reason.NO_CONNECTION | Reason.TIMEOUT:
            open_site = Step(
                f"Open {without_login(settings.site)} in a browser, to see whether this machine reaches it."
            )
            return [advice if cause == INVALID_CERTIFICATE else open_site, *_steps_without_connection(settings)]
        case _:
            return [Step(f"{sentence(TRY_LATER)}."), REPORT]


def _use_site(settings: Settings) -> Step:
    site = without_login(settings.site)
    warning = "" if settings.token or not is_token(settings.key) else ". It will receive your login token"
    if site == DEFAULT_URL:
        return Step(f"Use the default, {site}, which responds:", (USE_DEFAULT,))
    return Step(f"Use {site}, which responds{warning}:", (set_url(site),))


def _log_in(settings: Settings, start: str) -> list[Step]:
    if stored_token(settings):
        return [Step(f"{start} with the token that websim-cli stored in {TOKEN_FILE}:", (COPY_TOKEN,))]
    return [
        Step(f"{start} with websim-cli, Websim's own command line tool:", ("websim-cli login", COPY_TOKEN)),
        Step(f"Or set the token, the value of {TOKEN_FIELD} in {TOKEN_FILE}:", (f"export {TOKEN_VARIABLE}=<token>",)),
    ]


def _steps_after_move(settings: Settings, cause: Cause, status: int) -> list[Step]:
    site = urlsplit(settings.site)
    if site.path:
        return [Step(f"Remove the path {site.path} from {URL_VARIABLE}:", (set_url(origin_in(site)),))]
    steps = []
    if status < 300:
        open_page = f"Open {without_login(settings.site)} in a browser. If your network shows a login page, log in."
        steps.append(Step(f"A captive portal or a proxy may have responded. {open_page} Then check again:", (CHECK,)))
    if not settings.is_known_site:
        steps.append(_use_default())
    if cause.is_within_site or settings.is_known_site:
        steps += UPGRADE
    return [*steps, Step("If Websim has moved, set its new URL:", (f"export {URL_VARIABLE}=https://<host>",))]


def _steps_without_connection(settings: Settings) -> Iterator[Step]:
    others = {name: os.environ.get(name) for name in OTHER_PROXY_VARIABLES}
    other = next((name for name, url in others.items() if url and is_valid_url(DEFAULT_URL, url)), "")
    if other and not settings.proxy:
        yield Step(f"{other} is not used. If you need a proxy:", (f'export {PROXY_VARIABLE}="${other}"',))
    elif not settings.proxy:
        yield Step("If you need a proxy:", (SET_PROXY,))
    if not settings.is_known_site:
        yield _use_default()


def _use_default() -> Step:
    return Step(f"{URL_VARIABLE} is not the default, {DEFAULT_URL}. To use the default:", (USE_DEFAULT,))


def sentence(text: str) -> str:
    """Return text with a capital first letter."""
    return text[0].upper() + text[1:]
