"""The server of `g4f-websim api` over HTTP, with popular client libraries."""

import base64
import itertools
import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import partial

import anthropic
import httpx
import openai
import pytest

from g4f_websim import Websim
from g4f_websim.emulator import Fault
from g4f_websim.wire.endpoints import CHAT_PATH, IMAGE_PATH
from tests.support.calls import HELLO, JWT, PNG_URI, make_token
from tests.support.limits import MAX_SECONDS, wait_until
from tests.support.processes import API, MODULE, SCRIPT, make_home, server
from tests.support.responses import LONG_RATE_LIMIT, PNG_MAGIC, REPLY, text_of, text_of_stream

# The server sends its requests to the emulator in every test, also in those that do not name it.
pytestmark = pytest.mark.usefixtures("emulator")

SECRET = "the-secret-of-the-g4f-server"
WITH_SECRET = {"g4f-api-key": SECRET}

# Without --bind, but otherwise like API. The command reloads the server when a file changes.
DEV = ("dev", "--port", "0", *API[3:])

NUMBERS = itertools.count(2)

TOOLS = [
    {"type": "function", "function": {"name": name, "description": description, "parameters": {"type": "object"}}}
    # g4f would leave out the second tool.
    for name, description in (("weather", "The weather in a city"), ("create_directory", "Ask the user before."))
]
WEATHER_CALL = {"tool_calls": [{"name": "weather", "arguments": {"city": "Paris"}}]}


@pytest.fixture(scope="module")
def api(shared_emulator, tmp_path_factory):
    home = make_home(tmp_path_factory.mktemp("api"))
    with server(*API, "--g4f-api-key", SECRET, home=home, WEBSIM_URL=shared_emulator.url) as started:
        yield started


def openai_client(api, base="/v1", api_key=SECRET):
    return openai.OpenAI(base_url=api.url + base, api_key=api_key, default_headers=WITH_SECRET, max_retries=0)


def anthropic_client(api, api_key=SECRET):
    return anthropic.Anthropic(base_url=api.url, api_key=api_key, default_headers=WITH_SECRET, max_retries=0)


def langchain_client(api):
    reason = "langchain-openai has requirements without wheels for Python 3.15"
    langchain_openai = pytest.importorskip("langchain_openai", reason=reason)
    return langchain_openai.ChatOpenAI(
        base_url=f"{api.url}/v1", api_key=SECRET, default_headers=WITH_SECRET, model="gemini-2.5-pro", max_retries=0
    )


def own_login():
    """Return a new token: calls with another login do not wait for its rate limit."""
    return make_token(sub=str(next(NUMBERS)))


def chat(api, api_key=SECRET, **fields):
    with openai_client(api, api_key=api_key) as client:
        completion = client.chat.completions.create(**{"model": "gemini-2.5-pro", "messages": HELLO, **fields})
        return list(completion) if fields.get("stream") else completion


def image(api, base, api_key=SECRET, **fields):
    with openai_client(api, base, api_key) as client:
        return client.images.generate(**{"model": "flux", "prompt": "a cat", "response_format": "url", **fields})


def get(api, path):
    return httpx.get(api.url + path, headers=WITH_SECRET).raise_for_status()


def test_openai_client_chats_and_streams(api, emulator):
    assert text_of(chat(api)) == REPLY
    assert text_of_stream(chat(api, stream=True)) == REPLY
    assert [request.json["messages"] for request in emulator.requests] == [HELLO, HELLO]


def test_openai_client_sends_image(api, emulator):
    image_part = {"type": "image_url", "image_url": {"url": PNG_URI}}
    chat(api, messages=[{"role": "user", "content": [{"type": "text", "text": "What is this?"}, image_part]}])
    assert image_part in emulator.requests[-1].json["messages"][-1]["content"]


@pytest.mark.parametrize("base", ["/v1", "/api/Websim"])
@pytest.mark.parametrize("fields", [{}, {"extra_body": {"provider": "Websim"}}], ids=["", "provider"])
def test_openai_client_generates_image(api, emulator, base, fields):
    response = image(api, base, size="1024x1792", **fields)
    assert httpx.get(response.data[0].url).content.startswith(PNG_MAGIC)
    sent = emulator.requests[-1].json
    assert (sent["prompt"], sent["width"], sent["height"], sent["aspect_ratio"]) == ("a cat", 1024, 1792, "9:16")


def test_openai_client_receives_image_as_base64(api):
    response = image(api, "/v1", response_format="b64_json")
    assert base64.b64decode(response.data[0].b64_json).startswith(PNG_MAGIC)


def test_server_stores_image_by_default(api, emulator):
    emulator.inject(Fault(body=json.dumps({"url": PNG_URI}).encode()))
    with openai_client(api, "/api/Websim") as client:
        response = client.images.generate(model="flux", prompt="a cat")
    assert response.data[0].url.startswith(f"{api.url}/media/")
    assert httpx.get(response.data[0].url, headers=WITH_SECRET).content.startswith(PNG_MAGIC)


