"""Exceptions: their classes, attributes and messages."""

import errno
import json
import os
import socket
from types import SimpleNamespace

import aiohttp
import g4f.errors
import pytest
from g4f.errors import (
    CloudflareError,
    MissingAuthError,
    MissingRequirementsError,
    NoMediaResponseError,
    RateLimitError,
    ResponseError,
    ResponseStatusError,
)
from multidict import CIMultiDict

from g4f_websim.errors import (
    MAX_MESSAGE_CHARS,
    WebsimTimeoutError,
    exception_error,
    queue_error,
    response_error,
    timeout_error,
)
from g4f_websim.transport.attempts import Response
from g4f_websim.transport.causes import Reason, ResponseTooLargeError, UnexpectedBodyError
from g4f_websim.transport.target import Target
from g4f_websim.wire.response import chat_text, image_url
from tests.support.calls import JWT
from tests.support.responses import CHALLENGE_PAGE

SITE = "https://websim.com"
TARGET = Target(f"{SITE}/api", JWT, "sk-another-key", "http://ann:p%40ssword@127.0.0.1:3128")
ANONYMOUS = Target(f"{SITE}/api")


async def error_of(status, body="", headers=(), target=ANONYMOUS, read=None, retry_after=None):
    unexpected = None
    if read:
        with pytest.raises(UnexpectedBodyError) as raised:
            read(body)
        unexpected = raised.value
    return await response_error(Response(status, CIMultiDict(headers), body), target, unexpected, retry_after)


# Each row: status, body, class, reason.
CLASSES = {
    "redirect": (302, "", ResponseStatusError, Reason.API_MOVED),
    "project refused": (400, "no such project", ResponseStatusError, Reason.PROJECT_REFUSED),
    "login needed": (401, "", MissingAuthError, Reason.LOGIN_NEEDED),
    "no credits": (402, "", ResponseStatusError, Reason.NO_CREDITS),
    "no credits in a 401": (401, "Insufficient credits", ResponseStatusError, Reason.NO_CREDITS),
    "forbidden": (403, "", ResponseStatusError, Reason.LOGIN_NEEDED),
    "challenge": (503, CHALLENGE_PAGE, CloudflareError, Reason.BOT_CHALLENGE),
    "not found": (404, "", ResponseStatusError, Reason.API_MOVED),
    "method not allowed": (405, "", ResponseStatusError, Reason.API_CHANGED),
    "proxy login": (407, "", ResponseStatusError, Reason.PROXY_FAILED),
    "rate limit": (429, "", RateLimitError, Reason.RATE_LIMITED),
    "rate limit in a body": (500, "Rate limit exceeded", RateLimitError, Reason.RATE_LIMITED),
    "legal reasons": (451, "", ResponseStatusError, Reason.REGION_BLOCKED),
    "server error": (500, "", ResponseStatusError, Reason.SERVER_ERROR),
    "bad gateway": (502, "", ResponseStatusError, Reason.SERVER_ERROR),
    "gateway timeout": (504, "", ResponseStatusError, Reason.SERVER_ERROR),
    "Cloudflare's own status": (520, "", ResponseStatusError, Reason.SERVER_ERROR),
}


@pytest.mark.parametrize(("status", "body", "kind", "reason"), CLASSES.values(), ids=CLASSES)
async def test_status_selects_class_and_reason(status, body, kind, reason):
    error = await error_of(status, body, retry_after=1.5)
    assert type(error) is kind
    assert (error.status, error.retry_after, error.reason) == (status, 1.5, reason)
    assert str(error).startswith(f"Response {status} from websim.com: ")


@pytest.mark.parametrize("status", [402, 504])
async def test_only_rate_limits_are_rate_limit_errors(status):
    assert not isinstance(await error_of(status), RateLimitError)


def image(body):
    return image_url(body, SITE)


# Each row: body, read function, class, reason.
UNEXPECTED_BODIES = {
    "chat without content": ('{"content": ""}', chat_text, ResponseError, Reason.NO_CONTENT),
    "chat with other fields": ('{"text": "Hi"}', chat_text, ResponseError, Reason.API_CHANGED),
    "chat page": ("<html>Hi</html>", chat_text, ResponseError, Reason.API_MOVED),
    "chat challenge": (CHALLENGE_PAGE, chat_text, ResponseError, Reason.BOT_CHALLENGE),
    "chat rate limit": ('{"error": "Rate limit exceeded"}', chat_text, RateLimitError, Reason.RATE_LIMITED),
    "chat credits": ('{"error": "Insufficient credits"}', chat_text, ResponseError, Reason.NO_CREDITS),
    "image without URL": ('{"url": ""}', image, NoMediaResponseError, Reason.NO_CONTENT),
    "image with other fields": ('{"urls": []}', image, NoMediaResponseError, Reason.API_CHANGED),
    "image page": ("<html>Hi</html>", image, NoMediaResponseError, Reason.API_MOVED),
    "image challenge": (CHALLENGE_PAGE, image, NoMediaResponseError, Reason.BOT_CHALLENGE),
    "image rate limit": ('{"error": "Rate limit exceeded"}', image, RateLimitError, Reason.RATE_LIMITED),
}


@pytest.mark.parametrize(("body", "read", "kind", "reason"), UNEXPECTED_BODIES.values(), ids=UNEXPECTED_BODIES)
async def test_unexpected_body_selects_class_and_reason(body, read, kind, reason):
    error = await error_of(200, body, read=read)
    assert type(error) is kind
    assert (error.status, error.retry_after, error.reason) == (200, None, reason)


async def test_reason_is_a_string():
    error = await error_of(404, "project not found")
    assert error.reason == "project_refused"
    assert f"{error.reason}" == "project_refused"


