"""The queue behind a rate limit, in virtual time; only the tests of threads, loops and processes use the real clock."""

import asyncio
import gc
import logging
import math
import random
import threading
import weakref
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from g4f_websim.transport.pace import QUIET_TIME
from g4f_websim.transport.throttle import QueueTooLongError, Throttle

from g4f_websim.transport import throttle as throttle_module
from tests.support import virtual_time

MAX_ATTEMPTS = 3
BACKOFF = 2.0
MAX_WAIT = 600.0

Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> virtual_time.VirtualTimeLoop:
    loop = virtual_time.VirtualTimeLoop()
    monkeypatch.setattr(throttle_module, "monotonic", loop.time)
    random.seed(1)
    return loop


@pytest.fixture
def run(loop: virtual_time.VirtualTimeLoop) -> Run:
    return lambda coroutine: virtual_time.run(coroutine, loop)


async def refuse_one(throttle: Throttle, retry_after: float | None = 10.0) -> None:
    """Start a rate limit: one request is refused."""
    throttle.refused(await throttle.wait_turn(False, MAX_WAIT), retry_after, BACKOFF)


class Server:
    """A server that limits its rate; `admit` returns None, or the seconds after which to come back."""

    def __init__(self, names_delay: bool) -> None:
        self.names_delay = names_delay
        self.received: list[float] = []
        self.accepted: list[float] = []

    async def respond(self, now: float) -> tuple[bool, float | None]:
        """Return whether the request is accepted, and what Retry-After says if it is not."""
        self.received.append(now)
        delay = self.admit(now)
        if delay is None:
            self.accepted.append(now)
        await asyncio.sleep(0.01)
        return delay is None, math.ceil(delay) if delay is not None and self.names_delay else None

    def admit(self, now: float) -> float | None:
        raise NotImplementedError


class WindowServer(Server):
    """Accepts 10 requests in each 10 s, counted from the first request."""

    def admit(self, now: float) -> float | None:
        age = (now - self.received[0]) % 10
        window = now - age
        return None if sum(time >= window for time in self.accepted) < 10 else 10 - age


class BucketServer(Server):
    """Accepts 2 requests a second, and 10 at once after a rest."""

    def admit(self, now: float) -> float | None:
        tokens, last = 10.0, self.received[0]
        for time in self.accepted:
            tokens, last = min(10.0, tokens + 2 * (time - last)) - 1, time
        tokens = min(10.0, tokens + 2 * (now - last))
        return None if tokens >= 1 else (1 - tokens) / 2


class BusyServer(Server):
    """Works on 4 requests at once, for half a second each."""

    busy = 0

    async def respond(self, now: float) -> tuple[bool, float | None]:
        self.received.append(now)
        if self.busy == 4:
            await asyncio.sleep(0.01)
            return False, 1.0 if self.names_delay else None
        self.busy += 1
        await asyncio.sleep(0.5)
        self.busy -= 1
        self.accepted.append(now)
        return True, None


async def call(throttle: Throttle, server: Server) -> bool:
    """Send until the server accepts, as transport.py does; return whether it did."""
    clock = asyncio.get_running_loop().time
    for attempt in range(1, MAX_ATTEMPTS + 1):
        turn = await throttle.wait_turn(attempt == MAX_ATTEMPTS, MAX_WAIT)
        is_accepted, retry_after = await server.respond(clock())
        if is_accepted:
            throttle.accepted(turn)
            return True
        throttle.refused(turn, retry_after, BACKOFF)
    return False


@pytest.mark.parametrize("names_delay", [True, False], ids=["Retry-After", "no Retry-After"])
@pytest.mark.parametrize(
    "server_class, calls, best", [(WindowServer, 60, 50), (BucketServer, 60, 25), (BusyServer, 60, 7.5)]
)
def test_every_call_succeeds_in_time_with_few_refusals(
    run: Run, server_class: type[Server], calls: int, best: float, names_delay: bool
) -> None:
    throttle, server = Throttle("host"), server_class(names_delay)

    async def burst() -> list[bool]:
        return await asyncio.gather(*(call(throttle, server) for _ in range(calls)))

    assert all(run(burst()))
    start = server.received[0]
    assert max(server.accepted) - start <= best * (2 if names_delay else 2.5)
    first_burst = sum(time == start for time in server.received)
    assert first_burst == calls
    in_first_burst = sum(time == start for time in server.accepted)
    later_refusals = len(server.received) - first_burst - (len(server.accepted) - in_first_burst)
    assert later_refusals <= calls / 4


