"""The public names as an application uses them: mypy checks this module, nothing runs it."""

from collections.abc import AsyncGenerator

from g4f.providers.response import ImageResponse

from g4f_websim import Websim, WebsimError, __version__, register, unregister


class LocalWebsim(Websim):
    url = "http://127.0.0.1:8080"
    max_attempts = 5
    backoff = 0.5
    max_wait = 600.0


async def chat(messages: list[dict[str, str]]) -> str:
    chunks = [chunk async for chunk in LocalWebsim.create_async_generator("gemini-1.5-pro", messages, timeout=60)]
    return "".join(chunk for chunk in chunks if isinstance(chunk, str))


def images() -> AsyncGenerator[str | ImageResponse, None]:
    return Websim.create_async_generator("flux", None, prompt="a cat", n=2, aspect_ratio="16:9", api_key={"Websim": ""})


async def chat_or_delay(messages: list[dict[str, str]]) -> str | float:
    try:
        return await chat(messages)
    except WebsimError as error:
        reason: str = error.reason
        status: int | None = error.status
        return error.retry_after or float(status == 503 or reason == "timeout")


version: str = __version__
endpoints: tuple[str, str] = (Websim.chat_api_endpoint, LocalWebsim.image_api_endpoint)
project_id: str = Websim.generate_project_id(for_image=True)
providers: tuple[type[Websim], type[Websim]] = (register(), unregister())
