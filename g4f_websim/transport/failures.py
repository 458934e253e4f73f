"""Turn a failed attempt into an error: find the cause of an exception, and write the message.

causes.py finds the cause of a response. The functions return the errors; attempts.py raises them.
"""

import math
import os
import re
import shlex
import ssl
from urllib.parse import urlsplit

import aiohttp
import g4f.errors

from ..errors import MissingRequirementsError, RateLimitError, Reason, ResponseError, TimeoutError, WebsimError
from ..wire.endpoints import URL_VARIABLE
from ..wire.redaction import excerpt
from .causes import CHECK, TRY_LATER, USE_NO_PROXY, Cause, Step, needs_proxy_login, set_proxy
from .target import PROXY_VARIABLE, Target

# The maximum length of a message.
MAX_MESSAGE_CHARS = 300
# An excerpt of a response that would be shorter than this is left out.
MIN_EXCERPT_CHARS = 20
HTTPS_PORT = 443

# The server declined the request (408, 425, 429), or a gateway did not deliver its response (502 to 504).
RETRYABLE_STATUSES = frozenset({408, 425, 429, 502, 503, 504})
# OpenSSL's names for a server that sends plain text in a TLS handshake.
NO_TLS_NAMES = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG")
# What python_socks says when the proxy refuses the user and password, or accepts no request without them (RFC 1929).
SOCKS_LOGIN_WORDS = re.compile("authentication failure|acceptable authentication|Unexpected SOCKS authentication")

CHECK_NETWORK = f"check the network, or set WEBSIM_URL; run {CHECK}"
USE_HTTP = "the server does not speak https: write http:// in WEBSIM_URL, or name another port"
# Replaces the scheme of the proxy's URL. The shell inserts the rest, so that no password is shown.
USE_HTTP_PROXY = Step(
    "If it is one of the many proxies whose URL begins with http://:",
    (f'export {PROXY_VARIABLE}="http://${{{PROXY_VARIABLE}#*://}}"',),
)
CHECK_PROXY = "use another proxy or none, or check that it runs and that its URL is right (most begin with http://)"

BROKEN_RESPONSE = Cause(Reason.BROKEN_RESPONSE, "the response broke off", TRY_LATER, ResponseError)
TOO_LARGE = BROKEN_RESPONSE._replace(summary="a response of more than 32 MiB, or of 16 MiB that are not ASCII")
NOT_HTTP = Cause(Reason.BROKEN_RESPONSE, "the response is not valid HTTP", CHECK_NETWORK, ResponseError)
OPEN_SITE = (Step("Open the site in a browser, to see whether this machine reaches it."),)
NO_CONNECTION = Cause(Reason.NO_CONNECTION, "no connection", CHECK_NETWORK, ResponseError, OPEN_SITE, is_retryable=True)
CLOSED_CONNECTION = NO_CONNECTION._replace(summary="the connection was closed")
INVALID_CERTIFICATE = Cause(
    Reason.NO_CONNECTION,
    "no connection: the certificate is not valid",
    "check the clock and WEBSIM_URL; if Python has no certificates, set SSL_CERT_FILE, or run macOS's "
    "Install Certificates.command",
    ResponseError,
)
NO_SOCKS = Cause(
    Reason.PROXY_FAILED,
    "a SOCKS proxy needs one more package",
    "pip install aiohttp_socks",
    MissingRequirementsError,
    (Step("Install it:", ("pip install aiohttp_socks",)),),
)


class ResponseTooLargeError(Exception):
    """A response body is too large to be read; never raised to the caller."""


def with_delay(cause: Cause, retry_after: float | None) -> Cause:
    """Return a cause with the seconds of `Retry-After` in its advice."""
    delay = f"{math.ceil(retry_after)} s" if retry_after else "a while"
    return cause._replace(advice=cause.advice.replace("{delay}", delay))


def error_of(
    cause: Cause, target: Target, detail: str = "", status: int | None = None, retry_after: float | None = None
) -> WebsimError:
    """Return the error for an attempt that failed, with an excerpt of a response body or of an exception's text."""
    end = f": {cause.advice}"
    start = f"Response {status}" if status else "No response"
    # The summary may contain parts of the response, such as the path of a redirect or the names of fields.
    start = excerpt(f"{start} from {target.host}: {cause.summary}", target.secrets, MAX_MESSAGE_CHARS - len(end))
    room = MAX_MESSAGE_CHARS - len(start) - len(end) - len(" ()")
    shown = excerpt(detail, target.secrets, room) if room >= MIN_EXCERPT_CHARS else ""
    message = f"{start} ({shown}){end}" if shown else start + end
    return cause.error(message, cause.reason, status=status, retry_after=retry_after)


