"""Request bodies and headers: each field, and each argument that is rejected."""

import json
import math

import pytest

from g4f_websim.wire import arguments, bodies
from tests.support.calls import HELLO, PNG, PNG_URI, matching

DRAW = {"type": "text", "text": "Draw"}
IMAGE_PART = {"type": "image_url", "image_url": {"url": PNG_URI}}
PROJECT_ID = "ke3_xh5gai3gjkmruomu"


def user(content):
    return [{"role": "user", "content": content}]


def chat_body(messages=HELLO, **options):
    return bodies.chat_body(PROJECT_ID, messages, **options)


def messages_of(messages, **options):
    return chat_body(messages, **options)["messages"]


def image_body(messages=None, prompt=None, aspect_ratio="1:1", **options):
    return bodies.image_body(PROJECT_ID, messages, prompt, aspect_ratio, **options)


@pytest.mark.parametrize(
    ("messages", "contents"),
    [
        (None, ["Draw"]),
        ([], ["Draw"]),
        (HELLO, ["Hello", "Draw"]),
        (user("Draw"), ["Draw"]),
        (HELLO + user("Draw"), ["Hello", "Draw"]),
        ([*HELLO, {"role": "assistant", "content": "Draw"}], ["Hello", "Draw", "Draw"]),
        ([*user("Draw"), {"role": "assistant", "content": ""}], ["Draw"]),
        (user([DRAW]), [[DRAW]]),
        (user([DRAW, IMAGE_PART]), [[DRAW, IMAGE_PART]]),
        (user([DRAW, DRAW]), [[DRAW, DRAW], "Draw"]),
        (user([IMAGE_PART]), [[IMAGE_PART], "Draw"]),
    ],
    ids=repr,
)
def test_chat_prompt_is_last_user_message(messages, contents):
    sent = messages_of(messages, prompt="Draw")
    assert [message["content"] for message in sent] == contents
    assert sent[-1]["role"] == "user"


MEDIA = {
    "last user message": (
        [*HELLO, {"role": "assistant", "content": "Yes?"}],
        [[{"type": "text", "text": "Hello"}, IMAGE_PART], "Yes?"],
    ),
    "parts": ([{"role": "user", "content": [DRAW, IMAGE_PART]}], [[DRAW, IMAGE_PART, IMAGE_PART]]),
    "no message": ([], [[IMAGE_PART]]),
    "empty message": ([*HELLO, {"role": "user", "content": ""}], ["Hello", [IMAGE_PART]]),
    "no user message": ([{"role": "system", "content": "Be brief."}], ["Be brief.", [IMAGE_PART]]),
}


@pytest.mark.parametrize(("messages", "contents"), MEDIA.values(), ids=MEDIA)
def test_media_join_last_user_message(messages, contents):
    assert [message["content"] for message in messages_of(messages, media=[PNG])] == contents


JSON_FORMATS = [{"type": "json_object"}, {"type": "json_schema"}]
OTHER_FORMATS = [None, {}, {"type": "text"}, {"type": "json"}, {"type": []}]


@pytest.mark.parametrize("response_format", JSON_FORMATS + OTHER_FORMATS, ids=repr)
@pytest.mark.parametrize("json_value", [None, False, True])
def test_format_or_json_requests_json(response_format, json_value):
    field = {"json": True} if json_value or response_format in JSON_FORMATS else {}
    body = chat_body(response_format=response_format, json=json_value, media=[])
    assert body == {"project_id": PROJECT_ID, "messages": HELLO, **field}


SCHEMA = {"type": "object", "properties": {"größe": {"type": "integer", "title": "\ud83d"}}}
SCHEMA_TEXT = (
    "Respond only with JSON that is valid against this JSON schema:\n"
    '{"type": "object", "properties": {"größe": {"type": "integer", "title": "\ufffd"}}}'
)
SYSTEM = {"role": "system", "content": "Be brief."}


@pytest.mark.parametrize(
    "form", [{"json_schema": {"name": "size", "schema": SCHEMA}}, {"name": "size", "schema": SCHEMA}]
)
@pytest.mark.parametrize(
    ("messages", "system"),
    [
        (HELLO, SCHEMA_TEXT),
        ([SYSTEM, *HELLO], f"Be brief.\n\n{SCHEMA_TEXT}"),
        ([{"role": "developer", "content": "Be brief."}, *HELLO], f"Be brief.\n\n{SCHEMA_TEXT}"),
        ([{"role": "system", "content": [DRAW]}, *HELLO], [DRAW, {"type": "text", "text": SCHEMA_TEXT}]),
    ],
    ids=["no system message", "text", "developer", "parts"],
)
def test_schema_is_sent_in_system_message(messages, system, form):
    body = chat_body(messages, response_format={"type": "json_schema", **form})
    assert body["messages"] == [{"role": "system", "content": system}, *HELLO]
    assert body["json"] is True


