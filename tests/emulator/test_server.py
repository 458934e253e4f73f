"""The emulator over HTTP: responses, validation, recorded requests, replies and faults, rate limits."""

import gc
import socket
import struct
import time
import zlib
from contextlib import ExitStack
from functools import partial
from http import HTTPStatus

import pytest
import requests

from g4f_websim.emulator import Emulator, Fault, RateLimit
from g4f_websim.emulator.limit import IN_FLIGHT_DELAY, Limiter
from g4f_websim.emulator.responses import MAX_SIDE
from g4f_websim.wire.endpoints import CHAT_PATH, IMAGE_PATH
from tests.support.calls import CHAT, send_chat
from tests.support.limits import MAX_SECONDS
from tests.support.responses import PNG_MAGIC, REPLY

IMAGE = {"project_id": "a", "prompt": "a cat", "aspect_ratio": "1:1"}
TEXT_PART = {"type": "text", "text": "Hello"}
IMAGE_URL = {"url": "data:image/png;base64,AA=="}
IMAGE_PART = {"type": "image_url", "image_url": IMAGE_URL}

DELAY = 0.05
STOPS = 20
CONNECTIONS = 5
MINUTE = 60


def chat(emulator, body=CHAT):
    return requests.post(emulator.url + CHAT_PATH, json=body, timeout=MAX_SECONDS)


def image(emulator, body=IMAGE):
    return requests.post(emulator.url + IMAGE_PATH, json=body, timeout=MAX_SECONDS)


def wait_for_requests(emulator, count):
    deadline = time.monotonic() + MAX_SECONDS
    while len(emulator.requests) < count:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def statuses(emulator, count):
    return [chat(emulator).status_code for _ in range(count)]


def size_of_png(data: bytes) -> tuple[int, int]:
    assert data.startswith(PNG_MAGIC)
    width, height = struct.unpack(">II", data[16:24])
    start = data.index(b"IDAT")
    (length,) = struct.unpack(">I", data[start - 4 : start])
    assert len(zlib.decompress(data[start + 4 : start + 4 + length])) == height * (1 + 3 * width)
    return width, height


