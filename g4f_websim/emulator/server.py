"""The emulator's HTTP server, which runs in a thread of its own."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import math
import socket
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, replace
from typing import Any

from aiohttp import web

from ..wire.arguments import require as check
from ..wire.endpoints import CHAT_PATH, IMAGE_PATH
from .fault import Fault
from .limit import Limiter, RateLimit
from .png import draw_gradient
from .validation import InvalidBodyError, check_chat, check_image

HOST = "127.0.0.1"

# Enough for a request with ten images of some megabytes each. aiohttp refuses a larger request with status 413.
MAX_REQUEST_BYTES = 64 * 1024 * 1024
# The maximum number and total size of the requests in `Emulator.requests`.
KEPT_REQUESTS = 1000
KEPT_BYTES = 2 * MAX_REQUEST_BYTES

# The time, the request line and the status, without headers and bodies (aiohttp's documentation, "Logging").
ACCESS_LOG_FORMAT = '%t "%r" %s'

# The seconds for which a stopping emulator waits for requests in flight.
SHUTDOWN_TIMEOUT = 0.1
# The passes of the event loop after which an accepted connection has a transport and aiohttp knows about it.
ACCEPT_PASSES = 2

# The URL of a drawn image contains its size and colours, so only the images of `reply_image` are stored.
DRAWN_IMAGE_PATH = "/offline/{width}x{height}/{colours}.png"
DRAWN_IMAGE_ROUTE = r"/offline/{width:\d{1,4}}x{height:\d{1,4}}/{colours:[0-9a-f]{12}}.png"
REPLIED_IMAGE_PATH = "/offline/{name}.png"
REPLIED_IMAGE_ROUTE = r"/offline/{name:[0-9a-f]{64}}.png"

# Every id that a chat may name is a project.
PROJECT_ROUTE = r"/api/v1/projects/{project_id:[A-Za-z0-9_-]{1,64}}"

# The longer side of a drawn image in pixels: the default, and the maximum.
DEFAULT_SIDE = 512
MAX_SIDE = 2048


@dataclass(frozen=True)
class RecordedRequest:
    """A request that the emulator received.

    Attributes:
        path: the path of the URL.
        headers: the names and values of the headers, in the order of the request.
        body: the body as bytes.
    """

    path: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    @property
    def json(self) -> Any:
        """The parsed body."""
        return json.loads(self.body)

    def header(self, name: str) -> str | None:
        """Return the first value of a header, or None. The name is not case-sensitive."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)


