"""The queue behind a rate limit, in virtual time; the tests of threads, event loops and forks use the real clock."""

import asyncio
import gc
import itertools
import logging
import os
import random
import statistics
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import pytest

from g4f_websim.errors import MAX_RETRY_AFTER
from g4f_websim.transport import rate_limit as rate_limit_module
from g4f_websim.transport.attempts import delay_after
from g4f_websim.transport.gate import QUIET_TIME
from g4f_websim.transport.rate_limit import MAX_LIMITS, RateLimit, forget_limits, rate_limit_of
from g4f_websim.transport.target import Target
from tests.support.limiter import Limit, Limiter
from tests.support.virtual_time import VirtualTimeLoop

MAX_ATTEMPTS, BACKOFF, MAX_WAIT = 3, 2.0, 60.0
UNLIMITED = 6000.0
REFUSAL_SECONDS = 0.03

Run = Callable[[Coroutine[Any, Any, Any]], Any]
with_and_without_retry_after = pytest.mark.parametrize("retry_after", [True, False], ids=["Retry-After", "none"])


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a coroutine in virtual time; each run has an event loop and random numbers of its own."""
    seeds = itertools.count()

    def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
        random.seed(next(seeds))
        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            monkeypatch.setattr(rate_limit_module, "monotonic", runner.get_loop().time)
            return runner.run(coroutine)

    return run


def now() -> float:
    return asyncio.get_running_loop().time()


@dataclass
class Server:
    """A server in virtual time, and the calls of one or several processes to it."""

    limit: Limit
    limiter: Limiter = field(init=False)
    succeeded: list[float] = field(default_factory=list)
    start: float = field(default_factory=now)

    def __post_init__(self) -> None:
        self.limiter = Limiter(self.limit, seed=random.randrange(1000))

    async def respond(self) -> tuple[bool, float | None]:
        """Return whether a request is accepted, and what Retry-After says if it is not."""
        delay = self.limiter.admit(now())
        if delay is not None:
            await asyncio.sleep(REFUSAL_SECONDS)
            return False, delay if self.limit.retry_after else None
        self.limiter.in_flight += 1
        await asyncio.sleep(self.limit.latency * random.uniform(0.8, 1.2))
        self.limiter.in_flight -= 1
        self.succeeded.append(now() - self.start)
        return True, None

    async def send(self, queue: RateLimit, max_wait: float = UNLIMITED) -> bool:
        """Send a request until it is accepted, as attempts.py does, and return whether it is."""
        call = queue.new_call(max_wait)
        for attempt in range(1, MAX_ATTEMPTS + 1):
            call.is_last_attempt = attempt == MAX_ATTEMPTS
            while (sent_at := queue.admit(call)) is None:
                if await queue.wait(call) is not None:
                    return False
            is_accepted, retry_after = await self.respond()
            if is_accepted:
                queue.accepted(sent_at)
                return True
            queue.refused(sent_at, retry_after, BACKOFF)
            call.not_before = now() + delay_after(attempt, retry_after, BACKOFF)
        return False

    async def send_plainly(self) -> bool:
        """Send a request with the retries of the OpenAI SDK."""
        for attempt in range(3):
            is_accepted, retry_after = await self.respond()
            if is_accepted:
                return True
            await asyncio.sleep(0.5 * 2**attempt if retry_after is None else retry_after)
        return False


async def send_all(
    limit: Limit, calls: int, processes: int = 1, at_once: int = 1000, plain: bool = False, max_wait: float = UNLIMITED
) -> Server:
    """Send calls from each of some processes, and return the server."""
    server = Server(limit)

    async def process() -> None:
        queue, slots = RateLimit("host"), asyncio.Semaphore(at_once)

        async def call() -> None:
            async with slots:
                await (server.send_plainly() if plain else server.send(queue, max_wait))

        await asyncio.gather(*(call() for _ in range(calls)))

    await asyncio.gather(*(process() for _ in range(processes)))
    return server


def limited(kind: str, requests: int, period: float = 0.0, latency: float = 0.05) -> Callable[[bool], Limit]:
    return lambda retry_after: Limit(kind, requests, period, latency, retry_after)


# Bursts


@with_and_without_retry_after
@pytest.mark.parametrize(
    "limit, calls",
    [
        (limited("window", 10, 10), 20),
        (limited("window", 10, 10), 100),
        (limited("window", 50, 30, 0.5), 150),
        (limited("bucket", 10, 0.5), 40),
        (limited("bucket", 10, 0.5), 100),
        (limited("in_flight", 4, latency=0.5), 100),
    ],
)
def test_burst_is_served_in_time_with_few_refusals(
    run: Run, limit: Callable[[bool], Limit], calls: int, retry_after: bool
) -> None:
    each = limit(retry_after)
    servers = [run(send_all(each, calls)) for _ in range(5)]
    served = statistics.mean(len(server.succeeded) for server in servers) / calls
    seconds = statistics.median(max(server.succeeded) for server in servers)
    refusals = statistics.mean(len(server.limiter.refused) for server in servers) - (calls - each.requests)
    assert served >= (0.99 if retry_after else 0.95)
    assert seconds <= each.best_seconds(calls) * (3 if each.kind == "in_flight" else 2 if retry_after else 2.5)
    assert refusals / calls <= (0.4 if retry_after else 0.6)


# The calls for each process; what plain retries achieve in the same time is measured.
NEVER_WORSE = {
    "5 %": (Limit("random", 5, 0, 0.5, False), 200, 1, 10, 2),
    "20 %": (Limit("random", 20, 0, 0.5, False), 200, 1, 10, 10),
    "20 %, 50 at once": (Limit("random", 20, 0, 0.5, False), 200, 1, 50, 10),
    "30 %, Retry-After 1, 20 at once": (Limit("random", 30, 1, 0.5), 200, 1, 20, 10),
    "5 %, Retry-After 1": (Limit("random", 5, 1, 0.5), 200, 1, 10, 3),
    "5 %, Retry-After 0": (Limit("random", 5, 0, 0.5), 200, 1, 10, 3),
    "20 %, Retry-After 0.2": (Limit("random", 20, 0.2, 0.5), 200, 1, 10, 10),
    "each refused once": (Limit("first", 3, 30, 2), 3, 1, 3, 2),
    "an outage after 10 accepted": (Limit("outage", 10, 30, 2), 20, 1, 20, 2),
    "window, 2 processes": (Limit("window", 10, 10, 2), 20, 2, 20, 3),
    "long window, 2 processes": (Limit("window", 20, 40, 2), 15, 2, 15, 2),
    "bucket, 4 processes": (Limit("bucket", 10, 0.5, 0.3), 20, 4, 20, 1),
    "bucket, 4 processes, none": (Limit("bucket", 10, 0.5, 0.3, False), 20, 4, 20, 1),
}


@pytest.mark.parametrize("limit, calls, processes, at_once, times", NEVER_WORSE.values(), ids=NEVER_WORSE)
def test_is_never_worse_than_plain_retries(
    run: Run, limit: Limit, calls: int, processes: int, at_once: int, times: float
) -> None:
    ours = [run(send_all(limit, calls, processes, at_once, max_wait=MAX_WAIT)) for _ in range(5)]
    plain = [run(send_all(limit, calls, processes, at_once, plain=True)) for _ in range(5)]
    served, plainly = (statistics.median(len(server.succeeded) for server in servers) for servers in (ours, plain))
    total = calls * processes
    assert served >= plainly - total // 200
    assert served >= limit.capacity(total, MAX_WAIT) * (0.9 if processes == 1 else 0.8)
    if plainly > 0.97 * total:
        seconds, limit_seconds = (statistics.median(max(s.succeeded) for s in servers) for servers in (ours, plain))
        assert seconds <= times * limit_seconds


# The gate


async def send_and_refuse(
    queue: RateLimit, retry_after: float | None = 10.0, times: int = 1, backoff: float = BACKOFF
) -> None:
    """Send requests together, all of which are refused."""
    sent = [await turn(queue) for _ in range(times)]
    for sent_at in sent:
        queue.refused(sent_at, retry_after, backoff)


async def turn(queue: RateLimit, is_last_attempt: bool = False, max_wait: float = UNLIMITED) -> float:
    """Wait until a request may be sent, and return the time at which it is sent."""
    call = queue.new_call(max_wait)
    call.is_last_attempt = is_last_attempt
    while (sent_at := queue.admit(call)) is None:
        if (seconds := await queue.wait(call)) is not None:
            raise TimeoutError(seconds)
    return sent_at


def test_sends_at_once_before_the_first_refusal() -> None:
    async def main() -> None:
        queue = RateLimit("host")
        for _ in range(1000):
            assert queue.admit(queue.new_call(0)) is not None

    asyncio.run(main())


@pytest.mark.parametrize(
    "retry_after, times, shortest, longest",
    [(10, 1, 10, 10), (86400, 1, MAX_RETRY_AFTER, MAX_RETRY_AFTER), (None, 3, 2, 2.5), (None, 2, 0, 0)],
    ids=["Retry-After", "a day", "several", "single refusals"],
)
def test_refusals_that_look_like_a_limit_pause_the_other_calls(
    run: Run, retry_after: float | None, times: int, shortest: float, longest: float
) -> None:
    async def main() -> float:
        queue = RateLimit("host")
        await send_and_refuse(queue, retry_after, times)
        start = now()
        return await turn(queue) - start

    assert shortest <= run(main()) <= longest + 0.01


def test_request_sent_later_than_the_refused_ones_opens_the_gate(run: Run) -> None:
    async def main() -> float:
        queue = RateLimit("host")
        refused = await turn(queue)
        await asyncio.sleep(0.1)
        later = await turn(queue)
        queue.refused(refused, 30, BACKOFF)
        waiting = asyncio.create_task(turn(queue))
        await asyncio.sleep(1)
        queue.accepted(later)
        return await waiting - later

    assert run(main()) < 1.1


def test_other_calls_follow_the_probe_two_for_each_accepted_one(run: Run) -> None:
    sent: list[float] = []

    async def call(queue: RateLimit) -> None:
        sent_at = await turn(queue)
        sent.append(sent_at)
        await asyncio.sleep(1)
        queue.accepted(sent_at)

    async def main() -> float:
        queue = RateLimit("host")
        await send_and_refuse(queue, 5)
        start = now()
        await asyncio.gather(*(call(queue) for _ in range(15)))
        return start

    start = run(main())
    assert [round(time - start) for time in sent] == [5] + [6] * 2 + [7] * 4 + [8] * 8


def test_serves_in_order_of_arrival_and_last_attempts_after_all_others(run: Run) -> None:
    order: list[str] = []

    async def call(queue: RateLimit, name: str) -> None:
        sent_at = await turn(queue, is_last_attempt=name.startswith("last"))
        order.append(name)
        queue.accepted(sent_at)

    async def main() -> None:
        queue = RateLimit("host")
        await send_and_refuse(queue)
        await asyncio.gather(*(call(queue, name) for name in ("first", "last attempt", "second", "last too", "third")))

    run(main())
    assert order == ["first", "second", "third", "last attempt", "last too"]


def test_refused_calls_keep_their_place_before_newer_ones(run: Run) -> None:
    order: list[str] = []

    async def call(server: Server, queue: RateLimit, name: str) -> None:
        assert await server.send(queue)
        order.append(name)

    async def main() -> None:
        server, queue = Server(Limit("window", 10, 10)), RateLimit("host")
        burst = [asyncio.create_task(call(server, queue, "old")) for _ in range(20)]
        await asyncio.sleep(0.1)
        await asyncio.gather(*burst, *(call(server, queue, "new") for _ in range(10)))

    run(main())
    assert order[:20] == ["old"] * 20


# Limits of the waiting time


@pytest.mark.parametrize(
    "retry_after, seconds",
    [(120.0, 0), (50.0, 50), (8.0, 56), (None, 60)],
    ids=["too long", "too long for a second time", "several delays", "none"],
)
def test_call_fails_when_it_has_waited_and_sooner_only_if_the_server_says_so(
    run: Run, retry_after: float | None, seconds: float
) -> None:
    async def main() -> float:
        queue = RateLimit("host")
        await send_and_refuse(queue, retry_after, 3)
        start, call = now(), queue.new_call(60)
        while True:
            while (sent_at := queue.admit(call)) is None:
                if await queue.wait(call) is not None:
                    return now() - start
            queue.refused(sent_at, retry_after, 0)

    assert run(main()) == pytest.approx(seconds, abs=0.01)


def test_long_retry_after_fails_the_calls_in_the_queue(run: Run) -> None:
    async def main() -> float:
        queue = RateLimit("host")
        first, second = await turn(queue), await turn(queue)
        queue.refused(first, 5, BACKOFF)
        waiting = asyncio.create_task(turn(queue, max_wait=60))
        await asyncio.sleep(1)
        queue.refused(second, 300, BACKOFF)
        start = now()
        with pytest.raises(TimeoutError):
            await waiting
        return now() - start

    assert run(main()) <= 1


@pytest.mark.parametrize("end", ["cancelled", "failed", "silent"])
def test_calls_without_a_response_do_not_delay_others(run: Run, end: str) -> None:
    async def main() -> float:
        queue = RateLimit("host")
        await send_and_refuse(queue, 10)
        start = now()
        gone = [asyncio.create_task(turn(queue)) for _ in range(50 if end == "cancelled" else 1)]
        behind = asyncio.create_task(turn(queue))
        await asyncio.sleep(1)
        if end == "cancelled":
            for task in gone:
                task.cancel()
        elif end == "failed":
            queue.failed(await gone[0])
        return await behind - start

    assert run(main()) <= (20.1 if end == "silent" else 10.1)


def test_sends_at_once_again_when_no_call_has_waited_for_a_while(run: Run) -> None:
    async def main() -> float:
        queue = RateLimit("host")
        await send_and_refuse(queue, 1)
        for _ in range(4):
            queue.accepted(await turn(queue))
            await asyncio.sleep(QUIET_TIME / 2)
        start = now()
        await asyncio.gather(*(turn(queue, max_wait=0) for _ in range(100)))
        return now() - start

    assert run(main()) == 0


def test_logs_how_many_calls_wait(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "g4f_websim")

    async def main() -> None:
        queue = RateLimit("example.com")
        await send_and_refuse(queue, 8)
        await asyncio.wait([asyncio.create_task(turn(queue)) for _ in range(3)], timeout=7)

    run(main())
    assert [record.message for record in caplog.records] == [
        "rate limit of example.com: 1 call waits, the next one is sent in about 8 s",
        "rate limit of example.com: 3 calls wait, the next one is sent in about 3 s",
    ]


# Threads, event loops and forks


@pytest.fixture
def short_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limit_module, "POLL_INTERVAL", 0.05)


@pytest.mark.parametrize("end", ["closed", "stopped", "blocked"])
def test_passes_over_calls_whose_event_loop_does_not_run(short_intervals: None, end: str) -> None:
    queue, release = RateLimit("host"), threading.Event()
    asyncio.run(send_and_refuse(queue, 0.3))
    gone = asyncio.new_event_loop()
    tasks = [gone.create_task(turn(queue)) for _ in range(20)]
    gone.run_until_complete(asyncio.sleep(0.01))
    blocked = threading.Thread(target=lambda: gone.run_until_complete(asyncio.sleep(release.wait(10) * 0.01)))
    if end == "closed":
        gone.close()
    elif end == "blocked":
        blocked.start()
    try:
        asyncio.run(asyncio.wait_for(turn(queue), 5))
    finally:
        release.set()
        if end == "blocked":
            blocked.join(10)
        for task in tasks:
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        gone.close()


def test_garbage_collector_may_destroy_a_waiting_call_while_a_thread_uses_the_queue(
    monkeypatch: pytest.MonkeyPatch, short_intervals: None
) -> None:
    queue = RateLimit("host")
    asyncio.run(send_and_refuse(queue, 30))
    loop = asyncio.new_event_loop()
    task = loop.create_task(turn(queue))
    loop.run_until_complete(asyncio.sleep(0.01))
    loop.close()
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    del task, loop
    monotonic = rate_limit_module.monotonic

    def collect_and_return_time() -> float:
        gc.collect()
        return monotonic()

    monkeypatch.setattr(rate_limit_module, "monotonic", collect_and_return_time)
    thread = threading.Thread(target=lambda: asyncio.run(asyncio.wait_for(turn(queue, max_wait=0.3), 5)), daemon=True)
    monkeypatch.setattr(threading, "excepthook", lambda arguments: None)  # the call fails
    thread.start()
    thread.join(10)
    assert not thread.is_alive()


def target(url: str = "http://a/chat", token: str | None = None, proxy: str | None = None) -> Target:
    return Target(url, token, proxy=proxy)


@pytest.mark.parametrize(
    "other", [target("http://a/image"), target("http://b/chat"), target(token="x"), target(proxy="http://p:1")]
)
def test_endpoints_logins_and_proxies_have_limits_of_their_own(other: Target) -> None:
    async def main() -> None:
        await send_and_refuse(rate_limit_of(target()), 30)
        await turn(rate_limit_of(other), max_wait=0)
        with pytest.raises(TimeoutError):
            await turn(rate_limit_of(target()), max_wait=0)

    asyncio.run(main())


def test_number_of_limits_is_bounded() -> None:
    limits = {id(rate_limit_of(target(token=str(number)))) for number in range(2)}
    assert len(limits) == 2
    first = rate_limit_of(target())
    for number in range(MAX_LIMITS):
        rate_limit_of(target(token=str(number)))
    assert rate_limit_of(target()) is not first
    forget_limits()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_forked_process_does_not_wait_in_the_queue_of_its_parent() -> None:
    asyncio.run(send_and_refuse(rate_limit_of(target()), 30))
    child = os.fork()
    if not child:
        try:
            asyncio.run(turn(rate_limit_of(target()), max_wait=0))
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
