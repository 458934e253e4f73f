"""How it travels: one POST over a shared connection, with its tries, its waits, its bounds and its errors.

request.py makes what is sent; what comes back is read by the function that the caller gives. An error made here
names the host, says what to do and holds no secret. It has no other exception behind it either: those of aiohttp
and of the SOCKS library carry the proxy's password.
"""

import asyncio
import base64
import email.utils
import io
import json
import math
import random
import re
import ssl
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from functools import lru_cache
from typing import Any, NamedTuple, Protocol
from urllib.parse import SplitResult, unquote, urlsplit

import g4f.debug
from aiohttp import ClientConnectionError, ClientResponse
from g4f import errors
from g4f.requests.raise_for_status import raise_for_status

from .pool import Pool
from .response import EXCERPT_CHARS, excerpt

Json = Mapping[str, Any]
Headers = Mapping[str, str]

SECONDS_A_TRY = 300.0

# A wait is up to this part longer at random, so that callers turned away together do not come back together.
JITTER = 0.25

# What request.py makes holds nothing that holds itself.
_ENCODER = json.JSONEncoder(check_circular=False)

MAX_BODY_BYTES = 32 * 1024 * 1024
# Above this size aiohttp warns of bytes, which it writes in one go; a file it writes in pieces.
MAX_BYTES_IN_ONE_GO = 1024 * 1024

# The server declined (408, 425, 429) or was not reached (502 to 504): to repeat does not double the work.
TRIED_AGAIN = frozenset({408, 425, 429, 502, 503, 504})

# Some servers say so under another status than 429.
RATE_LIMIT_WORDS = "rate limit exceeded"

HTTP = ("http", "https")
SOCKS = ("socks4", "socks5", "socks5h")

LOG_IN = "log in with a Websim token as api_key or in WEBSIM_API_KEY"
IF_MOVED = "if Websim has moved, set WEBSIM_URL"
TRY_LATER = "try again later or use another provider"
LOOK_AT_NETWORK = "look at the network, the proxy and WEBSIM_URL"
# What to do about a status, and about the others of its class.
ADVICE = {
    3: IF_MOVED,
    4: "look at what was sent",
    401: LOG_IN,
    403: f"{LOG_IN}, or try from another network",
    404: IF_MOVED,
    407: "look at the proxy's user and password",
    413: "send less",
    429: "wait {wait}, log in, or use another provider",
}


class WebsimTimeoutError(errors.TimeoutError, TimeoutError):  # type: ignore[misc]  # g4f has no types
    """The time allowed was over; g4f's `TimeoutError` and Python's own in one."""


class Limits(Protocol):
    """How often a request is tried, and seconds: before the second try, and of the longest wait asked for."""

    max_tries: int
    backoff: float
    max_wait: float


class Failure(NamedTuple):
    """How one try ended without an answer: whether to try again, and after how many seconds if the server said so."""

    error: Exception
    again: bool = False
    retry_after: float | None = None


