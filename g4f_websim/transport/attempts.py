"""Send one POST request over a pooled connection, with retries, timeouts and size limits.

bodies.py builds what is sent, response.py reads the response, and failures.py explains a failure.
"""

import asyncio
import email.utils
import io
import logging
import math
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from time import monotonic

import aiohttp

from ..errors import RateLimitError, WebsimError
from ..wire.response import UnexpectedBodyError, decode, error_words, require_no_event_stream
from . import failures
from .causes import Cause, cause_of_body, cause_of_response
from .connections import ATTEMPT_TIMEOUT, shared_pool
from .failures import RETRYABLE_STATUSES, ResponseTooLargeError
from .log import log
from .pace import JITTER
from .target import Target
from .throttle import QueueTooLongError
from .throttles import shared_throttle

# The largest exponent of a delay: 2.0**1024 raises an OverflowError.
MAX_EXPONENT = 1000

MAX_BODY_BYTES = 32 * 1024 * 1024

# aiohttp warns about a larger body of bytes. It sends a file object in pieces, without a warning.
MAX_BYTES_IN_ONE_PIECE = 1024 * 1024


@dataclass(slots=True)
class RetryPolicy:
    """How often a request is sent, and after which delays.

    Attributes:
        max_attempts: the maximum number of attempts.
        backoff: seconds before the second attempt; doubled before each further one.
        max_wait: the longest time in seconds that a call waits because of a rate limit or `Retry-After`.
    """

    max_attempts: int
    backoff: float
    max_wait: float

    def delay(self, attempt: int, retry_after: float | None) -> float:
        """Return the seconds to wait after attempt number `attempt` failed."""
        if retry_after is not None:
            return retry_after
        exponent = min(attempt - 1, MAX_EXPONENT)
        return self.backoff * 2.0**exponent * random.uniform(1, 1 + JITTER)


@dataclass(slots=True)
class Request:
    """A request: where it goes, its headers, and its body as JSON."""

    target: Target
    headers: Mapping[str, str]
    body: bytes
    method: str = "POST"


@dataclass(slots=True)
class Response:
    """A response that was read to its end."""

    status: int
    headers: Mapping[str, str]
    text: str


@dataclass(slots=True)
class Outcome:
    """The result of one attempt.

    Attributes:
        response: the response, if it was read to its end.
        content: what `read` returned; empty if there is an error.
        error: the error, which is not raised yet.
        cause: why the attempt failed.
        retryable: whether the request may be sent again.
        retry_after: the seconds in the header `Retry-After`.
    """

    response: Response | None = None
    content: str = ""
    error: WebsimError | None = None
    cause: Cause | None = None
    retryable: bool = False
    retry_after: float | None = None


class Progress:
    """The progress of one attempt. The status is kept here because an exception in `_post` would lose it."""

    status: int | None = None
    reused = False


async def send(request: Request, policy: RetryPolicy, time_limit: float | None, read: Callable[[str], str]) -> str:
    """Send a request, retry it if it may succeed, and return the content of the response.

    Args:
        request: what to send.
        policy: how often to send it, and after which delays.
        time_limit: seconds for the whole call, delays included; None for no limit.
        read: returns the text or the image URL in a response body, or raises `UnexpectedBodyError`.

    Raises:
        TimeoutError: the call or one attempt took too long.
        RateLimitError, MissingAuthError, ResponseStatusError: the server refused the request.
        ResponseError, NoMediaResponseError: the connection failed, or the response is of no use.
    """
    if time_limit is None:
        outcome = await _send_with_retries(request, policy, read)
    else:
        try:
            async with asyncio.timeout(time_limit):
                outcome = await _send_with_retries(request, policy, read)
        except TimeoutError:  # of the call: the timeout of an attempt is in its outcome
            outcome = Outcome(error=failures.timeout_error(time_limit, request.target))
    if outcome.error is None:
        return outcome.content
    # The exceptions of aiohttp and of the SOCKS library contain the password of the proxy. Raised inside an `except`
    # block, an error would carry them as its context; nest_asyncio resumes every task inside such a block.
    try:
        raise outcome.error
    finally:
        outcome.error.__context__ = None


