"""At home in every event loop: each script here runs in an interpreter of its own, which has nothing to complain of."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest

from tests.support.fast_server import FastServer, fast_server
from tests.support.paths import ROOT

SECONDS_A_SCRIPT = 60

# What g4f's own modules warn of when they are imported is not of interest, nor is how slow this machine is.
PRELUDE = """
import asyncio, contextlib, gc, logging, multiprocessing, os, stat, sys, threading, warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import g4f.debug
    import nest_asyncio2, uvloop
    from g4f.client import Client
    from g4f_websim import Websim
    from tests.support.calls import HELLO, ask

logging.getLogger("asyncio").addFilter(lambda record: "took" not in record.msg)


def in_threads(number, do):
    threads = [threading.Thread(target=do) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def open_sockets():
    count = 0
    for descriptor in range(1024):
        with contextlib.suppress(OSError):
            count += stat.S_ISSOCK(os.fstat(descriptor).st_mode)
    return count


class Silent(asyncio.Protocol):
    # A server that never answers.
    arrived, left = asyncio.Event(), asyncio.Event()

    def data_received(self, data):
        self.arrived.set()

    def connection_lost(self, error):
        self.left.set()


async def aim_at(protocol):
    server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", 0)
    Websim.url = "http://127.0.0.1:%d" % server.sockets[0].getsockname()[1]
    return server
"""


@pytest.fixture
def server():
    with fast_server() as server:
        yield server


@pytest.fixture
def run(server: FastServer, tmp_path: Path) -> Callable[[str], str]:
    """Return a function that runs a script against the server and returns what it printed; it printed no error."""

    def run_quietly(script: str) -> str:
        done = subprocess.run(
            [sys.executable, "-X", "dev", "-c", PRELUDE + dedent(script)],
            env=os.environ | {"WEBSIM_URL": server.url, "PYTHONPATH": str(ROOT)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=SECONDS_A_SCRIPT,
        )
        assert done.stderr == ""
        assert done.returncode == 0
        return done.stdout.strip()

    return run_quietly


def test_two_hundred_loops_one_after_the_other(run):
    script = """
        for _ in range(200):
            asyncio.run(ask(None, HELLO))
        print(open_sockets())
    """
    assert run(script) == "0"


def test_eight_threads_with_the_sync_client(run, server):
    script = """
        def work():
            for _ in range(10):
                Client(provider=Websim).chat.completions.create(HELLO)

        in_threads(8, work)
        print(open_sockets())
    """
    assert run(script) == "0"
    assert server.counts()["requests"] == 80


def test_eight_threads_with_a_loop_each(run, server):
    script = """
        async def work():
            for _ in range(10):
                await ask(None, HELLO)

        in_threads(8, lambda: asyncio.run(work()))
        print(open_sockets())
    """
    assert run(script) == "0"
    assert server.counts() == {"connections": 8, "open": 0, "requests": 80}


def test_five_hundred_calls_at_once(run, server):
    script = """
        async def main():
            print(len(await asyncio.gather(*(ask(None, HELLO) for _ in range(500)))))

        asyncio.run(main())
    """
    assert run(script) == "500"
    assert server.counts()["requests"] == 500


@pytest.mark.parametrize("model", ["gemini-2.5-pro", "flux"])
def test_a_call_cancelled_in_mid_request_closes_its_connection_at_once(run, model):
    script = f"""
        async def main():
            async with await aim_at(Silent):
                call = asyncio.create_task(ask("{model}", HELLO))
                await Silent.arrived.wait()
                call.cancel()
                await Silent.left.wait()
                print(call.cancelled())

        asyncio.run(main())
    """
    assert run(script) == "True"


@pytest.mark.parametrize("model", ["gemini-2.5-pro", "flux"])
def test_a_call_cancelled_in_mid_wait_ends_at_once(run, model):
    script = f"""
        class Busy(asyncio.Protocol):
            def connection_made(self, transport):
                self.transport = transport

            def data_received(self, data):
                self.transport.write(b"HTTP/1.1 503 Busy\\r\\nRetry-After: 50\\r\\nConnection: close\\r\\n\\r\\n")
                self.transport.close()

        async def main():
            waiting = asyncio.Event()
            g4f.debug.log = lambda *text, **options: waiting.set()
            async with await aim_at(Busy):
                call = asyncio.create_task(ask("{model}", HELLO))
                await waiting.wait()
                call.cancel()
                await asyncio.wait([call])
                print(call.cancelled())

        asyncio.run(main())
    """
    assert run(script) == "True"


def test_many_calls_cancelled_together_leave_nothing_open(run):
    script = """
        async def main():
            async with await aim_at(Silent):
                calls = [asyncio.create_task(ask(None, HELLO)) for _ in range(150)]
                await Silent.arrived.wait()
                for call in calls:
                    call.cancel()
                await asyncio.wait(calls)

        asyncio.run(main())
        print(open_sockets())
    """
    assert run(script) == "0"


LOOPS = pytest.mark.parametrize(
    "way",
    [
        "asyncio.run(main())",
        "uvloop.run(main())",
        "loop = asyncio.new_event_loop(); loop.run_until_complete(main()); loop.close()",
        "loop = uvloop.new_event_loop(); loop.run_until_complete(main()); loop.close()",
    ],
    ids=["asyncio", "uvloop", "asyncio closed by hand", "uvloop closed by hand"],
)


@LOOPS
def test_a_loop_of_any_kind_closes_its_connections(run, server, way):
    script = f"""
        async def main():
            await asyncio.gather(*(ask(None, HELLO) for _ in range(5)))

        {way}
        print(open_sockets())
    """
    assert run(script) == "0"
    assert server.counts()["connections"] == 5


@LOOPS
def test_generators_may_be_abandoned(run, way):
    script = f"""
        kept = [Websim.create_async_generator(None, HELLO) for _ in range(4)]

        async def main():
            await kept[0].__anext__()
            await kept.pop().__anext__()
            kept.pop()
            async for answer in Websim.create_async_generator(None, HELLO):
                break
            async for answer in Websim.create_async_generator("flux", HELLO):
                break

        {way}
        print(len(kept), open_sockets())
    """
    assert run(script) == "2 0"


def test_a_loop_that_is_never_closed_is_no_trouble_at_exit(run):
    script = """
        # Of that loop itself Python's development mode complains, and rightly so.
        warnings.filterwarnings("ignore", "unclosed event loop")
        loop = asyncio.new_event_loop()
        loop.run_until_complete(ask(None, HELLO))
    """
    run(script)


def test_the_interpreter_may_exit_while_another_thread_uses_its_pool(run):
    script = """
        asked = threading.Event()

        async def work():
            while True:
                await ask(None, HELLO)
                asked.set()

        threading.Thread(target=lambda: asyncio.run(work()), daemon=True).start()
        asked.wait()
    """
    run(script)


def test_a_coroutine_may_exit_the_interpreter(run):
    script = """
        async def main():
            await ask(None, HELLO)
            sys.exit()

        asyncio.run(main())
    """
    run(script)


def test_the_sync_client_works_inside_a_running_loop(run):
    script = """
        def answers():
            return Client(provider=Websim).chat.completions.create(HELLO).choices[0].message.content

        async def cell_of_a_notebook():
            await ask(None, HELLO)
            print(answers(), answers() == answers())
            await ask(None, HELLO)

        nest_asyncio2.apply()
        asyncio.run(cell_of_a_notebook())
    """
    assert run(script) == "Yes, at once. True"


def test_a_loop_ends_while_that_of_another_thread_goes_on(run, server):
    script = """
        asked, ended = threading.Event(), threading.Event()

        async def outlive():
            await ask(None, HELLO)
            asked.set()
            await asyncio.to_thread(ended.wait)
            await ask(None, HELLO)

        thread = threading.Thread(target=lambda: asyncio.run(outlive()))
        thread.start()
        asked.wait()
        asyncio.run(ask(None, HELLO))
        ended.set()
        thread.join()
        print(open_sockets())
    """
    assert run(script) == "0"
    assert server.counts()["connections"] == 2


def test_a_loop_may_be_closed_while_another_one_runs(run, server):
    script = """
        loop = asyncio.new_event_loop()
        loop.run_until_complete(ask(None, HELLO))

        async def main():
            await ask(None, HELLO)
            loop.close()
            await ask(None, HELLO)

        asyncio.run(main())
        print(open_sockets())
    """
    assert run(script) == "0"
    assert server.counts()["connections"] == 2


FORKS = pytest.mark.parametrize(
    "fork",
    [
        "child = os.fork(); child or (work(), os._exit(0)); print(os.waitpid(child, 0)[1])",
        "child = os.fork(); child or (work(), sys.exit()); print(os.waitpid(child, 0)[1])",
        "child = context.Process(target=work); child.start(); child.join(); print(child.exitcode)",
    ],
    ids=["os.fork and _exit", "os.fork and exit", "multiprocessing"],
)


@FORKS
def test_a_fork_leaves_the_pool_to_the_parent(run, server, fork):
    script = f"""
        context = multiprocessing.get_context("fork")

        def work():
            asyncio.run(ask(None, HELLO))
            loop.close()

        loop = asyncio.new_event_loop()
        loop.run_until_complete(ask(None, HELLO))
        {fork}
        loop.run_until_complete(ask(None, HELLO))
        loop.close()
    """
    assert run(script) == "0"
    assert server.counts() == {"connections": 2, "open": 0, "requests": 3}


@FORKS
def test_a_fork_inside_a_running_loop_leaves_the_pool_to_the_parent(run, server, fork):
    script = f"""
        context = multiprocessing.get_context("fork")

        def work():
            asyncio.run(ask(None, HELLO))

        async def main():
            await ask(None, HELLO)
            {fork}
            await ask(None, HELLO)

        asyncio.run(main())
    """
    assert run(script) == "0"
    assert server.counts() == {"connections": 2, "open": 0, "requests": 3}
