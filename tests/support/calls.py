"""The shortest way to ask Websim in a test, and what every test says to it."""

from typing import Any

from g4f_websim import Websim

HELLO = [{"role": "user", "content": "Hello"}]
PNG_URI = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJ"
    "AAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
)
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl"


async def ask(model: str | None = None, messages: Any = None, **arguments: Any) -> list[Any]:
    return [chunk async for chunk in Websim.create_async_generator(model, messages, **arguments)]
