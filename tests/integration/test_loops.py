"""Connections are closed quietly with every kind of event loop. Each script here runs in an interpreter of its own."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

import pytest
import trustme

from tests.support.fast_server import HOST, FastServer, fast_server
from tests.support.paths import ROOT

SCRIPT_TIMEOUT = 60

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
    from tests.support.calls import HELLO, ask

logging.getLogger("asyncio").addFilter(lambda record: "took" not in record.msg)


def used_loop(new_loop=asyncio.new_event_loop):
    # Return an event loop that has an idle connection.
    loop = new_loop()
    loop.run_until_complete(ask(None, HELLO))
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
    request_arrived, connection_closed = asyncio.Event(), asyncio.Event()

    def data_received(self, data):
        self.request_arrived.set()

    def connection_lost(self, error):
        self.connection_closed.set()


async def serve(protocol):
    server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", 0)
    Websim.url = "http://127.0.0.1:%d" % server.sockets[0].getsockname()[1]
    return server
"""


@pytest.fixture(scope="module")
def certificates(tmp_path_factory) -> Path:
    """A folder with the certificate of an authority and that of a server."""
    folder = tmp_path_factory.mktemp("certificates")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "authority.pem")
    authority.issue_cert(HOST).private_key_and_cert_chain_pem.write_to_path(folder / "server.pem")
    return folder


@pytest.fixture(params=["http"])
def server(request, certificates, monkeypatch) -> Iterator[FastServer]:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates / "authority.pem"))
    with fast_server(certificates / "server.pem" if request.param == "https" else None) as server:
        yield server


