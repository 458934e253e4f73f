"""Send one request over a pooled connection and read the response, with a limit on its size.

connections.py keeps the connections, and failures.py explains a failure.
"""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import aiohttp

from ..errors import RateLimitError, WebsimError
from ..wire.response import UnexpectedBodyError, decode, error_words, require_no_event_stream
from . import failures
from .causes import Cause, cause_of_body, cause_of_response
from .connections import ATTEMPT_TIMEOUT, Exchange, Pool, current_exchange, new_session
from .failures import RETRYABLE_STATUSES, ResponseTooLargeError
from .retry_after import parse_retry_after
from .target import Target

MAX_BODY_BYTES = 32 * 1024 * 1024
# A single emoji makes Python store the whole text with four bytes a character.
MAX_NON_ASCII_BYTES = MAX_BODY_BYTES // 2

# aiohttp warns about a larger body of bytes. It sends a file object in pieces, without a warning.
MAX_BYTES_IN_ONE_PIECE = 1024 * 1024


@dataclass(slots=True)
class Request:
    """A request: where it goes, its headers, and its body."""

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
        is_retryable: whether the request may be sent again.
        is_stale: whether the server had closed the kept-alive connection that the request was sent over.
    """

    response: Response | None = None
    content: str = ""
    error: WebsimError | None = None
    cause: Cause | None = None
    is_retryable: bool = False
    is_stale: bool = False


async def attempt(
    request: Request, read: Callable[[str], str], pool: Pool | None = None, may_resend: bool = False
) -> Outcome:
    """Send a request once; the error of a call is returned, not raised.

    aiohttp does not repeat a POST that was sent over a connection that the server had closed. If `may_resend`, such a
    request is repeated at once over a new connection, and the outcome is still marked as stale.

    Args:
        request: what to send.
        read: returns the text or the image URL in a response body, or raises `UnexpectedBodyError`.
        pool: the connections to reuse; None to open one for this request.
        may_resend: whether to repeat the request.

    Raises:
        Exception: an error that is not the network's, if no event loop of asyncio runs for example.
    """
    exchange, target = Exchange(), request.target
    current_exchange.set(exchange)
    try:
        response = await _post(request, exchange, pool)
    except Exception as raised:  # aiohttp, ssl and the SOCKS library raise exceptions of many classes
        is_stale = _is_stale(raised, exchange)
        if not (is_stale and may_resend):
            return _failed(raised, target, exchange, is_stale)
    else:
        return _outcome_of(response, read, target)
    outcome = await attempt(request, read)
    outcome.is_stale = True
    return outcome


def _failed(raised: Exception, target: Target, exchange: Exchange, is_stale: bool) -> Outcome:
    """Return the outcome of an attempt that ended with an exception, or raise it if it is not the network's."""
    # aiohttp and the SOCKS library raise subclasses of TimeoutError if connecting takes too long.
    if type(raised) is TimeoutError:
        error = failures.timeout_error(ATTEMPT_TIMEOUT, target)
        return Outcome(error=error, cause=failures.timed_out(ATTEMPT_TIMEOUT))
    cause = failures.cause_of_exception(raised, target, exchange.status)
    if cause is None:
        raise raised
    error = failures.error_of(cause, target, failures.text_of(raised), exchange.status)
    return Outcome(error=error, cause=cause, is_retryable=cause.is_retryable, is_stale=is_stale)


def _outcome_of(response: Response, read: Callable[[str], str], target: Target) -> Outcome:
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
    is_retryable = isinstance(error, RateLimitError) or response.status in RETRYABLE_STATUSES
    return Outcome(response, "", error, cause, is_retryable)


def _is_stale(error: Exception, exchange: Exchange) -> bool:
    """Return whether a server closed an idle connection at the moment at which a request was sent over it."""
    if exchange.status or exchange.opened or not exchange.is_shared or isinstance(error, aiohttp.ClientConnectorError):
        return False
    # If the head of a response did arrive, aiohttp puts it into `message` instead of a text.
    is_empty = isinstance(getattr(error, "message", ""), str)
    return is_empty and isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError)


async def _post(request: Request, exchange: Exchange, pool: Pool | None) -> Response:
    target, body = request.target, request.body
    session = pool.session if pool and not target.socks_proxy else new_session(target.socks_proxy)
    exchange.is_shared = pool is not None and session is pool.session
    try:
        async with session.request(
            request.method,
            target.url,
            data=io.BytesIO(body) if len(body) > MAX_BYTES_IN_ONE_PIECE else body,
            headers=request.headers,
            proxy=target.http_proxy,
            allow_redirects=False,
        ) as response:
            exchange.status = response.status
            return Response(response.status, response.headers, await _read_text(response))
    finally:
        if not exchange.is_shared:
            await session.close()


async def _read_text(response: aiohttp.ClientResponse) -> str:
    """Return the body as text.

    Raises:
        ResponseTooLargeError: the body is larger than `MAX_BODY_BYTES`, and no more of it was read; or it is larger
            than `MAX_NON_ASCII_BYTES` and not ASCII.
    """
    content, body, size = response.content, bytearray(), response.content_length or 0
    while size <= MAX_BODY_BYTES and not content.at_eof():
        body += await content.readany()
        size = len(body)
    if size > MAX_BODY_BYTES or (size > MAX_NON_ASCII_BYTES and not body.isascii()):
        raise ResponseTooLargeError
    return decode(bytes(body), response.charset)
