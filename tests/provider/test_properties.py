"""Properties that hold for generated arguments, responses and headers.

The variable WEBSIM_TEST_EXAMPLES sets the number of examples, which are then different in each run.
"""

import io
import json
import math
import os
import string

import pytest
import requests
from g4f.providers.response import ImageResponse
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from jsonschema.validators import extend

from g4f_websim import Websim
from g4f_websim.transport.retry_after import parse_retry_after
from g4f_websim.wire.endpoints import CHAT_PATH, IMAGE_PATH
from g4f_websim.wire.redaction import excerpt
from tests.support.calls import G4F_ERRORS, HELLO, JWT, PNG_URI, call_websim
from tests.support.raw_server import http_response
from tests.support.responses import PNG_MAGIC

EXAMPLES = os.environ.get("WEBSIM_TEST_EXAMPLES")
QUICK_EXAMPLES = 150

# Many examples may take hours.
pytestmark = [pytest.mark.timeout(0)] if EXAMPLES else []

ARGUMENTS = (
    *("model", "messages", "prompt", "proxy", "aspect_ratio", "project_id", "media"),
    *("n", "width", "height", "size", "seed", "transparent", "response_format", "json", "timeout"),
)

properties = settings(
    max_examples=int(EXAMPLES or QUICK_EXAMPLES),
    derandomize=not EXAMPLES,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def object_schema(required: dict, optional: dict | None = None) -> dict:
    return {
        "type": "object",
        "properties": {**required, **(optional or {})},
        "required": list(required),
        "additionalProperties": False,
    }


def request_schemas(text: dict, url: dict) -> dict[str, dict]:
    """Return the schemas of the two request bodies.

    Args:
        text: the schema of a text.
        url: the schema of the URL of an image.
    """
    project_id = {"type": "string", "pattern": r"^[A-Za-z0-9_-]{1,64}\Z"}
    image = object_schema({"url": url})
    text_part = object_schema({"type": {"const": "text"}, "text": text})
    image_part = object_schema({"type": {"const": "image_url"}, "image_url": image})
    parts = {"type": "array", "minItems": 1, "items": {"oneOf": [text_part, image_part]}}
    message = object_schema({"role": {"enum": ["user", "assistant", "system"]}, "content": {"oneOf": [text, parts]}})
    prompt = {"type": "string", "pattern": r"\S"}
    ratio = {"type": "string", "pattern": r"^[1-9][0-9]*:[1-9][0-9]*\Z"}
    side = {"type": "integer", "minimum": 1}
    options = {"width": side, "height": side, "seed": {"type": "integer"}, "transparent": {"type": "boolean"}}
    return {
        CHAT_PATH: object_schema(
            {"project_id": project_id, "messages": {"type": "array", "minItems": 1, "items": message}},
            {"json": {"const": True}},
        ),
        IMAGE_PATH: object_schema(
            {"project_id": project_id, "prompt": prompt, "aspect_ratio": ratio},
            {**options, "image_inputs": {"type": "array", "items": image}},
        ),
    }


# In JSON Schema, 1.0 is an integer. Websim's fields must be written as integers.
Validator = extend(
    Draft202012Validator,
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine("integer", lambda checker, value: type(value) is int),
)
SENT_BODIES = request_schemas(
    {"type": "string", "minLength": 1}, {"type": "string", "pattern": "^(data:image/|https?://)"}
)
ACCEPTED_BODIES = request_schemas({"type": "string"}, {"type": "string"})

# Includes lone surrogates and NUL.
TEXTS = st.text(st.characters(exclude_categories=()), max_size=30)
HUGE = st.sampled_from([10**400, -(10**400)])
SCALARS = st.none() | st.booleans() | st.integers() | HUGE | st.floats() | TEXTS


def nested(scalars: st.SearchStrategy) -> st.SearchStrategy:
    """Return a strategy for values, and for lists and dicts of them."""
    return st.recursive(
        scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3), max_leaves=6
    )


JSON_JUNK = nested(SCALARS)
JUNK = nested(SCALARS | st.binary(max_size=20))


def mostly(valid: st.SearchStrategy, other: st.SearchStrategy = JUNK) -> st.SearchStrategy:
    """Return a strategy that takes one value in 12 from `other`, so that many whole examples are valid."""
    return st.sampled_from([valid] * 11 + [other]).flatmap(lambda chosen: chosen)


