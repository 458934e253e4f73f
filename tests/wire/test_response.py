"""Response bodies: the text of a chat, the URL of an image, and bodies that contain neither."""

import json
import sys

import pytest
from g4f.errors import NoMediaResponseError, ResponseError

from g4f_websim.transport.causes import Reason, UnexpectedBodyError
from g4f_websim.wire.response import chat_text, image_url
from tests.support.calls import PNG_URI

SITE = "https://websim.com"
DEEP_JSON = pytest.param("[" * 200_000, id="nested too deeply")
PAGE = "<!DOCTYPE html><html><head><title>Sign in to the network</title></head><body>Hello</body></html>"


def cause_of(read, body):
    with pytest.raises(UnexpectedBodyError) as raised:
        read(body)
    return raised.value.cause


def image_cause(body):
    cause = cause_of(lambda body: image_url(body, SITE), body)
    assert cause.error is NoMediaResponseError
    return cause


def chat_cause(body):
    cause = cause_of(chat_text, body)
    assert cause.error is ResponseError
    return cause


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
    assert cause.advice == "try other words, try again later or use another provider"


@pytest.mark.parametrize("body", ["[]", "7", "null", '"Hi"', DEEP_JSON])
def test_chat_response_that_is_not_an_object_is_a_changed_api(body):
    cause = chat_cause(body)
    assert cause.reason is Reason.API_CHANGED
    assert cause.summary == "a response that is not a JSON object with the field content"


def test_body_that_is_text_about_a_rate_limit_is_a_rate_limit():
    assert cause_of(chat_text, "Error: Rate limit exceeded.\n").reason is Reason.RATE_LIMITED
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
    assert chat.advice == image.advice
    assert chat.advice.startswith("the API may have changed: look for a newer version of g4f-websim")


@pytest.mark.parametrize("page", [PAGE, "\n <HTML><body>Hi</body></HTML>"], ids=["with a title", "without a title"])
def test_html_page_is_not_a_response_of_the_api(page):
    chat, image = chat_cause(page), image_cause(page)
    assert chat.reason is image.reason is Reason.API_MOVED
    assert chat.summary == image.summary == "something other than the API responded"
    assert chat.advice == image.advice
    assert "WEBSIM_URL is wrong" in chat.advice
    assert chat.advice.endswith("run g4f-websim check")


@pytest.mark.parametrize("body", ['{"content": "Hi', "{", '\n{"role": "assistant", '])
def test_truncated_json_is_a_broken_response(body):
    cause = chat_cause(body)
    assert (cause.reason, cause.summary) == (Reason.BROKEN_RESPONSE, "the response broke off")


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
    assert (cause.reason, cause.error) == (Reason.API_CHANGED, NoMediaResponseError)
    assert cause.summary == "a response that is not a JSON object with the field url"


@pytest.mark.parametrize("url", ["7", '["https://example.com/a.png"]'])
def test_image_response_whose_url_is_not_text_is_a_changed_api(url):
    cause = image_cause(f'{{"url": {url}}}')
    assert (cause.reason, cause.error) == (Reason.API_CHANGED, NoMediaResponseError)
    assert cause.summary == "a response whose field url is not text"


def test_truncated_image_response_is_a_broken_response():
    cause = image_cause('{"url": "https://exam')
    assert (cause.reason, cause.error) == (Reason.BROKEN_RESPONSE, NoMediaResponseError)
