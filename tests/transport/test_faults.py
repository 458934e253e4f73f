"""Faults of a server: each call ends in time with a text or a helpful error, and the next call succeeds."""

import asyncio
import gzip
import json
import random
import time
import zlib
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path

import brotli
import pytest
import trustme
from g4f.errors import MissingAuthError, NoMediaResponseError, RateLimitError, ResponseError, ResponseStatusError

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

# The timeout of a call to a server that stalls.
STALL_TIMEOUT = 0.5
MAX_ATTEMPTS = 3

MIB = 1024 * 1024
# The memory that a hostile response may use: the 32 MiB that are read, and the buffers of Python and aiohttp.
MAX_MEMORY_MIB = 320

STATUSES = sorted(
    {status.value for status in HTTPStatus if status >= 300}
    | {419, 420, 430, 440, 444, 449, 450, 460, 463, 494, 495, 496, 497, 498, 499}
    | {509, 520, 521, 522, 523, 524, 525, 526, 527, 529, 530, 561, 598, 599}
)
STATUSES_OF_IMAGES = (300, 401, 404, 429, 500)
OTHER_CLASSES = {401: MissingAuthError, 429: RateLimitError}


def encoded(encoding: str, body: bytes) -> bytes:
    return http_response(body, headers=[("Content-Encoding", encoding)])


async def error_of(server: RawServer, script, model=None, **arguments) -> Exception:
    """Return the error of a call whose attempts all get the response `script`; check that the next call succeeds."""
    server.respond = lambda request: script
    with pytest.raises(G4F_ERRORS) as raised:
        await asyncio.wait_for(call_websim(model, HELLO, **arguments), MAX_SECONDS)
    assert server.requests
    assert server.host in str(raised.value)
    assert [advice for advice in ADVICE if advice in str(raised.value)] != [], str(raised.value)
    assert raised.value.reason
    server.respond = lambda request: [OK_RESPONSE]
    assert await call_websim(None, HELLO) == ["fine"]
    return raised.value


async def text_of(server: RawServer, *script) -> str:
    """Return the text of a call that gets the response `script`."""
    server.respond = lambda request: script
    (text,) = await asyncio.wait_for(call_websim(None, HELLO), MAX_SECONDS)
    return text


@pytest.mark.parametrize(
    ("status", "model"), [(status, "") for status in STATUSES] + [(status, "flux") for status in STATUSES_OF_IMAGES]
)
async def test_error_status_selects_class(server, status, model):
    body = b"" if status == HTTPStatus.NOT_MODIFIED else b'{"error": "no"}'
    error = await error_of(server, [http_response(body, status)], model)
    assert isinstance(error, OTHER_CLASSES.get(status, ResponseStatusError))
    assert f"Response {status}" in str(error)
    assert error.status == status


@pytest.mark.parametrize("status", STATUSES)
async def test_reads_error_status_without_headers_and_body(server, status):
    error = await error_of(server, [f"HTTP/1.1 {status}\r\n\r\n".encode()])
    assert f"Response {status}" in str(error)


BROKEN_BEFORE_RESPONSE = {
    "closed": [],
    "reset": [Step.RESET],
    "closed in the headers": [OK_RESPONSE[:30]],
    "reset in the headers": [OK_RESPONSE[:30], Step.RESET],
}


@pytest.mark.parametrize("script", BROKEN_BEFORE_RESPONSE.values(), ids=BROKEN_BEFORE_RESPONSE)
async def test_retries_connection_that_broke_before_the_response(server, script):
    error = await error_of(server, script)
    assert isinstance(error, ResponseError)
    assert "the connection was closed" in str(error)
    assert len(server.requests) == MAX_ATTEMPTS + 1


BROKEN_RESPONSES = {
    "reset": [OK_RESPONSE[:-5], Step.RESET],
    "closed": [OK_RESPONSE[:-5]],
    "content-length too long": [http_response(OK_BODY.encode(), length=len(OK_BODY) + 1)],
    "chunks without an end": [chunked([OK_BODY.encode()], end=b"")],
}


@pytest.mark.parametrize("script", BROKEN_RESPONSES.values(), ids=BROKEN_RESPONSES)
async def test_does_not_retry_response_that_broke_off(server, script):
    error = await error_of(server, script)
    assert isinstance(error, ResponseError)
    assert "the response broke off" in str(error)
    assert (error.status, error.reason) == (200, "broken_response")
    assert len(server.requests) == 2


