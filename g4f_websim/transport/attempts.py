"""Send a request with retries and delays, within the time limit of the call.

post.py sends one request, and rate_limit.py lets calls wait while the server limits its rate.
"""

import asyncio
import logging
import random
from collections.abc import Callable
from time import monotonic
from typing import Protocol

from ..errors import RateLimitError, WebsimError
from . import failures
from .connections import MAX_REQUESTS, shared_pool
from .gate import JITTER
from .log import log, log_once
from .post import Outcome, Request, attempt
from .rate_limit import Call, RateLimit, rate_limit_of

# The largest exponent of a delay: 2.0**1024 raises an OverflowError.
MAX_EXPONENT = 1000

# A response that takes longer than this many seconds is logged.
SLOW_SECONDS = 10.0


class RetryPolicy(Protocol):
    """How often a request is sent, and after which delays: the attributes of `Websim`.

    Attributes:
        max_attempts: the maximum number of attempts.
        backoff: seconds before the second attempt; doubled before each further one.
        max_wait: the longest time in seconds that a call waits because of a rate limit or `Retry-After`.
    """

    max_attempts: int
    backoff: float
    max_wait: float


def delay_after(attempt: int, retry_after: float | None, backoff: float) -> float:
    """Return the seconds to wait after attempt number `attempt` failed."""
    if retry_after is not None:
        return retry_after
    exponent = min(attempt - 1, MAX_EXPONENT)
    return backoff * 2.0**exponent * random.uniform(1, 1 + JITTER)


async def send(request: Request, policy: RetryPolicy, time_limit: float | None, read: Callable[[str], str]) -> str:
    """Send a request, retry it if it may succeed, and return the content of the response.

    Args:
        request: what to send.
        policy: how often to send it, and after which delays.
        time_limit: seconds for the whole call, delays included; None for no limit.
        read: returns the text or the image URL in a response body, or raises `UnexpectedBodyError`.

    Raises:
        WebsimError: the call failed.
    """
    limit = rate_limit_of(request.target)
    call = limit.new_call(policy.max_wait)
    if time_limit is None:
        result = await _send_with_retries(request, policy, read, limit, call)
    else:
        try:
            async with asyncio.timeout(time_limit):
                result = await _send_with_retries(request, policy, read, limit, call)
        except TimeoutError:  # of the call; the timeout of an attempt is returned
            result = failures.timeout_error(time_limit, request.target, call.is_queued)
    if isinstance(result, str):
        return result
    # The exceptions of aiohttp and of the SOCKS library contain the password of the proxy. Raised inside an `except`
    # block, an error would carry them as its context; nest_asyncio resumes every task inside such a block.
    try:
        raise result
    finally:
        result.__context__ = None


async def _send_with_retries(
    request: Request, policy: RetryPolicy, read: Callable[[str], str], limit: RateLimit, call: Call
) -> str | WebsimError:
    """Return the content of the first response that is not an error, or the last error."""
    pool = shared_pool()
    reusable = pool if pool.keeps_connections else None
    number, may_resend = 1, True
    while True:
        call.is_last_attempt = number >= policy.max_attempts
        if pool.slots.locked():
            log_once(logging.INFO, f"{MAX_REQUESTS} requests are in flight in this event loop: other calls wait")
        async with pool.slots:
            # Not before the call has a slot: other requests may have been refused in the meantime.
            sent_at = limit.admit(call)
            if sent_at is not None:
                try:
                    outcome = await attempt(request, read, reusable, may_resend)
                except (asyncio.CancelledError, Exception):
                    limit.failed(sent_at)
                    raise
                _record(request, outcome, limit, sent_at, policy.backoff)
        if sent_at is None:
            seconds = await limit.wait(call)
            if seconds is not None:
                return _queue_error(request, policy, call, seconds)
            continue
        if outcome.error is None:
            return outcome.content
        if call.is_last_attempt or not outcome.is_retryable:
            return outcome.error
        may_resend = may_resend and not outcome.is_stale
        error = await _delay_next(request, policy, call, number, outcome.error)
        if error:
            return error
        number += 1


def _record(request: Request, outcome: Outcome, limit: RateLimit, sent_at: float, backoff: float) -> None:
    """Record in the rate limit what became of a request, and log a slow response."""
    if isinstance(outcome.error, RateLimitError):
        limit.refused(sent_at, outcome.error.retry_after, backoff)
    elif outcome.response:
        limit.accepted(sent_at)
    else:
        limit.failed(sent_at)
    seconds = monotonic() - sent_at
    if seconds > SLOW_SECONDS and outcome.response:
        log(logging.INFO, f"{request.target.host} took {seconds:.0f} s to respond")


async def _delay_next(
    request: Request, policy: RetryPolicy, call: Call, number: int, error: WebsimError
) -> WebsimError | None:
    """Wait after attempt number `number`, or return the error of a call that may not wait so long.

    After a 429, the call waits in the queue instead.
    """
    delay = delay_after(number, error.retry_after, policy.backoff)
    next_attempt = f"attempt {number + 1} of {policy.max_attempts}"
    if isinstance(error, RateLimitError):
        if error.retry_after is not None and delay > call.remaining_wait:
            return _queue_error(request, policy, call, delay)
        call.not_before = monotonic() + delay
        # At INFO the queue is reported, rather than each of the many calls in it.
        log(logging.DEBUG, f"{error}; waiting in the queue for {next_attempt}")
        return None
    if error.retry_after is not None:
        call.remaining_wait -= delay
        if call.remaining_wait < 0:
            log(logging.INFO, f"{error}; no further attempt, because Retry-After is longer than max_wait")
            return error
    log(logging.INFO, f"{error}; waiting {delay:.1f} s before {next_attempt}")
    await asyncio.sleep(delay)
    return None


def _queue_error(request: Request, policy: RetryPolicy, call: Call, seconds: float) -> WebsimError:
    """Return the error of a call that may not wait for the `seconds` until the server accepts requests again."""
    waited = policy.max_wait - max(0.0, call.remaining_wait)
    return failures.queue_error(waited + seconds, seconds, policy.max_wait, request.target)
