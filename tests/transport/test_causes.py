"""What a response means: the class of the error, its reason, and the advice; this is the only table of statuses."""

from datetime import UTC, datetime

import pytest
from g4f.errors import MissingAuthError, NoMediaResponseError, RateLimitError, ResponseError, ResponseStatusError
from g4f.requests.raise_for_status import CloudflareError

from g4f_websim import Websim, WebsimError, errors
from g4f_websim.emulator import Fault
from g4f_websim.errors import Reason
from g4f_websim.transport.causes import cause_of_response
from g4f_websim.transport.target import Target
from g4f_websim.wire.endpoints import CHAT_PATH
from tests.support.calls import HELLO, JWT, call_websim, make_token
from tests.support.responses import CHALLENGE_PAGE

SITE = "https://websim.com"
KEY = "sk-another-key"
PAGE = "<!DOCTYPE html><html><head><title>Our project</title></head><body>project not found</body></html>"
RATE_LIMIT = '{"error": "Rate limit exceeded"}'
EXPIRED = '{"error": {"code": "ERR_JWT_EXPIRED"}}'
EXPIRED_CAUSE = '{"error": {"cause": {"code": "ERR_JWT_EXPIRED", "payload": {"email": "ann@example.com"}}}}'

SET_PROJECT = "set WEBSIM_PROJECT_ID to a project of your own, the last part of websim.com/p/<id>"
SET_URL = "set WEBSIM_URL; run g4f-websim check"
NEWER_VERSION = "look for a newer version of g4f-websim"
LOG_IN = "log in with a Websim token as api_key or in WEBSIM_API_KEY"
LOG_IN_AGAIN = "log in again (websim-cli login)"
OTHER_NETWORK = "try from another network"
WAIT_OR_LOG_IN = "wait a while, log in, or use another provider"
WAIT_FOR_CREDITS = "wait for new credits, log in, or use another provider"
TRY_LATER = "try again later or use another provider"
CHECK_ARGUMENTS = "check the arguments of the call"

# Each row: status, body, class, reason, a part of the advice.
RESPONSES = {
    "project not found": (404, "Project not found", ResponseStatusError, Reason.PROJECT_REFUSED, SET_PROJECT),
    "invalid project_id": (400, "invalid project_id", ResponseStatusError, Reason.PROJECT_REFUSED, SET_PROJECT),
    "private project": (403, "this project is private", ResponseStatusError, Reason.PROJECT_REFUSED, SET_PROJECT),
    "project required": (422, "PROJECT required", ResponseStatusError, Reason.PROJECT_REFUSED, SET_PROJECT),
    "project in another status": (500, "project not found", ResponseStatusError, Reason.SERVER_ERROR, TRY_LATER),
    "project in a page": (404, PAGE, ResponseStatusError, Reason.API_MOVED, SET_URL),
    "not found": (404, "Not found", ResponseStatusError, Reason.API_MOVED, SET_URL),
    "page about a rate limit": (404, "<html>rate limit exceeded?", ResponseStatusError, Reason.API_MOVED, SET_URL),
    "gone": (410, "", ResponseStatusError, Reason.API_MOVED, SET_URL),
    "method not allowed": (405, "", ResponseStatusError, Reason.API_CHANGED, NEWER_VERSION),
    "unprocessable": (422, "bad field", ResponseStatusError, Reason.API_CHANGED, NEWER_VERSION),
    "challenge": (403, CHALLENGE_PAGE, CloudflareError, Reason.BOT_CHALLENGE, OTHER_NETWORK),
    "challenge of a server error": (503, CHALLENGE_PAGE, CloudflareError, Reason.BOT_CHALLENGE, OTHER_NETWORK),
    "challenge with success": (200, CHALLENGE_PAGE, ResponseError, Reason.BOT_CHALLENGE, OTHER_NETWORK),
    "payment required": (402, "", ResponseStatusError, Reason.NO_CREDITS, WAIT_FOR_CREDITS),
    "insufficient credits": (400, "Insufficient credits", ResponseStatusError, Reason.NO_CREDITS, WAIT_FOR_CREDITS),
    "no credits left": (401, "You have no credits left", ResponseStatusError, Reason.NO_CREDITS, WAIT_FOR_CREDITS),
    "credits exhausted": (500, "credits exhausted", ResponseStatusError, Reason.NO_CREDITS, WAIT_FOR_CREDITS),
    "credits with success": (200, '{"error": "no free credits"}', ResponseError, Reason.NO_CREDITS, WAIT_FOR_CREDITS),
    "credits mentioned": (400, "credits to our team", ResponseStatusError, Reason.REQUEST_REFUSED, CHECK_ARGUMENTS),
    "login needed": (401, "", MissingAuthError, Reason.LOGIN_NEEDED, LOG_IN),
    "forbidden": (403, "", ResponseStatusError, Reason.LOGIN_NEEDED, f"{LOG_IN}, or {OTHER_NETWORK}"),
    "expired login": (401, EXPIRED, MissingAuthError, Reason.LOGIN_EXPIRED, LOG_IN_AGAIN),
    **{
        f"expired login with {status}": (status, EXPIRED_CAUSE, MissingAuthError, Reason.LOGIN_EXPIRED, LOG_IN_AGAIN)
        for status in (200, 400, 403, 500, 503)
    },
    "too many requests": (429, "", RateLimitError, Reason.RATE_LIMITED, WAIT_OR_LOG_IN),
    **{
        f"rate limit in words with {status}": (status, RATE_LIMIT, RateLimitError, Reason.RATE_LIMITED, WAIT_OR_LOG_IN)
        for status in (200, 400, 403, 500)
    },
    "legal reasons": (451, "", ResponseStatusError, Reason.REGION_BLOCKED, OTHER_NETWORK),
    "too large": (413, "", ResponseStatusError, Reason.REQUEST_REFUSED, "send fewer messages or smaller images"),
    "bad request": (400, "no", ResponseStatusError, Reason.REQUEST_REFUSED, CHECK_ARGUMENTS),
    "conflict": (409, "", ResponseStatusError, Reason.REQUEST_REFUSED, CHECK_ARGUMENTS),
    "proxy login": (407, "", ResponseStatusError, Reason.PROXY_FAILED, "put the right user and password into the URL"),
    "server error": (500, "", ResponseStatusError, Reason.SERVER_ERROR, TRY_LATER),
    "gateway timeout": (504, "", ResponseStatusError, Reason.SERVER_ERROR, TRY_LATER),
    "Cloudflare's own status": (520, "", ResponseStatusError, Reason.SERVER_ERROR, TRY_LATER),
    "no content": (200, '{"content": ""}', ResponseError, Reason.NO_CONTENT, "try other words"),
    "other fields": (200, '{"text": "Hi"}', ResponseError, Reason.API_CHANGED, NEWER_VERSION),
    "page with success": (200, PAGE, ResponseError, Reason.API_MOVED, SET_URL),
    "truncated JSON": (200, '{"content": "a', ResponseError, Reason.BROKEN_RESPONSE, TRY_LATER),
    "event stream": (200, "data: {}\n\n", ResponseError, Reason.API_CHANGED, NEWER_VERSION),
}
# The statuses in this table that are retried whatever the cause.
RETRIED_STATUSES = (429, 503, 504)
# The class of an error about a response with status 200, for an image.
CLASSES_OF_IMAGES = {ResponseError: NoMediaResponseError}


