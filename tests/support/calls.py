"""Functions that call Websim or an emulator, what most tests send with them, and the errors that a call may raise."""

import base64
import json
import re
import socket
from typing import Any
from urllib.parse import urlsplit

import g4f.errors

from g4f_websim import Websim
from g4f_websim.wire.endpoints import CHAT_PATH

HELLO = [{"role": "user", "content": "Hello"}]
# The body of a chat request.
CHAT = {"project_id": "a", "messages": HELLO}
PNG_URI = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJ"
    "AAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
)
PNG = base64.b64decode(PNG_URI.partition(",")[2])

G4F_ERRORS = tuple(error for error in vars(g4f.errors).values() if isinstance(error, type))


def base64url(data: str) -> str:
    """Encode text as in a JSON Web Token: base64 for URLs, without padding."""
    return base64.urlsafe_b64encode(data.encode()).decode().rstrip("=")


def make_token(header: Any = None, **claims: Any) -> str:
    """Return a JSON Web Token.

    Args:
        header: the header; None means one that Websim accepts.
        claims: the claims, `exp` for example.
    """
    parts = [json.dumps({"alg": "HS256"} if header is None else header), json.dumps(claims), "signature"]
    return ".".join(map(base64url, parts))


# A program for another process, which calls Websim once and prints the response.
CALLS_WEBSIM = "from tests.support.calls import *; import asyncio; print(*asyncio.run(call_websim(messages=HELLO)))"

JWT = make_token(sub="1")


def matching(message: str) -> str:
    """Return a pattern for the beginning of an error message, in which only `.*` is special."""
    return "^" + ".*".join(map(re.escape, message.split(".*")))


async def call_websim(model: str | None = None, messages: Any = None, **arguments: Any) -> list[Any]:
    """Call Websim and return all chunks of the response."""
    return [chunk async for chunk in Websim.create_async_generator(model, messages, **arguments)]


def send_chat(url: str) -> socket.socket:
    """Send a chat request to an emulator without waiting for the response, and return the open socket."""
    address = urlsplit(url)
    body = json.dumps(CHAT)
    connection = socket.create_connection((address.hostname, address.port))
    head = f"POST {CHAT_PATH} HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Length: {len(body)}\r\n\r\n"
    connection.sendall((head + body).encode())
    return connection
