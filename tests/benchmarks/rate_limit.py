"""Measure many calls against servers with rate limits: `python -m tests.benchmarks.rate_limit`.

The queue of g4f_websim is compared, in the same run, with per-call retries, the policy of the OpenAI SDK, and with the
shortest possible time. One second stands for ten: all periods, latencies and backoffs are a tenth.
"""

import argparse
import asyncio
import multiprocessing
import os
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import NamedTuple

import aiohttp

from g4f_websim import Websim
from g4f_websim.transport import connections
from g4f_websim.transport.rate_limit import forget_limits
from g4f_websim.wire.endpoints import CHAT_PATH, IMAGE_PATH
from tests.support.calls import HELLO, call_websim
from tests.support.limited_server import LimitedServer, limited_server
from tests.support.limiter import Limit
from tests.support.paths import ROOT

IMAGE_FILE = ROOT / ".github" / "rate-limit.svg"

SCALE = 0.1
BACKOFF = 2.0 * SCALE
MAX_WAIT = 60.0 * SCALE
# For the bursts, so that every call may succeed.
LONG_WAIT = 600.0

# The columns of the tables.
ROW = "{:<46}{:>6}{:>10}{:>8}{:>7}{:>9}{:>12}{:>10}"

# The policy of the OpenAI SDK: 2 retries, 0.5 s doubled up to 8 s. It respects a Retry-After of up to a minute.
SDK_RETRIES = 2
SDK_BACKOFF = 0.5 * SCALE
SDK_MAX_BACKOFF = 8.0 * SCALE
SDK_MAX_RETRY_AFTER = 60.0 * SCALE


class Case(NamedTuple):
    """A server and the calls that it receives.

    Attributes:
        name: what the table shows.
        limit: the limit of the server.
        calls: the calls of each process.
        processes: the processes.
        at_once: the calls of each process that are made at the same time.
        max_wait: `Websim.max_wait`.
        threads: whether each call is made in a thread of its own.
        limited_images: whether as many images are made before the calls; the limit is theirs.
        limited_proxy: whether as many calls are made before through another proxy, which has the limit.
    """

    name: str
    limit: Limit
    calls: int
    processes: int = 1
    at_once: int = 10_000
    max_wait: float = MAX_WAIT
    threads: bool = False
    limited_images: int = 0
    limited_proxy: int = 0


class Result(NamedTuple):
    """The result of a case: when each response arrived, and the requests that the server refused."""

    succeeded: list[float]
    refused: int

    @property
    def seconds(self) -> float:
        return max(self.succeeded, default=0.0)


def bursts() -> list[Case]:
    """Return the cases in which all calls start at once and may wait for long."""
    found = []
    for retry_after in (True, False):
        window = Limit("window", 10, 10 * SCALE, retry_after=retry_after)
        bucket = Limit("bucket", 10, 0.5 * SCALE, retry_after=retry_after)
        in_flight = Limit("in_flight", 4, latency=0.5 * SCALE, retry_after=retry_after)
        long_window = Limit("window", 50, 30 * SCALE, 0.5 * SCALE, retry_after)
        end = "" if retry_after else ", no Retry-After"
        for name, limit, calls in (
            ("10 per 10 s", window, 20),
            ("10 per 10 s", window, 100),
            ("50 per 30 s", long_window, 150),
            ("2/s, burst 10", bucket, 40),
            ("2/s, burst 10", bucket, 100),
            ("4 in flight, 0.5 s each", in_flight, 100),
        ):
            found.append(Case(name + end, limit, calls, max_wait=LONG_WAIT))
        found.append(Case(f"10 per 10 s{end}, threads", window, 40, max_wait=LONG_WAIT, threads=True))
    return found


