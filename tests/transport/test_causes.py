"""Causes: what a response or an exception means, and the advice to the user."""

import ssl
from datetime import UTC, datetime
from types import SimpleNamespace

import aiohttp
import pytest
from multidict import CIMultiDict

from g4f_websim.transport.causes import Reason, ResponseTooLargeError, cause_of_exception, cause_of_response
from g4f_websim.transport.target import Target
from g4f_websim.wire.endpoints import CHAT_PATH
from tests.support.calls import JWT, make_token

SITE = "https://websim.com"
PAGE = "<!DOCTYPE html><html><head><title>Our project</title></head><body>project not found</body></html>"
CHALLENGE_PAGE = "<html><head><title>Just a moment...</title></head></html>"


def target(**options):
    return Target(SITE + CHAT_PATH, **options)


def cause_of(status, body="", headers=(), **options):
    return cause_of_response(status, CIMultiDict(headers), body, target(**options))


# Each row: status, body, reason, a part of the advice.
CAUSES = {
    "project not found": (404, '{"error": "Project not found"}', Reason.PROJECT_REFUSED, "set WEBSIM_PROJECT_ID"),
    "invalid project_id": (400, '{"error": "invalid project_id"}', Reason.PROJECT_REFUSED, "websim.com/p/<id>"),
    "private project": (403, "this project is private", Reason.PROJECT_REFUSED, "set WEBSIM_PROJECT_ID"),
    "project required": (422, "PROJECT required", Reason.PROJECT_REFUSED, "set WEBSIM_PROJECT_ID"),
    "project in another status": (500, "project not found", Reason.SERVER_ERROR, "try again later"),
    "project in a page": (404, PAGE, Reason.API_MOVED, "set WEBSIM_URL; run g4f-websim check"),
    "not found": (404, '{"error": "Not found"}', Reason.API_MOVED, "set WEBSIM_URL; run g4f-websim check"),
    "gone": (410, "", Reason.API_MOVED, "set WEBSIM_URL; run g4f-websim check"),
    "method not allowed": (405, "", Reason.API_CHANGED, "look for a newer version of g4f-websim"),
    "unprocessable": (422, '{"error": "bad field"}', Reason.API_CHANGED, "look for a newer version of g4f-websim"),
    "challenge page": (403, CHALLENGE_PAGE, Reason.BOT_CHALLENGE, "try from another network"),
    "challenge page with success": (200, CHALLENGE_PAGE, Reason.BOT_CHALLENGE, "try from another network"),
    "payment required": (402, "", Reason.NO_CREDITS, "wait for new credits, log in, or use another provider"),
    "insufficient credits": (400, '{"error": "Insufficient credits"}', Reason.NO_CREDITS, "wait for new credits"),
    "no credits left": (403, "You have no credits left", Reason.NO_CREDITS, "wait for new credits"),
    "credits exhausted": (500, "credits for today exhausted", Reason.NO_CREDITS, "wait for new credits"),
    "credits in success": (200, '{"error": "not enough free credits"}', Reason.NO_CREDITS, "wait for new credits"),
    "credits mentioned": (400, "credits to our team", Reason.REQUEST_REFUSED, "check the arguments of the call"),
    "login needed": (401, "", Reason.LOGIN_NEEDED, "log in with a Websim token as api_key or in WEBSIM_API_KEY"),
    "forbidden": (403, "", Reason.LOGIN_NEEDED, "log in with a Websim token"),
    "forbidden network": (403, "", Reason.LOGIN_NEEDED, "or try from another network"),
    "too many requests": (429, "", Reason.RATE_LIMITED, "log in, or use another provider"),
    "rate limit with another status": (400, "Rate limit exceeded", Reason.RATE_LIMITED, "use another provider"),
    "rate limit with success": (200, '{"error": "rate limit exceeded"}', Reason.RATE_LIMITED, "log in"),
    "legal reasons": (451, "", Reason.REGION_BLOCKED, "try from another network"),
    "too large": (413, "", Reason.REQUEST_REFUSED, "send fewer messages or smaller images"),
    "bad request": (400, "no", Reason.REQUEST_REFUSED, "check the arguments of the call"),
    "conflict": (409, "", Reason.REQUEST_REFUSED, "check the arguments of the call"),
    "proxy login without a proxy": (407, "", Reason.PROXY_FAILED, "put the right user and password into the URL"),
    "server error": (500, "", Reason.SERVER_ERROR, "try again later or use another provider"),
    "unavailable": (503, "", Reason.SERVER_ERROR, "try again later or use another provider"),
    "gateway timeout": (504, "", Reason.SERVER_ERROR, "try again later or use another provider"),
    "Cloudflare's own status": (521, "", Reason.SERVER_ERROR, "try again later or use another provider"),
}


