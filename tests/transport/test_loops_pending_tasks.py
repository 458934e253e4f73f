"""Event loops that are closed while tasks and calls are pending."""

import pytest


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_closes_loop_with_pending_task_that_exits(run_program, counting_server):
    program = """
        import contextlib

        from tests.support.loops import NEW_LOOPS, open_sockets, used_loop

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
    assert run_program(program).splitlines() == [
        "asyncio True 0 SystemExit()",
        "asyncio True 0 KeyboardInterrupt()",
        "uvloop True 0 SystemExit()",
        "uvloop True 0 KeyboardInterrupt()",
    ]
    assert counting_server.counts()["open"] == 0


def test_pending_tasks_run_one_step_at_most(run_program):
    program = """
        import asyncio

        from tests.support.loops import NEW_LOOPS, ignore_pending_tasks, open_sockets, used_loop

        ignore_pending_tasks()

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
    assert run_program(program) == "asyncio True 1 1 0\nuvloop True 1 1 0"


def test_closing_does_not_wait_for_pending_tasks(run_program):
    program = """
        import asyncio
        import contextlib

        from tests.support.loops import ignore_pending_tasks, used_loop

        ignore_pending_tasks()

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
    assert run_program(program) == "True True"


def test_pending_call_leaves_nothing_open(run_program):
    program = """
        import gc

        from tests.support.calls import HELLO, call_websim
        from tests.support.loops import ignore_pending_tasks, open_sockets, used_loop

        ignore_pending_tasks()

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
    assert run_program(program) == "0 True 0\n1 True 0\n2 True 0\n3 True 0"


def test_closes_connection_of_pending_request(run_program):
    program = """
        import asyncio
        import socket

        from g4f_websim import Websim
        from tests.support.calls import HELLO, call_websim
        from tests.support.loops import ignore_pending_tasks, open_sockets

        ignore_pending_tasks()

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
    assert run_program(program) == "True 0"
