"""Connections belong to the event loop of the caller, however it ends, and the package leaves that loop as it is."""

import pytest

from tests.support.interpreter import run_python

START = """
import asyncio
import gc
import signal
import sys
import threading

import uvicorn
import uvloop

from g4f_websim import Websim
from tests.support.calls import HELLO, call_websim
from tests.support.loops import FORKS, abandon_loop, open_sockets, run_in_threads, used_loop

def call():
    return call_websim(None, HELLO)

async def main():
    await asyncio.gather(*(call() for _ in range(5)))
"""

# Ways that end an event loop properly: they call shutdown_asyncgens. Each opens five connections.
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
    "thread": "run_in_threads(1, lambda: asyncio.run(main()))",
    "uvicorn": """
async def application(scope, receive, send):
    await receive()
    await main()
    await send({"type": "lifespan.startup.complete"})
    server.should_exit = True
    await receive()
    await main()
    await send({"type": "lifespan.shutdown.complete"})
server = uvicorn.Server(uvicorn.Config(application, port=0, lifespan="on", log_level="warning"))
server.run()
""",
}

# Other ways. The garbage collector closes the connections.
IMPROPER = {
    "closed by hand": "loop = asyncio.new_event_loop(); loop.run_until_complete(main()); loop.close()",
    "closed twice": "loop = used_loop(); loop.close(); loop.close()",
    "uvloop, closed by hand": "loop = uvloop.new_event_loop(); loop.run_until_complete(main()); loop.close()",
    "never closed": "loop = asyncio.new_event_loop(); loop.run_until_complete(main())",
    "many never closed": "for _ in range(50): abandon_loop()",
    "stopped": "loop = used_loop(); loop.stop(); loop.close()",
    "closed while another runs": """
loop = used_loop()
async def close():
    await main()
    loop.close()
    await main()
asyncio.run(close())
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
""",
}


@pytest.fixture
def run(run_program):
    return lambda program, **options: run_program(START + program, **options)


def run_each(run, ends, after="", **options):
    """Run programs one after the other in one process, and check that each leaves no socket open."""
    program = "".join(f"{end}\n{after}\nprint({name!r}, open_sockets())\n" for name, end in ends.items())
    assert run(program, **options).splitlines() == [f"{name} 0" for name in ends]


# Connections with TLS are harder to close.
@pytest.mark.parametrize("scheme", ["https"])
def test_closes_connections_with_loop(run, counting_server):
    run_each(run, PROPER, dev=True)
    counts = counting_server.counts()
    assert (counts["connections"], counts["open"]) == (5 * len(PROPER), 0)


@pytest.mark.parametrize("scheme", ["https"])
def test_loop_that_was_not_shut_down_leaves_nothing_open(run, counting_server):
    run_each(run, IMPROPER, after="loop = None; gc.collect()")
    assert counting_server.counts()["open"] == 0


def test_interpreter_may_exit_with_unclosed_loops(counting_server):
    # Handlers run in the reverse order of their registration, so this one runs after that of the package.
    first = """
import atexit

@atexit.register
def use_loops():
    for loop in loops:
        loop.run_until_complete(call())
    print(*(loop.is_closed() for loop in thread_loops))
"""
    program = """
loops, thread_loops = [used_loop(new_loop) for new_loop in (asyncio.new_event_loop, uvloop.new_event_loop)], []
run_in_threads(2, lambda: thread_loops.append(used_loop()))
"""
    printed, errors = run_python("-c", first + START + program, WEBSIM_URL=counting_server.url)
    assert (printed, errors) == ("True True\n", "")


def test_interpreter_may_exit_while_thread_makes_calls(run):
    run("""
called = threading.Event()

async def work():
    while True:
        await call()
        called.set()

threading.Thread(target=lambda: asyncio.run(work()), daemon=True).start()
called.wait()
""")


def test_coroutine_may_exit_interpreter(run, counting_server):
    program = """
async def call_and_exit():
    await call()
    sys.exit()

asyncio.run(call_and_exit())
"""
    run(program, dev=True)
    assert counting_server.counts() == {"connections": 1, "open": 0, "requests": 1}