def others() -> list[Case]:
    """Return the cases in which a call waits for at most a minute."""
    fast = 0.5 * SCALE
    slow = 2.0 * SCALE
    return [
        Case("5 % refused at random, no Retry-After", Limit("random", 5, 0, fast, False), 200, at_once=10),
        Case("20 % refused at random, no Retry-After", Limit("random", 20, 0, fast, False), 200, at_once=10),
        Case("20 % refused, no Retry-After, 50 at once", Limit("random", 20, 0, fast, False), 200, at_once=50),
        Case("5 % refused at random, Retry-After 1", Limit("random", 5, 1 * SCALE, fast), 200, at_once=10),
        Case("3 calls, each refused once, Retry-After 30", Limit("first", 3, 30 * SCALE, slow), 3),
        Case("10 accepted, then none for 30 s", Limit("outage", 10, 30 * SCALE, slow), 20),
        Case("10 per 10 s, 2 processes", Limit("window", 10, 10 * SCALE, slow), 20, 2),
        Case("20 per 40 s, 2 processes", Limit("window", 20, 40 * SCALE, slow), 15, 2),
        Case("2/s, burst 10, 4 processes", Limit("bucket", 10, 0.5 * SCALE, 0.3 * SCALE), 20, 4),
        Case("2/s, burst 10, no Retry-After, 4 processes", Limit("bucket", 10, 0.5 * SCALE, 0.3 * SCALE, False), 20, 4),
        Case("chats beside limited images", Limit("first", 1000, 30 * SCALE, path=IMAGE_PATH), 80, limited_images=10),
        Case("another proxy than the limited one", Limit("first", 1000, 30 * SCALE), 20, limited_proxy=10),
        Case("1,500 calls at once, 30 s each", Limit("none", latency=30 * SCALE), 1500),
    ]


async def with_sdk_policy(session: aiohttp.ClientSession, url: str) -> None:
    """Send a request, and retry it as the OpenAI SDK does."""
    for attempt in range(SDK_RETRIES + 1):
        async with session.post(url + CHAT_PATH, json={}) as response:
            await response.read()
        if response.status == 200:
            return
        delay = min(SDK_BACKOFF * 2**attempt, SDK_MAX_BACKOFF)
        if 0 < (retry_after := float(response.headers.get("Retry-After", 0))) <= SDK_MAX_RETRY_AFTER:
            delay = retry_after
        await asyncio.sleep(delay)
    raise ConnectionRefusedError


async def send_all(case: Case, start: float, send: Callable[[], Awaitable[object]]) -> list[float]:
    """Make the calls of one process, and return when each response arrived."""
    succeeded: list[float] = []
    slots = asyncio.Semaphore(case.at_once)

    async def call() -> None:
        async with slots:
            try:
                await send()
            except Exception:  # the call has no response
                return
            succeeded.append(time.monotonic() - start)

    await asyncio.gather(*(call() for _ in range(case.calls)))
    return succeeded


async def make_calls(case: Case, start: float, proxies: list[str]) -> list[float]:
    """Make the calls of one process with the queue, after those that meet the limit of something else."""
    limited = [call_websim("flux", HELLO) for _ in range(case.limited_images)]
    limited += [call_websim(None, HELLO, proxy=proxies[0]) for _ in range(case.limited_proxy)]
    tasks = [asyncio.create_task(each) for each in limited]
    if tasks:
        await asyncio.wait(tasks, timeout=5 * SCALE)
        start = time.monotonic()
    try:
        return await send_all(case, start, partial(call_websim, None, HELLO, proxy=proxies[1] if proxies else None))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def make_calls_plainly(case: Case, start: float, url: str) -> list[float]:
    connector = aiohttp.TCPConnector(limit=100)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(None)) as session:
        return await send_all(case, start, partial(with_sdk_policy, session, url))


def run_in_threads(case: Case, start: float) -> list[float]:
    def call(number: int) -> list[float]:
        return asyncio.run(send_all(case._replace(calls=1), start, partial(call_websim, None, HELLO)))

    with ThreadPoolExecutor(case.calls) as pool:
        return [seconds for found in pool.map(call, range(case.calls)) for seconds in found]


def run_process(case: Case, start: float, url: str, plain: bool, proxies: list[str]) -> list[float]:
    """Make the calls of one process."""
    Websim.url, Websim.backoff, Websim.max_wait = url, BACKOFF, case.max_wait
    connections.ATTEMPT_TIMEOUT = 300.0 * SCALE
    time.sleep(max(0.0, start - time.monotonic()))
    if plain:
        return asyncio.run(make_calls_plainly(case, start, proxies[1] if proxies else url))
    if case.threads:
        return run_in_threads(case, start)
    return asyncio.run(make_calls(case, start, proxies))


