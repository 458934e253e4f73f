"""What is asked: every field of the two bodies and the headers, and every refusal before anything is sent."""

import base64
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from g4f.requests.defaults import DEFAULT_HEADERS

from g4f_websim import Websim, provider
from g4f_websim.emulator import Emulator
from tests.support.calls import HELLO, JWT, PNG_URI, ask

PNG = base64.b64decode(PNG_URI.partition(",")[2])
PICTURE_PART = {"type": "image_url", "image_url": {"url": PNG_URI}}
FOREIGN_KEYS = [
    "sk-1234567890",
    "a.b.c",
    "",
    f"{JWT}.x",
    f"{JWT}\n",
    "bm90IGpzb24.e30.c2ln",
    "eyJ0eXAiOiJKV1QifQ.e30.c2ln",
    "W10.e30.c2ln",
    7,
]


async def sent(websim_server: Emulator, *arguments, **keywords):
    await ask(*arguments, **keywords)
    return websim_server.requests[-1].json


async def messages_sent(websim_server: Emulator, messages, **keywords):
    return (await sent(websim_server, None, messages, **keywords))["messages"]


async def test_a_chat_sends_the_project_and_the_messages_and_nothing_else(websim_server):
    conversation = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Grüße, 世界 🌍\n" + "x" * 20_000},
        {"role": "assistant", "content": " kept as it is "},
        {"role": "user", "content": "And now?"},
    ]
    body = await sent(websim_server, "gemini-1.5-pro", conversation)
    assert body.keys() == {"project_id", "messages"}
    assert body["messages"] == conversation


async def test_a_picture_sends_the_project_the_prompt_and_the_ratio_and_nothing_else(websim_server):
    body = await sent(websim_server, "flux", HELLO, prompt=" a cat ", aspect_ratio="16:9")
    assert re.fullmatch(r"[a-z0-9]{7}_[a-z0-9]{12}", body.pop("project_id"))
    assert body == {"prompt": " a cat ", "aspect_ratio": "16:9"}


@pytest.mark.parametrize(
    ("role", "role_sent"),
    [("developer", "system"), ("tool", "user"), ("function", "user"), ("assistant", "assistant"), ("system", "system")],
)
async def test_each_role_of_openais_becomes_one_of_websims(websim_server, role, role_sent):
    messages = await messages_sent(websim_server, [{"role": role, "content": "a"}, *HELLO])
    assert messages == [{"role": role_sent, "content": "a"}, *HELLO]


async def test_a_message_keeps_its_role_and_content_alone(websim_server):
    assert await messages_sent(websim_server, [{**HELLO[0], "name": "Ann", "tool_call_id": "7"}]) == HELLO


@pytest.mark.parametrize("content", [None, "", [], [{"type": "text", "text": ""}], [None]])
async def test_a_message_without_content_is_left_out(websim_server, content):
    assert await messages_sent(websim_server, [{"role": "assistant", "content": content}, *HELLO]) == HELLO


async def test_text_and_picture_parts_stay_without_what_websim_does_not_know(websim_server):
    parts = [
        {"type": "text", "text": "What is this?", "cache_control": {}},
        {"type": "image_url", "image_url": {"url": PNG_URI, "detail": "high"}},
        {"type": "image_url", "image_url": "http://example.com/cat.png"},
    ]
    (message,) = await messages_sent(websim_server, [{"role": "user", "content": parts}])
    assert message["content"] == [
        {"type": "text", "text": "What is this?"},
        PICTURE_PART,
        {"type": "image_url", "image_url": {"url": "http://example.com/cat.png"}},
    ]


@pytest.fixture
def bucket(monkeypatch, tmp_path):
    monkeypatch.setattr("g4f.cookies.CookiesConfig.cookies_dir", str(tmp_path))
    folder = tmp_path / "buckets" / "mine"
    (folder / "media").mkdir(parents=True)
    (folder / "media" / "cat.png").write_bytes(PNG)
    (folder / "plain.cache").write_text("the text of a file", encoding="utf-8")
    return "mine"


async def test_g4fs_own_parts_are_rendered_by_g4f(websim_server, bucket):
    parts = [
        {"text": "Look: "},
        {"bucket_id": bucket, "name": "cat.png", "url": "/files/mine/cat.png"},
        {"bucket_id": bucket},
    ]
    (message,) = await messages_sent(websim_server, [{"role": "user", "content": parts}])
    assert message["content"] == [
        {"type": "text", "text": "Look: "},
        PICTURE_PART,
        {"type": "text", "text": "the text of a file"},
    ]


