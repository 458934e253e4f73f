"""Response bodies: the text of a chat, JSON in a text, the URL of an image, and bodies that contain none of these."""

import json
import sys
import time
import tracemalloc
from contextlib import suppress

import pytest
from g4f.errors import NoMediaResponseError, ResponseError

from g4f_websim.errors import Reason
from g4f_websim.wire.response import UnexpectedBodyError, chat_text, decode, error_words, image_url, json_text
from tests.support.calls import PNG_URI

SITE = "https://websim.com"
DEEP_JSON = pytest.param("[" * 200_000, id="nested too deeply")
PAGE = "<!DOCTYPE html><html><head><title>Sign in to the network</title></head><body>Hello</body></html>"


def image(body):
    return image_url(body, SITE)


def image_cause(body):
    with pytest.raises(UnexpectedBodyError) as raised:
        image(body)
    assert issubclass(raised.value.kind, NoMediaResponseError)
    return raised.value


def chat_cause(body):
    with pytest.raises(UnexpectedBodyError) as raised:
        chat_text(body)
    assert issubclass(raised.value.kind, ResponseError)
    return raised.value


CHAT_BODIES = {
    "plain": ('{"role": "assistant", "content": "Hi"}', "Hi"),
    "surrounded by blanks": ('{"content": " \\n Hi there \\t"}', "Hi there"),
    "JSON in the content": ('{"content": "{\\"a\\": 1}"}', '{"a": 1}'),
    "integer of 5000 digits": ('{"content": "a\\u0000b", "n": ' + "1" * 5000 + "}", "a\0b"),
    "lone surrogate": ('{"content": "\\ud83c\\udf0d and \\ud83c."}', "🌍 and \ufffd."),
    "body that is text": (" just text, no JSON ", "just text, no JSON"),
    "body that is text with a tag": ("a < b, and <p> is a tag", "a < b, and <p> is a tag"),
}


@pytest.mark.parametrize(("body", "text"), CHAT_BODIES.values(), ids=CHAT_BODIES)
def test_reads_chat_text(body, text):
    assert chat_text(body) == text


@pytest.mark.parametrize("body", ["", " ", '{"content": ""}', '{"content": " \\n "}', '{"content": null}'])
def test_empty_chat_response_has_no_content(body):
    cause = chat_cause(body)
    assert (cause.reason, cause.summary) == (Reason.NO_CONTENT, "a response without content")


@pytest.mark.parametrize("body", ["[]", "7", "null", '"Hi"', DEEP_JSON])
def test_chat_response_that_is_not_an_object_is_a_changed_api(body):
    cause = chat_cause(body)
    assert cause.reason is Reason.API_CHANGED
    assert cause.summary == "a response that is not a JSON object with the field content"


def test_body_that_is_text_about_a_rate_limit_is_a_rate_limit():
    assert chat_cause("Error: Rate limit exceeded.\n").reason is Reason.RATE_LIMITED
    assert chat_text('{"content": "Rate limit exceeded means that you sent too much."}')


@pytest.mark.parametrize("content", ["7", "[]", "{}", "true"])
def test_chat_response_whose_content_is_not_text_is_a_changed_api(content):
    cause = chat_cause(f'{{"content": {content}}}')
    assert (cause.reason, cause.summary) == (Reason.API_CHANGED, "a response whose field content is not text")


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ("{}", "none"),
        ('{"choices": [], "usage": null}', "choices, usage"),
        (json.dumps(dict.fromkeys("abcdefghijkl")), "a, b, c, d, e, f, g, h"),
    ],
    ids=["no fields", "two fields", "many fields"],
)
def test_response_without_expected_field_shows_its_fields(body, fields):
    chat, image = chat_cause(body), image_cause(body)
    assert chat.reason is image.reason is Reason.API_CHANGED
    assert chat.summary == f"a response without the field content; its fields: {fields}"
    assert image.summary == f"a response without the field url; its fields: {fields}"


