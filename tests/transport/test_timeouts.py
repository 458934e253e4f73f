"""A timeout is always a `TimeoutError`, a cancellation is always a `CancelledError`, and both end the request."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

import anyio
import g4f.errors
import pytest
from g4f.client import AsyncClient
from g4f.Provider import IterListProvider

from g4f_websim import Websim
from g4f_websim.emulator import Fault
from tests.support.calls import HELLO, call_websim
from tests.support.limits import MAX_SECONDS
from tests.support.raw_server import Request, Script, Step
from tests.support.responses import text_of

TIMEOUT = 0.05
# One second more than an attempt may take, because aiohttp rounds long timeouts up to whole seconds.
LONG_TIME = 301

Work = Callable[[], Awaitable[object]]


@pytest.fixture
def request_arrived() -> asyncio.Event:
    """An event that is set when the server has received a request."""
    return asyncio.Event()


@pytest.fixture(autouse=True)
async def silent_server(server, request_arrived):
    """A server that never responds."""

    def stall(request: Request) -> Script:
        request_arrived.set()
        return [Step.STALL]

    server.respond = stall
    return server


@pytest.fixture
async def skip(monkeypatch) -> Callable[[float], None]:
    """A function that puts the clock of the event loop forward by a number of seconds."""
    loop = asyncio.get_running_loop()
    return lambda seconds: monkeypatch.setattr(loop, "time", lambda: time.monotonic() + seconds)


@pytest.fixture(params=["call", "attempt", "backoff"])
def timed_out_call(request, silent_server, skip, monkeypatch) -> Work:
    """A call that takes too long: the whole call, one attempt without a timeout, or the delay between attempts."""

    if request.param == "attempt":
        silent_server.respond = lambda request: skip(LONG_TIME) or [Step.STALL]
        return lambda: call_websim(None, HELLO)
    if request.param == "backoff":
        monkeypatch.setattr(Websim, "backoff", 1000.0)
        silent_server.respond = lambda request: [Step.RESET]
    return lambda: call_websim(None, HELLO, timeout=TIMEOUT)


# Where a call may be made: each function calls `work` there.


async def wait_and_finally(work: Work) -> None:
    try:
        await asyncio.Event().wait()
    finally:
        await work()


async def in_finally_of_cancelled_task(work: Work) -> None:
    task = asyncio.create_task(wait_and_finally(work))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


async def after_two_cancellations(work: Work) -> None:
    async def survive() -> None:
        for _ in range(2):
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
        await work()

    task = asyncio.create_task(survive())
    for _ in range(2):
        await asyncio.sleep(0)
        task.cancel()
    await task


async def in_shielded_scope_of_anyio(work: Work) -> None:
    with anyio.CancelScope() as outer:
        outer.cancel()
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await work()


@pytest.mark.parametrize(
    "place",
    [in_finally_of_cancelled_task, after_two_cancellations, in_shielded_scope_of_anyio],
    ids=lambda place: place.__name__,
)
async def test_timeout_is_a_timeout_error_and_leaves_no_cancellation_behind(timed_out_call, place):
    ended = []

    async def call() -> None:
        task = asyncio.current_task()
        cancellations = task.cancelling()
        try:
            await timed_out_call()
        except BaseException as error:
            is_of_g4f = isinstance(error, TimeoutError) and isinstance(error, g4f.errors.TimeoutError)
            ended.append((is_of_g4f, error.reason, task.cancelling() - cancellations))

    await place(call)
    assert ended == [(True, "timeout", 0)]


class Fallback(Websim):
    @classmethod
    async def create_async_generator(cls, model, messages, **kwargs):
        yield "fallback"


async def test_fallback_provider_takes_over_after_timeout_in_cancelled_task():
    client = AsyncClient(provider=IterListProvider([Websim, Fallback], False))
    texts = []

    async def call() -> None:
        texts.append(text_of(await client.chat.completions.create(HELLO, timeout=TIMEOUT)))

    await after_two_cancellations(call)
    assert texts == ["fallback"]


@pytest.mark.parametrize(
    ("model", "arguments", "count"),
    [("", {}, 1), ("flux", {}, 1), ("", {"timeout": MAX_SECONDS}, 1), ("", {}, 150)],
    ids=["chat", "image", "with a timeout", "many chats"],
)
async def test_cancellation_ends_calls_and_their_connections(server, request_arrived, model, arguments, count):
    calls = [asyncio.create_task(call_websim(model, HELLO, **arguments)) for _ in range(count)]
    await request_arrived.wait()
    for call in calls:
        call.cancel()
    await asyncio.wait(calls)
    assert all(call.cancelled() for call in calls)
    await server.wait_until_idle()


async def close_generator_when(event: asyncio.Event) -> None:
    """Close the generator of a call that still waits for its first chunk."""
    generator = Websim.create_async_generator(None, HELLO)
    first_chunk = asyncio.create_task(anext(generator))
    await event.wait()
    # Python cannot close a generator that a task is running, so the task is cancelled first.
    first_chunk.cancel()
    await asyncio.wait([first_chunk])
    await asyncio.wait_for(generator.aclose(), MAX_SECONDS)


async def test_closed_generator_ends_its_request(server, request_arrived):
    await close_generator_when(request_arrived)
    await server.wait_until_idle()


async def test_closed_generator_ends_its_delay(websim_server, monkeypatch, delay_began):
    monkeypatch.setattr(Websim, "backoff", 1000.0)
    websim_server.inject(Fault(status=503))
    await close_generator_when(delay_began)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert len(websim_server.requests) == 1


@pytest.mark.parametrize("arguments", [{}, {"timeout": MAX_SECONDS}], ids=["no timeout", "timeout"])
async def test_second_cancellation_is_not_swallowed(request_arrived, arguments):
    errors = []

    async def call() -> None:
        try:
            await call_websim(None, HELLO, **arguments)
        except BaseException as error:
            errors.append(type(error))

    task = asyncio.create_task(wait_and_finally(call))
    await asyncio.sleep(0)
    task.cancel()
    await request_arrived.wait()
    task.cancel()
    await asyncio.wait([task])
    assert errors == [asyncio.CancelledError]


async def test_outer_timeouts_end_call():
    with pytest.raises(TimeoutError) as raised:
        await asyncio.wait_for(call_websim(None, HELLO, timeout=MAX_SECONDS), TIMEOUT)
    assert not isinstance(raised.value, g4f.errors.TimeoutError)
    with anyio.move_on_after(TIMEOUT) as scope:
        await call_websim(None, HELLO, timeout=MAX_SECONDS)
    assert scope.cancelled_caught


async def test_cancellation_at_the_same_moment_as_timeout_is_a_cancellation(request_arrived, skip):
    call = asyncio.create_task(call_websim(None, HELLO, timeout=MAX_SECONDS))
    await request_arrived.wait()
    asyncio.get_running_loop().call_later(MAX_SECONDS, call.cancel)
    skip(2 * MAX_SECONDS)  # now both timers are due
    await asyncio.wait([call])
    assert call.cancelled()