IMAGES = mostly(
    st.sampled_from([PNG_URI, "https://websim.example/cat.png", PNG_MAGIC]),
    st.sampled_from(["cat.png", "data:,", b"", None]),
)
TEXT_PARTS = st.fixed_dictionaries({"type": st.just("text"), "text": mostly(TEXTS)})
IMAGE_PARTS = st.fixed_dictionaries(
    {"type": st.just("image_url"), "image_url": IMAGES | st.fixed_dictionaries({"url": IMAGES})}
)
G4F_PARTS = st.dictionaries(
    st.sampled_from(["bucket_id", "name", "text", "url", "type", "input_audio"]), TEXTS | IMAGES | JUNK, min_size=1
)
PARTS = mostly(TEXT_PARTS | IMAGE_PARTS, G4F_PARTS | JUNK)
ROLES = mostly(st.sampled_from(["user", "assistant", "system", "developer", "tool", "function"]), TEXTS | JUNK)
ARGUMENTS_OF_CALLS = mostly(TEXTS | st.dictionaries(TEXTS, JUNK, max_size=2))
CALLS = st.fixed_dictionaries(
    {"function": st.fixed_dictionaries({"name": mostly(TEXTS), "arguments": ARGUMENTS_OF_CALLS})},
    optional={"id": mostly(TEXTS)},
)
MESSAGES = st.fixed_dictionaries(
    {"role": ROLES, "content": mostly(TEXTS | st.none() | st.lists(PARTS, max_size=3))},
    optional={
        "name": mostly(TEXTS),
        "tool_calls": mostly(st.lists(CALLS, max_size=2)),
        "tool_call_id": mostly(TEXTS),
        "refusal": mostly(TEXTS),
    },
)
BROKEN_MESSAGES = st.dictionaries(st.sampled_from(["role", "content", "text"]), ROLES | JUNK) | JUNK
CONVERSATIONS = mostly(st.lists(mostly(MESSAGES, BROKEN_MESSAGES), max_size=4))
MEDIA = mostly(st.none() | st.lists(IMAGES | st.builds(io.BytesIO, st.binary(max_size=9)) | st.tuples(IMAGES, TEXTS)))
PIXELS = mostly(st.none() | st.integers(1, 5000), st.integers(-1, 0) | HUGE | JUNK)
RATIOS = mostly(st.from_regex(r"[1-9][0-9]{0,2}:[1-9][0-9]{0,2}", fullmatch=True))
PROXIES = st.sampled_from(
    [None, "", 5, b"http://127.0.0.1:3128", "127.0.0.1:3128", "ftp://127.0.0.1", "http://", "http://[", []]
)
# Arguments that g4f or users pass, and names that this package uses itself.
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
        "json": mostly(st.none() | st.booleans()),
        "api_key": mostly(st.just(JWT) | st.dictionaries(st.just("Websim"), JUNK)),
        "timeout": mostly(
            st.sampled_from([None, 0, 60, 60.5]), st.sampled_from([-1, math.nan, math.inf, 10**400, "60", True, [], {}])
        ),
        "proxy": mostly(st.sampled_from([None, ""]), PROXIES),
    },
)


@pytest.fixture
async def server(server, monkeypatch):
    server.respond = lambda request: [http_response(b'{"content": "fine", "url": "/cat.png"}')]
    monkeypatch.setattr(Websim, "backoff", 0.0)
    monkeypatch.setattr(Websim, "max_wait", 0.0)
    return server


@properties
@given(arguments=REQUESTS, others=st.dictionaries(NAMES, JUNK, max_size=3))
async def test_sends_valid_request_or_raises_error_that_names_the_argument(server, arguments, others):
    server.requests.clear()
    try:
        chunks = await call_websim(arguments.pop("model"), arguments.pop("messages", None), **{**others, **arguments})
    except (ValueError, *G4F_ERRORS) as error:
        assert str(error).startswith(ARGUMENTS)
        assert not server.requests
        return
    assert [type(chunk) for chunk in chunks] in ([str], [ImageResponse])
    assert server.requests
    for request in server.requests:
        body = json.loads(request.body)
        Validator(SENT_BODIES[request.head.decode().split(" ")[1]]).validate(body)
        # Strict parsers refuse lone surrogates, which cannot be encoded.
        assert json.dumps(body, ensure_ascii=False).encode()


