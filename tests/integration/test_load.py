"""2,000 calls, 200 at once, of a server that fails one in five in mixed ways: each ends as it should, none twice."""

import asyncio
import gc
import json
import tracemalloc
from collections import Counter

import pytest
from g4f.errors import MissingAuthError, RateLimitError, ResponseError, ResponseStatusError

from g4f_websim import Websim
from tests.support.calls import ask
from tests.support.raw_server import Request, Script, Step, http, raw_server

CALLS = 2_000
AT_ONCE = 200
MAX_TRIES = 3
# The first round is for what is made once. 256 bytes that each call left behind would be seen.
ROUNDS = 3
CALLS_OF_A_ROUND = 200
MEMORY_GROWTH_BYTES = 256 * CALLS_OF_A_ROUND * (ROUNDS - 1)


def answer_to(call: int) -> bytes:
    return http(json.dumps({"content": f"answer {call}"}).encode())


HALF = answer_to(0)[:-5]

# One call in five meets one of these at each of its tries; the others are answered at the first.
# What a try meets, how many tries it takes, and what the call ends with.
FAULTS: list[tuple[list[Script], type[Exception] | None]] = [
    ([[http(status=503)]], None),
    ([[http(status=429, headers=[("Retry-After", "0")])], [http(status=502)]], None),
    ([[Step.RESET]], None),
    ([[], [http(b'{"error": "Rate limit exceeded"}', 200)]], None),
    ([[http(status=504)], [Step.RESET], [http(status=429)]], RateLimitError),
    ([[http(status=408)]] * MAX_TRIES, ResponseStatusError),
    ([[http(status=429, headers=[("Retry-After", "3600")])]], RateLimitError),
    ([[HALF, Step.RESET]], ResponseError),
    ([[HALF]], ResponseError),
    ([[http(b"{}")]], ResponseError),
    ([[http(status=401)]], MissingAuthError),
    ([[http(status=400)]], ResponseStatusError),
]
FAULT_EVERY = 5


def fault_of(call: int) -> tuple[list[Script], type[Exception] | None]:
    return FAULTS[call // FAULT_EVERY % len(FAULTS)] if call % FAULT_EVERY == 0 else ([], None)


def tries_of(call: int) -> int:
    scripts, error = fault_of(call)
    return len(scripts) + (error is None)


class FailingServer:
    """What makes the answers: it knows each call by its words, and counts its tries."""

    def __init__(self) -> None:
        self.tries: Counter[int] = Counter()

    def respond(self, request: Request) -> Script:
        call = int(json.loads(request.body)["messages"][-1]["content"])
        scripts, _ = fault_of(call)
        self.tries[call] += 1
        return (scripts[self.tries[call] - 1 :] or [[answer_to(call)]])[0]


async def ending_of(call: int, places: asyncio.Semaphore) -> object:
    async with places:
        try:
            return await ask("", [{"role": "user", "content": str(call)}])
        except Exception as error:
            return type(error)


async def endings_of(calls: int) -> list[object]:
    places = asyncio.Semaphore(AT_ONCE)
    return await asyncio.gather(*(ending_of(call, places) for call in range(calls)))


@pytest.fixture
async def failing(monkeypatch):
    failing = FailingServer()
    async with raw_server(failing.respond) as server:
        monkeypatch.setattr(Websim, "url", server.url)
        monkeypatch.setattr(Websim, "backoff", 0.001)
        yield failing


async def test_each_of_2000_calls_ends_as_it_should_after_as_many_tries_as_documented(failing):
    endings = await endings_of(CALLS)
    expected = [(fault_of(call)[1] or [f"answer {call}"], tries_of(call)) for call in range(CALLS)]
    assert [(ending, failing.tries[call]) for call, ending in enumerate(endings)] == expected


async def test_memory_does_not_grow_with_the_calls(failing):
    tracemalloc.start()
    try:
        sizes: list[int] = []
        for _ in range(1 + ROUNDS):
            await endings_of(CALLS_OF_A_ROUND)
            failing.tries.clear()
            gc.collect()
            sizes.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert sizes[-1] - sizes[1] < MEMORY_GROWTH_BYTES