@pytest.mark.parametrize("names_delay", [True, False], ids=["Retry-After", "no Retry-After"])
def test_calls_of_two_processes_take_at_most_three_times_the_shortest_time(run: Run, names_delay: bool) -> None:
    server, processes = WindowServer(names_delay), [Throttle("host"), Throttle("host")]

    async def burst() -> list[bool]:
        return await asyncio.gather(*(call(processes[number % 2], server) for number in range(80)))

    assert all(run(burst()))
    assert max(server.accepted) - server.received[0] <= 3 * 70


def test_sends_at_once_without_suspending_before_the_first_refusal() -> None:
    async def never_suspended() -> None:
        coroutine = Throttle("host").wait_turn(False, 0)
        with pytest.raises(StopIteration):
            coroutine.send(None)

    asyncio.run(never_suspended())


def test_sends_nothing_before_retry_after_is_over(run: Run, loop: virtual_time.VirtualTimeLoop) -> None:
    throttle = Throttle("host")

    async def wait() -> float:
        await refuse_one(throttle, 10)
        start = loop.time()
        return await throttle.wait_turn(False, MAX_WAIT) - start

    assert 10 <= run(wait()) <= 12.5


def test_waits_for_the_backoff_without_retry_after(run: Run, loop: virtual_time.VirtualTimeLoop) -> None:
    throttle = Throttle("host")

    async def wait() -> float:
        await refuse_one(throttle, None)
        start = loop.time()
        return await throttle.wait_turn(False, MAX_WAIT) - start

    assert BACKOFF <= run(wait()) <= BACKOFF * 1.25


def test_later_refusal_of_the_same_burst_prolongs_the_pause(run: Run) -> None:
    throttle = Throttle("host")

    async def wait() -> float:
        turns = [await throttle.wait_turn(False, MAX_WAIT) for _ in range(2)]
        throttle.refused(turns[0], 5, BACKOFF)
        throttle.refused(turns[1], 20, BACKOFF)
        return await throttle.wait_turn(False, MAX_WAIT) - turns[0]

    assert run(wait()) >= 20


def test_serves_in_order_of_arrival_and_last_attempts_after_all_others(run: Run) -> None:
    throttle, order = Throttle("host"), []

    async def wait(name: str) -> None:
        turn = await throttle.wait_turn(name.startswith("last attempt"), MAX_WAIT)
        order.append(name)
        throttle.accepted(turn)

    async def queue() -> None:
        await refuse_one(throttle)
        names = ["first", "last attempt", "second", "last attempt too", "third"]
        await asyncio.gather(*map(wait, names))

    run(queue())
    assert order == ["first", "second", "third", "last attempt", "last attempt too"]


def test_steady_stream_of_new_calls_does_not_keep_refused_calls_waiting(run: Run) -> None:
    throttle, server = Throttle("host"), WindowServer(True)
    seconds_of_burst: list[float] = []

    async def timed_call() -> None:
        clock = asyncio.get_running_loop().time
        start = clock()
        assert await call(throttle, server)
        seconds_of_burst.append(clock() - start)

    async def run_burst_and_stream() -> None:
        burst = asyncio.gather(*(timed_call() for _ in range(20)))
        stream = []
        for _ in range(60):
            await asyncio.sleep(1)
            stream.append(asyncio.create_task(call(throttle, server)))
        await burst
        assert all(await asyncio.gather(*stream))

    run(run_burst_and_stream())
    # 10 of the 20 calls are refused at first, and the server accepts one call a second.
    assert max(seconds_of_burst) < 30


def test_call_that_would_wait_longer_than_max_wait_fails_at_once(run: Run, loop: virtual_time.VirtualTimeLoop) -> None:
    throttle = Throttle("host")

    async def wait() -> float:
        await refuse_one(throttle, 120)
        start = loop.time()
        with pytest.raises(QueueTooLongError) as caught:
            await throttle.wait_turn(False, 60)
        assert caught.value.seconds == pytest.approx(120, rel=0.3)
        return loop.time() - start

    assert run(wait()) == 0


def test_long_retry_after_fails_the_calls_in_the_queue(run: Run, loop: virtual_time.VirtualTimeLoop) -> None:
    throttle = Throttle("host")

    async def wait() -> float:
        turns = [await throttle.wait_turn(False, MAX_WAIT) for _ in range(2)]
        throttle.refused(turns[0], 5, BACKOFF)
        waiting = asyncio.create_task(throttle.wait_turn(False, 60))
        await asyncio.sleep(1)
        throttle.refused(turns[1], 300, BACKOFF)
        start = loop.time()
        with pytest.raises(QueueTooLongError):
            await waiting
        return loop.time() - start

    assert run(wait()) < 0.1


