"""Response bodies: the text of a chat, JSON in a text, the URL of an image, and bodies that contain none of these."""

import json
import sys
import time
import tracemalloc
from contextlib import suppress
from functools import partial

import pytest

from g4f_websim.errors import NoMediaResponseError, Reason, ResponseError
from g4f_websim.wire.response import UnexpectedBodyError, chat_text, decode, error_words, image_url, json_text
from tests.support.calls import PNG_URI

SITE = "https://websim.com"
read_image = partial(image_url, site=SITE)

# Each row: body, text.
CHAT_BODIES = {
    "plain": (b'{"role": "assistant", "content": "Hi", "usage": null, "x": [1]}', "Hi"),
    "surrounded by blanks": (b' \r\n\t{"content": " \\n Hi there \\t"} \n', "Hi there"),
    "JSON in the content": (b'{"content": "{\\"a\\": 1}"}', '{"a": 1}'),
    "duplicate keys": (b'{"content": "first", "content": "last"}', "last"),
    "integer of 5000 digits": (b'{"content": "a\\u0000b", "n": ' + b"1" * 5000 + b"}", "a\0b"),
    "numbers that are no JSON": (b'{"a": 1e999999, "b": NaN, "content": "Hi"}', "Hi"),
    "lone surrogate": (b'{"content": "\\ud83c\\udf0d and \\ud83c."}', "🌍 and \ufffd."),
    "byte order mark": (b'\xef\xbb\xbf{"content": "Hi"}', "Hi"),
    "UTF-16": ('{"content": "é"}'.encode("utf-16"), "é"),
    "UTF-16 without a byte order mark": ('{"content": "é"}'.encode("utf-16-le"), "é"),
    "UTF-32": ('{"content": "é"}'.encode("utf-32"), "é"),
    "nested deeply": (b'{"content": "Hi", "deep": ' + b"[" * 500 + b"]" * 500 + b"}", "Hi"),
    "words about a rate limit": (b'{"content": "Rate limit exceeded means"}', "Rate limit exceeded means"),
    "body that is text": (b" just text, no JSON ", "just text, no JSON"),
    "body that is text with a tag": (b"a < b, and <p> is a tag", "a < b, and <p> is a tag"),
}


@pytest.mark.parametrize(("body", "text"), CHAT_BODIES.values(), ids=CHAT_BODIES)
def test_reads_chat_text(body, text):
    assert chat_text(decode(body, None)) == text


def test_reads_image_url():
    for url in ("https://example.com/a.png", "http://example.com/ä?b=c"):
        assert read_image(json.dumps({"url": url})) == url
    assert read_image('{"url": "/images/a.png"}') == f"{SITE}/images/a.png"
    assert read_image('{"url": "//cdn.example.com/a.png"}') == "https://cdn.example.com/a.png"


def test_data_uri_is_not_kept_in_a_cache():
    unique = f"{PNG_URI}not+kept"
    url = read_image(json.dumps({"url": unique}))
    assert url == unique
    assert sys.getrefcount(url) == sys.getrefcount(unique)


NO_JSON_OBJECT = ("[]", "7", "null", '"Hi"', "[" * 200_000)
PAGES = (
    "<!DOCTYPE html><html>Hi",
    "\n <HTML>Hi",
    "<title>Hi</title>",
    "<!-- a -->\n<!-- b -->\n<p>Hi",
    "<?xml v='1'?>",
)
EVENT_STREAMS = (
    "data: {}",
    'data: {"content": "Hi"}\n\ndata: [DONE]\n',
    "\r\n\r\nevent: message\r\nid: 1\r\ndata: Hi\r\n",
    ": " + "padding " * 200 + "\n\nretry: 10\ndata:x",
)
FIELDS = {
    "{}": "none",
    '{"choices": [], "usage": null}': "choices, usage",
    json.dumps(dict.fromkeys("abcdefghijkl")): "a, b, c, d, e, f, g, h",
}

