"""Errors: their classes and attributes, and messages that say what happened and what to do, without secrets."""

import copy
import json
import pickle

import g4f.errors
import pytest
from g4f.requests.raise_for_status import CloudflareError

from g4f_websim import Websim, WebsimError, errors
from g4f_websim.errors import Reason
from g4f_websim.transport.causes import SERVER_ERROR
from g4f_websim.transport.failures import MAX_MESSAGE_CHARS, error_of, queue_error, timeout_error
from g4f_websim.transport.target import Target
from tests.support.calls import HELLO, call_websim
from tests.support.raw_server import http_response

SITE = "https://websim.com"
ANONYMOUS = Target(f"{SITE}/api")

# Each class and the class of g4f or Python that it derives from.
CLASSES = [
    (errors.ResponseError, g4f.errors.ResponseError),
    (errors.ResponseStatusError, g4f.errors.ResponseStatusError),
    (errors.RateLimitError, g4f.errors.RateLimitError),
    (errors.MissingAuthError, g4f.errors.MissingAuthError),
    (errors.NoMediaResponseError, g4f.errors.NoMediaResponseError),
    (errors.CloudflareError, CloudflareError),
    (errors.MissingRequirementsError, g4f.errors.MissingRequirementsError),
    (errors.TimeoutError, g4f.errors.TimeoutError),
    (errors.TimeoutError, TimeoutError),
]


@pytest.mark.parametrize(("kind", "base"), CLASSES)
def test_error_is_of_both_classes_and_can_be_copied(kind, base):
    error = kind("no: try later", Reason.NO_CREDITS, status=402, retry_after=1.5)
    error.add_note("a note")
    for each in (error, copy.copy(error), copy.deepcopy(error), pickle.loads(pickle.dumps(error))):
        assert isinstance(each, WebsimError)
        assert isinstance(each, base)
        assert (type(each), str(each), each.args) == (kind, "no: try later", ("no: try later",))
        assert (f"{each.reason}", each.status, each.retry_after) == ("no_credits", 402, 1.5)
        assert each.__notes__ == ["a note"]


@pytest.mark.parametrize(("retry_after", "kept"), [(None, None), (0.0, 0.0), (899.5, 899.5), (86400.0, 900.0)])
def test_retry_after_is_at_most_15_minutes(retry_after, kept):
    assert errors.RateLimitError("no", Reason.RATE_LIMITED, retry_after=retry_after).retry_after == kept


async def message_of(server, status, body, headers=(), model=None):
    server.respond = lambda request: [http_response(body.encode(), status, headers)]
    with pytest.raises(WebsimError) as raised:
        await call_websim(model, HELLO)
    return str(raised.value).replace(server.host, "HOST")


async def test_message_says_what_happened_and_what_to_do(server):
    assert await message_of(server, 404, "Project not found") == (
        "Response 404 from HOST: Websim refused the project id (Project not found): "
        "set WEBSIM_PROJECT_ID to a project of your own, the last part of websim.com/p/<id>"
    )
    assert await message_of(server, 500, "") == (
        "Response 500 from HOST: the server failed: try again later or use another provider"
    )


ERROR_BODIES = {
    "message of the error": ({"error": {"message": "No GPU left", "code": "E1", "cause": None}}, "No GPU left"),
    "error as a string": ({"error": "No GPU left"}, "No GPU left"),
    "message": ({"message": "No GPU left", "statusCode": 400}, "No GPU left"),
    "detail": ({"detail": "No GPU left"}, "No GPU left"),
    "two messages": ({"error": {"message": "No GPU left"}, "message": "other"}, "No GPU left"),
    "empty message": ({"error": {"message": ""}, "message": "No GPU left"}, "No GPU left"),
    "no message": ({"error": {"code": "E1"}}, '{"error": {"code": "E1"}}'),
    "message that is not text": ({"error": {"message": 5}}, '{"error": {"message": 5}}'),
    "list": (["No GPU left"], '["No GPU left"]'),
}


@pytest.mark.parametrize(("body", "words"), ERROR_BODIES.values(), ids=ERROR_BODIES)
async def test_message_shows_the_words_of_an_error_body(server, body, words):
    assert f"the server failed ({words}): " in await message_of(server, 500, json.dumps(body))


@pytest.mark.parametrize(
    ("retry_after", "delay"),
    [("", "a while"), ("0", "a while"), ("0.1", "1 s"), ("99.6", "100 s"), ("3600", "900 s"), ("9" * 300, "900 s")],
)
async def test_rate_limit_says_how_long_to_wait(server, monkeypatch, retry_after, delay):
    monkeypatch.setattr(Websim, "max_attempts", 1)
    message = await message_of(server, 429, "word " * 100, headers=[("Retry-After", retry_after)])
    assert f"wait {delay}, log in" in message
    assert len(message) <= MAX_MESSAGE_CHARS


LONG_BODIES = {
    "words": "word " * 10_000,
    "one word": "x" * 100_000,
    "page": f"<html><title>{'x' * 90}</title>{'word ' * 1000}",
    "control characters": "\x1b]0;title\x07\x1b[2J \x9b31m \x00\r\n" * 100,
    "keys": '{"%s": 1}' % ("key" * 1000),
    "message": json.dumps({"error": {"message": "word " * 1000}}),
}


@pytest.mark.parametrize("body", LONG_BODIES.values(), ids=LONG_BODIES)
async def test_message_is_one_short_printable_line(server, monkeypatch, body):
    monkeypatch.setattr(Websim, "max_attempts", 1)
    headers = [("Location", f"https://{'b' * 500}.example/")]
    for status in (200, 302, 400, 401, 402, 403, 404, 407, 413, 422, 429, 451, 500):
        message = await message_of(server, status, body, headers=headers, model="flux")
        assert len(message) <= MAX_MESSAGE_CHARS
        assert message.isprintable()
        assert message.startswith(f"Response {status} from HOST: ")


def test_long_host_leaves_room_for_the_advice():
    error = error_of(SERVER_ERROR, Target(f"https://{'long.' * 49}example/api"), "word " * 100, 500)
    assert len(str(error)) <= MAX_MESSAGE_CHARS == 300
    assert str(error).endswith(": try again later or use another provider")


def test_timeout_error_names_seconds():
    error = timeout_error(0.5, ANONYMOUS)
    assert str(error) == "No response from websim.com within 0.5 s: try again later or use another provider"
    assert (error.status, error.retry_after, error.reason) == (None, None, Reason.TIMEOUT)


def test_queue_error_names_wait_and_max_wait():
    error = queue_error(90.4, 90.4, 60.0, ANONYMOUS)
    assert isinstance(error, g4f.errors.RateLimitError)
    assert str(error) == (
        "Rate limit of websim.com: the call would wait 91 s, longer than Websim.max_wait (60 s): "
        "try again later, log in, use another provider, or increase max_wait"
    )
    assert (error.status, error.retry_after, error.reason) == (429, 90.4, Reason.RATE_LIMITED)


def test_call_without_event_loop_raises_the_error_of_asyncio(websim_server):
    call = call_websim(None, HELLO)
    with pytest.raises(RuntimeError, match="no running event loop"):
        call.send(None)
    assert not websim_server.requests