async def test_a_part_that_g4f_cannot_read_is_refused(websim_server):
    part = {"bucket_id": "none", "name": "cat.png", "url": "/files/none/cat.png"}
    with pytest.raises(ValueError, match=r"messages\[0\].content\[0\]: g4f cannot read"):
        await ask(None, [{"role": "user", "content": [part]}])


@pytest.mark.parametrize(
    ("messages", "turns"),
    [
        (None, ["Draw"]),
        ([], ["Draw"]),
        (HELLO, ["Hello", "Draw"]),
        ([{"role": "user", "content": "Draw"}], ["Draw"]),
        ([*HELLO, {"role": "user", "content": "Draw"}], ["Hello", "Draw"]),
        ([*HELLO, {"role": "assistant", "content": "Draw"}], ["Hello", "Draw", "Draw"]),
    ],
)
async def test_a_prompt_is_the_last_user_turn_unless_the_messages_end_with_it(websim_server, messages, turns):
    body = await sent(websim_server, "gemini-2.5-pro", messages, prompt="Draw")
    assert [message["content"] for message in body["messages"]] == turns
    assert body["messages"][-1]["role"] == "user"


@pytest.mark.parametrize("kind", ["json_object", "json_schema"])
async def test_a_json_format_asks_for_json(websim_server, kind):
    assert (await sent(websim_server, None, HELLO, response_format={"type": kind}))["json"] is True


@pytest.mark.parametrize("response_format", [None, {"type": "text"}, {}, "url"])
async def test_any_other_format_does_not(websim_server, response_format):
    assert "json" not in await sent(websim_server, None, HELLO, response_format=response_format)


def png_file(folder: Path) -> Path:
    path = folder / "cat.png"
    path.write_bytes(PNG)
    return path


PICTURES = {
    "bytes": lambda folder: PNG,
    "path": png_file,
    "file": lambda folder: io.BytesIO(PNG),
    "uri": lambda folder: PNG_URI,
}


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("picture_in", PICTURES.values(), ids=PICTURES)
async def test_media_join_the_last_user_turn(websim_server, tmp_path, picture_in, named):
    picture = picture_in(tmp_path)
    messages = [*HELLO, {"role": "assistant", "content": "Yes?"}]
    media = [(picture, "cat.png") if named else picture]
    assert await messages_sent(websim_server, messages, media=media) == [
        {"role": "user", "content": [{"type": "text", "text": "Hello"}, PICTURE_PART]},
        messages[1],
    ]


def test_a_file_is_read_without_pillow(tmp_path):
    program = """
import io, sys
sys.modules["PIL"] = None
from pathlib import Path
from g4f_websim.request import picture_urls
file = Path("cat.png")
print(len({*picture_urls([file, io.BytesIO(file.read_bytes()), file.read_bytes()])}))
"""
    png_file(tmp_path)
    assert subprocess.check_output([sys.executable, "-c", program]) == b"1\n"


async def test_a_file_is_read_from_its_start(websim_server):
    file = io.BytesIO(PNG)
    file.read()
    (message,) = await messages_sent(websim_server, HELLO, media=[file])
    assert message["content"][-1] == PICTURE_PART


async def test_media_join_the_parts_of_a_turn(websim_server):
    parts = [{"type": "text", "text": "Both:"}, PICTURE_PART]
    (message,) = await messages_sent(
        websim_server, [{"role": "user", "content": parts}], media=["https://example.com/b.jpg"]
    )
    assert message["content"] == [*parts, {"type": "image_url", "image_url": {"url": "https://example.com/b.jpg"}}]


@pytest.mark.parametrize("messages", [[], [{"role": "user", "content": ""}]])
async def test_a_picture_alone_is_something_to_say(websim_server, messages):
    assert await messages_sent(websim_server, messages, media=[PNG]) == [{"role": "user", "content": [PICTURE_PART]}]


async def test_a_picture_without_a_user_turn_makes_one(websim_server):
    instructions = {"role": "system", "content": "Be brief."}
    messages = await messages_sent(websim_server, [instructions], media=[PNG])
    assert messages == [instructions, {"role": "user", "content": [PICTURE_PART]}]