DAMAGED_RESPONSES = {
    "content-length too short": http_response(OK_BODY.encode(), length=len(OK_BODY) - 5),
    "chunk size that is not a number": chunked([OK_BODY.encode()], end=b"many\r\n"),
    "negative chunk size": chunked([OK_BODY.encode()], end=b"-5\r\nhello\r\n"),
    "chunk size too small": chunked([], end=b"3\r\n" + OK_BODY.encode() + b"\r\n0\r\n\r\n"),
    "not gzip": encoded("gzip", b"no gzip"),
    "truncated gzip": encoded("gzip", gzip.compress(OK_BODY.encode())[:-12]),
    "damaged gzip": encoded("gzip", gzip.compress(OK_BODY.encode())[:12] + b"\xff" * 9),
    "not deflate": encoded("deflate", b"x no deflate"),
    "truncated deflate": encoded("deflate", zlib.compress(OK_BODY.encode())[:-12]),
    "not brotli": encoded("br", b"\xff" * 40),
    "truncated brotli": encoded("br", brotli.compress(OK_BODY.encode())[:-5]),
    "unsupported compression": encoded("zstd", b"\x28\xb5\x2f\xfd"),
}


@pytest.mark.parametrize("response", DAMAGED_RESPONSES.values(), ids=DAMAGED_RESPONSES)
async def test_damaged_response_is_an_error(server, response):
    assert isinstance(await error_of(server, [response]), ResponseError)


TOO_LARGE = {
    "content-length": [http_response(OK_BODY.encode(), length=33 * MIB), Step.STALL],
    "absurd content-length": [http_response(OK_BODY.encode(), length=2**62), Step.STALL],
    "no length": Endless(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * MIB),
    "chunks": Endless(chunked([], end=b""), b"100000\r\n" + b"x" * MIB + b"\r\n"),
    "error status": Endless(b"HTTP/1.1 500 Oh\r\n\r\n", b"x" * MIB),
}


@pytest.mark.parametrize("script", TOO_LARGE.values(), ids=TOO_LARGE)
async def test_stops_reading_after_32_mib(server, script):
    error = await error_of(server, script)
    assert isinstance(error, ResponseError)
    assert "a response of more than 32 MiB" in str(error)


STALLS = {
    "before the headers": [Step.STALL],
    "in the headers": [OK_RESPONSE[:30], Step.STALL],
    "before the body": [OK_RESPONSE[: -len(OK_BODY)], Step.STALL],
    "in the body": [OK_RESPONSE[:-5], Step.STALL],
    "before the last chunk": [chunked([OK_BODY.encode()], end=b""), Step.STALL],
    "in the body of an error": [http_response(b"{", 500, length=9), Step.STALL],
    "in the body of a redirect": [http_response(b"<", 302, [("Location", "/")], length=9), Step.STALL],
    "after interim responses": [b"HTTP/1.1 100 Continue\r\n\r\n" * 9, Step.STALL],
}


@pytest.mark.parametrize("script", STALLS.values(), ids=STALLS)
async def test_stalled_response_is_a_timeout(server, script):
    error = await error_of(server, script, timeout=STALL_TIMEOUT)
    assert isinstance(error, TimeoutError)
    assert f" within {STALL_TIMEOUT} s" in str(error)
    assert len(server.requests) == 2


MALFORMED_RESPONSES = {
    "another protocol": b"SSH-2.0-OpenSSH_9.9\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS alert": b"\x15\x03\x01\x00\x02\x02\x0a",
    "random bytes": random.Random(2).randbytes(5000),
    "no status": b"HTTP/1.1\r\n\r\n",
    "status in letters": b"HTTP/1.1 fine OK\r\n\r\n",
    "status of five digits": b"HTTP/1.1 20000 OK\r\n\r\n",
    "malformed version": b"HTTP/one 200 OK\r\n\r\n",
    "status line of 100 KB": b"HTTP/1.1 200 " + b"x" * 100_000 + b"\r\n\r\n",
    "header of 100 KB": b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
    "header without a name": b"HTTP/1.1 200 OK\r\n: x\r\n\r\n",
    "header with NUL": b"HTTP/1.1 200 OK\r\nX: a\0b\r\n\r\n",
    "content-length in letters": b"HTTP/1.1 200 OK\r\nContent-Length: ten\r\n\r\n",
    "negative content-length": b"HTTP/1.1 200 OK\r\nContent-Length: -10\r\n\r\n",
    "content-length of 30 digits": b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 30 + b"\r\n\r\n",
    "two content-lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
}


