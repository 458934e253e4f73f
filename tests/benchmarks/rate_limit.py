"""Measure many calls at once against servers with rate limits: `python -m tests.benchmarks.rate_limit`.

The queue of g4f_websim is compared, in the same run, with per-call retries, the policy of the OpenAI SDK,
and with the shortest possible time. One second stands for ten: all periods, latencies and backoffs are a tenth.
"""

import argparse
import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import aiohttp

from g4f_websim import Websim
from g4f_websim.transport.rate_limit import forget_limits
from tests.support.calls import HELLO, call_websim
from tests.support.limited_server import Limit, LimitedServer, limited_server
from tests.support.paths import ROOT

IMAGE_FILE = ROOT / ".github" / "rate-limit.svg"

SCALE = 0.1
BACKOFF = 2.0 * SCALE
MAX_WAIT = 600.0

# The policy of the OpenAI SDK: 2 retries, 0.5 s doubled up to 8 s, Retry-After respected.
SDK_RETRIES = 2
SDK_BACKOFF = 0.5 * SCALE
SDK_MAX_BACKOFF = 8.0 * SCALE


class Case(NamedTuple):
    """A server and the calls that it receives at once."""

    limit: Limit
    calls: int
    threads: bool = False

    @property
    def name(self) -> str:
        limit = self.limit
        kind = {
            "window": f"{limit.requests} per {limit.period / SCALE:g} s",
            "bucket": f"{SCALE / limit.period:g}/s, burst {limit.requests}" if limit.period else "",
            "in_flight": f"{limit.requests} in flight, {limit.latency / SCALE:g} s each",
        }[limit.kind]
        return f"{kind}{'' if limit.retry_after else ', no Retry-After'}{', threads' if self.threads else ''}"


class Result(NamedTuple):
    """The result of a case: when each response arrived, and the requests that the server refused."""

    succeeded: list[float]
    refused: int

    @property
    def seconds(self) -> float:
        return max(self.succeeded, default=0.0)


def cases() -> list[Case]:
    """Return all cases."""
    found = []
    for retry_after in (True, False):
        window = Limit("window", 10, 10 * SCALE, retry_after=retry_after)
        bucket = Limit("bucket", 10, 0.5 * SCALE, retry_after=retry_after)
        in_flight = Limit("in_flight", 4, latency=0.5 * SCALE, retry_after=retry_after)
        found += [Case(window, 20), Case(window, 100), Case(Limit("window", 50, 30 * SCALE, 0.05, retry_after), 150)]
        found += [Case(bucket, 40), Case(bucket, 100), Case(in_flight, 100), Case(window, 40, threads=True)]
    return found


async def with_queue() -> None:
    await call_websim(None, HELLO)


async def with_sdk_policy(session: aiohttp.ClientSession, url: str) -> None:
    """Send a request, and retry it as the OpenAI SDK does."""
    for attempt in range(SDK_RETRIES + 1):
        async with session.post(url, json={}) as response:
            await response.read()
        if response.status == 200:
            return
        delay = float(response.headers.get("Retry-After") or min(SDK_BACKOFF * 2**attempt, SDK_MAX_BACKOFF))
        await asyncio.sleep(delay)
    raise ConnectionRefusedError


async def send_together(calls: int, send: Callable[[], Awaitable[None]], succeeded: list[float]) -> None:
    start = time.monotonic()

    async def call() -> None:
        try:
            await send()
        except Exception:  # the call has no response
            return
        succeeded.append(time.monotonic() - start)

    await asyncio.gather(*(call() for _ in range(calls)))


def run_with_queue(case: Case, server: LimitedServer) -> list[float]:
    succeeded: list[float] = []
    Websim.url = server.url
    if not case.threads:
        asyncio.run(send_together(case.calls, with_queue, succeeded))
        return succeeded
    start = time.monotonic()

    def call() -> None:
        asyncio.run(with_queue())
        succeeded.append(time.monotonic() - start)

    with ThreadPoolExecutor(case.calls) as pool:
        for _ in range(case.calls):
            pool.submit(call)
    return succeeded


def run_with_sdk_policy(case: Case, server: LimitedServer) -> list[float]:
    succeeded: list[float] = []

    async def main() -> None:
        async with aiohttp.ClientSession() as session:
            await send_together(case.calls, lambda: with_sdk_policy(session, server.url), succeeded)

    asyncio.run(main())
    return succeeded


def measure(case: Case, run: Callable[[Case, LimitedServer], list[float]]) -> Result:
    with limited_server(case.limit) as server:
        succeeded = run(case, server)
        forget_limits()
        return Result(sorted(succeeded), len(server.report()["refused"]))


def first_refusals(case: Case) -> int:
    """Return how many requests of the first burst the server refuses."""
    return max(0, case.calls - case.limit.requests)


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


def main() -> None:
    """Measure all cases, print a table, and draw the image of the README."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.rate_limit", description=__doc__)
    parser.add_argument("--draw", action="store_true", help="measure one case only, and draw .github/rate-limit.svg")
    options = parser.parse_args()
    for name in ("WEBSIM_PROJECT_ID", "WEBSIM_API_KEY"):
        os.environ.pop(name, None)
    Websim.backoff, Websim.max_wait = BACKOFF, MAX_WAIT
    if options.draw:
        case = Case(Limit("window", 10, 10 * SCALE, retry_after=True), 100)
        draw(case, measure(case, run_with_queue), measure(case, run_with_sdk_policy))
        print(IMAGE_FILE.relative_to(ROOT))
        return
    print(f"{'limit':<46}{'calls':>6}{'succeeded':>10}{'time / best':>13}{'refusals':>10}{'per-call retries':>18}")
    succeeded = theirs_succeeded = calls = 0
    for case in cases():
        ours, theirs = measure(case, run_with_queue), measure(case, run_with_sdk_policy)
        ratio = ours.seconds / case.limit.best_seconds(case.calls)
        refusals = max(0, ours.refused - first_refusals(case)) / case.calls
        print(
            f"{case.name:<46}{case.calls:>6}{len(ours.succeeded):>10}{ratio:>13.2f}{refusals:>10.0%}"
            f"{len(theirs.succeeded):>18}",
            flush=True,
        )
        succeeded, calls = succeeded + len(ours.succeeded), calls + case.calls
        theirs_succeeded += len(theirs.succeeded)
    print(f"{'all':<46}{calls:>6}{succeeded:>10}{'':>13}{'':>10}{theirs_succeeded:>18}")
    print("refusals: those beyond the first burst, by calls; per-call retries: the calls that succeed with them")


if __name__ == "__main__":
    main()
