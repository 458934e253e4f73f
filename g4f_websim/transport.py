"""How it travels: one POST over a shared connection, with its tries, its waits, its bounds and its errors.

request.py makes what is sent; what comes back is read by the function that the caller gives. An error made here
names the host, says what to do and holds no secret. It has no other exception behind it either: those of aiohttp
and of the SOCKS library carry the proxy's password.
"""

from __future__ import annotations

import asyncio
import email.utils
import io
import json
import math
import random
import re
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Generic, TypeVar
from urllib.parse import unquote, urlsplit

import g4f.debug
from aiohttp import ClientConnectionError, ClientResponse, ClientTimeout, ServerTimeoutError
from g4f.errors import (
    MissingRequirementsError,
    NoMediaResponseError,
    RateLimitError,
    ResponseError,
    ResponseStatusError,
)
from g4f.errors import TimeoutError as G4FTimeoutError
from g4f.requests.raise_for_status import raise_for_status

from .pool import Pool
from .response import EXCERPT_CHARS, excerpt, is_rate_limit, scrub

T = TypeVar("T")

SECONDS_A_TRY = 300.0
SECONDS_TO_CONNECT = 30.0

# A wait is up to this part longer at random, so that callers turned away together do not come back together.
JITTER = 0.25

MAX_BODY_BYTES = 32 * 1024 * 1024
# Above this size aiohttp warns of bytes, which it writes in one go; a file it writes in pieces.
MAX_BYTES_IN_ONE_GO = 1024 * 1024

# The server declined (408, 425, 429) or was not reached (502 to 504): to repeat does not double the work.
TRIED_AGAIN = frozenset({408, 425, 429, 502, 503, 504})

HTTP_PROXIES = ("http", "https")
SOCKS_PROXIES = ("socks4", "socks5", "socks5h")

LOG_IN = "log in with a Websim token as api_key or in WEBSIM_API_KEY"
WAIT = "wait a while, log in, or use another provider"
ADVICE = {
    401: LOG_IN,
    403: f"{LOG_IN}, or try from another network",
    404: "if Websim has moved, set WEBSIM_URL",
    407: "look at the proxy's user and password",
    413: "send less",
    429: WAIT,
}
ADVICE_ON_REQUEST = "look at what was sent"
ADVICE_ON_SERVER = "try again later or use another provider"
ADVICE_ON_CONNECTION = "look at the network, the proxy and WEBSIM_URL"


class WebsimTimeoutError(G4FTimeoutError, TimeoutError):  # type: ignore[misc]  # g4f has no types
    """The time allowed was over; g4f's `TimeoutError` and Python's own in one."""


@dataclass(frozen=True)
class Retries:
    """How often a request is tried, and how long it waits in between.

    Args:
        max_tries: tries in all, the first among them.
        backoff: seconds before the second try; doubled before each further one.
        max_wait: the longest wait in seconds that a server may ask for; beyond it the error is raised at once.
    """

    max_tries: int
    backoff: float
    max_wait: float


