"""What comes back: answers, pictures, and what of a server's words an error may show."""

import json
import sys

import pytest
from g4f.errors import NoMediaResponseError, ResponseError
from g4f.providers.response import ImageResponse

from g4f_websim.emulator import Fault
from g4f_websim.response import EXCERPT_CHARS, excerpt, picture_url, scrub
from tests.support.calls import HELLO, JWT, PNG_URI, ask

PAGE = b"<!DOCTYPE html><html><head><title>Just a moment...</title></head><body>Checking</body></html>"


def answering(websim_server, body: bytes | str, **fault):
    websim_server.inject(Fault(body=body if isinstance(body, bytes) else body.encode(), **fault))


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        ('{"role": "assistant", "content": "Hi"}', "Hi"),
        ('{"content": " \\n Hi there \\t"}', "Hi there"),
        ('{"content": "{\\"a\\": 1}"}', '{"a": 1}'),
        ('{"content": "a\\u0000b", "n": ' + "1" * 5000 + "}", "a\0b"),
        ('{"content": "\\ud83c\\udf0d and \\ud83c."}', "🌍 and \ufffd."),
        ('\ufeff{"content": "Hi"}', "Hi"),
        (b'{"content": "\xff"}', "\ufffd"),
        ('{"content": "Hi"}'.encode("utf-16"), "Hi"),
        (" just text, no JSON ", "just text, no JSON"),
        ("a < b, and <p> is a tag", "a < b, and <p> is a tag"),
    ],
)
async def test_an_answer_is_one_stripped_text(websim_server, body, answer):
    answering(websim_server, body)
    assert await ask(None, HELLO) == [answer]


@pytest.mark.parametrize(
    "body",
    [
        "",
        " ",
        "{}",
        "[]",
        "7",
        "null",
        '"Hi"',
        '{"content": ""}',
        '{"content": " "}',
        '{"content": null}',
        '{"content": 7}',
    ],
)
async def test_no_content_is_an_error(websim_server, body):
    answering(websim_server, body)
    with pytest.raises(ResponseError, match=r"Response 200: an answer without content \(127.0.0.1:\d+: try again"):
        await ask(None, HELLO)


async def test_json_too_deep_to_read_is_an_error(websim_server):
    answering(websim_server, "[" * 200_000)
    with pytest.raises(ResponseError, match="an answer without content"):
        await ask(None, HELLO)


@pytest.mark.parametrize("page", [PAGE, b"\n <HTML><body>Hi</body></HTML>"])
async def test_a_web_page_is_no_answer(websim_server, page):
    answering(websim_server, page)
    with pytest.raises(ResponseError, match="an HTML page instead of an answer"):
        await ask(None, HELLO)


@pytest.mark.parametrize("url", ["https://example.com/a.png", "http://example.com/ä?b=c", PNG_URI])
async def test_a_picture_is_handed_back_by_its_address(websim_server, url):
    answering(websim_server, json.dumps({"url": url}))
    (picture,) = await ask("flux", HELLO, prompt="a cat")
    assert isinstance(picture, ImageResponse)
    assert (picture.get_list(), picture.alt) == ([url], "a cat")


def test_a_picture_that_is_its_own_address_is_not_kept_in_a_cache():
    met_nowhere_else = f"{PNG_URI}not+kept"
    url = picture_url(json.dumps({"url": met_nowhere_else}), "https://websim.com")
    assert url == met_nowhere_else
    assert sys.getrefcount(url) == sys.getrefcount(met_nowhere_else)


async def test_a_path_is_one_of_the_sites(websim_server):
    answering(websim_server, '{"url": "/pictures/a.png"}')
    (picture,) = await ask("flux", HELLO)
    assert picture.get_list() == [f"{websim_server.url}/pictures/a.png"]


@pytest.mark.parametrize(
    "body",
    [
        "",
        "{}",
        "[]",
        "https://example.com/a.png",
        PAGE.decode(),
        *(
            json.dumps({"url": url})
            for url in (
                None,
                7,
                "",
                ["https://example.com/a.png"],
                "ftp://example.com/a.png",
                "javascript:alert(1)",
                "data:text/html,Hi",
                "a.png",
                "https://",
                "https://[",
                "https://example.com/a b",
                "https://example.com/\n",
                "https://example.com/\ud83c",
            )
        ),
    ],
)
async def test_anything_else_is_no_picture(websim_server, body):
    answering(websim_server, body)
    with pytest.raises(NoMediaResponseError, match="Response 200: an answer without a picture"):
        await ask("flux", HELLO)


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (f"token {JWT} is over", "token *** is over"),
        (f"cut {JWT[:30]}", "cut ***"),
        ('{"email": "ann.b+c@example.co.uk"}', '{"email": "***"}'),
        ('"ann\\u0040example.com" ann%40example.com', '"***" ***'),
        ("your key my-key-1 is wrong", "your key *** is wrong"),
        ("two\n  lines\r\n", "two lines"),
    ],
)
def test_no_secret_is_shown(said, shown):
    assert scrub(said, ["my-key-1"]) == shown


def test_a_secret_at_the_cut_is_not_shown_in_part():
    said = " " * 9_990 + JWT + " " + "x" * 9_000
    assert excerpt(said, []) == "***"


def test_an_excerpt_is_short():
    assert len(excerpt("word " * 1000, [])) <= EXCERPT_CHARS


def test_an_excerpt_of_a_web_page_is_its_title():
    assert excerpt(PAGE.decode(), []) == "an HTML page: <title>Just a moment...</title>"
