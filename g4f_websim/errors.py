"""Build the exceptions of failed calls. Their messages name the host, end with advice, and contain no secret.

Every exception has the attributes `status`, `retry_after` and `reason`, and `cause` for `g4f-websim check`. The
functions return the exceptions; attempts.py raises them.
"""

import math
import os
from typing import Any

import aiohttp
from g4f import errors
from g4f.requests.raise_for_status import raise_for_status

from .transport.causes import (
    NO_SOCKS,
    RATE_LIMITED,
    TRY_LATER,
    Cause,
    Reason,
    ResponseTooLargeError,
    UnexpectedBodyError,
    cause_of_exception,
    cause_of_response,
)
from .transport.target import Target
from .wire.redaction import excerpt, redact

# The maximum length of a message.
MAX_MESSAGE_CHARS = 300
# An excerpt of a response that would be shorter than this is left out.
MIN_EXCERPT_CHARS = 20
# A delay longer than this (30 years) is shown with an exponent.
MAX_PLAIN_SECONDS = 1e9


class WebsimTimeoutError(errors.TimeoutError, TimeoutError):  # type: ignore[misc]  # g4f has no types
    """No response came in time. The class derives from g4f's `TimeoutError` and from Python's."""


async def response_error(
    response: Any, target: Target, unexpected: UnexpectedBodyError | None, retry_after: float | None
) -> Exception:
    """Return the exception for a response.

    Args:
        response: the response, with `status`, `ok`, `headers` and `text`.
        target: where the request went.
        unexpected: why the body of a successful response cannot be used, if so.
        retry_after: the seconds in the header `Retry-After`, if any.
    """
    cause = cause_of_response(response.status, response.headers, response.text, target)
    if unexpected:
        kind = errors.RateLimitError if cause is RATE_LIMITED else unexpected.cause.error
        cause = (cause or unexpected.cause)._replace(error=kind)
    assert cause
    delay = _format_seconds(retry_after) if retry_after else "a while"
    # The summary may contain parts of the response, such as the path of a redirect or the names of fields.
    summary = redact(cause.summary, target.secrets)
    cause = cause._replace(summary=summary, advice=cause.advice.replace("{delay}", delay))
    message = _message(f"Response {response.status} from {target.host}: {cause.summary}", response.text, cause, target)
    kind = cause.error
    if kind is None:
        try:
            await raise_for_status(response, message)
        except Exception as chosen:  # only its class is used, because g4f replaces some messages
            kind = type(chosen)
    return _new(kind or errors.ResponseStatusError, message, cause, response.status, retry_after)


def exception_error(error: Exception, target: Target, status: int | None) -> Exception:
    """Return the exception for an attempt that ended with an exception of aiohttp, of ssl or of the SOCKS library.

    Args:
        error: the exception.
        target: where the request went.
        status: the HTTP status, if the response had begun.
    """
    if isinstance(error, errors.MissingRequirementsError):
        return _new(type(error), f"No response from {target.host}: {NO_SOCKS.summary}: {NO_SOCKS.advice}", NO_SOCKS)
    cause = cause_of_exception(error, target, began=status is not None)
    start = f"Response {status}" if status else "No response"
    message = _message(f"{start} from {target.host}: {cause.summary}", _text_of(error), cause, target)
    return _new(cause.error or errors.ResponseError, message, cause, status)


def timeout_error(seconds: float, target: Target) -> Exception:
    """Return the exception for a call or an attempt that took longer than `seconds`."""
    cause = Cause(Reason.TIMEOUT, f"no response within {seconds:g} s", TRY_LATER)
    message = f"No response from {target.host} within {seconds:g} s: {TRY_LATER}"
    return _new(WebsimTimeoutError, message, cause)


def queue_error(seconds: float, max_wait: float, target: Target) -> Exception:
    """Return the exception for a call that would wait longer than `max_wait` seconds to be sent."""
    cause = RATE_LIMITED._replace(advice="try again later, log in, use another provider, or increase max_wait")
    message = (
        f"Rate limit of {target.host}: the call would wait {_format_seconds(seconds)}, longer than Websim.max_wait "
        f"({max_wait:g} s): {cause.advice}"
    )
    return _new(errors.RateLimitError, message, cause, 429, round(seconds, 1))


def _text_of(error: Exception) -> str:
    """Return the part of an exception's text that the message does not contain yet.

    Most texts of aiohttp begin with the host or end with the URL, which would leave no room for the reason.
    """
    if isinstance(error, ResponseTooLargeError):
        return ""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return str(getattr(error.certificate_error, "verify_message", error.certificate_error))
    if isinstance(error, aiohttp.ClientConnectorError):
        number, text = error.os_error.errno, str(error.os_error.strerror or error.os_error)
        # asyncio names the address there, rather than the reason.
        return os.strerror(number) if number and "Connect call failed" in text else text
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return f"{error.status} {error.message}"
    if isinstance(error, aiohttp.ClientResponseError):
        return error.message
    return str(error) or type(error).__name__


def _format_seconds(seconds: float) -> str:
    """Return a delay in whole seconds, rounded up. A huge delay is shown as 1e+300, which fits into a message."""
    return f"{math.ceil(seconds)} s" if seconds < MAX_PLAIN_SECONDS else f"{seconds:.0e} s"


def _message(start: str, detail: str, cause: Cause, target: Target) -> str:
    """Return `start`, an excerpt of `detail` and the advice, without secrets."""
    end = f": {cause.advice}"
    start = excerpt(start, target.secrets, MAX_MESSAGE_CHARS - len(end))
    room = MAX_MESSAGE_CHARS - len(start) - len(end) - len(" ()")
    shown = excerpt(detail, target.secrets, room) if room >= MIN_EXCERPT_CHARS else ""
    return f"{start} ({shown}){end}" if shown else start + end


def _new(
    kind: type[Exception], message: str, cause: Cause, status: int | None = None, retry_after: float | None = None
) -> Exception:
    error: Any = kind(message)
    error.status, error.retry_after, error.reason, error.cause = status, retry_after, cause.reason, cause
    return error  # type: ignore[no-any-return]
