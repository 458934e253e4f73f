"""Request bodies and headers: each field, and each argument that is rejected."""

import io
import json
import re
from pathlib import Path

import pytest

from g4f_websim.wire import bodies
from g4f_websim.wire.endpoints import API_URL
from tests.support.calls import HELLO, JWT, PNG, PNG_URI
from tests.support.interpreter import run_python

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


@pytest.mark.parametrize(
    ("role", "sent"),
    [("developer", "system"), ("tool", "user"), ("function", "user"), ("assistant", "assistant"), ("system", "system")],
)
def test_maps_roles(role, sent):
    assert messages_of([{"role": role, "content": "a"}, *HELLO]) == [{"role": sent, "content": "a"}, *HELLO]


def test_drops_other_fields_of_messages():
    assert messages_of([{**HELLO[0], "name": "Ann", "tool_call_id": "7"}]) == HELLO


@pytest.mark.parametrize("content", [None, "", [], [{"type": "text", "text": ""}], [None]], ids=repr)
def test_drops_message_without_content(content):
    assert messages_of([{"role": "assistant", "content": content}, *HELLO]) == HELLO


def test_keeps_text_and_image_parts_without_other_fields():
    parts = [
        {"type": "text", "text": "What is this?", "cache_control": {}},
        {"type": "image_url", "image_url": {"url": PNG_URI, "detail": "high"}},
        {"type": "image_url", "image_url": "http://example.com/cat.png"},
    ]
    (message,) = messages_of([{"role": "user", "content": parts}])
    assert message["content"] == [
        {"type": "text", "text": "What is this?"},
        IMAGE_PART,
        {"type": "image_url", "image_url": {"url": "http://example.com/cat.png"}},
    ]


@pytest.fixture
def bucket(monkeypatch, tmp_path):
    """The name of a bucket of g4f's that contains an image and a text."""
    monkeypatch.setattr("g4f.cookies.CookiesConfig.cookies_dir", str(tmp_path))
    folder = tmp_path / "buckets" / "mine"
    (folder / "media").mkdir(parents=True)
    (folder / "media" / "cat.png").write_bytes(PNG)
    (folder / "plain.cache").write_text("the text of a file", encoding="utf-8")
    return "mine"


def test_renders_parts_of_g4f(bucket):
    parts = [
        {"text": "Look: "},
        {"bucket_id": bucket, "name": "cat.png", "url": "/files/mine/cat.png"},
        {"bucket_id": bucket},
    ]
    (message,) = messages_of([{"role": "user", "content": parts}])
    assert message["content"] == [
        {"type": "text", "text": "Look: "},
        IMAGE_PART,
        {"type": "text", "text": "the text of a file"},
    ]


def test_rejects_part_that_g4f_cannot_read():
    part = {"bucket_id": "none", "name": "cat.png", "url": "/files/none/cat.png"}
    with pytest.raises(ValueError, match=r"^messages\[0\].content\[0\]: g4f cannot read this part"):
        chat_body([{"role": "user", "content": [part]}])


@pytest.mark.parametrize(
    ("messages", "contents"),
    [
        (None, ["Draw"]),
        ([], ["Draw"]),
        (HELLO, ["Hello", "Draw"]),
        ([{"role": "user", "content": "Draw"}], ["Draw"]),
        ([*HELLO, {"role": "user", "content": "Draw"}], ["Hello", "Draw"]),
        ([*HELLO, {"role": "assistant", "content": "Draw"}], ["Hello", "Draw", "Draw"]),
    ],
    ids=["None", "empty list", "other message", "same message", "ends with the prompt", "assistant said it"],
)
def test_chat_prompt_is_last_user_message(messages, contents):
    sent = messages_of(messages, prompt="Draw")
    assert [message["content"] for message in sent] == contents
    assert sent[-1]["role"] == "user"


@pytest.mark.parametrize("kind", ["json_object", "json_schema"])
def test_json_format_requests_json(kind):
    assert chat_body(response_format={"type": kind})["json"] is True