def test_replaces_surrogates_in_prompts():
    assert messages_of([], prompt="\ud83d\ude00\ud83d") == [{"role": "user", "content": "😀\ufffd"}]
    assert image_body(None, "\ud83d\ude00\ud83d")["prompt"] == "😀\ufffd"
    assert image_body([{"role": "user", "content": "\ude00"}])["prompt"] == "\ufffd"


def test_does_not_change_arguments():
    messages = [{"role": "developer", "content": [{"type": "text", "text": "a"}]}, {"role": "user", "content": "b"}]
    before = json.dumps(messages)
    chat_body(messages, media=[PNG], prompt="c")
    image_body(messages, media=[PNG])
    assert json.dumps(messages) == before


def test_last_user_message_is_image_prompt():
    parts = [{"type": "text", "text": "a dog like this"}, IMAGE_PART]
    messages = [*HELLO, {"role": "assistant", "content": "Yes?"}, {"role": "user", "content": parts}]
    body = image_body(messages, media=["https://example.com/dog.png"])
    assert body["prompt"] == "a dog like this"
    assert body["image_inputs"] == [{"url": PNG_URI}, {"url": "https://example.com/dog.png"}]


@pytest.mark.parametrize(
    "options",
    [
        {"seed": 0, "transparent": False},
        {"seed": 2**53 - 1, "transparent": True},
        {"seed": -(2**53 - 1)},
    ],
)
def test_image_body_contains_options(options):
    body = image_body(None, "a cat", media=[], **options)
    assert body == {"project_id": PROJECT_ID, "prompt": "a cat", "aspect_ratio": "1:1", **options}


@pytest.mark.parametrize(
    ("arguments", "width", "height", "ratio"),
    [
        *[
            ({"width": width, "height": height}, width, height, ratio)
            for width, height, ratio in (
                *((1024, 1024, "1:1"), (1920, 1080, "16:9"), (1080, 1920, "9:16"), (1024, 768, "4:3")),
                *((768, 1024, "3:4"), (1500, 1000, "3:2"), (1000, 1500, "2:3"), (2560, 1080, "21:9")),
                *((1080, 2560, "9:21"), (1000, 800, "5:4"), (800, 1000, "4:5"), (10_000, 1, "21:9")),
            )
        ],
        ({"width": 1920, "height": 1080, "aspect_ratio": "2:3"}, 1920, 1080, "2:3"),
        ({"size": "1920x1080"}, 1920, 1080, "16:9"),
        ({"size": "1920x1080", "width": 640}, 640, 1080, "9:16"),
        ({"size": "1920x1080", "height": 1920}, 1920, 1920, "1:1"),
        ({"size": "auto"}, None, None, "1:1"),
        ({"aspect_ratio": None}, None, None, "1:1"),
    ],
    ids=repr,
)
def test_width_height_and_size_select_nearest_ratio(arguments, width, height, ratio):
    body = image_body(None, "a cat", **arguments)
    assert (body.get("width"), body.get("height"), body["aspect_ratio"]) == (width, height, ratio)


SCHEMA_FORM = 'response_format: a dict, as in {"type": "json_schema", "json_schema": {"schema": {"type": "object"}}}, '

# Each row: the arguments, the beginning of the error.
REJECTED_CHATS = [
    ({"messages": []}, "messages: a message with content, as in messages=.*, or a prompt, not []"),
    ({"messages": user(""), "prompt": ""}, "messages: a message with content"),
    ({"messages": [], "response_format": {"type": "json_schema", "schema": {}}}, "messages: a message with content"),
    ({"prompt": 7}, "prompt: text, not 7"),
    ({"media": ["cat.png"]}, "media[0]: an image: bytes, .* not 'cat.png'"),
    *[
        ({"response_format": value}, f'response_format: a dict, as in .*{{"type": "json_object"}}, not {value!r}')
        for value in ("json_object", [])
    ],
    *[
        ({"response_format": {"type": "json_schema", "json_schema": schema}}, SCHEMA_FORM)
        for schema in ("{}", {"schema": [1]}, {"schema": {"type": {1, 2}}}, {"schema": {(1, 2): 3}})
    ],
    *[({"json": value}, f"json: True or False, as in json=True, not {value!r}") for value in (1, 0, "yes", {}, [])],
]

