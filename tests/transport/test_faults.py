"""Faults of a server: each call ends in time with a text or a helpful error, and the next call succeeds."""

import asyncio
import gzip
import json
import random
import time
import zlib
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import brotli
import pytest
import trustme
from g4f.errors import NoMediaResponseError, ResponseError

from g4f_websim import Websim
from tests.support.calls import G4F_ERRORS, HELLO, PNG, call_websim
from tests.support.interpreter import run_python
from tests.support.limits import MAX_SECONDS
from tests.support.loopback import HOST
from tests.support.raw_server import OK_BODY, OK_RESPONSE, Endless, RawServer, Step, chunked, http_response, raw_server
from tests.support.tls import server_context

ADVICE = (
    "check the",
    "log in",
    "look for",
    "put the right user and password",
    "send fewer messages",
    "set WEBSIM_URL",
    "try again",
    "try from another network",
    "wait a while",
    "wait for new credits",
)

# The timeout of calls to a server that stalls.
STALL_TIMEOUT = 0.5

BODY = OK_BODY.encode()
MIB = 1024 * 1024
# The memory that a hostile response may use: the 32 MiB that are read, and the buffers of Python and aiohttp.
MAX_MEMORY_MIB = 320


def encoded(encoding: str, body: bytes) -> bytes:
    return http_response(body, headers=[("Content-Encoding", encoding)])


async def error_of(server: RawServer, script, model=None) -> Exception:
    """Return the error of a call whose attempts all get the response `script`; check that the next call succeeds."""
    server.respond = lambda request: script
    with pytest.raises(G4F_ERRORS) as raised:
        await asyncio.wait_for(call_websim(model, HELLO), MAX_SECONDS)
    assert server.requests
    assert server.host in str(raised.value)
    assert [advice for advice in ADVICE if advice in str(raised.value)] != [], str(raised.value)
    assert raised.value.reason
    server.respond = lambda request: [OK_RESPONSE]
    assert await call_websim(None, HELLO) == ["fine"]
    return raised.value


@pytest.mark.parametrize("status", [300, 304, 308, 401, 418, 429, 499, 500, 530, 599, 999])
async def test_reads_error_status_without_headers_and_body(server, status):
    error = await error_of(server, [f"HTTP/1.1 {status}\r\n\r\n".encode()])
    assert f"Response {status}" in str(error)
    assert error.status == status


@pytest.mark.parametrize("script", [[], [Step.RESET], [OK_RESPONSE[:30]], [OK_RESPONSE[:30], Step.RESET]])
async def test_retries_connection_that_broke_before_the_response(server, script):
    error = await error_of(server, script)
    assert isinstance(error, ResponseError)
    assert "the connection was closed" in str(error)
    assert len(server.requests) == Websim.max_attempts + 1


BROKE_OFF, TOO_LARGE = "the response broke off", "a response of more than 32 MiB"
# Each row: what the server sends, words of the error.
BROKEN_RESPONSES = {
    "reset": ([OK_RESPONSE[:-5], Step.RESET], BROKE_OFF),
    "closed": ([OK_RESPONSE[:-5]], BROKE_OFF),
    "content-length too long": ([http_response(BODY, length=len(BODY) + 1)], BROKE_OFF),
    "chunks without an end": ([chunked([BODY], end=b"")], BROKE_OFF),
    "not gzip": ([encoded("gzip", b"no gzip")], BROKE_OFF),
    "truncated gzip": ([encoded("gzip", gzip.compress(BODY)[:-12])], BROKE_OFF),
    "damaged gzip": ([encoded("gzip", gzip.compress(BODY)[:12] + b"\xff" * 9)], BROKE_OFF),
    "truncated brotli": ([encoded("br", brotli.compress(BODY)[:-5])], BROKE_OFF),
    "large content-length": ([http_response(BODY, length=33 * MIB), Step.STALL], TOO_LARGE),
    "absurd content-length": ([http_response(BODY, length=2**62), Step.STALL], TOO_LARGE),
    "no length": (Endless(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * MIB), TOO_LARGE),
    "endless chunks": (Endless(chunked([], end=b""), b"100000\r\n" + b"x" * MIB + b"\r\n"), TOO_LARGE),
}


@pytest.mark.parametrize(("script", "words"), BROKEN_RESPONSES.values(), ids=BROKEN_RESPONSES)
async def test_response_that_breaks_off_or_is_too_large_is_not_retried(server, script, words):
    error = await error_of(server, script)
    assert isinstance(error, ResponseError)
    assert (error.status, error.reason) == (200, "broken_response")
    assert words in str(error)
    assert len(server.requests) == 2


async def test_error_response_that_is_too_large_is_an_error(server):
    assert TOO_LARGE in str(await error_of(server, Endless(b"HTTP/1.1 500 Oh\r\n\r\n", b"x" * MIB)))