async def test_message_says_what_happened_and_what_to_do():
    error = await error_of(404, '{"error": "Project not found"}')
    assert str(error) == (
        'Response 404 from websim.com: Websim refused the project id ({"error": "Project not found"}): '
        "set WEBSIM_PROJECT_ID to a project of your own, the last part of websim.com/p/<id>"
    )


async def test_message_without_body_has_no_parentheses():
    error = await error_of(500)
    assert str(error) == ("Response 500 from websim.com: the server failed: try again later or use another provider")


@pytest.mark.parametrize(
    ("retry_after", "delay"),
    [(None, "a while"), (0.0, "a while"), (0.1, "1 s"), (3600.0, "3600 s"), (99.6, "100 s"), (1e300, "1e+300 s")],
)
async def test_rate_limit_says_how_long_to_wait(retry_after, delay):
    error = await error_of(429, "word " * 100, retry_after=retry_after)
    assert f"wait {delay}" in str(error)
    assert error.retry_after == retry_after
    assert len(str(error)) <= MAX_MESSAGE_CHARS


LONG_BODIES = {
    "words": "word " * 10_000,
    "one word": "x" * 100_000,
    "page": f"<html><title>{'x' * 90}</title>{'word ' * 1000}",
    "control characters": "\x1b]0;title\x07\x1b[2J \x9b31m \x00\r\n" * 100,
    "keys": '{"%s": 1}' % ("key" * 1000),
}


@pytest.mark.parametrize("host", ["websim.com", f"{'long.' * 49}example"], ids=["short host", "long host"])
@pytest.mark.parametrize("status", [200, 302, 400, 401, 402, 403, 404, 407, 413, 422, 429, 451, 500])
@pytest.mark.parametrize("body", LONG_BODIES.values(), ids=LONG_BODIES)
async def test_message_is_one_short_printable_line(body, status, host):
    read = image if status == 200 else None
    error = await error_of(
        status, body, {"Location": f"https://{'b' * 500}.example/"}, Target(f"https://{host}/api"), read=read
    )
    message = str(error)
    assert len(message) <= MAX_MESSAGE_CHARS
    assert message.isprintable()
    assert message.startswith(f"Response {status} from {host[:100]}")


def test_message_has_at_most_300_characters():
    assert MAX_MESSAGE_CHARS == 300


@pytest.mark.parametrize("status", [200, 302, 400, 401, 403, 500])
@pytest.mark.parametrize(
    "secret", [JWT, JWT[:40], "sk-another-key", "p%40ssword", "p@ssword", "YW5uOnBAc3N3b3Jk", "ann@example.com"]
)
async def test_message_does_not_contain_secrets(secret, status):
    read = chat_text if status == 200 else None
    for host in ("host.example", secret):
        location = {"Location": f"https://ann:{secret}@{host}/{secret}"}
        error = await error_of(status, json.dumps({"error": secret, secret: 1}), location, TARGET, read=read)
        assert secret not in str(error) + repr(vars(error))


@pytest.mark.parametrize(
    ("raised", "status", "message"),
    [
        (
            OSError("broken pipe"),
            None,
            "No response from websim.com: the connection was closed (broken pipe): check",
        ),
        (OSError(), None, "No response from websim.com: the connection was closed (OSError): check the network"),
        (OSError("reset"), 200, "Response 200 from websim.com: the response broke off (reset): try again later"),
        (ResponseTooLargeError(), 200, "Response 200 from websim.com: a response of more than 32 MiB: try again later"),
    ],
    ids=["with a text", "without a text", "response began", "too large"],
)
def test_exception_becomes_response_error(raised, status, message):
    error = exception_error(raised, ANONYMOUS, status)
    assert type(error) is ResponseError
    assert str(error).startswith(message)
    assert (error.status, error.retry_after) == (status, None)


@pytest.mark.parametrize(
    ("raised", "shown"),
    [
        (OSError(errno.ECONNREFUSED, "Connect call failed ('127.0.0.1', 9)"), os.strerror(errno.ECONNREFUSED)),
        (OSError("Multiple exceptions: Connect call failed"), "Multiple exceptions: Connect call failed"),
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "Name or service not known"),
    ],
    ids=["refused", "several addresses", "unknown host"],
)
def test_names_reason_of_failed_connection(raised, shown):
    connection_key = SimpleNamespace(host="websim.com", port=443, ssl=True)
    error = exception_error(aiohttp.ClientConnectorError(connection_key, raised), ANONYMOUS, None)
    assert str(error).startswith(f"No response from websim.com: no connection ({shown}): ")


def test_missing_socks_package_is_named():
    error = exception_error(MissingRequirementsError("Install aiohttp_socks"), ANONYMOUS, None)
    assert type(error) is MissingRequirementsError
    assert str(error) == "No response from websim.com: a SOCKS proxy needs one more package: pip install aiohttp_socks"
    assert error.reason is Reason.PROXY_FAILED


def test_timeout_error_is_that_of_g4f_and_of_python():
    error = timeout_error(0.5, ANONYMOUS)
    assert isinstance(error, WebsimTimeoutError)
    assert isinstance(error, TimeoutError)
    assert isinstance(error, g4f.errors.TimeoutError)
    assert str(error) == "No response from websim.com within 0.5 s: try again later or use another provider"
    assert (error.status, error.retry_after, error.reason) == (None, None, Reason.TIMEOUT)


def test_queue_error_names_wait_and_max_wait():
    error = queue_error(90.4, 60.0, ANONYMOUS)
    assert type(error) is RateLimitError
    assert str(error) == (
        "Rate limit of websim.com: the call would wait 91 s, longer than Websim.max_wait (60 s): "
        "try again later, log in, use another provider, or increase max_wait"
    )
    assert (error.status, error.retry_after, error.reason) == (429, 90.4, Reason.RATE_LIMITED)
