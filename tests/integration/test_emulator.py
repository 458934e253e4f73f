"""The embedded Websim: what it answers, what it refuses, and how it misbehaves when told to."""

import struct
import zlib

import pytest
import requests

from g4f_websim.emulator import MAX_PICTURE_SIDE, Emulator, Fault

CHAT = {"project_id": "a", "messages": [{"role": "user", "content": "Hello"}]}
IMAGE = {"project_id": "a", "prompt": "a cat", "aspect_ratio": "1:1"}
PART = {"type": "text", "text": "Hello"}
PICTURE_PART = {"type": "image_url", "image_url": {"url": "data:"}}
SAID = "This is the offline Websim; no model was asked. You said: "


@pytest.fixture(scope="module")
def emulator():
    with Emulator() as emulator:
        yield emulator


def chat(emulator, body):
    return requests.post(f"{emulator.url}/api/v1/inference/run_chat_completion", json=body, timeout=10)


def image(emulator, body):
    return requests.post(f"{emulator.url}/api/v1/inference/run_image_generation", json=body, timeout=10)


def size_of_png(data: bytes) -> tuple[int, int]:
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", data[16:24])
    start = data.index(b"IDAT")
    (length,) = struct.unpack(">I", data[start - 4 : start])
    assert len(zlib.decompress(data[start + 4 : start + 4 + length])) == height * (1 + 3 * width)
    return width, height


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([{"role": "user", "content": "Hello"}], "Hello"),
        ([{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Yes?"}], "Hello"),
        (
            [{"role": "user", "content": [PART, {"type": "image_url", "image_url": {"url": "data:"}}]}],
            "Hello [a picture]",
        ),
        ([{"role": "system", "content": "Be brief."}], ""),
    ],
)
def test_a_chat_says_that_it_is_offline_and_repeats_the_last_user_text(emulator, messages, said):
    answer = chat(emulator, {**CHAT, "messages": messages}).json()
    assert answer == {
        "role": "assistant",
        "content": f"This is the offline Websim; no model was asked. You said: {said}",
    }


def test_a_json_chat_is_answered_in_json(emulator):
    assert chat(emulator, {**CHAT, "json": True}).json()["content"] == '{"offline": true, "you_said": "Hello"}'


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({}, (512, 512)),
        ({"aspect_ratio": "16:9"}, (512, 288)),
        ({"aspect_ratio": "9:21"}, (219, 512)),
        ({"aspect_ratio": "16:9", "width": 160, "height": 90}, (160, 90)),
        ({"aspect_ratio": "99999:1"}, (512, 1)),
        ({"width": 2 * MAX_PICTURE_SIDE, "height": MAX_PICTURE_SIDE}, (MAX_PICTURE_SIDE, MAX_PICTURE_SIDE // 2)),
        ({"width": 640, "seed": 7, "transparent": True, "image_inputs": [{"url": "data:"}]}, (512, 512)),
    ],
)
def test_a_picture_is_a_real_png_of_the_size_asked_for(emulator, options, size):
    url = image(emulator, {**IMAGE, **options}).json()["url"]
    response = requests.get(url, timeout=10)
    assert response.headers["Content-Type"] == "image/png"
    assert size_of_png(response.content) == size


def test_the_same_words_make_the_same_picture(emulator):
    first, again, other = (image(emulator, {**IMAGE, "prompt": prompt}).json() for prompt in ("a", "a", "b"))
    assert first == again != other


def message(**fields):
    return {**CHAT, "messages": [{"role": "user", "content": "Hello", **fields}]}


MALFORMED_CHATS = [
    None,
    [],
    {},
    {**CHAT, "model": "gemini"},
    {**CHAT, "project_id": "a/b"},
    {**CHAT, "project_id": 7},
    {**CHAT, "json": False},
    {**CHAT, "messages": []},
    {**CHAT, "messages": "Hello"},
    {**CHAT, "messages": ["Hello"]},
    message(role="tool"),
    message(name="Ann"),
    message(content=None),
    message(content=[]),
    message(content=["Hello"]),
    message(content=[{**PART, "more": 1}]),
    message(content=[{"type": "text", "text": 7}]),
    message(content=[{"type": "image_url", "image_url": "data:"}]),
    message(content=[{"type": "image_url", "image_url": {"url": "data:", "detail": "high"}}]),
]

MALFORMED_IMAGES = [
    None,
    {},
    {**IMAGE, "n": 2},
    {**IMAGE, "project_id": ""},
    {**IMAGE, "prompt": " "},
    {**IMAGE, "prompt": 7},
    {**IMAGE, "aspect_ratio": "wide"},
    {**IMAGE, "aspect_ratio": 1},
    {**IMAGE, "width": 0},
    {**IMAGE, "height": "640"},
    {**IMAGE, "seed": 0.5},
    {**IMAGE, "transparent": 1},
    {**IMAGE, "image_inputs": ["data:"]},
]


@pytest.mark.parametrize("body", MALFORMED_CHATS)
def test_a_malformed_chat_is_refused_with_a_reason(emulator, body):
    response = chat(emulator, body)
    assert response.status_code == 400
    assert response.json()["error"].startswith("offline Websim: ")


@pytest.mark.parametrize("body", MALFORMED_IMAGES)
def test_a_malformed_picture_is_refused_with_a_reason(emulator, body):
    response = image(emulator, body)
    assert response.status_code == 400
    assert response.json()["error"].startswith("offline Websim: ")


@pytest.mark.parametrize("text", ["", "no JSON", "[" * 200_000])
def test_a_body_that_is_no_json_is_refused(emulator, text):
    url = f"{emulator.url}/api/v1/inference/run_chat_completion"
    assert requests.post(url, data=text, timeout=10).status_code == 400


@pytest.mark.parametrize(
    "path", ["/offline/0x1/aabbccddeeff.png", "/offline/9999x1/aabbccddeeff.png", "/offline/1x1/a.png"]
)
def test_a_picture_that_was_never_promised_is_not_found(emulator, path):
    assert requests.get(emulator.url + path, timeout=10).status_code == 404


def test_the_home_page_answers(emulator):
    assert "offline Websim" in requests.get(emulator.url, timeout=10).text


def test_a_fault_spoils_as_many_answers_as_it_is_told(emulator):
    emulator.misbehave(Fault(status=503, headers={"Retry-After": "7"}), times=2)
    responses = [chat(emulator, CHAT) for _ in range(3)]
    assert [response.status_code for response in responses] == [503, 503, 200]
    assert responses[0].headers["Retry-After"] == "7"
    assert "told to misbehave" in responses[0].text


def test_a_fault_may_break_the_connection(emulator):
    emulator.misbehave(Fault(broken=True))
    with pytest.raises(requests.ConnectionError):
        chat(emulator, CHAT)


def test_a_fault_may_bring_a_body_of_its_own_and_take_its_time(emulator):
    emulator.misbehave(Fault(body=b"any bytes", delay=0.05))
    response = chat(emulator, CHAT)
    assert response.content == b"any bytes"
    assert response.elapsed.total_seconds() >= 0.05


def test_what_was_sent_can_be_looked_at_and_forgotten(emulator):
    emulator.reset()
    chat(emulator, CHAT)
    (request,) = emulator.requests
    assert request.path == "/api/v1/inference/run_chat_completion"
    assert request.json == CHAT
    assert request.header("content-type") == "application/json"
    assert request.header("x-none") is None
    emulator.reset()
    assert not emulator.requests


def test_of_large_requests_the_newest_are_kept(emulator, monkeypatch):
    monkeypatch.setattr("g4f_websim.emulator.KEPT_BYTES", 300)
    emulator.reset()
    for said in ("first", "second" * 30):
        chat(emulator, CHAT | {"messages": [{"role": "user", "content": said}]})
    (kept,) = emulator.requests
    assert kept.json["messages"][0]["content"] == "second" * 30


def test_a_port_can_be_named_and_one_that_is_taken_is_an_error(unused_tcp_port):
    with Emulator(unused_tcp_port) as named:
        assert named.url == f"http://127.0.0.1:{unused_tcp_port}"
        with pytest.raises(OSError, match="address already in use"), Emulator(unused_tcp_port):
            pass