STALLS = {
    "before the headers": [],
    "in the headers": [OK_RESPONSE[:30]],
    "before the body": [OK_RESPONSE[: -len(BODY)]],
    "in the body": [OK_RESPONSE[:-5]],
    "before the last chunk": [chunked([BODY], end=b"")],
    "in the body of an error": [http_response(b"{", 500, length=9)],
    "in the body of a redirect": [http_response(b"<", 302, [("Location", "/")], length=9)],
    "after interim responses": [b"HTTP/1.1 100 Continue\r\n\r\n" * 9],
}


async def test_stalled_response_and_stalled_tls_handshake_are_timeouts(server, monkeypatch):
    server.play(*([*script, Step.STALL] for script in STALLS.values()))
    calls = [asyncio.create_task(call_websim(None, HELLO, timeout=STALL_TIMEOUT)) for _ in STALLS]
    await asyncio.wait(calls)
    assert len(server.requests) == len(STALLS)
    monkeypatch.setattr(Websim, "url", f"https://{server.host}")
    calls.append(asyncio.create_task(call_websim(None, HELLO, timeout=STALL_TIMEOUT)))
    await asyncio.wait(calls)
    for call in calls:
        assert isinstance(call.exception(), TimeoutError)
        assert str(call.exception()).startswith(f"No response from {server.host} within {STALL_TIMEOUT} s: try again")


MALFORMED_RESPONSES = {
    "another protocol": b"SSH-2.0-OpenSSH_9.9\r\n",
    "random bytes": random.Random(2).randbytes(5000),
    "no status": b"HTTP/1.1\r\n\r\n",
    "status line of 100 KB": b"HTTP/1.1 200 " + b"x" * 100_000 + b"\r\n\r\n",
    "header of 100 KB": b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
    "content-length in letters": b"HTTP/1.1 200 OK\r\nContent-Length: ten\r\n\r\n",
    "content-length of 30 digits": b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 30 + b"\r\n\r\n",
    "content-length too short": http_response(BODY, length=len(BODY) - 5),
    "chunk size that is not a number": chunked([BODY], end=b"many\r\n"),
    "negative chunk size": chunked([BODY], end=b"-5\r\nhello\r\n"),
    "chunk size too small": chunked([], end=b"3\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "truncated deflate": encoded("deflate", zlib.compress(BODY)[:-12]),
    "unsupported compression": encoded("zstd", b"\x28\xb5\x2f\xfd"),
}


@pytest.mark.parametrize("response", MALFORMED_RESPONSES.values(), ids=MALFORMED_RESPONSES)
async def test_response_that_is_not_http_is_an_error(server, response):
    error = await error_of(server, [response])
    assert isinstance(error, ResponseError)
    assert "url=" not in str(error)


COMPRESSED = {"gzip": gzip.compress(BODY), "deflate": zlib.compress(BODY), "br": brotli.compress(BODY)}

# Each row: headers, body of a successful response with no content; the tests of wire/response.py have more bodies.
NO_CONTENT = {
    "huge number": ([("Content-Type", "application/json")], b"9" * 5000),
    "event stream": ([("Content-Type", "text/event-stream")], b": hello\n\n"),
    "gzip without its header": ([], COMPRESSED["gzip"]),
    "deflate without its header": ([], COMPRESSED["deflate"]),
    "brotli in another charset": ([("Content-Type", "text/plain; charset=latin-1")], COMPRESSED["br"]),
    "PNG": ([("Content-Type", "image/png")], PNG),
}


@pytest.mark.parametrize(("headers", "body"), NO_CONTENT.values(), ids=NO_CONTENT)
async def test_successful_response_without_content_is_an_error(server, headers, body):
    for model, kind in (("", ResponseError), ("flux", NoMediaResponseError)):
        error = await error_of(server, [http_response(body, headers=headers)], model)
        assert isinstance(error, kind)
        assert error.status == 200


# Each row: name and value of a header, body, text.
READ_RESPONSES = {
    **{name: ("Content-Encoding", name, body, "fine") for name, body in COMPRESSED.items()},
    **{
        kind: ("Content-Type", kind, b'{"content": "caf\xc3\xa9 \xff"}', "café \ufffd")
        for kind in (
            "",
            "text/html",
            "nonsense",
            "text/event-stream",
            "application/json; charset=latin-1",
            'a; charset="',
        )
    },
    "plain text": ("Content-Type", "text/plain; charset=windows-1251", "Привет".encode("cp1251"), "Привет"),
}


@pytest.mark.parametrize(("name", "value", "body", "text"), READ_RESPONSES.values(), ids=READ_RESPONSES)
async def test_reads_response_whatever_its_headers_say(server, name, value, body, text):
    server.respond = lambda request: [http_response(body, headers=[(name, value)])]
    assert await call_websim(None, HELLO) == [text]


@pytest.mark.parametrize(
    ("status", "text"), [(200, "[[],[]," * 4_000_000), (200, "credits " * 4_000_000), (500, "<" * 30_000_000)]
)
async def test_hostile_body_does_not_block_the_event_loop(server, monkeypatch, text, status):
    monkeypatch.setattr(Websim, "max_attempts", 1)
    response = http_response(gzip.compress(text.encode(), 1), status, [("Content-Encoding", "gzip")])
    started = time.process_time()
    if text.startswith("credits"):
        server.respond = lambda request: [response]
        assert await call_websim(None, HELLO) == [text.strip()]
    else:
        await error_of(server, [response])
    assert time.process_time() - started < 3


async def test_error_does_not_contain_control_characters(server):
    location = b"HTTP/1.1 302 Found\r\nLocation: https://\xff\xfe\x1b[2J/\r\nContent-Length: 0\r\n\r\n"
    for response in (location, http_response(b'{"\\u001b[2J\\u0000": 1}')):
        assert str(await error_of(server, [response])).isprintable()


async def test_unknown_host_name_is_an_error(server, no_host_names, monkeypatch):
    monkeypatch.setattr(Websim, "url", "https://websim.invalid")
    message = r"No response from websim.invalid: no connection \(.*unknown host.*: check the network"
    with pytest.raises(ResponseError, match=message):
        await call_websim(None, HELLO)


# A process of its own, because aiohttp reads the trusted authorities when it is imported.
PRINT_RESPONSES_AND_ERRORS = """
import asyncio, sys
from g4f_websim import Websim
from tests.support.calls import HELLO, call_websim

Websim.backoff = 0.001
for Websim.url in sys.argv[1:]:
    try:
        print(*asyncio.run(call_websim(None, HELLO)))
    except Exception as error:
        print(f"{type(error).__name__}: {error}")
"""

TRUSTED = trustme.CA()
LONG_AGO, DAY = datetime(2020, 1, 1, tzinfo=UTC), timedelta(days=1)


async def test_accepts_valid_certificate_and_rejects_others(tmp_path):
    TRUSTED.cert_pem.write_to_path(tmp_path / "trusted.pem")
    contexts = {
        "": server_context(TRUSTED, HOST),
        "unable to get local issuer certificate": server_context(trustme.CA(), HOST),
        "certificate has expired": server_context(TRUSTED, HOST, not_before=LONG_AGO, not_after=LONG_AGO + DAY),
        "IP address mismatch": server_context(TRUSTED, "other.example"),
    }
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(raw_server(tls=context)) for context in contexts.values()]
        arguments = ("-c", PRINT_RESPONSES_AND_ERRORS, *(server.url for server in servers))
        printed, _ = await asyncio.to_thread(run_python, *arguments, SSL_CERT_FILE=str(tmp_path / "trusted.pem"))
    response, *errors = printed.splitlines()
    assert response == "fine"
    for error, server, reason in zip(errors, servers[1:], list(contexts)[1:], strict=True):
        start = f"ResponseError: No response from {server.host}: no connection: the certificate is not valid ("
        assert error.startswith(start)
        assert reason in error
        assert "check the clock and WEBSIM_URL; if Python has no certificates, set SSL_CERT_FILE" in error
        assert error.endswith("run macOS's Install Certificates.command")
        assert not server.requests


