"""Connections are closed quietly with every kind of event loop. Each script here runs in an interpreter of its own.

Starting an interpreter takes longer than most scripts, so one script covers several event loops.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

import pytest

from tests.support.fast_server import FastServer, fast_server
from tests.support.interpreter import run_python
from tests.support.tls import write_certificates

# Warnings that g4f's modules issue on import are ignored, and so are asyncio's remarks on slow callbacks.
PRELUDE = """
import asyncio, contextlib, gc, logging, multiprocessing, os, signal, socket, stat, sys, threading, warnings, weakref
from concurrent.futures import ThreadPoolExecutor

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import g4f.debug
    import nest_asyncio2, uvicorn, uvloop
    from g4f.client import Client
    from g4f_websim import Websim
    from tests.support.calls import HELLO, call_websim

# A shell starts a process in the background with SIGINT ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)

logging.getLogger("asyncio").addFilter(lambda record: "took" not in record.msg)

NEW_LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


def used_loop(new_loop=asyncio.new_event_loop):
    # Return an event loop that has an idle connection.
    loop = new_loop()
    loop.run_until_complete(call_websim(None, HELLO))
    return loop


def abandon_loop():
    used_loop()


def run_in_threads(count, function):
    threads = [threading.Thread(target=function) for _ in range(count)]
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


class SilentServer(asyncio.Protocol):
    # A server that never responds.
    def __init__(self):
        self.request_arrived, self.connection_closed = asyncio.Event(), asyncio.Event()

    def data_received(self, data):
        self.request_arrived.set()

    def connection_lost(self, error):
        self.connection_closed.set()


async def serve(protocol):
    # Serve all connections by one object.
    server = await asyncio.get_running_loop().create_server(lambda: protocol, "127.0.0.1", 0)
    Websim.url = "http://127.0.0.1:%d" % server.sockets[0].getsockname()[1]
    return server
"""


@pytest.fixture(scope="module")
def certificates(tmp_path_factory) -> tuple[Path, Path]:
    return write_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def servers(certificates) -> Iterator[dict[str, FastServer]]:
    _, server_file = certificates
    with fast_server() as plain, fast_server(server_file) as tls:
        yield {"http": plain, "https": tls}


@pytest.fixture(params=["http"])
def server(request, servers, certificates, monkeypatch) -> FastServer:
    authority_file, _ = certificates
    monkeypatch.setenv("SSL_CERT_FILE", str(authority_file))
    server = servers[request.param]
    server.reset()
    return server


@pytest.fixture
def run(server: FastServer) -> Callable[[str], str]:
    """Return a function that runs a script and returns its output; the script must print no warning and no error."""

    def run_quietly(script: str) -> str:
        options = ("-X", "dev", "-W", "error::ResourceWarning")
        printed, errors = run_python(*options, "-c", PRELUDE + dedent(script), WEBSIM_URL=server.url)
        assert errors == ""
        return printed.strip()

    return run_quietly


HTTP_AND_TLS = pytest.mark.parametrize("server", ["http", "https"], indirect=True)
# A TLS connection takes more steps to close than another.
TLS = pytest.mark.parametrize("server", ["https"], indirect=True)


# Many event loops, threads and calls


def test_many_consecutive_loops_leave_no_socket_open(run):
    script = """
        for _ in range(100):
            asyncio.run(call_websim(None, HELLO))
        print(open_sockets())
    """
    assert run(script) == "0"


def test_sync_client_in_threads_leaves_no_socket_open(run, server):
    script = """
        def work():
            for _ in range(10):
                Client(provider=Websim).chat.completions.create(HELLO)

        run_in_threads(8, work)
        print(open_sockets())
    """
    assert run(script) == "0"
    assert server.counts()["requests"] == 80


def test_loop_of_each_thread_has_its_own_connection(run, server):
    script = """
        async def work():
            for _ in range(10):
                await call_websim(None, HELLO)

        run_in_threads(8, lambda: asyncio.run(work()))
        print(open_sockets())
    """
    assert run(script) == "0"
    assert server.counts() == {"connections": 8, "open": 0, "requests": 80}


def test_500_calls_at_once_succeed(run, server):
    script = """
        async def main():
            print(len(await asyncio.gather(*(call_websim(None, HELLO) for _ in range(500)))))

        asyncio.run(main())
    """
    assert run(script) == "500"
    assert server.counts()["requests"] == 500


def test_loop_closes_while_loop_of_another_thread_continues(run, server):
    script = """
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
        print(open_sockets())
    """
    assert run(script) == "0"
    assert server.counts()["connections"] == 2


# Cancellation


def test_cancelled_request_closes_its_connection(run):
    script = """
        async def cancel_request(model):
            silent = SilentServer()
            async with await serve(silent):
                call = asyncio.create_task(call_websim(model, HELLO))
                await silent.request_arrived.wait()
                call.cancel()
                await silent.connection_closed.wait()
                print(model, call.cancelled())

        for model in ("gemini-2.5-pro", "flux"):
            asyncio.run(cancel_request(model))
    """
    assert run(script) == "gemini-2.5-pro True\nflux True"


def test_cancellation_ends_delay_between_attempts(run):
    script = """
        class BusyServer(asyncio.Protocol):
            def connection_made(self, transport):
                self.transport = transport

            def data_received(self, data):
                self.transport.write(b"HTTP/1.1 503 Busy\\r\\nRetry-After: 50\\r\\nConnection: close\\r\\n\\r\\n")
                self.transport.close()

        async def cancel_delay(model):
            waiting = asyncio.Event()
            g4f.debug.log = lambda *text, **options: waiting.set()
            async with await serve(BusyServer()):
                call = asyncio.create_task(call_websim(model, HELLO))
                await waiting.wait()
                call.cancel()
                await asyncio.wait([call])
                print(model, call.cancelled())

        for model in ("gemini-2.5-pro", "flux"):
            asyncio.run(cancel_delay(model))
    """
    assert run(script) == "gemini-2.5-pro True\nflux True"


def test_many_cancelled_calls_leave_no_socket_open(run):
    script = """
        async def main():
            silent = SilentServer()
            async with await serve(silent):
                calls = [asyncio.create_task(call_websim(None, HELLO)) for _ in range(150)]
                await silent.request_arrived.wait()
                for call in calls:
                    call.cancel()
                await asyncio.wait(calls)

        asyncio.run(main())
        print(open_sockets())
    """
    assert run(script) == "0"


# Closing


RUNNERS = """
def run_in_runner(main):
    with asyncio.Runner() as runner:
        runner.run(main)

