"""Messages: what conversations of OpenAI's, Anthropic's and g4f's forms say, in Websim's form."""

import json

import pytest

from g4f_websim.wire.messages import normalize, without_empty
from tests.support.calls import HELLO, PNG, PNG_URI, matching

IMAGE_PART = {"type": "image_url", "image_url": {"url": PNG_URI}}
PNG_DATA = PNG_URI.partition(",")[2]


def sent(*messages):
    return without_empty(normalize(list(messages)))


def content_of(content, role="user", **fields):
    """Return the content that is sent for one message, after a call of the tool `add` with the id `call_1`."""
    call = {"id": "call_1", "function": {"name": "add", "arguments": "{}"}}
    _, message = sent({"role": "assistant", "tool_calls": [call]}, {"role": role, "content": content, **fields})
    assert message.keys() == {"role", "content"}
    return message["content"]


def text(value):
    return {"type": "text", "text": value}


@pytest.mark.parametrize(
    ("role", "role_sent"),
    [
        *[("developer", "system"), ("tool", "user"), ("function", "user"), ("assistant", "assistant")],
        *[("system", "system"), ("user", "user"), ("User", "user"), ("SYSTEM", "system")],
    ],
)
def test_maps_roles(role, role_sent):
    assert sent({"role": role, "content": "a"}) == [{"role": role_sent, "content": "a"}]


def test_drops_other_fields_of_messages():
    assert sent({**HELLO[0], "name": "Ann", "tool_call_id": "7", "id": 1}) == HELLO


@pytest.mark.parametrize(
    "message",
    [
        *[{"content": content} for content in (None, "", [], [text("")], [None])],
        *[{"content": None, "tool_calls": empty} for empty in (None, [], ())],
        *[{"refusal": None, "audio": {"id": "1"}, "function_call": None}, {"role": "tool", "tool_call_id": "1"}],
    ],
    ids=repr,
)
def test_drops_message_that_says_nothing(message):
    assert sent({"role": "assistant", **message}, *HELLO) == HELLO


def test_keeps_text_and_image_parts_without_other_fields():
    parts = [
        {"type": "text", "text": "What is this?", "cache_control": {}},
        {"type": "image_url", "image_url": {"url": PNG_URI, "detail": "high"}},
        {"type": "image_url", "image_url": PNG_URI},
    ]
    assert content_of(parts) == [text("What is this?"), IMAGE_PART, IMAGE_PART]


CALLS = {
    "OpenAI": {"id": "call_2", "type": "function", "function": {"name": "sum", "arguments": '{"a": 1}'}},
    "custom tool": {"id": "call_2", "type": "custom", "custom": {"name": "sum", "input": '{"a": 1}'}},
    "LangChain": {"id": "call_2", "type": "tool_call", "name": "sum", "args": {"a": 1}},
    "Anthropic": {"id": "call_2", "type": "tool_use", "name": "sum", "input": {"a": 1}},
}
CALL_TEXT = 'Called the tool sum (call_2): {"a": 1}'


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("content", [None, "", "Let me see.", [text("Let me see.")]], ids=repr)
def test_renders_tool_calls(call, content):
    rendered = content_of(content, "assistant", tool_calls=[call, call])
    calls = f"{CALL_TEXT}\n{CALL_TEXT}"
    if isinstance(content, list):
        assert rendered == [*content, text(calls)]
    else:
        assert rendered == (f"{content}\n\n{calls}" if content else calls)


SAID = {
    "refusal": ({"refusal": "I cannot."}, "I cannot."),
    "audio": ({"audio": {"id": "1", "data": "AA", "transcript": "Hi there"}}, "Hi there"),
    "function_call": ({"function_call": {"name": "sum", "arguments": "{}"}}, "Called the tool sum: {}"),
    "call without arguments": ({"tool_calls": [{"function": {"name": "now"}}]}, "Called the tool now: "),
    "call without a name": ({"tool_calls": [{"id": "7", "function": {}}]}, "Called the tool 7: "),
    "refusal and call": ({"refusal": "No.", "tool_calls": [CALLS["OpenAI"]]}, f"No.\n{CALL_TEXT}"),
    "arguments of another alphabet": (
        {"tool_calls": [{"function": {"name": "say", "arguments": {"word": "мир"}}}]},
        'Called the tool say: {"word": "мир"}',
    ),
}


@pytest.mark.parametrize(("fields", "said"), SAID.values(), ids=SAID)
def test_renders_what_stands_outside_of_content(fields, said):
    assert content_of(None, "assistant", **fields) == said
    assert content_of("Well.", "assistant", **fields) == f"Well.\n\n{said}"


@pytest.mark.parametrize(
    ("fields", "head"),
    [
        ({"tool_call_id": "call_1"}, "Result of the tool add (call_1):"),
        ({"tool_call_id": "call_9"}, "Result of the tool call_9:"),
        ({"tool_call_id": "call_9", "name": "sum"}, "Result of the tool sum (call_9):"),
        ({"role": "function", "name": "sum"}, "Result of the tool sum:"),
    ],
    ids=repr,
)
def test_result_names_its_tool(fields, head):
    fields = {"role": "tool", **fields}
    assert content_of("42", **fields) == f"{head}\n42"
    assert content_of([text("42"), IMAGE_PART], **fields) == [text(head), text("42"), IMAGE_PART]