@pytest.mark.parametrize(("status", "body", "reason", "advice"), CAUSES.values(), ids=CAUSES)
def test_response_has_reason_and_advice(status, body, reason, advice):
    cause = cause_of(status, body)
    assert cause.reason is reason
    assert advice in cause.advice


@pytest.mark.parametrize("status", [200, 403, 503])
def test_challenge_header_is_a_challenge(status):
    assert cause_of(status, "", {"CF-Mitigated": "challenge"}).reason is Reason.BOT_CHALLENGE


@pytest.mark.parametrize("body", ["", '{"content": "Hi"}', PAGE])
def test_success_has_no_cause(body):
    assert cause_of(200, body) is None


def test_rate_limit_page_is_not_a_rate_limit():
    assert cause_of(404, "<html>What does rate limit exceeded mean?</html>").reason is Reason.API_MOVED


# Each row: Location, reason, the URL that the message shows, the advice.
REDIRECTS = {
    "login page": (f"{SITE}/login?next=%2F", Reason.LOGIN_NEEDED, f"{SITE}/login", "log in with a Websim token"),
    "login path": ("/auth/sign-in", Reason.LOGIN_NEEDED, f"{SITE}/auth/sign-in", "log in with a Websim token"),
    "login page of a network": (
        "http://10.0.0.1/signin",
        Reason.LOGIN_NEEDED,
        "http://10.0.0.1/signin",
        "if the page is the login page of your network, open it in a browser",
    ),
    "other host": (
        f"https://websim.example{CHAT_PATH}",
        Reason.API_MOVED,
        f"https://websim.example{CHAT_PATH}",
        "if you trust this host, set WEBSIM_URL=https://websim.example; run g4f-websim check",
    ),
    "other scheme": (
        f"http://websim.com{CHAT_PATH}",
        Reason.API_MOVED,
        f"http://websim.com{CHAT_PATH}",
        "if you trust this host, set WEBSIM_URL=http://websim.com; run",
    ),
    "other host with a login": (
        "https://ann:pass@websim.example/x?token=secret",
        Reason.API_MOVED,
        "https://websim.example/x",
        "set WEBSIM_URL=https://websim.example;",
    ),
    "same host": ("/v2", Reason.API_MOVED, f"{SITE}/v2", "if Websim has moved, set WEBSIM_URL; run g4f-websim check"),
    "blog about login": ("/author", Reason.API_MOVED, f"{SITE}/author", "if Websim has moved, set WEBSIM_URL"),
    "no location": ("", Reason.API_MOVED, SITE + CHAT_PATH, "if Websim has moved, set WEBSIM_URL"),
    "malformed location": ("//[", Reason.API_MOVED, SITE + CHAT_PATH, "if Websim has moved, set WEBSIM_URL"),
    "unprintable host": ("https://a\u202eb", Reason.API_MOVED, "https://a", "if Websim has moved, set WEBSIM_URL"),
    "invalid port": (
        "https://websim.example:99999/",
        Reason.API_MOVED,
        "https://websim.example:99999/",
        "if Websim has moved, set WEBSIM_URL;",
    ),
    "long host": (
        f"https://{'a' * 80}.example",
        Reason.API_MOVED,
        "https://aaa",
        "if Websim has moved, set WEBSIM_URL",
    ),
}


@pytest.mark.parametrize("status", [301, 308])
@pytest.mark.parametrize(("location", "reason", "shown", "advice"), REDIRECTS.values(), ids=REDIRECTS)
def test_redirect_names_target_and_advice(location, reason, shown, advice, status):
    cause = cause_of(status, "", {"Location": location})
    assert cause.reason is reason
    assert cause.summary.startswith(f"a redirect to {shown}")
    assert cause.summary.endswith(", which was not followed")
    assert advice in cause.advice