# Usual responses


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([{"role": "user", "content": "Hello"}], "Hello"),
        ([{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Yes?"}], "Hello"),
        ([{"role": "user", "content": [TEXT_PART, IMAGE_PART]}], "Hello [an image]"),
        ([{"role": "system", "content": "Be brief."}], ""),
    ],
)
def test_chat_repeats_last_user_text(emulator, messages, said):
    assert chat(emulator, {**CHAT, "messages": messages}).json() == {
        "role": "assistant",
        "content": REPLY.replace("Hello", said),
    }


def test_responds_to_json_chat_with_json(emulator):
    assert chat(emulator, {**CHAT, "json": True}).json()["content"] == '{"offline": true, "you_said": "Hello"}'


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
    response = requests.get(image(emulator, {**IMAGE, **options}).json()["url"], timeout=MAX_SECONDS)
    assert response.headers["Content-Type"] == "image/png"
    assert size_of_png(response.content) == size


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


@pytest.mark.parametrize(
    "path",
    [
        "/offline/0x1/aabbccddeeff.png",
        "/offline/9999x1/aabbccddeeff.png",
        "/offline/1x1/a.png",
        f"/offline/{'a' * 64}.png",
    ],
)
def test_unknown_image_is_not_found(emulator, path):
    assert requests.get(emulator.url + path, timeout=MAX_SECONDS).status_code == 404


def test_describes_project(emulator):
    response = requests.get(f"{emulator.url}/api/v1/projects/ke3_xh5gai3gjkmruomu", timeout=MAX_SECONDS)
    assert response.json() == {"id": "ke3_xh5gai3gjkmruomu"}
    assert not emulator.requests


# Validation


def chat_with(**fields):
    return {**CHAT, "messages": [{"role": "user", "content": "Hello", **fields}]}


def image_with(**fields):
    return IMAGE | fields


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ([], "the body must be a JSON object"),
        ({}, "project_id is missing"),
        ({"project_id": "a"}, "messages is missing"),
        (CHAT | {"model": "gemini"}, "model is an unknown field"),
        (CHAT | {"project_id": "a/b"}, "project_id must be 1 to 64 of A-Z a-z 0-9 _ -"),
        (CHAT | {"project_id": 7}, "project_id must be 1 to 64"),
        (CHAT | {"json": False}, "json must be true"),
        (CHAT | {"messages": []}, "messages must be a list with at least one message"),
        (CHAT | {"messages": "Hello"}, "messages must be a list"),
        (CHAT | {"messages": ["Hello"]}, "messages[0] must be a JSON object"),
        (CHAT | {"messages": [*CHAT["messages"], {"role": "user"}]}, "messages[1].content is missing"),
        (chat_with(role="tool"), "messages[0].role must be user, assistant or system"),
        (chat_with(role=["user"]), "messages[0].role must be"),
        (chat_with(name="Ann"), "messages[0].name is an unknown field"),
        (chat_with(content=None), "messages[0].content must be"),
        (chat_with(content=[]), "messages[0].content must be"),
        (chat_with(content=["Hello"]), "messages[0].content[0] must be an object"),
        (chat_with(content=[TEXT_PART, {"type": "video"}]), "messages[0].content[1] must be an object"),
        (chat_with(content=[{"type": []}]), "messages[0].content[0] must be an object"),
        (chat_with(content=[TEXT_PART | {"more": 1}]), "messages[0].content[0].more is an unknown field"),
        (chat_with(content=[{"type": "text", "text": 7}]), "messages[0].content[0].text must be a string"),
        (chat_with(content=[{"type": "image_url"}]), "messages[0].content[0].image_url is missing"),
        (chat_with(content=[IMAGE_PART | {"image_url": "data:"}]), "messages[0].content[0].image_url must be"),
        (
            chat_with(content=[IMAGE_PART | {"image_url": {"url": "cat.png"}}]),
            "messages[0].content[0].image_url.url must be a data:image/ URI or a web URL",
        ),
        (
            chat_with(content=[IMAGE_PART | {"image_url": IMAGE_URL | {"detail": "high"}}]),
            "messages[0].content[0].image_url.detail is an unknown field",
        ),
        (image_with(n=2), "n is an unknown field"),
        (image_with(project_id=""), "project_id must be"),
        (image_with(prompt=" "), "prompt must be a text that is not empty"),
        (image_with(prompt=7), "prompt must be"),
        (image_with(aspect_ratio="wide"), "aspect_ratio must be W:H"),
        (image_with(aspect_ratio=1), "aspect_ratio must be W:H"),
        (image_with(width=0, height=1), "width must be a positive whole number"),
        (image_with(width=True, height=1), "width must be"),
        (image_with(width=1, height="640"), "height must be"),
        (image_with(width=640), "width and height are accepted only together"),
        (image_with(height=640), "width and height are accepted only together"),
        (image_with(seed=0.5), "seed must be a whole number"),
        (image_with(transparent=1), "transparent must be true or false"),
        (image_with(image_inputs=[]), "image_inputs must be a list of 1 to 4"),
        (image_with(image_inputs=[IMAGE_URL] * 5), "image_inputs must be a list of 1 to 4"),
        (image_with(image_inputs=["data:"]), "image_inputs[0] must be a JSON object"),
        (image_with(image_inputs=[IMAGE_URL, {"url": "data:"}]), "image_inputs[1].url must be"),
    ],
)
def test_rejects_malformed_request_with_reason(emulator, body, reason):
    send = image if isinstance(body, dict) and "prompt" in body else chat
    response = send(emulator, body)
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (400, "BAD_REQUEST")
    assert error["message"].startswith(reason)


@pytest.mark.parametrize("text", ["", "not JSON", "[" * 200_000])
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


def test_keeps_newest_requests_if_they_are_large(emulator, monkeypatch):
    monkeypatch.setattr("g4f_websim.emulator.server.KEPT_BYTES", 300)
    for text in ("first", "second" * 30):
        chat(emulator, {**CHAT, "messages": [{"role": "user", "content": text}]})
    (kept,) = emulator.requests
    assert kept.json["messages"][0]["content"] == "second" * 30