def test_openai_client_sends_tools_and_receives_tool_call(api, emulator):
    emulator.reply(json.dumps(WEATHER_CALL))
    (call,) = chat(api, tools=TOOLS).choices[0].message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("weather", {"city": "Paris"})
    sent = str(emulator.requests[-1].json["messages"])
    assert [tool for tool in TOOLS if tool["function"]["description"] not in sent] == []


def test_anthropic_client_chats(api):
    with anthropic_client(api) as client:
        message = client.messages.create(model="gemini-2.5-pro", max_tokens=100, messages=HELLO)
    assert message.content[0].text == REPLY


def test_langchain_chats_and_streams(api):
    client = langchain_client(api)
    assert client.invoke("Hello").content == REPLY
    assert "".join(chunk.content for chunk in client.stream("Hello")) == REPLY


def test_model_prefix_selects_websim(api, emulator):
    assert text_of(chat(api, model="Websim:gemini-2.5-pro")) == REPLY
    completion = chat(api, model="Websim:flux", messages=[{"role": "user", "content": "a cat"}])
    assert f"{emulator.url}/offline/" in text_of(completion)
    assert [request.path for request in emulator.requests] == [CHAT_PATH, IMAGE_PATH]
    assert emulator.requests[-1].json["prompt"] == "a cat"


# What g4f does otherwise


MESSAGES = [
    {"role": "user", "content": "yes"},
    {"role": "assistant", "content": "Sure?"},
    {"role": "user", "content": "yes"},
    {"role": "user", "content": "def f():\n\n\n\n    return  1  "},
] * 20


def test_sends_messages_as_they_are(api, emulator):
    chat(api, messages=MESSAGES)
    assert emulator.requests[-1].json["messages"] == MESSAGES


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    "response_format",
    [
        {"type": "json_object"},
        {"type": "json_schema", "json_schema": {"name": "city", "schema": {"type": "object", "properties": {}}}},
    ],
    ids=lambda value: value["type"],
)
def test_passes_response_format_to_websim(api, emulator, response_format, stream):
    completion = chat(api, response_format=response_format, stream=stream)
    text = text_of_stream(completion) if stream else text_of(completion)
    assert json.loads(text) == {"offline": True, "you_said": "Hello"}
    assert emulator.requests[-1].json["json"] is True


def test_langchain_returns_structured_output(api, emulator):
    schema = {"title": "City", "type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
    for method in ("json_schema", "json_mode", "function_calling"):
        content = {"tool_calls": [{"name": "City", "arguments": {"name": "Paris"}}]}
        emulator.reply(json.dumps(content if method == "function_calling" else {"name": "Paris"}))
        model = langchain_client(api).with_structured_output(schema, method=method)
        assert model.invoke("The capital of France, as JSON?") == {"name": "Paris"}


CHATS = {"chat": chat, "stream": partial(chat, stream=True)}
IMAGES = {"image": partial(image, base="/api/Websim"), "image of v1": partial(image, base="/v1")}


@pytest.mark.parametrize("send", (CHATS | IMAGES).values(), ids=(CHATS | IMAGES))
@pytest.mark.parametrize(
    ("fault", "status", "retry_after", "message"),
    [
        (Fault(status=401), 401, None, "login"),
        (Fault(status=402), 402, None, "credits"),
        (Fault(status=404), 404, None, "WEBSIM_URL"),
        (Fault(status=500), 500, None, "Response 500"),
        (Fault(status=429, headers={"Retry-After": "100"}), 429, "100", "100 s"),
        (Fault(body=b"<html>"), 502, None, "HTML"),
        (Fault(status=302, headers={"Location": "https://example.com/"}), 502, None, "https://example.com/"),
    ],
    ids=lambda value: str(value.status or "html") if isinstance(value, Fault) else None,
)
def test_responds_with_own_error_of_websim(api, emulator, send, fault, status, retry_after, message):
    emulator.inject(fault)
    with pytest.raises(openai.APIStatusError, match=message) as raised:
        send(api, api_key=own_login())
    assert (raised.value.status_code, raised.value.response.headers.get("Retry-After")) == (status, retry_after)
    assert len(emulator.requests) == 1


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": [{"role": "tool", "content": "no tool_call_id"}]},
        # A ValueError, as the errors for malformed arguments of Websim are.
        {"extra_body": {"tool_calls": [{"type": "function", "function": {"name": "search_tool", "arguments": "[]"}}]}},
    ],
    ids=["AttributeError", "ValueError"],
)
def test_responds_to_error_of_g4f_as_g4f_does(api, fields):
    with pytest.raises(openai.InternalServerError, match="Request execution failed"):
        chat(api, **fields)


@pytest.mark.parametrize("send", CHATS.values(), ids=CHATS)
def test_responds_with_504_to_timeout(api, emulator, send):
    emulator.inject(Fault(delay=2))
    with pytest.raises(openai.APIStatusError) as raised:
        send(api, extra_body={"timeout": 1})
    assert raised.value.status_code == 504