@pytest.mark.parametrize("response", MALFORMED_RESPONSES.values(), ids=MALFORMED_RESPONSES)
async def test_response_that_is_not_http_is_an_error(server, response):
    error = await error_of(server, [response])
    assert isinstance(error, ResponseError)
    assert "url=" not in str(error)


def chat_body(content: object) -> bytes:
    return json.dumps({"content": content}).encode()


# Each row: body, text.
UNUSUAL_JSON = {
    "duplicate keys": (b'{"content": "first", "content": "last"}', "last"),
    "integer of 5000 digits": (b'{"n": ' + b"9" * 5000 + b', "content": "fine"}', "fine"),
    "float out of range": (b'{"n": 1e999999, "content": "fine"}', "fine"),
    "NaN": (b'{"n": NaN, "content": "fine"}', "fine"),
    "lone high surrogate": (b'{"content": "a\\ud800b"}', "a\ufffdb"),
    "lone low surrogate": (b'{"content": "a\\udc00b"}', "a\ufffdb"),
    "surrogate pair": (b'{"content": "\\ud83d\\ude00"}', "\U0001f600"),
    "NUL": (b'{"content": "a\\u0000b"}', "a\0b"),
    "byte order mark": (b"\xef\xbb\xbf" + chat_body("fine"), "fine"),
    "UTF-16": ('{"content": "é"}'.encode("utf-16"), "é"),
    "UTF-16 without a byte order mark": ('{"content": "é"}'.encode("utf-16-le"), "é"),
    "UTF-32": ('{"content": "é"}'.encode("utf-32"), "é"),
    "nested deeply": (b'{"content": "fine", "deep": ' + b"[" * 500 + b"]" * 500 + b"}", "fine"),
    "surrounding blanks": (b' \r\n\t{"content": " fine "} \n', "fine"),
    "other fields": (b'{"role": "assistant", "content": "fine", "usage": null, "x": [1]}', "fine"),
}


@pytest.mark.parametrize(("body", "text"), UNUSUAL_JSON.values(), ids=UNUSUAL_JSON)
async def test_reads_unusual_json(server, body, text):
    assert await text_of(server, http_response(body)) == text


JSON_WITHOUT_CONTENT = {
    "empty": b"",
    "blanks": b" \r\n\t ",
    "null": b"null",
    "number": b"-0",
    "huge number": b"9" * 5000,
    "string": b'"content"',
    "list": b"[]",
    "empty object": b"{}",
    "object of another API": b'{"choices": [{"message": {"content": "no"}}]}',
    "content null": chat_body(None),
    "content empty": chat_body(""),
    "content blank": chat_body(" \n "),
    "content a number": chat_body(5),
    "content a list": chat_body(["text"]),
    "content an object": chat_body({"text": "no"}),
    "key in capitals": b'{"Content": "no"}',
    "nested too deeply": b"[" * 200_000,
    "objects nested too deeply": b'{"content":' * 200_000,
}


@pytest.mark.parametrize("model", ["", "flux"])
@pytest.mark.parametrize("body", JSON_WITHOUT_CONTENT.values(), ids=JSON_WITHOUT_CONTENT)
async def test_json_without_content_is_an_error(server, body, model):
    error = await error_of(server, [http_response(body)], model)
    assert isinstance(error, NoMediaResponseError if model else ResponseError)
    assert error.status == 200


@pytest.mark.parametrize("url", [5, "file:///cat.png", "//[::1"], ids=["number", "other scheme", "malformed"])
async def test_invalid_image_url_is_an_error(server, url):
    error = await error_of(server, [http_response(json.dumps({"url": url}).encode())], "flux")
    assert isinstance(error, NoMediaResponseError)


@pytest.mark.parametrize("charset", ["latin-1", "utf-16", "utf-7", "no-such-charset", "", '"', "rot13", "idna"])
async def test_ignores_charset_in_content_type(server, charset):
    headers = [("Content-Type", f"application/json; charset={charset}")]
    assert await text_of(server, http_response('{"content": "é"}'.encode(), headers=headers)) == "é"


