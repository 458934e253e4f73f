"""The emulator over HTTP: responses, validation, recorded requests, replies and faults, rate limits."""

import gc
import io
import socket
import time
from contextlib import ExitStack
from functools import partial
from http import HTTPStatus

import pytest
import requests
from PIL import Image

from g4f_websim.emulator import Emulator, Fault, RateLimit
from g4f_websim.emulator.limit import IN_FLIGHT_DELAY, Limiter
from g4f_websim.emulator.responses import MAX_SIDE
from g4f_websim.wire.endpoints import CHAT_PATH, IMAGE_PATH
from tests.support.calls import CHAT, send_chat
from tests.support.limits import MAX_SECONDS, wait_until
from tests.support.responses import REPLY

IMAGE = {"project_id": "a", "prompt": "a cat", "aspect_ratio": "1:1"}
TEXT_PART = {"type": "text", "text": "Hello"}
IMAGE_URL = {"url": "data:image/png;base64,AA=="}
IMAGE_PART = {"type": "image_url", "image_url": IMAGE_URL}

DELAY = 0.05
STOPS = 20
CONNECTIONS = 5
MINUTE = 60

get = partial(requests.get, timeout=MAX_SECONDS)


def chat(emulator, body=CHAT):
    return requests.post(emulator.url + CHAT_PATH, json=body, timeout=MAX_SECONDS)


def image(emulator, body=IMAGE):
    return requests.post(emulator.url + IMAGE_PATH, json=body, timeout=MAX_SECONDS)


def statuses(emulator, count):
    return [chat(emulator).status_code for _ in range(count)]


# Usual responses


@pytest.mark.parametrize(
    ("fields", "content"),
    [
        ({}, REPLY),
        ({"messages": [*CHAT["messages"], {"role": "assistant", "content": "Yes?"}]}, REPLY),
        ({"messages": [{"role": "user", "content": [TEXT_PART, IMAGE_PART]}]}, f"{REPLY} [an image]"),
        ({"messages": [{"role": "system", "content": "Be brief."}]}, REPLY.removesuffix("Hello")),
        ({"json": True}, '{"offline": true, "you_said": "Hello"}'),
    ],
)
def test_chat_repeats_last_user_text(emulator, fields, content):
    assert chat(emulator, CHAT | fields).json() == {"role": "assistant", "content": content}


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({}, (512, 512)),
        ({"aspect_ratio": "16:9"}, (512, 288)),
        ({"aspect_ratio": "9:21"}, (219, 512)),
        ({"aspect_ratio": "16:9", "width": 160, "height": 90}, (160, 90)),
        ({"aspect_ratio": "99999:1"}, (512, 1)),
        ({"width": 2 * MAX_SIDE, "height": MAX_SIDE}, (MAX_SIDE, MAX_SIDE // 2)),
        ({"width": 10**400, "height": 10**400}, (MAX_SIDE, MAX_SIDE)),
        ({"aspect_ratio": "4:5", "seed": 7, "transparent": True, "image_inputs": [IMAGE_URL] * 4}, (410, 512)),
        ({"aspect_ratio": "5:4", "image_inputs": [{"url": "HTTPS://example.com/cat.png"}]}, (512, 410)),
    ],
)
def test_draws_png_of_requested_size(emulator, options, size):
    response = get(image(emulator, IMAGE | options).json()["url"])
    assert response.headers["Content-Type"] == "image/png"
    with Image.open(io.BytesIO(response.content)) as png:
        png.load()
        assert (png.format, png.size) == ("PNG", size)


@pytest.mark.parametrize(
    ("first", "second", "is_same"),
    [
        ({}, {}, False),
        ({"seed": 7}, {"seed": 7}, True),
        ({"seed": 7}, {"seed": 8}, False),
        ({"seed": 7}, {"seed": 7, "prompt": "a dog"}, False),
    ],
)
def test_draws_same_image_only_for_same_seed_and_prompt(emulator, first, second, is_same):
    urls = [image(emulator, IMAGE | options).json()["url"] for options in (first, second)]
    assert (urls[0] == urls[1]) == is_same


@pytest.mark.parametrize("path", ["0x1/aabbccddeeff.png", "9999x1/aabbccddeeff.png", "1x1/a.png", f"{'a' * 64}.png"])
def test_unknown_image_is_not_found(emulator, path):
    assert get(f"{emulator.url}/offline/{path}").status_code == 404


def test_describes_project_and_itself_without_recording_requests(emulator):
    response = get(f"{emulator.url}/api/v1/projects/ke3_xh5gai3gjkmruomu")
    assert response.json() == {"id": "ke3_xh5gai3gjkmruomu"}
    assert "offline Websim" in get(emulator.url).text
    assert not emulator.requests


