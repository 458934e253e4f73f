"""What the results of `g4f-websim check` mean: what else to try, and what to do."""

import shlex
from collections.abc import Iterable, Iterator
from dataclasses import replace
from urllib.parse import urlsplit

from ..errors import Reason
from ..transport.causes import CHECK, Step, set_proxy
from ..transport.target import origin_in, without_login
from ..wire.endpoints import API_URL, DEFAULT_URL, URL_VARIABLE
from ..wire.tokens import TOKEN_VARIABLE
from .check_request import CheckResult
from .check_settings import SET_PROJECT, SET_URL, USE_DEFAULT, USE_RANDOM, Settings

# Another host or project cannot help: the proxy fails for all hosts, or the API works and refuses the request.
FINAL_REASONS = (Reason.PROXY_FAILED, Reason.RATE_LIMITED, Reason.NO_CREDITS)

REPORT = Step("If this persists, report it with the output of:", (f"{CHECK} --report",))
UPGRADE = [
    Step("The API may have changed. Install the newest g4f-websim:", ("pip install --upgrade g4f-websim",)),
    REPORT,
]
TRY_LATER = [Step("Try again later or use another provider."), REPORT]
LOG_IN = Step(
    "Log in with websim-cli, Websim's own command line tool, and set the token, the value of authToken in "
    "~/.websim-cli.json:",
    ("websim-cli login", f"export {TOKEN_VARIABLE}=<token>"),
)
# What to do for a reason, unless the cause has steps of its own.
STEPS = {
    Reason.PROJECT_REFUSED: [SET_PROJECT],
    Reason.REGION_BLOCKED: [
        Step("Try from another network."),
        Step("Or use a proxy in another network:", (set_proxy(),)),
    ],
    Reason.API_MOVED: [*UPGRADE, Step("If Websim has moved, set its new URL:", (SET_URL,))],
    Reason.API_CHANGED: UPGRADE,
    Reason.REQUEST_REFUSED: UPGRADE,
    Reason.SERVER_ERROR: TRY_LATER,
    Reason.NO_CONTENT: TRY_LATER,
    Reason.BROKEN_RESPONSE: TRY_LATER,
}
USE_PROXY = Step("If you need a proxy (HTTPS_PROXY and ALL_PROXY are not used):", (set_proxy(),))
PORTAL = Step("Open the site in a browser. If your network shows a login page, log in. Then check again:", (CHECK,))


def alternatives(chat: CheckResult, also: Iterable[str]) -> Iterator[Settings]:
    """Yield the settings to try after a chat that failed, with the sites that the user names."""
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
            token = settings.token if site in (DEFAULT_URL, API_URL) else None
            yield replace(settings, site=site, token=token)


def failure_to_explain(chat: CheckResult, image: CheckResult, others: list[CheckResult]) -> CheckResult | None:
    """Return the failure that says most about the cause, or None if both endpoints work."""
    if not chat.cause:
        return image if image.cause else None
    if chat.reached_api or any(not other.cause for other in others):
        return chat
    # If the API was reached on another host, its refusal says more than the failure of the site.
    return next((other for other in others if other.reached_api), chat)


def steps_for(failed: CheckResult, chat: CheckResult, image: CheckResult, others: list[CheckResult]) -> list[Step]:
    """Return what to do about `failed`, the result of `failure_to_explain`."""
    working = next((other for other in others if not other.cause), None)
    if working and working.settings.site == chat.settings.site:
        return [SET_PROJECT, USE_RANDOM]
    if working:
        return [_use_site(working.settings, chat.settings)]
    if failed in others:
        return [_use_site(failed.settings, chat.settings), *_steps_after(failed)]
    if failed.reason == Reason.API_MOVED and not (chat.cause and image.cause):
        # One endpoint is where it was, so the URL of the site is right.
        return UPGRADE
    return _steps_after(failed)


def _use_site(settings: Settings, configured: Settings) -> Step:
    if settings.site == DEFAULT_URL:
        return Step(f"Use the default, {DEFAULT_URL}, which responds:", USE_DEFAULT.lines)
    warning = ". It will receive your login token" if configured.token and not settings.token else ""
    return Step(f"Use {without_login(settings.site)}, which responds{warning}:", (_set_url(settings.site),))


def _set_url(url: str) -> str:
    return f"export {URL_VARIABLE}={shlex.quote(without_login(url))}"


def _steps_after(failed: CheckResult) -> list[Step]:
    """Return what to do about a failure that no other setting prevents."""
    settings, cause = failed.settings, failed.cause
    assert cause
    steps = list(cause.steps or STEPS.get(cause.reason) or [Step(f"{cause.advice}.")])
    match cause.reason:
        case Reason.LOGIN_NEEDED | Reason.LOGIN_EXPIRED:
            other_network = [Step("Or try from another network.")] if failed.status == 403 else []
            return [*cause.steps, LOG_IN, *other_network]
        case Reason.NO_CREDITS | Reason.RATE_LIMITED:
            again = Step(f"{cause.advice}. Then check again:", (CHECK,))
            return [again] if settings.token else [again, LOG_IN]
        case Reason.API_MOVED:
            site = urlsplit(settings.site)
            if site.path:
                return [Step(f"Remove the path {site.path} from {URL_VARIABLE}:", (_set_url(origin_in(site)),))]
            if failed.status == 200:
                steps.insert(0, PORTAL)
        case Reason.NO_CONNECTION | Reason.TIMEOUT if not settings.proxy:
            steps.append(USE_PROXY)
    is_at_wrong_site = cause.reason in (Reason.API_MOVED, Reason.NO_CONNECTION, Reason.TIMEOUT)
    return [USE_DEFAULT, *steps] if is_at_wrong_site and not settings.is_known_site else steps