def run_and_close_by_hand(main, new_loop):
    loop = new_loop()
    loop.run_until_complete(main)
    loop.close()

RUNNERS = {
    "asyncio.run": asyncio.run,
    "uvloop.run": uvloop.run,
    "Runner": run_in_runner,
    "asyncio, closed by hand": lambda main: run_and_close_by_hand(main, asyncio.new_event_loop),
    "uvloop, closed by hand": lambda main: run_and_close_by_hand(main, uvloop.new_event_loop),
}
"""
NAMES_OF_RUNNERS = ("asyncio.run", "uvloop.run", "Runner", "asyncio, closed by hand", "uvloop, closed by hand")


@HTTP_AND_TLS
def test_closes_connections_with_loop(run, server):
    script = """
        async def main():
            await asyncio.gather(*(call_websim(None, HELLO) for _ in range(5)))

        for name, run_main in RUNNERS.items():
            run_main(main())
            print(name, open_sockets())
    """
    assert run(RUNNERS + dedent(script)).splitlines() == [f"{name} 0" for name in NAMES_OF_RUNNERS]
    assert server.counts() == {"connections": 25, "open": 0, "requests": 25}


def test_two_runs_of_one_loop_share_a_connection(run, server):
    script = """
        with asyncio.Runner() as runner:
            runner.run(call_websim(None, HELLO))
            runner.run(call_websim(None, HELLO))
        print(open_sockets())
    """
    assert run(script) == "0"
    assert server.counts() == {"connections": 1, "open": 0, "requests": 2}


@TLS
def test_closes_connections_with_loop_of_uvicorn(run, server):
    script = """
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
    assert run(script) == "0"
    assert server.counts() == {"connections": 1, "open": 0, "requests": 2}


@TLS
def test_closes_connections_of_sync_client(run, server):
    script = """
        for _ in range(2):
            Client(provider=Websim).chat.completions.create(HELLO)
        print(open_sockets())
    """
    assert run(script) == "0"
    assert server.counts() == {"connections": 2, "open": 0, "requests": 2}


