"""Use Websim through the installed g4f as users do; lines.py runs this module on each release line.

Each scenario prints one line of JSON: its group, its name, and its error or an empty string.
"""

import asyncio
import base64
import itertools
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import g4f
import g4f.models
from g4f import Provider
from g4f.client import AsyncClient, Client
from g4f.client.service import get_model_and_provider
from g4f.cookies import get_cookies_dir
from g4f.errors import MissingAuthError, NoMediaResponseError, RateLimitError, ResponseError, ResponseStatusError
from g4f.Provider import IterListProvider, RetryProvider
from g4f.Provider.base_provider import AsyncGeneratorProvider, ProviderModelMixin
from g4f.providers.response import ImageResponse


def registry_state() -> dict[str, Any]:
    """Return everything through which g4f finds and lists its providers."""
    convert = Provider.ProviderUtils.convert
    return {
        "__all__": list(Provider.__all__),
        "__providers__": list(vars(Provider).get("__providers__", [])),
        "names": list(convert.keys()),
        "converted": convert.get("Websim"),
        "attribute": getattr(Provider, "Websim", None),
        "models": {name: list(providers) for name, providers in model_lists()},
    }


def model_lists() -> Iterator[tuple[str, list[Any]]]:
    """Yield the name and the providers of each list that g4f keeps for a model."""
    for name, model in vars(g4f.models).items():
        best = getattr(model, "best_provider", None)
        if best is not None:
            yield name, getattr(best, "providers", [best])
    for table in ("__models__", "demo_models"):
        for name, (_, providers) in getattr(g4f.models, table, {}).items():
            yield f"{table} {name}", providers


# The import of g4f_websim registers Websim and so changes this state.
STATE_WITHOUT_WEBSIM = registry_state()

from g4f_websim import Websim, register, unregister  # noqa: E402
from g4f_websim.command.g4f_fixes import CLIENT_FIXES, OUTPUT_FIXES, SERVER_FIXES, apply  # noqa: E402
from g4f_websim.emulator import Emulator, Fault  # noqa: E402
from g4f_websim.offline import offline, write_provider_list  # noqa: E402
from g4f_websim.transport.rate_limit import forget_limits  # noqa: E402
from g4f_websim.wire.endpoints import CHAT_PATH, IMAGE_PATH  # noqa: E402
from tests.support.calls import HELLO, PNG_URI, call_websim  # noqa: E402
from tests.support.responses import (  # noqa: E402
    LONG_RATE_LIMIT,
    PNG_MAGIC,
    REPLY,
    image_at,
    text_of,
    text_of_stream,
)

# Retries take milliseconds.
BACKOFF = 0.001

PROMPT = "a cat"
OTHER_REPLY = "the reply of another provider"
OTHER_IMAGE = "https://other.example/cat.png"
# Where g4f saves images: the first up to 0.5.0, the second since 0.5.1.
IMAGE_FOLDERS = ("generated_images", "generated_media")

RATE_LIMIT = Fault(status=429)
PNG_RESPONSE = image_at(PNG_URI)
EMPTY_RESPONSE = Fault(body=json.dumps({"content": "", "url": None}).encode())
SLOW_RESPONSE = Fault(delay=2)
TIMEOUT = 0.1

# The choices of the scenarios.
CLIENTS = {"Client": Client, "AsyncClient": AsyncClient}
PROVIDERS = {"by class": Websim, "by name": "Websim"}
CHAT_MODELS = {"with a model": {"model": "gemini-2.5-pro"}, "without a model": {}}
IMAGE_MODELS = {"with flux": {"model": "flux"}, "without a model": {}}
# The arguments of a call, and the expected fields of its requests.
WIDE = {"width": 1920, "height": 1080, "aspect_ratio": "16:9"}
IMAGE_OPTIONS = {
    "model with prefix": ({"model": "Websim:flux"}, {}),
    "two images": ({"n": 2}, {}),
    "width and height": ({"width": 1920, "height": 1080}, WIDE),
    "size": ({"size": "1920x1080"}, WIDE),
}
# Who names the provider: the client when it is created, or the call.
PLACES = {"of client": lambda provider: (provider, {}), "of call": lambda provider: (None, {"provider": provider})}
STREAM = {"at once": False, "streamed": True}
LISTS = {"IterListProvider": IterListProvider, "RetryProvider": RetryProvider}