@pytest.mark.parametrize("response_format", [None, {}, {"type": "text"}, {"type": "json"}, {"type": []}], ids=repr)
def test_other_formats_do_not_request_json(response_format):
    assert "json" not in chat_body(response_format=response_format)


def png_file(folder: Path) -> Path:
    path = folder / "cat.png"
    path.write_bytes(PNG)
    return path


IMAGES = {
    "bytes": lambda folder: PNG,
    "path": png_file,
    "open file": lambda folder: io.BytesIO(PNG),
    "data URI": lambda folder: PNG_URI,
}


@pytest.mark.parametrize("named", [False, True], ids=["unnamed", "named"])
@pytest.mark.parametrize("make_image", IMAGES.values(), ids=IMAGES)
def test_media_join_last_user_message(tmp_path, make_image, named):
    image = make_image(tmp_path)
    messages = [*HELLO, {"role": "assistant", "content": "Yes?"}]
    assert messages_of(messages, media=[(image, "cat.png") if named else image]) == [
        {"role": "user", "content": [{"type": "text", "text": "Hello"}, IMAGE_PART]},
        messages[1],
    ]


def test_reads_file_without_pillow(tmp_path):
    program = """
import io, sys
sys.modules["PIL"] = None
from pathlib import Path
from g4f_websim.wire.bodies import image_urls
file = Path("cat.png")
print(len({*image_urls([file, io.BytesIO(file.read_bytes()), file.read_bytes()])}))
"""
    png_file(tmp_path)
    printed, _ = run_python("-c", program)
    assert printed.strip() == "1"


def test_reads_file_from_its_start():
    file = io.BytesIO(PNG)
    file.read()
    assert bodies.image_urls([file]) == [PNG_URI]


def test_media_join_parts_of_message():
    parts = [{"type": "text", "text": "Both:"}, IMAGE_PART]
    (message,) = messages_of([{"role": "user", "content": parts}], media=["https://example.com/b.jpg"])
    assert message["content"] == [*parts, {"type": "image_url", "image_url": {"url": "https://example.com/b.jpg"}}]


@pytest.mark.parametrize("messages", [[], [{"role": "user", "content": ""}]], ids=["no message", "empty message"])
def test_image_alone_is_a_message(messages):
    assert messages_of(messages, media=[PNG]) == [{"role": "user", "content": [IMAGE_PART]}]


def test_media_without_user_message_become_user_message():
    instructions = {"role": "system", "content": "Be brief."}
    assert messages_of([instructions], media=[PNG]) == [instructions, {"role": "user", "content": [IMAGE_PART]}]


def test_empty_media_change_nothing():
    assert messages_of(HELLO, media=[]) == HELLO


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
        (10_000, 1, "21:9"),
    ],
)
def test_width_and_height_select_nearest_ratio(width, height, ratio):
    assert image_body(None, "a cat", width=width, height=height, seed=7)["aspect_ratio"] == ratio


def test_keeps_requested_ratio_beside_width_and_height():
    body = image_body(None, "a cat", "2:3", width=1920, height=1080)
    assert (body["aspect_ratio"], body["width"], body["height"]) == ("2:3", 1920, 1080)


@pytest.mark.parametrize("side", [{"width": 1920}, {"height": 1920}], ids=["width", "height"])
def test_width_or_height_alone_does_not_select_ratio(side):
    assert image_body(None, "a cat", **side)["aspect_ratio"] == "1:1"


@pytest.mark.parametrize(
    ("arguments", "width", "height", "ratio"),
    [
        ({"size": "1920x1080"}, 1920, 1080, "16:9"),
        ({"size": "1920x1080", "width": 640}, 640, 1080, "9:16"),
        ({"size": "auto"}, None, None, "1:1"),
        ({"aspect_ratio": None}, None, None, "1:1"),
    ],
    ids=["size", "size and width", "size auto", "neither"],
)
def test_size_sets_width_and_height(arguments, width, height, ratio):
    body = image_body(None, "a cat", **arguments)
    assert (body.get("width"), body.get("height"), body["aspect_ratio"]) == (width, height, ratio)


