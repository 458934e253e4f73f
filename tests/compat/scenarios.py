"""Run every use of Websim through the g4f on sys.path and print a line of JSON for each; lines.py runs this."""

import asyncio
import base64
import itertools
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from datetime import date, timedelta
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import g4f
import g4f.models
from g4f import Provider
from g4f.client import AsyncClient, Client
from g4f.client.service import get_model_and_provider
from g4f.cookies import get_cookies_dir
from g4f.errors import ResponseError
from g4f.Provider import IterListProvider, RetryProvider
from g4f.Provider.base_provider import AsyncGeneratorProvider, ProviderModelMixin
from g4f.providers.response import ImageResponse


def standing() -> dict[str, Any]:
    """Return all by which g4f knows its providers."""
    convert = Provider.ProviderUtils.convert
    return {
        "__all__": list(Provider.__all__),
        "__providers__": list(vars(Provider).get("__providers__", [])),
        "names": list(convert.keys()),
        "found": convert.get("Websim"),
        "attribute": getattr(Provider, "Websim", None),
        "models": {where: list(providers) for where, providers in model_lists()},
    }


def model_lists() -> Iterator[tuple[str, list[Any]]]:
    """Yield each list of providers that g4f keeps by model, with the model's name and where it is kept."""
    for name, value in vars(g4f.models).items():
        best = getattr(value, "best_provider", None)
        if best is not None:
            yield name, getattr(best, "providers", [best])
    for table in ("__models__", "demo_models"):
        for name, (_, providers) in getattr(g4f.models, table, {}).items():
            yield f"{table} {name}", providers


# What g4f has of its own accord can be seen only before the package is imported.
BEFORE = standing()

from g4f_websim import Websim, register, unregister  # noqa: E402
from g4f_websim.emulator import Emulator, Fault  # noqa: E402
from g4f_websim.endpoints import CHAT_PATH, IMAGE_PATH  # noqa: E402
from tests.support.calls import HELLO, PNG_URI, ask  # noqa: E402

BACKOFF_SECONDS = 0.001

ANSWER = "This is the offline Websim; no model was asked. You said: Hello"
OTHER_ANSWER = "the other one answers"
OTHER_PICTURE = "https://other.example/cat.png"
PROMPT = "a cat"
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
RATE_LIMIT = Fault(status=429)
ANSWER_WITH_PNG = Fault(body=json.dumps({"url": PNG_URI}).encode())
LONG_WAIT = Fault(status=429, headers={"Retry-After": "3600"})

CLIENTS = {"Client": Client, "AsyncClient": AsyncClient}
PROVIDERS = {"by class": Websim, "by name": "Websim"}
CHAT_MODELS = {"with a model": {"model": "gemini-2.5-pro"}, "without a model": {}}
IMAGE_MODELS = {"with flux": {"model": "flux"}, "without a model": {}}
SIZES = {"width and height": {"width": 1920, "height": 1080}, "size": {"size": "1920x1080"}}
LISTS = {"IterListProvider": IterListProvider, "RetryProvider": RetryProvider}
MEDIA_FOLDERS = ("generated_images", "generated_media")
# The two that some lines must find there to list their providers at all.
FETCHED_BY_G4F = {
    "providers": {name: {"baseUrl": "http://127.0.0.1:9/v1"} for name in ("default", "orcarouter")},
    "defaultModels": {},
}


class Way(NamedTuple):
    """One way: the column of the table that it counts in, its name, and the function that goes it."""

    group: str
    name: str
    go: Callable[[Emulator], None]


WAYS: list[Way] = []