async def error_of(model: str | None = None, **arguments: object) -> WebsimError:
    with pytest.raises(WebsimError) as raised:
        await call_websim(model, HELLO, **arguments)
    return raised.value


@pytest.mark.parametrize(("status", "body", "kind", "reason", "advice"), RESPONSES.values(), ids=RESPONSES)
async def test_response_selects_class_reason_and_advice(websim_server, status, body, kind, reason, advice):
    for model, kind_of_model in ((None, kind), ("flux", CLASSES_OF_IMAGES.get(kind, kind))):
        body_of_model = body.replace('"content": ""', '"url": null') if model else body
        websim_server.inject(Fault(status=status, body=body_of_model.encode()), times=Websim.max_attempts)
        error = await error_of(model)
        is_retried = kind is RateLimitError or status in RETRIED_STATUSES
        assert len(websim_server.requests) == (Websim.max_attempts if is_retried else 1)
        websim_server.reset()
        assert isinstance(error, kind_of_model)
        assert isinstance(error, RateLimitError) is (kind is RateLimitError)
        assert (error.status, error.reason) == (status, reason)
        assert str(error).startswith(f"Response {status} from 127.0.0.1:")
        assert advice in str(error)


@pytest.mark.parametrize("status", [200, 403, 503])
async def test_challenge_header_is_a_challenge(websim_server, status):
    headers = {"CF-Mitigated": "challenge"}
    websim_server.inject(Fault(status=status, headers=headers, body=b""), times=Websim.max_attempts)
    assert (await error_of()).reason == "bot_challenge"


