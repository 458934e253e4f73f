"""Measure speed and cost: `python -m tests.benchmarks.speed` prints a table; `--help` lists its parts.

Two sides run in turns, and the median of the ratios is shown, with the quartiles. Each part runs in a process of its
own, and so does the server, which is faster than any client here.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import gc
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from aiohttp import ClientSession
from g4f.client import AsyncClient, Client
from openai import AsyncOpenAI, OpenAI

from g4f_websim import Websim
from g4f_websim.emulator import Emulator, Fault
from g4f_websim.transport.connections import HEADERS
from g4f_websim.wire import bodies
from tests.support.calls import HELLO, call_websim
from tests.support.fast_server import FastServer, fast_server
from tests.support.limits import MAX_SECONDS
from tests.support.responses import PNG_MAGIC
from tests.support.tls import write_certificates

AT_ONCE = (1, 16, 100)
# The turns of each side. Short turns, so that both sides see the same load on the machine.
TURNS = 25
SLOW_TURNS = 7

# The targets by scheme.
CPU = {"http": "at most 1.35 x", "https": "at most 1.3 x"}
NEW_SESSIONS = {"http": "at least 1.4 x", "https": "at least 3 x"}

CALLS_PER_TURN = 400
CALLS_PER_SLOW_TURN = 200

CALLS_IN_ONE_LOOP = 1000
MEMORY_CALLS = 5000
IMAGE_BYTES = 10 * 1000 * 1000

# The modules of g4f that g4f_websim imports.
G4F_MODULES = (
    "g4f.Provider.base_provider, g4f.debug, g4f.errors, g4f.image, g4f.models, g4f.providers.helper,"
    "g4f.providers.response, g4f.requests.aiohttp, g4f.requests.raise_for_status, g4f.tools.media"
)
# Python collects garbage now and then, and looks at all objects of g4f then, which takes longer than the import.
IMPORT_SCRIPT = f"""
import gc
from time import process_time
gc.disable()
start = process_time()
import {G4F_MODULES}
middle = process_time()
import g4f_websim
print((process_time() - middle) / (middle - start))
"""

MEGABYTE = 1000 * 1000
QUICK_DIVISOR = 10

Call = Callable[[], Awaitable[object]]


class Cost(NamedTuple):
    """The seconds that a number of calls took, by the clock and of CPU time."""

    elapsed: float
    cpu: float


class Row(NamedTuple):
    """A row of the table: what was measured, the figure, and the target."""

    what: str
    figure: str
    target: str = ""


class Run(NamedTuple):
    """What each part needs: the servers, and a divisor for the numbers of calls."""

    plain: FastServer
    tls: FastServer
    divisor: int

    def calls(self, number: int) -> int:
        return number // self.divisor


def throughput(run: Run) -> Iterator[Row]:
    """Compare with bare aiohttp: one session for all requests, and a session for each request."""
    for server in (run.plain, run.tls):
        Websim.url = server.url
        for at_once in AT_ONCE:
            yield from asyncio.run(_throughput(server.scheme, at_once, run))


async def _throughput(scheme: str, at_once: int, run: Run) -> list[Row]:
    headers = {str(name): value for name, value in HEADERS.items()}
    headers |= bodies.build_headers(Websim.url, bodies.CHAT_PAGE, token=None)
    body = bodies.chat_body(Websim.generate_project_id(), HELLO)
    url = Websim.chat_api_endpoint

    async def post(session: ClientSession) -> object:
        async with session.post(url, json=body, headers=headers) as response:
            return (await response.json())["content"]

    async def post_with_new_session() -> object:
        async with ClientSession() as session:
            return await post(session)

    async with ClientSession() as session:
        bare = await _compare(call, lambda: post(session), at_once, run.calls(CALLS_PER_TURN), TURNS)
    new_sessions = await _compare(call, post_with_new_session, at_once, run.calls(CALLS_PER_SLOW_TURN), SLOW_TURNS)
    what = f"{scheme}, {at_once} at once:"
    return [
        Row(f"{what} CPU time / bare aiohttp", _times([ours.cpu / theirs.cpu for ours, theirs in bare]), CPU[scheme]),
        Row(f"{what} throughput / bare aiohttp", _throughput_ratio(bare), "at least 0.8 x"),
        Row(f"{what} throughput / session per request", _throughput_ratio(new_sessions), NEW_SESSIONS[scheme]),
    ]


def _throughput_ratio(costs: list[tuple[Cost, Cost]]) -> str:
    return _times([theirs.elapsed / ours.elapsed for ours, theirs in costs])


async def call() -> object:
    return [chunk async for chunk in Websim.create_async_generator(None, HELLO)]


async def _compare(ours: Call, theirs: Call, at_once: int, calls: int, turns: int) -> list[tuple[Cost, Cost]]:
    """Return the costs of the same number of calls of both, for each pair of turns."""
    for warm_up in (ours, theirs):
        await _measure(warm_up, at_once, max(at_once, calls))
    return [(await _measure(ours, at_once, calls), await _measure(theirs, at_once, calls)) for _ in range(turns)]


async def _measure(call: Call, at_once: int, calls: int) -> Cost:
    remaining = iter(range(calls))

    async def worker() -> None:
        for _ in remaining:
            await call()

    gc.collect()
    start, cpu_start = time.perf_counter(), time.process_time()
    await asyncio.gather(*(worker() for _ in range(at_once)))
    return Cost(time.perf_counter() - start, time.process_time() - cpu_start)


def connections(run: Run) -> Iterator[Row]:
    """Count the connections that the server saw; over TLS, each is a handshake."""
    for server in (run.plain, run.tls):
        Websim.url = server.url
        for at_once in AT_ONCE:
            before = server.counts()["connections"]
            calls = max(at_once, run.calls(CALLS_IN_ONE_LOOP))
            asyncio.run(_measure(call, at_once, calls))
            opened = server.counts()["connections"] - before
            yield Row(f"{server.scheme}, {calls} calls, {at_once} at once: connections", str(opened), str(at_once))


def imports(run: Run) -> Iterator[Row]:
    """Measure `import g4f_websim` after the modules of g4f that it needs, in new processes."""
    command = [sys.executable, "-c", IMPORT_SCRIPT]
    # pip compiles the modules that it installs, so bytecode is written here too.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    outputs = [subprocess.check_output(command, env=environment, timeout=MAX_SECONDS) for _ in range(SLOW_TURNS)]
    ratios = [float(output) for output in outputs]
    yield Row("import / import of the modules of g4f", f"{median(ratios):.1%}", "5 %")


def memory(run: Run) -> Iterator[Row]:
    """Measure the growth of the process over many calls."""
    Websim.url = run.plain.url
    calls = run.calls(MEMORY_CALLS)

    async def grow() -> int:
        await _measure(call, 16, calls)
        before = _resident_bytes()
        await _measure(call, 16, calls)
        return _resident_bytes() - before

    yield Row(f"growth over {calls} calls", f"{asyncio.run(grow()) / MEGABYTE:.1f} MB", "5 MB")


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def image(run: Run) -> Iterator[Row]:
    """Count how often a call encodes a large image."""
    media = [(PNG_MAGIC + bytes(IMAGE_BYTES), "large.png")]
    cases = {"chat": (None, 0, None), "chat with three attempts": (None, 2, None), "n=3": ("flux", 0, 3)}
    Websim.backoff = 0
    with Emulator() as emulator:
        Websim.url = emulator.url
        for what, (model, faults, n) in cases.items():
            emulator.inject(Fault(status=503), times=faults)
            encodings = _encodings_in(call_websim(model, HELLO, media=media, n=n))
            yield Row(f"{what} with an image of {IMAGE_BYTES // MEGABYTE} MB: encodings", str(encodings), "1")


def _encodings_in(call: Coroutine[Any, Any, object]) -> int:
    profile = cProfile.Profile()
    profile.runcall(asyncio.run, call)
    return sum(entry.callcount for entry in profile.getstats() if "b2a_base64" in str(entry.code))


def sdk(run: Run) -> Iterator[Row]:
    """Compare g4f's clients and a direct call with the OpenAI SDK, in CPU time of a call."""
    calls = run.calls(CALLS_PER_SLOW_TURN)
    for server in (run.plain, run.tls):
        Websim.url = server.url
        options: dict[str, Any] = {"base_url": server.url, "api_key": "unused"}
        create = Client(provider=Websim).chat.completions.create
        with OpenAI(**options) as client:

            def create_with_sdk(client: OpenAI = client) -> object:
                return client.chat.completions.create(model="none", messages=HELLO)

            ratios = [
                _cpu_of_calls(lambda: create(HELLO), calls) / _cpu_of_calls(create_with_sdk, calls)  # noqa: B023
                for _ in range(SLOW_TURNS + 1)
            ]
        yield Row(f"{server.scheme}, Client: CPU time / OpenAI SDK", _times(ratios[1:]), "at most 0.75 x")
        yield from asyncio.run(_async_sdk(server.scheme, options, calls))


