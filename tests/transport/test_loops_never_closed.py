"""Event loops that are never closed: the garbage collector or the exit of the interpreter closes their connections."""

import pytest


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_interpreter_exit_closes_connections_of_unclosed_loops(run_program, counting_server):
    program = """
        from tests.support.loops import NEW_LOOPS, abandon_loop, run_in_threads, used_loop
        from tests.support.loops import collect_by_hand, ignore_unclosed_loops

        ignore_unclosed_loops()
        # An automatic collection could close the event loops before the interpreter exits.
        collect_by_hand()

        loops = [used_loop(new_loop) for new_loop in NEW_LOOPS.values()]
        run_in_threads(2, abandon_loop)
    """
    run_program(program)
    assert counting_server.counts() == {"connections": 4, "open": 0, "requests": 4}


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_garbage_collector_closes_connections_of_unclosed_loop(run_program, counting_server):
    program = """
        import gc

        from tests.support.loops import abandon_loop, collect_by_hand, ignore_unclosed_loops, open_sockets

        ignore_unclosed_loops()
        collect_by_hand()

        abandon_loop()
        gc.collect()
        print(open_sockets())
    """
    assert run_program(program) == "0"
    assert counting_server.counts() == {"connections": 1, "open": 0, "requests": 1}


@pytest.mark.parametrize("scheme", ["https"])
def test_garbage_collector_closes_connections_while_another_loop_runs(run_program, counting_server):
    program = """
        import asyncio
        import gc

        from tests.support.calls import HELLO, call_websim
        from tests.support.loops import abandon_loop, collect_by_hand, ignore_unclosed_loops, open_sockets

        ignore_unclosed_loops()
        collect_by_hand()

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
    assert run_program(program) == "0\n0"
    assert counting_server.counts() == {"connections": 2, "open": 0, "requests": 3}


def test_garbage_collection_inside_executor_does_not_deadlock(run_program, counting_server):
    program = """
        import asyncio
        import gc
        from concurrent.futures import ThreadPoolExecutor

        from tests.support.loops import abandon_loop, collect_by_hand, ignore_unclosed_loops

        ignore_unclosed_loops()
        collect_by_hand()

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
    assert counting_server.counts() == {"connections": 1, "open": 0, "requests": 1}


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


def test_thread_may_open_session_while_the_exit_closes_others(run_program):
    program = """
        import threading
        import weakref

        from g4f_websim.transport import connections
        from tests.support.loops import ignore_unclosed_loops, used_loop

        ignore_unclosed_loops()

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

        connections._loops = PausingSet()
        loops = [used_loop(), used_loop()]
        thread = threading.Thread(target=work)
        thread.start()
        connections._close_all_connections()
        thread.join()
    """
    run_program(program)
