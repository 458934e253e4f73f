"""Connections are closed with their event loop, whatever runs it."""

import pytest

RUNNER_NAMES = ("asyncio.run", "uvloop.run", "Runner", "asyncio, closed by hand", "uvloop, closed by hand")


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_closes_connections_with_loop(run_program, counting_server):
    program = """
        import asyncio

        from tests.support.calls import HELLO, call_websim
        from tests.support.loops import RUNNERS, open_sockets

        async def main():
            await asyncio.gather(*(call_websim(None, HELLO) for _ in range(5)))

        for name, run_main in RUNNERS.items():
            run_main(main())
            print(name, open_sockets())
    """
    assert run_program(program).splitlines() == [f"{name} 0" for name in RUNNER_NAMES]
    assert counting_server.counts() == {"connections": 25, "open": 0, "requests": 25}


def test_two_runs_of_one_loop_share_a_connection(run_program, counting_server):
    program = """
        import asyncio

        from tests.support.calls import HELLO, call_websim
        from tests.support.loops import open_sockets

        with asyncio.Runner() as runner:
            runner.run(call_websim(None, HELLO))
            runner.run(call_websim(None, HELLO))
        print(open_sockets())
    """
    assert run_program(program) == "0"
    assert counting_server.counts() == {"connections": 1, "open": 0, "requests": 2}


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
    assert run_program(program) == "0"
    assert counting_server.counts() == {"connections": 1, "open": 0, "requests": 2}


@pytest.mark.parametrize("scheme", ["https"])
def test_closes_connections_of_sync_client(run_program, counting_server):
    program = """
        from g4f.client import Client

        from g4f_websim import Websim
        from tests.support.calls import HELLO
        from tests.support.loops import open_sockets

        for _ in range(2):
            Client(provider=Websim).chat.completions.create(HELLO)
        print(open_sockets())
    """
    assert run_program(program) == "0"
    assert counting_server.counts() == {"connections": 2, "open": 0, "requests": 2}


@pytest.mark.parametrize("scheme", ["https"])
def test_closes_connections_with_loop_of_nest_asyncio(run_program, counting_server):
    program = """
        import asyncio

        import nest_asyncio2
        from g4f.client import Client

        from g4f_websim import Websim
        from tests.support.calls import HELLO, call_websim

        def reply():
            return Client(provider=Websim).chat.completions.create(HELLO).choices[0].message.content

        async def notebook_cell():
            await call_websim(None, HELLO)
            print(reply(), reply() == reply())
            await call_websim(None, HELLO)

        nest_asyncio2.apply()
        asyncio.run(notebook_cell())
    """
    assert run_program(program) == "Yes, at once. True"
    assert counting_server.counts()["open"] == 0


def test_generators_may_be_abandoned(run_program):
    program = """
        from g4f_websim import Websim
        from tests.support.calls import HELLO
        from tests.support.loops import RUNNERS, open_sockets

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
    assert run_program(program).splitlines() == [f"{name} 2 0" for name in RUNNER_NAMES]


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
    run_program(program)
    assert counting_server.counts() == {"connections": 1, "open": 0, "requests": 1}