def test_leaves_methods_of_loop_as_they_are(run):
    program = """
async def changed_methods():
    loop = asyncio.get_running_loop()
    before = {name: getattr(loop, name) for name in dir(loop) if callable(getattr(loop, name))}
    await call()
    return [name for name, method in before.items() if getattr(loop, name) != method]

print(asyncio.run(changed_methods()))
"""
    assert run(program) == "[]"


def test_loop_without_attributes_makes_calls(run, counting_server):
    program = """
class Loop(asyncio.SelectorEventLoop):
    def __setattr__(self, name, value):
        if "websim" in name:
            raise AttributeError(name)
        super().__setattr__(name, value)

with asyncio.Runner(loop_factory=Loop) as runner:
    runner.run(call())
    runner.run(call())
print(open_sockets())
"""
    assert run(program, dev=True) == "0"
    assert counting_server.counts() == {"connections": 2, "open": 0, "requests": 2}


def test_loop_works_after_its_generators_were_shut_down(run):
    program = """
loop = used_loop()
loop.run_until_complete(loop.shutdown_asyncgens())
print(loop.run_until_complete(call()))
loop.close()
"""
    assert run(program) == "['Yes, at once.']"


def test_loop_closes_while_loop_of_another_thread_continues(run, counting_server):
    program = """
called, closed = threading.Event(), threading.Event()

async def call_before_and_after():
    await call()
    called.set()
    await asyncio.to_thread(closed.wait)
    await call()

thread = threading.Thread(target=lambda: asyncio.run(call_before_and_after()))
thread.start()
called.wait()
asyncio.run(call())
closed.set()
thread.join()
"""
    run(program, dev=True)
    assert counting_server.counts() == {"connections": 2, "open": 0, "requests": 3}


def test_garbage_collection_inside_executor_does_not_deadlock(run):
    program = """
from concurrent.futures import ThreadPoolExecutor

class Prefix:
    # ThreadPoolExecutor.submit() formats the prefix while it holds its locks.
    def __str__(self):
        gc.collect()
        return "worker"

async def submit():
    await asyncio.to_thread(abandon_loop)
    with ThreadPoolExecutor(thread_name_prefix=Prefix()) as executor:
        print(await asyncio.get_running_loop().run_in_executor(executor, lambda: "done"))

asyncio.run(submit())
"""
    assert run(program) == "done"


def test_generators_may_be_abandoned(run):
    program = """
async def abandon(kept):
    await kept[0].__anext__()
    await kept.pop().__anext__()
    kept.pop()
    for model in (None, "flux"):
        async for chunk in Websim.create_async_generator(model, HELLO):
            break

kept = [Websim.create_async_generator(None, HELLO) for _ in range(4)]
asyncio.run(abandon(kept))
print(len(kept), open_sockets())
"""
    assert run(program, dev=True) == "2 0"


# Each makes a call, then one in a child process, then one more.
FORKING = {
    "between runs": """
def call_around(fork):
    with asyncio.Runner() as runner:
        runner.run(call())
        print(fork(work), flush=True)
        runner.run(call())
""",
    "inside a run": """
async def call_inside(fork):
    await call()
    print(fork(work), flush=True)
    await call()

def call_around(fork):
    asyncio.run(call_inside(fork))

# From Python 3.14 on, a child of a running event loop that leaves by sys.exit() hangs, with plain asyncio too.
if sys.version_info >= (3, 14):
    del FORKS["os.fork and sys.exit"]
""",
}


@pytest.mark.parametrize("scheme", ["https"])
@pytest.mark.parametrize("program", FORKING.values(), ids=FORKING)
def test_fork_leaves_connections_to_parent(run, counting_server, program):
    program += """
def work():
    asyncio.run(call())

for fork in FORKS.values():
    call_around(fork)
"""
    exit_codes = run(program).split()
    assert set(exit_codes) == {"0"}
    forks = len(exit_codes)
    assert counting_server.counts() == {"connections": 2 * forks, "open": 0, "requests": 3 * forks}
