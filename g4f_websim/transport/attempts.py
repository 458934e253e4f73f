"""Send one POST request over a pooled connection, with retries, timeouts and size limits.

bodies.py builds what is sent, response.py reads the response, and errors.py explains a failure.
"""

import asyncio
import email.utils
import io
import json
import logging
import math
import random
import re
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC
from time import monotonic
from time import time as wall_clock

import aiohttp
from g4f.errors import RateLimitError

from .. import errors
from .causes import ResponseTooLargeError, UnexpectedBodyError, is_socks_failure
from .connections import ATTEMPT_TIMEOUT, shared_pool
from .gate import JITTER, MAX_PAUSE
from .log import log
from .rate_limit import Call, RateLimit, rate_limit_of
from .target import Target

# The server declined the request (408, 425, 429), or a gateway did not deliver its response (502 to 504).
RETRYABLE_STATUSES = frozenset({408, 425, 429, 502, 503, 504})

# The largest exponent of a delay: 2.0**1024 raises an OverflowError.
MAX_EXPONENT = 1000

# A larger number in Retry-After is not a number of seconds but a point in time: 2001 in seconds, 1973 in milliseconds.
MIN_EPOCH_SECONDS, MIN_EPOCH_MILLISECONDS = 1e9, 1e11

MAX_BODY_BYTES = 32 * 1024 * 1024

# Some servers send a byte order mark before the text.
BYTE_ORDER_MARK = "\ufeff"

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


@dataclass(slots=True)
class Response:
    """A response that was read to its end."""

    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def ok(self) -> bool:
        """Whether the status is not an error; g4f's `raise_for_status` reads this attribute."""
        return self.status < 400


@dataclass(slots=True)
class Outcome:
    """The result of one attempt.

    Attributes:
        response: the response, if it was read to its end.
        content: what `read` returned; empty if there is an error.
        error: the error, which is not raised yet.
        retryable: whether the request may be sent again.
        retry_after: the seconds in the header `Retry-After`.
    """

    response: Response | None = None
    content: str = ""
    error: Exception | None = None
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
        WebsimTimeoutError: the call or one attempt took too long.
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
            outcome = Outcome(error=errors.timeout_error(time_limit, request.target))
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
    limit = rate_limit_of(request.target)
    call = limit.new_call(policy.max_wait)
    slots = (await shared_pool()).slots
    attempt = 1
    while True:
        call.is_last_attempt = attempt >= policy.max_attempts
        async with slots:
            # Not before the call has a slot: other requests may have been refused in the meantime.
            sent_at = limit.send(call)
            if sent_at is not None:
                outcome = await _attempt_recorded(request, read, limit, sent_at, policy.backoff)
        if sent_at is None:
            seconds = await limit.wait(call)
            if seconds is not None:
                return _queue_outcome(request, policy, call, seconds)
            continue
        if call.is_last_attempt or not outcome.retryable:
            return outcome
        delay = policy.delay(attempt, outcome.retry_after)
        attempt += 1
        next_attempt = f"attempt {attempt} of {policy.max_attempts}"
        if isinstance(outcome.error, RateLimitError):
            if outcome.retry_after is not None and delay > call.may_wait:
                return _queue_outcome(request, policy, call, delay)
            call.not_before = monotonic() + delay
            # At INFO the queue is reported, rather than each of the many calls in it.
            log(logging.DEBUG, f"{outcome.error}; waiting in the queue for {next_attempt}")
            continue
        if outcome.retry_after is not None:
            call.may_wait -= delay
            if call.may_wait < 0:
                return outcome
        log(logging.INFO, f"{outcome.error}; waiting {delay:.1f} s before {next_attempt}")
        await asyncio.sleep(delay)


async def _attempt_recorded(
    request: Request, read: Callable[[str], str], limit: RateLimit, sent_at: float, backoff: float
) -> Outcome:
    """Send a request once, and record in the rate limit what became of it."""
    try:
        outcome = await attempt_once(request, read)
    except asyncio.CancelledError:
        limit.failed(sent_at)
        raise
    if isinstance(outcome.error, RateLimitError):
        limit.refused(sent_at, outcome.retry_after, backoff)
    elif outcome.response:
        limit.accepted(sent_at)
    else:
        limit.failed(sent_at)
    return outcome


def _queue_outcome(request: Request, policy: RetryPolicy, call: Call, seconds: float) -> Outcome:
    """Return the outcome of a call that may not wait until the next request makes sense, in `seconds`."""
    waited = policy.max_wait - max(0.0, call.may_wait)
    return Outcome(error=errors.queue_error(waited + seconds, policy.max_wait, request.target))


async def attempt_once(request: Request, read: Callable[[str], str]) -> Outcome:
    """Send a request once; the error is returned, not raised."""
    progress = Progress()
    try:
        response = await _send_once(request, progress)
    except Exception as raised:  # aiohttp, ssl and the SOCKS library raise exceptions of many classes
        if isinstance(raised, TimeoutError) and not isinstance(raised, aiohttp.ServerTimeoutError):
            return Outcome(error=errors.timeout_error(ATTEMPT_TIMEOUT, request.target))
        retryable = progress.status is None and _is_connection_failure(raised)
        return Outcome(error=errors.exception_error(raised, request.target, progress.status), retryable=retryable)
    unexpected = None
    if 200 <= response.status < 300:
        try:
            return Outcome(response, read(response.text))
        except UnexpectedBodyError as raised:
            unexpected = raised
    retry_after = parse_retry_after(response.headers)
    error = await errors.response_error(response, request.target, unexpected, retry_after)
    retryable = isinstance(error, RateLimitError) or response.status in RETRYABLE_STATUSES
    return Outcome(response, "", error, retryable, retry_after)


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
        pool.open_session(request.target.socks_proxy, new) as session,
        session.post(
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
    # JSON is UTF-8 whatever a header says (RFC 8259). Only in UTF-16 and UTF-32 does it begin with zero bytes.
    encoding = json.detect_encoding(body) if 0 in body[:4] else "utf-8"
    return body.decode(encoding, "replace").removeprefix(BYTE_ORDER_MARK)


def parse_retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds in `Retry-After` (RFC 9110, section 10.2.3), at most 900, or None if there is no valid value.

    Some servers send a point in time, in seconds or milliseconds since 1970, rather than seconds. A point in time is
    measured against the header `Date`, since the clock of this machine may be wrong.
    """
    value = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", value):
        number = float(value)
        if number < MIN_EPOCH_SECONDS:
            return min(number, MAX_PAUSE)
        time: float | None = number / 1000 if number >= MIN_EPOCH_MILLISECONDS else number
    else:
        time = _parse_date(value)
    if time is None or not math.isfinite(time):
        return None
    now = _parse_date(headers.get("Date", ""))
    return min(max(0.0, time - (wall_clock() if now is None else now)), MAX_PAUSE)


def _parse_date(text: str) -> float | None:
    """Return an HTTP date in seconds since 1970, or None if it is malformed."""
    try:
        date = email.utils.parsedate_to_datetime(text)
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None


def _is_connection_failure(error: Exception) -> bool:
    """Return whether a request that ended with `error` before a response may be repeated."""
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return error.status in RETRYABLE_STATUSES
    if isinstance(error, ssl.CertificateError):
        return False
    return is_socks_failure(error) or isinstance(error, aiohttp.ClientConnectionError | OSError)
