"""Whatever is asked, a legal request is sent or none; whatever comes back, it is an answer or an error of g4f's.

WEBSIM_TEST_EXAMPLES sets how many examples each property gets, fresh ones at each run.
"""

import asyncio
import io
import json
import math
import os
import string
import urllib.error
import urllib.request

import g4f.errors
import pytest
from g4f.providers.response import ImageResponse
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from jsonschema.validators import extend

from g4f_websim import Websim
from g4f_websim.endpoints import CHAT_PATH, IMAGE_PATH
from tests.support.calls import HELLO, JWT, PNG_URI, ask
from tests.support.raw_server import http, raw_server

EXAMPLES = os.environ.get("WEBSIM_TEST_EXAMPLES")
QUICK_EXAMPLES = 250

G4F_ERRORS = tuple(error for error in vars(g4f.errors).values() if isinstance(error, type))
ARGUMENTS = (
    *("model", "messages", "prompt", "proxy", "aspect_ratio", "project_id", "media"),
    *("n", "width", "height", "size", "seed", "transparent", "timeout"),
)

properties = settings(
    max_examples=int(EXAMPLES or QUICK_EXAMPLES),
    derandomize=not EXAMPLES,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def an_object(required: dict, optional: dict | None = None) -> dict:
    return {
        "type": "object",
        "properties": {**required, **(optional or {})},
        "required": list(required),
        "additionalProperties": False,
    }


def schemas_of(words: dict, address: dict) -> dict[str, dict]:
    """Return the schemas of the two requests, for these kinds of text and of addresses of pictures."""
    project_id = {"type": "string", "pattern": r"^[A-Za-z0-9_-]{1,64}\Z"}
    picture = an_object({"url": address})
    text_part = an_object({"type": {"const": "text"}, "text": words})
    picture_part = an_object({"type": {"const": "image_url"}, "image_url": picture})
    parts = {"type": "array", "minItems": 1, "items": {"oneOf": [text_part, picture_part]}}
    message = an_object({"role": {"enum": ["user", "assistant", "system"]}, "content": {"oneOf": [words, parts]}})
    side = {"type": "integer", "minimum": 1}
    return {
        CHAT_PATH: an_object(
            {"project_id": project_id, "messages": {"type": "array", "minItems": 1, "items": message}},
            {"json": {"const": True}},
        ),
        IMAGE_PATH: an_object(
            {
                "project_id": project_id,
                "prompt": {"type": "string", "pattern": r"\S"},
                "aspect_ratio": {"type": "string", "pattern": r"^[1-9][0-9]*:[1-9][0-9]*\Z"},
            },
            {
                "width": side,
                "height": side,
                "seed": {"type": "integer"},
                "transparent": {"type": "boolean"},
                "image_inputs": {"type": "array", "items": picture},
            },
        ),
    }


# JSON Schema takes 1.0 for a whole number; Websim's fields are ints.
Validator = extend(
    Draft202012Validator,
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine("integer", lambda checker, value: type(value) is int),
)
SENT = schemas_of({"type": "string", "minLength": 1}, {"type": "string", "pattern": r"^(data:image/|https?://)"})
TAKEN = schemas_of({"type": "string"}, {"type": "string"})

# Halves of surrogate pairs and NUL among them.
TEXTS = st.text(st.characters(exclude_categories=()), max_size=30)
HUGE = st.sampled_from([10**400, -(10**400)])
SCALARS = st.none() | st.booleans() | st.integers() | HUGE | st.floats() | TEXTS | st.binary(max_size=20)
JUNK = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3), max_leaves=6
)


def mostly(legal: st.SearchStrategy, odd: st.SearchStrategy = JUNK) -> st.SearchStrategy:
    """Few odd ones, so that in most examples there is one at most, and many are legal throughout."""
    return st.sampled_from([legal] * 11 + [odd]).flatmap(lambda chosen: chosen)


