"""Send one request of `g4f-websim check`, and keep its result."""

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from ..errors import Reason
from ..provider import Websim
from ..transport.causes import Cause
from ..transport.failures import timed_out, timeout_error
from ..transport.post import Outcome, Request, attempt
from ..transport.target import Target
from ..wire.bodies import CHAT_PAGE, IMAGE_PAGE, build_headers, chat_body, image_body
from ..wire.endpoints import CHAT_PATH, IMAGE_PATH, PROJECT_PATH
from ..wire.messages import Json
from ..wire.redaction import redact
from ..wire.response import chat_text, image_url
from .check_settings import Settings

# A chat, an image, or a question whether the project exists.
Kind = Literal["chat", "image", "lookup"]

# The timeout of one request in seconds. A user waits for the result, so it is shorter than the timeout of a call.
TIMEOUT = 60.0

MESSAGES = [{"role": "user", "content": "Say hello."}]

# What the status of a lookup says about the project; any other status says nothing.
PROJECT_STATES = {200: "exists", 404: "does not exist"}

# Only the API itself gives one of these reasons, so Websim was reached.
API_REASONS = (Reason.PROJECT_REFUSED, Reason.LOGIN_EXPIRED, Reason.RATE_LIMITED, Reason.NO_CREDITS)


@dataclass(frozen=True)
class CheckResult:
    """The result of one request.

    Attributes:
        kind: the kind of the request.
        settings: the settings that it was sent with.
        target: where it was sent to.
        seconds: the time until the response or the failure.
        outcome: the response or the failure.
    """

    kind: Kind
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
        """The result in a few words."""
        return self.project_state or (redact(self.cause.summary, self.target.secrets) if self.cause else "ok")

    @property
    def project_state(self) -> str:
        """Whether the project exists, in words; empty if that is unknown."""
        state = PROJECT_STATES.get(self.status or 0) if self.kind == "lookup" else None
        return redact(f"the project {self.settings.project_id} {state}", self.target.secrets) if state else ""

    @property
    def failure(self) -> str:
        """What happened, in the words of the error but without its advice: the check prints steps instead."""
        advice = f": {self.cause.advice}" if self.cause else ""
        return str(self.outcome.error).removesuffix(advice)

    @property
    def reached_api(self) -> bool:
        """Whether the API responded, even if it refused the request."""
        return self.reason in (None, *API_REASONS) or self.status == 401


def send_request(kind: Kind, settings: Settings) -> CheckResult:
    """Send a request over a connection of its own: over a reused one, it could be sent twice."""
    project_id = settings.project_id or Websim.generate_project_id(for_image=kind == "image")
    read: Callable[[str], str]
    match kind:
        case "chat":
            request, read = _post(settings, CHAT_PATH, CHAT_PAGE, chat_body(project_id, MESSAGES)), chat_text
        case "image":
            request = _post(settings, IMAGE_PATH, IMAGE_PAGE, image_body(project_id, MESSAGES, None, None))
            read = partial(image_url, site=settings.site)
        case "lookup":
            target = settings.target(PROJECT_PATH.format(project_id=project_id))
            request, read = Request(target, build_headers(settings.site, CHAT_PAGE, None), b"", "GET"), str
    started = time.perf_counter()
    outcome = asyncio.run(_attempt(request, read))
    return CheckResult(kind, settings, request.target, time.perf_counter() - started, outcome)


def _post(settings: Settings, path: str, page: str, body: Json) -> Request:
    headers = build_headers(settings.site, page, settings.token)
    return Request(settings.target(path), headers, json.dumps(body).encode())


async def _attempt(request: Request, read: Callable[[str], str]) -> Outcome:
    try:
        async with asyncio.timeout(TIMEOUT):
            return await attempt(request, read)
    except TimeoutError:
        return Outcome(error=timeout_error(TIMEOUT, request.target), cause=timed_out(TIMEOUT))
