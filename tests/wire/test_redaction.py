"""Redaction: secrets and control characters are removed from text that is shown."""

import pytest

from g4f_websim.wire.redaction import MAX_SEARCHED_CHARS, excerpt, html_title, is_html, redact
from tests.support.calls import JWT
from tests.support.responses import CHALLENGE_PAGE

EMAIL = "ann.b+c@example.co.uk"


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        (f"token {JWT} is over", "token *** is over"),
        (f'"Bearer\\n{JWT}"', '"Bearer\\n***"'),
        (f'{{"email": "{EMAIL}"}}', '{"email": "***"}'),
        ('"ann\\u0040example.com" ann%40example.com', '"***" ***'),
        ("your key my-key-1 is wrong", "your key *** is wrong"),
        (f"proxy http://ann:{'%C3%BC' * 90}@host:80 failed", "proxy http://host:80 failed"),
        (f'{{"url":"http://host","email":"{EMAIL}"}}', '{"url":"http://host","email":"***"}'),
    ],
    ids=[
        "token",
        "token after an escaped line break",
        "e-mail",
        "encoded e-mail",
        "given secret",
        "login in a URL",
        "e-mail after a URL",
    ],
)
def test_redacts_secrets(text, redacted):
    assert redact(text, ["my-key-1"]) == redacted


@pytest.mark.parametrize("length", range(8, len(JWT)))
def test_redacts_truncated_token(length):
    assert redact(f"truncated {JWT[:length]}") == "truncated ***"


def test_redacts_longer_secret_before_its_part():
    assert redact("password and pass", ["pass", "password"]) == "*** and ***"


def test_ignores_empty_secret():
    assert redact("text", [""]) == "text"


@pytest.mark.parametrize(
    "secret",
    [JWT, EMAIL, EMAIL.replace("@", "\\u0040"), f"{'a' * 64}@{'b' * 80}"],
    ids=["token", "e-mail", "escaped e-mail", "long e-mail"],
)
@pytest.mark.parametrize("visible_chars", [1, 7, 8, 10, 13, 14, 30, 64, 65, 66, 144])
def test_redacts_secret_truncated_by_search_limit(secret, visible_chars):
    text = " " * (MAX_SEARCHED_CHARS - visible_chars) + secret + " " * 9_000
    redacted = redact(text)
    assert redacted in ("", "***")


def test_redacts_given_secret_at_search_limit():
    text = " " * (MAX_SEARCHED_CHARS - 3) + "my-key-1 and more"
    assert "my" not in redact(text, ["my-key-1"])


@pytest.mark.parametrize("visible_chars", range(1, 22))
def test_redacts_given_secret_of_several_words_at_search_limit(visible_chars):
    secret = "mark/mark: mark mark!"
    text = " " * (MAX_SEARCHED_CHARS + len(secret) - visible_chars) + secret + " more" * 9
    assert redact(text, [secret]) in ("", "***")


def test_searches_a_large_text_up_to_the_limit():
    assert redact("my-key-1 " * 4_000_000, ["my-key-1", "a key of twenty chars"]).count("***") < MAX_SEARCHED_CHARS


def test_leaves_no_part_of_a_secret_where_shorter_text_ends():
    # Ten thousand secrets become three characters each, so the text after the limit would come into view.
    assert "my" not in redact("my-key-1" * 10_000, ["my-key-1"])


@pytest.mark.parametrize("character", ["\x1b", "\x00", "\x9b", "\u202e", "\ud800", "\x07"])
def test_removes_control_characters(character):
    assert redact(f"a{character}b") == "a b"


def test_joins_lines():
    assert redact("two\n  lines\r\n") == "two lines"


def test_excerpt_keeps_short_text():
    assert excerpt("a short text", [], 12) == "a short text"


@pytest.mark.parametrize("max_chars", [1, 20, 120])
def test_excerpt_shortens_long_text(max_chars):
    shortened = excerpt("word " * 1000, [], max_chars)
    assert len(shortened) <= max_chars
    assert shortened.endswith("…")


def test_excerpt_redacts_before_it_shortens():
    assert excerpt(f"token {JWT}", [], 20) == "token ***"


def test_excerpt_of_html_page_is_its_title():
    assert excerpt(CHALLENGE_PAGE, [], 120) == "an HTML page: <title>Just a moment...</title>"


def test_excerpt_redacts_title():
    assert excerpt(f"<html><title>{EMAIL}</title>", [], 120) == "an HTML page: <title>***</title>"


def test_excerpt_of_html_page_without_title_says_html_page():
    assert excerpt("<html><body>Hi</body></html>", [], 120) == "an HTML page"


@pytest.mark.parametrize(
    "body", [CHALLENGE_PAGE, "\n <HTML><body>Hi</body></HTML>", "<head>", "<!doctype HTML>", "<!-- a\nb -->\n<html>"]
)
def test_recognizes_html_page(body):
    assert is_html(body)


@pytest.mark.parametrize("body", ["", "a < b, and <p> is a tag", "<htmlx>", '{"content": "<html>"}'])
def test_other_text_is_not_html_page(body):
    assert not is_html(body)


def test_html_title_may_span_lines():
    assert html_title("<html><TITLE>\nHi\n</TITLE>") == ": <TITLE>\nHi\n</TITLE>"


def test_html_title_is_searched_up_to_limit():
    title = "<title>Hi</title>"
    assert html_title(title.rjust(MAX_SEARCHED_CHARS)) == f": {title}"
    assert html_title(" " * MAX_SEARCHED_CHARS + title) == ""