@dataclass(frozen=True)
class Failure:
    """How one try ended without an answer: whether to try again, and after how many seconds if the server said so."""

    error: Exception
    status: int | None = None
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
        secrets: what no error may show.

    Raises:
        ValueError: an argument that no request can be made of.
    """

    def __init__(
        self,
        url: str,
        body: Mapping[str, Any],
        headers: Mapping[str, str],
        *,
        read: Callable[[str], T],
        retries: Retries,
        proxy: str | None = None,
        timeout: float | None = None,
        secrets: tuple[str, ...] = (),
    ) -> None:
        self._url = url
        self._host = _check_url(url)
        self._payload = json.dumps(body).encode()
        self._headers = headers
        self._read = read
        self._retries = retries
        self._proxy, self._socks_proxy, passwords = _check_proxy(proxy)
        self._secrets = tuple(secret for secret in (*secrets, *passwords) if secret)
        self._timeout = _check_timeout(timeout)
        self._deadline = time.monotonic() + self._timeout if self._timeout else math.inf

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
            if wait is None:
                wait = self._retries.backoff * 2 ** (number - 1) * random.uniform(1, 1 + JITTER)
            too_long = outcome.retry_after is not None and wait > self._retries.max_wait
            if not outcome.again or number >= self._retries.max_tries or too_long:
                raise outcome.error
            number += 1
            g4f.debug.log(
                f"Websim: {outcome.error}; waiting {wait:.1f} s before try {number} of {self._retries.max_tries}"
            )
            await self._sleep(wait)
        return outcome

    async def send(self) -> T | Failure:
        """Send once, and return the answer or how it failed."""
        seconds = min(SECONDS_A_TRY, self._deadline - time.monotonic())
        if seconds <= 0:
            return Failure(self._timeout_error())
        began = False
        try:
            async with (
                Pool.of_running_loop().session(self._socks_proxy) as session,
                session.post(
                    self._url,
                    data=self._payload if len(self._payload) <= MAX_BYTES_IN_ONE_GO else io.BytesIO(self._payload),
                    headers=self._headers,
                    proxy=self._proxy,
                    allow_redirects=False,
                    timeout=ClientTimeout(total=seconds, sock_connect=SECONDS_TO_CONNECT),
                ) as response,
            ):
                began = True
                text = await _read_text(response)
        except Exception as error:  # aiohttp, ssl and the SOCKS library raise what they like
            return self._connection_failure(error, began)
        if text is None:
            return Failure(ResponseError(f"{self._host}: an answer of more than {MAX_BODY_BYTES >> 20} MiB"))
        return await self._read_response(response, text)

    async def _read_response(self, response: ClientResponse, text: str) -> T | Failure:
        status = response.status
        if 300 <= status < 400:
            return Failure(self._redirect_error(response), status)
        error: Exception
        if status < 300:
            try:
                return self._read(text)
            except (ResponseError, NoMediaResponseError) as no_answer:
                error = type(no_answer)(f"{self._host}: {no_answer}; {ADVICE_ON_SERVER}")
        else:
            error = await self._status_error(response, text)
        rate_limited = status == 429 or is_rate_limit(text)
        if rate_limited and not isinstance(error, RateLimitError):
            error = RateLimitError(f"Response {status}: {self._excerpt(text, WAIT)}")
        return Failure(error, status, rate_limited or status in TRIED_AGAIN, _retry_after(response.headers))

    def _connection_failure(self, error: Exception, began: bool) -> Failure:
        if isinstance(error, MissingRequirementsError):
            return Failure(type(error)('a SOCKS proxy needs one more package: pip install "g4f-websim[socks]"'))
        if isinstance(error, asyncio.TimeoutError) and not isinstance(error, ServerTimeoutError):
            return Failure(self._timeout_error())
        what = "the answer broke off" if began else "no connection"
        reason = scrub(str(error), self._secrets)[:EXCERPT_CHARS] or type(error).__name__
        again = not began and isinstance(error, (ClientConnectionError, OSError))
        return Failure(
            ResponseError(f"{self._host}: {what} ({reason}); {ADVICE_ON_CONNECTION}"),
            again=again and not isinstance(error, ssl.CertificateError),
        )

    def _timeout_error(self) -> WebsimTimeoutError:
        over = self._timeout and time.monotonic() >= self._deadline
        seconds = self._timeout if over else SECONDS_A_TRY
        return WebsimTimeoutError(f"{self._host}: no answer within {seconds:g} s; {ADVICE_ON_SERVER}")

    def _redirect_error(self, response: ClientResponse) -> ResponseStatusError:
        target = scrub(response.headers.get("Location", "nowhere"), self._secrets)[:EXCERPT_CHARS]
        return ResponseStatusError(
            f"Response {response.status}: {self._host} redirects to {target}, which was not followed; "
            "if Websim has moved there, set WEBSIM_URL"
        )

    async def _status_error(self, response: ClientResponse, text: str) -> Exception:
        status = response.status
        advice = ADVICE.get(status, ADVICE_ON_SERVER if status >= 500 else ADVICE_ON_REQUEST)
        message = self._excerpt(text, advice)
        try:
            await raise_for_status(response, message)
        except Exception as error:  # the type is g4f's to choose
            # Some types come with g4f's own words alone.
            return error if advice in str(error) else type(error)(f"{error} ({self._host}: {advice})")
        raise AssertionError(f"g4f takes status {status} for a success")

    def _excerpt(self, text: str, advice: str) -> str:
        advice = f" ({self._host}: {advice})"
        return excerpt(text, self._secrets)[: EXCERPT_CHARS - len(advice)] + advice

    async def _sleep(self, seconds: float) -> None:
        remaining = self._deadline - time.monotonic()
        await asyncio.sleep(min(seconds, max(remaining, 0)))
        if seconds >= remaining:
            raise self._timeout_error()


async def _read_text(response: ClientResponse) -> str | None:
    """Return the body as text, or None as soon as it proves too large."""
    if (response.content_length or 0) > MAX_BODY_BYTES:
        return None
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            return None
    # RFC 8259: JSON is UTF-8, whatever a header says; its two other encodings show in the first bytes.
    return body.decode(json.detect_encoding(body), "replace")


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that `Retry-After` asks for (RFC 9110, 10.2.3), None where it says nothing of use."""
    value = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", value):
        seconds = float(value)
        return seconds if math.isfinite(seconds) else None
    try:
        date = email.utils.parsedate_to_datetime(value)
        date = date if date.tzinfo else date.replace(tzinfo=timezone.utc)
        return max(0.0, (date - datetime.now(timezone.utc)).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return None


def _check_url(url: str) -> str:
    """Return the host and port of an endpoint."""
    parts = _split(url)
    if parts is None or parts.scheme not in ("http", "https"):
        raise ValueError(f"WEBSIM_URL: an address as https://websim.com, not one that makes {url!r:.200}")
    return str(parts.netloc).rpartition("@")[2]


def _check_proxy(proxy: str | None) -> tuple[str | None, str | None, tuple[str, ...]]:
    """Return the proxy for aiohttp, the one for the SOCKS library, and what is secret about them."""
    if not proxy:
        return None, None, ()
    parts = _split(proxy)
    if parts is None or parts.scheme not in HTTP_PROXIES + SOCKS_PROXIES:
        schemes = ", ".join(HTTP_PROXIES + SOCKS_PROXIES)
        raise ValueError(f"proxy: an address as http://user:password@host:3128, of scheme {schemes}")
    password = parts.password or ""
    secrets = (password, unquote(password))
    return (proxy, None, secrets) if parts.scheme in HTTP_PROXIES else (None, proxy, secrets)


def _split(url: Any) -> Any:
    """Return the parts of a URL that names a host, None where it is none; no error quotes it."""
    try:
        parts = urlsplit(url) if isinstance(url, str) else None
        return parts if parts and parts.hostname and parts.port != 0 else None
    except ValueError:
        return None


def _check_timeout(timeout: Any) -> float | None:
    if not timeout:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not 0 < timeout < math.inf:
        raise ValueError(f"timeout: a positive number of seconds, as timeout=60, not {timeout!r:.80}")
    return float(timeout)