@TLS
def test_closes_connections_with_loop_of_nest_asyncio(run, server):
    script = """
        def reply():
            return Client(provider=Websim).chat.completions.create(HELLO).choices[0].message.content

        async def notebook_cell():
            await call_websim(None, HELLO)
            print(reply(), reply() == reply())
            await call_websim(None, HELLO)

        nest_asyncio2.apply()
        asyncio.run(notebook_cell())
    """
    assert run(script) == "Yes, at once. True"
    assert server.counts()["open"] == 0


def test_generators_may_be_abandoned(run):
    script = """
        async def main(kept):
            await kept[0].__anext__()
            await kept.pop().__anext__()
            kept.pop()
            async for chunk in Websim.create_async_generator(None, HELLO):
                break
            async for chunk in Websim.create_async_generator("flux", HELLO):
                break

        for name, run_main in RUNNERS.items():
            kept = [Websim.create_async_generator(None, HELLO) for _ in range(4)]
            run_main(main(kept))
            print(name, len(kept), open_sockets())
    """
    assert run(RUNNERS + dedent(script)).splitlines() == [f"{name} 2 0" for name in NAMES_OF_RUNNERS]


def test_coroutine_may_exit_interpreter(run, server):
    script = """
        async def main():
            await call_websim(None, HELLO)
            sys.exit()

        asyncio.run(main())
    """
    run(script)
    assert server.counts() == {"connections": 1, "open": 0, "requests": 1}


@TLS
def test_loop_may_be_closed_while_another_runs(run, server):
    script = """
        async def main(loop):
            await call_websim(None, HELLO)
            loop.close()
            await call_websim(None, HELLO)

        for name, new_loop in NEW_LOOPS.items():
            loop = used_loop(new_loop)
            asyncio.run(main(loop))
            print(name, loop.is_closed(), open_sockets())
    """
    assert run(script) == "asyncio True 0\nuvloop True 0"
    assert server.counts() == {"connections": 4, "open": 0, "requests": 6}


def test_closing_running_loop_is_refused_and_harmless(run, server):
    script = """
        async def main():
            await call_websim(None, HELLO)
            try:
                asyncio.get_running_loop().close()
            except RuntimeError as error:
                print(error)
            await call_websim(None, HELLO)

        asyncio.run(main())
    """
    assert run(script) == "Cannot close a running event loop"
    assert server.counts() == {"connections": 1, "open": 0, "requests": 2}


def test_loop_may_be_closed_twice(run):
    script = """
        for name, new_loop in NEW_LOOPS.items():
            loop = used_loop(new_loop)
            loop.close()
            loop.close()
            print(name, loop.is_closed(), open_sockets())
    """
    assert run(script) == "asyncio True 0\nuvloop True 0"


# Event loops that are never closed


# Python's development mode warns about these event loops, and it should.
IGNORE_UNCLOSED_LOOPS = 'warnings.filterwarnings("ignore", "unclosed event loop")\n'


# The garbage collector finalizes the objects of a cycle in the order of their creation: first the event loop, which
# closes its connections, then the connections. An automatic collection would change the order by moving some of the
# objects to an older generation, so it is switched off. uvloop's event loops are never garbage-collected.
COLLECT_BY_HAND = IGNORE_UNCLOSED_LOOPS + "gc.collect(); gc.disable()\n"


@HTTP_AND_TLS
def test_interpreter_exit_closes_connections_of_unclosed_loops(run, server):
    script = """
        loops = [used_loop(new_loop) for new_loop in NEW_LOOPS.values()]
        run_in_threads(2, abandon_loop)
    """
    # An automatic collection could close the event loops before the interpreter exits.
    run(COLLECT_BY_HAND + dedent(script))
    assert server.counts() == {"connections": 4, "open": 0, "requests": 4}


@HTTP_AND_TLS
def test_garbage_collector_closes_connections_of_unclosed_loop(run, server):
    script = """
        abandon_loop()
        gc.collect()
        print(open_sockets())
    """
    assert run(COLLECT_BY_HAND + dedent(script)) == "0"
    assert server.counts() == {"connections": 1, "open": 0, "requests": 1}


@TLS
def test_garbage_collector_closes_connections_while_another_loop_runs(run, server):
    script = """
        async def main():
            await call_websim(None, HELLO)
            sockets = open_sockets()
            await asyncio.to_thread(abandon_loop)
            gc.collect()
            print(open_sockets() - sockets)
            await call_websim(None, HELLO)

        asyncio.run(main())
        print(open_sockets())
    """
    assert run(COLLECT_BY_HAND + dedent(script)) == "0\n0"
    assert server.counts() == {"connections": 2, "open": 0, "requests": 3}


