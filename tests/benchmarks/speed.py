"""Measure speed and cost: `python -m tests.benchmarks.speed` prints a table; `--help` lists its parts.

A throughput is compared with another of the same run, by turns, and the median of the ratios is shown. Each part has
a process of its own, and so has the server, which is faster than any client here.
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
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import requests
import trustme
from aiohttp import ClientSession
from g4f.client import AsyncClient, Client

from g4f_websim import Websim, request
from g4f_websim.emulator import Emulator, Fault
from g4f_websim.pool import HEADERS
from tests.support.calls import HELLO, ask
from tests.support.fast_server import HOST, FastServer, fast_server

AT_ONCE = (1, 16, 100)
PAIRS = 7
CALLS_A_LEG = 1000
CALLS_A_SLOW_LEG = 200

CALLS_IN_ONE_LOOP = 1000
MEMORY_CALLS = 5000
PICTURE_BYTES = 10 * 1000 * 1000
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"

# Those that g4f_websim imports.
PARTS_OF_G4F = (
    "g4f.Provider.base_provider, g4f.debug, g4f.errors, g4f.image, g4f.models, g4f.providers.helper,"
    "g4f.providers.response, g4f.requests.aiohttp, g4f.requests.raise_for_status, g4f.tools.media"
)
IMPORTING = f"""
from time import process_time
start = process_time()
import {PARTS_OF_G4F}
middle = process_time()
import g4f_websim
print((process_time() - middle) / (middle - start))
"""

MEGABYTE = 1000 * 1000
QUICK_DIVISOR = 10

Ask = Callable[[], Awaitable[object]]


class Row(NamedTuple):
    """A line of the table: what was measured, the figure, and what it should be."""

    what: str
    figure: str
    aim: str = ""


class Run(NamedTuple):
    """What each part is given: the servers, and a divisor of every number of calls."""

    plain: FastServer
    tls: FastServer
    divisor: int

    def calls(self, number: int) -> int:
        return number // self.divisor


def throughput(run: Run) -> Iterator[Row]:
    """Ours against bare aiohttp with one session, and against a session per request."""
    for server in (run.plain, run.tls):
        Websim.url = server.url
        for at_once in AT_ONCE:
            yield from asyncio.run(_throughput(server.scheme, at_once, run))


async def _throughput(scheme: str, at_once: int, run: Run) -> list[Row]:
    headers = {**HEADERS, **request.build_headers(Websim.url, request.CHAT_PAGE, keys=())}
    body = request.chat_body(Websim.generate_project_id(), HELLO)
    url = Websim.chat_api_endpoint

    async def post(session: ClientSession) -> object:
        async with session.post(url, json=body, headers=headers) as response:
            return (await response.json())["content"]

    async def with_a_session_each() -> object:
        async with ClientSession() as session:
            return await post(session)

    async with ClientSession() as session:
        bare = await _ratios(ours, lambda: post(session), at_once, run.calls(CALLS_A_LEG))
    each = await _ratios(ours, with_a_session_each, at_once, run.calls(CALLS_A_SLOW_LEG))
    what = f"{scheme}, {at_once} at once, against"
    return [
        Row(f"{what} bare aiohttp", _times(bare), "0.9 x"),
        Row(f"{what} a session per request", _times(each), "3 x" if scheme == "https" else "1.4 x"),
    ]


async def ours() -> object:
    return await ask(None, HELLO)


async def _ratios(a: Ask, b: Ask, at_once: int, calls: int) -> list[float]:
    """Return how many times as fast as `b` `a` was, pair by pair."""
    for either in (a, b):
        await _calls_a_second(either, at_once, max(at_once, calls // PAIRS))
    return [await _calls_a_second(a, at_once, calls) / await _calls_a_second(b, at_once, calls) for _ in range(PAIRS)]


async def _calls_a_second(one: Ask, at_once: int, calls: int) -> float:
    remaining = iter(range(calls))

    async def worker() -> None:
        for _ in remaining:
            await one()

    gc.collect()
    start = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(at_once)))
    return calls / (time.perf_counter() - start)


def connections(run: Run) -> Iterator[Row]:
    """How many connections the server saw; over TLS, each of them is a handshake."""
    for server in (run.plain, run.tls):
        Websim.url = server.url
        for at_once in AT_ONCE:
            before = server.counts()["connections"]
            calls = max(at_once, run.calls(CALLS_IN_ONE_LOOP))
            asyncio.run(_calls_a_second(ours, at_once, calls))
            opened = server.counts()["connections"] - before
            yield Row(f"{server.scheme}, {calls} calls, {at_once} at once: connections", str(opened), str(at_once))


def imports(run: Run) -> Iterator[Row]:
    """What `import g4f_websim` costs after the parts of g4f that it needs, in fresh processes."""
    command = [sys.executable, "-c", IMPORTING]
    # Bytecode is kept, as pip keeps that of what it installs.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    parts = [float(subprocess.check_output(command, env=environment)) for _ in range(PAIRS)]
    yield Row("import, over the parts of g4f it needs", f"{median(parts):.1%}", "5 %")


def memory(run: Run) -> Iterator[Row]:
    """How much the process grows over many calls."""
    Websim.url = run.plain.url
    calls = run.calls(MEMORY_CALLS)

    async def grow() -> int:
        await _calls_a_second(ours, 16, run.calls(MEMORY_CALLS))
        before = _resident_bytes()
        await _calls_a_second(ours, 16, calls)
        return _resident_bytes() - before

    yield Row(f"growth over {calls} calls", f"{asyncio.run(grow()) / MEGABYTE:.1f} MB", "5 MB")


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def picture(run: Run) -> Iterator[Row]:
    """How often a large picture is encoded for one call."""
    media = [(PNG_MAGIC + bytes(PICTURE_BYTES), "large.png")]
    cases = {"a chat": (None, 0, None), "a chat of three tries": (None, 2, None), "n=3": ("flux", 0, 3)}
    Websim.backoff = 0
    with Emulator() as emulator:
        Websim.url = emulator.url
        for what, (model, faults, n) in cases.items():
            emulator.inject(Fault(status=503), times=faults)
            encodings = _encodings_in(ask(model, HELLO, media=media, n=n))
            yield Row(f"a picture of {PICTURE_BYTES // MEGABYTE} MB, {what}: encoded", str(encodings), "1")


def _encodings_in(call: Coroutine[Any, Any, object]) -> int:
    profile = cProfile.Profile()
    profile.runcall(asyncio.run, call)
    return sum(entry.callcount for entry in profile.getstats() if "b2a_base64" in str(entry.code))


def sync(run: Run) -> Iterator[Row]:
    """g4f's sync client, which makes a loop for each call, against requests; and its async client in one loop."""
    Websim.url = run.plain.url
    calls = run.calls(CALLS_A_SLOW_LEG)
    create = Client(provider=Websim).chat.completions.create
    create_async = AsyncClient(provider=Websim).chat.completions.create
    url = Websim.chat_api_endpoint
    body = request.chat_body(Websim.generate_project_id(), HELLO)

    async def in_one_loop() -> None:
        for _ in range(calls):
            await create_async(HELLO)

    with requests.Session() as session:
        sides = {
            "requests.Session": lambda: [session.post(url, json=body).json() for _ in range(calls)],
            "Client": lambda: [create(HELLO) for _ in range(calls)],
            "AsyncClient in one loop": lambda: asyncio.run(in_one_loop()),
        }
        seconds = {name: [_seconds(side) for _ in range(PAIRS)] for name, side in sides.items()}
    base = seconds["requests.Session"]
    for name, times in seconds.items():
        ratio = _times([b / a for a, b in zip(times, base, strict=True)])
        yield Row(f"{name}, {median(times) / calls * 1000:.2f} ms a call, against requests", ratio)


