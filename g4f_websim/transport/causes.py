"""Why a response is an error: causes with a reason, a summary, advice, and the class of the error.

failures.py finds the cause of an exception, and builds the errors. `g4f-websim check` prints the steps of a cause.
"""

import re
import shlex
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import SplitResult, urljoin, urlsplit

from g4f.requests.raise_for_status import is_cloudflare, is_openai

from ..errors import CloudflareError, MissingAuthError, RateLimitError, Reason, ResponseStatusError, WebsimError
from ..wire.endpoints import URL_VARIABLE
from ..wire.redaction import MAX_SEARCHED_CHARS, is_html, redact
from ..wire.response import RATE_LIMIT_WORDS, UnexpectedBodyError
from ..wire.tokens import is_expired, token_expiry
from .target import HTTP_SCHEMES, PROXY_VARIABLE, SOCKS_SCHEMES, Target, is_valid_url, origin_in

# Cloudflare sets this header when it sends a challenge instead of the response.
CHALLENGE_HEADER = "cf-mitigated"
# Websim's code for an expired login; its status is not recorded.
EXPIRED_CODE = '"ERR_JWT_EXPIRED"'
NO_CREDITS_WORDS = re.compile(
    r"\b(insufficient|not enough|no|out of|zero|0)( \w+)? credits?\b"
    r"|credits? .{0,20}(exhausted|exceeded|required|used up)",
    re.IGNORECASE,
)
LOGIN_PAGE = re.compile(r"/(log-?in|sign-?in|auth|oauth)\b", re.IGNORECASE)
# A server chooses where a redirect leads. A user may paste advice into a shell, so it names only a plain host and port.
PLAIN_ORIGIN = re.compile(r"https?://[A-Za-z0-9._-]+(:[0-9]{1,5})?")
# A longer origin would leave no room for the rest of an error.
MAX_ORIGIN_CHARS = 80
DEFAULT_PORTS = {"http": 80, "https": 443}
# A project id is refused with one of these statuses and a body that mentions a project.
PROJECT_STATUSES = (400, 403, 404, 422)

LOG_IN = "log in with a Websim token as api_key or in WEBSIM_API_KEY"
LOG_IN_AGAIN = "log in again (websim-cli login) and set WEBSIM_API_KEY to the new token"
TRY_LATER = "try again later or use another provider"
CHECK = "g4f-websim check"
IF_MOVED = f"if Websim has moved, set WEBSIM_URL; run {CHECK}"
PROXY_LOGIN = "put the right user and password into the URL of the proxy, as in http://user:password@host:3128"


class Step(NamedTuple):
    """Something to do, and the lines to paste for it into a shell."""

    text: str
    lines: tuple[str, ...] = ()


class Cause(NamedTuple):
    """Why a call failed.

    Attributes:
        reason: the name of the cause.
        summary: what happened.
        advice: what to do.
        error: the class of the error.
        steps: what to do about this cause in particular, for `g4f-websim check`.
        is_retryable: whether a request that failed before a response may be sent again.
    """

    reason: Reason
    summary: str
    advice: str
    error: type[WebsimError] = ResponseStatusError
    steps: tuple[Step, ...] = ()
    is_retryable: bool = False


def set_proxy(url: str | None = None, host: str = "<host>:<port>") -> str:
    """Return a line that sets G4F_PROXY to the URL of a proxy, with the scheme of another URL if that is valid."""
    scheme = (url or "").partition("://")[0]
    return f"export {PROXY_VARIABLE}={scheme if scheme in HTTP_SCHEMES + SOCKS_SCHEMES else 'http'}://{host}"


USE_NO_PROXY = Step("Or use no proxy:", (f"unset {PROXY_VARIABLE}",))