def test_garbage_collection_inside_executor_does_not_deadlock(run, server):
    script = """
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
    assert run(COLLECT_BY_HAND + dedent(script)) == "done"
    assert server.counts() == {"connections": 1, "open": 0, "requests": 1}


def test_interpreter_may_exit_while_thread_makes_calls(run):
    script = """
        called = threading.Event()

        async def work():
            while True:
                await call_websim(None, HELLO)
                called.set()

        threading.Thread(target=lambda: asyncio.run(work()), daemon=True).start()
        called.wait()
    """
    run(script)


def test_thread_may_open_session_while_the_exit_closes_others(run):
    script = """
        from g4f_websim import sessions

        closing, opened = threading.Event(), threading.Event()

        class PausingSet(weakref.WeakSet):
            # Another thread opens a session in the middle of the iteration, unless a lock keeps it waiting.
            def __iter__(self):
                for item in super().__iter__():
                    yield item
                    closing.set()
                    opened.wait(0.1)

        def work():
            closing.wait()
            used_loop()
            opened.set()

        sessions._loops = PausingSet()
        loops = [used_loop(), used_loop()]
        thread = threading.Thread(target=work)
        thread.start()
        sessions._close_all_connections()
        thread.join()
    """
    run(IGNORE_UNCLOSED_LOOPS + dedent(script))


# Closing in unusual conditions


# asyncio warns about tasks that are pending when they are destroyed, and about what they were waiting for.
IGNORE_PENDING_TASKS = """
logging.getLogger("asyncio").addFilter(lambda record: "destroyed" not in record.msg)
logging.getLogger("asyncio").addFilter(lambda record: "never retrieved" not in record.msg)
"""


@HTTP_AND_TLS
def test_closes_stopped_loop(run, server):
    script = """
        for name, new_loop in NEW_LOOPS.items():
            for stop in ("stop", "queued stop"):
                loop = used_loop(new_loop)
                loop.stop() if stop == "stop" else loop.call_soon(loop.stop)
                loop.close()
                print(name, stop, loop.is_closed(), open_sockets())
    """
    assert run(script).splitlines() == [
        "asyncio stop True 0",
        "asyncio queued stop True 0",
        "uvloop stop True 0",
        "uvloop queued stop True 0",
    ]
    assert server.counts()["open"] == 0


def test_closes_loop_after_double_ctrl_c(run, server):
    script = """
        for name, new_loop in NEW_LOOPS.items():
            loop = used_loop(new_loop)
            loop.add_signal_handler(signal.SIGINT, loop.stop)
            loop.call_soon(os.kill, os.getpid(), signal.SIGINT)
            loop.run_forever()
            os.kill(os.getpid(), signal.SIGINT)
            loop.close()
            print(name, loop.is_closed(), open_sockets())
    """
    assert run(script) == "asyncio True 0\nuvloop True 0"
    assert server.counts()["open"] == 0


def test_closes_loop_after_keyboard_interrupt(run, server):
    script = """
        async def main():
            await call_websim(None, HELLO)
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.sleep(60)

        loop = asyncio.new_event_loop()
        try:
            loop.run_until_complete(main())
        except KeyboardInterrupt:
            loop.stop()
        finally:
            loop.close()
        print(loop.is_closed(), open_sockets())
    """
    assert run(IGNORE_PENDING_TASKS + dedent(script)) == "True 0"
    assert server.counts()["open"] == 0


@HTTP_AND_TLS
def test_closes_loop_with_pending_task_that_exits(run, server):
    script = """
        async def leave(exception):
            raise exception

        for name, new_loop in NEW_LOOPS.items():
            for exception in (SystemExit, KeyboardInterrupt):
                loop = used_loop(new_loop)
                task = loop.create_task(leave(exception))
                with contextlib.suppress(KeyboardInterrupt):
                    loop.close()
                print(name, loop.is_closed(), open_sockets(), repr(task.exception()))
    """
    assert run(script).splitlines() == [
        "asyncio True 0 SystemExit()",
        "asyncio True 0 KeyboardInterrupt()",
        "uvloop True 0 SystemExit()",
        "uvloop True 0 KeyboardInterrupt()",
    ]
    assert server.counts()["open"] == 0


def test_pending_tasks_make_one_step_at_most(run):
    script = """
        async def work(steps):
            while True:
                steps.append("step")
                await asyncio.sleep(0)

        def call_again(loop, callbacks):
            callbacks.append("callback")
            loop.call_soon(call_again, loop, callbacks)

        for name, new_loop in NEW_LOOPS.items():
            steps, callbacks = [], []
            loop = used_loop(new_loop)
            task = loop.create_task(work(steps))
            loop.call_soon(call_again, loop, callbacks)
            loop.close()
            print(name, loop.is_closed(), len(steps), len(callbacks), open_sockets())
    """
    assert run(IGNORE_PENDING_TASKS + dedent(script)) == "asyncio True 1 1 0\nuvloop True 1 1 0"


def test_closing_does_not_wait_for_pending_tasks(run):
    script = """
        async def refuse_to_end():
            while True:
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(60)

        loop = used_loop()
        task = loop.create_task(refuse_to_end())
        loop.run_until_complete(asyncio.sleep(0))
        task.cancel()
        start = loop.time()
        loop.close()
        print(loop.is_closed(), loop.time() - start < 1)
    """
    assert run(IGNORE_PENDING_TASKS + dedent(script)) == "True True"


def test_pending_call_leaves_nothing_open(run):
    script = """
        for steps in range(4):
            loop = used_loop()
            call = loop.create_task(call_websim(None, HELLO))
            for _ in range(steps):
                loop.call_soon(loop.stop)
                loop.run_forever()
            loop.close()
            print(steps, loop.is_closed(), end=" ")
            del loop, call
            gc.collect()
            print(open_sockets())
    """
    assert run(IGNORE_PENDING_TASKS + dedent(script)) == "0 True 0\n1 True 0\n2 True 0\n3 True 0"


def test_closes_connection_of_pending_request(run):
    script = """
        with socket.create_server(("127.0.0.1", 0)) as listener:
            Websim.url = "http://127.0.0.1:%d" % listener.getsockname()[1]
            loop = asyncio.new_event_loop()
            call = loop.create_task(call_websim(None, HELLO))
            connection, _ = loop.run_until_complete(asyncio.to_thread(listener.accept))
            with connection:
                loop.run_until_complete(asyncio.to_thread(connection.recv, 1))
                loop.close()
                while connection.recv(65536):
                    pass
        print(loop.is_closed(), open_sockets())
    """
    assert run(IGNORE_PENDING_TASKS + dedent(script)) == "True 0"


# Forks


FORKS = """
context = multiprocessing.get_context("fork")


