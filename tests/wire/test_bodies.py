"""Request bodies and headers: each field, and each argument that is rejected."""

import json
import re

import pytest

from g4f_websim.wire import bodies
from g4f_websim.wire.endpoints import API_URL
from tests.support.calls import HELLO, JWT, PNG, PNG_URI

IMAGE_PART = {"type": "image_url", "image_url": {"url": PNG_URI}}
PROJECT_ID = "ke3_xh5gai3gjkmruomu"


def chat_body(messages=HELLO, **options):
    return bodies.chat_body(PROJECT_ID, messages, **options)


def messages_of(messages, **options):
    return chat_body(messages, **options)["messages"]


def image_body(messages=None, prompt=None, aspect_ratio="1:1", **options):
    return bodies.image_body(PROJECT_ID, messages, prompt, aspect_ratio, **options)


def test_chat_body_contains_project_and_messages_only():
    conversation = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Grüße, 世界 🌍\n" + "x" * 20_000},
        {"role": "assistant", "content": " spaces are kept "},
        {"role": "user", "content": "And now?"},
    ]
    assert chat_body(conversation) == {"project_id": PROJECT_ID, "messages": conversation}


def test_image_body_contains_project_prompt_and_ratio_only():
    body = image_body(HELLO, " a cat ", "16:9")
    assert body == {"project_id": PROJECT_ID, "prompt": " a cat ", "aspect_ratio": "16:9"}


DRAW = {"type": "text", "text": "Draw"}


