"""How it travels: one POST over a shared connection, with its tries, its waits, its bounds and its errors.

request.py makes what is sent; what comes back is read by the function that the caller gives. An error made here
names the host, says what to do and holds no secret. It has no other exception behind it either: those of aiohttp
and of the SOCKS library carry the proxy's password.
"""

from __future__ import annotations

import asyncio
import base64
import email.utils
import io
import json
import math
import random
import re
import ssl
import sys
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from functools import lru_cache
from typing import Any, Generic, NamedTuple, NoReturn, TypeVar
from urllib.parse import SplitResult, unquote, urlsplit

import g4f.debug
import g4f.errors
from aiohttp import ClientConnectionError, ClientResponse, ClientTimeout, ServerTimeoutError
from g4f.errors import (
    MissingRequirementsError,
    NoMediaResponseError,
    RateLimitError,
    ResponseError,
    ResponseStatusError,
)
from g4f.requests.raise_for_status import raise_for_status

from .pool import Pool
from .response import EXCERPT_CHARS, excerpt, is_rate_limit, scrub

T = TypeVar("T")

SECONDS_A_TRY = 300.0
SECONDS_TO_CONNECT = 30.0
A_TRY = ClientTimeout(total=SECONDS_A_TRY, sock_connect=SECONDS_TO_CONNECT)

# A wait is up to this part longer at random, so that callers turned away together do not come back together.
JITTER = 0.25

MAX_BODY_BYTES = 32 * 1024 * 1024
# Above this size aiohttp warns of bytes, which it writes in one go; a file it writes in pieces.
MAX_BYTES_IN_ONE_GO = 1024 * 1024

# The server declined (408, 425, 429) or was not reached (502 to 504): to repeat does not double the work.
TRIED_AGAIN = frozenset({408, 425, 429, 502, 503, 504})

HTTP = ("http", "https")
SOCKS = ("socks4", "socks5", "socks5h")

LOG_IN = "log in with a Websim token as api_key or in WEBSIM_API_KEY"
IF_MOVED = "if Websim has moved, set WEBSIM_URL"
WAIT = "wait a while, log in, or use another provider"
ADVICE = {
    401: LOG_IN,
    403: f"{LOG_IN}, or try from another network",
    404: IF_MOVED,
    407: "look at the proxy's user and password",
    413: "send less",
    429: WAIT,
}
ADVICE_BY_CLASS = {3: IF_MOVED, 4: "look at what was sent"}
TRY_LATER = "try again later or use another provider"
LOOK_AT_NETWORK = "look at the network, the proxy and WEBSIM_URL"


class WebsimTimeoutError(g4f.errors.TimeoutError, TimeoutError):  # type: ignore[misc]  # g4f has no types
    """The time allowed was over; g4f's `TimeoutError` and Python's own in one."""


class Retries(NamedTuple):
    """How often a request is tried in all, the seconds before the second try, and the longest wait asked for."""

    max_tries: int
    backoff: float
    max_wait: float


class Failure(NamedTuple):
    """How one try ended without an answer: whether to try again, and after how many seconds if the server said so."""

    error: Exception
    again: bool = False
    retry_after: float | None = None