async def test_the_callers_messages_are_not_changed(websim_server):
    messages = [{"role": "developer", "content": [{"type": "text", "text": "a"}]}, {"role": "user", "content": "b"}]
    before = json.dumps(messages)
    await ask(None, messages, media=[PNG], prompt="c")
    assert json.dumps(messages) == before


async def test_without_a_prompt_the_last_user_turn_is_drawn_after_its_pictures(websim_server):
    parts = [{"type": "text", "text": "a dog like this"}, PICTURE_PART]
    messages = [*HELLO, {"role": "assistant", "content": "Yes?"}, {"role": "user", "content": parts}]
    body = await sent(websim_server, "flux", messages, media=["https://example.com/dog.png"])
    assert body["prompt"] == "a dog like this"
    assert body["image_inputs"] == [{"url": PNG_URI}, {"url": "https://example.com/dog.png"}]


async def test_a_picture_takes_all_its_options(websim_server):
    options = {"width": 640, "height": 480, "seed": 0, "transparent": False}
    body = await sent(websim_server, "flux", None, prompt="a cat", media=[PNG], **options)
    assert {key: body[key] for key in options} == options
    assert body["image_inputs"] == [{"url": PNG_URI}]


@pytest.mark.parametrize("seed", [2**53 - 1, -(2**53 - 1)])
async def test_a_seed_may_be_any_number_that_all_readers_of_json_agree_on(websim_server, seed):
    assert (await sent(websim_server, "flux", None, prompt="a cat", seed=seed))["seed"] == seed


async def test_a_picture_may_be_of_one_pixel(websim_server):
    body = await sent(websim_server, "flux", None, prompt="a dot", width=1, height=1)
    assert (body["width"], body["height"]) == (1, 1)


@pytest.mark.parametrize(
    ("size", "ratio"),
    [
        ((1024, 1024), "1:1"),
        ((1920, 1080), "16:9"),
        ((1080, 1920), "9:16"),
        ((1024, 768), "4:3"),
        ((768, 1024), "3:4"),
        ((1500, 1000), "3:2"),
        ((1000, 1500), "2:3"),
        ((2560, 1080), "21:9"),
        ((1080, 2560), "9:21"),
        ((10_000, 1), "21:9"),
    ],
)
async def test_width_and_height_set_the_nearest_known_ratio(websim_server, size, ratio):
    body = await sent(websim_server, "flux", None, prompt="a cat", width=size[0], height=size[1], seed=7)
    assert body["aspect_ratio"] == ratio


async def test_a_ratio_that_was_asked_for_stays_beside_width_and_height(websim_server):
    body = await sent(websim_server, "flux", None, prompt="a cat", width=1920, height=1080, aspect_ratio="2:3")
    assert (body["aspect_ratio"], body["width"], body["height"]) == ("2:3", 1920, 1080)


@pytest.mark.parametrize("one_side", [{"width": 1920}, {"height": 1920}])
async def test_one_side_alone_sets_no_ratio(websim_server, one_side):
    assert (await sent(websim_server, "flux", None, prompt="a cat", **one_side))["aspect_ratio"] == "1:1"


@pytest.mark.parametrize(
    ("arguments", "sides"),
    [
        ({"size": "1920x1080"}, (1920, 1080)),
        ({"size": "1920x1080", "width": 640}, (640, 1080)),
        ({"size": "auto"}, (None, None)),
        ({"aspect_ratio": None}, (None, None)),
    ],
)
async def test_openais_size_is_width_and_height(websim_server, arguments, sides):
    body = await sent(websim_server, "flux", None, prompt="a cat", **arguments)
    assert (body.get("width"), body.get("height")) == sides


