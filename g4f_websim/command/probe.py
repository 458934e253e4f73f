"""Read the settings of `g4f-websim check`, correct malformed ones, and send one request."""

import asyncio
import json
import os
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial

from ..errors import Reason
from ..provider import Websim
from ..transport.causes import CHECK, USE_NO_PROXY, Cause, Step, quoted
from ..transport.failures import USE_HTTP_PROXY, timed_out, timeout_error
from ..transport.post import Outcome, Request, attempt
from ..transport.target import PROXY_VARIABLE, SITE_FORM, SOCKS_SCHEMES, Target, is_valid_url
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

SET_PROXY = f"export {PROXY_VARIABLE}=http://<host>:<port>"
USE_DEFAULT = f"unset {URL_VARIABLE}"
USE_RANDOM = f"unset {PROJECT_VARIABLE}"

# A host name with a dot or a port, and a path. A word with neither may be a key or a typing error.
HOST = re.compile(r"([A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+|localhost|[A-Za-z0-9-]+(?=:))(:[0-9]{1,5})?(/[\w/.-]*)?", re.ASCII)
LOOPBACK = re.compile(r"(localhost|127\.[0-9.]+)(:|/|$)")
SLUG_PAGE = re.compile(r"https?://[^/]+/@([\w-]+)/([\w-]+)/?", re.ASCII)


@dataclass(frozen=True)
class Settings:
    """The settings that a request is sent with.

    Attributes:
        site: the URL of the site.
        project_id: the project id; empty for a random one.
        key: the value of WEBSIM_API_KEY, which is sent only if it is a Websim token.
        proxy: the URL of the proxy, if any.
        sends_token: whether the site receives the token.
    """

    site: str
    project_id: str = ""
    key: str | None = field(default=None, repr=False)
    proxy: str | None = field(default=None, repr=False)
    sends_token: bool = True

    @property
    def token(self) -> str | None:
        """The token that is sent."""
        return self.key if self.sends_token and is_token(self.key) else None

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
    # A new event loop opens a new connection. On a reused one, a request could be sent twice.
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

    def __init__(self, message: str, steps: list[Step]) -> None:
        super().__init__(message)
        self.steps = steps


def read_settings(also: Iterable[str]) -> Settings:
    """Read the settings from the environment.

    Args:
        also: the sites of --also, which are validated too.

    Raises:
        SettingError: a setting or a site is malformed.
    """
    site, proxy = Websim.url.rstrip("/"), os.environ.get(PROXY_VARIABLE, "")
    key, project = clean_key(os.environ.get(TOKEN_VARIABLE)), os.environ.get(PROJECT_VARIABLE, "")
    if not is_valid_url(site):
        raise SettingError(f"{URL_VARIABLE}: {SITE_FORM}", steps_for_url(site, key))
    for url in also:
        if not is_valid_url(url):
            raise SettingError(f"--also: {SITE_FORM}", steps_for_also(url, key))
    try:
        Target(DEFAULT_URL, proxy=proxy)
    except ValueError as error:
        raise SettingError(str(error), steps_for_proxy(proxy)) from None
    try:
        return Settings(site, bodies.check_project_id(None), key or None, proxy or None)
    except ValueError:
        raise SettingError(f"{PROJECT_VARIABLE}: {bodies.PROJECT_ID_FORM}", steps_for_project(project)) from None


def steps_for_url(url: str, key: str) -> list[Step]:
    """Return what to do about a malformed WEBSIM_URL."""
    corrected = _correct(url, key)
    if corrected in ("", DEFAULT_URL):
        return [Step(f"Use the default, {DEFAULT_URL}:", (USE_DEFAULT,))]
    return [Step("Correct it:", (set_url(corrected),)), Step(f"Or use the default, {DEFAULT_URL}:", (USE_DEFAULT,))]


def steps_for_also(url: str, key: str) -> list[Step]:
    """Return what to do about a malformed URL after --also."""
    corrected = _correct(url, key)
    return [Step("Correct it:" if corrected else "Name a site, as in:", (f"{CHECK} --also {corrected or API_URL}",))]


def steps_for_project(value: str) -> list[Step]:
    """Return what to do about a malformed WEBSIM_PROJECT_ID."""
    steps = [set_project("Open the project in a browser, and set"), Step("Or use random project ids:", (USE_RANDOM,))]
    if slug := SLUG_PAGE.fullmatch(value.strip()):
        url = f"{DEFAULT_URL}/api/v1/users/{slug[1]}/slugs/{slug[2]}"
        steps.insert(0, Step(f"This URL does not contain the id. See {url}, which describes the project."))
    return steps


def steps_for_proxy(url: str) -> list[Step]:
    """Return what to do about a malformed G4F_PROXY."""
    scheme, _, rest = url.rpartition("://")
    # What USE_HTTP_PROXY makes of the URL.
    corrected = f"http://{url.split('://', 1)[-1]}"
    if scheme in SOCKS_SCHEMES:
        return [Step("Correct it:", (f"export {PROXY_VARIABLE}={scheme}://<host>:<port>",)), USE_NO_PROXY]
    if HOST.fullmatch(rest.rpartition("@")[2]) and is_valid_url(DEFAULT_URL, corrected):
        return [Step("If it is an HTTP proxy:", (USE_HTTP_PROXY,)), USE_NO_PROXY]
    return [Step("Correct it:", (SET_PROXY,)), USE_NO_PROXY]


def _correct(url: str, key: str) -> str:
    """Return a valid URL with the scheme http or https and without a login, or an empty string if there is none.

    Args:
        url: the malformed URL.
        key: a key that may have been pasted into the wrong variable.
    """
    rest = url.strip().rpartition("://")[2].rpartition("@")[2].rstrip("/")
    corrected = f"{'http' if LOOPBACK.match(rest) else 'https'}://{rest}"
    # The password may stand after the @.
    is_secret = redact(corrected, [key]) != corrected or ("@" in url and "." not in rest)
    return corrected if HOST.fullmatch(rest) and is_valid_url(corrected) and not is_secret else ""


def set_url(url: str) -> str:
    """Return a line that sets WEBSIM_URL."""
    return f"export {URL_VARIABLE}={quoted(url)}"


def set_project(start: str) -> Step:
    """Return the step that sets WEBSIM_PROJECT_ID, after the beginning of its sentence."""
    return Step(f"{start} its id, the last part of websim.com/p/<id>:", (f"export {PROJECT_VARIABLE}=<id>",))