MEASURE_PEAK_MEMORY = """
import asyncio, json, re, sys
from pathlib import Path
from tests.support.calls import HELLO, call_websim

def peak_mib():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) // 1024

async def main():
    await call_websim("", HELLO)
    before, errors = peak_mib(), []
    for _ in range(int(sys.argv[1])):
        try:
            await call_websim("", HELLO)
        except Exception as error:
            errors.append(f"{type(error).__name__}: {error}")
    print(json.dumps([errors, peak_mib() - before]))

asyncio.run(main())
"""


LONG_HEADER = b"X-Header: " + b"x" * 1000 + b"\r\n"


def compression_bomb(encoding: str) -> bytes:
    """Return a response of a few megabytes that decompresses to 4 GiB."""
    if encoding == "br":
        compressor = brotli.Compressor()
        start, piece = (compressor.process(bytes(MIB)) + compressor.flush() for _ in range(2))
    else:
        deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        piece = deflate.compress(bytes(MIB)) + deflate.flush(zlib.Z_FULL_FLUSH)
        start = {"gzip": b"\x1f\x8b\x08" + bytes(7), "deflate": b"\x78\x9c"}[encoding]
    return encoded(encoding, start + piece * (4 * 1024))


MEMORY_TRAPS = {
    **{f"{encoding} bomb": [compression_bomb(encoding)] for encoding in COMPRESSED},
    "endless headers": Endless(b"HTTP/1.1 200 OK\r\n", LONG_HEADER),
    "endless trailers": Endless(chunked([BODY], end=b"0\r\n"), LONG_HEADER),
}


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak memory is read from /proc")
async def test_hostile_responses_do_not_fill_the_memory(server):
    scripts = [script for script in MEMORY_TRAPS.values() for _ in range(3)]
    server.play([OK_RESPONSE], *scripts)
    program = ("-c", MEASURE_PEAK_MEMORY, str(len(scripts)))
    printed, _ = await asyncio.to_thread(run_python, *program, WEBSIM_URL=server.url)
    errors, grown_mib = json.loads(printed)
    assert [error.split(":")[0] for error in errors] == ["ResponseError"] * len(scripts)
    assert [error for error in errors if server.host not in error] == []
    assert grown_mib < MAX_MEMORY_MIB