REFUSED_CHATS = {
    "messages: nothing to say": {"messages": []},
    "messages: nothing to say; pass messages": {
        "model": "any",
        "messages": [{"role": "user", "content": ""}],
        "prompt": "",
    },
    "messages: a list .* not 'Hello'": {"messages": "Hello"},
    r"messages\[0\]: a dict .* not 'Hello'": {"messages": ["Hello"]},
    r"messages\[0\]: .* a role, one of user": {"messages": [{"content": "Hello"}]},
    r"messages\[1\]: .* a role, one of user, assistant, .* not .*'bot'": {
        "messages": [*HELLO, {"role": "bot", "content": "a"}]
    },
    r"messages\[0\]: .* a role, one of .* not .*\[\]": {"messages": [{"role": [], "content": "a"}]},
    r"messages\[0\].content: text or .* not b'a'": {"messages": [{"role": "user", "content": b"a"}]},
    r"messages\[0\].content\[0\]: a dict, .* not 'a'": {"messages": [{"role": "user", "content": ["a"]}]},
    r"messages\[0\].content\[0\].text: text": {
        "messages": [{"role": "user", "content": [{"type": "text", "text": 1}]}]
    },
    r"messages\[0\].content\[0\].type: text or image_url, not 'input_audio'": {
        "messages": [{"role": "user", "content": [{"type": "input_audio"}]}]
    },
    r"messages\[0\].content\[0\].type: text or image_url, not 'file'": {
        "messages": [{"role": "user", "content": [{"type": "file", "image_url": PNG_URI}]}]
    },
    r"messages\[0\].content\[0\].type: text or image_url, not 'video'": {
        "messages": [{"role": "user", "content": [{"type": "video", "text": "a"}]}]
    },
    r"messages\[0\].content\[0\].image_url: a picture is": {
        "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]}]
    },
    "prompt: text, not 7": {"messages": HELLO, "prompt": 7},
    "media: a list .* not b'": {"messages": HELLO, "media": PNG},
    r"media\[0\]: a picture is": {"messages": HELLO, "media": ["cat.png"]},
    r"media\[0\]: a picture is bytes, .* not 'data:audio": {"messages": HELLO, "media": [(b"RIFF", "cat.wav")]},
    r"media\[0\]: a picture that cannot be read": {"messages": HELLO, "media": [(PNG,)]},
    r"media\[1\]: a picture that cannot be read": {"messages": HELLO, "media": [PNG, b"no picture"]},
    r"media\[0\]: a picture that cannot be read .*No such file": {"messages": HELLO, "media": [Path("none.png")]},
    "model: a name, as in flux, not 7": {"model": 7, "messages": HELLO},
    "project_id: 1 to 64": {"messages": HELLO, "project_id": ""},
    "project_id: .* not 'a/b'": {"messages": HELLO, "project_id": "a/b"},
    "project_id: 1 to 64 of A-Z": {"messages": HELLO, "project_id": "a" * 65},
    "timeout: seconds, as in timeout=60": {"messages": HELLO, "timeout": -1},
    "timeout: .* not nan": {"messages": HELLO, "timeout": float("nan")},
    "timeout: .* not 'soon'": {"messages": HELLO, "timeout": "soon"},
    "proxy: an address": {"messages": HELLO, "proxy": "ftp://127.0.0.1:21"},
    "proxy: an address as": {"messages": HELLO, "proxy": "127.0.0.1:3128"},
    "proxy: an address as http": {"messages": HELLO, "proxy": "http://127.0.0.1:99999"},
}

REFUSED_PICTURES = {
    "prompt: something to draw": {"prompt": ""},
    "prompt: something to draw, as in": {"prompt": " \n"},
    "prompt: something .* not ''": {"messages": []},
    "aspect_ratio: W:H": {"prompt": "a cat", "aspect_ratio": "wide"},
    "aspect_ratio: .* not '16:0'": {"prompt": "a cat", "aspect_ratio": "16:0"},
    "aspect_ratio: .* not '-1:1'": {"prompt": "a cat", "aspect_ratio": "-1:1"},
    "aspect_ratio: .* not '1:1\\\\n'": {"prompt": "a cat", "aspect_ratio": "1:1\n"},
    "aspect_ratio: .* not 1": {"prompt": "a cat", "aspect_ratio": 1},
    "n: 1 to 10 pictures, as in n=2, not 0": {"prompt": "a cat", "n": 0},
    "n: .* not 11": {"prompt": "a cat", "n": 11},
    "n: .* not '2'": {"prompt": "a cat", "n": "2"},
    "n: .* not True": {"prompt": "a cat", "n": True},
    "width: pixels, as in width=1024, not 0": {"prompt": "a cat", "width": 0},
    "width: .* not -1": {"prompt": "a cat", "width": -1},
    "height: .* not 2.5": {"prompt": "a cat", "height": 2.5},
    "height: .* not 0": {"prompt": "a cat", "height": 0},
    "height: .* not -1": {"prompt": "a cat", "height": -1},
    "seed: a whole number": {"prompt": "a cat", "seed": "7"},
    "seed: .* not 9007199254740992": {"prompt": "a cat", "seed": 2**53},
    "seed: .* not -9007199254740992": {"prompt": "a cat", "seed": -(2**53)},
    "transparent: True or False": {"prompt": "a cat", "transparent": "no"},
    "size: WIDTHxHEIGHT, .* not 'large'": {"prompt": "a cat", "size": "large"},
    "media: a list of pictures": {"prompt": "a cat", "media": "cat.png"},
}