class ExpectedError(NamedTuple):
    """A response of the server and the error that the caller gets."""

    fault: Fault
    kind: type[Exception]
    reason: str
    status: int
    retry_after: float | None = None


CHAT_ERRORS = {
    "429": ExpectedError(LONG_RATE_LIMIT, RateLimitError, "rate_limited", 429, 900.0),
    "401": ExpectedError(Fault(status=401), MissingAuthError, "login_needed", 401),
    "404": ExpectedError(Fault(status=404), ResponseStatusError, "api_moved", 404),
    "500": ExpectedError(Fault(status=500), ResponseStatusError, "server_error", 500),
    "an unknown project": ExpectedError(
        Fault(status=404, body=b'{"error": "project not found"}'), ResponseStatusError, "project_refused", 404
    ),
    "no content": ExpectedError(EMPTY_RESPONSE, ResponseError, "no_content", 200),
    "other fields": ExpectedError(Fault(body=b"{}"), ResponseError, "api_changed", 200),
}
IMAGE_ERRORS = {
    "429": CHAT_ERRORS["429"],
    "no image": ExpectedError(EMPTY_RESPONSE, NoMediaResponseError, "no_content", 200),
}


class Scenario(NamedTuple):
    """One use of Websim: a function that raises an exception if it fails, its name and its group."""

    group: str
    name: str
    run: Callable[[Emulator], None]


SCENARIOS: list[Scenario] = []


