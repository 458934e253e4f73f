"""The embedded Websim: its two endpoints on loopback, for offline use and for tests.

It answers every well-formed request over real HTTP, by aiohttp's own server, and says in each answer that it is not
the service. It can be told to misbehave. It reads no file and keeps no picture: an address says all about its own.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import re
import signal
import struct
import sys
import tempfile
import threading
import zlib
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import g4f.cookies
import g4f.debug
from aiohttp import web

from .provider import CHAT_PATH, IMAGE_PATH, Websim

HOST = "127.0.0.1"

# A request with ten pictures of some megabytes each fits; what is larger is refused with 413.
MAX_REQUEST_BYTES = 64 * 1024 * 1024
# How many requests are kept for a test to look at, and how much of them.
KEPT_REQUESTS = 1000
KEPT_BYTES = 2 * MAX_REQUEST_BYTES

# How long requests under way may take once the emulator is to stop.
SHUTDOWN_SECONDS = 0.1

# Enough of the list that g4f otherwise fetches when it starts, for no network to be needed.
NOWHERE = {"baseUrl": "http://127.0.0.1:9/v1"}
OFFLINE_PROVIDERS = {"providers": {"default": NOWHERE, "orcarouter": NOWHERE}, "defaultModels": {}}
OFFLINE_DAYS = 2

PICTURE_PATH = "/offline/{width}x{height}/{colours}.png"
PICTURE_ROUTE = r"/offline/{width:\d{1,4}}x{height:\d{1,4}}/{colours:[0-9a-f]{12}}.png"
# The longer side in pixels where no size is asked for, and the longest that is drawn at all.
PICTURE_SIDE = 512
MAX_PICTURE_SIDE = 2048

_PROJECT_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_RATIO = re.compile(r"([1-9][0-9]{0,5}):([1-9][0-9]{0,5})")


@dataclass(frozen=True)
class Fault:
    """One misbehaviour, for one request.

    Args:
        status: the HTTP status to answer with.
        headers: headers to answer with besides.
        body: the body to answer with; None for what the status would have without a fault.
        delay: seconds to wait first.
        broken: whether to cut the connection instead of answering.
    """

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    delay: float = 0.0
    broken: bool = False


@dataclass(frozen=True)
class Recorded:
    """A request as it came: path, raw headers in order, body."""

    path: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)

    def header(self, name: str) -> str | None:
        """The first value of a header, whatever the case of its name."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)


class Emulator:
    """The embedded Websim, served from a thread of its own from `with` to its end.

    Args:
        port: the loopback port to listen on, 0 for a free one.

    Attributes:
        url: the address to aim at, as in `Websim.url = emulator.url`.
        requests: the requests that came, newest last.
    """

    def __init__(self, port: int = 0) -> None:
        self._port = port
        self._faults: deque[Fault] = deque()
        self.url = ""
        self.requests: deque[Recorded] = deque(maxlen=KEPT_REQUESTS)

    def __enter__(self) -> Emulator:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="offline-websim", daemon=True)
        self._thread.start()
        try:
            self._run(self._start())
        except OSError:
            self._stop_loop()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._run(self._stop())
        self._stop_loop()

    def misbehave(self, fault: Fault, times: int = 1) -> None:
        """Answer the next `times` requests with `fault`."""
        self._faults.extend([fault] * times)

    def reset(self) -> None:
        """Forget the requests that came and the faults still to come."""
        self.requests.clear()
        self._faults.clear()

    def _run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def _stop_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _start(self) -> None:
        app = web.Application(client_max_size=MAX_REQUEST_BYTES)
        app.router.add_post(CHAT_PATH, self._chat)
        app.router.add_post(IMAGE_PATH, self._image)
        app.router.add_get(PICTURE_ROUTE, _picture)
        app.router.add_get("/", _home)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_SECONDS)
        await self._runner.setup()
        await web.TCPSite(self._runner, HOST, self._port).start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"

    async def _stop(self) -> None:
        await self._runner.cleanup()
        # Of a request whose client has left, aiohttp knows no more.
        under_way = asyncio.all_tasks() - {asyncio.current_task()}
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, _chat_problem, _chat_answer)

    async def _image(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, _image_problem, self._image_answer)

    async def _answer(
        self, request: web.Request, problem_of: Callable[[Any], str | None], answer_to: Callable[[Any], Any]
    ) -> web.StreamResponse:
        recorded = Recorded(
            request.path,
            tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in request.raw_headers),
            await request.read(),
        )
        self.requests.append(recorded)
        while sum(len(kept.body) for kept in self.requests) > KEPT_BYTES:
            self.requests.popleft()
        if self._faults:
            return await _misbehave(request, self._faults.popleft())
        try:
            body = recorded.json
        except (ValueError, RecursionError):
            body = None
        problem = problem_of(body)
        if problem:
            return web.json_response({"error": f"offline Websim: {problem}"}, status=400)
        return web.json_response(answer_to(body))

    def _image_answer(self, body: Mapping[str, Any]) -> dict[str, str]:
        width, height = _picture_size(body)
        colours = hashlib.sha256(body["prompt"].encode("utf-8", "replace")).hexdigest()[:12]
        return {"url": self.url + PICTURE_PATH.format(width=width, height=height, colours=colours)}