async def _async_sdk(scheme: str, options: dict[str, Any], calls: int) -> list[Row]:
    create = AsyncClient(provider=Websim).chat.completions.create
    async with AsyncOpenAI(**options) as client:

        async def create_with_sdk() -> object:
            return await client.chat.completions.create(model="none", messages=HELLO)

        through_client = await _compare(lambda: create(HELLO), create_with_sdk, 1, calls, SLOW_TURNS)
        direct = await _compare(call, create_with_sdk, 1, calls, SLOW_TURNS)
    sides = {"AsyncClient": (through_client, "at most 0.45 x"), "direct": (direct, "at most 0.2 x")}
    return [
        Row(f"{scheme}, {name}: CPU time / OpenAI SDK", _times([ours.cpu / sdk.cpu for ours, sdk in costs]), target)
        for name, (costs, target) in sides.items()
    ]


def _cpu_of_calls(call: Callable[[], object], calls: int) -> float:
    gc.collect()
    start = time.process_time()
    for _ in range(calls):
        call()
    return time.process_time() - start


def _times(ratios: list[float]) -> str:
    low, middle, high = quantiles(ratios, n=4)
    return f"{middle:.2f} x ({low:.2f} to {high:.2f})"


PARTS: dict[str, Callable[[Run], Iterator[Row]]] = {
    part.__name__: part for part in (throughput, connections, imports, memory, image, sdk)
}


def _rows(part: str, run: Run) -> list[Row]:
    return list(PARTS[part](run))


def main() -> None:
    """Run the parts that the command line names, or all."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.speed", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"one of {', '.join(PARTS)}; the default is all")
    parser.add_argument("--quick", action="store_true", help=f"a {QUICK_DIVISOR}th of the calls")
    options = parser.parse_args()
    if unknown := set(options.parts) - PARTS.keys():
        parser.error(f"unknown part: {', '.join(unknown)}")
    with TemporaryDirectory(prefix="g4f-websim-benchmark-") as folder:
        authority_file, server_file = write_certificates(Path(folder))
        # The child processes trust this authority.
        os.environ.update(G4F_CONFIG_DIR=folder, G4F_CACHE_DIR=folder, SSL_CERT_FILE=str(authority_file))
        with fast_server() as plain, fast_server(server_file) as tls:
            run = Run(plain, tls, QUICK_DIVISOR if options.quick else 1)
            for part in options.parts or PARTS:
                with ProcessPoolExecutor(1, get_context("spawn")) as pool:
                    for row in pool.submit(_rows, part, run).result():
                        print(f"{row.what:<62} {row.figure:<26} {row.target}", flush=True)


if __name__ == "__main__":
    main()
