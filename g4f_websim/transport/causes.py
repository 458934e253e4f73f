"""The causes of failed calls, each with advice, and the functions that find the cause of a response or an exception.

errors.py builds the exceptions.
"""

import re
import ssl
from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple
from urllib.parse import SplitResult, urljoin, urlsplit

import aiohttp
from g4f import errors
from g4f.requests.raise_for_status import CloudflareError, is_cloudflare, is_openai

from ..wire.redaction import is_html, redact
from ..wire.tokens import is_expired, token_expiry
from .target import Target, is_valid_url, origin_in

# Public clients of Websim show that a response body may report a rate limit in these words, whatever the status.
RATE_LIMIT_WORDS = "rate limit exceeded"

# Cloudflare sets this header when it sends a challenge instead of the response.
CHALLENGE_HEADER = "cf-mitigated"

_NO_CREDITS = re.compile(
    r"\b(insufficient|not enough|no|out of|zero|0)( \w+)? credits?\b"
    r"|credits? .{0,20}(exhausted|exceeded|required|used up)",
    re.IGNORECASE,
)
# A server chooses where a redirect leads. A user may paste advice into a shell, so it names only a plain host and port.
_ORIGIN = re.compile(r"https?://[A-Za-z0-9._-]+(:[0-9]{1,5})?")
# A longer origin would leave no room for the rest of an error.
MAX_ORIGIN_CHARS = 80
DEFAULT_PORTS = {"http": 80, "https": 443}
_LOGIN_PAGE = re.compile(r"/(log-?in|sign-?in|auth|oauth)\b", re.IGNORECASE)
# OpenSSL's names for a server that sends plain text in a TLS handshake.
_NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG")
# What python_socks says when the proxy refuses the user and password, or accepts no request without them (RFC 1929).
_SOCKS_LOGIN = re.compile("authentication failure|acceptable authentication|Unexpected SOCKS authentication")

LOG_IN = "log in with a Websim token as api_key or in WEBSIM_API_KEY"
LOG_IN_AGAIN = "log in again (websim-cli login) and set WEBSIM_API_KEY to the new token"
TRY_LATER = "try again later or use another provider"
RUN_CHECK = "run g4f-websim check"
IF_MOVED = f"if Websim has moved, set WEBSIM_URL; {RUN_CHECK}"
IF_CHANGED = "the API may have changed: look for a newer version of g4f-websim, or try again later"
CHECK_NETWORK = f"check the network, or set WEBSIM_URL; {RUN_CHECK}"
CHECK_PROXY = "check that it runs and that its URL is right"
CHECK_HTTPS_PROXY = f"{CHECK_PROXY}: most HTTP proxies are written http://"
CHECK_PROXY_CERTIFICATE = "check the clock and the URL of the proxy"
PROXY_LOGIN = "put the right user and password into the URL of the proxy, as in http://user:password@host:3128"


class Reason(StrEnum):
    """The name of a cause, the value of `error.reason`."""

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


class Cause(NamedTuple):
    """Why a call failed.

    Attributes:
        reason: the name of the cause.
        summary: what happened.
        advice: what to do.
        error: the class of the exception, or None if g4f's `raise_for_status` chooses it.
        origin: the scheme, host and port that a redirect leads to; empty if there is none that advice may name.
    """

    reason: Reason
    summary: str
    advice: str
    error: type[Exception] | None = None
    origin: str = ""


class UnexpectedBodyError(Exception):
    """A response has a successful status but not the expected content; never raised to the caller."""

    def __init__(self, cause: Cause) -> None:
        super().__init__(cause.summary)
        self.cause = cause


class ResponseTooLargeError(Exception):
    """A response body is too large to be read; never raised to the caller."""