class Call(Generic[T]):
    """One POST, to be answered.

    Args:
        url: the endpoint.
        body: what to send, as JSON.
        headers: the request's headers.
        read: makes the answer of the body of a response; a g4f error it raises says that there is none.
        retries: how often to try.
        proxy: an http, https, socks4, socks5 or socks5h address.
        timeout: seconds for the whole call, waits included; None or 0 for no such bound.
        key: what no error may show, besides the login in the headers and the proxy's password.

    Raises:
        ValueError: an argument that no request can be made of.
    """

    def __init__(
        self,
        url: str,
        body: Mapping[str, Any],
        headers: Mapping[str, str],
        read: Callable[[str], T],
        retries: Retries,
        proxy: str | None = None,
        timeout: float | None = None,
        key: str | None = None,
    ) -> None:
        self._url, self._headers, self._read, self._retries, self._key = url, headers, read, retries, key
        self._address = _endpoint(str(url))
        proxy = str(proxy) if proxy else None
        self._proxy = proxy and _check_address("proxy", proxy, HTTP + SOCKS, "http://user:password@host:3128")
        self._socks_proxy = proxy if self._proxy and self._proxy.scheme in SOCKS else None
        self._http_proxy = None if self._socks_proxy else proxy
        self._timeout = _check_timeout(timeout)
        self._deadline = time.monotonic() + self._timeout
        self._payload = json.dumps(body).encode()

    async def answer(self) -> T:
        """Send, try again where that may help, and return the answer.

        Raises:
            WebsimTimeoutError: `timeout`, or 300 seconds in one try, were over.
            RateLimitError, MissingAuthError, ResponseStatusError: the server refused.
            ResponseError, NoMediaResponseError: the connection failed, or what came is no answer.
        """
        number = 1
        while isinstance(outcome := await self.send(), Failure):
            wait = outcome.retry_after
            too_long = wait is not None and wait > self._retries.max_wait
            if not outcome.again or too_long or number >= self._retries.max_tries:
                _raise_alone(outcome.error)
            if wait is None:
                wait = self._retries.backoff * 2 ** (number - 1) * random.uniform(1, 1 + JITTER)
            number += 1
            g4f.debug.log(f"Websim: {outcome.error}; waiting {wait:.1f} s before try {number} of {self._retries[0]}")
            await self._sleep(wait)
        return outcome

    async def send(self) -> T | Failure:
        """Send once, and return the answer or how it failed."""
        seconds = self._deadline - time.monotonic()
        limits = A_TRY if seconds >= SECONDS_A_TRY else ClientTimeout(total=seconds, sock_connect=SECONDS_TO_CONNECT)
        large = len(self._payload) > MAX_BYTES_IN_ONE_GO
        began = False
        if seconds <= 0:
            return Failure(self._timeout_error())
        try:
            pool = Pool.of_running_loop()
            with pool.lease(self._socks_proxy) or await pool.open(self._socks_proxy) as session:
                response = await session.post(
                    self._url,
                    data=io.BytesIO(self._payload) if large else self._payload,
                    headers=self._headers,
                    proxy=self._http_proxy,
                    allow_redirects=False,
                    timeout=limits,
                )
                began = True
                text = await _read_text(response)
        except Exception as error:  # aiohttp, ssl and the SOCKS library raise what they like
            return self._connection_failure(error, began)
        if text is None:
            size = f"an answer of more than {MAX_BODY_BYTES >> 20} MiB"
            return Failure(ResponseError(f"Response {response.status}: {size} ({self._host}: {TRY_LATER})"))
        return await self._read_response(response, text)

    async def _read_response(self, response: ClientResponse, text: str) -> T | Failure:
        status = response.status
        error: Exception
        if 200 <= status < 300:
            try:
                return self._read(text)
            except (ResponseError, NoMediaResponseError) as no_answer:
                reason = scrub(str(no_answer), self._secrets())
                error = type(no_answer)(f"Response {status}: {reason} ({self._host}: {TRY_LATER})")
        else:
            error = await self._status_error(response, text)
        limited = status == 429 or (is_rate_limit(text) and not 300 <= status < 400)
        if limited and not isinstance(error, RateLimitError):
            error = RateLimitError(f"Response {status}: {self._excerpt(text, WAIT)}")
        return Failure(error, limited or status in TRIED_AGAIN, _retry_after(response.headers))

    async def _status_error(self, response: ClientResponse, text: str) -> Exception:
        status = response.status
        if status < 400:
            text = f"a redirect to {response.headers.get('Location')}, which was not followed"
        advice = ADVICE.get(status) or ADVICE_BY_CLASS.get(status // 100, TRY_LATER)
        message = self._excerpt(text, advice)
        error: Exception = ResponseStatusError(f"Response {status}: {message}")
        try:
            await raise_for_status(response, message)
        except Exception as refusal:  # its type is g4f's to choose; some types come with g4f's own words alone
            error = refusal if advice in str(refusal) else type(refusal)(f"{refusal} ({self._host}: {advice})")
        return error

    def _connection_failure(self, error: Exception, began: bool) -> Failure:
        if isinstance(error, MissingRequirementsError):
            return Failure(type(error)('a SOCKS proxy needs one more package: pip install "g4f-websim[socks]"'))
        if isinstance(error, asyncio.TimeoutError) and not isinstance(error, ServerTimeoutError):
            return Failure(self._timeout_error())
        what = "the answer broke off" if began else "no connection"
        reason = scrub(str(error), self._secrets())[:EXCERPT_CHARS] or type(error).__name__
        may_pass = isinstance(error, (ClientConnectionError, OSError)) and not isinstance(error, ssl.CertificateError)
        message = f"{self._host}: {what} ({reason}); {LOOK_AT_NETWORK}"
        return Failure(ResponseError(message), again=may_pass and not began)

    def _timeout_error(self) -> WebsimTimeoutError:
        seconds = self._timeout if time.monotonic() >= self._deadline else SECONDS_A_TRY
        return WebsimTimeoutError(f"{self._host}: no answer within {seconds:g} s; {TRY_LATER}")

    def _excerpt(self, text: str, advice: str) -> str:
        tail = f" ({self._host}: {advice})"
        return excerpt(text, self._secrets())[: EXCERPT_CHARS - len(tail)] + tail

    @property
    def _host(self) -> str:
        return self._address.netloc.rpartition("@")[2]

    def _secrets(self) -> list[str]:
        secrets = [self._key, self._headers.get("authorization", "").removeprefix("Bearer ")]
        if self._proxy and self._proxy.password:
            login = f"{self._proxy.username}:{self._proxy.password}"
            # The last is what aiohttp makes of them for Proxy-Authorization, which a proxy's error page may say again.
            basic = base64.b64encode(unquote(login).encode("latin-1", "replace")).decode()
            secrets += [self._proxy.password, unquote(self._proxy.password), basic]
        return [secret for secret in secrets if secret]

    async def _sleep(self, seconds: float) -> None:
        remaining = self._deadline - time.monotonic()
        await asyncio.sleep(min(seconds, max(remaining, 0)))
        if seconds >= remaining:
            raise self._timeout_error()


async def _read_text(response: ClientResponse) -> str | None:
    """Return the body as text, or None as soon as it proves too large."""
    body = bytearray()
    try:
        if (response.content_length or 0) > MAX_BODY_BYTES:
            return None
        while chunk := await response.content.readany():
            body += chunk
            if len(body) > MAX_BODY_BYTES:
                return None
    finally:
        # A connection whose response was read to its end is in the pool again by now; any other is closed here.
        response.close()
    # RFC 8259: JSON is UTF-8, whatever a header says; its two other encodings show in the first bytes.
    return body.decode(json.detect_encoding(body), "replace")


def _raise_alone(error: Exception) -> NoReturn:
    try:
        raise error
    finally:
        # Python's own tasks, which nest_asyncio brings back, resume while they handle aiohttp's exception.
        error.__context__ = None


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that `Retry-After` asks for (RFC 9110, 10.2.3), None where it says nothing of use."""
    value = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", value):
        return float(value) if math.isfinite(float(value)) else None
    try:
        date = email.utils.parsedate_to_datetime(value)
        date = date if date.tzinfo else date.replace(tzinfo=timezone.utc)
        return max(0.0, (date - datetime.now(timezone.utc)).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return None


@lru_cache(maxsize=8)
def _endpoint(url: str) -> SplitResult:
    return _check_address("WEBSIM_URL", url, HTTP, "https://websim.com")


def _check_address(name: str, address: Any, schemes: tuple[str, ...], example: str) -> SplitResult:
    """Return the parts of an address; an error does not quote it, since it may hold a password."""
    try:
        parts = urlsplit(address)
        legal = parts.scheme in schemes and parts.hostname and parts.port != 0
    except (AttributeError, TypeError, ValueError):
        legal = False
    if not legal:
        raise ValueError(f"{name}: an address as {example}, its scheme one of {', '.join(schemes)}")
    return SplitResult(*parts)


def _check_timeout(timeout: Any) -> float:
    if timeout is None:
        return math.inf
    legal = isinstance(timeout, (int, float)) and not isinstance(timeout, bool) and 0 <= timeout < math.inf
    if not legal:
        raise ValueError(f"timeout: a positive number of seconds, as in timeout=60, not {timeout!r:.80}")
    return float(min(timeout, sys.maxsize)) if timeout else math.inf