@pytest.mark.parametrize(
    "page",
    [
        PAGE,
        "\n <HTML><body>Hi</body></HTML>",
        "<title>Hi</title>",
        "<!-- a -->\n<!-- b -->\n<p>Hi",
        "<?xml version='1'?><a/>",
    ],
)
def test_html_page_is_not_a_response_of_the_api(page):
    chat, image = chat_cause(page), image_cause(page)
    assert chat.reason is image.reason is Reason.API_MOVED
    assert chat.summary == image.summary == "something other than the API responded"


@pytest.mark.parametrize("body", ['{"content": "Hi', "{", '\n{"role": "assistant", '])
def test_truncated_json_is_a_broken_response(body):
    cause = chat_cause(body)
    assert (cause.reason, cause.summary) == (Reason.BROKEN_RESPONSE, "the response broke off")


EVENT_STREAMS = [
    "data: {}",
    'data: {"content": "Hi"}\n\ndata: [DONE]\n',
    "\r\n\r\nevent: message\r\nid: 1\r\ndata: Hi\r\n",
    ": " + "padding " * 200 + "\n\nretry: 10\ndata:x",
]


@pytest.mark.parametrize("body", EVENT_STREAMS)
def test_event_stream_is_a_changed_api(body):
    chat, image = chat_cause(body), image_cause(body)
    assert chat.reason is image.reason is Reason.API_CHANGED
    assert chat.summary == image.summary == "an event stream instead of JSON"


@pytest.mark.parametrize("body", ["Hi\x00", "\x1b[31mred", "a\x7fb", "a\x9bb", "caf\udce9", "\x1f\x8b\x08"])
def test_body_with_control_characters_or_invalid_bytes_is_not_text(body):
    cause = chat_cause(body)
    assert (cause.reason, cause.summary) == (Reason.BROKEN_RESPONSE, "a response that is not text")


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
        *(
            (f"é {name}".encode(), name, f"é {name}")
            for name in ("no-such-charset", "rot13", "base64", "a\0b", "é" * 9)
        ),
        *(
            (b"a-e1a", name, "a-e1a")
            for name in ("punycode", "idna", "unicode_escape", "raw-unicode-escape", "undefined")
        ),
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
    "fence in capitals": ('```JSON\n{"a": 1}\n```', '{"a": 1}'),
    "tildes": ('~~~\n{"a": 1}\n~~~', '{"a": 1}'),
    "fence without a language": ("```\n[1]\n```", "[1]"),
    "fence in one line": ('```{"a": 1}```', '{"a": 1}'),
    "fence around a scalar": ("```json\n42\n```", "42"),
    "words around a fenced scalar": ("Sure:\n```json\n42\n```\nBye.", "42"),
    "unclosed fence": ('```json\n{"a": 1}', '{"a": 1}'),
    "words before": ('Here is the JSON: {"a": 1}', '{"a": 1}'),
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

# Each row: the length, the beginning, and what is repeated up to that length.
LARGE_BODIES = {
    "empty lists": (MAX_BODY_CHARS, "[", "[],"),
    "empty lists in an object": (MAX_BODY_CHARS, '{"x": [', "[],"),
    "empty objects": (MAX_BODY_CHARS, '{"content": "", "x": [', "{},"),
    "many contents": (MAX_BODY_CHARS, '{"x": [', '{"content": "a"},'),
    "nested lists": (MAX_BODY_CHARS, "", "["),
    "nested objects": (MAX_BODY_CHARS, "", '{"content":'),
    "words": (MAX_BODY_CHARS, "", "credits "),
    "blanks": (MAX_BODY_CHARS, "", " "),
    "line ends": (MAX_BODY_CHARS, "", "\n"),
    "comments": (MAX_BODY_CHARS, "", "<!--"),
    "events": (MAX_BODY_CHARS, "", "event:\n"),
    "fences": (MAX_BODY_CHARS, "", "```"),
    "escapes": (MAX_BODY_CHARS, '{"content": "', "\\n"),
    "path": (MAX_BODY_CHARS, '{"url": "', "/"),
    "image": (MAX_BODY_CHARS, '{"url": "data:image/png;base64,', "A"),
    "lists in a body that is parsed": (MAX_PARSED_CHARS, "[", "[],"),
    "numbers in a body that is parsed": (MAX_PARSED_CHARS, "[", "1,"),
    "strings in a body that is parsed": (MAX_PARSED_CHARS, '{"x": [', '"ab",'),
    "lists in a text": (MAX_PARSED_CHARS, "", "[[],[],"),
    "starts in a text": (MAX_PARSED_CHARS, "", '["x['),
    "blanks in a fence": (MAX_PARSED_CHARS, "```", " "),
}