async def _send_with_retries(request: Request, policy: RetryPolicy, read: Callable[[str], str]) -> Outcome:
    """Return the outcome of the first attempt that succeeds, or of the last one."""
    throttle = shared_throttle(request.target.host, request.target.token or "")
    waited = 0.0
    attempt = 0
    while True:
        attempt += 1
        is_last = attempt >= policy.max_attempts
        start = monotonic()
        try:
            sent_at = await throttle.wait_turn(is_last, policy.max_wait - waited)
        except QueueTooLongError as error:
            return Outcome(error=failures.queue_error(waited + error.seconds, policy.max_wait, request.target))
        waited += sent_at - start
        try:
            outcome = await attempt_once(request, read)
        except asyncio.CancelledError:
            throttle.failed(sent_at)
            raise
        is_refused = isinstance(outcome.error, RateLimitError)
        if is_refused:
            throttle.refused(sent_at, outcome.retry_after, policy.backoff)
        elif outcome.response:
            throttle.accepted(sent_at)
        else:
            throttle.failed(sent_at)
        if is_last or not outcome.retryable:
            return outcome
        next_attempt = f"attempt {attempt + 1} of {policy.max_attempts}"
        if is_refused:
            # At INFO queue_report.py reports the queue, rather than each of the many calls in it.
            log(logging.DEBUG, f"{outcome.error}; waiting in the queue for {next_attempt}")
            continue
        delay = policy.delay(attempt, outcome.retry_after)
        if outcome.retry_after is not None and delay > policy.max_wait:
            return outcome
        log(logging.INFO, f"{outcome.error}; waiting {delay:.1f} s before {next_attempt}")
        await asyncio.sleep(delay)


async def attempt_once(request: Request, read: Callable[[str], str]) -> Outcome:
    """Send a request once; the error of a call is returned, not raised.

    Raises:
        Exception: an error that is not the network's, if no event loop of asyncio runs for example.
    """
    progress, target = Progress(), request.target
    try:
        response = await _send_once(request, progress)
    except Exception as raised:  # aiohttp, ssl and the SOCKS library raise exceptions of many classes
        if type(raised) is TimeoutError:  # of the attempt; aiohttp and the SOCKS library have subclasses for connecting
            return Outcome(
                error=failures.timeout_error(ATTEMPT_TIMEOUT, target), cause=failures.timed_out(ATTEMPT_TIMEOUT)
            )
        failure = failures.cause_of_exception(raised, target, progress.status)
        if failure is None:
            # Where the garbage collector ends a call whose event loop was closed, aiohttp cannot close the connection.
            if isinstance(raised.__context__, GeneratorExit):
                raise raised.__context__ from None
            raise
        error = failures.error_of(failure, target, failures.text_of(raised), progress.status)
        return Outcome(error=error, cause=failure, retryable=failure.is_retryable)
    if 200 <= response.status < 300:
        try:
            content = read(response.text)
            require_no_event_stream(response.headers.get("Content-Type", ""), response.text)
            return Outcome(response, content)
        except UnexpectedBodyError as raised:
            cause = cause_of_body(raised, response.status, response.headers, response.text, target)
    else:
        cause = cause_of_response(response.status, response.headers, response.text, target)
    retry_after = parse_retry_after(response.headers)
    cause = failures.with_delay(cause, retry_after)
    error = failures.error_of(cause, target, error_words(response.text), response.status, retry_after)
    retryable = isinstance(error, RateLimitError) or response.status in RETRYABLE_STATUSES
    return Outcome(response, "", error, cause, retryable, retry_after)


async def _send_once(request: Request, progress: Progress) -> Response:
    """Send a request and read the response to its end.

    A server may close a kept-alive connection at the moment at which the request is sent over it, and aiohttp does
    not repeat a POST. Such a request is repeated at once over a new connection.
    """
    try:
        return await _post(request, progress)
    except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
        # The message of ServerDisconnectedError is the part of the response that did arrive, if any.
        if not progress.reused or progress.status or not isinstance(getattr(error, "message", ""), str):
            raise
    return await _post(request, progress, new=True)


async def _post(request: Request, progress: Progress, new: bool = False) -> Response:
    body = io.BytesIO(request.body) if len(request.body) > MAX_BYTES_IN_ONE_PIECE else request.body
    pool = await shared_pool()
    async with (
        pool.slots,
        pool.open_session(request.target.socks_proxy, new) as session,
        session.request(
            request.method,
            request.target.url,
            data=body,
            headers=request.headers,
            proxy=request.target.http_proxy,
            allow_redirects=False,
            trace_request_ctx=progress,
        ) as response,
    ):
        progress.status = response.status
        text = await _read_text(response)
        return Response(response.status, response.headers, text)


async def _read_text(response: aiohttp.ClientResponse) -> str:
    """Return the body as text.

    Raises:
        ResponseTooLargeError: the body is larger than `MAX_BODY_BYTES`; no more of it was read.
    """
    content, body, size = response.content, bytearray(), response.content_length or 0
    while size <= MAX_BODY_BYTES and not content.at_eof():
        body += await content.readany()
        size = len(body)
    if size > MAX_BODY_BYTES:
        raise ResponseTooLargeError
    return decode(bytes(body), response.charset)


def parse_retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds in `Retry-After` (RFC 9110, section 10.2.3), or None if it is missing or malformed."""
    value = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", value):
        return float(value) if math.isfinite(float(value)) else None
    try:
        date = email.utils.parsedate_to_datetime(value)
        date = date if date.tzinfo else date.replace(tzinfo=UTC)
        return max(0.0, (date - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return None