PROJECT_REFUSED = Cause(
    Reason.PROJECT_REFUSED,
    "Websim refused the project id",
    "set WEBSIM_PROJECT_ID to a project of your own, the last part of websim.com/p/<id>",
)
NOT_FOUND = Cause(Reason.API_MOVED, "the API is not at this URL", IF_MOVED)
CHALLENGE = Cause(
    Reason.BOT_CHALLENGE, "Cloudflare sent a bot challenge", "try from another network, without a VPN", CloudflareError
)
NO_CREDITS = Cause(Reason.NO_CREDITS, "no credits left", "wait for new credits, log in, or use another provider")
LOGIN_NEEDED = Cause(Reason.LOGIN_NEEDED, "login needed", LOG_IN, MissingAuthError)
FORBIDDEN = Cause(Reason.LOGIN_NEEDED, "access denied", f"{LOG_IN}, or try from another network")
TOKEN_REFUSED = Cause(Reason.LOGIN_NEEDED, "Websim refused the login token", LOG_IN_AGAIN, MissingAuthError)
LOGIN_EXPIRED = Cause(Reason.LOGIN_EXPIRED, "the login token expired", LOG_IN_AGAIN, MissingAuthError)
REQUEST_TOO_LARGE = Cause(Reason.REQUEST_REFUSED, "the request is too large", "send fewer messages or smaller images")
REQUEST_REFUSED = Cause(Reason.REQUEST_REFUSED, "Websim refused the request", "check the arguments of the call")
RATE_LIMITED = Cause(
    Reason.RATE_LIMITED, "too many requests", "wait {delay}, log in, or use another provider", RateLimitError
)
REGION_BLOCKED = Cause(Reason.REGION_BLOCKED, "blocked for legal reasons", "try from another network")
API_CHANGED = Cause(
    Reason.API_CHANGED,
    "Websim does not accept this kind of request",
    "the API may have changed: look for a newer version of g4f-websim, or try again later",
)
SERVER_ERROR = Cause(Reason.SERVER_ERROR, "the server failed", TRY_LATER)

BY_STATUS = {
    401: LOGIN_NEEDED,
    402: NO_CREDITS,
    403: FORBIDDEN,
    404: NOT_FOUND,
    405: API_CHANGED,
    410: NOT_FOUND,
    413: REQUEST_TOO_LARGE,
    422: API_CHANGED,
    451: REGION_BLOCKED,
}
# The advice for a successful response that cannot be used.
ADVICE_FOR_BODY = {
    Reason.API_MOVED: "a captive portal or a proxy may respond instead, or WEBSIM_URL is wrong: set WEBSIM_URL; "
    f"run {CHECK}",
    Reason.API_CHANGED: API_CHANGED.advice,
    Reason.NO_CONTENT: f"try other words, {TRY_LATER}",
    Reason.BROKEN_RESPONSE: TRY_LATER,
}


def cause_of_body(
    unexpected: UnexpectedBodyError, status: int, headers: Mapping[str, str], body: str, target: Target
) -> Cause:
    """Return why a successful response cannot be used."""
    cause = _cause_in_words(status, headers, body, target)
    if cause is None:
        return Cause(unexpected.reason, unexpected.summary, ADVICE_FOR_BODY[unexpected.reason], unexpected.kind)
    is_of_call = cause.reason in (Reason.RATE_LIMITED, Reason.LOGIN_EXPIRED)
    return cause if is_of_call else cause._replace(error=unexpected.kind)


def cause_of_response(status: int, headers: Mapping[str, str], body: str, target: Target) -> Cause:
    """Return why a response whose status is not successful is an error."""
    cause = _cause_in_words(status, headers, body, target)
    if cause:
        return cause
    if 300 <= status < 400:
        return _cause_of_redirect(headers.get("Location", ""), target)
    if status in PROJECT_STATUSES and "project" in _searched(body):
        return PROJECT_REFUSED
    if status in (401, 403):
        return _cause_of_missing_login(BY_STATUS[status], target)
    if status == 407:
        return needs_proxy_login(target, ResponseStatusError)
    return BY_STATUS.get(status) or (REQUEST_REFUSED if status < 500 else SERVER_ERROR)