# Replies and faults


def test_replies_with_text(emulator):
    emulator.reply("42")
    assert chat(emulator).json() == {"role": "assistant", "content": "42"}
    assert chat(emulator).json()["content"] == REPLY


def test_replies_with_image(emulator):
    emulator.reply_image(b"a PNG file")
    response = requests.get(image(emulator).json()["url"], timeout=MAX_SECONDS)
    assert (response.content, response.headers["Content-Type"]) == (b"a PNG file", "image/png")


def test_uses_replies_and_faults_in_order_of_calls(emulator):
    emulator.reply("first")
    emulator.inject(Fault(status=503), times=2)
    emulator.reply_image(b"a PNG file")
    emulator.reply("last")
    responses = [chat(emulator), chat(emulator), chat(emulator), image(emulator), chat(emulator), chat(emulator)]
    assert [response.status_code for response in responses] == [200, 503, 503, 200, 200, 200]
    assert responses[0].json()["content"] == "first"
    assert responses[3].json()["url"].startswith(f"{emulator.url}/offline/")
    assert responses[4].json()["content"] == "last"
    assert responses[5].json()["content"] == REPLY


def test_fault_has_status_and_headers(emulator):
    emulator.inject(Fault(status=503, headers={"Retry-After": "7"}))
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


def test_fault_has_body_and_delay(emulator):
    emulator.inject(Fault(body=b"any bytes", delay=DELAY))
    response = chat(emulator)
    assert (response.status_code, response.content) == (200, b"any bytes")
    assert response.elapsed.total_seconds() >= DELAY


def test_fault_replaces_header(emulator):
    emulator.inject(Fault(headers={"content-type": "text/html"}, body=b"<html>"))
    assert chat(emulator).headers["Content-Type"] == "text/html"


@pytest.mark.parametrize(("body", "status"), [(CHAT, 200), ({}, 400)], ids=["valid", "malformed"])
def test_fault_without_status_and_body_changes_usual_response(emulator, body, status):
    usual = chat(emulator, body)
    emulator.inject(Fault(delay=DELAY, headers={"X-Request-Id": "7"}))
    response = chat(emulator, body)
    assert (response.status_code, response.json()) == (status, usual.json())
    assert response.headers["X-Request-Id"] == "7"
    assert response.elapsed.total_seconds() >= DELAY