def measure(case: Case, plain: bool) -> Result:
    """Run a case with the queue or with per-call retries."""
    with ExitStack() as stack:
        server: LimitedServer = stack.enter_context(limited_server(case.limit))
        proxies = [server.url, stack.enter_context(limited_server(Limit("none"))).url] if case.limited_proxy else []
        forget_limits()
        run = partial(run_process, case, plain=plain, url=server.url, proxies=proxies)
        if case.processes == 1:
            succeeded = run(start=time.monotonic())
        else:
            start = time.monotonic() + 0.5
            pool = stack.enter_context(ProcessPoolExecutor(case.processes, multiprocessing.get_context("fork")))
            futures = [pool.submit(run, start=start) for _ in range(case.processes)]
            succeeded = [seconds for future in futures for seconds in future.result()]
        return Result(sorted(succeeded), len(server.report()["refused"]))


def draw(case: Case, ours: Result, theirs: Result) -> None:
    """Write the image of the README: responses over time."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot as plot

    plot.rcParams.update({"font.size": 11, "svg.hashsalt": "g4f-websim"})
    figure, axes = plot.subplots(figsize=(8, 3.6))
    best = [case.limit.best_seconds(calls) for calls in range(1, case.calls + 1)]
    lines = ((best, "shortest possible", "0.6", "--"), (ours.succeeded, "g4f-websim: one queue", "C0", "-"))
    lines += ((theirs.succeeded, "per-call retries", "C3", "-"),)
    end = max(best[-1], ours.seconds) / SCALE
    for seconds, label, color, style in lines:
        x = [0.0, *(value / SCALE for value in seconds), end]
        y = [*range(len(seconds) + 1), len(seconds)]
        axes.step(x, y, where="post", label=label, color=color, linestyle=style)
    axes.set_xlabel("seconds")
    axes.set_ylabel("calls with a response")
    axes.set_title(f"{case.calls} calls at once, {case.name}", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(IMAGE_FILE, metadata={"Date": None})


def print_table(cases: list[Case]) -> None:
    """Measure cases and print a line for each."""
    print(f"{'':<52}{'-- g4f-websim: queue --':>34}{'- per-call retries -':>22}")
    print(ROW.format("limit", "calls", "succeeded", "seconds", "/ best", "refused", "succeeded", "seconds"))
    total = [0, 0, 0]
    for case in cases:
        ours, theirs = measure(case, plain=False), measure(case, plain=True)
        calls = case.calls * case.processes
        best = case.limit.best_seconds(calls)
        ratio = f"{ours.seconds / best:.2f}" if case.max_wait == LONG_WAIT else ""
        refused = max(0, ours.refused - max(0, calls - case.limit.requests)) / calls if ratio else 0
        succeeded, plain_succeeded = len(ours.succeeded), len(theirs.succeeded)
        seconds, plain_seconds = (f"{result.seconds / SCALE:.1f}" for result in (ours, theirs))
        share = f"{refused:.0%}" if ratio else ""
        print(
            ROW.format(case.name, calls, succeeded, seconds, ratio, share, plain_succeeded, plain_seconds), flush=True
        )
        total = [total[0] + calls, total[1] + succeeded, total[2] + plain_succeeded]
    print(ROW.format("all", total[0], total[1], "", "", "", total[2], ""), "\n")


def main() -> None:
    """Measure all cases, print two tables, and draw the image of the README."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.rate_limit", description=__doc__)
    parser.add_argument("--draw", action="store_true", help="measure one case only, and draw .github/rate-limit.svg")
    parser.add_argument("--quick", action="store_true", help="measure only the cases in which a call waits a minute")
    options = parser.parse_args()
    for name in ("WEBSIM_PROJECT_ID", "WEBSIM_API_KEY"):
        os.environ.pop(name, None)
    if options.draw:
        case = Case("10 per 10 s", Limit("window", 10, 10 * SCALE), 100, max_wait=LONG_WAIT)
        draw(case, measure(case, plain=False), measure(case, plain=True))
        print(IMAGE_FILE.relative_to(ROOT))
        return
    if not options.quick:
        print_table(bursts())
    print_table(others())
    print("seconds: until the last response; refused: requests refused after those of the first burst, by calls")


if __name__ == "__main__":
    main()