class Emulator:
    """A context manager that runs an emulator of Websim on loopback.

    Args:
        port: the port to listen on; 0 means a free one.
        limit: a limit on requests, as a `RateLimit` or as a text such as `10/10s`.
        delay: the seconds before each response; an injected fault has a delay of its own.
        access_log: a logger that receives a line for each request at level INFO; None means no log.

    Attributes:
        url: the URL of the server, for `Websim.url` or WEBSIM_URL.
    """

    def __init__(
        self,
        port: int = 0,
        limit: RateLimit | str | None = None,
        delay: float = 0.0,
        access_log: logging.Logger | None = None,
    ) -> None:
        is_limit = limit is None or isinstance(limit, (str, RateLimit))
        check(is_limit, "limit", 'a text or a RateLimit, as in Emulator(limit="10/10s")', limit)
        self._port = port
        self._limit = RateLimit.parse(limit) if isinstance(limit, str) else limit or RateLimit()
        self._limiter = Limiter(self._limit)
        self._usual = Fault(delay=delay)
        self._access_log = access_log
        self._queue: deque[Fault] = deque()
        self._images: dict[str, bytes] = {}  # by the SHA-256 digest in the URL
        self.url = ""
        self._requests: deque[RecordedRequest] = deque(maxlen=KEPT_REQUESTS)

    @property
    def requests(self) -> list[RecordedRequest]:
        """The recorded requests, oldest first; only the last 1,000 are kept."""
        return list(self._requests)

    def __enter__(self) -> Emulator:
        self._socket = socket.create_server((HOST, self._port))
        self.url = f"http://{HOST}:{self._socket.getsockname()[1]}"
        self._loop = asyncio.SelectorEventLoop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="g4f-websim-emulator", daemon=True)
        self._thread.start()
        self._run(self._start())
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def reply(self, text: str) -> None:
        """Add a chat message to the queue of responses.

        Each request takes the first response of the queue, unless the rate limit refuses the request. If the queue is
        empty, the response is the usual one.

        Args:
            text: the content of the message.

        Raises:
            ValueError: the argument is not a string.
        """
        check(isinstance(text, str), "text", 'a string, as in reply("42")', text)
        self._queue.append(self._reply_with({"role": "assistant", "content": text}))

    def reply_image(self, png: bytes) -> None:
        """Add an image to the queue of responses. See `reply`.

        Args:
            png: the contents of a PNG file, which the emulator serves at a URL of its own.

        Raises:
            ValueError: the argument is not bytes.
        """
        check(isinstance(png, bytes), "png", 'bytes, as in reply_image(Path("cat.png").read_bytes())', png)
        name = hashlib.sha256(png).hexdigest()
        self._images[name] = png
        self._queue.append(self._reply_with({"url": self.url + REPLIED_IMAGE_PATH.format(name=name)}))

    def inject(self, fault: Fault, times: int = 1) -> None:
        """Add a fault to the queue of responses. See `reply`.

        Args:
            fault: how the responses differ from the usual ones.
            times: the number of requests that receive such a response.

        Raises:
            ValueError: an argument is malformed.
        """
        check(isinstance(fault, Fault), "fault", "a Fault, as in inject(Fault(status=503))", fault)
        is_count = isinstance(times, int) and times >= 0
        check(is_count, "times", "a number of requests, as in inject(Fault(status=503), times=2)", times)
        self._queue.extend([fault] * times)

    def reset(self) -> None:
        """Delete the recorded requests and the queue of responses, and end the current period of the limit."""
        self._requests.clear()
        self._queue.clear()
        self._images.clear()
        self._limiter.reset()

    def _reply_with(self, content: dict[str, str]) -> Fault:
        return replace(self._usual, body=json.dumps(content).encode())

    def _run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    async def _start(self) -> None:
        app = web.Application(client_max_size=MAX_REQUEST_BYTES)
        app.router.add_post(CHAT_PATH, self._chat)
        app.router.add_post(IMAGE_PATH, self._image)
        app.router.add_get(DRAWN_IMAGE_ROUTE, _drawn_image)
        app.router.add_get(REPLIED_IMAGE_ROUTE, self._replied_image)
        app.router.add_get(PROJECT_ROUTE, _project)
        app.router.add_get("/", _home)
        self._runner = web.AppRunner(
            app,
            access_log=self._access_log,
            access_log_format=ACCESS_LOG_FORMAT,
            shutdown_timeout=SHUTDOWN_TIMEOUT,
        )
        await self._runner.setup()
        await web.SockSite(self._runner, self._socket).start()

    async def _stop(self) -> None:
        # Let aiohttp learn of a connection that asyncio is just accepting, because only aiohttp closes it.
        self._loop.remove_reader(self._socket)
        for _ in range(ACCEPT_PASSES):
            await asyncio.sleep(0)
        await self._runner.cleanup()
        # aiohttp does not wait for the handlers of clients that have disconnected.
        handlers = asyncio.all_tasks() - {asyncio.current_task()}
        for handler in handlers:
            handler.cancel()
        await asyncio.gather(*handlers, return_exceptions=True)

    async def _chat(self, request: web.Request) -> web.Response:
        return await self._handle(request, check_chat, _chat_message)

    async def _image(self, request: web.Request) -> web.Response:
        return await self._handle(request, check_image, self._image_url)

    async def _handle(
        self, request: web.Request, validate: Callable[[Any], None], respond: Callable[[Any], dict[str, str]]
    ) -> web.Response:
        recorded = await _record(request)
        self._keep(recorded)
        with self._limiter.admit() as seconds:
            if seconds is not None:
                return self._refuse(seconds)
            fault = self._queue.popleft() if self._queue else self._usual
            await asyncio.sleep(fault.delay)
            if fault.disconnect:
                request.protocol.force_close()
                return web.Response()
            if fault.status is None:
                response = _usual_response(recorded, validate, respond)
            else:
                response = _faulty_response(fault.status, fault.body)
            response.headers.update(fault.headers)
            return response

    def _keep(self, recorded: RecordedRequest) -> None:
        self._requests.append(recorded)
        while sum(len(kept.body) for kept in self._requests) > KEPT_BYTES:
            self._requests.popleft()

    def _refuse(self, seconds: float) -> web.Response:
        headers = {"Retry-After": str(math.ceil(seconds))} if self._limit.retry_after else {}
        return web.json_response(_error("rate limit exceeded"), status=429, headers=headers)

    def _image_url(self, body: Mapping[str, Any]) -> dict[str, str]:
        width, height = _image_size(body)
        colours = hashlib.sha256(body["prompt"].encode("utf-8", "replace")).hexdigest()[:12]
        return {"url": self.url + DRAWN_IMAGE_PATH.format(width=width, height=height, colours=colours)}

    async def _replied_image(self, request: web.Request) -> web.Response:
        png = self._images.get(request.match_info["name"])
        if png is None:
            raise web.HTTPNotFound
        return web.Response(body=png, content_type="image/png")


