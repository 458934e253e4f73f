"""Connections belong to the event loop of the caller, however it ends, and the package leaves that loop as it is."""

import pytest

# Ways that end an event loop properly: they call shutdown_asyncgens.
PROPER = {
    "asyncio.run": "asyncio.run(main())",
    "uvloop.run": "uvloop.run(main())",
    "Runner": "with asyncio.Runner() as runner: runner.run(main()); runner.run(main())",
    "shutdown by hand": """
loop = asyncio.new_event_loop()
loop.run_until_complete(main())
loop.run_until_complete(loop.shutdown_asyncgens())
loop.close()
""",
    "thread": """
thread = threading.Thread(target=asyncio.run, args=[main()])
thread.start()
thread.join()
""",
}

# Other ways. The garbage collector closes the connections.
IMPROPER = {
    "closed by hand": "loop = asyncio.new_event_loop(); loop.run_until_complete(main()); loop.close(); del loop",
    "closed twice": "loop = used_loop(); loop.close(); loop.close(); del loop",
    "uvloop, closed by hand": "loop = uvloop.new_event_loop(); loop.run_until_complete(main()); loop.close(); del loop",
    "never closed": "loop = asyncio.new_event_loop(); loop.run_until_complete(main()); del loop",
    "many never closed": "for _ in range(50): abandon_loop()",
    "stopped": "loop = used_loop(); loop.stop(); loop.close(); del loop",
    "closed while another runs": """
loop = used_loop()
async def close():
    await main()
    loop.close()
    await main()
asyncio.run(close())
del loop
""",
    "collected while another runs": """
async def collect():
    await main()
    await asyncio.to_thread(abandon_loop)
    gc.collect()
    await main()
asyncio.run(collect())
""",
    "Ctrl-C": """
async def interrupt():
    await main()
    signal.raise_signal(signal.SIGINT)
loop = asyncio.new_event_loop()
try:
    loop.run_until_complete(interrupt())
except KeyboardInterrupt:
    loop.close()
del loop
""",
}

PROGRAM = """
import asyncio
import gc
import signal
import threading

import uvloop

from tests.support.calls import HELLO, call_websim
from tests.support.loops import abandon_loop, open_sockets, used_loop

async def main():
    await asyncio.gather(*(call_websim(None, HELLO) for _ in range(5)))

{end}
{collect}
print(open_sockets())
"""


# Connections with TLS are harder to close.
@pytest.mark.parametrize("scheme", ["https"])
@pytest.mark.parametrize("end", PROPER.values(), ids=PROPER)
def test_closes_connections_with_loop(run_program, counting_server, end):
    assert run_program(PROGRAM.format(end=end, collect=""), dev=True) == "0"
    counts = counting_server.counts()
    assert counts.pop("requests") in (5, 10)
    assert counts == {"connections": 5, "open": 0}


@pytest.mark.parametrize("scheme", ["https"])
@pytest.mark.parametrize("end", IMPROPER.values(), ids=IMPROPER)
def test_loop_that_was_not_shut_down_leaves_nothing_open(run_program, counting_server, end):
    assert run_program(PROGRAM.format(end=end, collect="gc.collect()")) == "0"
    assert counting_server.counts()["open"] == 0


def test_interpreter_may_exit_with_unclosed_loops(run_program):
    program = """
        from tests.support.loops import NEW_LOOPS, abandon_loop, run_in_threads, used_loop

        loops = [used_loop(new_loop) for new_loop in NEW_LOOPS.values()]
        run_in_threads(2, abandon_loop)
    """
    assert run_program(program) == ""


def test_interpreter_may_exit_while_thread_makes_calls(run_program):
    program = """
        import asyncio
        import threading

        from tests.support.calls import HELLO, call_websim

        called = threading.Event()

        async def work():
            while True:
                await call_websim(None, HELLO)
                called.set()

        threading.Thread(target=lambda: asyncio.run(work()), daemon=True).start()
        called.wait()
    """
    run_program(program)


def test_coroutine_may_exit_interpreter(run_program, counting_server):
    program = """
        import asyncio
        import sys

        from tests.support.calls import HELLO, call_websim

        async def main():
            await call_websim(None, HELLO)
            sys.exit()

        asyncio.run(main())
    """
    run_program(program, dev=True)
    assert counting_server.counts() == {"connections": 1, "open": 0, "requests": 1}


@pytest.mark.parametrize("scheme", ["https"])
def test_closes_connections_with_loop_of_uvicorn(run_program, counting_server):
    program = """
        import uvicorn

        from tests.support.calls import HELLO, call_websim
        from tests.support.loops import open_sockets

        async def application(scope, receive, send):
            await receive()
            await call_websim(None, HELLO)
            await send({"type": "lifespan.startup.complete"})
            server.should_exit = True
            await receive()
            await call_websim(None, HELLO)
            await send({"type": "lifespan.shutdown.complete"})

        server = uvicorn.Server(uvicorn.Config(application, port=0, lifespan="on", log_level="warning"))
        server.run()
        print(open_sockets())
    """
    assert run_program(program, dev=True) == "0"
    assert counting_server.counts() == {"connections": 1, "open": 0, "requests": 2}