# Each row: Location, the URL that the message shows, the origin that the check proposes as a new WEBSIM_URL, if any.
REDIRECTS = {
    "other host": (
        f"https://websim.example{CHAT_PATH}",
        f"https://websim.example{CHAT_PATH}",
        "https://websim.example",
    ),
    "other scheme": ("http://websim.com/x", "http://websim.com/x", "http://websim.com"),
    "other port": ("https://websim.com:8443/", "https://websim.com:8443/", "https://websim.com:8443"),
    "login in the URL": ("https://ann:pass@a.example/x?token=secret", "https://a.example/x", "https://a.example"),
    "long host": (f"https://{'a' * 80}.example/", "https://aaa", f"https://{'a' * 80}.example"),
    "same host": ("/v2", f"{SITE}/v2", ""),
    "default port": ("https://WEBSIM.com:443/v2", "https://WEBSIM.com:443/v2", ""),
    "blog about login": ("/author", f"{SITE}/author", ""),
    "no location": ("", SITE + CHAT_PATH, ""),
    "malformed location": ("//[", SITE + CHAT_PATH, ""),
    "unprintable host": ("https://a\u202eb", "https://a", ""),
    "invalid port": ("https://a.example:99999/", "https://a.example:99999/", ""),
    "port 0": ("https://a.example:0/", "https://a.example:0/", ""),
    "other protocol": ("ftp://a.example", "ftp://a.example", ""),
    "command": ("https://a$(pwned)/", "https://a$(pwned)/", ""),
    "IPv6 address": ("http://[::1]:8080/x", "http://[::1]:8080/x", ""),
    "token as a host": (f"https://{JWT[:60]}/", "https://ey", ""),
    "key as a host": (f"https://{KEY}/", f"https://{KEY}/", ""),
}


def cause_of_redirect(location, site=SITE):
    return cause_of_response(308, {"Location": location}, "", Target(site + CHAT_PATH, api_key=KEY))


@pytest.mark.parametrize(("location", "shown", "origin"), REDIRECTS.values(), ids=REDIRECTS)
def test_redirect_names_its_target_and_proposes_only_a_plain_origin_of_another_site(location, shown, origin):
    cause = cause_of_redirect(location)
    assert (cause.reason, cause.error) == (Reason.API_MOVED, errors.ResponseStatusError)
    assert cause.summary.startswith(f"a redirect to {shown}")
    assert cause.summary.endswith(", which was not followed")
    is_named = origin and len(origin) <= 80
    trust = f"if you trust this host, set WEBSIM_URL={origin}; run g4f-websim check"
    assert cause.advice == (trust if is_named else f"if Websim has moved, {SET_URL}")
    lines = [line for step in cause.steps for line in step.lines]
    assert lines == ([f"g4f-websim check --also {origin}", f"export WEBSIM_URL={origin}"] if origin else [])


def test_redirect_within_a_site_with_a_password_proposes_nothing():
    assert cause_of_redirect("https://websim.example/v2", site="https://ann:pass@websim.example").steps == ()


@pytest.mark.parametrize(
    ("location", "shown"),
    [
        (f"{SITE}/login?next=%2F", f"{SITE}/login"),
        ("/auth/sign-in", f"{SITE}/auth/sign-in"),
        ("http://10.0.0.1/signin", "http://10.0.0.1/signin"),
    ],
)
def test_redirect_to_login_page_advises_to_log_in(location, shown):
    cause = cause_of_redirect(location)
    assert (cause.reason, cause.error) == (Reason.LOGIN_NEEDED, errors.ResponseStatusError)
    assert cause.summary == f"a redirect to {shown}, a login page, which was not followed"
    assert cause.advice == (
        f"{LOG_IN}; if the page is the login page of your network, open it in a browser; if Websim has moved, {SET_URL}"
    )


@pytest.mark.parametrize("status", [401, 403])
async def test_error_says_which_login_was_refused(websim_server, status):
    websim_server.inject(Fault(status=status, body=b""), times=2)
    expired = make_token(exp=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC).timestamp())
    kind = MissingAuthError if status == 401 else ResponseStatusError
    for token, reason, words in (
        (JWT, "login_needed", "Websim refused the login token: log in again (websim-cli login)"),
        (expired, "login_expired", "the login token expired on 2026-01-02 03:04 UTC: log in again"),
    ):
        error = await error_of(api_key=token)
        assert isinstance(error, kind)
        assert error.reason == reason
        assert words in str(error)


@pytest.mark.parametrize(("status", "sent"), [(401, None), (403, None), (401, JWT)])
def test_says_that_a_key_was_given_and_not_sent(status, sent):
    cause = cause_of_response(status, {}, "", Target(SITE, token=sent, unsent_key=True))
    assert ("the given key is not a Websim token, so it was not sent" in cause.summary) is (sent is None)


def test_any_other_status_is_a_refusal_or_a_failure_of_the_server():
    in_table = {status for status, *_ in RESPONSES.values()}
    for status in set(range(400, 1000)) - in_table:
        cause = cause_of_response(status, {}, "no", Target(SITE))
        assert cause.reason is (Reason.REQUEST_REFUSED if status < 500 else Reason.SERVER_ERROR)
        assert cause.error is errors.ResponseStatusError