def scenario(group: str, **choices: dict[str, Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add the decorated function to the scenarios, once for each combination of the choices.

    The choices are, for each further parameter of the function, its values by label.
    """

    def add(function: Callable[..., None]) -> Callable[..., None]:
        for labels in itertools.product(*choices.values()):
            arguments = {name: choices[name][label] for name, label in zip(choices, labels, strict=True)}
            name = ", ".join([function.__name__.replace("_", " "), *labels])
            SCENARIOS.append(Scenario(group, name, partial(function, **arguments)))
        return function

    return add


class Other(AsyncGeneratorProvider, ProviderModelMixin):
    """Another provider, with replies of its own."""

    url = "https://other.example"
    default_model = "other"
    working = True
    supports_stream = True

    @classmethod
    async def create_async_generator(cls, model: Any, messages: Any, prompt: Any = None, **kwargs: Any) -> Any:
        yield ImageResponse([OTHER_IMAGE], prompt) if prompt else OTHER_REPLY


class Failing(Other):
    """Another provider, which always fails."""

    @classmethod
    async def create_async_generator(cls, model: Any, messages: Any, **kwargs: Any) -> Any:
        raise ResponseError("the other provider fails")
        yield  # makes the function a generator


# Calls


def complete(client: type, call: Callable[[], Any]) -> Any:
    """Return the result of a client's call; of a stream, the list of its chunks."""
    if client is AsyncClient:
        return asyncio.run(complete_async(call))
    result = call()
    return list(result) if isinstance(result, Iterator) else result


async def complete_async(call: Callable[[], Any]) -> Any:
    result = call()
    if isinstance(result, AsyncIterator):
        return [chunk async for chunk in result]
    return await result if isinstance(result, Awaitable) else result


def chat(client: type, provider: Any, /, stream: bool = False, **arguments: Any) -> str:
    """Return the text of `chat.completions.create` of a client for a provider."""
    completions = client(provider=provider).chat.completions
    result = complete(client, lambda: completions.create(HELLO, stream=stream, **arguments))
    return text_of_stream(result) if stream else text_of(result)


def generate(client: type, provider: Any, /, **arguments: Any) -> Any:
    """Return the result of `images.generate` of a client for a provider."""
    images = client(provider=provider).images
    return complete(client, lambda: images.generate(PROMPT, **arguments))


def create_variation(client: type, **arguments: Any) -> Any:
    """Return the result of `images.create_variation` of a client for Websim."""
    images = client(provider=Websim).images
    return complete(client, lambda: images.create_variation(PNG_URI, **arguments))


def urls_of(response: Any) -> list[str]:
    return [image.url for image in response.data]


# Expectations


def expect(found: Any, expected: Any, what: str) -> None:
    """Raise an error if a value differs from the expected one. (`python -m` does not explain a failed assert.)"""
    if found != expected:
        raise AssertionError(f"{what}: {found!r:.300} instead of {expected!r:.300}")


def expect_chat(emulator: Emulator, text: str) -> None:
    """Expect the emulator's reply to one chat request."""
    expect(text, REPLY, "reply")
    expect([request.path for request in emulator.requests], [CHAT_PATH], "requests")
    body = emulator.requests[-1].json
    expect(sorted(body), ["messages", "project_id"], "fields of the request")
    expect(body["messages"], HELLO, "messages of the request")


def expect_images(emulator: Emulator, urls: list[str], count: int = 1) -> dict[str, Any]:
    """Expect the URLs of the emulator's images, one request for each, and return the body of the last request."""
    expect(len(urls), count, "images")
    expect([url for url in urls if not url.startswith(emulator.url)], [], "URLs of other servers")
    return expect_image_requests(emulator, count)


def expect_image_requests(emulator: Emulator, count: int = 1) -> dict[str, Any]:
    expect([request.path for request in emulator.requests], [IMAGE_PATH] * count, "requests")
    expect({request.json["prompt"] for request in emulator.requests}, {PROMPT}, "prompts of the requests")
    return emulator.requests[-1].json


def expect_saved_image(response: Any) -> None:
    """Expect that g4f has saved one image, and delete it."""
    (url,) = urls_of(response)
    expect(url.startswith("/media/"), True, "the URL is that of a file")
    (file,) = (file for folder in IMAGE_FOLDERS for file in Path(folder).glob("*"))
    expect(file.read_bytes()[:8], PNG_MAGIC, "first bytes of the file")
    file.unlink()


def expect_variation(emulator: Emulator, response: Any) -> None:
    expect([url.startswith(emulator.url) for url in urls_of(response)], [True], "URLs of the emulator")
    expect_image_input(emulator)


def expect_image_input(emulator: Emulator) -> None:
    expect([request.path for request in emulator.requests], [IMAGE_PATH], "requests")
    expect(emulator.requests[-1].json["image_inputs"], [{"url": PNG_URI}], "image of the request")


def expect_error(emulator: Emulator, expected: ExpectedError, call: Callable[[], Any], requests: int = 1) -> None:
    """Expect the error that a call raises after a number of requests."""
    emulator.inject(expected.fault, requests)
    error = error_of(call)
    found = (error.status, error.reason, error.retry_after)
    expect(isinstance(error, expected.kind), True, f"{type(error).__name__} is a {expected.kind.__name__}")
    expect(found, (expected.status, expected.reason, expected.retry_after), "status, reason and retry_after")
    expect(len(emulator.requests), requests, "requests")


def error_of(call: Callable[[], Any]) -> Any:
    """Return the error that a call raises; typed as Any because of the attributes of Websim's errors."""
    try:
        result = call()
    except Exception as error:
        return error
    raise AssertionError(f"no error, but {result!r:.300}")


def expect_state(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Expect equal registry states; show only what differs."""
    expect({key: value for key, value in found.items() if value != expected.get(key)}, {}, "what differs")
    expect(list(found), list(expected), "keys")


# The provider, called directly


@scenario("direct")
def direct_chat(emulator):
    (text,) = asyncio.run(call_websim(None, HELLO))
    expect_chat(emulator, text)


@scenario("direct")
def direct_image(emulator):
    (response,) = asyncio.run(call_websim("flux", None, prompt=PROMPT))
    expect(isinstance(response, ImageResponse), True, "the response is an ImageResponse")
    expect_images(emulator, response.get_list())


# Chats


@scenario("chat", place=PLACES, client=CLIENTS, provider=PROVIDERS, model=CHAT_MODELS, stream=STREAM)
def chat_with_provider(emulator, place, client, provider, model, stream):
    of_client, of_call = place(provider)
    expect_chat(emulator, chat(client, of_client, stream=stream, **of_call, **model))


@scenario("chat")
def model_with_provider_prefix(emulator):
    expect(get_model_and_provider("Websim:flux", None, False), ("flux", Websim), "model and provider")


# Images


@scenario("images", place=PLACES, client=CLIENTS, provider=PROVIDERS, model=IMAGE_MODELS)
def image_with_provider(emulator, place, client, provider, model):
    of_client, of_call = place(provider)
    expect_images(emulator, urls_of(generate(client, of_client, response_format="url", **of_call, **model)))


@scenario("images", client=CLIENTS)
def image_with_image_provider_of_client(emulator, client):
    images = client(image_provider=Websim).images
    expect_images(emulator, urls_of(complete(client, lambda: images.generate(PROMPT, response_format="url"))))


@scenario("images", client=CLIENTS, options=IMAGE_OPTIONS)
def image_with_options(emulator, client, options):
    arguments, expected = options
    urls = urls_of(generate(client, Websim, response_format="url", **arguments))
    body = expect_images(emulator, urls, count=arguments.get("n", 1))
    expect({name: body[name] for name in expected}, expected, "fields of the request")


@scenario("images", client=CLIENTS)
def image_as_base64(emulator, client):
    response = generate(client, Websim, response_format="b64_json")
    expect(base64.b64decode(response.data[0].b64_json)[:8], PNG_MAGIC, "first bytes of the image")
    expect_image_requests(emulator)


@scenario("images", client=CLIENTS)
def saved_image(emulator, client):
    emulator.inject(PNG_RESPONSE)
    expect_saved_image(generate(client, Websim))
    expect_image_requests(emulator)


@scenario("variations", client=CLIENTS, model=IMAGE_MODELS)
def variation(emulator, client, model):
    expect_variation(emulator, create_variation(client, response_format="url", **model))


@scenario("variations", client=CLIENTS)
def variation_by_async_method(emulator, client):
    images = client(provider=Websim).images
    expect_variation(emulator, asyncio.run(images.async_create_variation(image=PNG_URI, response_format="url")))


@scenario("variations", client=CLIENTS)
def saved_variation(emulator, client):
    emulator.inject(PNG_RESPONSE)
    expect_saved_image(create_variation(client))
    expect_image_input(emulator)


# g4f.ChatCompletion


@scenario("ChatCompletion", provider=PROVIDERS, stream=STREAM)
def create(emulator, provider, stream):
    chunks = g4f.ChatCompletion.create("gemini-1.5-pro", HELLO, provider=provider, stream=stream)
    expect_chat(emulator, "".join(chunks))


@scenario("ChatCompletion", provider=PROVIDERS, stream=STREAM)
def create_async(emulator, provider, stream):
    call = partial(g4f.ChatCompletion.create_async, "gemini-1.5-pro", HELLO, provider=provider, stream=stream)
    expect_chat(emulator, "".join(asyncio.run(complete_async(call))))


# Lists of providers


@scenario(
    "lists", client=CLIENTS, kind=LISTS, failure={"rate limit": (RATE_LIMIT, 3), "long one": (LONG_RATE_LIMIT, 1)}
)
def next_provider_replies_after_websim_fails(emulator, client, kind, failure):
    fault, requests = failure
    emulator.inject(fault, requests)
    expect(chat(client, kind([Websim, Other], False)), OTHER_REPLY, "reply")
    expect(len(emulator.requests), requests, "requests")


@scenario("lists", client=CLIENTS, kind=LISTS, stream=STREAM)
def websim_replies_after_other_provider_fails(emulator, client, kind, stream):
    expect_chat(emulator, chat(client, kind([Failing, Websim], False), stream=stream))


@scenario("lists", kind=LISTS)
def create_with_websim_after_other_provider_fails(emulator, kind):
    expect_chat(emulator, g4f.ChatCompletion.create("", HELLO, provider=kind([Failing, Websim], False)))


@scenario("lists", client=CLIENTS)
def next_provider_draws_after_websim_fails(emulator, client):
    emulator.inject(RATE_LIMIT, Websim.max_attempts)
    response = generate(client, IterListProvider([Websim, Other], False), response_format="url")
    expect(urls_of(response), [OTHER_IMAGE], "URLs")
    expect_image_requests(emulator, count=Websim.max_attempts)


@scenario("lists", client=CLIENTS)
def websim_draws_after_other_provider_fails(emulator, client):
    response = generate(client, IterListProvider([Failing, Websim], False), response_format="url")
    expect_images(emulator, urls_of(response))


# Errors and retries


CHATS = {
    "direct": lambda: asyncio.run(call_websim(None, HELLO)),
    **{
        f"{name}, {words}": partial(chat, client, Websim, stream=stream)
        for name, client in CLIENTS.items()
        for words, stream in STREAM.items()
    },
}
IMAGES = {
    "direct": lambda: asyncio.run(call_websim("flux", None, prompt=PROMPT)),
    **{name: partial(generate, client, Websim, response_format="url") for name, client in CLIENTS.items()},
}


@scenario("errors", call=CHATS, expected=CHAT_ERRORS)
def error_of_chat(emulator, call, expected):
    expect_error(emulator, expected, call)


@scenario("errors", call=IMAGES, expected=IMAGE_ERRORS)
def error_of_image(emulator, call, expected):
    expect_error(emulator, expected, call)


# Many lines replace Websim's error by a TimeoutError of their own, or raise one at the same time.
@scenario("errors", client=CLIENTS)
def timeout_of_chat(emulator, client):
    emulator.inject(SLOW_RESPONSE)
    error = error_of(lambda: chat(client, Websim, timeout=TIMEOUT))
    expect(isinstance(error, TimeoutError), True, f"{type(error).__name__} is a TimeoutError")


@scenario("errors", call=CHATS)
def rate_limit_error_after_all_attempts(emulator, call):
    expect_error(emulator, ExpectedError(RATE_LIMIT, RateLimitError, "rate_limited", 429), call, Websim.max_attempts)


@scenario("errors", client=CLIENTS)
def reply_after_rate_limit(emulator, client):
    emulator.inject(RATE_LIMIT)
    expect(chat(client, Websim), REPLY, "reply")
    expect(len(emulator.requests), 2, "requests")


# offline()


@scenario("offline", client=CLIENTS, provider=PROVIDERS)
def offline_chat(emulator, client, provider):
    with offline() as inner:
        expect_chat(inner, chat(client, provider))
    expect(Websim.url, emulator.url, "restored URL")


@scenario("offline", client=CLIENTS)
def offline_image(emulator, client):
    with offline() as inner:
        expect_images(inner, urls_of(generate(client, Websim, response_format="url")))
        expect_saved_image(generate(client, Websim, model="flux"))
        expect_image_requests(inner, count=2)


# The registry


@scenario("registry")
def is_found_by_name_and_listed_once(emulator):
    convert = Provider.ProviderUtils.convert
    listed = [provider for provider in Provider.__providers__ if provider.__name__ == "Websim"]
    expect((convert["Websim"], Provider.Websim, listed), (Websim, Websim, [Websim]), "providers with the name Websim")
    counts = [list(names).count("Websim") for names in (convert.keys(), Provider.__all__)]
    expect(("Websim" in convert, counts), (True, [1, 1]), "the names in convert and __all__")


@scenario("registry")
def is_listed_once_in_gui(emulator):
    from g4f.gui.server.api import Api

    listed = json.loads(json.dumps(Api.get_providers()))
    names = [entry["name"] if isinstance(entry, dict) else entry for entry in listed]
    expect(names.count("Websim"), 1, "number of the names in the list of the GUI")


@scenario("registry")
def replaces_builtin_websim_in_model_lists(emulator):
    builtin = STATE_WITHOUT_WEBSIM["converted"]
    expected = {
        name: [Websim if builtin and provider is builtin else provider for provider in providers]
        for name, providers in STATE_WITHOUT_WEBSIM["models"].items()
    }
    expect_state(registry_state()["models"], expected)


@scenario("registry")
def unregister_restores_state(emulator):
    with unregistered():
        expect_state(registry_state(), STATE_WITHOUT_WEBSIM)


@scenario("registry")
def unregister_restores_lists_that_g4f_has_filtered(emulator):
    for model in list(vars(g4f.models).values()):
        if Websim in getattr(getattr(model, "best_provider", None), "providers", []):
            # Some lines remove the providers that do not work from the list of the model.
            get_model_and_provider(model, None, False)
    with unregistered():
        remaining = [name for name, providers in model_lists() if Websim in providers]
    expect(remaining, [], "lists that still contain Websim")


@scenario("registry")
def register_again_after_unregister(emulator):
    registered = registry_state()
    with unregistered():
        pass
    register()
    expect_state(registry_state(), registered)
    expect_chat(emulator, chat(Client, "Websim"))


@contextmanager
def unregistered() -> Iterator[None]:
    unregister()
    try:
        yield
    finally:
        register()


# The command's changes of g4f


@scenario("fixes", fix={fix.target: fix for fix in dict.fromkeys((*CLIENT_FIXES, *OUTPUT_FIXES, *SERVER_FIXES))})
def is_found_by(emulator, fix):
    expect([applied.target for applied in apply([fix])], [fix.target], "applied")


@scenario("fixes")
def client_saves_whole_text(emulator):
    apply(OUTPUT_FIXES)
    from g4f.cli.client import save_content

    async def save() -> Any:
        saved = save_content("text\n```code```", None, "out.txt")
        return await saved if isinstance(saved, Awaitable) else saved

    expect(asyncio.run(save()), True, "saved")
    expect(Path("out.txt").read_text(), "text\n```code```", "file")


@scenario("fixes")
def repeated_messages_and_response_format_are_sent(emulator):
    apply(SERVER_FIXES)
    messages = [*HELLO, {"role": "assistant", "content": "Yes?"}, *HELLO]
    options = {"provider": Websim, "response_format": {"type": "json_object"}}
    text_of(asyncio.run(AsyncClient().chat.completions.create(messages, **options)))
    body = emulator.requests[-1].json
    expect((body["messages"], body.get("json")), (messages, True), "messages and json")


# Inside a running event loop. These scenarios are the last: nest_asyncio, with which g4f makes them possible, patches
# asyncio for the rest of the process.


@scenario("notebook", provider=PROVIDERS, stream=STREAM)
def chat_in_running_loop(emulator, provider, stream):
    async def cell() -> str:
        return chat(Client, provider, stream=stream)

    expect_chat(emulator, asyncio.run(cell()))


@scenario("notebook", provider=PROVIDERS)
def create_in_running_loop(emulator, provider):
    async def cell() -> str:
        return g4f.ChatCompletion.create("gemini-1.5-pro", HELLO, provider=provider)

    expect_chat(emulator, asyncio.run(cell()))


# The program


def run(each: Scenario) -> str:
    """Run a scenario and return its error, or an empty string if it passes.

    Every scenario has an emulator of its own, because a rate limit of one must not slow down the next.
    """
    forget_limits()
    with Emulator() as emulator:
        Websim.url = emulator.url
        try:
            each.run(emulator)
        except Exception as error:  # every error is printed
            return f"{type(error).__name__}: {error}"
    return ""


def keep_g4f_off_the_network() -> None:
    """Turn off the check for a new version, and write the provider list that g4f would download."""
    g4f.debug.version_check = False
    # g4f up to 8.6 looks into the folder of the cookies, later releases look into the cache.
    for folder in (get_cookies_dir(), os.environ["G4F_CACHE_DIR"]):
        write_provider_list(Path(folder))


def main() -> None:
    """Run all scenarios and print their results; everything else that is printed goes to stderr."""
    # g4f 8.4 and later skips a provider of a list for a minute after three failures.
    os.environ["G4F_DISABLE_CIRCUIT_BREAKER"] = "1"
    keep_g4f_off_the_network()
    Websim.backoff = BACKOFF
    stdout = sys.stdout
    with redirect_stdout(sys.stderr):
        for each in SCENARIOS:
            result = {"group": each.group, "scenario": each.name, "error": run(each)}
            print(json.dumps(result), file=stdout, flush=True)


if __name__ == "__main__":
    main()