def _seconds(do: Callable[[], object]) -> float:
    start = time.perf_counter()
    do()
    return time.perf_counter() - start


def _times(ratios: list[float]) -> str:
    return f"{median(ratios):.2f} x ({min(ratios):.2f} to {max(ratios):.2f})"


PARTS: dict[str, Callable[[Run], Iterator[Row]]] = {
    part.__name__: part for part in (throughput, connections, imports, memory, picture, sync)
}


def _rows(part: str, run: Run) -> list[Row]:
    return list(PARTS[part](run))


def main() -> None:
    """Run the parts that are named on the command line, all of them where none is."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.speed", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"one of {', '.join(PARTS)}; all where none is named")
    parser.add_argument("--quick", action="store_true", help=f"a {QUICK_DIVISOR}th of the calls")
    options = parser.parse_args()
    if unknown := set(options.parts) - PARTS.keys():
        parser.error(f"no such part: {', '.join(unknown)}")
    with TemporaryDirectory(prefix="g4f-websim-benchmark-") as folder:
        certificate = _trusted_certificate(Path(folder))
        os.environ.update(G4F_CONFIG_DIR=folder, G4F_CACHE_DIR=folder)
        with fast_server() as plain, fast_server(certificate) as tls:
            run = Run(plain, tls, QUICK_DIVISOR if options.quick else 1)
            for part in options.parts or PARTS:
                with ProcessPoolExecutor(1, get_context("spawn")) as pool:
                    for row in pool.submit(_rows, part, run).result():
                        print(f"{row.what:<62} {row.figure:<26} {row.aim}", flush=True)


def _trusted_certificate(folder: Path) -> Path:
    """Make a certificate for the TLS server, which every process started from here on trusts."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "authority.pem")
    authority.issue_cert(HOST).private_key_and_cert_chain_pem.write_to_path(folder / "server.pem")
    os.environ["SSL_CERT_FILE"] = str(folder / "authority.pem")
    return folder / "server.pem"


if __name__ == "__main__":
    main()