@pytest.mark.parametrize(
    ("location", "origin"),
    [
        ("https://ann:pass@websim.example:8443/x", "https://websim.example:8443"),
        ("http://my_host:8080/x", "http://my_host:8080"),
        (f"https://{'a' * 80}.example/", f"https://{'a' * 80}.example"),
        ("https://websim.com:8443/", "https://websim.com:8443"),
        *((within_site, SITE) for within_site in ("/v2", "https://websim.com:443/x", "https://WebSim.com/x")),
        *((malformed, "") for malformed in ("", "//[", "https://websim.example:0/", "ftp://websim.example")),
        *((unsafe, "") for unsafe in ("https://a$(pwned)/", f"https://{JWT[:60]}/", "http://[::1]:8080/x")),
    ],
)
def test_origin_of_redirect_is_plain_or_empty(location, origin):
    assert cause_of(302, "", {"Location": location}).origin == origin


@pytest.mark.parametrize("host", ["sk-another-key", JWT[:60]])
def test_redirect_to_host_that_is_a_secret_does_not_advise_it(host):
    cause = cause_of(302, "", {"Location": f"https://{host}/"}, api_key="sk-another-key")
    assert cause.advice == "if Websim has moved, set WEBSIM_URL; run g4f-websim check"


def test_redirect_within_site_whose_url_has_a_password_does_not_advise_another_url():
    site = Target(f"https://ann:pass@websim.example{CHAT_PATH}")
    cause = cause_of_response(302, CIMultiDict({"Location": "https://websim.example/v2"}), "", site)
    assert cause.advice == "if Websim has moved, set WEBSIM_URL; run g4f-websim check"


@pytest.mark.parametrize("status", [401, 403])
def test_refused_token_advises_new_login(status):
    cause = cause_of(status, "", token=JWT)
    assert (cause.reason, cause.summary) == (Reason.LOGIN_NEEDED, "Websim refused the login token")
    assert cause.advice == "log in again (websim-cli login) and set WEBSIM_API_KEY to the new token"


@pytest.mark.parametrize("status", [401, 403])
def test_expired_token_is_named_with_its_date(status):
    token = make_token(exp=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC).timestamp())
    cause = cause_of(status, "", token=token)
    assert (cause.reason, cause.summary) == (
        Reason.LOGIN_EXPIRED,
        "the login token expired on 2026-01-02 03:04 UTC",
    )
    assert cause.advice.startswith("log in again")


def test_proxy_that_needs_a_login_is_named():
    cause = cause_of(407, "", proxy="http://127.0.0.1:3128")
    assert (cause.reason, cause.summary) == (Reason.PROXY_FAILED, "the proxy 127.0.0.1:3128 needs a login")
    assert cause.advice.endswith("as in http://user:password@host:3128")


# Each row: exception, reason, summary, a part of the advice.
EXCEPTIONS = {
    "large response": (
        ResponseTooLargeError(),
        Reason.BROKEN_RESPONSE,
        "a response of more than 32 MiB",
        "try again later",
    ),
    "connection timeout": (
        aiohttp.ConnectionTimeoutError(),
        Reason.NO_CONNECTION,
        "no connection",
        "check the network, or set WEBSIM_URL; run g4f-websim check",
    ),
    "TLS failure": (
        aiohttp.ClientConnectorSSLError(SimpleNamespace(host="websim.com", port=443, ssl=True), OSError("handshake")),
        Reason.NO_CONNECTION,
        "no connection",
        "check the network, or set WEBSIM_URL; run g4f-websim check",
    ),
    "closed connection": (
        aiohttp.ServerDisconnectedError(),
        Reason.NO_CONNECTION,
        "the connection was closed",
        "check the network, or set WEBSIM_URL; run g4f-websim check",
    ),
    "invalid certificate": (
        ssl.SSLCertVerificationError("certificate has expired"),
        Reason.NO_CONNECTION,
        "no connection: the certificate is not valid",
        "check the clock and WEBSIM_URL",
    ),
    "https to an http port": (
        ssl.SSLError("[SSL: WRONG_VERSION_NUMBER] wrong version number"),
        Reason.NO_CONNECTION,
        "no connection",
        "the server does not speak https: write http:// in WEBSIM_URL",
    ),
}


@pytest.mark.parametrize(("error", "reason", "summary", "advice"), EXCEPTIONS.values(), ids=EXCEPTIONS)
def test_exception_has_reason_and_advice(error, reason, summary, advice):
    cause = cause_of_exception(error, target(), began=False)
    assert (cause.reason, cause.summary) == (reason, summary)
    assert advice in cause.advice