LATIN_1 = st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\0"), max_size=40)
KNOWN_HEADERS = ["Content-Type", "Content-Encoding", "Content-Length", "Transfer-Encoding", "Retry-After", "Location"]
HEADERS = st.tuples(
    st.sampled_from([*KNOWN_HEADERS, "Set-Cookie"]) | st.text(string.ascii_letters + "-", min_size=1, max_size=9),
    st.sampled_from(["gzip", "br", "chunked", "application/json; charset=x", "text/html", "0", "-1", "7"]) | LATIN_1,
)
JSON_BODIES = st.dictionaries(
    st.sampled_from(["content", "url", "error", "role"]), nested(SCALARS | st.sampled_from(["//[", "https://[", "/"]))
).map(lambda fields: json.dumps(fields).encode())
HTML_BODIES = TEXTS.map(lambda text: f"<html><title>{text}</title>".encode("utf-8", "replace"))
UTF_16_BODIES = TEXTS.map(lambda text: text.encode("utf-16", "surrogatepass"))
BODIES = st.binary(max_size=200) | JSON_BODIES | HTML_BODIES | UTF_16_BODIES
RESPONSES = st.builds(
    http_response, BODIES, st.just(200) | st.integers(0, 999), st.lists(HEADERS, max_size=3)
) | st.builds(
    lambda start, rest: start + rest,
    st.sampled_from([b"", b"HTTP/1.1 ", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\n\r\n"]),
    st.binary(max_size=200),
)


@properties
@given(response=RESPONSES, model=st.sampled_from(["", "flux"]))
async def test_any_response_is_a_chunk_or_an_error_of_g4f(server, response, model):
    server.respond = lambda request: [response]
    try:
        (chunk,) = await call_websim(model, HELLO, timeout=20)
    except G4F_ERRORS as error:
        assert server.host in str(error)
        assert str(error).isprintable()
        assert len(str(error)) <= 300
        assert error.reason
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
def test_retry_after_is_a_finite_delay_or_ignored(value):
    seconds = parse_retry_after({"Retry-After": value})
    assert seconds is None or 0 <= seconds < math.inf


SECRETS = st.sampled_from([JWT, "ann.b+c@example.co.uk", "my-key-1", "p@ss word"])
SEPARATORS = st.sampled_from(["", " ", "\n", '"', "\\n", "<title>", "=", ":", "/"])


@properties
@given(parts=st.lists(st.tuples(TEXTS, SEPARATORS, SECRETS, SEPARATORS), max_size=4), max_chars=st.integers(1, 300))
def test_excerpt_is_short_and_printable_without_secrets(parts, max_chars):
    text = "".join("".join(part) for part in parts)
    shown = excerpt(text, ["my-key-1", "p@ss word"], max_chars)
    assert len(shown) <= max_chars
    assert shown.isprintable()
    assert [secret for secret in (JWT, "ann.b+c", "my-key-1", "p@ss word") if secret in shown] == []


UNUSUAL_FIELDS = st.sampled_from(
    [0, -1, 1, True, 1.0, 10**400, "", " ", "1:1\n", "0:1", "16:9", [], [{}], [{"url": ""}], [{"url": 1}]]
    + [[{"role": "user", "content": content}] for content in ("", None, 5, [], [{}], [{"type": "text", "text": ""}])]
    + [[{"role": role, "content": "Hello"}] for role in ("user", "tool", None, [])]
)
VALID_BODIES = {
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
def bodies(draw):
    path = draw(st.sampled_from([CHAT_PATH, IMAGE_PATH]))
    names = mostly(st.sampled_from(list(VALID_BODIES[path])), TEXTS)
    # `...` removes a field.
    changes = st.dictionaries(names, mostly(UNUSUAL_FIELDS, st.just(...) | JSON_JUNK), max_size=2)
    fields = VALID_BODIES[path] | draw(changes)
    changed = {name: value for name, value in fields.items() if value is not ...}
    return path, draw(mostly(st.just(changed), JSON_JUNK))


@properties
@example(generated=(IMAGE_PATH, {**VALID_BODIES[IMAGE_PATH], "width": 10**400}))
@given(generated=bodies())
def test_emulator_accepts_valid_bodies_and_rejects_others_with_a_reason(websim_server, generated):
    path, body = generated
    response = requests.post(websim_server.url + path, json.dumps(body))
    is_valid = Validator(ACCEPTED_BODIES[path]).is_valid(body)
    assert response.status_code == (200 if is_valid else 400)
    fields = {"role", "content"} if path == CHAT_PATH else {"url"}
    assert response.json().keys() == (fields if is_valid else {"error"})