# Validation


def chat_with(**fields):
    return CHAT | {"messages": [{"role": "user", "content": "Hello", **fields}]}


def chat_with_part(**part):
    return chat_with(content=[TEXT_PART, part])


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ([], "the body must be a JSON object"),
        ({}, "project_id is missing"),
        (CHAT | {"model": "gemini"}, "model is an unknown field"),
        (CHAT | {"project_id": "a/b"}, "project_id must be 1 to 64 of A-Z a-z 0-9 _ -"),
        (CHAT | {"project_id": "a" * 65}, "project_id must be"),
        (CHAT | {"json": False}, "json must be true"),
        (CHAT | {"messages": []}, "messages must be a list with at least one message"),
        (CHAT | {"messages": "Hello"}, "messages must be a list"),
        (CHAT | {"messages": ["Hello"]}, "messages[0] must be a JSON object"),
        (CHAT | {"messages": [*CHAT["messages"], {"role": "user"}]}, "messages[1].content is missing"),
        (chat_with(role="tool"), "messages[0].role must be user, assistant or system"),
        (chat_with(name="Ann"), "messages[0].name is an unknown field"),
        (chat_with(content=None), "messages[0].content must be"),
        (chat_with(content=[]), "messages[0].content must be"),
        (chat_with(content=["Hello"]), "messages[0].content[0] must be an object"),
        (chat_with_part(type="video"), "messages[0].content[1] must be an object"),
        (chat_with_part(type="text", text="Hi", more=1), "messages[0].content[1].more is an unknown field"),
        (chat_with_part(type="text", text=7), "messages[0].content[1].text must be a string"),
        (chat_with_part(type="image_url"), "messages[0].content[1].image_url is missing"),
        (chat_with_part(type="image_url", image_url="data:"), "messages[0].content[1].image_url must be"),
        (
            chat_with_part(type="image_url", image_url={"url": "cat.png"}),
            "messages[0].content[1].image_url.url must be",
        ),
        (IMAGE | {"n": 2}, "n is an unknown field"),
        (IMAGE | {"project_id": ""}, "project_id must be"),
        (IMAGE | {"prompt": " "}, "prompt must be a text that is not empty"),
        (IMAGE | {"prompt": 7}, "prompt must be"),
        (IMAGE | {"aspect_ratio": "wide"}, "aspect_ratio must be W:H"),
        (IMAGE | {"aspect_ratio": 1}, "aspect_ratio must be W:H"),
        (IMAGE | {"width": 0, "height": 1}, "width must be a positive whole number"),
        (IMAGE | {"width": True, "height": 1}, "width must be"),
        (IMAGE | {"width": 1, "height": "640"}, "height must be"),
        (IMAGE | {"width": 640}, "width and height are accepted only together"),
        (IMAGE | {"height": 640}, "width and height are accepted only together"),
        (IMAGE | {"seed": 0.5}, "seed must be a whole number"),
        (IMAGE | {"transparent": 1}, "transparent must be true or false"),
        (IMAGE | {"image_inputs": []}, "image_inputs must be a list of 1 to 4"),
        (IMAGE | {"image_inputs": [IMAGE_URL] * 5}, "image_inputs must be a list of 1 to 4"),
        (IMAGE | {"image_inputs": ["data:"]}, "image_inputs[0] must be a JSON object"),
        (IMAGE | {"image_inputs": [IMAGE_URL, {"url": "data:"}]}, "image_inputs[1].url must be"),
    ],
)
def test_rejects_malformed_request_with_reason(emulator, body, reason):
    response = (image if "prompt" in body else chat)(emulator, body)
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (400, "BAD_REQUEST")
    assert error["message"].startswith(reason)


@pytest.mark.parametrize("text", ["", "not JSON", "[" * 200_000], ids=["empty", "text", "nested"])
def test_rejects_body_that_is_not_json(emulator, text):
    response = requests.post(emulator.url + CHAT_PATH, data=text, timeout=MAX_SECONDS)
    error = {"message": "the body must be JSON", "code": "BAD_REQUEST"}
    assert (response.status_code, response.json()) == (400, {"error": error})


# Recorded requests


def test_records_requests(emulator):
    chat(emulator)
    (request,) = emulator.requests
    assert request.path == CHAT_PATH
    assert request.json == CHAT
    assert request.header("content-type") == request.header("Content-Type") == "application/json"
    assert request.header("x-none") is None
    assert dict(request.headers)["Content-Length"] == str(len(request.body))


