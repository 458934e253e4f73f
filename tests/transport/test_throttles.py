"""One throttle for each host and login: who shares it, and what a forked process inherits."""

import asyncio
import gc
import os
import signal
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
from g4f_websim.transport.throttle import Throttle
from g4f_websim.transport.throttles import MAX_THROTTLES, shared_throttle

from g4f_websim.transport import throttles as throttles_module


def test_hosts_and_logins_do_not_slow_each_other_down() -> None:
    throttles = [
        shared_throttle("a.example", "x"),
        shared_throttle("a.example", "y"),
        shared_throttle("b.example", "x"),
    ]
    assert shared_throttle("a.example", "x") is throttles[0]

    async def send() -> None:
        throttles[0].refused(await throttles[0].wait_turn(False, 0), 30, 2)
        for throttle in throttles[1:]:
            await throttle.wait_turn(False, 0)

    asyncio.run(send())


def test_many_threads_get_one_throttle_per_host() -> None:
    threads, hosts = 16, [f"{number}.example" for number in range(50)]
    start = threading.Barrier(threads)

    def look_up() -> list[Throttle]:
        start.wait()
        return [shared_throttle(host, "") for host in hosts]

    switch_interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(threads) as executor:
            found = [future.result() for future in [executor.submit(look_up) for _ in range(threads)]]
    finally:
        sys.setswitchinterval(switch_interval)
    for throttles in zip(*found, strict=True):
        assert len(set(throttles)) == 1


def look_up_other_hosts(number: int) -> None:
    for other in range(number):
        shared_throttle(f"other-{other}.example", "")


def test_forgets_the_throttle_that_was_not_used_for_longest() -> None:
    first, second = (weakref.ref(shared_throttle(f"{number}.example", "")) for number in (1, 2))
    shared_throttle("1.example", "")
    look_up_other_hosts(MAX_THROTTLES - 1)
    gc.collect()
    assert first() is shared_throttle("1.example", "")
    assert second() is None


def test_throttle_in_use_is_not_replaced() -> None:
    throttle = shared_throttle("1.example", "")
    look_up_other_hosts(MAX_THROTTLES)
    assert shared_throttle("1.example", "") is throttle


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_forked_process_does_not_wait_for_a_lock_of_its_parent() -> None:
    throttle = shared_throttle("fork.example", "")
    with throttle._lock, throttles_module._lock:
        child = os.fork()
        if not child:
            signal.alarm(10)  # ends the child if it waits for the lock
            try:
                asyncio.run(shared_throttle("fork.example", "").wait_turn(False, 0))
                os._exit(0)
            finally:
                os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
