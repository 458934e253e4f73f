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
from collections.abc import Sequence
from concurrent.futures import Future
from itertools import cycle

from aiohttp import web

from ..wire.arguments import require
from ..wire.endpoints import CHAT_PATH, IMAGE_PATH, PROJECT_PATH
from . import responses
from .fault import Fault
from .limit import Limiter, RateLimit
from .recorded import RecordedRequest
from .validation import check_chat, check_image

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

REPLIED_IMAGE_PATH = "/offline/{name}.png"


class Emulator:
    """A context manager that runs an emulator of Websim on loopback.

    Args:
        port: the port to listen on; 0 means a free one.
        limit: a limit on requests, as a `RateLimit` or as a text such as `10/10s`.
        delay: the seconds before each response; an injected fault has a delay of its own.
        access_log: a logger that receives a line for each request at level INFO; None means no log.
        replies: the content of the chat messages, in turn; if empty, a message repeats what the user said.

    Attributes:
        url: the URL of the server, for `Websim.url` or WEBSIM_URL.
    """

    def __init__(
        self,
        port: int = 0,
        limit: RateLimit | str | None = None,
        delay: float = 0.0,
        access_log: logging.Logger | None = None,
        replies: Sequence[str] = (),
    ) -> None:
        if limit is None:
            limit = RateLimit()
        elif not isinstance(limit, RateLimit):
            limit = RateLimit.parse(limit)
        self._port = port
        self._limit = limit
        self._limiter = Limiter(limit)
        self._delay = delay
        self._usual = Fault(delay=delay)
        self._replies = cycle(replies)
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
        # A client may connect at once: its request waits in the socket until the thread has started.
        self._stop: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="g4f-websim-emulator", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stop.set_result(None)
        self._thread.join()

    def reply(self, text: str) -> None:
        """Add a chat message to the queue of responses.

        Each request takes the first response of the queue, unless the rate limit refuses the request. If the queue is
        empty, the response is the usual one.

        Args:
            text: the content of the message.

        Raises:
            ValueError: the argument is not a string.
        """
        require(isinstance(text, str), "text", 'a string, as in reply("42")', text)
        self._queue.append(self._reply_with({"role": "assistant", "content": text}))

    def reply_image(self, png: bytes) -> None:
        """Add an image to the queue of responses. See `reply`.

        Args:
            png: the contents of a PNG file, which the emulator serves at a URL of its own.

        Raises:
            ValueError: the argument is not bytes.
        """
        require(isinstance(png, bytes), "png", 'bytes, as in reply_image(Path("cat.png").read_bytes())', png)
        name = hashlib.sha256(png).hexdigest()
        self._images[name] = png
        self._queue.append(self._reply_with({"url": self.url + REPLIED_IMAGE_PATH.format(name=name)}))

    def inject(self, fault: Fault, times: int | None = 1) -> None:
        """Add a fault to the queue of responses. See `reply`.

        Args:
            fault: how the responses differ from the usual ones.
            times: the number of requests that receive such a response; None: all that find no queued response.

        Raises:
            ValueError: an argument is malformed.
        """
        require(isinstance(fault, Fault), "fault", "a Fault, as in inject(Fault(status=503))", fault)
        is_count = times is None or (isinstance(times, int) and times >= 0)
        require(is_count, "times", "a number of requests, as in inject(Fault(status=503), times=2)", times)
        if times is None:
            self._usual = fault
        else:
            self._queue.extend([fault] * times)

    def reset(self) -> None:
        """Delete the recorded requests and the queue of responses, and end the current period of the limit."""
        self._requests.clear()
        self._queue.clear()
        self._usual = Fault(delay=self._delay)
        self._images.clear()
        self._limiter.reset()

    def _reply_with(self, body: dict[str, str]) -> Fault:
        return Fault(body=json.dumps(body).encode(), delay=self._delay)

    def _run(self) -> None:
        # asyncio.Runner cancels the handlers of clients that have disconnected, for which aiohttp does not wait.
        with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        app = web.Application(client_max_size=MAX_REQUEST_BYTES)
        app.router.add_post(CHAT_PATH, self._handle)
        app.router.add_post(IMAGE_PATH, self._handle)
        app.router.add_get(responses.DRAWN_IMAGE_ROUTE, responses.drawn_image)
        app.router.add_get(REPLIED_IMAGE_PATH, self._replied_image)
        app.router.add_get(PROJECT_PATH, responses.project)
        app.router.add_get("/", responses.home)
        runner = web.AppRunner(
            app,
            access_log=self._access_log,
            access_log_format=ACCESS_LOG_FORMAT,
            shutdown_timeout=SHUTDOWN_TIMEOUT,
        )
        await runner.setup()
        await web.SockSite(runner, self._socket).start()
        await asyncio.wrap_future(self._stop)
        # Let aiohttp learn of a connection that asyncio is just accepting, because only aiohttp closes it.
        asyncio.get_running_loop().remove_reader(self._socket)
        for _ in range(ACCEPT_PASSES):
            await asyncio.sleep(0)
        await runner.cleanup()

    async def _handle(self, request: web.Request) -> web.Response:
        recorded = RecordedRequest(request.path, tuple(request.headers.items()), await request.read())
        self._requests.append(recorded)
        while sum(len(kept.body) for kept in self._requests) > KEPT_BYTES:
            self._requests.popleft()
        with self._limiter.admit() as seconds:
            if seconds is not None:
                return self._refuse(seconds)
            fault = self._queue.popleft() if self._queue else self._usual
            await asyncio.sleep(fault.delay)
            if fault.disconnect:
                request.protocol.force_close()
                return web.Response()
            if fault.body is not None:
                response = web.Response(status=fault.status or 200, body=fault.body, content_type="application/json")
            elif fault.status is not None:
                response = responses.error_response(fault.status, "an injected fault of the offline Websim")
            else:
                response = self._respond(recorded)
            response.headers.update(fault.headers)
            return response

    def _refuse(self, seconds: float) -> web.Response:
        headers = {"Retry-After": str(math.ceil(seconds))} if self._limit.retry_after else {}
        count = self._limit.max_in_flight if self._limit.requests is None else self._limit.requests
        return responses.error_response(429, f"Rate limit exceeded: {count}", headers)

    def _respond(self, recorded: RecordedRequest) -> web.Response:
        """Return the usual response, or status 400 if the request is malformed."""
        is_chat = recorded.path == CHAT_PATH
        try:
            body = recorded.json
        except (ValueError, RecursionError):
            return responses.error_response(400, "the body must be JSON")
        try:
            (check_chat if is_chat else check_image)(body)
        except ValueError as error:
            return responses.error_response(400, str(error))
        if is_chat:
            content = next(self._replies, None) or responses.chat_content(body)
            return web.json_response({"role": "assistant", "content": content})
        return web.json_response({"url": self.url + responses.drawn_image_path(body)})

    async def _replied_image(self, request: web.Request) -> web.Response:
        png = self._images.get(request.match_info["name"])
        if png is None:
            raise web.HTTPNotFound
        return web.Response(body=png, content_type="image/png")