COMPRESSED_BODIES = {
    "gzip": gzip.compress(OK_BODY.encode()),
    "deflate": zlib.compress(OK_BODY.encode()),
    "br": brotli.compress(OK_BODY.encode()),
}

# Each row: headers, body of a successful response that is not an answer.
NO_ANSWERS = {
    "event stream": ([("Content-Type", "text/event-stream")], b": hello\n\n"),
    "events as JSON": ([("Content-Type", "application/json")], b'data: {"content": "Hi"}\n\n'),
    "gzip without its header": ([], COMPRESSED_BODIES["gzip"]),
    "deflate without its header": ([], COMPRESSED_BODIES["deflate"]),
    "brotli in another charset": ([("Content-Type", "text/plain; charset=latin-1")], COMPRESSED_BODIES["br"]),
    "PNG": ([("Content-Type", "image/png")], PNG),
    "control characters": ([], b"Hi \x1b[2J"),
    "page": ([("Content-Type", "text/plain")], b"<!-- a --><p>Log in"),
    "text in another charset": ([("Content-Type", "text/plain; charset=utf-8")], "Привет".encode("cp1251")),
}


@pytest.mark.parametrize("model", ["", "flux"])
@pytest.mark.parametrize(("headers", "body"), NO_ANSWERS.values(), ids=NO_ANSWERS)
async def test_success_that_is_not_an_answer_is_an_error(server, headers, body, model):
    error = await error_of(server, [http_response(body, headers=headers)], model)
    assert isinstance(error, NoMediaResponseError if model else ResponseError)
    assert error.status == 200


async def test_reads_plain_text_in_its_own_charset(server):
    headers = [("Content-Type", "text/plain; charset=windows-1251")]
    assert await text_of(server, http_response("Привет".encode("cp1251"), headers=headers)) == "Привет"


async def test_reads_json_that_is_called_an_event_stream(server):
    headers = [("Content-Type", "text/event-stream")]
    assert await text_of(server, http_response(OK_BODY.encode(), headers=headers)) == "fine"


@pytest.mark.parametrize("text", ["[[],[]," * 4_000_000, "credits " * 4_000_000, "<" * 30_000_000])
@pytest.mark.parametrize("status", [200, 500])
async def test_hostile_body_does_not_block_the_event_loop(server, monkeypatch, text, status):
    monkeypatch.setattr(Websim, "max_attempts", 1)
    started = time.process_time()
    if status == 200 and text[0] != "[":
        assert await text_of(server, encoded("gzip", gzip.compress(text.encode(), 1))) == text.strip()
    else:
        script = http_response(gzip.compress(text.encode(), 1), status, [("Content-Encoding", "gzip")])
        await error_of(server, [script])
    assert time.process_time() - started < 3


async def test_replaces_invalid_utf_8(server):
    assert await text_of(server, http_response(b'{"content": "caf\xe9 \xff"}')) == "caf\ufffd \ufffd"


@pytest.mark.parametrize("kind", ["", "text/html", "image/png", "nonsense", "application/json;" * 9])
async def test_ignores_content_type(server, kind):
    assert await text_of(server, http_response(OK_BODY.encode(), headers=[("Content-Type", kind)])) == "fine"


@pytest.mark.parametrize(("encoding", "body"), COMPRESSED_BODIES.items(), ids=COMPRESSED_BODIES)
async def test_decompresses_response(server, encoding, body):
    assert await text_of(server, encoded(encoding, body)) == "fine"


async def test_redirect_without_location_is_an_error(server):
    error = await error_of(server, [http_response(status=302)])
    assert f"Response 302 from {server.host}: a redirect to http://{server.host}/" in str(error)


UNPRINTABLE_RESPONSES = {
    "location": b"HTTP/1.1 302 Found\r\nLocation: https://\xff\xfe\x1b[2J/\r\nContent-Length: 0\r\n\r\n",
    "body": http_response(b"\x1b]0;gone\x07\x1b[2J \xc2\x9b31m \x00 no", 400),
    "title": http_response(b"<html><title>\x1b[2J\x00no</title>"),
    "name of a field": http_response(b'{"\\u001b[2J\\u0000": 1}'),
}


@pytest.mark.parametrize("response", UNPRINTABLE_RESPONSES.values(), ids=UNPRINTABLE_RESPONSES)
async def test_error_does_not_contain_control_characters(server, response):
    assert str(await error_of(server, [response])).isprintable()