PROJECT_REFUSED = Cause(
    Reason.PROJECT_REFUSED,
    "Websim refused the project id",
    "set WEBSIM_PROJECT_ID to a project of your own, the last part of websim.com/p/<id>",
)
NOT_FOUND = Cause(Reason.API_MOVED, "the API is not at this URL", IF_MOVED)
CHALLENGE = Cause(
    Reason.BOT_CHALLENGE, "Cloudflare sent a bot challenge", "try from another network, without a VPN", CloudflareError
)
NO_CREDITS = Cause(
    Reason.NO_CREDITS,
    "no credits left",
    "wait for new credits, log in, or use another provider",
    errors.ResponseStatusError,
)
LOGIN_NEEDED = Cause(Reason.LOGIN_NEEDED, "login needed", LOG_IN)
FORBIDDEN = Cause(Reason.LOGIN_NEEDED, "access denied", f"{LOG_IN}, or try from another network")
TOKEN_REFUSED = Cause(Reason.LOGIN_NEEDED, "Websim refused the login token", LOG_IN_AGAIN)
REQUEST_TOO_LARGE = Cause(Reason.REQUEST_REFUSED, "the request is too large", "send fewer messages or smaller images")
REQUEST_REFUSED = Cause(Reason.REQUEST_REFUSED, "Websim refused the request", "check the arguments of the call")
RATE_LIMITED = Cause(
    Reason.RATE_LIMITED, "too many requests", "wait {delay}, log in, or use another provider", errors.RateLimitError
)
REGION_BLOCKED = Cause(Reason.REGION_BLOCKED, "blocked for legal reasons", "try from another network")
API_CHANGED = Cause(Reason.API_CHANGED, "Websim does not accept this kind of request", IF_CHANGED)
SERVER_ERROR = Cause(Reason.SERVER_ERROR, "the server failed", TRY_LATER, errors.ResponseStatusError)
BROKEN_RESPONSE = Cause(Reason.BROKEN_RESPONSE, "the response broke off", TRY_LATER, errors.ResponseError)
NOT_HTTP = Cause(Reason.BROKEN_RESPONSE, "the response is not valid HTTP", CHECK_NETWORK, errors.ResponseError)
NO_CONNECTION = Cause(Reason.NO_CONNECTION, "no connection", CHECK_NETWORK, errors.ResponseError)
CLOSED_CONNECTION = NO_CONNECTION._replace(summary="the connection was closed")
NOT_HTTPS = Cause(
    Reason.NO_CONNECTION,
    "no connection",
    "the server does not speak https: write http:// in WEBSIM_URL, or name another port",
    errors.ResponseError,
)
INVALID_CERTIFICATE = Cause(
    Reason.NO_CONNECTION,
    "no connection: the certificate is not valid",
    "check the clock and WEBSIM_URL; a network login or a proxy may respond instead of Websim",
    errors.ResponseError,
)
NO_SOCKS = Cause(Reason.PROXY_FAILED, "a SOCKS proxy needs one more package", "pip install aiohttp_socks")

_BY_STATUS = {
    401: LOGIN_NEEDED,
    402: NO_CREDITS,
    403: FORBIDDEN,
    404: NOT_FOUND,
    405: API_CHANGED,
    410: NOT_FOUND,
    413: REQUEST_TOO_LARGE,
    422: API_CHANGED,
    451: REGION_BLOCKED,
}
# A project id is refused with one of these statuses and a body that mentions a project.
_PROJECT_STATUSES = (400, 403, 404, 422)


def cause_of_response(status: int, headers: Mapping[str, str], body: str, target: Target) -> Cause | None:
    """Return why a response is an error.

    Args:
        status: the HTTP status.
        headers: the response headers, with case-insensitive names.
        body: the response body.
        target: where the request went.

    Returns:
        The cause, or None if the status is successful and the body does not name a cause.
    """
    text = "" if is_html(body) else body
    if status == 429 or RATE_LIMIT_WORDS in text.lower():
        return RATE_LIMITED
    if CHALLENGE_HEADER in headers or is_cloudflare(body) or is_openai(body):
        return CHALLENGE
    if _NO_CREDITS.search(text):
        return NO_CREDITS
    if 200 <= status < 300:
        return None
    if 300 <= status < 400:
        return _cause_of_redirect(headers.get("Location", ""), target)
    if status in _PROJECT_STATUSES and "project" in text.lower():
        return PROJECT_REFUSED
    if status in (401, 403) and target.token:
        return _cause_of_refused_token(target.token)
    if status == 407:
        return _proxy_cause(target, "{proxy} needs a login", PROXY_LOGIN)._replace(error=None)
    return _BY_STATUS.get(status) or (REQUEST_REFUSED if status < 500 else SERVER_ERROR)


def _cause_of_redirect(location: str, target: Target) -> Cause:
    site = urlsplit(target.url)
    try:
        destination = urlsplit(urljoin(target.url, location))
    except ValueError:
        location, destination = "", site
    origin = _plain_origin(destination, target) if location else ""
    # The query of the location is not shown: it may contain a token.
    is_login_page = _LOGIN_PAGE.search(destination.path)
    kind = ", a login page" if is_login_page else ""
    summary = f"a redirect to {origin_in(destination)}{destination.path}{kind}, which was not followed"
    if is_login_page:
        advice = f"{LOG_IN}; if the page is the login page of your network, open it in a browser"
        return Cause(Reason.LOGIN_NEEDED, summary, advice, origin=origin)
    is_named = origin not in ("", origin_in(site)) and len(origin) <= MAX_ORIGIN_CHARS
    advice = f"if you trust this host, set WEBSIM_URL={origin}; {RUN_CHECK}" if is_named else IF_MOVED
    return Cause(Reason.API_MOVED, summary, advice, origin=origin)


def _plain_origin(destination: SplitResult, target: Target) -> str:
    """Return the scheme, host and port of a redirect, or an empty string if advice may not name them."""
    origin, site = origin_in(destination), urlsplit(target.url)
    if not _ORIGIN.fullmatch(origin) or origin != redact(origin, target.secrets) or not is_valid_url(origin):
        return ""
    # The site may be written in another way, with the default port for instance.
    return origin_in(site) if _is_same_site(destination, site) else origin