@pytest.fixture
def run(server: FastServer, tmp_path: Path) -> Callable[[str], str]:
    """Return a function that runs a script and returns its output; the script must print no warning and no error."""

    def run_quietly(script: str) -> str:
        done = subprocess.run(
            [sys.executable, "-X", "dev", "-W", "error::ResourceWarning", "-c", PRELUDE + dedent(script)],
            env=os.environ | {"WEBSIM_URL": server.url, "PYTHONPATH": str(ROOT)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=SCRIPT_TIMEOUT,
        )
        assert done.stderr == ""
        assert done.returncode == 0
        return done.stdout.strip()

    return run_quietly


HTTP_AND_TLS = pytest.mark.parametrize("server", ["http", "https"], indirect=True)


# Many event loops, threads and calls


def test_many_consecutive_loops_leave_no_socket_open(run):
    script = """
        for _ in range(200):
            asyncio.run(ask(None, HELLO))
        print(open_sockets())
    """
    assert run(script) == "0"


def test_sync_client_in_threads(run, server):
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
                await ask(None, HELLO)

        run_in_threads(8, lambda: asyncio.run(work()))
        print(open_sockets())
    """
    assert run(script) == "0"
    assert server.counts() == {"connections": 8, "open": 0, "requests": 80}


def test_500_calls_at_once(run, server):
    script = """
        async def main():
            print(len(await asyncio.gather(*(ask(None, HELLO) for _ in range(500)))))

        asyncio.run(main())
    """
    assert run(script) == "500"
    assert server.counts()["requests"] == 500


def test_loop_closes_while_loop_of_another_thread_continues(run, server):
    script = """
        called, closed = threading.Event(), threading.Event()

        async def call_before_and_after():
            await ask(None, HELLO)
            called.set()
            await asyncio.to_thread(closed.wait)
            await ask(None, HELLO)

        thread = threading.Thread(target=lambda: asyncio.run(call_before_and_after()))
        thread.start()
        called.wait()
        asyncio.run(ask(None, HELLO))
        closed.set()
        thread.join()
        print(open_sockets())
    """
    assert run(script) == "0"
    assert server.counts()["connections"] == 2


# Cancellation


@pytest.mark.parametrize("model", ["gemini-2.5-pro", "flux"])
def test_cancelled_request_closes_its_connection(run, model):
    script = f"""
        async def main():
            async with await serve(SilentServer):
                call = asyncio.create_task(ask("{model}", HELLO))
                await SilentServer.request_arrived.wait()
                call.cancel()
                await SilentServer.connection_closed.wait()
                print(call.cancelled())

        asyncio.run(main())
    """
    assert run(script) == "True"


@pytest.mark.parametrize("model", ["gemini-2.5-pro", "flux"])
def test_cancellation_ends_delay_between_attempts(run, model):
    script = f"""
        class BusyServer(asyncio.Protocol):
            def connection_made(self, transport):
                self.transport = transport

            def data_received(self, data):
                self.transport.write(b"HTTP/1.1 503 Busy\\r\\nRetry-After: 50\\r\\nConnection: close\\r\\n\\r\\n")
                self.transport.close()

        async def main():
            waiting = asyncio.Event()
            g4f.debug.log = lambda *text, **options: waiting.set()
            async with await serve(BusyServer):
                call = asyncio.create_task(ask("{model}", HELLO))
                await waiting.wait()
                call.cancel()
                await asyncio.wait([call])
                print(call.cancelled())

        asyncio.run(main())
    """
    assert run(script) == "True"


def test_many_cancelled_calls_leave_no_socket_open(run):
    script = """
        async def main():
            async with await serve(SilentServer):
                calls = [asyncio.create_task(ask(None, HELLO)) for _ in range(150)]
                await SilentServer.request_arrived.wait()
                for call in calls:
                    call.cancel()
                await asyncio.wait(calls)

        asyncio.run(main())
        print(open_sockets())
    """
    assert run(script) == "0"


# Closing


WAYS_TO_RUN = {
    "asyncio.run": "asyncio.run(main())",
    "Runner": """
        with asyncio.Runner() as runner:
            runner.run(main())
            runner.run(main())
    """,
    "uvloop.run": "uvloop.run(main())",
    "asyncio, closed by hand": "loop = asyncio.new_event_loop(); loop.run_until_complete(main()); loop.close()",
    "uvloop, closed by hand": "loop = uvloop.new_event_loop(); loop.run_until_complete(main()); loop.close()",
}
RUNS = pytest.mark.parametrize("run_main", [dedent(way) for way in WAYS_TO_RUN.values()], ids=list(WAYS_TO_RUN))


@HTTP_AND_TLS
@RUNS
def test_closes_connections_with_loop(run, server, run_main):
    script = dedent("""
        async def main():
            await asyncio.gather(*(ask(None, HELLO) for _ in range(5)))
    """)
    assert run(script + run_main + "\nprint(open_sockets())") == "0"
    assert server.counts()["connections"] == 5
    assert server.counts()["open"] == 0


@HTTP_AND_TLS
def test_closes_connections_with_loop_of_uvicorn(run, server):
    script = """
        async def application(scope, receive, send):
            await receive()
            await ask(None, HELLO)
            await send({"type": "lifespan.startup.complete"})
            server.should_exit = True
            await receive()
            await ask(None, HELLO)
            await send({"type": "lifespan.shutdown.complete"})

        server = uvicorn.Server(uvicorn.Config(application, port=0, lifespan="on", log_level="warning"))
        server.run()
        print(open_sockets())
    """
    assert run(script) == "0"
    assert server.counts() == {"connections": 1, "open": 0, "requests": 2}


@HTTP_AND_TLS
def test_closes_connections_of_sync_client(run, server):
    script = """
        for _ in range(2):
            Client(provider=Websim).chat.completions.create(HELLO)
        print(open_sockets())
    """
    assert run(script) == "0"
    assert server.counts() == {"connections": 2, "open": 0, "requests": 2}


@HTTP_AND_TLS
def test_closes_connections_with_loop_of_nest_asyncio(run, server):
    script = """
        def answer():
            return Client(provider=Websim).chat.completions.create(HELLO).choices[0].message.content

        async def notebook_cell():
            await ask(None, HELLO)
            print(answer(), answer() == answer())
            await ask(None, HELLO)

        nest_asyncio2.apply()
        asyncio.run(notebook_cell())
    """
    assert run(script) == "Yes, at once. True"
    assert server.counts()["open"] == 0


@RUNS
def test_generators_may_be_abandoned(run, run_main):
    script = dedent("""
        kept = [Websim.create_async_generator(None, HELLO) for _ in range(4)]

        async def main():
            await kept[0].__anext__()
            await kept.pop().__anext__()
            kept.pop()
            async for answer in Websim.create_async_generator(None, HELLO):
                break
            async for answer in Websim.create_async_generator("flux", HELLO):
                break
    """)
    assert run(script + run_main.replace("runner.run(main())\n", "", 1) + "\nprint(len(kept), open_sockets())") == "2 0"


def test_coroutine_may_exit_interpreter(run, server):
    script = """
        async def main():
            await ask(None, HELLO)
            sys.exit()

        asyncio.run(main())
    """
    run(script)
    assert server.counts()["open"] == 0


@HTTP_AND_TLS
@pytest.mark.parametrize("new_loop", ["asyncio.new_event_loop", "uvloop.new_event_loop"])
def test_loop_may_be_closed_while_another_runs(run, server, new_loop):
    script = f"""
        loop = used_loop({new_loop})

        async def main():
            await ask(None, HELLO)
            loop.close()
            await ask(None, HELLO)

        asyncio.run(main())
        print(loop.is_closed(), open_sockets())
    """
    assert run(script) == "True 0"
    assert server.counts() == {"connections": 2, "open": 0, "requests": 3}


def test_closing_running_loop_is_refused_and_harmless(run, server):
    script = """
        async def main():
            await ask(None, HELLO)
            try:
                asyncio.get_running_loop().close()
            except RuntimeError as error:
                print(error)
            await ask(None, HELLO)

        asyncio.run(main())
    """
    assert run(script) == "Cannot close a running event loop"
    assert server.counts() == {"connections": 1, "open": 0, "requests": 2}


def test_loop_may_be_closed_twice(run):
    script = """
        loop = used_loop()
        loop.close()
        loop.close()
        print(loop.is_closed(), open_sockets())
    """
    assert run(script) == "True 0"


# Event loops that are never closed


# Python's development mode warns about these event loops, and it should.
IGNORE_UNCLOSED_LOOPS = 'warnings.filterwarnings("ignore", "unclosed event loop")\n'
LOOPS = pytest.mark.parametrize("new_loop", ["asyncio.new_event_loop", "uvloop.new_event_loop"])


@HTTP_AND_TLS
@LOOPS
def test_interpreter_exit_closes_connections_of_unclosed_loop(run, server, new_loop):
    run(IGNORE_UNCLOSED_LOOPS + f"loop = used_loop({new_loop})")
    assert server.counts() == {"connections": 1, "open": 0, "requests": 1}


@HTTP_AND_TLS
def test_interpreter_exit_closes_connections_of_unclosed_loop_of_thread(run, server):
    run(IGNORE_UNCLOSED_LOOPS + "run_in_threads(2, abandon_loop)")
    assert server.counts() == {"connections": 2, "open": 0, "requests": 2}


# Objects that were created in this order are finalized in this order, unless an automatic collection promotes some:
# the event loop comes before its connections and closes them. uvloop's event loops are never garbage-collected.
COLLECT_BY_HAND = IGNORE_UNCLOSED_LOOPS + "gc.collect(); gc.disable()\n"


@HTTP_AND_TLS
def test_garbage_collector_closes_connections_of_unclosed_loop(run, server):
    script = """
        abandon_loop()
        gc.collect()
        print(open_sockets())
    """
    assert run(COLLECT_BY_HAND + dedent(script)) == "0"
    assert server.counts() == {"connections": 1, "open": 0, "requests": 1}


@HTTP_AND_TLS
def test_garbage_collector_closes_connections_while_another_loop_runs(run, server):
    script = """
        async def main():
            await ask(None, HELLO)
            sockets = open_sockets()
            await asyncio.to_thread(abandon_loop)
            gc.collect()
            print(open_sockets() - sockets)
            await ask(None, HELLO)

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
                await ask(None, HELLO)
                called.set()

        threading.Thread(target=lambda: asyncio.run(work()), daemon=True).start()
        called.wait()
    """
    run(script)


def test_interpreter_may_exit_while_thread_opens_session(run, server):
    script = """
        from g4f_websim import sessions

        exiting, opened = threading.Event(), threading.Event()

        class PausingSet(weakref.WeakSet):
            # Another thread opens a session in the middle of each iteration.
            def __iter__(self):
                for item in super().__iter__():
                    yield item
                    exiting.set()
                    opened.wait(0.5)

        def work():
            exiting.wait()
            used_loop()
            opened.set()

        sessions._loops = PausingSet()
        threading.Thread(target=work, daemon=True).start()
        loops = [used_loop(), used_loop()]
    """
    run(IGNORE_UNCLOSED_LOOPS + dedent(script))


# Closing in unusual conditions


# asyncio warns about tasks that are pending when they are destroyed, and about what they were waiting for.
IGNORE_PENDING_TASKS = """
logging.getLogger("asyncio").addFilter(lambda record: "destroyed" not in record.msg)
logging.getLogger("asyncio").addFilter(lambda record: "never retrieved" not in record.msg)
"""


@HTTP_AND_TLS
@LOOPS
@pytest.mark.parametrize("stop", ["loop.stop()", "loop.call_soon(loop.stop)"], ids=["stop", "queued stop"])
def test_closes_stopped_loop(run, server, new_loop, stop):
    script = f"""
        loop = used_loop({new_loop})
        {stop}
        loop.close()
        print(loop.is_closed(), open_sockets())
    """
    assert run(script) == "True 0"
    assert server.counts()["open"] == 0


@LOOPS
def test_closes_loop_after_double_ctrl_c(run, server, new_loop):
    script = f"""
        loop = used_loop({new_loop})
        loop.add_signal_handler(signal.SIGINT, loop.stop)
        loop.call_soon(os.kill, os.getpid(), signal.SIGINT)
        loop.run_forever()
        os.kill(os.getpid(), signal.SIGINT)
        loop.close()
        print(loop.is_closed(), open_sockets())
    """
    assert run(script) == "True 0"
    assert server.counts()["open"] == 0


def test_closes_loop_after_keyboard_interrupt(run, server):
    script = """
        async def main():
            await ask(None, HELLO)
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
@LOOPS
@pytest.mark.parametrize("exception", ["SystemExit", "KeyboardInterrupt"])
def test_closes_loop_with_pending_task_that_exits(run, server, new_loop, exception):
    script = f"""
        async def leave():
            raise {exception}

        loop = used_loop({new_loop})
        task = loop.create_task(leave())
        with contextlib.suppress(KeyboardInterrupt):
            loop.close()
        print(loop.is_closed(), open_sockets(), repr(task.exception()))
    """
    assert run(script) == f"True 0 {exception}()"
    assert server.counts()["open"] == 0


@LOOPS
def test_pending_tasks_make_one_step_at_most(run, new_loop):
    script = f"""
        steps, callbacks = [], []

        async def work():
            while True:
                steps.append("step")
                await asyncio.sleep(0)

        def call_again():
            callbacks.append("callback")
            loop.call_soon(call_again)

        loop = used_loop({new_loop})
        task = loop.create_task(work())
        loop.call_soon(call_again)
        loop.close()
        print(loop.is_closed(), len(steps), len(callbacks), open_sockets())
    """
    assert run(IGNORE_PENDING_TASKS + dedent(script)) == "True 1 1 0"


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


@pytest.mark.parametrize("steps", [0, 1, 2, 3])
def test_pending_call_leaves_nothing_open(run, steps):
    script = f"""
        loop = used_loop()
        call = loop.create_task(ask(None, HELLO))
        for _ in range({steps}):
            loop.call_soon(loop.stop)
            loop.run_forever()
        loop.close()
        print(loop.is_closed())
        del loop, call
        gc.collect()
        print(open_sockets())
    """
    assert run(IGNORE_PENDING_TASKS + dedent(script)) == "True\n0"


def test_closes_connection_of_pending_request(run):
    script = """
        with socket.create_server(("127.0.0.1", 0)) as listener:
            Websim.url = "http://127.0.0.1:%d" % listener.getsockname()[1]
            loop = asyncio.new_event_loop()
            call = loop.create_task(ask(None, HELLO))
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


FORKS = {
    "os.fork and os._exit": "child = os.fork(); child or (work(), os._exit(0)); print(os.waitpid(child, 0)[1])",
    "os.fork and sys.exit": "child = os.fork(); child or (work(), sys.exit()); print(os.waitpid(child, 0)[1])",
    "multiprocessing": "child = context.Process(target=work); child.start(); child.join(); print(child.exitcode)",
}


@HTTP_AND_TLS
@pytest.mark.parametrize("fork", FORKS.values(), ids=list(FORKS))
def test_fork_leaves_connections_to_parent(run, server, fork):
    script = f"""
        context = multiprocessing.get_context("fork")

        def work():
            asyncio.run(ask(None, HELLO))
            loop.close()

        loop = used_loop()
        {fork}
        loop.run_until_complete(ask(None, HELLO))
        loop.close()
    """
    assert run(script) == "0"
    assert server.counts() == {"connections": 2, "open": 0, "requests": 3}


# From Python 3.14 on, a child of a running event loop that leaves by sys.exit() hangs, with plain asyncio too.
FORKS_INSIDE_LOOP = {name: fork for name, fork in FORKS.items() if "sys.exit" not in name or sys.version_info < (3, 14)}


@pytest.mark.parametrize("fork", FORKS_INSIDE_LOOP.values(), ids=list(FORKS_INSIDE_LOOP))
def test_fork_inside_running_loop_leaves_connections_to_parent(run, server, fork):
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
