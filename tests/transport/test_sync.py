"""Sync calls keep their connections, in event loops of the package's own, and work wherever sync code runs."""

import pytest

START = """
import asyncio
import atexit
import contextvars
import gc
import logging
import os
import signal
import socket
import sys
import threading

import g4f
from g4f.client import Client

from g4f_websim import Websim
from tests.support.calls import HELLO
from tests.support.loops import open_sockets, run_in_threads

def call():
    return Client(provider=Websim).chat.completions.create(HELLO).choices[0].message.content

def silent_server():
    server = socket.create_server(("127.0.0.1", 0))
    Websim.url = "http://127.0.0.1:%d" % server.getsockname()[1]
    return server
"""


@pytest.fixture
def run(run_program):
    return lambda program, **options: run_program(START + program, **options)


# The calls that g4f and users make.
CALLS = (
    "call()",
    "Client(provider=Websim).chat.completions.create(HELLO, stream=True).__next__()",
    'g4f.ChatCompletion.create(model="", messages=HELLO, provider=Websim)',
    "next(Websim.create_completion(None, HELLO))",
)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_sequential_calls_share_a_connection(run, counting_server, scheme):
    program = "".join(f"for _ in range(10): {call}\n" for call in CALLS)
    run(program, dev=True)
    assert counting_server.counts() == {"connections": 1, "open": 0, "requests": 10 * len(CALLS)}


def test_each_thread_opens_one_connection(run, counting_server):
    run("run_in_threads(8, lambda: [call() for _ in range(10)])", dev=True)
    counts = counting_server.counts()
    assert counts.pop("connections") <= 8
    assert counts == {"open": 0, "requests": 80}


def test_many_threads_leave_few_sockets_open(run, counting_server):
    program = """
barrier = threading.Barrier(100)

def call_with_others():
    chunks = Websim.create_completion(None, HELLO)
    next(chunks)
    barrier.wait()  # now each thread has an event loop
    list(chunks)

run_in_threads(100, call_with_others)
print(open_sockets())
"""
    assert int(run(program)) <= 16 * 3
    assert counting_server.counts()["requests"] == 100


# Each program prints the response once.
PLACES = {
    "coroutine": "async def main(): print(call())\nasyncio.run(main())",
    "after a coroutine": "async def main(): call()\nasyncio.run(main()); print(call())",
    "signal handler": "signal.signal(signal.SIGALRM, lambda *_: print(call())); signal.raise_signal(signal.SIGALRM)",
    "between two chunks": """
chunks = Websim.create_completion(None, HELLO)
next(chunks)
print(call())
chunks.close()
""",
    "other threads for each chunk": """
chunks, texts = Websim.create_completion(None, HELLO), []
run_in_threads(1, lambda: texts.append(next(chunks)))
run_in_threads(1, lambda: texts.append(next(chunks, None)))
print(texts[0])
""",
    "after an abandoned call": """
for _ in range(3):
    next(Websim.create_completion(None, HELLO))
gc.collect()
print(call())
""",
    "after a failed call": """
url, Websim.url, Websim.max_attempts = Websim.url, "http://127.0.0.1:9", 1
try:
    call()
except g4f.errors.ResponseError:
    Websim.url = url
    print(call())
""",
}

# These programs print the response while the interpreter exits.
EXITS = {
    "atexit, registered before and after a call": """
atexit.register(lambda: print(call()))
call()
atexit.register(lambda: print(call()))
""",
    "atexit, without an earlier call": "atexit.register(lambda: print(call()))",
    "thread that outlives the main one": "threading.Timer(0.1, lambda: print(call())).start()",
}


@pytest.mark.parametrize("program", ["\n".join(PLACES.values()), *EXITS.values()], ids=["places", *EXITS])
def test_call_succeeds(run, counting_server, program):
    printed = run(program)
    assert printed.splitlines() == ["Yes, at once."] * program.count("print(")
    assert counting_server.counts()["open"] == 0


def test_call_sees_context_variables_of_caller(run):
    program = """
name = contextvars.ContextVar("name")

class Named(Websim):
    @classmethod
    async def _handle_chat_request(cls, *args, **kwargs):
        yield name.get()
        yield name.get().upper()

for value in ("ann", "bob"):
    name.set(value)
    print(*Named.create_completion(None, HELLO))
"""
    assert run(program, dev=True) == "ann ANN\nbob BOB"


def test_interrupted_call_ends_and_leaves_nothing_running(run):
    program = """
# asyncio logs an exception that a signal handler raises inside a callback of the event loop.
logging.disable()

class TooLate(Exception):
    pass

def interrupt(*_):
    raise TooLate

for signum, handler, error in (
    (signal.SIGINT, signal.default_int_handler, KeyboardInterrupt),
    (signal.SIGALRM, interrupt, TooLate),
):
    signal.signal(signum, handler)
    url = Websim.url
    with silent_server() as server:
        def interrupt_when_connected():
            with server.accept()[0] as connection:
                connection.recv(1)
                os.kill(os.getpid(), signum)
                while connection.recv(65536):
                    pass
        thread = threading.Thread(target=interrupt_when_connected)
        thread.start()
        try:
            call()
        except error:
            thread.join()
    Websim.url = url
    print(error.__name__, call())
"""
    assert run(program) == "KeyboardInterrupt Yes, at once.\nTooLate Yes, at once."


def test_abandoned_call_ends_at_once(run):
    program = """
class Endless(Websim):
    @classmethod
    async def _handle_chat_request(cls, *args, **kwargs):
        try:
            while True:
                yield "chunk"
        finally:
            print("ended")

chunks = Endless.create_completion(None, HELLO)
print(next(chunks))
chunks.close()
print("closed")
"""
    assert run(program) == "chunk\nended\nclosed"


@pytest.mark.parametrize("scheme", ["https"])
def test_fork_leaves_connections_to_parent(run, counting_server):
    program = """
from tests.support.loops import FORKS

call()
for fork in FORKS.values():
    print(fork(call), fork(lambda: None), flush=True)
    call()
"""
    assert run(program) == "\n".join(["0 0"] * 3)
    assert counting_server.counts() == {"connections": 4, "open": 0, "requests": 7}


def test_fork_between_two_chunks_leaves_loop_to_parent(run):
    program = """
from tests.support.loops import FORKS

chunks = Websim.create_completion(None, HELLO)
print(next(chunks), flush=True)

def finish():
    before = open_sockets()
    chunks.close()
    print(before > open_sockets(), call())

FORKS["os.fork and sys.exit"](finish)
print(list(chunks), call())
"""
    assert run(program).splitlines() == ["Yes, at once.", "True Yes, at once.", "[] Yes, at once."]


def test_uses_way_of_g4f_where_threads_are_patched(run, counting_server):
    """Greenlets share a thread, so one could run the event loop of another."""
    program = """
class Local(threading.local):
    pass

threading.local = Local  # as gevent and eventlet replace it
print(call(), call())
"""
    assert run(program) == "Yes, at once. Yes, at once."
    assert counting_server.counts()["connections"] == 2