@pytest.mark.parametrize(("limit", "value"), [("KEPT_REQUESTS", 1), ("KEPT_BYTES", 300)])
def test_keeps_newest_requests(monkeypatch, limit, value):
    monkeypatch.setattr(f"g4f_websim.emulator.server.{limit}", value)
    with Emulator() as emulator:
        for text in ("first", "second" * 30):
            chat(emulator, chat_with(content=text))
        (kept,) = emulator.requests
    assert kept.json == chat_with(content="second" * 30)


# Replies and faults


def test_uses_replies_and_faults_in_order_of_calls(emulator):
    emulator.reply("first")
    emulator.inject(Fault(status=503), times=2)
    emulator.reply_image(b"a PNG file")
    emulator.reply("last")
    responses = [chat(emulator), chat(emulator), chat(emulator), image(emulator), chat(emulator), chat(emulator)]
    assert [response.status_code for response in responses] == [200, 503, 503, 200, 200, 200]
    assert responses[0].json() == {"role": "assistant", "content": "first"}
    replied = get(responses[3].json()["url"])
    assert (replied.content, replied.headers["Content-Type"]) == (b"a PNG file", "image/png")
    assert [response.json()["content"] for response in responses[4:]] == ["last", REPLY]


def test_fault_has_status_and_headers(emulator):
    emulator.inject(Fault(status=HTTPStatus.SERVICE_UNAVAILABLE, headers={"Retry-After": "7"}))
    response = chat(emulator)
    assert (response.status_code, response.headers["Retry-After"]) == (503, "7")
    message = "an injected fault of the offline Websim"
    assert response.json() == {"error": {"message": message, "code": "SERVICE_UNAVAILABLE"}}


def test_fault_for_all_requests_comes_after_the_queue_and_ends_with_reset(emulator):
    emulator.inject(Fault(status=599), times=None)
    emulator.inject(Fault(status=503), times=2)
    assert statuses(emulator, 4) == [503, 503, 599, 599]
    assert chat(emulator).json()["error"]["code"] == "UNKNOWN"
    emulator.reset()
    assert statuses(emulator, 1) == [200]


def test_fault_has_status_body_and_delay_and_replaces_header(emulator):
    emulator.inject(Fault(status=403, headers={"content-type": "text/html"}, body=b"<html>", delay=DELAY))
    response = chat(emulator)
    assert (response.status_code, response.content, response.headers["Content-Type"]) == (403, b"<html>", "text/html")
    assert response.elapsed.total_seconds() >= DELAY


@pytest.mark.parametrize(("body", "status"), [(CHAT, 200), ({}, 400)], ids=["valid", "malformed"])
def test_fault_without_status_and_body_changes_usual_response(emulator, body, status):
    usual = chat(emulator, body)
    emulator.inject(Fault(delay=DELAY, headers={"X-Request-Id": "7"}))
    response = chat(emulator, body)
    assert (response.status_code, response.json()) == (status, usual.json())
    assert response.headers["X-Request-Id"] == "7"
    assert response.elapsed.total_seconds() >= DELAY


def test_fault_disconnects(emulator):
    emulator.inject(Fault(disconnect=True))
    with pytest.raises(requests.ConnectionError):
        chat(emulator)


@pytest.mark.parametrize(
    "arguments",
    [
        {"status": "503"},
        {"status": 100},
        {"status": 600},
        {"headers": [("Retry-After", "7")]},
        {"headers": {"Retry-After": 7}},
        {"headers": {"": "7"}},
        {"headers": {7: "7"}},
        {"headers": {"Retry-After": "7\r\nSet-Cookie: a=b"}},
        {"body": "text"},
        {"delay": "5"},
        {"delay": -1},
        {"delay": float("nan")},
        {"disconnect": "yes"},
    ],
    ids=str,
)
def test_malformed_fault_is_an_error(arguments):
    (name,) = arguments
    with pytest.raises(ValueError, match=f"^{name}: .*, not "):
        Fault(**arguments)


@pytest.mark.parametrize(
    ("method", "arguments", "message"),
    [
        ("inject", [503], "fault: a Fault, as in .*, not 503$"),
        ("inject", [Fault(status=503), -1], "times: a number of requests"),
        ("inject", [Fault(status=503), 1.5], "times: a number of requests"),
        ("reply", [42], "text: a string"),
        ("reply", [b"42"], "text: a string"),
        ("reply", [["word"] * 1000], "text: a string"),
        ("reply_image", ["cat.png"], "png: bytes"),
    ],
)
def test_malformed_argument_is_an_error(emulator, method, arguments, message):
    with pytest.raises(ValueError, match=f"^{message}") as raised:
        getattr(emulator, method)(*arguments)
    assert len(str(raised.value)) < 200


def test_reset_forgets_requests_replies_and_images(emulator):
    emulator.reply_image(b"a PNG file")
    url = image(emulator).json()["url"]
    emulator.reply("42")
    emulator.reset()
    assert not emulator.requests
    assert chat(emulator).json()["content"] == REPLY
    assert get(url).status_code == 404