def test_cancelled_call_does_not_delay_others(run: Run, loop: virtual_time.VirtualTimeLoop) -> None:
    throttle = Throttle("host")

    async def wait() -> float:
        await refuse_one(throttle, 10)
        cancelled = [asyncio.create_task(throttle.wait_turn(False, MAX_WAIT)) for _ in range(50)]
        start = loop.time()
        behind = asyncio.create_task(throttle.wait_turn(False, MAX_WAIT))
        await asyncio.sleep(1)
        for task in cancelled:
            task.cancel()
        await asyncio.wait(cancelled)
        return await behind - start

    assert run(wait()) <= 12.5


def test_sends_at_once_again_after_the_quiet_time(run: Run, loop: virtual_time.VirtualTimeLoop) -> None:
    throttle = Throttle("host")

    async def burst() -> float:
        await refuse_one(throttle, 1)
        throttle.accepted(await throttle.wait_turn(False, MAX_WAIT))
        await asyncio.sleep(QUIET_TIME + 1)
        start = loop.time()
        await asyncio.gather(*(throttle.wait_turn(False, 0) for _ in range(100)))
        return loop.time() - start

    assert run(burst()) == 0


def test_sends_at_once_again_after_a_time_in_which_no_call_waited(run: Run, loop: virtual_time.VirtualTimeLoop) -> None:
    throttle = Throttle("host")

    async def burst() -> float:
        await refuse_one(throttle, 1)
        for _ in range(4):
            throttle.accepted(await throttle.wait_turn(False, MAX_WAIT))
            await asyncio.sleep(QUIET_TIME / 2)
        start = loop.time()
        await asyncio.gather(*(throttle.wait_turn(False, 0) for _ in range(100)))
        return loop.time() - start

    assert run(burst()) == 0


def test_request_without_response_does_not_block_others(run: Run) -> None:
    throttle = Throttle("host")

    async def wait() -> None:
        await refuse_one(throttle, 1)
        throttle.failed(await throttle.wait_turn(False, MAX_WAIT))
        await throttle.wait_turn(False, 10)

    run(wait())


def test_reports_the_queue(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "g4f_websim")
    throttle = Throttle("example.com")

    async def wait() -> None:
        await refuse_one(throttle, 4)
        tasks = [asyncio.create_task(throttle.wait_turn(False, MAX_WAIT)) for _ in range(3)]
        await asyncio.sleep(2)
        for task in tasks:
            task.cancel()

    run(wait())
    assert [record.message for record in caplog.records] == [
        "rate limit of example.com: 3 calls wait, the next one is sent in about 4 s",
    ]


def test_reports_nothing_if_the_queue_is_already_empty(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "g4f_websim")
    throttle = Throttle("example.com")

    async def wait() -> None:
        await refuse_one(throttle, 0.01)
        throttle.accepted(await throttle.wait_turn(False, MAX_WAIT))
        await asyncio.sleep(2)

    run(wait())
    assert not caplog.records


def test_threads_wait_for_the_same_pause() -> None:
    throttle, turns = Throttle("host"), []
    start = throttle_module.monotonic()
    asyncio.run(refuse_one(throttle, 0.1))

    async def send() -> None:
        turn = await throttle.wait_turn(False, 60)
        turns.append(turn)
        throttle.accepted(turn)

    threads = [threading.Thread(target=lambda: asyncio.run(send())) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(turns) == 5
    assert min(turns) - start >= 0.1


@pytest.mark.parametrize("is_closed", [True, False], ids=["closed", "stopped"])
def test_skips_a_call_whose_event_loop_has_ended(is_closed: bool) -> None:
    throttle = Throttle("host")
    asyncio.run(refuse_one(throttle, 1))
    gone = asyncio.new_event_loop()
    task = gone.create_task(throttle.wait_turn(False, 60))
    gone.run_until_complete(asyncio.sleep(0))
    assert len(throttle._queue) == 1
    if is_closed:
        gone.close()

    async def wait() -> None:
        await asyncio.wait_for(throttle.wait_turn(False, 60), 10)

    try:
        asyncio.run(wait())
    finally:
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        if not is_closed:
            gone.close()


def test_garbage_collector_may_finalize_a_pending_call_while_the_lock_is_held() -> None:
    throttle = Throttle("host")

    async def wait() -> None:
        await throttle.wait_turn(False, 60)

    def leave_pending_call() -> weakref.ref[object]:
        loop = asyncio.new_event_loop()
        loop.run_until_complete(refuse_one(throttle, 30))
        task = loop.create_task(wait())
        loop.run_until_complete(asyncio.sleep(0.01))
        loop.close()
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        return weakref.ref(task)

    def finalize() -> None:
        with throttle._lock:
            # The queue held the last reference to the call.
            throttle._queue.clear()
            gc.collect()

    task = leave_pending_call()
    thread = threading.Thread(target=finalize, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    assert task() is None
