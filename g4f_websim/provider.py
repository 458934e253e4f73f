"""The provider class `Websim`: its attributes, and how a call becomes a chat request or image requests.

bodies.py builds what is sent, attempts.py sends it, and response.py reads the response.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import os
import random
import string
from collections.abc import AsyncGenerator, Iterator, Mapping
from functools import partial
from typing import Any, ClassVar

from g4f.Provider.base_provider import AsyncGeneratorProvider, ProviderModelMixin
from g4f.providers.response import ImageResponse

from .transport import attempts, sync
from .transport.log import log, log_once
from .transport.post import Request
from .transport.target import Target
from .wire import bodies, response, tokens
from .wire.arguments import check_retries, check_timeout
from .wire.endpoints import CHAT_PATH, DEFAULT_URL, IMAGE_PATH, URL_VARIABLE
from .wire.misspelled import meant_name

LAST_IS_ASSISTANT = (
    "the last message is the assistant's, so Websim may respond to an earlier question. "
    "g4f removes a message that repeats an earlier one: rephrase the question"
)

# The characters of a project id, apart from the underscore.
ID_CHARACTERS = string.ascii_lowercase + string.digits

Messages = list[dict[str, Any]] | None


def _warn_if_misspelled(kind: str, name: str, known: tuple[str, ...]) -> None:
    if meant := meant_name(name, known):
        log_once(logging.WARNING, f"the {kind} {name!r} is not known: did you mean {meant}?")


class SiteUrl:
    """A class attribute: the current value of the class's `url`, followed by a path."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __get__(self, instance: object, owner: type[Websim]) -> str:
        return owner.url.rstrip("/") + self._path