@pytest.mark.parametrize(
    ("messages", "contents"),
    [
        (None, ["Draw"]),
        ([], ["Draw"]),
        (HELLO, ["Hello", "Draw"]),
        ([{"role": "user", "content": "Draw"}], ["Draw"]),
        ([*HELLO, {"role": "user", "content": "Draw"}], ["Hello", "Draw"]),
        ([*HELLO, {"role": "assistant", "content": "Draw"}], ["Hello", "Draw", "Draw"]),
        ([{"role": "user", "content": "Draw"}, {"role": "assistant", "content": ""}], ["Draw"]),
        ([{"role": "user", "content": [DRAW]}], [[DRAW]]),
        ([{"role": "user", "content": [DRAW, IMAGE_PART]}], [[DRAW, IMAGE_PART]]),
        ([{"role": "user", "content": [DRAW, DRAW]}], [[DRAW, DRAW], "Draw"]),
        ([{"role": "user", "content": [IMAGE_PART]}], [[IMAGE_PART], "Draw"]),
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


def test_empty_media_change_nothing():
    assert messages_of(HELLO, media=[]) == HELLO


JSON_REQUESTS = [
    *[{"json": True}, {"json": True, "response_format": {"type": "text"}}],
    *[
        {"response_format": {"type": kind}, "json": json_value}
        for kind in ("json_object", "json_schema")
        for json_value in (None, False, True)
    ],
]


@pytest.mark.parametrize("arguments", JSON_REQUESTS, ids=repr)
def test_requests_json(arguments):
    assert chat_body(**arguments) == {"project_id": PROJECT_ID, "messages": HELLO, "json": True}


@pytest.mark.parametrize("response_format", [None, {}, {"type": "text"}, {"type": "json"}, {"type": []}], ids=repr)
@pytest.mark.parametrize("json_value", [None, False])
def test_does_not_request_json(response_format, json_value):
    assert "json" not in chat_body(response_format=response_format, json=json_value)


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


def test_image_body_contains_all_options():
    options = {"width": 640, "height": 480, "seed": 0, "transparent": False}
    body = image_body(None, "a cat", media=[PNG], **options)
    assert {name: body[name] for name in options} == options
    assert body["image_inputs"] == [{"url": PNG_URI}]


@pytest.mark.parametrize("seed", [2**53 - 1, -(2**53 - 1)])
def test_accepts_largest_seeds(seed):
    assert image_body(None, "a cat", seed=seed)["seed"] == seed


def test_accepts_smallest_image():
    body = image_body(None, "a dot", width=1, height=1)
    assert (body["width"], body["height"]) == (1, 1)


@pytest.mark.parametrize(
    ("width", "height", "ratio"),
    [
        (1024, 1024, "1:1"),
        (1920, 1080, "16:9"),
        (1080, 1920, "9:16"),
        (1024, 768, "4:3"),
        (768, 1024, "3:4"),
        (1500, 1000, "3:2"),
        (1000, 1500, "2:3"),
        (2560, 1080, "21:9"),
        (1080, 2560, "9:21"),
        (1000, 800, "5:4"),
        (800, 1000, "4:5"),
        (10_000, 1, "21:9"),
    ],
)
def test_width_and_height_select_nearest_ratio(width, height, ratio):
    assert image_body(None, "a cat", width=width, height=height, seed=7)["aspect_ratio"] == ratio


def test_keeps_requested_ratio_beside_width_and_height():
    body = image_body(None, "a cat", "2:3", width=1920, height=1080)
    assert (body["aspect_ratio"], body["width"], body["height"]) == ("2:3", 1920, 1080)


@pytest.mark.parametrize(
    ("arguments", "width", "height", "ratio"),
    [
        ({"size": "1920x1080"}, 1920, 1080, "16:9"),
        ({"size": "1920x1080", "width": 640}, 640, 1080, "9:16"),
        ({"size": "1920x1080", "height": 1920}, 1920, 1920, "1:1"),
        ({"size": "auto"}, None, None, "1:1"),
        ({"aspect_ratio": None}, None, None, "1:1"),
    ],
    ids=["size", "size and width", "size and height", "size auto", "neither"],
)
def test_size_sets_width_and_height(arguments, width, height, ratio):
    body = image_body(None, "a cat", **arguments)
    assert (body.get("width"), body.get("height"), body["aspect_ratio"]) == (width, height, ratio)


def user(content):
    return [{"role": "user", "content": content}]


REJECTED_CHATS = {
    "no messages": ({"messages": []}, "messages: a message with content, as in messages=.*, or a prompt, not []"),
    "empty message and prompt": ({"messages": user(""), "prompt": ""}, "messages: a message with content"),
    "nothing but a schema": (
        {"messages": [], "response_format": {"type": "json_schema", "schema": SCHEMA}},
        "messages: a message with content",
    ),
    "malformed message": ({"messages": ["Hello"]}, "messages[0]: a dict .* not 'Hello'"),
    "number as prompt": ({"prompt": 7}, "prompt: text, not 7"),
    "bytes as media": ({"media": PNG}, "media: a list of images, .* not b'"),
    "text in media": ({"media": ["cat.png"]}, "media[0]: an image: bytes, .* not 'cat.png'"),
    "text as response_format": (
        {"response_format": "json_object"},
        'response_format: a dict, as in response_format={"type": "json_object"}, not \'json_object\'',
    ),
    "list as response_format": ({"response_format": []}, "response_format: a dict, .* not []"),
    **{
        f"{schema!r:.20} as schema": (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": schema}}},
            'response_format: a dict, as in {"type": "json_schema", "json_schema": {"schema": {"type": "object"}}}, ',
        )
        for schema in ("{}", [1], {"type": {1, 2}}, {(1, 2): 3}, 7)
    },
    "text as json_schema": (
        {"response_format": {"type": "json_schema", "json_schema": "{}"}},
        'response_format: a dict, as in {"type": "json_schema", ',
    ),
    **{
        f"{value!r} as json": ({"json": value}, f"json: True or False, as in json=True, not {value!r}")
        for value in (1, 0, "yes", {}, [])
    },
}

REJECTED_IMAGES = {
    "empty prompt": ({"prompt": ""}, "prompt: a description, as in prompt=\"a cat on a couch\", not ''"),
    "blank prompt": ({"prompt": " \n"}, "prompt: a description, as in"),
    "no prompt": ({"messages": []}, "prompt: a description, .* not ''"),
    "aspect_ratio in words": ({"aspect_ratio": "wide"}, "aspect_ratio: W:H with positive integers, as in .* not 'wide"),
    "aspect_ratio with 0": ({"aspect_ratio": "16:0"}, "aspect_ratio: .* not '16:0'"),
    "negative aspect_ratio": ({"aspect_ratio": "-1:1"}, "aspect_ratio: .* not '-1:1'"),
    "aspect_ratio with a line break": ({"aspect_ratio": "1:1\n"}, r"aspect_ratio: .* not '1:1\n'"),
    "number as aspect_ratio": ({"aspect_ratio": 1}, "aspect_ratio: .* not 1"),
    "width 0": ({"width": 0}, "width: pixels, as in width=1024, not 0"),
    "negative width": ({"width": -1}, "width: .* not -1"),
    "fraction as height": ({"height": 2.5}, "height: .* not 2.5"),
    "height 0": ({"height": 0}, "height: .* not 0"),
    "negative height": ({"height": -1}, "height: .* not -1"),
    "text as seed": ({"seed": "7"}, "seed: an integer, as in seed=42, not '7'"),
    "seed too large": ({"seed": 2**53}, "seed: .* not 9007199254740992"),
    "seed too small": ({"seed": -(2**53)}, "seed: .* not -9007199254740992"),
    "seed of 5000 digits": ({"seed": 10**5000}, "seed: an integer, as in seed=42, not this value"),
    "text as transparent": ({"transparent": "no"}, "transparent: True or False, not 'no'"),
    "size in words": ({"size": "large"}, "size: WIDTHxHEIGHT, as in size=\"1024x768\", not 'large'"),
    "width alone": (
        {"width": 9},
        "width: pixels together with height, as in width=1024, height=768, not 'width alone'",
    ),
    "height alone": ({"height": 9}, "height: pixels together with width, as in width=1024, height=768, not 'height al"),
    "5 images": ({"media": [PNG] * 5}, "media: at most 4 reference images, as in .* not 5"),
    "5 images in messages and media": (
        {"messages": user([DRAW, *[IMAGE_PART] * 3]), "media": [PNG] * 2},
        "media: at most 4 reference images, as in .* not 5",
    ),
    "text as media": ({"media": "cat.png"}, "media: a list of images, .* not 'cat.png'"),
}


def matching(message: str) -> str:
    """Return a pattern for the beginning of an error message, in which only `.*` is special."""
    return "^" + ".*".join(map(re.escape, message.split(".*")))


@pytest.mark.parametrize(("arguments", "message"), REJECTED_CHATS.values(), ids=REJECTED_CHATS)
def test_rejects_chat_arguments(arguments, message):
    with pytest.raises(ValueError, match=matching(message)):
        chat_body(**{"messages": HELLO, **arguments})


@pytest.mark.parametrize(("arguments", "message"), REJECTED_IMAGES.values(), ids=REJECTED_IMAGES)
def test_rejects_image_arguments(arguments, message):
    with pytest.raises(ValueError, match=matching(message)):
        image_body(**{"prompt": None if "messages" in arguments else "a cat", **arguments})


@pytest.mark.parametrize("n", [1, 10])
def test_accepts_number_of_images(n):
    assert bodies.check_count(n) == n
    assert bodies.check_count(None) == 1


@pytest.mark.parametrize("n", [0, -1, 11, "2", True, 2.0])
def test_rejects_number_of_images(n):
    with pytest.raises(ValueError, match=matching(f"n: 1 to 10 images, as in n=2, not {n!r}")):
        bodies.check_count(n)


@pytest.mark.parametrize(("timeout", "seconds"), [(None, None), (0, None), (60, 60.0), (0.5, 0.5)])
def test_accepts_timeout(timeout, seconds):
    assert bodies.check_timeout(timeout) == seconds


@pytest.mark.parametrize(
    "timeout", [-1, float("nan"), float("inf"), "soon", True, pytest.param(10**400, id="400 digits")]
)
def test_rejects_timeout(timeout):
    with pytest.raises(ValueError, match="^timeout: seconds, as in timeout=60, not "):
        bodies.check_timeout(timeout)


@pytest.mark.parametrize("project_id", ["vno75_2x4ii3ayx8wmmw", "a", "A-_9" * 16])
def test_accepts_project_id(project_id):
    assert bodies.check_project_id(project_id) == project_id


@pytest.mark.parametrize(
    "page",
    [
        f"https://websim.com/p/{PROJECT_ID}",
        f"https://websim.com/p/{PROJECT_ID}/",
        f" https://websim.com/p/{PROJECT_ID}\n",
        f"http://127.0.0.1:8080/p/{PROJECT_ID}?tab=1",
        f"https://websim.ai/p/{PROJECT_ID}#top",
    ],
)
def test_accepts_url_of_project_page(monkeypatch, page):
    assert bodies.check_project_id(page) == PROJECT_ID
    monkeypatch.setenv("WEBSIM_PROJECT_ID", page)
    assert bodies.check_project_id(None) == PROJECT_ID


@pytest.mark.parametrize(
    "project_id", ["", "a/b", "a" * 65, 7, f"https://websim.com/{PROJECT_ID}", "https://websim.com/p/a%20b", "a\n"]
)
def test_rejects_project_id(project_id):
    message = "project_id: 1 to 64 of A-Z a-z 0-9 _ - (the last part of websim.com/p/<id>), not "
    with pytest.raises(ValueError, match=matching(message)):
        bodies.check_project_id(project_id)


def test_rejected_project_id_names_the_variable(monkeypatch):
    monkeypatch.setenv("WEBSIM_PROJECT_ID", "no/id")
    with pytest.raises(ValueError, match=matching("WEBSIM_PROJECT_ID: 1 to 64 of A-Z .* not 'no/id'")):
        bodies.check_project_id(None)


@pytest.mark.parametrize("value", [None, ""])
def test_project_id_may_be_missing(monkeypatch, value):
    if value is not None:
        monkeypatch.setenv("WEBSIM_PROJECT_ID", value)
    assert bodies.check_project_id(None) == ""


@pytest.mark.parametrize(
    ("model", "name"),
    [
        *[(None, ""), ("", ""), ("flux", "flux"), ("Websim:flux", "flux"), ("Websim:", ""), ("websim:flux", "flux")],
        *[("WEBSIM: Flux", "flux"), (" FLUX\n", "flux"), ("Websim:AUTO", "auto"), ("Other:flux", "Other:flux")],
        *[("GPT-4o", "GPT-4o"), ("websimflux", "websimflux")],
    ],
)
def test_finds_model_without_provider_prefix_and_case(model, name):
    assert bodies.strip_provider_prefix(model, ["gemini-1.5-pro", "flux", "auto"]) == name


def test_rejects_model_that_is_not_text():
    with pytest.raises(ValueError, match=matching('model: a name, as in model="flux", not 7')):
        bodies.strip_provider_prefix(7)


@pytest.mark.parametrize(
    "model",
    ["dall-e-3", "DALLE2", "flux-pro", "fluxx", "gpt-image-1", "sdxl-turbo", "sd3", "sd-3.5", "gemini-2.5-flash-image"],
)
def test_rejects_image_models_of_other_services(model):
    with pytest.raises(ValueError, match=matching(f"model: Websim's image model is flux, not {model!r}")):
        bodies.check_chat_model(model, ["flux"])


@pytest.mark.parametrize("model", ["gemini-1.5-pro", "gpt-4o", "any-other-name", "auto", "", "my-imagery"])
def test_accepts_any_name_of_chat_model(model):
    bodies.check_chat_model(model, ["flux"])


@pytest.mark.parametrize("token", [JWT, None])
def test_headers_name_site_page_and_token(token):
    headers = bodies.build_headers("https://websim.example", "/page", token)
    expected = {"origin": "https://websim.example", "referer": "https://websim.example/page"}
    assert headers == (expected | {"authorization": f"Bearer {JWT}"} if token else expected)


def test_api_host_gets_headers_of_the_site():
    headers = bodies.build_headers(API_URL, "/page", None)
    assert API_URL == "https://api.websim.com"
    assert (headers["origin"], headers["referer"]) == ("https://websim.com", "https://websim.com/")