def test_any_exception_after_the_response_began_is_a_broken_response():
    cause = cause_of_exception(aiohttp.ServerDisconnectedError(), target(proxy="http://127.0.0.1:1"), began=True)
    assert (cause.reason, cause.summary) == (Reason.BROKEN_RESPONSE, "the response broke off")


HTTP_PROXY, HTTPS_PROXY = "http://user:pass@Proxy.example:3128", "https://user:pass@Proxy.example:3128"
PROXY_NAME = "the proxy Proxy.example:3128"
CHECK_PROXY = "check that it runs and that its URL is right"
CHECK_HTTPS_PROXY = f"{CHECK_PROXY}: most HTTP proxies are written http://"

REFUSED = ConnectionRefusedError(111, "Connection refused")
NO_TLS = ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number")
BAD_CERTIFICATE = ssl.SSLCertVerificationError(1, "certificate has expired")


def error_at_proxy(kind: type[aiohttp.ClientConnectorError], error: OSError) -> Exception:
    return kind(SimpleNamespace(host="proxy.example", port=3128, ssl=True, proxy=None), error)


def error_behind_proxy(kind: type[aiohttp.ClientConnectorError], error: OSError) -> Exception:
    return kind(SimpleNamespace(host="websim.com", port=443, ssl=True, proxy=HTTP_PROXY), error)


# Each row: proxy, exception of the connection to the proxy, summary, advice.
PROXY_FAILURES = {
    "refused": (
        HTTP_PROXY,
        error_at_proxy(aiohttp.ClientProxyConnectionError, REFUSED),
        f"{PROXY_NAME} does not respond",
        CHECK_PROXY,
    ),
    "unknown host": (
        HTTP_PROXY,
        error_at_proxy(aiohttp.ClientConnectorDNSError, OSError(-2, "unknown")),
        f"{PROXY_NAME} does not respond",
        CHECK_PROXY,
    ),
    "refused with TLS": (
        HTTPS_PROXY,
        error_at_proxy(aiohttp.ClientProxyConnectionError, REFUSED),
        f"{PROXY_NAME} does not respond",
        CHECK_HTTPS_PROXY,
    ),
    "timeout": (
        HTTP_PROXY,
        aiohttp.ConnectionTimeoutError(),
        f"no connection through {PROXY_NAME} in time",
        CHECK_PROXY,
    ),
    "no TLS": (
        HTTPS_PROXY,
        error_at_proxy(aiohttp.ClientConnectorSSLError, NO_TLS),
        f"no TLS connection to {PROXY_NAME}",
        CHECK_HTTPS_PROXY,
    ),
    "invalid certificate": (
        HTTPS_PROXY,
        error_at_proxy(aiohttp.ClientConnectorCertificateError, BAD_CERTIFICATE),
        f"the certificate of {PROXY_NAME} is not valid",
        "check the clock and the URL of the proxy",
    ),
}


@pytest.mark.parametrize(("proxy", "error", "summary", "advice"), PROXY_FAILURES.values(), ids=PROXY_FAILURES)
def test_failed_connection_to_proxy_is_a_failure_of_the_proxy(proxy, error, summary, advice):
    cause = cause_of_exception(error, target(proxy=proxy), began=False)
    assert (cause.reason, cause.summary, cause.advice) == (Reason.PROXY_FAILED, summary, advice)


# Each row: exception of the connection to the site through the proxy, summary.
FAILURES_BEHIND_PROXY = {
    "no TLS": (
        error_behind_proxy(aiohttp.ClientConnectorSSLError, NO_TLS),
        "no connection",
    ),
    "invalid certificate": (
        error_behind_proxy(aiohttp.ClientConnectorCertificateError, BAD_CERTIFICATE),
        "no connection: the certificate is not valid",
    ),
    "closed during TLS": (
        error_behind_proxy(aiohttp.ClientConnectorError, ConnectionResetError()),
        "no connection",
    ),
    "closed": (aiohttp.ServerDisconnectedError(), "the connection was closed"),
}


@pytest.mark.parametrize("proxy", [HTTP_PROXY, HTTPS_PROXY])
@pytest.mark.parametrize(("error", "summary"), FAILURES_BEHIND_PROXY.values(), ids=FAILURES_BEHIND_PROXY)
def test_failed_connection_through_proxy_is_not_a_failure_of_the_proxy(proxy, error, summary):
    cause = cause_of_exception(error, target(proxy=proxy), began=False)
    assert (cause.reason, cause.summary) == (Reason.NO_CONNECTION, summary)