# Each row: reason, summary with FIELD for the name of the field, bodies of chats and images.
UNUSABLE = [
    (Reason.API_CHANGED, "a response that is not a JSON object with the field FIELD", NO_JSON_OBJECT),
    (
        Reason.API_CHANGED,
        "a response whose field FIELD is not text",
        ('{"FIELD": 7}', '{"FIELD": []}', '{"FIELD": {}}'),
    ),
    *(
        (Reason.API_CHANGED, f"a response without the field FIELD; its fields: {names}", (body,))
        for body, names in FIELDS.items()
    ),
    (Reason.API_CHANGED, "an event stream instead of JSON", EVENT_STREAMS),
    (Reason.API_MOVED, "something other than the API responded", PAGES),
    (Reason.BROKEN_RESPONSE, "the response broke off", ('{"FIELD": "Hi', "{", '\n{"role": "assistant", ')),
]
UNUSABLE_CHATS = [
    (Reason.NO_CONTENT, "a response without content", ("", " ", '{"FIELD": " \\n "}', '{"FIELD": null}')),
    (
        Reason.BROKEN_RESPONSE,
        "a response that is not text",
        ("Hi\x00", "\x1b[31mred", "a\x7fb", "a\x9bb", "caf\udce9", "\x1f\x8b\x08"),
    ),
    (Reason.RATE_LIMITED, "too many requests", ("Error: Rate limit exceeded.\n",)),
]
URLS_OF_NO_IMAGE = [
    *(None, "", " ", "\0", "ftp://example.com/a.png", "file:///a.png", "javascript:alert(1)", "data:text/html,Hi"),
    *("a.png", "https://", "https://[", "//[", "https://example.com/a b", "https://example.com/\n"),
    # Its normal form contains a slash in the host.
    "//\u2100.example/a.png",
    # A lone surrogate, and a character that reverses the text after it.
    *("https://example.com/\ud83c", "https://example.com/\u202ea.png"),
]
UNUSABLE_IMAGES = [
    (Reason.NO_CONTENT, "a response without an image", ("", "https://example.com/a.png")),
    (Reason.NO_CONTENT, "a response without an image", [json.dumps({"url": url}) for url in URLS_OF_NO_IMAGE]),
]


@pytest.mark.parametrize(
    ("read", "field", "kind", "rows"),
    [
        (chat_text, "content", ResponseError, UNUSABLE + UNUSABLE_CHATS),
        (read_image, "url", NoMediaResponseError, UNUSABLE + UNUSABLE_IMAGES),
    ],
    ids=["chat", "image"],
)
def test_says_why_a_response_cannot_be_used(read, field, kind, rows):
    for reason, summary, bodies in rows:
        for body in bodies:
            with pytest.raises(UnexpectedBodyError) as raised:
                read(body.replace("FIELD", field))
            expected = (body, reason, summary.replace("FIELD", field), kind)
            assert (body, raised.value.reason, raised.value.summary, raised.value.kind) == expected


@pytest.mark.parametrize(
    ("body", "charset", "text"),
    [
        ("Привет".encode("cp1251"), "windows-1251", "Привет"),
        ("é€".encode("cp1252"), "Windows-1252", "é€"),
        ("日本".encode("shift_jis"), "Shift_JIS", "日本"),
        ("日本".encode("gb18030"), "gb18030", "日本"),
        ("é".encode("utf-16"), None, "é"),
        ("é".encode("utf-16-be"), "utf-16-be", "é"),
        (b"\xef\xbb\xbfHi", None, "Hi"),
        ("é".encode(), None, "é"),
        ("é".encode(), "", "é"),
        *(("é".encode(), name, "é") for name in ("no-such-charset", "rot13", "base64", "a\0b", "é" * 9)),
        *((b"a-e1a", name, "a-e1a") for name in ("punycode", "idna", "unicode_escape", "raw-unicode-escape")),
        (b"a-e1a", "undefined", "a-e1a"),
        (b"{\xc3\xa9}", "windows-1251", "{é}"),
        (b"caf\xe9", None, "caf\udce9"),
        (b"caf\xe9", "ascii", "caf\udce9"),
        (b"\xd8\x00\x00", "utf-16-le", "\udcd8\0\0"),
    ],
)
def test_decodes_text_in_its_own_charset_and_json_in_utf_8(body, charset, text):
    assert decode(body, charset) == text


# Each row: text of a chat, the JSON in it.
JSON_TEXTS = {
    "object": ('{"a": 1}', '{"a": 1}'),
    "array": ("[1, 2]", "[1, 2]"),
    "scalar": ("42", "42"),
    "string": ('"a ```json {} ``` b"', '"a ```json {} ``` b"'),
    "fence": ('```json\n{"a": 1}\n```', '{"a": 1}'),
    "tildes": ('~~~\n{"a": 1}\n~~~', '{"a": 1}'),
    "fence without a language": ("```\n[1]\n```", "[1]"),
    "fence in one line": ('```{"a": 1}```', '{"a": 1}'),
    "words around a fenced scalar": ("Sure:\n```json\n42\n```\nBye.", "42"),
    "unclosed fence": ('```json\n{"a": 1}', '{"a": 1}'),
    "words after": ('{"a": 1}\nI hope that helps [sic] {you}!', '{"a": 1}'),
    "words around a fence": ('Here [as requested]:\n\n```json\n{"a": [1]}\n```\nAnything else?', '{"a": [1]}'),
    "fence in a string": ('Sure:\n```json\n{"a": "```\\nx\\n```"}\n```', '{"a": "```\\nx\\n```"}'),
    "reference before": ('As [1] says: {"a": {"b": 2}}', '{"a": {"b": 2}}'),
    "reference after": ('{"a": {"b": 2}}, as [1] says', '{"a": {"b": 2}}'),
    "indented fence": ('  ```json\r\n  {"a":\r\n 1}\r\n  ```  ', '{"a":\r\n 1}'),
    "number of 5000 digits": ("So: [" + "1" * 5000 + "]", "[" + "1" * 5000 + "]"),
    "words": ("I cannot do that.", "I cannot do that."),
    "words in braces": ("Use {name} or [x].", "Use {name} or [x]."),
    "truncated": ('{"a": {"b": 1}, "c": [1], "d', '{"a": {"b": 1}, "c": [1], "d'),
    "truncated in a fence": ('```json\n{"a": {"b": 1}, "c": ', '```json\n{"a": {"b": 1}, "c": '),
    "no JSON in a fence": ('```json\n{"a": oops}\n```', '```json\n{"a": oops}\n```'),
    "empty": ("", ""),
    "nested too deeply": ("So: " + "[" * 100_000, "So: " + "[" * 100_000),
}