class Call:
    """One POST, to be answered.

    Args:
        url: the endpoint.
        body: what to send, as JSON.
        headers: the request's headers.
        limits: how often to try and how long to wait, read at each try.
        proxy: an http, https, socks4, socks5 or socks5h address.
        key: what no error may show, besides the login in the headers and the proxy's password.
        timeout: seconds for all tries and the waits between them.

    Raises:
        ValueError: an address that no request can go to.
    """

    def __init__(
        self, url: str, body: Json, headers: Headers, limits: type[Limits], proxy: Any, key: Any, timeout: float
    ) -> None:
        self._url, self._headers, self._limits, self._key = str(url), headers, limits, key
        self._timeout, self._deadline = timeout, time.monotonic() + timeout
        self._host = _host(self._url)
        self._payload = _ENCODER.encode(body).encode()
        self._http_proxy = self._socks_proxy = None
        if proxy:
            is_socks = _address("proxy", str(proxy), HTTP + SOCKS, "http://user:password@host:3128").scheme in SOCKS
            self._http_proxy, self._socks_proxy = (None, str(proxy)) if is_socks else (str(proxy), None)

    async def answer(self, read: Callable[[str], str]) -> str:
        """Send, try again where that may help, and return the answer.

        Args:
            read: returns the answer in the body of a response; a g4f error that it raises says that there is none.

        Raises:
            WebsimTimeoutError: `timeout`, or 300 seconds in one try, were over.
            RateLimitError, MissingAuthError, ResponseStatusError: the server refused.
            ResponseError, NoMediaResponseError: the connection failed, or what came is no answer.
        """
        number = 1
        while isinstance(outcome := await self._try(read), Failure):
            wait = self._wait_after(number, outcome)
            if wait is None:
                try:
                    raise outcome.error
                finally:
                    # Python's own tasks, which nest_asyncio brings back, resume while they handle aiohttp's exception.
                    outcome.error.__context__ = None
            number += 1
            which = f"try {number} of {self._limits.max_tries}"
            g4f.debug.log(f"Websim: {outcome.error}; waiting {wait:.1f} s before {which}")
            await asyncio.sleep(min(wait, self._deadline - time.monotonic()))
        return outcome

    def _wait_after(self, number: int, failure: Failure) -> float | None:
        """Return the seconds to wait after try `number`, None where there is to be no other."""
        if not failure.again or number >= self._limits.max_tries:
            return None
        if failure.retry_after is None:
            return random.uniform(1, 1 + JITTER) * math.ldexp(self._limits.backoff, number - 1)
        return failure.retry_after if failure.retry_after <= self._limits.max_wait else None

    async def _try(self, read: Callable[[str], str]) -> str | Failure:
        remaining = self._deadline - time.monotonic()
        if remaining <= 0:
            return self._timed_out(remaining)
        data = io.BytesIO(self._payload) if len(self._payload) > MAX_BYTES_IN_ONE_GO else self._payload
        pool, response = Pool.of_running_loop(), None
        task = pool.use(self._socks_proxy, min(remaining, SECONDS_A_TRY))
        try:
            session = pool.sessions.get(self._socks_proxy) or await pool.open(self._socks_proxy)
            response = await session.post(
                self._url, data=data, headers=self._headers, proxy=self._http_proxy, allow_redirects=False
            )
            text = await _read_text(response)
        except asyncio.CancelledError:
            # The pool's own leaves no user behind, and none of anybody else's besides; Python 3.10 cannot tell.
            if task in pool.users or getattr(task, "uncancel", int)():
                raise
            return self._timed_out(remaining)
        except Exception as error:  # aiohttp, ssl and the SOCKS library raise what they like
            return self._broken(error, began=response is not None)
        finally:
            pool.users.pop(task, None)
        no_answer = None
        if 200 <= response.status < 300:
            try:
                return read(text)
            except (errors.ResponseError, errors.NoMediaResponseError) as error:
                no_answer = error
        return await self._refused(response, text, no_answer)

    def _timed_out(self, remaining: float) -> Failure:
        seconds = self._timeout if remaining < SECONDS_A_TRY else SECONDS_A_TRY
        return Failure(WebsimTimeoutError(self._message(f"no answer within {seconds:g} s", TRY_LATER)))

    def _broken(self, error: Exception, began: bool) -> Failure:
        """Return the failure of a connection."""
        if isinstance(error, errors.MissingRequirementsError):
            return Failure(type(error)("a SOCKS proxy needs one more package: pip install aiohttp_socks"))
        if isinstance(error, errors.ResponseError):
            return Failure(errors.ResponseError(self._message(str(error), TRY_LATER)))
        what = "the answer broke off" if began else "no connection"
        # Only a proxy that refuses to connect to a TLS server has a status here that there is advice for.
        advice = ADVICE.get(getattr(error, "status", 0), LOOK_AT_NETWORK)
        message = self._message(f"{what}: {str(error) or type(error).__name__}", advice)
        may_pass = isinstance(error, (ClientConnectionError, OSError)) and not isinstance(error, ssl.CertificateError)
        return Failure(errors.ResponseError(message), again=may_pass and not began)

    async def _refused(self, response: ClientResponse, text: str, no_answer: Exception | None) -> Failure:
        """Return the failure of a response, which has a status that is no success or has no answer in it."""
        status, what = response.status, str(no_answer or text)
        limited = status == 429 or RATE_LIMIT_WORDS in text.lower()
        if limited:
            what = text
        elif 300 <= status < 400:
            what = f"a redirect to {response.headers.get('Location')}, which was not followed"
        code, retry_after = 429 if limited else status, _retry_after(response.headers)
        advice = ADVICE.get(code) or ADVICE.get(code // 100, TRY_LATER)
        message = self._message(what, advice, wait=f"{round(retry_after):g} s" if retry_after else "a while")
        kind = type(no_answer) if no_answer else errors.ResponseStatusError
        try:
            await raise_for_status(response, message)
        except Exception as refusal:  # its type is g4f's to choose, though the oldest lines know no rate limit
            kind = type(refusal)
        error = (errors.RateLimitError if limited else kind)(f"Response {status}: {message}")
        return Failure(error, limited or status in TRIED_AGAIN, retry_after)

    def _message(self, what: str, advice: str, wait: str = "a while") -> str:
        """Return what an error says: what happened, at which host, and what to do; no secret of this call's."""
        tail = f" ({self._host}: {advice.format(wait=wait)})"
        return excerpt(what, self._secrets())[: EXCERPT_CHARS - len(tail)] + tail

    def _secrets(self) -> list[str]:
        secrets = [self._key, self._headers.get("authorization", "").removeprefix("Bearer ")]
        proxy = urlsplit(self._http_proxy or self._socks_proxy or "")
        if proxy.password:
            login = unquote(f"{proxy.username}:{proxy.password}").encode("latin-1", "replace")
            # The last is what aiohttp makes of them for Proxy-Authorization, which a proxy's error page may say again.
            secrets += [proxy.password, unquote(proxy.password), base64.b64encode(login).decode()]
        return [secret for secret in secrets if secret and isinstance(secret, str)]


async def _read_text(response: ClientResponse) -> str:
    """Return the body as text; a larger one than is read is an error as soon as it proves to be."""
    content, body, size = response.content, bytearray(), response.content_length or 0
    try:
        while size <= MAX_BODY_BYTES and not content.at_eof():
            body += await content.readany()
            size = len(body)
        if size > MAX_BODY_BYTES:
            raise errors.ResponseError(f"an answer of more than {MAX_BODY_BYTES >> 20} MiB")
    except BaseException:
        # Only a response that was read to its end has handed its connection back to the pool.
        response.close()
        raise
    # RFC 8259: JSON is UTF-8, whatever a header says; only in its two other encodings are there zeros at the start.
    return body.decode(json.detect_encoding(body) if 0 in body[:4] else "utf-8-sig", "replace")


def _retry_after(headers: Headers) -> float | None:
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
def _host(url: str) -> str:
    return _address("WEBSIM_URL", url, HTTP, "https://websim.com").netloc.rpartition("@")[2]


def _address(name: str, address: str, schemes: tuple[str, ...], example: str) -> SplitResult:
    """Return the parts of an address; an error does not quote it, since it may hold a password."""
    try:
        parts = urlsplit(address)
        legal = parts.scheme in schemes and parts.hostname and parts.port != 0
    except ValueError:
        legal = False
    if not legal:
        raise ValueError(f"{name}: an address as {example}, its scheme one of {', '.join(schemes)}")
    return parts