def user(content):
    return [{"role": "user", "content": content}]


REJECTED_CHATS = {
    "no messages": ({"messages": []}, "messages: a message with content, as in messages=.*, or a prompt, not []"),
    "empty message and prompt": ({"messages": user(""), "prompt": ""}, "messages: a message with content"),
    "text as messages": ({"messages": "Hello"}, "messages: a list of dicts, as in .* not 'Hello'"),
    "text as a message": ({"messages": ["Hello"]}, "messages[0]: a dict .* not 'Hello'"),
    "no role": ({"messages": [{"content": "Hello"}]}, "messages[0]: .* a role, one of user"),
    "unknown role": (
        {"messages": [*HELLO, {"role": "bot", "content": "a"}]},
        "messages[1]: .* a role, one of user, assistant, .* not .*'bot'",
    ),
    "list as role": ({"messages": [{"role": [], "content": "a"}]}, "messages[0]: .* a role, one of .* not .*[]"),
    "bytes as content": ({"messages": user(b"a")}, "messages[0].content: text or a list of parts, not b'a'"),
    "text as a part": ({"messages": user(["a"])}, "messages[0].content[0]: a dict, as in .* not 'a'"),
    "number as text": ({"messages": user([{"type": "text", "text": 1}])}, "messages[0].content[0].text: text, not 1"),
    "audio part": (
        {"messages": user([{"type": "input_audio"}])},
        "messages[0].content[0].type: text or image_url, not 'input_audio'",
    ),
    "file part": (
        {"messages": user([{"type": "file", "image_url": PNG_URI}])},
        "messages[0].content[0].type: text or image_url, not 'file'",
    ),
    "video part": (
        {"messages": user([{"type": "video", "text": "a"}])},
        "messages[0].content[0].type: text or image_url, not 'video'",
    ),
    "URL of a local file": (
        {"messages": user([{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}])},
        "messages[0].content[0].image_url: an image: bytes, .* not 'file:///etc/passwd'",
    ),
    "number as prompt": ({"messages": HELLO, "prompt": 7}, "prompt: text, not 7"),
    "bytes as media": ({"messages": HELLO, "media": PNG}, "media: a list of images, .* not b'"),
    "text in media": ({"messages": HELLO, "media": ["cat.png"]}, "media[0]: an image: bytes, .* not 'cat.png'"),
    "audio in media": (
        {"messages": HELLO, "media": [(b"RIFF", "cat.wav")]},
        "media[0]: an image: bytes, .* not 'data:audio",
    ),
    "tuple of one in media": ({"messages": HELLO, "media": [(PNG,)]}, "media[0]: the image cannot be read"),
    "bytes of another format": ({"messages": HELLO, "media": [PNG, b"text"]}, "media[1]: the image cannot be read"),
    "missing file": (
        {"messages": HELLO, "media": [Path("none.png")]},
        "media[0]: the image cannot be read .*No such file",
    ),
    "text as response_format": (
        {"messages": HELLO, "response_format": "json_object"},
        'response_format: a dict, as in response_format={"type": "json_object"}, not \'json_object\'',
    ),
    "list as response_format": ({"messages": HELLO, "response_format": []}, "response_format: a dict, .* not []"),
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
    "text as media": ({"media": "cat.png"}, "media: a list of images, .* not 'cat.png'"),
}


def matching(message: str) -> str:
    """Return a pattern for the beginning of an error message, in which only `.*` is special."""
    return "^" + ".*".join(map(re.escape, message.split(".*")))


@pytest.mark.parametrize(("arguments", "message"), REJECTED_CHATS.values(), ids=REJECTED_CHATS)
def test_rejects_chat_arguments(arguments, message):
    with pytest.raises(ValueError, match=matching(message)):
        chat_body(**arguments)


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
    ("model", "name"), [(None, ""), ("", ""), ("flux", "flux"), ("Websim:flux", "flux"), ("Websim:", "")]
)
def test_strips_provider_prefix(model, name):
    assert bodies.strip_provider_prefix(model) == name


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