class Websim(AsyncGeneratorProvider, ProviderModelMixin):  # type: ignore[misc]  # g4f has no types
    """g4f's provider for Websim (websim.com): chat and images, no key needed.

    All attributes are read at call time: a subclass or an assignment changes what is sent and where. Websim chooses
    the model itself: the names of chat models are labels and are not sent. A response arrives in one chunk.

    Attributes:
        url: the URL of the site.
        max_attempts: the maximum number of attempts of a request.
        backoff: seconds before the second attempt; doubled before each further one.
        max_wait: the longest time in seconds that a call waits because of a rate limit or `Retry-After`.
    """

    label = "Websim"
    url: str = (os.environ.get(URL_VARIABLE) or DEFAULT_URL).strip().rstrip("/")
    login_url = health_url = SiteUrl("")
    chat_api_endpoint = SiteUrl(CHAT_PATH)
    image_api_endpoint = SiteUrl(IMAGE_PATH)

    working = supports_stream = supports_system_message = supports_message_history = True
    # g4f's stream_timeout limits the gap between two chunks. There is only one chunk, so `timeout` applies instead.
    needs_auth = use_nodriver = use_stream_timeout = False

    default_model = default_vision_model = "gemini-1.5-pro"
    default_image_model = "flux"
    vision_models: ClassVar[list[str]] = [default_model, "gemini-1.5-flash", "gemini-2.5-pro", "gemini-2.5-flash"]
    image_models: ClassVar[list[str]] = [default_image_model]
    models: ClassVar[list[str]] = [*vision_models, *image_models]

    max_attempts = 3
    backoff = 2.0
    max_wait = 60.0

    @staticmethod
    def generate_project_id(for_image: bool = False) -> str:
        """Return a random project id in the form of Websim's own ids.

        Args:
            for_image: whether to return the form for images (`kx0m131_rzz66qb2xoy7`) instead of the form for chats
                (`ke3_xh5gai3gjkmruomu`).
        """
        characters = "".join(random.choices(ID_CHARACTERS, k=19))
        position = 7 if for_image else 3
        return f"{characters[:position]}_{characters[position:]}"

    @classmethod
    def is_provider_api_key(cls, api_key: Any) -> bool:
        """Return whether a key is a Websim token; g4f calls this before it passes a key to the provider."""
        return tokens.is_token(tokens.clean_key(api_key))

    @classmethod
    async def get_health(cls, api_key: str | None = None, **kwargs: Any) -> dict[str, Any]:
        """Return g4f's report on whether the site responds.

        Args:
            api_key: not sent; g4f passes the key of the client of its server.
            kwargs: ignored.
        """
        return dict(await cls.probe_health(cls.health_url))

    @classmethod
    async def create_async_generator(
        cls,
        model: str | None,
        messages: Messages,
        prompt: str | None = None,
        proxy: str | None = None,
        aspect_ratio: str | None = bodies.DEFAULT_ASPECT_RATIO,
        project_id: str | None = None,
        *,
        media: list[Any] | None = None,
        n: int | None = None,
        width: int | None = None,
        height: int | None = None,
        seed: int | None = None,
        transparent: bool | None = None,
        response_format: dict[str, Any] | None = None,
        json: bool | None = None,
        api_key: str | dict[str, str] | None = None,
        timeout: float | None = None,
        **kwargs: Any,
    ) -> AsyncGenerator[Any, None]:  # `str | ImageResponse` would have to be narrowed by every caller
        """Request a chat completion or images from Websim.

        Args:
            model: one of `image_models` for an image, any other name for a chat; the name of another service's image
                model is an error. With None, "" or "auto", a call with a prompt is an image, and one without is a chat.
            messages: the conversation in OpenAI's form.
            prompt: the description of the image, or the last user message of a chat.
            proxy: URL of an http, https, socks4, socks5 or socks5h proxy.
            aspect_ratio: the aspect ratio of the image, `W:H`.
            project_id: a Websim project id or the URL of a project page. The default is WEBSIM_PROJECT_ID, or else a
                random id.
            media: images for a chat, or reference images for an image.
            n: the number of images, 1 to 10.
            width: the width of the image in pixels.
            height: the height of the image in pixels.
            seed: the seed of the image.
            transparent: whether the background of the image is transparent.
            response_format: `{"type": "json_object"}` requests JSON; the schema of the type `json_schema` is sent too.
            json: True requests JSON; g4f's client passes this argument on, but not `response_format`.
            api_key: a Websim token (a JSON Web Token), or a dict with one under this class's name; `Bearer`, quotes
                and blanks around it are removed. Other keys are not sent.
            timeout: seconds for the whole call, delays and the queue included.
            kwargs: other arguments of g4f, ignored except OpenAI's `size`.

        Returns:
            An async generator of one `str`, or of one `ImageResponse`. Nothing is sent before it is iterated.

        Raises:
            ValueError: an argument is malformed or out of range; nothing was sent.
            WebsimError: the call failed; see the classes in g4f_websim/errors.py.
        """
        model = bodies.strip_provider_prefix(model, [*cls.models, *cls.image_models, "auto"])
        is_image = model in cls.image_models or (model in ("", "auto") and prompt is not None)
        for name in kwargs:
            _warn_if_misspelled("argument", name, ARGUMENTS)
        project_id = bodies.check_project_id(project_id) or cls.generate_project_id(for_image=is_image)
        key = api_key.get(cls.__name__) if isinstance(api_key, dict) else api_key
        token, others = tokens.find_token(key)
        for source in others:
            log_once(logging.INFO, f"{source} is not a Websim token (a JSON Web Token): not sent")
        page = bodies.IMAGE_PAGE if is_image else bodies.CHAT_PAGE
        headers = bodies.build_headers(cls.login_url, page, token)
        options = kwargs | {
            "media": media, "n": n, "width": width, "height": height, "seed": seed, "transparent": transparent,
            "response_format": response_format, "json": json, "api_key": key, "unsent_keys": others, "timeout": timeout,
        }  # fmt: skip
        options.pop("headers", None)  # the handlers have a parameter of that name
        if is_image:
            handler = cls._handle_image_request(project_id, messages, prompt, aspect_ratio, headers, proxy, **options)
        else:
            if model and model not in cls.vision_models:
                bodies.check_chat_model(model, cls.image_models)
                _warn_if_misspelled("model", model, ("auto", *cls.models))
            handler = cls._handle_chat_request(project_id, messages, headers, proxy, prompt=prompt, **options)
        try:
            async for chunk in handler:
                yield chunk
        finally:
            await handler.aclose()

    @classmethod
    def create_completion(cls, model: str | None, messages: Messages, **kwargs: Any) -> Iterator[Any]:
        """Request a chat completion or images for a sync caller; g4f's `Client` calls this.

        The event loop and its connections are kept for the next call. If an event loop already runs in this thread,
        g4f's `to_sync_generator` is used.

        Args:
            model: see `create_async_generator`.
            messages: see `create_async_generator`.
            kwargs: the other arguments of `create_async_generator`.

        Returns:
            An iterator over what `create_async_generator` yields.
        """
        return sync.iterate(cls.create_async_generator(model, messages, **kwargs))

    @classmethod
    async def _handle_chat_request(
        cls, project_id: str, messages: Messages, headers: Mapping[str, str], proxy: str | None = None, **kwargs: Any
    ) -> AsyncGenerator[str, None]:
        """Yield the text of a chat response."""
        body = bodies.chat_body(project_id, messages, **kwargs)
        if body["messages"][-1]["role"] == "assistant":
            log(logging.WARNING, LAST_IS_ASSISTANT)
        request = cls._request(cls.chat_api_endpoint, headers, body, proxy, kwargs)
        text = await attempts.send(request, cls, check_timeout(kwargs.get("timeout")), response.chat_text)
        yield response.json_text(text) if "json" in body else text

    @classmethod
    async def _handle_image_request(
        cls,
        project_id: str,
        messages: Messages,
        prompt: str | None,
        aspect_ratio: str | None,
        headers: Mapping[str, str],
        proxy: str | None = None,
        **kwargs: Any,
    ) -> AsyncGenerator[ImageResponse, None]:
        """Yield the images of `n` requests, or those that did not fail."""
        count = bodies.check_count(kwargs.get("n"))
        body = bodies.image_body(project_id, messages, prompt, aspect_ratio, **kwargs)
        request = cls._request(cls.image_api_endpoint, headers, body, proxy, kwargs)
        time_limit, read = check_timeout(kwargs.get("timeout")), partial(response.image_url, site=cls.url)
        sending = (attempts.send(request, cls, time_limit, read) for _ in range(count))
        results = await asyncio.gather(*sending, return_exceptions=True)
        urls = [result for result in results if isinstance(result, str)]
        failures = [result for result in results if isinstance(result, BaseException)]
        if not urls:
            raise failures[0]
        if failures:
            reasons = "; ".join(dict.fromkeys(map(str, failures)))
            log(logging.WARNING, f"{len(failures)} of {count} images failed: {reasons}")
        yield ImageResponse(urls, body["prompt"])

    @classmethod
    def _request(
        cls, url: str, headers: Mapping[str, str], body: Mapping[str, Any], proxy: Any, options: Mapping[str, Any]
    ) -> Request:
        """Return the request to send, or raise a `ValueError` if the URL, the proxy or a retry setting is malformed."""
        # The handlers receive headers instead of the token.
        token = headers.get("authorization", "").removeprefix("Bearer ")
        key = tokens.clean_key(options.get("api_key"))
        is_unsent = bool(options.get("unsent_keys")) and not token
        target = Target(str(url), token or None, key or None, str(proxy) if proxy else None, is_unsent)
        check_retries(cls.max_attempts, cls.backoff, cls.max_wait)
        return Request(target, headers, json.dumps(body).encode())


# The arguments that are not ignored; `size` is OpenAI's name for width and height.
ARGUMENTS = (*inspect.signature(Websim.create_async_generator).parameters, "size")