PICTURES = mostly(
    st.sampled_from([PNG_URI, "https://websim.example/cat.png", b"\x89PNG\r\n\x1a\n"]),
    st.sampled_from(["cat.png", "data:,", b"", None]),
)
TEXT_PARTS = st.fixed_dictionaries({"type": st.just("text"), "text": mostly(TEXTS)})
PICTURE_PARTS = st.fixed_dictionaries(
    {"type": st.just("image_url"), "image_url": PICTURES | st.fixed_dictionaries({"url": PICTURES})}
)
G4F_PARTS = st.dictionaries(
    st.sampled_from(["bucket_id", "name", "text", "url", "type", "input_audio"]), TEXTS | PICTURES | JUNK, min_size=1
)
PARTS = mostly(TEXT_PARTS | PICTURE_PARTS, G4F_PARTS | JUNK)
ROLES = mostly(st.sampled_from(["user", "assistant", "system", "developer", "tool", "function"]), TEXTS | JUNK)
TURNS = st.fixed_dictionaries(
    {"role": ROLES, "content": mostly(TEXTS | st.lists(PARTS, max_size=3))}, optional={"name": JUNK, "tool_calls": JUNK}
)
BROKEN_TURNS = st.dictionaries(st.sampled_from(["role", "content", "text"]), ROLES | JUNK) | JUNK
CONVERSATIONS = mostly(st.lists(mostly(TURNS, BROKEN_TURNS), max_size=4))
MEDIA = mostly(
    st.none() | st.lists(PICTURES | st.builds(io.BytesIO, st.binary(max_size=9)) | st.tuples(PICTURES, TEXTS))
)
PIXELS = mostly(st.none() | st.integers(1, 5000), st.integers(-1, 0) | HUGE | JUNK)
RATIOS = mostly(st.from_regex(r"[1-9][0-9]{0,2}:[1-9][0-9]{0,2}", fullmatch=True))
PROXIES = st.sampled_from(
    [None, "", 5, b"http://127.0.0.1:9", "127.0.0.1:9", "ftp://127.0.0.1", "http://", "http://[", []]
)
# What g4f passes, what users do, and every name that this package uses for something of its own.
NAMES_IN_USE = [
    "stream", "max_tokens", "stop", "conversation", "base_url", "download_media", "ignored", "loop", "session",
    "headers", "url", "body", "read", "retries", "key", "secrets", "host", "options", "response", "request", "handler",
]  # fmt: skip
NAMES = st.sampled_from(NAMES_IN_USE) | st.text(string.ascii_lowercase, min_size=1, max_size=9).filter(
    lambda name: name not in (*ARGUMENTS, "cls")
)
REQUESTS = st.fixed_dictionaries(
    {"model": mostly(st.sampled_from([None, "", "auto", "flux", "Websim:flux", "gemini-1.5-pro", "any"]))},
    optional={
        "messages": CONVERSATIONS,
        "prompt": mostly(TEXTS),
        "media": MEDIA,
        "aspect_ratio": RATIOS,
        "project_id": mostly(st.none() | st.from_regex("[A-Za-z0-9_-]{1,64}", fullmatch=True)),
        "n": mostly(st.none() | st.integers(1, 10), st.integers() | JUNK),
        "width": PIXELS,
        "height": PIXELS,
        "size": mostly(st.from_regex("[1-9][0-9]{1,4}x[1-9][0-9]{1,4}", fullmatch=True)),
        "seed": mostly(st.integers(-(2**53) + 1, 2**53 - 1), HUGE | JUNK),
        "transparent": mostly(st.booleans()),
        "response_format": mostly(st.fixed_dictionaries({"type": st.sampled_from(["json_object", "text"]) | JUNK})),
        "api_key": mostly(st.just(JWT) | st.dictionaries(st.just("Websim"), JUNK)),
        "timeout": mostly(
            st.sampled_from([None, 0, 60, 60.5]), st.sampled_from([-1, math.nan, math.inf, 10**400, "60", True, [], {}])
        ),
        "proxy": mostly(st.sampled_from([None, ""]), PROXIES),
    },
)


@pytest.fixture
async def server(monkeypatch):
    async with raw_server(lambda request: [http(b'{"content": "fine", "url": "/cat.png"}')]) as server:
        monkeypatch.setattr(Websim, "url", server.url)
        monkeypatch.setattr(Websim, "backoff", 0.0)
        monkeypatch.setattr(Websim, "max_wait", 0.0)
        yield server


@properties
@given(arguments=REQUESTS, others=st.dictionaries(NAMES, JUNK, max_size=3))
async def test_a_legal_request_is_sent_or_an_error_says_which_argument_is_wrong(server, arguments, others):
    server.requests.clear()
    try:
        chunks = await ask(arguments.pop("model"), arguments.pop("messages", None), **{**others, **arguments})
    except (ValueError, *G4F_ERRORS) as error:
        assert str(error).startswith(ARGUMENTS)
        assert not server.requests
        return
    assert [type(chunk) for chunk in chunks] in ([str], [ImageResponse])
    assert server.requests
    for request in server.requests:
        Validator(SENT[request.head.decode().split(" ")[1]]).validate(json.loads(request.body))


@pytest.mark.parametrize("name", ["n", "width", "height", "seed"])
async def test_a_number_that_python_cannot_write_is_refused_by_name(server, name):
    with pytest.raises(ValueError, match=f"^{name}: "):
        await ask("flux", HELLO, **{name: 10**5000})
    assert not server.requests