@contextmanager
def offline() -> Iterator[None]:
    """Aim all of this process and of its children at an embedded Websim, and keep g4f off the network."""
    with Emulator() as emulator, tempfile.TemporaryDirectory(prefix="g4f-websim-") as cache:
        fill_offline_cache(Path(cache))
        os.environ.update(WEBSIM_URL=emulator.url, G4F_CACHE_DIR=cache, G4F_CONFIG_DIR=cache)
        os.environ.pop("G4F_PROXY", None)
        # What is said offline is no part of the conversation that g4f keeps and sends along later.
        with suppress(ImportError):  # up to 0.5.5 it keeps none
            from g4f import config

            config.CONFIG_DIR = Path(cache)
        # Up to 8.6, g4f looks for its lists in this folder.
        g4f.cookies.set_cookies_dir(cache)
        Websim.url = emulator.url
        g4f.debug.version_check = False
        # To end as by an exception, so that the folder goes and the server stops.
        before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)


def fill_offline_cache(cache: Path) -> None:
    """Put into a cache folder of g4f's what it would fetch from the network when it starts."""
    for models in (".models", "models"):
        for days in range(OFFLINE_DAYS):
            folder = cache / models / str(date.today() + timedelta(days))
            folder.mkdir(parents=True)
            folder.joinpath("providers.json").write_text(json.dumps(OFFLINE_PROVIDERS))


def serve(words: list[str]) -> int:
    """Serve the embedded Websim until Ctrl-C, and return the exit status of a command that cannot.

    Args:
        words: those after `g4f-websim emulator`.
    """
    parser = argparse.ArgumentParser("g4f-websim emulator", description="Serve the offline Websim on loopback.")
    parser.add_argument("--port", type=int, default=0, help="the port to listen on (default: a free one)")
    try:
        with Emulator(parser.parse_args(words).port) as emulator:
            print(f"The offline Websim listens on {emulator.url}; Ctrl-C stops it.")
            print(f"To aim at it: WEBSIM_URL={emulator.url}", flush=True)
            threading.Event().wait()
    except (OSError, OverflowError) as error:
        print(f"g4f-websim: {error}; name another --port", file=sys.stderr)
    return 1


async def _misbehave(request: web.Request, fault: Fault) -> web.StreamResponse:
    await asyncio.sleep(fault.delay)
    if fault.broken:
        request.protocol.force_close()
        return web.Response()
    body = json.dumps({"error": "offline Websim: told to misbehave"}).encode() if fault.body is None else fault.body
    headers = {"Content-Type": "application/json", **fault.headers}
    return web.Response(status=fault.status, headers=headers, body=body)


def _chat_problem(body: Any) -> str | None:
    """Say what facts about Websim's chat a body is against, None where it is against none."""
    if not isinstance(body, dict):
        return "the body is no JSON object"
    if not {"project_id", "messages"} <= body.keys() <= {"project_id", "messages", "json"}:
        return "the fields are project_id, messages and, at will, json"
    if not _is_project_id(body["project_id"]):
        return "project_id is 1 to 64 of A-Z a-z 0-9 _ -"
    if body.get("json", True) is not True:
        return "json is true or left out"
    messages = body["messages"]
    if not isinstance(messages, list) or not messages or not all(map(_is_message, messages)):
        return "messages is a list of {role: user, assistant or system; content: text or parts}"
    return None


