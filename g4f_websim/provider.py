"""Websim, the provider: its attributes, which of the two requests a call is, and what is handed back.

request.py turns the arguments into what is sent, transport.py sends it, response.py reads what comes back.
"""

from __future__ import annotations

import asyncio
import os
import random
import string
from collections.abc import AsyncGenerator
from functools import partial
from typing import Any, ClassVar

import g4f.debug
from g4f.Provider.base_provider import AsyncGeneratorProvider, ProviderModelMixin
from g4f.providers.response import ImageResponse

from . import request, response
from .transport import Call, Headers

# The site's address since mid 2025; before, it was https://websim.ai.
DEFAULT_URL = "https://websim.com"

# A token for the calls that have none of their own; like the address, it is read once.
TOKEN = os.environ.get("WEBSIM_API_KEY")

CHAT_PATH = "/api/v1/inference/run_chat_completion"
IMAGE_PATH = "/api/v1/inference/run_image_generation"

# A character for each value of a byte.
_ID_CHARACTERS = ((string.ascii_lowercase + string.digits) * 8)[:256].encode()


class _UnderUrl:
    """A class attribute that is an address under the class's `url`, whatever that is by then."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __get__(self, instance: object, owner: type[Websim]) -> str:
        return owner.url.rstrip("/") + self._path


class Websim(AsyncGeneratorProvider, ProviderModelMixin):  # type: ignore[misc]  # g4f has no types
    """g4f's provider for Websim (websim.com): chat and pictures, no key needed.

    Every attribute is read at call time: a subclass or an assignment changes what is sent, and where. Websim picks
    the model itself, so the name of a chat model is a label and is not sent. An answer comes whole, as one chunk.
    """

    label = "Websim"
    url: str = (os.environ.get("WEBSIM_URL") or DEFAULT_URL).rstrip("/")
    login_url = health_url = _UnderUrl("")
    chat_api_endpoint = _UnderUrl(CHAT_PATH)
    image_api_endpoint = _UnderUrl(IMAGE_PATH)

    working = supports_stream = supports_system_message = supports_message_history = True
    # g4f's stream_timeout is for the gaps between tokens, and here there are none: `timeout` is the one that holds.
    needs_auth = use_nodriver = use_stream_timeout = False

    default_model = default_vision_model = "gemini-1.5-pro"
    default_image_model = "flux"
    vision_models: ClassVar[list[str]] = [default_model, "gemini-1.5-flash", "gemini-2.5-pro", "gemini-2.5-flash"]
    image_models: ClassVar[list[str]] = [default_image_model]
    models: ClassVar[list[str]] = [*vision_models, *image_models]

    max_tries = 3
    backoff = 2.0
    max_wait = 60.0

    @staticmethod
    def generate_project_id(for_image: bool = False) -> str:
        """Return a random project id of the shape that Websim's own have.

        Args:
            for_image: whether the id is for a picture (as `kx0m131_rzz66qb2xoy7`) or a chat (`ke3_xh5gai3gjkmruomu`).
        """
        characters = random.randbytes(19).translate(_ID_CHARACTERS).decode()
        cut = 7 if for_image else 3
        return f"{characters[:cut]}_{characters[cut:]}"

    @classmethod
    def is_provider_api_key(cls, api_key: Any) -> bool:
        """Whether a key is Websim's own, that is a JSON Web Token; g4f asks this before it hands one over."""
        return request.is_jwt(api_key)

    @classmethod
    async def get_health(cls, api_key: str | None = None, **kwargs: Any) -> dict[str, Any]:
        """Return g4f's report on whether the site answers.

        Args:
            api_key: not sent; g4f passes the key of whoever asked its server.
        """
        return dict(await cls.probe_health(cls.health_url))

    @classmethod
    def create_async_generator(
        cls,
        model: str | None,
        messages: list[dict[str, Any]] | None,
        prompt: str | None = None,
        proxy: str | None = None,
        aspect_ratio: str | None = request.DEFAULT_ASPECT_RATIO,
        project_id: str | None = None,
        *,
        media: list[Any] | None = None,
        n: int | None = None,
        width: int | None = None,
        height: int | None = None,
        seed: int | None = None,
        transparent: bool | None = None,
        response_format: dict[str, Any] | None = None,
        api_key: str | dict[str, str] | None = None,
        timeout: float | None = None,
        **kwargs: Any,
    ) -> AsyncGenerator[str | ImageResponse, None]:
        """Ask Websim for an answer or for pictures.

        Args:
            model: one of `image_models` for a picture, anything else for a chat; None, "" or "auto" is a picture
                where there is a prompt and a chat where there is none.
            messages: the conversation, OpenAI's way.
            prompt: what to draw, or the last user turn of a chat.
            proxy: an http, https, socks4, socks5 or socks5h address.
            aspect_ratio: of the picture, `W:H`.
            project_id: the Websim project to ask as; WEBSIM_PROJECT_ID or a random id where it is None.
            media: pictures to look at in a chat, or to draw after.
            n: how many pictures, 1 to 10.
            width, height: of the picture in pixels.
            seed: of the picture.
            transparent: whether the picture's background is to be.
            response_format: `{"type": "json_object"}` asks for a JSON answer.
            api_key: a Websim token (a JWT), or a dict that has one under "Websim". No other key is ever sent.
            timeout: seconds for the whole call, waits included.
            kwargs: what g4f passes besides, ignored but for OpenAI's `size`.

        Returns:
            An async generator of the answer as one `str`, or of the pictures as one `ImageResponse`; it raises all of
            the errors below, and nothing is sent before it is iterated.

        Raises:
            ValueError: an argument is not what it should be; nothing was sent.
            RateLimitError, MissingAuthError, ResponseStatusError: Websim refused.
            ResponseError, NoMediaResponseError: the connection failed, or what came is no answer.
            TimeoutError: `timeout` is over.
        """
        model = request.plain_model(model)
        is_image = model in cls.image_models or (model in ("", "auto") and prompt is not None)
        if project_id is None:
            project_id = os.environ.get("WEBSIM_PROJECT_ID") or cls.generate_project_id(for_image=is_image)
        key = api_key.get("Websim") if isinstance(api_key, dict) else api_key
        page = request.IMAGE_PAGE if is_image else request.CHAT_PAGE
        # The login's address is that of the site, without a slash at its end.
        headers = request.build_headers(cls.login_url, page, keys=(key, TOKEN))
        if is_image:
            # Of the rest only `size` is read; a caller's `headers` or `url` would clash with arguments of ours.
            options: dict[str, Any] = {"width": width, "height": height, "size": kwargs.get("size")}
            options |= {"seed": seed, "transparent": transparent, "media": media}
            return cls._handle_image_request(
                project_id, messages, prompt, aspect_ratio, headers, proxy, n=n, api_key=key, timeout=timeout, **options
            )
        return cls._handle_chat_request(
            project_id, messages, headers, proxy,
            prompt=prompt, media=media, response_format=response_format, api_key=key, timeout=timeout,
        )  # fmt: skip

    @classmethod
    async def _handle_chat_request(
        cls, project_id: str, messages: Any, headers: Headers, proxy: Any,
        *, prompt: Any = None, media: Any = None, response_format: Any = None, api_key: Any = None, timeout: Any = None,
        **ignored: Any,
    ) -> AsyncGenerator[Any, None]:  # fmt: skip
        body = request.chat_body(project_id, messages, prompt, media, response_format)
        call = Call(cls.chat_api_endpoint, body, headers, cls, proxy, api_key, request.check_timeout(timeout))
        yield await call.answer(response.chat_text)

    @classmethod
    async def _handle_image_request(
        cls, project_id: str, messages: Any, prompt: Any, aspect_ratio: Any, headers: Headers, proxy: Any,
        *, n: Any = None, api_key: Any = None, timeout: Any = None, **options: Any,
    ) -> AsyncGenerator[Any, None]:  # fmt: skip
        count = request.check_count(n)
        body = request.image_body(project_id, messages, prompt, aspect_ratio, **options)
        call = Call(cls.image_api_endpoint, body, headers, cls, proxy, api_key, request.check_timeout(timeout))
        read = partial(response.picture_url, site=cls.url)
        outcomes = await asyncio.gather(*(call.answer(read) for _ in range(count)), return_exceptions=True)
        urls = [outcome for outcome in outcomes if isinstance(outcome, str)]
        failures = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        if not urls:
            raise failures[0]
        for failure in failures:
            g4f.debug.error(f"Websim: {len(failures)} of {count} pictures failed:", failure)
        yield ImageResponse(urls, body["prompt"])