async def _record(request: web.Request) -> RecordedRequest:
    headers = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in request.raw_headers)
    return RecordedRequest(request.path, headers, await request.read())


def _faulty_response(status: int, body: bytes | None) -> web.Response:
    if body is None:
        return web.json_response(_error("injected fault"), status=status)
    return web.Response(status=status, body=body, content_type="application/json")


def _usual_response(
    recorded: RecordedRequest, validate: Callable[[Any], None], respond: Callable[[Any], dict[str, str]]
) -> web.Response:
    """Return the response to a well-formed request, or status 400."""
    try:
        body = recorded.json
    except (ValueError, RecursionError):
        return web.json_response(_error("the body must be JSON"), status=400)
    try:
        validate(body)
    except InvalidBodyError as error:
        return web.json_response(_error(str(error)), status=400)
    return web.json_response(respond(body))


def _error(reason: str) -> dict[str, str]:
    return {"error": f"offline Websim: {reason}"}


def _chat_message(body: Mapping[str, Any]) -> dict[str, str]:
    said = next((_text(message) for message in reversed(body["messages"]) if message["role"] == "user"), "")
    content = f"This is the offline Websim; no model was used. You said: {said}"
    if body.get("json"):
        content = json.dumps({"offline": True, "you_said": said})
    return {"role": "assistant", "content": content}


def _text(message: Mapping[str, Any]) -> str:
    content = message["content"]
    if isinstance(content, str):
        return content
    return " ".join(part["text"] if part["type"] == "text" else "[an image]" for part in content)


def _image_size(body: Mapping[str, Any]) -> tuple[int, int]:
    width, height = body.get("width"), body.get("height")
    if width and height:
        side = min(max(width, height), MAX_SIDE)
    else:
        width, height = map(int, body["aspect_ratio"].split(":"))
        side = DEFAULT_SIDE
    longer = max(width, height)
    # Integer arithmetic, because a client may send a side of hundreds of digits, which does not fit into a float.
    return max(1, (width * side + longer // 2) // longer), max(1, (height * side + longer // 2) // longer)


async def _home(request: web.Request) -> web.Response:
    return web.Response(text="This is the offline Websim.\n")


async def _project(request: web.Request) -> web.Response:
    return web.json_response({"id": request.match_info["project_id"]})


async def _drawn_image(request: web.Request) -> web.Response:
    width, height = int(request.match_info["width"]), int(request.match_info["height"])
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE):
        raise web.HTTPNotFound
    colours = bytes.fromhex(request.match_info["colours"])
    return web.Response(body=draw_gradient(width, height, colours[:3], colours[3:]), content_type="image/png")