def test_leaves_methods_of_loop_as_they_are(run_program):
    program = """
        import asyncio

        from tests.support.calls import HELLO, call_websim

        async def main():
            loop = asyncio.get_running_loop()
            before = {name: getattr(loop, name) for name in dir(loop) if callable(getattr(loop, name))}
            await call_websim(None, HELLO)
            print([name for name, method in before.items() if getattr(loop, name) != method])

        asyncio.run(main())
    """
    assert run_program(program) == "[]"


def test_loop_without_attributes_makes_calls(run_program, counting_server):
    program = """
        import asyncio

        from tests.support.calls import HELLO, call_websim
        from tests.support.loops import open_sockets

        class Loop(asyncio.SelectorEventLoop):
            def __setattr__(self, name, value):
                if "websim" in name:
                    raise AttributeError(name)
                super().__setattr__(name, value)

        with asyncio.Runner(loop_factory=Loop) as runner:
            runner.run(call_websim(None, HELLO))
            runner.run(call_websim(None, HELLO))
        print(open_sockets())
    """
    assert run_program(program, dev=True) == "0"
    assert counting_server.counts() == {"connections": 2, "open": 0, "requests": 2}


def test_loop_works_after_its_generators_were_shut_down(run_program, counting_server):
    program = """
        from tests.support.calls import HELLO, call_websim
        from tests.support.loops import used_loop

        loop = used_loop()
        loop.run_until_complete(loop.shutdown_asyncgens())
        print(loop.run_until_complete(call_websim(None, HELLO)))
        loop.close()
    """
    assert run_program(program) == "['Yes, at once.']"


def test_loop_closes_while_loop_of_another_thread_continues(run_program, counting_server):
    program = """
        import asyncio
        import threading

        from tests.support.calls import HELLO, call_websim

        called, closed = threading.Event(), threading.Event()

        async def call_before_and_after():
            await call_websim(None, HELLO)
            called.set()
            await asyncio.to_thread(closed.wait)
            await call_websim(None, HELLO)

        thread = threading.Thread(target=lambda: asyncio.run(call_before_and_after()))
        thread.start()
        called.wait()
        asyncio.run(call_websim(None, HELLO))
        closed.set()
        thread.join()
    """
    run_program(program, dev=True)
    assert counting_server.counts() == {"connections": 2, "open": 0, "requests": 3}


def test_garbage_collection_inside_executor_does_not_deadlock(run_program):
    program = """
        import asyncio
        import gc
        from concurrent.futures import ThreadPoolExecutor

        from tests.support.loops import abandon_loop

        class Prefix:
            # ThreadPoolExecutor.submit() formats the prefix while it holds its locks.
            def __str__(self):
                gc.collect()
                return "worker"

        async def main():
            await asyncio.to_thread(abandon_loop)
            with ThreadPoolExecutor(thread_name_prefix=Prefix()) as executor:
                print(await asyncio.get_running_loop().run_in_executor(executor, lambda: "done"))

        asyncio.run(main())
    """
    assert run_program(program) == "done"


@pytest.mark.parametrize("count", [500])
def test_many_calls_at_once_succeed(run_program, counting_server, count):
    program = f"""
        import asyncio

        from tests.support.calls import HELLO, call_websim

        async def main():
            print(len(await asyncio.gather(*(call_websim(None, HELLO) for _ in range({count})))))

        asyncio.run(main())
    """
    assert run_program(program) == str(count)
    assert counting_server.counts()["requests"] == count


def test_generators_may_be_abandoned(run_program):
    program = """
        import asyncio

        from g4f_websim import Websim
        from tests.support.calls import HELLO
        from tests.support.loops import open_sockets

        async def main(kept):
            await kept[0].__anext__()
            await kept.pop().__anext__()
            kept.pop()
            async for chunk in Websim.create_async_generator(None, HELLO):
                break
            async for chunk in Websim.create_async_generator("flux", HELLO):
                break

        kept = [Websim.create_async_generator(None, HELLO) for _ in range(4)]
        asyncio.run(main(kept))
        print(len(kept), open_sockets())
    """
    assert run_program(program, dev=True) == "2 0"


@pytest.mark.parametrize("scheme", ["https"])
@pytest.mark.parametrize("place", ["between runs", "inside a run"])
def test_fork_leaves_connections_to_parent(run_program, counting_server, place):
    program = f"""
        import asyncio
        import sys

        from tests.support.calls import HELLO, call_websim
        from tests.support.loops import FORKS, open_sockets, used_loop

        def work():
            asyncio.run(call_websim(None, HELLO))

        async def fork_inside(fork):
            await call_websim(None, HELLO)
            print(fork(work), flush=True)
            await call_websim(None, HELLO)

        def fork_between(fork):
            with asyncio.Runner() as runner:
                runner.run(call_websim(None, HELLO))
                print(fork(work), flush=True)
                runner.run(call_websim(None, HELLO))

        # From Python 3.14 on, a child of a running event loop that leaves by sys.exit() hangs, with plain asyncio too.
        if {place!r} == "inside a run" and sys.version_info >= (3, 14):
            del FORKS["os.fork and sys.exit"]
        for fork in FORKS.values():
            asyncio.run(fork_inside(fork)) if {place!r} == "inside a run" else fork_between(fork)
    """
    exit_codes = run_program(program).split()
    assert set(exit_codes) == {"0"}
    forks = len(exit_codes)
    assert counting_server.counts() == {"connections": 2 * forks, "open": 0, "requests": 3 * forks}