def timeout_error(seconds: float, target: Target, is_queued: bool = False) -> WebsimError:
    """Return the error for a call or an attempt that took longer than `seconds`, in the queue if `is_queued`."""
    cause = " because of its rate limit" if is_queued else ""
    return TimeoutError(f"No response from {target.host} within {seconds:g} s{cause}: {TRY_LATER}", Reason.TIMEOUT)


def timed_out(seconds: float) -> Cause:
    """Return the cause of a `timeout_error`, for `g4f-websim check`."""
    return Cause(Reason.TIMEOUT, f"no response within {seconds:g} s", TRY_LATER, TimeoutError, OPEN_SITE)


def queue_error(seconds: float, retry_after: float, max_wait: float, target: Target) -> WebsimError:
    """Return the error for a call that would wait `seconds`, longer than `max_wait`."""
    message = (
        f"Rate limit of {target.host}: the call would wait {math.ceil(seconds)} s, longer than Websim.max_wait "
        f"({max_wait:g} s): try again later, log in, use another provider, or increase max_wait"
    )
    return RateLimitError(message, Reason.RATE_LIMITED, status=429, retry_after=round(retry_after, 1))


def cause_of_exception(error: Exception, target: Target, status: int | None) -> Cause | None:
    """Return why an attempt ended with an exception, or None if the exception is not the network's."""
    if isinstance(error, ResponseTooLargeError):
        return TOO_LARGE
    if isinstance(error, g4f.errors.MissingRequirementsError):
        return NO_SOCKS
    if isinstance(error, aiohttp.ClientError | OSError) or _is_socks_error(error):
        return BROKEN_RESPONSE if status else _cause_of_connection(error, target)
    return None


def _cause_of_connection(error: Exception, target: Target) -> Cause:
    cause = _cause_at_proxy(error, target)
    if cause:
        return cause
    if isinstance(error, aiohttp.ClientResponseError):
        return NOT_HTTP
    if isinstance(error, ssl.CertificateError):
        return INVALID_CERTIFICATE
    if isinstance(error, ssl.SSLError) and any(name in str(error) for name in NO_TLS_NAMES):
        line = f"export {URL_VARIABLE}=http://{shlex.quote(target.host)}"
        step = Step("The server does not speak https. Use http:", (line,))
        return NO_CONNECTION._replace(advice=USE_HTTP, steps=(step,))
    is_unconnected = isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError)
    return NO_CONNECTION if is_unconnected else CLOSED_CONNECTION


def _cause_at_proxy(error: Exception, target: Target) -> Cause | None:
    """Return why a connection to a proxy, or from the proxy to the site, failed; None if the proxy did not fail."""
    status = error.status if isinstance(error, aiohttp.ClientHttpProxyError) else None
    if status == 407 or (_is_socks_error(error) and SOCKS_LOGIN_WORDS.search(str(error))):
        return needs_proxy_login(target, ResponseError)
    if not (status or _is_socks_error(error) or _is_at_http_proxy(error, target)):
        return None
    summary = f"no connection through the proxy {target.proxy_host}"
    steps = [Step("Check that the proxy works, and correct its URL:", (set_proxy(target.proxy),)), USE_NO_PROXY]
    is_unverified = isinstance(error, ssl.CertificateError)
    if urlsplit(target.proxy or "").scheme == "https" and not is_unverified:
        steps.insert(0, USE_HTTP_PROXY)
    is_lasting = is_unverified or (status and status not in RETRYABLE_STATUSES)
    return Cause(Reason.PROXY_FAILED, summary, CHECK_PROXY, ResponseError, tuple(steps), is_retryable=not is_lasting)


def _is_at_http_proxy(error: Exception, target: Target) -> bool:
    """Return whether there was no connection to an HTTP proxy, which also looks up the name of the site."""
    url = target.http_proxy
    if url is None:
        return False
    if isinstance(error, aiohttp.ClientSSLError):
        proxy = urlsplit(url)
        return (error.host, error.port) == (proxy.hostname, proxy.port or HTTPS_PORT)
    kinds = (aiohttp.ClientConnectorDNSError, aiohttp.ClientProxyConnectionError, aiohttp.ConnectionTimeoutError)
    return isinstance(error, kinds)


def _is_socks_error(error: Exception) -> bool:
    """Return whether the SOCKS library raised `error`. The library may not be installed."""
    return type(error).__module__.startswith(("aiohttp_socks", "python_socks"))


def text_of(error: Exception) -> str:
    """Return the part of an exception's text that the message does not contain yet.

    Most texts of aiohttp begin with the host or end with the URL, which would leave no room for the reason.
    """
    if isinstance(error, ResponseTooLargeError | g4f.errors.MissingRequirementsError):
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
