"""What the emulator responds: errors, chat messages and drawn images."""

import hashlib
import json
import os
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from aiohttp import web

from .png import draw_gradient

# The URL of a drawn image contains its size and colours, so drawn images are not stored.
DRAWN_IMAGE_PATH = "/offline/{width}x{height}/{colours}.png"
DRAWN_IMAGE_ROUTE = r"/offline/{width:\d{1,4}}x{height:\d{1,4}}/{colours:[0-9a-f]{12}}.png"

# The longer side of a drawn image in pixels: the default, and the maximum.
DEFAULT_SIDE = 512
MAX_SIDE = 2048

STATUS_NAMES = {status.value: status.name for status in HTTPStatus}


def error_response(status: int, message: str, headers: Mapping[str, str] | None = None) -> web.Response:
    """Return an error in Websim's form."""
    error = {"message": message, "code": STATUS_NAMES.get(status, "UNKNOWN")}
    return web.json_response({"error": error}, status=status, headers=headers)


def chat_content(body: Mapping[str, Any]) -> str:
    """Return a message that says that it is the offline Websim's, and repeats the last text of the user."""
    said = next((_text(message["content"]) for message in reversed(body["messages"]) if message["role"] == "user"), "")
    if body.get("json"):
        return json.dumps({"offline": True, "you_said": said})
    return f"This is the offline Websim; no model was used. You said: {said}"


def _text(content: str | list[dict[str, Any]]) -> str:
    if isinstance(content, str):
        return content
    return " ".join(part["text"] if part["type"] == "text" else "[an image]" for part in content)


def drawn_image_path(body: Mapping[str, Any]) -> str:
    """Return the path of an image in the requested size, a different one for each request that names no seed."""
    width, height = _image_size(body)
    seed = str(body["seed"]).encode() if "seed" in body else os.urandom(16)
    colours = hashlib.sha256(seed + body["prompt"].encode("utf-8", "replace")).hexdigest()[:12]
    return DRAWN_IMAGE_PATH.format(width=width, height=height, colours=colours)


def _image_size(body: Mapping[str, Any]) -> tuple[int, int]:
    if "width" in body:
        width, height = body["width"], body["height"]
        side = min(max(width, height), MAX_SIDE)
    else:
        width, height = map(int, body["aspect_ratio"].split(":"))
        side = DEFAULT_SIDE
    longer = max(width, height)
    # Integer arithmetic, because a client may send a side of hundreds of digits, which does not fit into a float.
    return max(1, (width * side + longer // 2) // longer), max(1, (height * side + longer // 2) // longer)


async def drawn_image(request: web.Request) -> web.Response:
    """Return the image whose size and colours are in the URL."""
    width, height = int(request.match_info["width"]), int(request.match_info["height"])
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE):
        raise web.HTTPNotFound
    colours = bytes.fromhex(request.match_info["colours"])
    return web.Response(body=draw_gradient(width, height, colours[:3], colours[3:]), content_type="image/png")


async def project(request: web.Request) -> web.Response:
    """Describe a project. Every id is accepted."""
    return web.json_response({"id": request.match_info["project_id"]})


async def home(request: web.Request) -> web.Response:
    """Return the home page, which g4f's health check requests."""
    return web.Response(text="This is the offline Websim.\n")
