"""A function that calls Websim, and the message, the token and the image that most tests send."""

import base64
import json
from typing import Any

from g4f_websim import Websim

HELLO = [{"role": "user", "content": "Hello"}]
PNG_URI = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJ"
    "AAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
)


def make_token(header: Any = None, **claims: Any) -> str:
    """Return a JSON Web Token.

    Args:
        header: the header; None means one that Websim accepts.
        claims: the claims, `exp` for example.
    """
    parts = [json.dumps({"alg": "HS256"} if header is None else header), json.dumps(claims), "signature"]
    return ".".join(base64.urlsafe_b64encode(part.encode()).decode().rstrip("=") for part in parts)


JWT = make_token(sub="1")


async def ask(model: str | None = None, messages: Any = None, **arguments: Any) -> list[Any]:
    """Call Websim and return all chunks of the response."""
    return [chunk async for chunk in Websim.create_async_generator(model, messages, **arguments)]