@pytest.mark.parametrize(("content", "text"), JSON_TEXTS.values(), ids=JSON_TEXTS)
def test_removes_fence_and_words_around_json(content, text):
    assert json_text(content) == text


MIB = 1024 * 1024
MAX_BODY_CHARS = 32 * MIB
MAX_PARSED_CHARS = MIB // 2

# Each row: what reads the body, its length, its beginning, and what is repeated up to that length.
LARGE_BODIES = {
    "empty lists": (chat_text, MAX_BODY_CHARS, "[", "[],"),
    "empty lists in an object": (chat_text, MAX_BODY_CHARS, '{"x": [', "[],"),
    "many contents": (chat_text, MAX_BODY_CHARS, '{"x": [', '{"content": "a"},'),
    "nested lists": (chat_text, MAX_BODY_CHARS, "", "["),
    "nested objects": (chat_text, MAX_BODY_CHARS, "", '{"content":'),
    "words": (chat_text, MAX_BODY_CHARS, "", "credits "),
    "blanks": (chat_text, MAX_BODY_CHARS, "", " "),
    "line ends": (chat_text, MAX_BODY_CHARS, "", "\n"),
    "comments": (chat_text, MAX_BODY_CHARS, "", "<!--"),
    "events": (chat_text, MAX_BODY_CHARS, "", "event:\n"),
    "escapes": (chat_text, MAX_BODY_CHARS, '{"content": "', "\\n"),
    "path": (read_image, MAX_BODY_CHARS, '{"url": "', "/"),
    "image": (read_image, MAX_BODY_CHARS, '{"url": "data:image/png;base64,', "A"),
    "lists of an error": (error_words, MAX_BODY_CHARS, "[", "[],"),
    "words with JSON": (json_text, MAX_BODY_CHARS, "", "[[],"),
    "lists in a body that is parsed": (chat_text, MAX_PARSED_CHARS, "[", "[],"),
    "numbers in an error that is parsed": (error_words, MAX_PARSED_CHARS, "[", "1,"),
    "strings in a body that is parsed": (read_image, MAX_PARSED_CHARS, '{"x": [', '"ab",'),
    "lists in a text": (json_text, MAX_PARSED_CHARS, "", "[[],[],"),
    "objects in a text": (json_text, MAX_PARSED_CHARS, "", "so: {} "),
    "fences in a text": (json_text, MAX_PARSED_CHARS, "", "```"),
    "starts in a text": (json_text, MAX_PARSED_CHARS, "", '["x['),
    "blanks in a fence": (json_text, MAX_PARSED_CHARS, "```", " "),
}


@pytest.mark.parametrize(("read", "length", "start", "repeated"), LARGE_BODIES.values(), ids=LARGE_BODIES)
def test_reading_any_body_takes_little_time_and_memory(read, length, start, repeated):
    body = (start + repeated * (length // len(repeated)))[: length - 2]
    body += {"{": '"}', "[": "0]"}.get(start[:1], "")
    started = time.process_time()
    tracemalloc.start()
    with suppress(UnexpectedBodyError):
        read(body)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 200 * MIB
    # tracemalloc makes it several times slower.
    assert time.process_time() - started < 5


def test_reads_large_text_and_large_image():
    text, uri = "words, [and] {more} " * MIB, PNG_URI + "A" * (20 * MIB)
    body = json.dumps({"role": "assistant", "content": text, "usage": {"tokens": [1]}})
    assert chat_text(body) == text.strip()
    assert read_image(json.dumps({"id": 1, "url": uri})) == uri
    with pytest.raises(UnexpectedBodyError, match="its fields: choices$"):
        chat_text(json.dumps({"choices": [{"content": text}]}))