def way(group: str, **axes: dict[str, Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Count a function among the ways, once for each combination of the choices on the axes."""

    def add(function: Callable[..., None]) -> Callable[..., None]:
        for labels in itertools.product(*axes.values()):
            chosen = {axis: axes[axis][label] for axis, label in zip(axes, labels, strict=True)}
            name = ", ".join([function.__name__.replace("_", " "), *labels])
            WAYS.append(Way(group, name, partial(function, **chosen)))
        return function

    return add


class Other(AsyncGeneratorProvider, ProviderModelMixin):
    """Another provider, whose answers can be told from Websim's."""

    url = "https://other.example"
    default_model = "other"
    working = True
    supports_stream = True

    @classmethod
    async def create_async_generator(cls, model: Any, messages: Any, prompt: Any = None, **kwargs: Any) -> Any:
        yield ImageResponse([OTHER_PICTURE], prompt) if prompt else OTHER_ANSWER


class Failing(Other):
    """Another provider, which never answers."""

    @classmethod
    async def create_async_generator(cls, model: Any, messages: Any, **kwargs: Any) -> Any:
        raise ResponseError("the other one fails")
        yield  # what makes it a generator


def expect(found: Any, expected: Any, what: str) -> None:
    if found != expected:
        raise AssertionError(f"{what}: {found!r:.300} instead of {expected!r:.300}")


def expect_chat(websim_server: Emulator, answer: str) -> None:
    """Expect Websim's answer, and one request that asked for it."""
    expect(answer, ANSWER, "answer")
    expect([request.path for request in websim_server.requests], [CHAT_PATH], "requests")
    body = websim_server.requests[-1].json
    expect(sorted(body), ["messages", "project_id"], "fields sent")
    expect(body["messages"], HELLO, "messages sent")


def expect_pictures(websim_server: Emulator, urls: list[str], count: int = 1) -> dict[str, Any]:
    """Expect Websim's pictures, and as many requests that asked for them; return what the last one sent."""
    expect(len(urls), count, "pictures")
    expect([url for url in urls if not url.startswith(websim_server.url)], [], "pictures from elsewhere")
    return expect_drawn(websim_server, count)


def expect_drawn(websim_server: Emulator, count: int = 1) -> dict[str, Any]:
    expect([request.path for request in websim_server.requests], [IMAGE_PATH] * count, "requests")
    expect({request.json["prompt"] for request in websim_server.requests}, {PROMPT}, "prompt sent")
    return websim_server.requests[-1].json


def outcome(client: type, call: Callable[[], Any]) -> Any:
    """Return what a call of a client's comes to: inside a loop for the async one, the chunks of a stream as a list."""
    if client is AsyncClient:
        return asyncio.run(awaited(call))
    result = call()
    return list(result) if isinstance(result, Iterator) else result


async def awaited(call: Callable[[], Any]) -> Any:
    result = call()
    if isinstance(result, AsyncIterator):
        return [chunk async for chunk in result]
    return await result if isinstance(result, Awaitable) else result


def text_of(completion: Any) -> str:
    return completion.choices[0].message.content


def text_of_stream(chunks: list[Any]) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


def urls_of(response: Any) -> list[str]:
    return [picture.url for picture in response.data]


@way("imported", model=CHAT_MODELS)
def chat(websim_server, model):
    (answer,) = asyncio.run(ask(model.get("model"), HELLO))
    expect_chat(websim_server, answer)


@way("imported", model={"flux": "flux", "Websim:flux": "Websim:flux", "no model": None})
def picture(websim_server, model):
    (response,) = asyncio.run(ask(model, None, prompt=PROMPT))
    expect(isinstance(response, ImageResponse), True, "an ImageResponse")
    expect_pictures(websim_server, response.get_list())


@way("chat", client=CLIENTS, provider=PROVIDERS, model=CHAT_MODELS)
def client_made_for_websim(websim_server, client, provider, model):
    made = client(provider=provider)
    expect_chat(websim_server, text_of(outcome(client, lambda: made.chat.completions.create(HELLO, **model))))


@way("chat", client=CLIENTS, provider=PROVIDERS, model=CHAT_MODELS)
def client_told_in_the_call(websim_server, client, provider, model):
    made = client()
    completion = outcome(client, lambda: made.chat.completions.create(HELLO, provider=provider, **model))
    expect_chat(websim_server, text_of(completion))


@way("chat", client=CLIENTS, provider=PROVIDERS, model=CHAT_MODELS)
def stream_of_a_client_made_for_websim(websim_server, client, provider, model):
    made = client(provider=provider)
    chunks = outcome(client, lambda: made.chat.completions.create(HELLO, stream=True, **model))
    expect_chat(websim_server, text_of_stream(chunks))


@way("chat", client=CLIENTS, provider=PROVIDERS)
def stream_told_in_the_call(websim_server, client, provider):
    made = client()
    chunks = outcome(client, lambda: made.chat.completions.create(HELLO, provider=provider, stream=True))
    expect_chat(websim_server, text_of_stream(chunks))


@way("chat")
def model_with_websim_before_it(websim_server):
    expect(get_model_and_provider("Websim:flux", None, False), ("flux", Websim), "model and provider")


def generate(client: type, made_for: Any, **arguments: Any) -> Any:
    """Return the response of `images.generate` of a client made for a provider."""
    images = client(provider=made_for).images
    return outcome(client, lambda: images.generate(PROMPT, **arguments))


@way("pictures", client=CLIENTS, provider=PROVIDERS, model=IMAGE_MODELS)
def pictures_of_a_client_made_for_websim(websim_server, client, provider, model):
    expect_pictures(websim_server, urls_of(generate(client, provider, response_format="url", **model)))


@way("pictures", client=CLIENTS, provider=PROVIDERS, model=IMAGE_MODELS)
def pictures_told_in_the_call(websim_server, client, provider, model):
    response = generate(client, None, provider=provider, response_format="url", **model)
    expect_pictures(websim_server, urls_of(response))


@way("pictures", client=CLIENTS)
def picture_by_the_image_provider(websim_server, client):
    images = client(image_provider=Websim).images
    expect_pictures(websim_server, urls_of(outcome(client, lambda: images.generate(PROMPT, response_format="url"))))


@way("pictures", client=CLIENTS)
def picture_of_the_model_with_websim_before_it(websim_server, client):
    expect_pictures(websim_server, urls_of(generate(client, Websim, model="Websim:flux", response_format="url")))


@way("pictures", client=CLIENTS)
def two_pictures(websim_server, client):
    expect_pictures(websim_server, urls_of(generate(client, Websim, n=2, response_format="url")), count=2)


@way("pictures", client=CLIENTS, size=SIZES)
def picture_of_a_size(websim_server, client, size):
    body = expect_pictures(websim_server, urls_of(generate(client, Websim, response_format="url", **size)))
    expect((body["width"], body["height"], body["aspect_ratio"]), (1920, 1080, "16:9"), "size sent")


@way("pictures", client=CLIENTS)
def picture_as_base64(websim_server, client):
    response = generate(client, Websim, response_format="b64_json")
    expect(base64.b64decode(response.data[0].b64_json)[:8], PNG_MAGIC, "start of the file")
    expect_drawn(websim_server)


@way("pictures", client=CLIENTS)
def picture_downloaded(websim_server, client):
    websim_server.inject(ANSWER_WITH_PNG)
    expect_downloaded(generate(client, Websim))
    expect_drawn(websim_server)


def expect_downloaded(response: Any) -> None:
    (address,) = urls_of(response)
    expect(address.startswith("/media/"), True, "an address of the file")
    (file,) = (file for folder in MEDIA_FOLDERS for file in Path(folder).glob("*"))
    expect(file.read_bytes()[:8], PNG_MAGIC, "start of the file")
    file.unlink()


@way("variations", client=CLIENTS, model=IMAGE_MODELS)
def variation(websim_server, client, model):
    images = client(provider=Websim).images
    response = outcome(client, lambda: images.create_variation(PNG_URI, response_format="url", **model))
    expect_variation(websim_server, response)


@way("variations", client=CLIENTS)
def variation_by_the_async_method(websim_server, client):
    images = client(provider=Websim).images
    response = asyncio.run(images.async_create_variation(image=PNG_URI, response_format="url"))
    expect_variation(websim_server, response)


@way("variations", client=CLIENTS)
def variation_downloaded(websim_server, client):
    websim_server.inject(ANSWER_WITH_PNG)
    images = client(provider=Websim).images
    expect_downloaded(outcome(client, lambda: images.create_variation(PNG_URI)))
    expect(websim_server.requests[-1].json["image_inputs"], [{"url": PNG_URI}], "picture sent")


def expect_variation(websim_server: Emulator, response: Any) -> None:
    expect([url.startswith(websim_server.url) for url in urls_of(response)], [True], "pictures of Websim's")
    expect([request.path for request in websim_server.requests], [IMAGE_PATH], "requests")
    expect(websim_server.requests[-1].json["image_inputs"], [{"url": PNG_URI}], "picture sent")


@way("ChatCompletion", provider=PROVIDERS)
def create(websim_server, provider):
    expect_chat(websim_server, g4f.ChatCompletion.create("gemini-1.5-pro", HELLO, provider=provider))


@way("ChatCompletion", provider=PROVIDERS)
def create_as_a_stream(websim_server, provider):
    expect_chat(
        websim_server, "".join(g4f.ChatCompletion.create("gemini-1.5-pro", HELLO, provider=provider, stream=True))
    )


@way("ChatCompletion", provider=PROVIDERS)
def create_async(websim_server, provider):
    call = partial(g4f.ChatCompletion.create_async, "gemini-1.5-pro", HELLO, provider=provider)
    expect_chat(websim_server, asyncio.run(awaited(call)))


@way("ChatCompletion", provider=PROVIDERS)
def create_async_as_a_stream(websim_server, provider):
    call = partial(g4f.ChatCompletion.create_async, "gemini-1.5-pro", HELLO, provider=provider, stream=True)
    expect_chat(websim_server, "".join(asyncio.run(awaited(call))))


@way("lists", client=CLIENTS, kind=LISTS)
def websim_that_fails_hands_over(websim_server, client, kind):
    websim_server.inject(RATE_LIMIT, Websim.max_tries)
    made = client(provider=kind([Websim, Other], False))
    expect(text_of(outcome(client, lambda: made.chat.completions.create(HELLO))), OTHER_ANSWER, "answer")
    expect(len(websim_server.requests), Websim.max_tries, "requests")


@way("lists", client=CLIENTS, kind=LISTS)
def websim_that_is_to_wait_too_long_hands_over_at_once(websim_server, client, kind):
    websim_server.inject(LONG_WAIT)
    made = client(provider=kind([Websim, Other], False))
    expect(text_of(outcome(client, lambda: made.chat.completions.create(HELLO))), OTHER_ANSWER, "answer")
    expect(len(websim_server.requests), 1, "requests")


@way("lists", client=CLIENTS, kind=LISTS)
def another_that_fails_hands_over_to_websim(websim_server, client, kind):
    made = client(provider=kind([Failing, Websim], False))
    expect_chat(websim_server, text_of(outcome(client, lambda: made.chat.completions.create(HELLO))))


@way("lists", client=CLIENTS, kind=LISTS)
def stream_handed_over_to_websim(websim_server, client, kind):
    made = client(provider=kind([Failing, Websim], False))
    expect_chat(
        websim_server, text_of_stream(outcome(client, lambda: made.chat.completions.create(HELLO, stream=True)))
    )


@way("lists", kind=LISTS)
def create_handed_over_to_websim(websim_server, kind):
    expect_chat(websim_server, g4f.ChatCompletion.create("", HELLO, provider=kind([Failing, Websim], False)))


@way("lists", client=CLIENTS)
def picture_that_fails_is_handed_over(websim_server, client):
    websim_server.inject(RATE_LIMIT, Websim.max_tries)
    response = generate(client, IterListProvider([Websim, Other], False), response_format="url")
    expect(urls_of(response), [OTHER_PICTURE], "picture")
    expect_drawn(websim_server, count=Websim.max_tries)


@way("lists", client=CLIENTS)
def picture_handed_over_to_websim(websim_server, client):
    response = generate(client, IterListProvider([Failing, Websim], False), response_format="url")
    expect_pictures(websim_server, urls_of(response))


@way("registry")
def listed_once_in_providers(websim_server):
    listed = [provider for provider in Provider.__providers__ if provider.__name__ == "Websim"]
    expect(listed, [Websim], "providers called Websim")


@way("registry")
def converted_from_its_name(websim_server):
    expect("Websim" in Provider.ProviderUtils.convert, True, "in convert")
    expect(Provider.ProviderUtils.convert["Websim"], Websim, "what convert has")
    expect(list(Provider.ProviderUtils.convert.keys()).count("Websim"), 1, "times among the names")


@way("registry")
def named_once_in_all(websim_server):
    expect(Provider.__all__.count("Websim"), 1, "times in __all__")


@way("registry")
def attribute_of_the_package_of_providers(websim_server):
    expect(Provider.Websim, Websim, "g4f.Provider.Websim")


@way("registry")
def listed_once_by_the_gui(websim_server):
    from g4f.gui.server.api import Api

    listed = json.loads(json.dumps(Api.get_providers()))
    names = [entry["name"] if isinstance(entry, dict) else entry for entry in listed]
    expect(names.count("Websim"), 1, "times in the list of the GUI")


@way("registry")
def model_lists_have_it_in_place_of_the_one_shipped(websim_server):
    shipped = BEFORE["found"]
    expected = {
        where: [Websim if shipped and provider is shipped else provider for provider in providers]
        for where, providers in BEFORE["models"].items()
    }
    expect_same(standing()["models"], expected)


@way("registry")
def unregister_puts_back_what_was_there(websim_server):
    with unregistered():
        expect_same(standing(), BEFORE)


@way("registry")
def unregister_puts_back_what_g4f_has_narrowed_since(websim_server):
    for model in list(vars(g4f.models).values()):
        if Websim in getattr(getattr(model, "best_provider", None), "providers", []):
            get_model_and_provider(model, None, False)
    with unregistered():
        left = [where for where, providers in model_lists() if Websim in providers]
    expect(left, [], "lists that still have it")


@way("registry")
def register_once_more(websim_server):
    registered = standing()
    with unregistered():
        pass
    register()
    expect_same(standing(), registered)
    expect_chat(websim_server, text_of(Client(provider="Websim").chat.completions.create(HELLO)))


@contextmanager
def unregistered() -> Iterator[None]:
    unregister()
    try:
        yield
    finally:
        register()


def expect_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    expect({key: value for key, value in found.items() if value != expected.get(key)}, {}, "what differs")
    expect(list(found), list(expected), "keys")


# The last ways: where g4f patches the loop for them, asyncio stays patched.
@way("notebook", provider=PROVIDERS)
def chat_inside_a_running_loop(websim_server, provider):
    async def cell() -> str:
        return text_of(Client(provider=provider).chat.completions.create(HELLO))

    expect_chat(websim_server, asyncio.run(cell()))


@way("notebook")
def stream_inside_a_running_loop(websim_server):
    async def cell() -> str:
        return text_of_stream(list(Client(provider=Websim).chat.completions.create(HELLO, stream=True)))

    expect_chat(websim_server, asyncio.run(cell()))


@way("notebook", provider=PROVIDERS)
def create_inside_a_running_loop(websim_server, provider):
    async def cell() -> str:
        return g4f.ChatCompletion.create("gemini-1.5-pro", HELLO, provider=provider)

    expect_chat(websim_server, asyncio.run(cell()))


def failure_of(each: Way, websim_server: Emulator) -> str:
    """Go a way and return why it failed, "" where it did not."""
    websim_server.reset()
    try:
        each.go(websim_server)
    except Exception as error:  # whatever it is, it is what the table says
        return f"{type(error).__name__}: {error}"
    return ""


def keep_g4f_off_the_network() -> None:
    """Put what g4f fetches to list its providers where it looks first."""
    cookies, cache = Path(get_cookies_dir()), Path(os.environ["G4F_CACHE_DIR"])
    for folder in (cookies / "models", cookies / ".models", cache / ".models"):  # 8.1 to 8.3, to 8.6, and later
        for day in (date.today(), date.today() + timedelta(days=1)):
            file = folder / str(day) / "providers.json"
            file.parent.mkdir(parents=True)
            file.write_text(json.dumps(FETCHED_BY_G4F))


def main() -> None:
    g4f.debug.version_check = False
    # Or g4f 8.4 and later would pass over a provider that has failed three times of late.
    os.environ["G4F_DISABLE_CIRCUIT_BREAKER"] = "1"
    keep_g4f_off_the_network()
    Websim.backoff = BACKOFF_SECONDS
    results = sys.stdout
    with redirect_stdout(sys.stderr), Emulator() as emulator:
        Websim.url = emulator.url
        for each in WAYS:
            result = {"group": each.group, "way": each.name, "failure": failure_of(each, emulator)}
            print(json.dumps(result), file=results, flush=True)


if __name__ == "__main__":
    main()
