"""Event loops that a program closes by hand: twice, while they run, while another runs, or after Ctrl-C."""

import pytest


@pytest.mark.parametrize("scheme", ["https"])
def test_closes_loop_while_another_runs(run_program, counting_server):
    program = """
        import asyncio

        from tests.support.calls import HELLO, call_websim
        from tests.support.loops import NEW_LOOPS, open_sockets, used_loop

        async def main(loop):
            await call_websim(None, HELLO)
            loop.close()
            await call_websim(None, HELLO)

        for name, new_loop in NEW_LOOPS.items():
            loop = used_loop(new_loop)
            asyncio.run(main(loop))
            print(name, loop.is_closed(), open_sockets())
    """
    assert run_program(program) == "asyncio True 0\nuvloop True 0"
    assert counting_server.counts() == {"connections": 4, "open": 0, "requests": 6}


def test_closing_running_loop_is_refused_and_harmless(run_program, counting_server):
    program = """
        import asyncio

        from tests.support.calls import HELLO, call_websim

        async def main():
            await call_websim(None, HELLO)
            try:
                asyncio.get_running_loop().close()
            except RuntimeError as error:
                print(error)
            await call_websim(None, HELLO)

        asyncio.run(main())
    """
    assert run_program(program) == "Cannot close a running event loop"
    assert counting_server.counts() == {"connections": 1, "open": 0, "requests": 2}


def test_loop_may_be_closed_twice(run_program):
    program = """
        from tests.support.loops import NEW_LOOPS, open_sockets, used_loop

        for name, new_loop in NEW_LOOPS.items():
            loop = used_loop(new_loop)
            loop.close()
            loop.close()
            print(name, loop.is_closed(), open_sockets())
    """
    assert run_program(program) == "asyncio True 0\nuvloop True 0"


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_closes_stopped_loop(run_program, counting_server):
    program = """
        from tests.support.loops import NEW_LOOPS, open_sockets, used_loop

        for name, new_loop in NEW_LOOPS.items():
            for stop in ("stop", "queued stop"):
                loop = used_loop(new_loop)
                loop.stop() if stop == "stop" else loop.call_soon(loop.stop)
                loop.close()
                print(name, stop, loop.is_closed(), open_sockets())
    """
    assert run_program(program).splitlines() == [
        "asyncio stop True 0",
        "asyncio queued stop True 0",
        "uvloop stop True 0",
        "uvloop queued stop True 0",
    ]
    assert counting_server.counts()["open"] == 0


def test_closes_loop_after_double_ctrl_c(run_program, counting_server):
    program = """
        import os
        import signal

        from tests.support.loops import NEW_LOOPS, open_sockets, used_loop

        for name, new_loop in NEW_LOOPS.items():
            loop = used_loop(new_loop)
            loop.add_signal_handler(signal.SIGINT, loop.stop)
            loop.call_soon(os.kill, os.getpid(), signal.SIGINT)
            loop.run_forever()
            os.kill(os.getpid(), signal.SIGINT)
            loop.close()
            print(name, loop.is_closed(), open_sockets())
    """
    assert run_program(program) == "asyncio True 0\nuvloop True 0"
    assert counting_server.counts()["open"] == 0


def test_closes_loop_after_keyboard_interrupt(run_program, counting_server):
    program = """
        import asyncio
        import os
        import signal

        from tests.support.calls import HELLO, call_websim
        from tests.support.loops import ignore_pending_tasks, open_sockets

        ignore_pending_tasks()

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
    assert run_program(program) == "True 0"
    assert counting_server.counts()["open"] == 0
