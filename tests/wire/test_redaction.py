"""Redaction: secrets and control characters are removed from text that is shown."""

import pytest

from g4f_websim.wire.redaction import MAX_SEARCHED_CHARS, excerpt, is_html, redact
from tests.support.calls import JWT
from tests.support.responses import CHALLENGE_PAGE

EMAIL = "ann.b+c@example.co.uk"
SECRETS = ["pass", "my-key-1", "password", ""]

# Each row: text, redacted text.
TEXTS = {
    "token": (f"token {JWT} is over", "token *** is over"),
    "token after an escaped line break": (f'"Bearer\\n{JWT}"', '"Bearer\\n***"'),
    "encoded e-mail": ('"ann\\u0040example.com" ann%40example.com', '"***" ***'),
    "given secret": ("your key my-key-1 is wrong", "your key *** is wrong"),
    "secret and its part": ("password and pass", "*** and ***"),
    "login in a URL": (f"proxy http://ann:{'%C3%BC' * 90}@host:80 failed", "proxy http://host:80 failed"),
    "e-mail after a URL": (f'{{"url":"http://host","email":"{EMAIL}"}}', '{"url":"http://host","email":"***"}'),
    "control characters": ("a\x1bb\x00c\x9bd\u202ee\ud800f\x07g", "a b c d e f g"),
    "lines": ("two\n  lines\r\n", "two lines"),
}


@pytest.mark.parametrize(("text", "redacted"), TEXTS.values(), ids=TEXTS)
def test_redacts_secrets_and_control_characters(text, redacted):
    assert redact(text, SECRETS) == redacted


def test_redacts_truncated_token():
    for length in range(8, len(JWT)):
        assert redact(f"truncated {JWT[:length]}") == "truncated ***"


@pytest.mark.parametrize(
    "secret",
    [JWT, EMAIL, EMAIL.replace("@", "\\u0040"), f"{'a' * 64}@{'b' * 80}"],
    ids=["token", "e-mail", "escaped e-mail", "long e-mail"],
)
def test_redacts_secret_truncated_by_search_limit(secret):
    for visible_chars in (1, 7, 8, 10, 13, 14, 30, 64, 65, 66, 144):
        text = " " * (MAX_SEARCHED_CHARS - visible_chars) + secret + " " * 9_000
        assert redact(text) in ("", "***")


def test_redacts_given_secret_at_search_limit():
    secret = "mark/mark: mark mark!"
    for visible_chars in range(1, len(secret) + 1):
        text = " " * (MAX_SEARCHED_CHARS + len(secret) - visible_chars) + secret + " more" * 9
        assert redact(text, [secret]) in ("", "***")
    # A million secrets become three characters each, so the text after the limit would come into view.
    shown = redact("my-key-1" * 1_000_000, SECRETS)
    assert "my" not in shown
    assert shown.count("***") < MAX_SEARCHED_CHARS


@pytest.mark.parametrize(
    ("text", "max_chars", "shown"),
    [
        ("a short text", 12, "a short text"),
        ("a longer text", 12, "a longer te…"),
        ("word " * 1000, 1, "…"),
        (f"token {JWT}", 20, "token ***"),
        (CHALLENGE_PAGE, 120, "an HTML page: <title>Just a moment...</title>"),
        (f"<html><title>{EMAIL}</title>", 120, "an HTML page: <title>***</title>"),
        ("<html><TITLE>\nHi\n</TITLE>", 120, "an HTML page: <TITLE> Hi </TITLE>"),
        ("<html><body>Hi</body></html>", 120, "an HTML page"),
    ],
)
def test_excerpt_is_short_and_redacted(text, max_chars, shown):
    assert excerpt(text, [], max_chars) == shown


def test_recognizes_html_page():
    for page in (
        CHALLENGE_PAGE,
        "\n <HTML><body>Hi</body></HTML>",
        "<head>",
        "<!doctype HTML>",
        "<!-- a\nb -->\n<html>",
    ):
        assert is_html(page)
    for text in ("", "a < b, and <p> is a tag", "<htmlx>", '{"content": "<html>"}'):
        assert not is_html(text)


def test_title_of_html_page_is_searched_up_to_limit():
    page = "<html>" + " " * MAX_SEARCHED_CHARS + "<title>Hi</title>"
    too_long = len(page) - MAX_SEARCHED_CHARS
    assert excerpt(page.replace(" ", "", too_long), [], 120) == "an HTML page: <title>Hi</title>"
    assert excerpt(page.replace(" ", "", too_long - 1), [], 120) == "an HTML page"