@pytest.mark.parametrize(
    "arguments",
    [
        {"status": "503"},
        {"status": 100},
        {"status": 600},
        {"status": True},
        {"headers": None},
        {"headers": [("Retry-After", "7")]},
        {"headers": {"Retry-After": 7}},
        {"headers": {"": "7"}},
        {"headers": {7: "7"}},
        {"headers": {"Retry-After": "7\r\nSet-Cookie: a=b"}},
        {"body": "text"},
        {"body": {"content": "Hi"}},
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


def test_fault_accepts_http_status():
    assert Fault(status=HTTPStatus.SERVICE_UNAVAILABLE) == Fault(status=503)


@pytest.mark.parametrize("times", [-1, "2", 1.5])
def test_malformed_times_is_an_error(emulator, times):
    with pytest.raises(ValueError, match="^times: a number of requests"):
        emulator.inject(Fault(status=503), times=times)


def test_injects_faults_only(emulator):
    with pytest.raises(ValueError, match="^fault: a Fault, as in .*, not 503$"):
        emulator.inject(503)


@pytest.mark.parametrize("text", [None, 42, b"42", {"content": "42"}])
def test_replies_with_strings_only(emulator, text):
    with pytest.raises(ValueError, match="^text: a string"):
        emulator.reply(text)


@pytest.mark.parametrize("png", [None, "cat.png"])
def test_replies_with_bytes_as_image_only(emulator, png):
    with pytest.raises(ValueError, match="^png: bytes"):
        emulator.reply_image(png)


def test_error_shows_start_of_long_value(emulator):
    with pytest.raises(ValueError) as raised:
        emulator.reply(["word"] * 1000)
    assert len(str(raised.value)) < 200


def test_fault_disconnects(emulator):
    emulator.inject(Fault(disconnect=True))
    with pytest.raises(requests.ConnectionError):
        chat(emulator)


def test_reset_forgets_requests_replies_and_images(emulator):
    emulator.reply_image(b"a PNG file")
    url = image(emulator).json()["url"]
    emulator.reply("42")
    emulator.reset()
    assert not emulator.requests
    assert chat(emulator).json()["content"] == REPLY
    assert requests.get(url, timeout=MAX_SECONDS).status_code == 404


# Starting and stopping


def test_listens_on_given_port(unused_tcp_port):
    with Emulator(unused_tcp_port) as emulator:
        assert emulator.url == f"http://127.0.0.1:{unused_tcp_port}"


def test_port_in_use_is_an_error(emulator):
    port = int(emulator.url.rpartition(":")[2])
    with pytest.raises(OSError, match="Address already in use"), Emulator(port):
        pass


def test_stops_although_client_has_left():
    start = time.monotonic()
    with Emulator() as emulator:
        emulator.inject(Fault(delay=MAX_SECONDS))
        with send_chat(emulator.url):
            wait_for_requests(emulator, 1)
    assert time.monotonic() - start < 10


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
def test_malformed_delay_is_an_error(delay):
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
    limiter.reset()
    assert admit() is None


def test_limit_refuses_requests_at_same_time():
    limiter = Limiter(RateLimit(max_in_flight=2))
    with limiter.admit() as first, limiter.admit() as second:
        with limiter.admit() as third:
            assert (first, second, third) == (None, None, IN_FLIGHT_DELAY)
        limiter.reset()
        with limiter.admit() as fourth:
            assert fourth == IN_FLIGHT_DELAY
    with limiter.admit() as fifth:
        assert fifth is None


def test_both_limits_apply():
    limiter = Limiter(RateLimit(2, period=MINUTE, max_in_flight=1), clock=lambda: 0.0)
    with limiter.admit(), limiter.admit() as second:
        assert second == IN_FLIGHT_DELAY
    with limiter.admit() as third:
        assert third is None
    with limiter.admit() as fourth:
        assert fourth == MINUTE


def test_responds_with_429_beyond_limit():
    with Emulator(limit="2/60s") as emulator:
        accepted, _, refused = chat(emulator), image(emulator), chat(emulator)
        assert (accepted.status_code, refused.status_code) == (200, 429)
        assert refused.json()["error"] == {"message": "Rate limit exceeded: 2", "code": "TOO_MANY_REQUESTS"}
        assert 0 < int(refused.headers["Retry-After"]) <= MINUTE
        assert len(emulator.requests) == 3


def test_retry_after_is_rounded_up():
    with Emulator(limit="1/60s") as emulator:
        start = time.monotonic()
        chat(emulator)
        retry_after = int(chat(emulator).headers["Retry-After"])
        assert MINUTE - (time.monotonic() - start) <= retry_after <= MINUTE


def test_retry_after_can_be_left_out():
    with Emulator(limit=RateLimit(1, period=MINUTE, retry_after=False)) as emulator:
        assert statuses(emulator, 2) == [200, 429]
        assert "Retry-After" not in chat(emulator).headers


def test_responds_with_429_beyond_requests_at_same_time():
    with Emulator(limit=RateLimit(max_in_flight=2)) as emulator:
        assert statuses(emulator, 3) == [200, 200, 200]
        emulator.reset()
        emulator.inject(Fault(delay=MAX_SECONDS), times=2)
        with send_chat(emulator.url), send_chat(emulator.url):
            wait_for_requests(emulator, 2)
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


def test_reset_starts_new_period():
    with Emulator(limit="1/60s") as emulator:
        assert statuses(emulator, 2) == [200, 429]
        emulator.reset()
        assert statuses(emulator, 2) == [200, 429]
