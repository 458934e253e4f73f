"""The errors of a call: `WebsimError`, and one class for each class of g4f that an error belongs to.

Their messages name the host, end with what to do, and contain no secret. transport/failures.py builds them.
"""

# g4f has no types. A caller who reads `status`, `retry_after` or `reason` gets the types of WebsimError.
# mypy: disallow-subclassing-any=False

import builtins
from collections.abc import Callable
from enum import StrEnum
from typing import Any

import g4f.errors
from g4f.requests.raise_for_status import CloudflareError as G4FCloudflareError

# No response rules for longer than 15 minutes.
MAX_RETRY_AFTER = 900.0


class Reason(StrEnum):
    """The name of what happened, the value of `error.reason`."""

    PROJECT_REFUSED = "project_refused"
    API_MOVED = "api_moved"
    API_CHANGED = "api_changed"
    BOT_CHALLENGE = "bot_challenge"
    NO_CREDITS = "no_credits"
    LOGIN_NEEDED = "login_needed"
    LOGIN_EXPIRED = "login_expired"
    RATE_LIMITED = "rate_limited"
    REGION_BLOCKED = "region_blocked"
    REQUEST_REFUSED = "request_refused"
    SERVER_ERROR = "server_error"
    NO_CONTENT = "no_content"
    BROKEN_RESPONSE = "broken_response"
    NO_CONNECTION = "no_connection"
    PROXY_FAILED = "proxy_failed"
    TIMEOUT = "timeout"


class WebsimError(Exception):
    """A call failed.

    Args:
        message: what happened and what to do.
        reason: the name of what happened.
        status: the HTTP status, or None if no response began.
        retry_after: the seconds until the next request makes sense, or None if that is unknown.

    Attributes: `reason`, `status`, and `retry_after`, which is at most 900.
    """

    def __init__(
        self, message: str, reason: Reason, *, status: int | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.status = status
        self.retry_after = None if retry_after is None else min(retry_after, MAX_RETRY_AFTER)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
        """Return what `pickle` and `copy` create an equal error from."""
        return type(self), (str(self), self.reason), vars(self)


class ResponseError(WebsimError, g4f.errors.ResponseError):
    """The connection failed, or the response cannot be used."""


class ResponseStatusError(WebsimError, g4f.errors.ResponseStatusError):
    """The status of the response is an error."""


class RateLimitError(WebsimError, g4f.errors.RateLimitError):
    """Websim rate-limited the call."""


class MissingAuthError(WebsimError, g4f.errors.MissingAuthError):
    """Websim requires a login, or the login has expired."""


class NoMediaResponseError(WebsimError, g4f.errors.NoMediaResponseError):
    """The response contains no image."""


class CloudflareError(WebsimError, G4FCloudflareError):
    """Cloudflare sent a bot challenge instead of the response."""


class MissingRequirementsError(WebsimError, g4f.errors.MissingRequirementsError):
    """A package for this kind of proxy is not installed."""


class TimeoutError(WebsimError, g4f.errors.TimeoutError, builtins.TimeoutError):
    """No response came in time. The class derives from g4f's `TimeoutError` and from Python's."""