def _is_message(message: Any) -> bool:
    return (
        isinstance(message, dict)
        and message.keys() == {"role", "content"}
        and message["role"] in ("user", "assistant", "system")
        and (isinstance(message["content"], str) or _are_parts(message["content"]))
    )


def _are_parts(content: Any) -> bool:
    return isinstance(content, list) and bool(content) and all(map(_is_part, content))


def _is_part(part: Any) -> bool:
    if not isinstance(part, dict):
        return False
    if part.keys() == {"type", "text"}:
        return part["type"] == "text" and isinstance(part["text"], str)
    return part.keys() == {"type", "image_url"} and part["type"] == "image_url" and _is_picture(part["image_url"])


def _is_picture(picture: Any) -> bool:
    return isinstance(picture, dict) and picture.keys() == {"url"} and isinstance(picture["url"], str)


def _is_project_id(value: Any) -> bool:
    return isinstance(value, str) and _PROJECT_ID.fullmatch(value) is not None


def _chat_answer(body: Mapping[str, Any]) -> dict[str, str]:
    said = next((_said(message) for message in reversed(body["messages"]) if message["role"] == "user"), "")
    content = f"This is the offline Websim; no model was asked. You said: {said}"
    if body.get("json"):
        content = json.dumps({"offline": True, "you_said": said})
    return {"role": "assistant", "content": content}


def _said(message: Mapping[str, Any]) -> str:
    content = message["content"]
    if isinstance(content, str):
        return content
    return " ".join(part["text"] if part["type"] == "text" else "[a picture]" for part in content)


def _image_problem(body: Any) -> str | None:
    """Say what facts about Websim's pictures a body is against, None where it is against none."""
    if not isinstance(body, dict):
        return "the body is no JSON object"
    required = {"project_id", "prompt", "aspect_ratio"}
    if not required <= body.keys() <= required | _IMAGE_OPTIONS.keys():
        return f"the fields are project_id, prompt, aspect_ratio and, at will, {', '.join(_IMAGE_OPTIONS)}"
    if not _is_project_id(body["project_id"]):
        return "project_id is 1 to 64 of A-Z a-z 0-9 _ -"
    if not isinstance(body["prompt"], str) or not body["prompt"].strip():
        return "prompt is text, and not empty"
    if not isinstance(body["aspect_ratio"], str) or not _RATIO.fullmatch(body["aspect_ratio"]):
        return "aspect_ratio is W:H"
    malformed = (key for key, legal in _IMAGE_OPTIONS.items() if key in body and not legal(body[key]))
    return next((f"{key} is malformed" for key in malformed), None)


def _is_side(value: Any) -> bool:
    return type(value) is int and value > 0


_IMAGE_OPTIONS: dict[str, Callable[[Any], bool]] = {
    "width": _is_side,
    "height": _is_side,
    "seed": lambda value: type(value) is int,
    "transparent": lambda value: type(value) is bool,
    "image_inputs": lambda value: isinstance(value, list) and all(map(_is_picture, value)),
}


def _picture_size(body: Mapping[str, Any]) -> tuple[int, int]:
    width, height = body.get("width"), body.get("height")
    if width and height:
        side = min(max(width, height), MAX_PICTURE_SIDE)
    else:
        width, height = map(int, body["aspect_ratio"].split(":"))
        side = PICTURE_SIDE
    # In ints, because one of hundreds of digits has no float.
    longer = max(width, height)
    return max(1, (width * side + longer // 2) // longer), max(1, (height * side + longer // 2) // longer)


async def _home(request: web.Request) -> web.Response:
    return web.Response(text="This is the offline Websim.\n")


async def _picture(request: web.Request) -> web.Response:
    width, height = int(request.match_info["width"]), int(request.match_info["height"])
    if not (0 < width <= MAX_PICTURE_SIDE and 0 < height <= MAX_PICTURE_SIDE):
        raise web.HTTPNotFound
    colours = bytes.fromhex(request.match_info["colours"])
    return web.Response(body=_png(width, height, colours[:3], colours[3:]), content_type="image/png")


def _png(width: int, height: int, top: bytes, bottom: bytes) -> bytes:
    """Return a PNG that shades from one RGB colour to another (PNG 1.2: 8 bits, colour type 2, no filter)."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    def row(y: int) -> bytes:
        part = y / height
        return b"\0" + bytes(round(a + (b - a) * part) for a, b in zip(top, bottom, strict=True)) * width

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"".join(map(row, range(height))))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
