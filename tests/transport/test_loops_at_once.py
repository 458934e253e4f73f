"""Many event loops, threads and calls, one after the other and at once, leave no socket open."""


def test_many_consecutive_loops_leave_no_socket_open(run_program):
    program = """
        import asyncio

        from tests.support.calls import HELLO, call_websim
        from tests.support.loops import open_sockets

        for _ in range(100):
            asyncio.run(call_websim(None, HELLO))
        print(open_sockets())
    """
    assert run_program(program) == "0"


def test_sync_client_in_threads_leaves_no_socket_open(run_program, counting_server):
    program = """
        from g4f.client import Client

        from g4f_websim import Websim
        from tests.support.calls import HELLO
        from tests.support.loops import open_sockets, run_in_threads

        def work():
            for _ in range(10):
                Client(provider=Websim).chat.completions.create(HELLO)

        run_in_threads(8, work)
        print(open_sockets())
    """
    assert run_program(program) == "0"
    assert counting_server.counts()["requests"] == 80


def test_loop_of_each_thread_has_its_own_connection(run_program, counting_server):
    program = """
        import asyncio

        from tests.support.calls import HELLO, call_websim
        from tests.support.loops import open_sockets, run_in_threads

        async def work():
            for _ in range(10):
                await call_websim(None, HELLO)

        run_in_threads(8, lambda: asyncio.run(work()))
        print(open_sockets())
    """
    assert run_program(program) == "0"
    assert counting_server.counts() == {"connections": 8, "open": 0, "requests": 80}


def test_500_calls_at_once_succeed(run_program, counting_server):
    program = """
        import asyncio

        from tests.support.calls import HELLO, call_websim

        async def main():
            print(len(await asyncio.gather(*(call_websim(None, HELLO) for _ in range(500)))))

        asyncio.run(main())
    """
    assert run_program(program) == "500"
    assert counting_server.counts()["requests"] == 500


def test_loop_closes_while_loop_of_another_thread_continues(run_program, counting_server):
    program = """
        import asyncio
        import threading

        from tests.support.calls import HELLO, call_websim
        from tests.support.loops import open_sockets

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
    assert run_program(program) == "0"
    assert counting_server.counts()["connections"] == 2