def _is_same_site(first: SplitResult, second: SplitResult) -> bool:
    ports = [url.port or DEFAULT_PORTS[url.scheme] for url in (first, second)]
    return (first.scheme, first.hostname, ports[0]) == (second.scheme, second.hostname, ports[1])


def _cause_of_refused_token(token: str) -> Cause:
    if not is_expired(token):
        return TOKEN_REFUSED
    expiry = f"{token_expiry(token):%Y-%m-%d %H:%M} UTC"
    return Cause(Reason.LOGIN_EXPIRED, f"the login token expired on {expiry}", LOG_IN_AGAIN)


def cause_of_exception(error: Exception, target: Target, began: bool) -> Cause:
    """Return why an attempt ended with an exception of aiohttp, of ssl or of the SOCKS library.

    Args:
        error: the exception.
        target: where the request went.
        began: whether the response had begun.

    Returns:
        The cause.
    """
    if isinstance(error, ResponseTooLargeError):
        return BROKEN_RESPONSE._replace(summary="a response of more than 32 MiB")
    if began:
        return BROKEN_RESPONSE
    return _cause_of_proxy_failure(error, target) or _cause_of_connection_failure(error)


def _cause_of_proxy_failure(error: Exception, target: Target) -> Cause | None:
    """Return why the proxy failed, or None if the site may have failed."""
    check_url = CHECK_HTTPS_PROXY if urlsplit(target.proxy or "").scheme == "https" else CHECK_PROXY
    if _is_tls_failure_of_proxy(error, target):
        if isinstance(error, ssl.CertificateError):
            return _proxy_cause(target, "the certificate of {proxy} is not valid", CHECK_PROXY_CERTIFICATE)
        return _proxy_cause(target, "no TLS connection to {proxy}", check_url)
    if _is_socks_error(error, "ProxyConn", "ProxyTime") or _is_http_proxy_unreachable(error, target):
        return _proxy_cause(target, "{proxy} does not respond", check_url)
    if target.http_proxy and isinstance(error, aiohttp.ConnectionTimeoutError):
        # The proxy is slow to accept the connection, or the site is slow to begin TLS through the proxy.
        return _proxy_cause(target, "no connection through {proxy} in time", check_url)
    if _is_login_refused_by_proxy(error):
        return _proxy_cause(target, "{proxy} needs a login", PROXY_LOGIN)
    if isinstance(error, aiohttp.ClientHttpProxyError) or _is_socks_error(error):
        return _proxy_cause(target, "{proxy} does not connect to {site}", "use another proxy or none")
    return None


def _cause_of_connection_failure(error: Exception) -> Cause:
    if isinstance(error, aiohttp.ClientResponseError):
        return NOT_HTTP
    if isinstance(error, ssl.CertificateError):
        return INVALID_CERTIFICATE
    if isinstance(error, ssl.SSLError) and any(name in str(error) for name in _NO_TLS):
        return NOT_HTTPS
    if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
        return NO_CONNECTION
    return CLOSED_CONNECTION


def _proxy_cause(target: Target, summary: str, advice: str) -> Cause:
    proxy = f"the proxy {target.proxy_host}" if target.proxy else "a proxy"
    return Cause(Reason.PROXY_FAILED, summary.format(proxy=proxy, site=target.host), advice, errors.ResponseError)


def is_socks_failure(error: Exception) -> bool:
    """Return whether a SOCKS proxy does not respond or cannot connect, other than because of a login."""
    return _is_socks_error(error) and not _is_login_refused_by_proxy(error)


def _is_socks_error(error: Exception, *kinds: str) -> bool:
    """Return whether the SOCKS library raised `error`.

    The library may not be installed, so its classes are recognized by their names.

    Args:
        error: the exception.
        kinds: the beginnings of the class names to look for; all classes by default.
    """
    kind = type(error)
    return kind.__module__.startswith(("aiohttp_socks", "python_socks")) and kind.__name__.startswith(kinds or "Proxy")


def _is_http_proxy_unreachable(error: Exception, target: Target) -> bool:
    """Return whether aiohttp could not look up the name of an HTTP proxy or connect to the proxy.

    The proxy itself looks up the name of the site, so a failed look-up is always that of the proxy.
    """
    kinds = (aiohttp.ClientConnectorDNSError, aiohttp.ClientProxyConnectionError)
    return target.http_proxy is not None and isinstance(error, kinds)


def _is_tls_failure_of_proxy(error: Exception, target: Target) -> bool:
    """Return whether TLS failed with an https:// proxy, rather than with the site behind the proxy."""
    if not target.http_proxy or not isinstance(error, aiohttp.ClientSSLError):
        return False
    # aiohttp's key of a connection names the proxy only if the connection leads through the proxy to the site.
    connection_key = error.args[0]
    return connection_key.proxy is None


def _is_login_refused_by_proxy(error: Exception) -> bool:
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return error.status == 407
    return _is_socks_error(error, "ProxyError") and _SOCKS_LOGIN.search(str(error)) is not None