LATIN_1 = st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\0"), max_size=40)
HEADERS = st.tuples(
    st.sampled_from(
        [
            "Content-Type",
            "Content-Encoding",
            "Retry-After",
            "Location",
            "Transfer-Encoding",
            "Content-Length",
            "Set-Cookie",
        ]
    )
    | st.text(string.ascii_letters + "-", min_size=1, max_size=9),
    st.sampled_from(["gzip", "br", "chunked", "application/json; charset=x", "text/html", "0", "-1", "7"]) | LATIN_1,
)
JSON_BODIES = st.builds(
    lambda fields: json.dumps(fields).encode(),
    st.dictionaries(
        st.sampled_from(["content", "url", "error", "role"]),
        st.recursive(
            st.none()
            | st.booleans()
            | st.integers()
            | st.floats()
            | TEXTS
            | st.sampled_from(["//[", "https://[", "/"]),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
            max_leaves=5,
        ),
    ),
)
HTML_BODIES = st.builds(lambda text: f"<html><title>{text}</title>".encode("utf-8", "replace"), TEXTS)
BODIES = (
    st.binary(max_size=200)
    | JSON_BODIES
    | HTML_BODIES
    | st.builds(lambda text: text.encode("utf-16", "surrogatepass"), TEXTS)
)
ANSWERS = st.builds(http, BODIES, st.just(200) | st.integers(0, 999), st.lists(HEADERS, max_size=3)) | st.builds(
    lambda start, rest: start + rest,
    st.sampled_from([b"", b"HTTP/1.1 ", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\n\r\n"]),
    st.binary(max_size=200),
)


@properties
@given(answer=ANSWERS, model=st.sampled_from(["", "flux"]))
async def test_whatever_a_server_sends_is_an_answer_or_an_error_of_g4fs(server, answer, model):
    server.respond = lambda request: [answer]
    try:
        (chunk,) = await ask(model, HELLO, timeout=20)
    except G4F_ERRORS as error:
        assert server.host in str(error)
        assert str(error).isprintable()
    else:
        assert str(chunk).strip().encode()


DATES = st.builds(
    "{}, {} {} {} {}:{}:{} {}".format,
    st.sampled_from(["Mon", "Xyz", ""]),
    *(st.integers(-1, 99), st.sampled_from(["Jan", "Foo", "13"]), st.integers(-1, 99999)),
    *(st.integers(-1, 99), st.integers(-1, 99), st.integers(-1, 99)),
    st.sampled_from(["GMT", "+0000", "-9999", "+99999999999", "PST", ""]),
)
NUMBERS = st.builds(str, st.integers(-5, 10**9) | st.floats() | st.integers(10**300, 10**310))


@properties
@given(value=LATIN_1 | DATES | NUMBERS)
async def test_whatever_retry_after_says_the_wait_is_one(server, value):
    waits = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    server.respond = lambda request: [http(status=429, headers=[("Retry-After", value)])]
    with pytest.MonkeyPatch.context() as patch, pytest.raises(g4f.errors.RateLimitError):
        patch.setattr(asyncio, "sleep", sleep)
        patch.setattr(Websim, "backoff", 2.0)
        patch.setattr(Websim, "max_wait", 60.0)
        await ask("", HELLO)
    assert len(waits) in (0, 2)
    assert all(0 <= wait <= 60 for wait in waits)


def post(url: str, body: bytes) -> tuple[int, dict]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body)) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as refusal:
        with refusal:
            return refusal.code, json.load(refusal)


def mutated(fields: dict, changes: dict) -> dict:
    return {name: value for name, value in {**fields, **changes}.items() if value is not ...}


JSON_JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.just(10**400) | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
ODD_FIELDS = st.sampled_from(
    [0, -1, 1, True, 1.0, 10**400, "", " ", "1:1\n", "0:1", "16:9", [], [{}], [{"url": ""}], [{"url": 1}]]
    + [[{"role": "user", "content": content}] for content in ("", None, 5, [], [{}], [{"type": "text", "text": ""}])]
    + [[{"role": role, "content": "Hello"}] for role in ("user", "tool", None, [])]
)
LEGAL_BODIES = {
    CHAT_PATH: {"project_id": "ke3_xh5gai3gjkmruomu", "messages": HELLO, "json": True},
    IMAGE_PATH: {
        "project_id": "kx0m131_rzz66qb2xoy7",
        "prompt": "a cat",
        "aspect_ratio": "1:1",
        "width": 640,
        "height": 480,
        "seed": 1,
        "transparent": True,
        "image_inputs": [{"url": PNG_URI}],
    },
}


@st.composite
def requests_to_the_embedded_websim(draw):
    path = draw(st.sampled_from([CHAT_PATH, IMAGE_PATH]))
    fields = LEGAL_BODIES[path]
    names = mostly(st.sampled_from(list(fields)), TEXTS)
    changes = st.dictionaries(names, mostly(ODD_FIELDS, st.just(...) | JSON_JUNK), max_size=2)
    return path, draw(mostly(changes.map(lambda changes: mutated(fields, changes)), JSON_JUNK))


@properties
@example(sent=(IMAGE_PATH, {**LEGAL_BODIES[IMAGE_PATH], "width": 10**400}))
@given(sent=requests_to_the_embedded_websim())
def test_the_embedded_websim_takes_what_is_legal_and_refuses_the_rest_with_a_reason(websim_server, sent):
    path, body = sent
    status, answer = post(websim_server.url + path, json.dumps(body).encode())
    assert status == (200 if Validator(TAKEN[path]).is_valid(body) else 400)
    assert answer.keys() == ({"error"} if status == 400 else {"role", "content"} if path == CHAT_PATH else {"url"})