REJECTED_IMAGES = [
    *[
        ({"prompt": text}, f'prompt: a description, as in prompt="a cat on a couch", not {text!r}')
        for text in ("", " ")
    ],
    ({"messages": []}, "prompt: a description, .* not ''"),
    *[
        ({"aspect_ratio": ratio}, f'aspect_ratio: W:H with positive integers, as in aspect_ratio="16:9", not {ratio!r}')
        for ratio in ("wide", "16:0", "-1:1", "1:1\n", 1)
    ],
    *[
        ({side: pixels}, f"{side}: pixels, as in {side}=1024, not {pixels!r}")
        for side in ("width", "height")
        for pixels in (0, -1, 2.5)
    ],
    *[({"seed": seed}, f"seed: an integer, as in seed=42, not {seed!r}") for seed in ("7", 2**53, -(2**53))],
    ({"transparent": "no"}, "transparent: True or False, not 'no'"),
    ({"size": "large"}, "size: WIDTHxHEIGHT, as in size=\"1024x768\", not 'large'"),
    *[
        ({side: 9}, f"{side}: pixels together with {other}, as in width=1024, height=768, not '{side} alone'")
        for side, other in (("width", "height"), ("height", "width"))
    ],
    *[
        (arguments, "media: at most 4 reference images, as in .* not 5")
        for arguments in ({"media": [PNG] * 5}, {"messages": user([DRAW, *[IMAGE_PART] * 3]), "media": [PNG] * 2})
    ],
    ({"media": ["cat.png"]}, "media[0]: an image: bytes, .* not 'cat.png'"),
]


def shown(value: object) -> str:
    """Return the id of a parameter."""
    return value.__name__ if callable(value) else ascii(value)[:50]


@pytest.mark.parametrize(
    ("build", "arguments", "message"),
    [*((chat_body, *row) for row in REJECTED_CHATS), *((image_body, *row) for row in REJECTED_IMAGES)],
    ids=shown,
)
def test_body_rejects_arguments(build, arguments, message):
    with pytest.raises(ValueError, match=matching(message)):
        build(**{"messages": user("a cat"), **arguments})


IMAGE_MODELS = ["flux"]
PAGE = f"https://websim.com/p/{PROJECT_ID}"

# Each row: the function, its arguments, what it returns.
ACCEPTED = [
    *[(bodies.check_count, [n], n or 1) for n in (None, 1, 10)],
    *[(arguments.check_timeout, [timeout], timeout or None) for timeout in (None, 0, 60, 0.5)],
    *[(bodies.check_project_id, [project_id], project_id) for project_id in (PROJECT_ID, "a", "A-_9" * 16)],
    *[(bodies.check_project_id, [page], PROJECT_ID) for page in (PAGE, f"{PAGE}/", f" {PAGE}\n", f"{PAGE}?tab=1")],
    *[(bodies.check_project_id, [f"http://127.0.0.1:8080/p/{PROJECT_ID}#top"], PROJECT_ID)],
    *[(bodies.check_chat_model, [model, IMAGE_MODELS], None) for model in ("gpt-4o", "auto", "", "my-imagery")],
]

PROJECT_ID_FORM = "1 to 64 of A-Z a-z 0-9 _ - (the last part of websim.com/p/<id>), not "
# Each row: the function, its arguments, the beginning of the error.
REJECTED = [
    *[(bodies.check_count, [n], f"n: 1 to 10 images, as in n=2, not {n!r}") for n in (0, -1, 11, "2", True, 2.0)],
    *[
        (arguments.check_timeout, [timeout], "timeout: seconds, as in timeout=60, not ")
        for timeout in (-1, math.nan, math.inf, "soon", True, 10**400)
    ],
    *[
        (bodies.check_project_id, [project_id], f"project_id: {PROJECT_ID_FORM}")
        for project_id in ("", "a/b", "a" * 65, 7, f"https://websim.com/{PROJECT_ID}", f"{PAGE}%20b", "a\n")
    ],
    (bodies.strip_provider_prefix, [7], 'model: a name, as in model="flux", not 7'),
    *[
        (bodies.check_chat_model, [model, IMAGE_MODELS], f"model: Websim's image model is flux, not {model!r}")
        for model in (
            "DALLE2",
            "dall-e-3",
            "fluxx",
            "gpt-image-1",
            "sdxl-turbo",
            "sd3",
            "sd-3.5",
            "gemini-2.5-flash-image",
        )
    ],
]


@pytest.mark.parametrize(("check", "arguments", "result"), ACCEPTED, ids=shown)
def test_accepts_arguments(check, arguments, result):
    assert check(*arguments) == result


@pytest.mark.parametrize(("check", "arguments", "message"), REJECTED, ids=shown)
def test_rejects_arguments(check, arguments, message):
    with pytest.raises(ValueError, match=matching(message)):
        check(*arguments)


def test_empty_project_id_of_environment_is_none(monkeypatch):
    monkeypatch.setenv("WEBSIM_PROJECT_ID", "")
    assert bodies.check_project_id(None) == ""


def test_rejected_project_id_of_environment_names_the_variable(monkeypatch):
    monkeypatch.setenv("WEBSIM_PROJECT_ID", "no/id")
    with pytest.raises(ValueError, match=matching(f"WEBSIM_PROJECT_ID: {PROJECT_ID_FORM}'no/id'")):
        bodies.check_project_id(None)


def test_headers_of_api_host_name_the_site():
    headers = bodies.build_headers("https://api.websim.com", "/page", None)
    assert headers == {"origin": "https://websim.com", "referer": "https://websim.com/"}