def fork_process(work, leave):
    child = os.fork()
    if not child:
        work()
        leave()
    return os.waitpid(child, 0)[1]


def start_process(work):
    child = context.Process(target=work)
    child.start()
    child.join()
    return child.exitcode


FORKS = {
    "os.fork and os._exit": lambda work: fork_process(work, lambda: os._exit(0)),
    "os.fork and sys.exit": lambda work: fork_process(work, sys.exit),
    "multiprocessing": start_process,
}
"""


@HTTP_AND_TLS
def test_fork_leaves_connections_to_parent(run, server):
    script = """
        def work():
            asyncio.run(call_websim(None, HELLO))
            loop.close()

        for name, fork in FORKS.items():
            loop = used_loop()
            print(name, fork(work), flush=True)
            loop.run_until_complete(call_websim(None, HELLO))
            loop.close()
    """
    assert run(FORKS + dedent(script)) == "os.fork and os._exit 0\nos.fork and sys.exit 0\nmultiprocessing 0"
    assert server.counts() == {"connections": 6, "open": 0, "requests": 9}


def test_fork_inside_running_loop_leaves_connections_to_parent(run, server):
    script = """
        def work():
            asyncio.run(call_websim(None, HELLO))

        async def main(fork):
            await call_websim(None, HELLO)
            print(fork(work), flush=True)
            await call_websim(None, HELLO)

        # From Python 3.14 on, a child of a running event loop that leaves by sys.exit() hangs, with plain asyncio too.
        if sys.version_info >= (3, 14):
            del FORKS["os.fork and sys.exit"]
        for fork in FORKS.values():
            asyncio.run(main(fork))
    """
    exit_codes = run(FORKS + dedent(script)).split()
    assert set(exit_codes) == {"0"}
    forks = len(exit_codes)
    assert forks >= 2
    assert server.counts() == {"connections": 2 * forks, "open": 0, "requests": 3 * forks}