@pytest.mark.parametrize(("error", "arguments"), REFUSED_CHATS.items())
async def test_a_chat_that_cannot_be_asked_is_refused_before_anything_is_sent(websim_server, error, arguments):
    with pytest.raises(ValueError, match=error):
        await ask(**arguments)
    assert not websim_server.requests


@pytest.mark.parametrize(("error", "arguments"), REFUSED_PICTURES.items())
async def test_a_picture_that_cannot_be_asked_is_refused_before_anything_is_sent(websim_server, error, arguments):
    with pytest.raises(ValueError, match=error):
        await ask("flux", **arguments)
    assert not websim_server.requests


@pytest.mark.parametrize(
    ("model", "page"),
    [
        (None, "/@ISWEARIAMNOTADDICTEDTOPILLOW/zelos-ai-assistant"),
        ("flux", "/@ISWEARIAMNOTADDICTEDTOPILLOW/ai-image-prompt-generator"),
    ],
)
async def test_the_headers_are_g4fs_and_those_of_the_web_application(websim_server, model, page):
    await ask(model, HELLO)
    request = websim_server.requests[-1]
    ours = {
        "accept": "*/*",
        "content-type": "application/json",
        "origin": websim_server.url,
        "referer": websim_server.url + page,
        "websim-flags": "",
    }
    expected = {**DEFAULT_HEADERS, **ours}
    assert {name: request.header(name) for name in expected} == expected
    assert request.header("authorization") is None
    assert all(re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", name) for name, _ in request.headers)


@pytest.mark.parametrize("header", ['{"alg":"none"}', '{"alg":"HS256"}', '{"alg":"RS512","typ":"JWT"}', '{ "alg": 1 }'])
def test_a_token_may_have_a_header_of_any_length(header):
    encoded = base64.urlsafe_b64encode(header.encode()).rstrip(b"=").decode()
    assert Websim.is_provider_api_key(f"{encoded}.e30.c2ln")


@pytest.mark.parametrize("api_key", [JWT, {"Websim": JWT, "Other": "sk-1234"}])
async def test_a_token_of_websims_is_sent(websim_server, api_key):
    await ask(None, HELLO, api_key=api_key)
    assert websim_server.requests[-1].header("authorization") == f"Bearer {JWT}"


@pytest.mark.parametrize("api_key", [*FOREIGN_KEYS, {"Other": JWT}, None])
async def test_no_other_key_is_sent(websim_server, api_key):
    await ask(None, HELLO, api_key=api_key)
    assert websim_server.requests[-1].header("authorization") is None


async def test_a_callers_token_goes_before_that_of_the_environment(websim_server, monkeypatch):
    monkeypatch.setattr(provider, "TOKEN", f"{JWT}-of-the-environment")
    await ask(None, HELLO, api_key=JWT)
    assert websim_server.requests[-1].header("authorization") == f"Bearer {JWT}"


@pytest.mark.parametrize("model", [None, "flux"])
async def test_a_token_in_the_environment_is_sent_where_the_caller_has_none(websim_server, monkeypatch, model):
    monkeypatch.setattr(provider, "TOKEN", JWT)
    await ask(model, HELLO, api_key="sk-1234567890")
    assert websim_server.requests[-1].header("authorization") == f"Bearer {JWT}"


async def test_an_empty_list_of_pictures_changes_nothing(websim_server):
    await ask(None, HELLO, media=[])
    assert websim_server.requests[-1].json["messages"] == HELLO


def test_g4f_is_told_which_keys_are_websims():
    assert Websim.is_provider_api_key(JWT)
    assert not any(map(Websim.is_provider_api_key, FOREIGN_KEYS))