async def test_unknown_host_name_is_an_error(server, no_host_names, monkeypatch):
    monkeypatch.setattr(Websim, "url", "https://websim.invalid")
    message = r"No response from websim.invalid: no connection \(.*unknown host.*: check the network"
    with pytest.raises(ResponseError, match=message):
        await call_websim(None, HELLO)


async def test_stalled_tls_handshake_is_a_timeout(server, monkeypatch):
    monkeypatch.setattr(Websim, "url", f"https://{server.host}")
    with pytest.raises(TimeoutError, match=f"No response from {server.host} within {STALL_TIMEOUT} s: "):
        await call_websim(None, HELLO, timeout=STALL_TIMEOUT)


# A process of its own, because aiohttp reads the trusted authorities when it is imported.
PRINT_RESPONSE_OR_ERROR = """
import asyncio
from g4f_websim import Websim
from tests.support.calls import HELLO, call_websim

Websim.backoff = 0.001
try:
    print(*asyncio.run(call_websim(None, HELLO)))
except Exception as error:
    print(f"{type(error).__name__}: {error}")
"""

TRUSTED, UNTRUSTED = trustme.CA(), trustme.CA()
LONG_AGO, DAY = datetime(2020, 1, 1, tzinfo=UTC), timedelta(days=1)


async def response_or_error(server: RawServer, folder: Path) -> str:
    """Call a TLS server in a process that trusts one authority, and return the response or the error."""
    authority_file = folder / "trusted.pem"
    TRUSTED.cert_pem.write_to_path(authority_file)
    variables = {"WEBSIM_URL": server.url, "SSL_CERT_FILE": str(authority_file)}
    printed, _ = await asyncio.to_thread(run_python, "-c", PRINT_RESPONSE_OR_ERROR, **variables)
    return printed.strip()


async def test_accepts_valid_certificate(tmp_path):
    async with raw_server(tls=server_context(TRUSTED, HOST)) as server:
        assert await response_or_error(server, tmp_path) == "fine"


@pytest.mark.parametrize(
    ("context", "reason"),
    [
        (server_context(UNTRUSTED, HOST), "unable to get local issuer certificate"),
        (server_context(TRUSTED, HOST, not_before=LONG_AGO, not_after=LONG_AGO + DAY), "certificate has expired"),
        (server_context(TRUSTED, "other.example"), "IP address mismatch"),
    ],
    ids=["untrusted", "expired", "other name"],
)
async def test_rejects_invalid_certificate(tmp_path, context, reason):
    async with raw_server(tls=context) as server:
        error = await response_or_error(server, tmp_path)
    start = f"ResponseError: No response from {server.host}: no connection: the certificate is not valid ("
    assert error.startswith(start)
    assert "check the clock and WEBSIM_URL; if Python has no certificates, set SSL_CERT_FILE" in error
    assert error.endswith("run macOS's Install Certificates.command")
    assert reason in error
    assert not server.requests


MEASURE_PEAK_MEMORY = """
import asyncio, json, re, sys
from pathlib import Path
from g4f_websim import Websim

def peak_mib():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) // 1024

async def main():
    errors = []
    Websim.url = sys.argv[1]
    async def call():
        messages = [{"role": "user", "content": "Hello"}]
        return [chunk async for chunk in Websim.create_async_generator("", messages, timeout=10)]
    await call()
    before = peak_mib()
    for _ in range(int(sys.argv[2])):
        try:
            await call()
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
    **{f"{encoding} bomb": [compression_bomb(encoding)] for encoding in COMPRESSED_BODIES},
    "endless headers": Endless(b"HTTP/1.1 200 OK\r\n", LONG_HEADER),
    "endless trailers": Endless(chunked([OK_BODY.encode()], end=b"0\r\n"), LONG_HEADER),
}


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak memory is read from /proc")
@pytest.mark.parametrize("script", MEMORY_TRAPS.values(), ids=MEMORY_TRAPS)
async def test_hostile_response_does_not_fill_the_memory(server, script):
    calls = 3
    server.play([OK_RESPONSE], *[script] * calls)
    printed, _ = await asyncio.to_thread(run_python, "-c", MEASURE_PEAK_MEMORY, server.url, str(calls))
    errors, grown_mib = json.loads(printed)
    assert [error.split(":")[0] for error in errors] == ["ResponseError"] * calls
    assert [error for error in errors if server.host not in error] == []
    assert grown_mib < MAX_MEMORY_MIB