# Starting and stopping


def test_stops_although_client_has_left():
    start = time.monotonic()
    with Emulator() as emulator:
        emulator.inject(Fault(delay=MAX_SECONDS))
        with send_chat(emulator.url):
            wait_until(lambda: emulator.requests)
    assert time.monotonic() - start < MAX_SECONDS


def test_closes_connections_that_arrive_while_it_stops():
    with ExitStack() as clients:
        for _ in range(STOPS):
            with Emulator() as emulator:
                address = emulator.url.removeprefix("http://").split(":")
                for _ in range(CONNECTIONS):
                    clients.enter_context(socket.create_connection(address))
    gc.collect()  # a connection that is still open fails the test, see `filterwarnings` in pyproject.toml


def test_delays_usual_responses_and_replies():
    with Emulator(delay=DELAY) as emulator:
        emulator.reply("42")
        assert chat(emulator).elapsed.total_seconds() >= DELAY
        assert chat(emulator).elapsed.total_seconds() >= DELAY


# Rate limits


@pytest.mark.parametrize(
    ("text", "requests", "period"), [("10/10s", 10, 10), ("3/0.5s", 3, 0.5), ("1/.5s", 1, 0.5), ("100/2m", 100, 120)]
)
def test_parses_rate_limit(text, requests, period):
    assert RateLimit.parse(text) == RateLimit(requests, period)


@pytest.mark.parametrize("text", ["", 10, "10", "10/s", "10/10", "0/10s", "10/0s", "10/10h", "-1/10s", "ten/10s"])
def test_rejects_malformed_rate_limit(text):
    with pytest.raises(ValueError, match="a limit is REQUESTS/PERIOD, such as 10/10s"):
        Emulator(limit=text)


@pytest.mark.parametrize("delay", ["1", -1])
def test_rejects_malformed_delay(delay):
    with pytest.raises(ValueError, match="^delay: "):
        Emulator(delay=delay)


def test_limit_refuses_requests_beyond_period():
    now = 100.0
    limiter = Limiter(RateLimit(2, period=10), clock=lambda: now)

    def admit():
        with limiter.admit() as delay:
            return delay

    assert [admit(), admit(), admit()] == [None, None, 10]
    now += 9.5
    assert admit() == 0.5
    now += 0.5
    assert [admit(), admit(), admit()] == [None, None, 10]


def test_limit_refuses_requests_at_same_time_without_counting_them():
    limiter = Limiter(RateLimit(1, period=MINUTE, max_in_flight=1), clock=lambda: 0.0)
    with limiter.admit() as first:
        assert first is None
        limiter.reset()  # the first request is still in flight
        with limiter.admit() as second:
            assert second == IN_FLIGHT_DELAY
    with limiter.admit() as third:
        assert third is None
    with limiter.admit() as fourth:
        assert fourth == MINUTE


def test_responds_with_429_beyond_limit_until_reset():
    with Emulator(limit="2/60s") as emulator:
        start = time.monotonic()
        accepted, _, refused = chat(emulator), image(emulator), chat(emulator)
        # The seconds are rounded up, so that a client never comes too early.
        assert MINUTE - (time.monotonic() - start) <= int(refused.headers["Retry-After"]) <= MINUTE
        assert (accepted.status_code, refused.status_code) == (200, 429)
        assert refused.json()["error"] == {"message": "Rate limit exceeded: 2", "code": "TOO_MANY_REQUESTS"}
        assert len(emulator.requests) == 3
        emulator.reset()
        assert statuses(emulator, 3) == [200, 200, 429]


def test_responds_with_429_beyond_requests_at_same_time():
    with Emulator(limit=RateLimit(max_in_flight=2)) as emulator:
        assert statuses(emulator, 3) == [200, 200, 200]
        emulator.reset()
        emulator.inject(Fault(delay=MAX_SECONDS), times=2)
        with send_chat(emulator.url), send_chat(emulator.url):
            wait_until(lambda: len(emulator.requests) == 2)
            refused = chat(emulator)
        assert (refused.status_code, refused.headers["Retry-After"]) == (429, "1")
        assert refused.json()["error"]["message"] == "Rate limit exceeded: 2"


def test_refused_request_uses_no_reply(monkeypatch):
    now = 0.0
    monkeypatch.setattr("g4f_websim.emulator.server.Limiter", partial(Limiter, clock=lambda: now))
    with Emulator(limit="1/60s") as emulator:
        emulator.inject(Fault(status=503))
        emulator.reply("42")
        assert statuses(emulator, 2) == [503, 429]
        now += MINUTE
        assert chat(emulator).json()["content"] == "42"