@pytest.mark.parametrize("read", [chat_text, image, error_words, json_text])
@pytest.mark.parametrize(("length", "start", "repeated"), LARGE_BODIES.values(), ids=LARGE_BODIES)
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
    assert image(json.dumps({"id": 1, "url": uri})) == uri
    assert chat_cause(json.dumps({"choices": [{"content": text}]})).summary.endswith("its fields: choices")


@pytest.mark.parametrize(
    "url", ["https://example.com/a.png", "http://example.com/ä?b=c", PNG_URI], ids=["https", "http", "data"]
)
def test_reads_image_url(url):
    assert image_url(json.dumps({"url": url}), SITE) == url


@pytest.mark.parametrize(
    ("path", "url"),
    [("/images/a.png", f"{SITE}/images/a.png"), ("//cdn.example.com/a.png", "https://cdn.example.com/a.png")],
)
def test_resolves_image_path_against_site(path, url):
    assert image_url(json.dumps({"url": path}), SITE) == url


def test_data_uri_is_not_kept_in_a_cache():
    unique = f"{PNG_URI}not+kept"
    url = image_url(json.dumps({"url": unique}), SITE)
    assert url == unique
    assert sys.getrefcount(url) == sys.getrefcount(unique)


NOT_IMAGE_URLS = {
    "null": None,
    "empty": "",
    "blank": " ",
    "NUL": "\0",
    "ftp": "ftp://example.com/a.png",
    "file": "file:///a.png",
    "script": "javascript:alert(1)",
    "data of a page": "data:text/html,Hi",
    "relative path": "a.png",
    "no host": "https://",
    "malformed host": "https://[",
    "malformed host without a scheme": "//[",
    "host whose normal form contains a slash": "//\u2100.example/a.png",
    "space": "https://example.com/a b",
    "line end": "https://example.com/\n",
    "lone surrogate": "https://example.com/\ud83c",
    "right-to-left override": "https://example.com/\u202ea.png",
}


@pytest.mark.parametrize("url", NOT_IMAGE_URLS.values(), ids=NOT_IMAGE_URLS)
def test_rejects_other_image_urls(url):
    cause = image_cause(json.dumps({"url": url}))
    assert (cause.reason, cause.summary) == (Reason.NO_CONTENT, "a response without an image")


@pytest.mark.parametrize("body", ["", "https://example.com/a.png"])
def test_image_response_that_is_not_json_contains_no_image(body):
    assert image_cause(body).summary == "a response without an image"


@pytest.mark.parametrize("body", ["[]", "7", DEEP_JSON])
def test_image_response_that_is_not_an_object_is_a_changed_api(body):
    cause = image_cause(body)
    assert cause.reason is Reason.API_CHANGED
    assert cause.summary == "a response that is not a JSON object with the field url"


@pytest.mark.parametrize("url", ["7", '["https://example.com/a.png"]'])
def test_image_response_whose_url_is_not_text_is_a_changed_api(url):
    cause = image_cause(f'{{"url": {url}}}')
    assert cause.reason is Reason.API_CHANGED
    assert cause.summary == "a response whose field url is not text"


def test_truncated_image_response_is_a_broken_response():
    cause = image_cause('{"url": "https://exam')
    assert cause.reason is Reason.BROKEN_RESPONSE