@pytest.mark.parametrize(
    ("send", "fields", "message"),
    [
        (chat, {"messages": [{"role": "bogus", "content": "Hello"}]}, "messages[0]"),
        (chat, {"messages": [{"role": "bogus", "content": "Hello"}], "stream": True}, "messages[0]"),
        (partial(image, base="/v1"), {"n": 11}, "n: 1 to 10"),
        (partial(image, base="/api/Websim"), {"extra_body": {"aspect_ratio": "wide"}}, "aspect_ratio: W:H"),
    ],
    ids=["role", "role-stream", "n", "aspect_ratio"],
)
def test_responds_with_400_to_malformed_argument(api, emulator, send, fields, message):
    with pytest.raises(openai.BadRequestError) as raised:
        send(api, **fields)
    assert message in raised.value.message
    assert emulator.requests == []


def test_anthropic_client_raises_rate_limit(api, emulator):
    emulator.inject(LONG_RATE_LIMIT)
    with anthropic_client(api, own_login()) as client, pytest.raises(anthropic.RateLimitError):
        client.messages.create(model="gemini-2.5-pro", max_tokens=100, messages=HELLO)
    assert len(emulator.requests) == 1


def test_api_key_of_g4f_server_is_not_sent_to_websim(api, emulator):
    chat(api)
    chat(api, tools=TOOLS)
    image(api, "/api/Websim")
    assert len(emulator.requests) == 3
    assert SECRET not in str(emulator.requests)


def test_sends_websim_token(api, emulator):
    chat(api, api_key=JWT)
    assert emulator.requests[-1].header("authorization") == f"Bearer {JWT}"


def test_lists_and_describes_websim(api, emulator):
    assert [provider["id"] for provider in get(api, "/v1/providers").json()].count("Websim") == 1
    description = get(api, "/v1/providers/Websim").json()
    assert (description["id"], description["url"], description["image_models"]) == ("Websim", emulator.url, ["flux"])
    models = get(api, "/api/Websim/models").json()["data"]
    assert {model["id"]: model["image"] for model in models} == {name: name == "flux" for name in Websim.models}
    assert get(api, "/api/Websim/health").json()["ok"] is True


# Child processes


@contextmanager
def suspended(worker):
    os.kill(worker, signal.SIGSTOP)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.kill(worker, signal.SIGCONT)


def from_each_worker(api, send):
    """Yield the response of each worker: one is suspended while the other responds."""
    workers = set(api.wait_for_output(r"Started server process \[(\d+)\]"))
    for worker in workers:
        with ExitStack() as stack:
            for other in workers - {worker}:
                stack.enter_context(suspended(int(other)))
            yield send()


@pytest.mark.parametrize(
    ("command", "words"), [(MODULE, (*API, "--workers", "2")), (SCRIPT, DEV)], ids=["workers", "dev"]
)
def test_each_child_process_knows_websim_and_the_options(tmp_path, command, words):
    options = ("--g4f-api-key", SECRET)
    with server("--offline", *words, *options, command=command, home=make_home(tmp_path)) as api:
        api.wait_for_output("Application startup complete", times=2 if "--workers" in words else 1)
        assert api.url.startswith("http://127.0.0.1:")
        assert ("Started reloader process" in api.output) == ("dev" in words)
        for response in from_each_worker(api, lambda: get(api, "/v1/providers/Websim")):
            assert response.json()["id"] == "Websim"
        for completion in from_each_worker(api, lambda: chat(api, response_format={"type": "json_object"})):
            assert json.loads(text_of(completion))["you_said"] == "Hello"
        url = f"{api.url}/v1/chat/completions"
        for response in from_each_worker(api, lambda: httpx.post(url, json={"messages": HELLO}, timeout=MAX_SECONDS)):
            assert response.status_code == 401


def test_terminated_server_ends_queue_and_waits_for_running_call(tmp_path, emulator):
    with (
        server(*API, home=make_home(tmp_path), WEBSIM_URL=emulator.url) as started,
        ThreadPoolExecutor() as threads,
    ):
        post = partial(httpx.post, f"{started.url}/v1/chat/completions", json={"messages": HELLO}, timeout=MAX_SECONDS)
        emulator.inject(Fault(delay=2))
        emulator.inject(Fault(delay=1, status=429))
        emulator.inject(Fault(status=429, headers={"Retry-After": "30"}))
        running, *queued = [submit_and_wait(threads, post, emulator) for _ in range(3)]
        started.process.terminate()
        for call in queued:
            response = call.result()
            assert (response.status_code, "stopping" in response.text) == (503, True)
        assert not running.done()
        assert running.result().status_code == 200


def submit_and_wait(threads, call, emulator):
    """Start a call in a thread, and return its future when the emulator has received its request."""
    count = len(emulator.requests)
    future = threads.submit(call)
    wait_until(lambda: len(emulator.requests) > count)
    return future
