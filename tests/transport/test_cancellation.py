"""A cancelled call closes its connection."""


def test_cancelled_request_closes_its_connection(run_program):
    program = """
        import asyncio

        from tests.support.calls import HELLO, call_websim
        from tests.support.loops import SilentServer, serve

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
    assert run_program(program, dev=True) == "gemini-2.5-pro True\nflux True"


def test_cancellation_ends_delay_between_attempts(run_program):
    program = """
        import asyncio

        import g4f.debug

        from tests.support.calls import HELLO, call_websim
        from tests.support.loops import serve

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
    assert run_program(program, dev=True) == "gemini-2.5-pro True\nflux True"


def test_many_cancelled_calls_leave_no_socket_open(run_program):
    program = """
        import asyncio

        from tests.support.calls import HELLO, call_websim
        from tests.support.loops import SilentServer, open_sockets, serve

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
    assert run_program(program, dev=True) == "0"
