"""Read the settings of `g4f-websim check`, reject malformed ones, and send one request."""

import asyncio
import json
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial

from ..errors import Reason
from ..provider import Websim
from ..transport.causes import CHECK, PLAIN_ORIGIN, USE_NO_PROXY, Cause, Step, set_proxy
from ..transport.failures import timed_out, timeout_error
from ..transport.post import Outcome, Request, attempt
from ..transport.target import PROXY_VARIABLE, SITE_FORM, Target, is_valid_url
from ..wire import bodies, response
from ..wire.bodies import PROJECT_VARIABLE
from ..wire.endpoints import API_URL, CHAT_PATH, DEFAULT_URL, IMAGE_PATH, PROJECT_PATH, URL_VARIABLE
from ..wire.redaction import redact
from ..wire.tokens import TOKEN_VARIABLE, clean_key, is_token

# The timeout of one request in seconds. A user waits for the result, so it is shorter than the timeout of a call.
TIMEOUT = 60.0

MESSAGES = [{"role": "user", "content": "Say hello."}]

# What a status says about a project; any other status says nothing.
PROJECT_STATES = {200: "exists", 404: "does not exist"}

# Only the API itself gives one of these reasons, so Websim was reached.
API_REASONS = (Reason.PROJECT_REFUSED, Reason.LOGIN_EXPIRED, Reason.RATE_LIMITED, Reason.NO_CREDITS)

SET_URL = f"export {URL_VARIABLE}=https://<host>"
USE_DEFAULT = Step(f"Use the default site, {DEFAULT_URL}:", (f"unset {URL_VARIABLE}",))
SET_PROJECT = Step(
    f"Open a project of your own on {DEFAULT_URL}, and set its id, the last part of websim.com/p/<id>:",
    (f"export {PROJECT_VARIABLE}=<id>",),
)
USE_RANDOM = Step("Or use random project ids:", (f"unset {PROJECT_VARIABLE}",))

FIND_PROJECT = Step(
    f"The URL of a project may lack the id. Look it up: {DEFAULT_URL}/api/v1/users/NAME/slugs/PROJECT describes "
    f"{DEFAULT_URL}/@NAME/PROJECT."
)


@dataclass(frozen=True)
class Settings:
    """The settings that a request is sent with.

    Attributes:
        site: the URL of the site.
        project_id: the project id; empty for a random one.
        token: the Websim token that is sent, if any.
        key: the value of WEBSIM_API_KEY, which is not shown even if it is not sent.
        proxy: the URL of the proxy, if any.
    """

    site: str
    project_id: str = ""
    token: str | None = field(default=None, repr=False)
    key: str | None = field(default=None, repr=False)
    proxy: str | None = field(default=None, repr=False)

    @property
    def is_known_site(self) -> bool:
        """Whether the site is one of Websim's two known hosts."""
        return self.site in (DEFAULT_URL, API_URL)

    def target(self, path: str = "") -> Target:
        """Return where a request to an endpoint goes."""
        is_other_key = bool(self.key) and not is_token(self.key)
        return Target(self.site + path, self.token, self.key, self.proxy, is_other_key)


@dataclass(frozen=True)
class Probe:
    """One request and its result; a request of the kind `lookup` asks whether the project exists."""

    kind: str
    settings: Settings
    target: Target
    seconds: float
    outcome: Outcome

    @property
    def cause(self) -> Cause | None:
        """Why the request failed, or None if it succeeded."""
        return self.outcome.cause

    @property
    def reason(self) -> Reason | None:
        """The name of the cause."""
        return self.cause.reason if self.cause else None

    @property
    def status(self) -> int | None:
        """The HTTP status, or None if no response began."""
        response, error = self.outcome.response, self.outcome.error
        return response.status if response else error.status if error else None

    @property
    def verdict(self) -> str:
        """The result in words."""
        if self.kind == "lookup" and self.status in PROJECT_STATES:
            return f"the project {self.settings.project_id} {PROJECT_STATES[self.status]}"
        return redact(self.cause.summary, self.target.secrets) if self.cause else "ok"

    @property
    def reached_api(self) -> bool:
        """Whether the API responded, even if it refused the request."""
        return self.reason in (None, *API_REASONS) or self.status == 401


def send_request(kind: str, settings: Settings) -> Probe:
    """Send a request of the kind `chat`, `image` or `lookup`."""
    project_id = settings.project_id or Websim.generate_project_id(for_image=kind == "image")
    read: Callable[[str], str] = response.chat_text
    path, page, body = CHAT_PATH, bodies.CHAT_PAGE, bodies.chat_body(project_id, MESSAGES)
    if kind == "image":
        path, page, body = IMAGE_PATH, bodies.IMAGE_PAGE, bodies.image_body(project_id, MESSAGES, None, None)
        read = partial(response.image_url, site=settings.site)
    target = settings.target(path)
    request = Request(target, bodies.build_headers(settings.site, page, settings.token), json.dumps(body).encode())
    if kind == "lookup":
        target = settings.target(PROJECT_PATH.format(project_id=project_id))
        request, read = Request(target, bodies.build_headers(settings.site, page, None), b"", "GET"), str
    started = time.perf_counter()
    # Without a pool, each attempt opens a connection. On a reused one, a request could be sent twice.
    outcome = asyncio.run(_attempt(request, read))
    return Probe(kind, settings, target, time.perf_counter() - started, outcome)


async def _attempt(request: Request, read: Callable[[str], str]) -> Outcome:
    try:
        async with asyncio.timeout(TIMEOUT):
            return await attempt(request, read)
    except TimeoutError:
        return Outcome(error=timeout_error(TIMEOUT, request.target), cause=timed_out(TIMEOUT))


class SettingError(ValueError):
    """A setting is malformed; `steps` says what to do. The value is not shown, because it may be a secret."""

    def __init__(self, message: str, *steps: Step) -> None:
        super().__init__(message)
        self.steps = steps


def read_settings(also: Iterable[str]) -> Settings:
    """Read the settings from the environment, and check the sites of --also.

    Raises:
        SettingError: a setting or a site is malformed.
    """
    site, proxy = Websim.url.rstrip("/"), os.environ.get(PROXY_VARIABLE) or None
    key = clean_key(os.environ.get(TOKEN_VARIABLE)) or None
    if not is_valid_url(site):
        raise SettingError(f"{URL_VARIABLE}: {SITE_FORM}", Step("Correct it:", (_corrected(site, key),)), USE_DEFAULT)
    if not all(map(is_valid_url, also)):
        raise SettingError(f"--also: {SITE_FORM}", Step("Name a site, as in:", (f"{CHECK} --also {API_URL}",)))
    try:
        Target(DEFAULT_URL, proxy=proxy)
    except ValueError as error:
        raise SettingError(str(error), Step("Correct it:", (set_proxy(proxy),)), USE_NO_PROXY) from None
    try:
        project_id = bodies.check_project_id(None)
    except ValueError:
        message = f"{PROJECT_VARIABLE}: {bodies.PROJECT_ID_FORM}"
        raise SettingError(message, FIND_PROJECT, SET_PROJECT, USE_RANDOM) from None
    return Settings(site, project_id, key if is_token(key) else None, key, proxy)


def _corrected(site: str, key: str | None) -> str:
    """Return a line that sets WEBSIM_URL to a malformed URL with the scheme https, if only that is missing."""
    url = f"https://{site.strip()}"
    # A key may have been pasted into the wrong variable.
    is_secret = "." not in site or "@" in site or redact(url, [key or ""]) != url
    return f"export {URL_VARIABLE}={url}" if not is_secret and PLAIN_ORIGIN.fullmatch(url) else SET_URL
