"""What the results of `g4f-websim check` mean: what else to try, and what to do.

check.py sends the requests and prints the results.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from ..errors import Reason
from ..transport import attempts
from ..transport.causes import TRY_LATER, Step
from ..transport.failures import INVALID_CERTIFICATE
from ..transport.target import Target, origin_in
from ..wire.bodies import PROJECT_VARIABLE
from ..wire.endpoints import API_URL, DEFAULT_URL, URL_VARIABLE
from ..wire.redaction import redact
from ..wire.tokens import TOKEN_VARIABLE, is_token
from .check_settings import TOKEN_FIELD, TOKEN_FILE, Settings
from .check_steps import (
    CHECK,
    SET_HTTP_PROXY,
    SET_PROXY,
    export,
    set_project,
)

MAX_FURTHER_REQUESTS = 6

COPY_TOKEN = f"""export {TOKEN_VARIABLE}=$(sed -n 's/.*"{TOKEN_FIELD}" *: *"\\([^"]*\\)".*/\\1/p' {TOKEN_FILE})"""
UPGRADE = "pip install --upgrade g4f-websim"

# Another host or project cannot help: the proxy fails for all hosts, or the API works and refuses the request.
FINAL_REASONS = (Reason.PROXY_FAILED, Reason.RATE_LIMITED, Reason.NO_CREDITS)
# Only the API itself gives one of these reasons, so Websim was reached.
API_REASONS = (Reason.PROJECT_REFUSED, Reason.LOGIN_EXPIRED, Reason.RATE_LIMITED, Reason.NO_CREDITS)


@dataclass(frozen=True)
class Probe:
    """One request and its result; `error` is None if the endpoint works."""

    settings: Settings
    target: Target
    seconds: float
    response: attempts.Response | None
    error: Any
    cause: Any

    @property
    def status(self) -> int | None:
        """The HTTP status, or None if no response began."""
        status: int | None = self.response.status if self.response else self.error.status
        return status

    @property
    def verdict(self) -> str:
        """The result in words."""
        return redact(self.cause.summary, self.target.secrets) if self.error else "ok"

    @property
    def message(self) -> str:
        """The message of the error without its advice."""
        return str(self.error).removesuffix(f": {self.cause.advice}")

    @property
    def reached_api(self) -> bool:
        """Whether the API responded, even if it refused the request."""
        return not self.error or self.error.reason in API_REASONS or self.status == 401


class Results(NamedTuple):
    """The requests of one check.

    Attributes:
        chat: the chat request to the site.
        image: the image request to the site.
        others: the chat requests with other settings.
    """

    chat: Probe
    image: Probe
    others: list[Probe]


# What else to try


def alternatives(chat: Probe, also: list[str]) -> list[Settings]:
    """Return the settings to try after a chat that failed.

    Args:
        chat: the request that failed.
        also: the sites that the user names.
    """
    settings = chat.settings
    candidates = [] if chat.error.reason in FINAL_REASONS else list(_known_alternatives(chat))
    # A host that is not known to be Websim's does not get the login token.
    others = [replace(settings, site=site, sends_token=site in (DEFAULT_URL, API_URL)) for site in dict.fromkeys(also)]
    known = {settings.site, *(candidate.site for candidate in candidates)}
    candidates += [other for other in others if other.site not in known]
    return candidates[:MAX_FURTHER_REQUESTS]


def _known_alternatives(chat: Probe) -> Iterator[Settings]:
    settings = chat.settings
    if chat.error.reason == Reason.PROJECT_REFUSED and settings.project_id:
        yield replace(settings, project_id="")
    if settings.is_known_site:
        yield replace(settings, site=API_URL if settings.site == DEFAULT_URL else DEFAULT_URL)


# What to do


def failure_to_explain(results: Results) -> Probe | None:
    """Return the failure that says most about the cause, or None if both endpoints work."""
    chat, image, others = results
    if not chat.error:
        return image if image.error else None
    if chat.reached_api or any(not other.error for other in others):
        return chat
    # If the API was reached on another host, its refusal says more than the failure of the site.
    return next((other for other in others if other.reached_api), chat)


def steps_for(failed: Probe, results: Results) -> list[Step]:
    """Return what to do about a failure.

    Args:
        failed: the result of `failure_to_explain`.
        results: the requests that were sent.
    """
    chat, image, others = results
    working = next((other for other in others if not other.error), None)
    if working and working.settings.site == chat.settings.site:
        use_random = Step("Use random project ids:", (f"unset {PROJECT_VARIABLE}",))
        return [use_random, set_project("Or open a project of your own, and set")]
    if working:
        return [_use_site(working)]
    if failed in others:
        return [_use_site(failed), *_steps_after(failed)]
    if failed.error.reason == Reason.API_MOVED and not (chat.error and image.error):
        # One endpoint is where it was, so the URL of the site is right.
        return _upgrade()
    return _steps_after(failed)


def _use_site(probe: Probe) -> Step:
    site, settings = probe.settings.shown_site, probe.settings
    warning = "" if settings.token or not is_token(settings.key) else ". It will receive your login token"
    if site == DEFAULT_URL:
        return Step(f"Use the default, {site}, which responds:", (f"unset {URL_VARIABLE}",))
    return Step(f"Use {site}, which responds{warning}:", (export(URL_VARIABLE, site),))


def _steps_after(failed: Probe) -> list[Step]:
    settings = failed.settings
    match failed.error.reason:
        case Reason.PROJECT_REFUSED:
            return [set_project(f"Open a project of your own on {DEFAULT_URL}, and set")]
        case Reason.LOGIN_NEEDED | Reason.LOGIN_EXPIRED:
            return _steps_for_login(failed)
        case Reason.NO_CREDITS | Reason.RATE_LIMITED:
            first = Step(f"{sentence(failed.cause.advice)}. Then check again:", (CHECK,))
            return [first] if settings.token else [first, *_log_in(settings, "To log in")]
        case Reason.BOT_CHALLENGE | Reason.REGION_BLOCKED:
            use_proxy = Step("Or use a proxy in another network:", (SET_HTTP_PROXY,))
            return [Step(f"{sentence(failed.cause.advice)}."), use_proxy]
        case Reason.API_MOVED:
            return _steps_after_move(failed)
        case Reason.API_CHANGED | Reason.REQUEST_REFUSED:
            return _upgrade()
        case Reason.PROXY_FAILED:
            return list(failed.cause.steps)
        case Reason.NO_CONNECTION | Reason.TIMEOUT:
            return _steps_without_connection(failed)
        case _:
            return [Step(f"{sentence(TRY_LATER)}."), _report("If this persists, report it")]


def _steps_for_login(failed: Probe) -> list[Step]:
    steps = _log_in(failed.settings, "Log in")
    if _leads_elsewhere(failed):
        steps.insert(0, _use_network_login(failed.cause.origin))
    if failed.status == 403:
        steps.append(Step("Or try from another network."))
    return steps


def _log_in(settings: Settings, start: str) -> list[Step]:
    if settings.new_token:
        return [Step(f"{start} with the token that websim-cli stored in {TOKEN_FILE}:", (COPY_TOKEN,))]
    return [
        Step(f"{start} with websim-cli, Websim's own command line tool:", ("websim-cli login", COPY_TOKEN)),
        Step(f"Or set the token, the value of {TOKEN_FIELD} in {TOKEN_FILE}:", (f"export {TOKEN_VARIABLE}=<token>",)),
    ]


def _steps_after_move(failed: Probe) -> list[Step]:
    settings = failed.settings
    origin, site = failed.cause.origin, urlsplit(settings.site)
    if _leads_elsewhere(failed):
        return [
            _use_network_login(origin),
            Step("If you trust it as a new host of Websim, check it:", (f"{CHECK} --also {origin}",)),
            Step("And if it responds, use it:", (export(URL_VARIABLE, origin),)),
        ]
    if site.path:
        return [Step(f"Remove the path {site.path} from {URL_VARIABLE}:", (export(URL_VARIABLE, origin_in(site)),))]
    steps = []
    if failed.response and failed.response.status < 300:
        open_page = f"Open {settings.shown_site} in a browser. If your network shows a login page, log in."
        steps.append(Step(f"A captive portal or a proxy may have responded. {open_page} Then check again:", (CHECK,)))
    if not settings.is_known_site:
        steps.append(_use_default())
    if origin or settings.is_known_site:
        steps += _upgrade()
    return [*steps, Step("If Websim has moved, set its new URL:", (f"export {URL_VARIABLE}=https://<host>",))]


def _leads_elsewhere(failed: Probe) -> bool:
    """Return whether the response is a redirect to another site, which advice may name."""
    return failed.cause.origin not in ("", origin_in(urlsplit(failed.settings.site)))


def _use_network_login(origin: str) -> Step:
    return Step(f"If {origin} is the login page of your network, open it in a browser and log in.")


def _upgrade() -> list[Step]:
    return [
        Step("The API may have changed. Install the newest g4f-websim:", (UPGRADE,)),
        _report("If it is the newest already, report it"),
    ]


def _report(start: str) -> Step:
    return Step(f"{start} with the output of:", (f"{CHECK} --report",))


def _steps_without_connection(failed: Probe) -> list[Step]:
    settings = failed.settings
    if failed.cause.steps:
        return list(failed.cause.steps)
    if failed.cause == INVALID_CERTIFICATE:
        steps = [Step(f"{sentence(INVALID_CERTIFICATE.advice)}.")]
    else:
        steps = [Step(f"Open {settings.shown_site} in a browser, to see whether this machine reaches it.")]
    if settings.unused_proxy and not settings.proxy:
        name = settings.unused_proxy
        steps.append(Step(f"{name} is not used. If you need a proxy:", (f'{SET_PROXY}="${name}"',)))
    elif not settings.proxy:
        steps.append(Step("If you need a proxy:", (SET_HTTP_PROXY,)))
    if not settings.is_known_site:
        steps.append(_use_default())
    return steps


def _use_default() -> Step:
    return Step(f"{URL_VARIABLE} is not the default, {DEFAULT_URL}. To use the default:", (f"unset {URL_VARIABLE}",))


def sentence(text: str) -> str:
    """Return text with a capital first letter."""
    return text[0].upper() + text[1:]