RESULT = {"type": "tool_result", "tool_use_id": "call_1"}
PARTS = {
    "input_text": ({"type": "input_text", "text": "a"}, [text("a")]),
    "output_text": ({"type": "output_text", "text": "a", "annotations": []}, [text("a")]),
    "refusal": ({"type": "refusal", "refusal": "No."}, [text("No.")]),
    "thinking": ({"type": "thinking", "thinking": "Hm.", "signature": "x"}, [text("Hm.")]),
    "input_image": ({"type": "input_image", "image_url": PNG_URI}, [IMAGE_PART]),
    "bytes as an image": ({"type": "image_url", "image_url": {"url": PNG}}, [IMAGE_PART]),
    "Anthropic's image": (
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG_DATA}},
        [IMAGE_PART],
    ),
    "Anthropic's image URL": ({"type": "image", "source": {"type": "url", "url": PNG_URI}}, [IMAGE_PART]),
    "LangChain's image": ({"type": "image", "base64": PNG_DATA, "mime_type": "image/png"}, [IMAGE_PART]),
    "LangChain's image URL": ({"type": "image", "url": PNG_URI}, [IMAGE_PART]),
    "tool_use": (CALLS["Anthropic"], [text(CALL_TEXT)]),
    "tool_call": (CALLS["LangChain"], [text(CALL_TEXT)]),
    "tool_result": ({**RESULT, "content": "42"}, [text("Result of the tool add (call_1):\n42")]),
    "tool_result of parts": (
        {**RESULT, "content": [text("42"), IMAGE_PART]},
        [text("Result of the tool add (call_1):"), text("42"), IMAGE_PART],
    ),
}


@pytest.mark.parametrize(("part", "rendered"), PARTS.values(), ids=PARTS)
def test_renders_parts_of_other_clients(part, rendered):
    assert content_of([part]) == rendered


def test_renders_texts_and_buckets_of_g4f(monkeypatch, tmp_path):
    monkeypatch.setattr("g4f.cookies.CookiesConfig.cookies_dir", str(tmp_path))
    bucket = tmp_path / "buckets" / "mine"
    (bucket / "media").mkdir(parents=True)
    (bucket / "media" / "cat.png").write_bytes(PNG)
    (bucket / "plain.cache").write_text("the text of a file", encoding="utf-8")
    image = {"bucket_id": "mine", "name": "cat.png", "url": "/files/mine/cat.png"}
    parts = [{"text": "Look: "}, image, {"bucket_id": "mine"}]
    assert content_of(parts) == [text("Look: "), IMAGE_PART, text("the text of a file")]


@pytest.mark.parametrize(
    ("bad", "good"),
    [("lone \ud83d end", "lone \ufffd end"), ("\udc00\ud83d\ude00 pair", "\ufffd😀 pair"), ("\ude00", "\ufffd")],
    ids=ascii,
)
def test_replaces_surrogates_everywhere(bad, good):
    call = {"id": bad, "function": {"name": bad, "arguments": {bad: bad}}}
    conversation = sent(
        {"role": "user", "content": bad},
        {"role": "user", "content": [text(bad), {"type": "refusal", "refusal": bad}]},
        {"role": "assistant", "content": None, "refusal": bad, "tool_calls": [call]},
        {"role": "tool", "content": bad, "name": bad},
    )
    encoded = json.dumps(conversation, ensure_ascii=False).encode().decode()
    assert bad not in encoded
    assert encoded.count(good) == 10


PART = "messages[0].content[0]"
PART_TYPE = f"{PART}.type: one of text, .*"
CALL = "messages[0].tool_calls[0]: a dict, as in "
# Each row: the messages or the content of one message, the beginning of the error.
REJECTED_MESSAGES = [
    ("Hello", "messages: a list of dicts, as in .* not 'Hello'"),
    (["Hello"], "messages[0]: a dict .* not 'Hello'"),
    ([{"content": "Hello"}], "messages[0]: .* a role, one of user"),
    ([*HELLO, {"role": "bot", "content": "a"}], "messages[1]: .* a role, one of user, assistant, .* not .*'bot'"),
    ([{"role": [], "content": "a"}], "messages[0]: .* a role, one of .* not .*[]"),
    ([{"role": "assistant", "tool_calls": "add"}], "messages[0].tool_calls: a list of dicts, "),
    ([{"role": "assistant", "tool_calls": ["add"]}], CALL),
    ([{"role": "assistant", "tool_calls": [{"function": "add"}]}], CALL),
    (
        [{"role": "assistant", "function_call": {"name": "add", "arguments": {(1, 2): 3}}}],
        "messages[0].function_call: a call with arguments that JSON can express, not ",
    ),
    ([{"role": "assistant", "refusal": 7}], "messages[0].refusal: text, not 7"),
]
REJECTED_CONTENTS = [
    (b"a", "messages[0].content: text or a list of parts, not b'a'"),
    (["a"], f"{PART}: a dict, as in .* not 'a'"),
    ([{"type": "text", "text": 1}], f"{PART}.text: text, not 1"),
    ([{"type": "input_audio"}], f"{PART_TYPE} not 'input_audio'"),
    ([{"type": "file", "image_url": PNG_URI}], f"{PART_TYPE} not 'file'"),
    ([{"type": "video", "text": "a"}], f"{PART_TYPE}image_url, .* 'video'"),
    ([{"type": []}], f"{PART_TYPE} not []"),
    ([{"foo": 1}], f"{PART_TYPE} not None"),
    ([{**RESULT, "content": [{"type": "video"}]}], f"{PART}.content[0].type: one of text, .* not 'video'"),
    ([{"bucket_id": "none", "name": "cat.png", "url": "/files/none/cat.png"}], f"{PART}: g4f cannot read this part"),
    (
        [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}],
        f"{PART}.image_url: an image: bytes, .* not 'file:///etc/passwd'",
    ),
]


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        *REJECTED_MESSAGES,
        *(([{"role": "user", "content": content}], message) for content, message in REJECTED_CONTENTS),
    ],
    ids=repr,
)
def test_error_names_message_and_part(messages, message):
    with pytest.raises(ValueError, match=matching(message)):
        normalize(messages)
