"""2,000 calls, 200 at once, to a server that fails every fifth call in various ways, but never with 429."""

import asyncio
import gc
import json
import tracemalloc
from collections import Counter

import pytest

from g4f_websim.errors import MissingAuthError, ResponseError, ResponseStatusError
from tests.support.calls import call_websim
from tests.support.raw_server import Request, Script, Step, http_response

CALLS = 2_000
AT_ONCE = 200
MAX_ATTEMPTS = 3
# The first rounds fill caches.
WARM_UP_ROUNDS = 2
MEASURED_ROUNDS = 2
CALLS_PER_ROUND = 200
# A leak of 256 bytes for each call is detected.
MEMORY_GROWTH_BYTES = 256 * CALLS_PER_ROUND * MEASURED_ROUNDS


def response_to(call: int) -> bytes:
    return http_response(json.dumps({"content": f"reply {call}"}).encode())


PARTIAL = response_to(0)[:-5]

# Every fifth call meets one of these: the script for each attempt, and the error that the call raises, if any.
FAULTS: list[tuple[list[Script], type[Exception] | None]] = [
    ([[http_response(status=503)]], None),
    ([[http_response(status=425, headers=[("Retry-After", "0")])], [http_response(status=502)]], None),
    ([[Step.RESET]], None),
    ([[], [http_response(b'{"error": "busy"}', 503)]], None),
    ([[http_response(status=504)], [Step.RESET], [http_response(status=502)]], ResponseStatusError),
    ([[http_response(status=408)]] * MAX_ATTEMPTS, ResponseStatusError),
    ([[http_response(status=503, headers=[("Retry-After", "3600")])]], ResponseStatusError),
    ([[PARTIAL, Step.RESET]], ResponseError),
    ([[PARTIAL]], ResponseError),
    ([[http_response(b"{}")]], ResponseError),
    ([[http_response(status=401)]], MissingAuthError),
    ([[http_response(status=400)]], ResponseStatusError),
]
FAULT_EVERY = 5


def fault_of(call: int) -> tuple[list[Script], type[Exception] | None]:
    return FAULTS[call // FAULT_EVERY % len(FAULTS)] if call % FAULT_EVERY == 0 else ([], None)


def attempts_of(call: int) -> int:
    scripts, error = fault_of(call)
    return len(scripts) + (error is None)


async def result_of(call: int, slots: asyncio.Semaphore) -> object:
    async with slots:
        try:
            return await call_websim("", [{"role": "user", "content": str(call)}])
        except Exception as error:
            return type(error)


async def results_of(calls: int) -> list[object]:
    slots = asyncio.Semaphore(AT_ONCE)
    return await asyncio.gather(*(result_of(call, slots) for call in range(calls)))


@pytest.fixture
def attempts(server) -> Counter[int]:
    """The number of attempts of each call to a server with the faults; the text of a call is its number."""
    attempts: Counter[int] = Counter()

    def respond(request: Request) -> Script:
        call = int(json.loads(request.body)["messages"][-1]["content"])
        scripts, _ = fault_of(call)
        attempts[call] += 1
        return scripts[attempts[call] - 1] if attempts[call] <= len(scripts) else [response_to(call)]

    server.respond = respond
    return attempts


async def test_each_call_has_expected_result_and_attempts(attempts):
    results = await results_of(CALLS)
    assert results == [fault_of(call)[1] or [f"reply {call}"] for call in range(CALLS)]
    assert attempts == {call: attempts_of(call) for call in range(CALLS)}


async def test_memory_does_not_grow(attempts):
    tracemalloc.start()
    try:
        sizes: list[int] = []
        for _ in range(WARM_UP_ROUNDS + MEASURED_ROUNDS):
            await results_of(CALLS_PER_ROUND)
            attempts.clear()
            gc.collect()
            sizes.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert sizes[-1] - sizes[WARM_UP_ROUNDS - 1] < MEMORY_GROWTH_BYTES
