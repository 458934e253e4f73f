"""A forked process leaves the connections of its parent to the parent."""

import pytest


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_fork_leaves_connections_to_parent(run_program, counting_server):
    program = """
        import asyncio

        from tests.support.calls import HELLO, call_websim
        from tests.support.loops import FORKS, used_loop

        def work():
            asyncio.run(call_websim(None, HELLO))
            loop.close()

        for name, fork in FORKS.items():
            loop = used_loop()
            print(name, fork(work), flush=True)
            loop.run_until_complete(call_websim(None, HELLO))
            loop.close()
    """
    assert run_program(program) == "os.fork and os._exit 0\nos.fork and sys.exit 0\nmultiprocessing 0"
    assert counting_server.counts() == {"connections": 6, "open": 0, "requests": 9}


def test_fork_inside_running_loop_leaves_connections_to_parent(run_program, counting_server):
    program = """
        import asyncio
        import sys

        from tests.support.calls import HELLO, call_websim
        from tests.support.loops import FORKS

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
    exit_codes = run_program(program).split()
    assert set(exit_codes) == {"0"}
    forks = len(exit_codes)
    assert forks >= 2
    assert counting_server.counts() == {"connections": 2 * forks, "open": 0, "requests": 3 * forks}
