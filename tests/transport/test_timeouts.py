"""A timeout is always a `TimeoutError`, and a cancellation by the caller is always a `CancelledError`."""

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
from g4f_websim.errors import TimeoutError as WebsimTimeoutError
from g4f_websim.transport import connections
from tests.support.calls import HELLO, call_websim
from tests.support.limits import MAX_SECONDS
from tests.support.raw_server import RawServer, Request, Script, Step

TIMEOUT = 0.1

Call = Callable[[], Awaitable[object]]


@pytest.fixture
def request_arrived() -> asyncio.Event:
    """An event that is set when the server has received a request."""
    return asyncio.Event()


@pytest.fixture(autouse=True)
async def silent_server(server, request_arrived) -> RawServer:
    """A server that never responds."""

    def stall(request: Request) -> Script:
        request_arrived.set()
        return [Step.STALL]

    server.respond = stall
    return server


@pytest.fixture(params=["call", "attempt", "backoff"])
def timed_out_call(request, silent_server, monkeypatch) -> Call:
    """A call that takes too long: the whole call, one attempt without a timeout, or the delay between attempts."""
    if request.param == "attempt":
        monkeypatch.setattr(connections, "ATTEMPT_TIMEOUT", TIMEOUT)
        return lambda: call_websim(None, HELLO)
    if request.param == "backoff":
        monkeypatch.setattr(Websim, "backoff", 1000.0)
        silent_server.respond = lambda request: [Step.RESET]
    return lambda: call_websim(None, HELLO, timeout=TIMEOUT)


async def error_of(call: Call) -> type[BaseException] | None:
    """Return the class of the exception that a call ends with, whatever it is."""
    try:
        await call()
    except BaseException as error:
        return type(error)
    return None


async def cancel_after_first_step(task: asyncio.Task) -> None:
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])


async def test_timeout_is_a_timeout_error_in_finally_of_cancelled_task(timed_out_call):
    errors = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            errors.append(await error_of(timed_out_call))

    task = asyncio.create_task(work())
    await cancel_after_first_step(task)
    assert errors == [WebsimTimeoutError]
    assert task.cancelled()


async def test_timeout_is_a_timeout_error_in_task_that_survived_cancellation(timed_out_call):
    async def work() -> object:
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return await error_of(timed_out_call)

    task = asyncio.create_task(work())
    await cancel_after_first_step(task)
    assert task.result() is WebsimTimeoutError


async def test_timeout_is_a_timeout_error_in_task_that_was_cancelled_twice(timed_out_call):
    async def work() -> object:
        for _ in range(2):
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
        return await error_of(timed_out_call)

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    await cancel_after_first_step(task)
    assert task.result() is WebsimTimeoutError


async def fail() -> None:
    raise ZeroDivisionError


async def test_timeout_is_a_timeout_error_after_task_group_with_failed_child(timed_out_call):
    with pytest.raises(ExceptionGroup):
        async with asyncio.TaskGroup() as group:
            group.create_task(fail())
            await asyncio.Event().wait()
    assert await error_of(timed_out_call) is WebsimTimeoutError


async def test_timeout_is_a_timeout_error_inside_task_group_with_failed_child(timed_out_call):
    errors = []
    with pytest.raises(ExceptionGroup):
        async with asyncio.TaskGroup() as group:
            group.create_task(fail())
            try:
                await asyncio.Event().wait()
            finally:
                errors.append(await error_of(timed_out_call))
    assert errors == [WebsimTimeoutError]


async def test_timeout_is_a_timeout_error_in_shielded_scope_of_anyio(timed_out_call):
    errors = []
    with anyio.CancelScope() as outer:
        outer.cancel()
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                errors.append(await error_of(timed_out_call))
    assert errors == [WebsimTimeoutError]


async def test_timeout_is_a_timeout_error_inside_expired_asyncio_timeout(timed_out_call):
    errors = []
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            try:
                await asyncio.Event().wait()
            finally:
                errors.append(await error_of(timed_out_call))
    assert errors == [WebsimTimeoutError]


class Fallback(Websim):
    @classmethod
    async def create_async_generator(cls, model, messages, **kwargs):
        yield "fallback"


async def test_fallback_provider_takes_over_after_timeout_in_cancelled_task():
    client = AsyncClient(provider=IterListProvider([Websim, Fallback], False))

    async def work() -> str:
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        completion = await client.chat.completions.create(HELLO, timeout=TIMEOUT)
        return completion.choices[0].message.content

    task = asyncio.create_task(work())
    await cancel_after_first_step(task)
    assert task.result() == "fallback"


async def test_timeout_leaves_no_cancellation_behind(timed_out_call):
    with pytest.raises(TimeoutError):
        await timed_out_call()
    task = asyncio.current_task()
    assert task
    assert task.cancelling() == 0


async def test_timeout_keeps_count_of_earlier_cancellations(timed_out_call):
    async def work() -> int:
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        with pytest.raises(TimeoutError):
            await timed_out_call()
        task = asyncio.current_task()
        assert task
        return task.cancelling()

    task = asyncio.create_task(work())
    await cancel_after_first_step(task)
    assert task.result() == 1


@pytest.mark.parametrize("arguments", [{}, {"timeout": MAX_SECONDS}], ids=["no timeout", "timeout"])
async def test_cancellation_is_not_swallowed(request_arrived, arguments):
    call = asyncio.create_task(call_websim(None, HELLO, **arguments))
    await request_arrived.wait()
    call.cancel()
    await asyncio.wait([call])
    assert call.cancelled()


@pytest.mark.parametrize("arguments", [{}, {"timeout": MAX_SECONDS}], ids=["no timeout", "timeout"])
async def test_second_cancellation_is_not_swallowed(request_arrived, arguments):
    errors = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            errors.append(await error_of(lambda: call_websim(None, HELLO, **arguments)))

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    await request_arrived.wait()
    task.cancel()
    await asyncio.wait([task])
    assert errors == [asyncio.CancelledError]


async def test_outer_timeout_ends_call():
    with pytest.raises(TimeoutError) as raised:
        await asyncio.wait_for(call_websim(None, HELLO, timeout=MAX_SECONDS), TIMEOUT)
    assert not isinstance(raised.value, g4f.errors.TimeoutError)


async def test_scope_of_anyio_ends_call():
    with anyio.move_on_after(TIMEOUT) as scope:
        await call_websim(None, HELLO, timeout=MAX_SECONDS)
    assert scope.cancelled_caught


async def test_cancellation_at_the_same_moment_as_timeout_is_a_cancellation(request_arrived, monkeypatch):
    loop = asyncio.get_running_loop()
    call = asyncio.create_task(call_websim(None, HELLO, timeout=MAX_SECONDS))
    await request_arrived.wait()
    loop.call_later(MAX_SECONDS, call.cancel)
    # Now both timers are due.
    monkeypatch.setattr(loop, "time", lambda: time.monotonic() + 2 * MAX_SECONDS)
    await asyncio.wait([call])
    assert call.cancelled()