def _searched(body: str) -> str:
    """Return the part of a body that is searched for words, in lower case; nothing of an HTML page."""
    return "" if is_html(body) else body[:MAX_SEARCHED_CHARS].lower()


def _cause_in_words(status: int, headers: Mapping[str, str], body: str, target: Target) -> Cause | None:
    """Return the cause that a body or a header names whatever the status, if any."""
    text, start = _searched(body), body[:MAX_SEARCHED_CHARS]
    if EXPIRED_CODE in start:
        return _expired_login(target.token)
    if status == 429 or RATE_LIMIT_WORDS in text:
        return RATE_LIMITED
    if CHALLENGE_HEADER in headers or is_cloudflare(start) or is_openai(start):
        return CHALLENGE
    return NO_CREDITS if NO_CREDITS_WORDS.search(text) else None


def _cause_of_redirect(location: str, target: Target) -> Cause:
    site = urlsplit(target.url)
    try:
        destination = urlsplit(urljoin(target.url, location))
    except ValueError:
        destination = site
    origin = origin_in(destination)
    is_plain = PLAIN_ORIGIN.fullmatch(origin) and origin == redact(origin, target.secrets) and is_valid_url(origin)
    steps: tuple[Step, ...] = ()
    if is_plain and not _is_same_site(destination, site):
        steps = (
            Step(f"If {origin} is the login page of your network, open it in a browser and log in."),
            Step("If you trust it as a new host of Websim, check it:", (f"{CHECK} --also {origin}",)),
            Step("And if it responds, use it:", (f"export {URL_VARIABLE}={origin}",)),
        )
    # The query of the location is not shown: it may contain a token.
    shown = f"a redirect to {origin}{destination.path}"
    if LOGIN_PAGE.search(destination.path):
        summary = f"{shown}, a login page, which was not followed"
        advice = f"{LOG_IN}; if the page is the login page of your network, open it in a browser; {IF_MOVED}"
        return Cause(Reason.LOGIN_NEEDED, summary, advice, steps=steps[:1])
    is_named = steps and len(origin) <= MAX_ORIGIN_CHARS
    advice = f"if you trust this host, set {URL_VARIABLE}={origin}; run {CHECK}" if is_named else IF_MOVED
    return Cause(Reason.API_MOVED, f"{shown}, which was not followed", advice, steps=steps)


def _is_same_site(first: SplitResult, second: SplitResult) -> bool:
    """Return whether two URLs have the same scheme, host and port, even if one of them names the default port."""
    ports = [url.port or DEFAULT_PORTS.get(url.scheme) for url in (first, second)]
    return (first.scheme, first.hostname, ports[0]) == (second.scheme, second.hostname, ports[1])


def _cause_of_missing_login(cause: Cause, target: Target) -> Cause:
    """Return the cause of a 401 or a 403, with what is known of the login that was sent."""
    if target.token:
        known = _expired_login(target.token) if is_expired(target.token) else TOKEN_REFUSED
        return known._replace(error=cause.error)
    if target.unsent_key:
        return cause._replace(summary=f"{cause.summary}; the given key is not a Websim token, so it was not sent")
    return cause


def _expired_login(token: str | None) -> Cause:
    if not is_expired(token):
        return LOGIN_EXPIRED
    return LOGIN_EXPIRED._replace(summary=f"the login token expired on {token_expiry(token):%Y-%m-%d %H:%M} UTC")


def needs_proxy_login(target: Target, kind: type[WebsimError]) -> Cause:
    """Return the cause of a proxy that refuses requests without the right user and password."""
    host = target.proxy_host
    line = set_proxy(target.proxy, f"<user>:<password>@{shlex.quote(host) if host else '<host>:<port>'}")
    summary = f"the proxy {host} needs a login" if host else "a proxy needs a login"
    steps = (Step("Put its user and password into its URL:", (line,)), USE_NO_PROXY)
    return Cause(Reason.PROXY_FAILED, summary, PROXY_LOGIN, kind, steps)
