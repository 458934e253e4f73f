"""Whatever a server does to a call, it ends in time with an answer or an error that helps, and the next call works."""

import asyncio
import email.utils
import gzip
import json
import math
import os
import random
import socket
import sys
import zlib
from datetime import datetime, timedelta, timezone
from http import HTTPStatus
from pathlib import Path

import brotli
import g4f.errors
import pytest
import trustme
from g4f.errors import MissingAuthError, NoMediaResponseError, RateLimitError, ResponseError, ResponseStatusError

from g4f_websim import Websim
from g4f_websim.transport import JITTER
from tests.support.calls import HELLO, ask
from tests.support.raw_server import FINE, FINE_ANSWER, HOST, Endless, RawServer, Step, chunked, http, raw_server
from tests.support.tls import server_context

G4F_ERRORS = tuple(error for error in vars(g4f.errors).values() if isinstance(error, type))
WHAT_TO_DO = ("look at", "try again", "wait a while", "log in", "set WEBSIM_URL", "send less")

# No call here may take longer, and one that is stalled gets this long.
SECONDS_A_CALL = 20
SECONDS_STALLED = 0.2
MAX_TRIES = 3

DEFAULT_BACKOFF = Websim.backoff

MIB = 1024 * 1024
# What an answer may cost in memory: the 32 MiB that are read, and what Python and aiohttp hold besides.
TRAP_MEMORY_MIB = 320

MEANINGFUL_STATUSES = sorted(
    {status.value for status in HTTPStatus if status >= 300}
    | {419, 420, 430, 440, 444, 449, 450, 460, 463, 494, 495, 496, 497, 498, 499}
    | {509, 520, 521, 522, 523, 524, 525, 526, 527, 529, 530, 561, 598, 599}
)
G4F_CHOOSES = {401: MissingAuthError, 429: RateLimitError}


def encoded(encoding: str, body: bytes) -> bytes:
    return http(body, headers=[("Content-Encoding", encoding)])


async def error_of(server: RawServer, script, model=None, **arguments) -> Exception:
    """Return what a call fails with when each of its tries meets `script`, after a look at the next call."""
    server.respond = lambda request: script
    with pytest.raises(G4F_ERRORS) as raised:
        await asyncio.wait_for(ask(model, HELLO, **arguments), SECONDS_A_CALL)
    assert server.host in str(raised.value)
    assert any(advice in str(raised.value) for advice in WHAT_TO_DO)
    server.respond = lambda request: [FINE_ANSWER]
    assert await ask(None, HELLO) == ["fine"]
    return raised.value


async def answer_to(server: RawServer, *script) -> str:
    server.respond = lambda request: script
    (answer,) = await asyncio.wait_for(ask(None, HELLO), SECONDS_A_CALL)
    return answer


@pytest.mark.parametrize("model", ["", "flux"])
@pytest.mark.parametrize("status", MEANINGFUL_STATUSES)
async def test_a_status_that_is_no_success_is_an_error_of_its_kind(server, status, model):
    body = b"" if status == HTTPStatus.NOT_MODIFIED else b'{"error": "no"}'
    error = await error_of(server, [http(body, status)], model)
    assert isinstance(error, G4F_CHOOSES.get(status, ResponseStatusError))
    assert f"Response {status}" in str(error)


@pytest.mark.parametrize("status", MEANINGFUL_STATUSES)
async def test_a_status_with_nothing_else_is_an_error_too(server, status):
    error = await error_of(server, [f"HTTP/1.1 {status}\r\n\r\n".encode()])
    assert f"Response {status}" in str(error)


CUT_BEFORE_THE_ANSWER = {
    "closed": [],
    "reset": [Step.RESET],
    "closed in the headers": [FINE_ANSWER[:30]],
    "reset in the headers": [FINE_ANSWER[:30], Step.RESET],
}


@pytest.mark.parametrize("model", ["", "flux"])
@pytest.mark.parametrize("script", CUT_BEFORE_THE_ANSWER.values(), ids=CUT_BEFORE_THE_ANSWER)
async def test_a_connection_cut_before_the_answer_is_tried_again(server, script, model):
    error = await error_of(server, script, model)
    assert isinstance(error, ResponseError)
    assert "no connection" in str(error)
    assert len(server.requests) == MAX_TRIES + 1


BROKEN_ANSWERS = {
    "reset": [FINE_ANSWER[:-5], Step.RESET],
    "closed": [FINE_ANSWER[:-5]],
    "content-length too long": [http(FINE.encode(), length=len(FINE) + 1)],
    "chunks without an end": [chunked([FINE.encode()], end=b"")],
}


@pytest.mark.parametrize("model", ["", "flux"])
@pytest.mark.parametrize("script", BROKEN_ANSWERS.values(), ids=BROKEN_ANSWERS)
async def test_an_answer_that_breaks_off_is_an_error_and_not_tried_again(server, script, model):
    error = await error_of(server, script, model)
    assert isinstance(error, ResponseError)
    assert "the answer broke off" in str(error)
    assert len(server.requests) == 2


DAMAGED_ANSWERS = {
    "content-length too short": http(FINE.encode(), length=len(FINE) - 5),
    "chunks of no size": chunked([FINE.encode()], end=b"many\r\n"),
    "chunks of less than none": chunked([FINE.encode()], end=b"-5\r\nhello\r\n"),
    "a chunk longer than it says": chunked([], end=b"3\r\n" + FINE.encode() + b"\r\n0\r\n\r\n"),
    "gzip that is none": encoded("gzip", b"no gzip"),
    "gzip that is cut": encoded("gzip", gzip.compress(FINE.encode())[:-12]),
    "gzip that is damaged": encoded("gzip", gzip.compress(FINE.encode())[:12] + b"\xff" * 9),
    "deflate that is none": encoded("deflate", b"x no deflate"),
    "deflate that is cut": encoded("deflate", zlib.compress(FINE.encode())[:-12]),
    "brotli that is none": encoded("br", b"\xff" * 40),
    "brotli that is cut": encoded("br", brotli.compress(FINE.encode())[:-5]),
    "a compression that was not asked for": encoded("zstd", b"\x28\xb5\x2f\xfd"),
}


@pytest.mark.parametrize("piece", DAMAGED_ANSWERS.values(), ids=DAMAGED_ANSWERS)
async def test_a_damaged_answer_is_an_error(server, piece):
    assert isinstance(await error_of(server, [piece]), ResponseError)


TOO_MUCH = {
    "as its content-length says": [http(FINE.encode(), length=33 * MIB), Step.STALL],
    "as its absurd content-length says": [http(FINE.encode(), length=2**62), Step.STALL],
    "without a length": Endless(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * MIB),
    "in chunks": Endless(chunked([], end=b""), b"100000\r\n" + b"x" * MIB + b"\r\n"),
    "with a status": Endless(b"HTTP/1.1 500 Oh\r\n\r\n", b"x" * MIB),
}


@pytest.mark.parametrize("script", TOO_MUCH.values(), ids=TOO_MUCH)
async def test_more_than_32_mib_is_an_error_and_is_read_no_further(server, script):
    error = await error_of(server, script)
    assert isinstance(error, ResponseError)
    assert "more than 32 MiB" in str(error)


STALLED = {
    "before the headers": [Step.STALL],
    "in the headers": [FINE_ANSWER[:30], Step.STALL],
    "before the body": [FINE_ANSWER[: -len(FINE)], Step.STALL],
    "in the body": [FINE_ANSWER[:-5], Step.STALL],
    "before the end of chunks": [chunked([FINE.encode()], end=b""), Step.STALL],
    "in an error's body": [http(b"{", 500, length=9), Step.STALL],
    "in a redirect's body": [http(b"<", 302, [("Location", "/")], length=9), Step.STALL],
    "after interim answers": [b"HTTP/1.1 100 Continue\r\n\r\n" * 9, Step.STALL],
}


@pytest.mark.parametrize("model", ["", "flux"])
@pytest.mark.parametrize("script", STALLED.values(), ids=STALLED)
async def test_a_server_that_stalls_is_a_timeout_with_its_figure(server, script, model):
    error = await error_of(server, script, model, timeout=SECONDS_STALLED)
    assert isinstance(error, TimeoutError)
    assert f"no answer within {SECONDS_STALLED} s" in str(error)


MALFORMED = {
    "another protocol": b"SSH-2.0-OpenSSH_9.9\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a TLS alert": b"\x15\x03\x01\x00\x02\x02\x0a",
    "noise": random.Random(2).randbytes(5000),
    "no status": b"HTTP/1.1\r\n\r\n",
    "a status in letters": b"HTTP/1.1 fine OK\r\n\r\n",
    "a status of five digits": b"HTTP/1.1 20000 OK\r\n\r\n",
    "a version that is none": b"HTTP/one 200 OK\r\n\r\n",
    "a status line of 100 KB": b"HTTP/1.1 200 " + b"x" * 100_000 + b"\r\n\r\n",
    "a header of 100 KB": b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
    "a header without a name": b"HTTP/1.1 200 OK\r\n: x\r\n\r\n",
    "a header with NUL": b"HTTP/1.1 200 OK\r\nX: a\0b\r\n\r\n",
    "a content-length in letters": b"HTTP/1.1 200 OK\r\nContent-Length: ten\r\n\r\n",
    "a content-length below zero": b"HTTP/1.1 200 OK\r\nContent-Length: -10\r\n\r\n",
    "a content-length of 30 digits": b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 30 + b"\r\n\r\n",
    "two content-lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
}


@pytest.mark.parametrize("piece", MALFORMED.values(), ids=MALFORMED)
async def test_an_answer_that_is_no_http_is_an_error(server, piece):
    assert isinstance(await error_of(server, [piece]), ResponseError)


def text_answer(content: object) -> bytes:
    return json.dumps({"content": content}).encode()


JSON_ANSWERS = {
    "duplicate keys": (b'{"content": "first", "content": "last"}', "last"),
    "an integer of 5000 digits": (b'{"n": ' + b"9" * 5000 + b', "content": "fine"}', "fine"),
    "a float out of range": (b'{"n": 1e999999, "content": "fine"}', "fine"),
    "NaN": (b'{"n": NaN, "content": "fine"}', "fine"),
    "half a surrogate pair": (b'{"content": "a\\ud800b"}', "a\ufffdb"),
    "the other half": (b'{"content": "a\\udc00b"}', "a\ufffdb"),
    "a whole surrogate pair": (b'{"content": "\\ud83d\\ude00"}', "\U0001f600"),
    "NUL": (b'{"content": "a\\u0000b"}', "a\0b"),
    "a byte order mark": (b"\xef\xbb\xbf" + text_answer("fine"), "fine"),
    "UTF-16": ('{"content": "é"}'.encode("utf-16"), "é"),
    "UTF-16 without a mark": ('{"content": "é"}'.encode("utf-16-le"), "é"),
    "UTF-32": ('{"content": "é"}'.encode("utf-32"), "é"),
    "nested deep besides": (b'{"content": "fine", "deep": ' + b"[" * 500 + b"]" * 500 + b"}", "fine"),
    "blanks around": (b' \r\n\t{"content": " fine "} \n', "fine"),
    "fields besides": (b'{"role": "assistant", "content": "fine", "usage": null, "x": [1]}', "fine"),
}


@pytest.mark.parametrize(("body", "answer"), JSON_ANSWERS.values(), ids=JSON_ANSWERS)
async def test_odd_json_with_a_text_in_it_is_an_answer(server, body, answer):
    assert await answer_to(server, http(body)) == answer


JSON_WITHOUT_ANSWER = {
    "nothing": b"",
    "blanks": b" \r\n\t ",
    "null": b"null",
    "a number": b"-0",
    "a huge number": b"9" * 5000,
    "a string": b'"content"',
    "a list": b"[]",
    "an empty object": b"{}",
    "another's object": b'{"choices": [{"message": {"content": "no"}}]}',
    "content null": text_answer(None),
    "content empty": text_answer(""),
    "content blank": text_answer(" \n "),
    "content a number": text_answer(5),
    "content a list": text_answer(["text"]),
    "content an object": text_answer({"text": "no"}),
    "content under a key in capitals": b'{"Content": "no"}',
    "nested too deep": b"[" * 200_000,
    "objects nested too deep": b'{"content":' * 200_000,
}


@pytest.mark.parametrize("model", ["", "flux"])
@pytest.mark.parametrize("body", JSON_WITHOUT_ANSWER.values(), ids=JSON_WITHOUT_ANSWER)
async def test_json_without_an_answer_is_an_error(server, body, model):
    error = await error_of(server, [http(body)], model)
    assert type(error) is (NoMediaResponseError if model else ResponseError)


PICTURES_THAT_ARE_NONE = [
    None, 5, "", " ", [], "cat.png", "ftp://websim.example/cat.png", "file:///cat.png", "javascript:alert(1)",
    "data:text/html,cat", "https://", "https://[", "//[", "//[::1", "//\u2100.example/cat.png", "https://a b/c",
    "https://websim.example/\ncat", "https://websim.example/\u202ecat", "https://websim.example/\ud800", "\0",
]  # fmt: skip


@pytest.mark.parametrize("url", PICTURES_THAT_ARE_NONE)
async def test_an_address_that_no_picture_can_have_is_an_error(server, url):
    error = await error_of(server, [http(json.dumps({"url": url}).encode())], "flux")
    assert isinstance(error, NoMediaResponseError)


@pytest.mark.parametrize("charset", ["latin-1", "utf-16", "utf-7", "no-such-charset", "", '"', "rot13", "idna"])
async def test_json_is_utf_8_whatever_charset_a_header_says(server, charset):
    headers = [("Content-Type", f"application/json; charset={charset}")]
    assert await answer_to(server, http('{"content": "é"}'.encode(), headers=headers)) == "é"


async def test_bytes_that_are_no_text_are_replaced(server):
    assert await answer_to(server, http(b'{"content": "caf\xe9 \xff"}')) == "caf\ufffd \ufffd"


@pytest.mark.parametrize("kind", ["", "text/html", "image/png", "nonsense", "application/json;" * 50])
async def test_json_is_read_whatever_its_content_type(server, kind):
    assert await answer_to(server, http(FINE.encode(), headers=[("Content-Type", kind)])) == "fine"


ENCODED = {
    "gzip": gzip.compress(FINE.encode()),
    "deflate": zlib.compress(FINE.encode()),
    "br": brotli.compress(FINE.encode()),
}


@pytest.mark.parametrize(("encoding", "body"), ENCODED.items(), ids=ENCODED)
async def test_a_compressed_answer_is_read(server, encoding, body):
    assert await answer_to(server, encoded(encoding, body)) == "fine"


async def test_a_redirect_without_a_target_is_an_error(server):
    error = await error_of(server, [http(status=302)])
    assert "Response 302: a redirect" in str(error)


async def test_a_redirect_of_odd_bytes_can_be_printed(server):
    script = [b"HTTP/1.1 302 Found\r\nLocation: https://\xff\xfe\x1b[2J/\r\nContent-Length: 0\r\n\r\n"]
    assert str(await error_of(server, script)).isprintable()


async def test_what_a_server_says_cannot_steer_a_terminal(server):
    error = await error_of(server, [http(b"\x1b]0;gone\x07\x1b[2J \xc2\x9b31m \x00 no", 400)])
    assert str(error).isprintable()


async def test_what_a_page_is_called_cannot_steer_a_terminal(server):
    error = await error_of(server, [http(b"<html><title>\x1b[2J\x00no</title>")])
    assert str(error).isprintable()


async def test_a_connection_refused_is_an_error(server, monkeypatch):
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        host = f"{HOST}:{taken.getsockname()[1]}"
        monkeypatch.setattr(Websim, "url", f"http://{host}")
        with pytest.raises(ResponseError, match=rf"no connection: .* \({host}: look at the network"):
            await ask(None, HELLO)


async def test_a_name_that_is_not_known_is_an_error(server, monkeypatch):
    monkeypatch.setattr(Websim, "url", "https://websim.invalid")
    with pytest.raises(ResponseError, match=r"no connection: .* \(websim.invalid: look at the network"):
        await ask(None, HELLO)


async def test_a_tls_handshake_that_stalls_is_a_timeout(server, monkeypatch):
    monkeypatch.setattr(Websim, "url", f"https://{server.host}")
    with pytest.raises(TimeoutError, match=rf"no answer within {SECONDS_STALLED} s \({server.host}: "):
        await ask(None, HELLO, timeout=SECONDS_STALLED)


async def run_python(program: str, *arguments: str, **environment: str) -> str:
    """Return what `program` prints in a process of its own."""
    command = (sys.executable, "-c", program, *arguments)
    child = await asyncio.create_subprocess_exec(
        *command, env={**os.environ, **environment}, stdout=asyncio.subprocess.PIPE
    )
    printed, _ = await child.communicate()
    return printed.decode()


# A process of its own, because aiohttp reads which authorities to trust when it is imported.
ASK_EACH_HOST = """
import asyncio, json, sys
from g4f_websim import Websim

async def outcome(url):
    Websim.url, Websim.backoff = url, 0.001
    try:
        return [chunk async for chunk in Websim.create_async_generator("", [{"role": "user", "content": "Hello"}])][0]
    except Exception as error:
        return f"{type(error).__name__}: {error}"

async def main():
    print(json.dumps([await outcome(url) for url in sys.argv[1:]]))

asyncio.run(main())
"""


LONG_AGO, DAY = datetime(2020, 1, 1, tzinfo=timezone.utc), timedelta(days=1)
TLS_REASONS = ("unable to get local issuer certificate", "certificate has expired", "IP address mismatch")


async def test_only_a_certificate_that_is_trusted_and_valid_and_the_hosts_own_is_taken(tmp_path):
    trusted, unknown = trustme.CA(), trustme.CA()
    trusted.cert_pem.write_to_path(tmp_path / "trusted.pem")
    async with (
        raw_server(tls=server_context(trusted, HOST)) as good,
        raw_server(tls=server_context(unknown, HOST)) as stranger,
        raw_server(tls=server_context(trusted, HOST, not_before=LONG_AGO, not_after=LONG_AGO + DAY)) as expired,
        raw_server(tls=server_context(trusted, "elsewhere.example")) as elsewhere,
    ):
        servers = [good, stranger, expired, elsewhere]
        printed = await run_python(
            ASK_EACH_HOST, *(server.url for server in servers), SSL_CERT_FILE=str(tmp_path / "trusted.pem")
        )
    outcomes = json.loads(printed)
    assert outcomes[0] == "fine"
    for outcome, server, reason in zip(outcomes[1:], servers[1:], TLS_REASONS, strict=True):
        assert outcome.startswith("ResponseError: no connection: ")
        assert f"({server.host}: look at the network" in outcome
        assert reason in outcome
        assert not server.requests


MEASURE_PEAK = """
import asyncio, json, re, sys
from pathlib import Path
from g4f_websim import Websim

def peak_mib():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) // 1024

async def main():
    errors = []
    Websim.url = sys.argv[1]
    async def ask():
        messages = [{"role": "user", "content": "Hello"}]
        return [chunk async for chunk in Websim.create_async_generator("", messages, timeout=10)]
    await ask()
    before = peak_mib()
    for _ in range(int(sys.argv[2])):
        try:
            await ask()
        except Exception as error:
            errors.append(f"{type(error).__name__}: {error}")
    print(json.dumps([errors, peak_mib() - before]))

asyncio.run(main())
"""


HEADER = b"X-Header: " + b"x" * 1000 + b"\r\n"


def bomb(encoding: str) -> bytes:
    """Return a response of some megabytes at most that unfolds to 4 GiB."""
    if encoding == "br":
        packer = brotli.Compressor()
        start, piece = (packer.process(bytes(MIB)) + packer.flush() for _ in range(2))
    else:
        deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        piece = deflate.compress(bytes(MIB)) + deflate.flush(zlib.Z_FULL_FLUSH)
        start = {"gzip": b"\x1f\x8b\x08" + bytes(7), "deflate": b"\x78\x9c"}[encoding]
    return encoded(encoding, start + piece * (4 * 1024))


MEMORY_TRAPS = {
    **{f"{encoding} that unfolds to gigabytes": [bomb(encoding)] for encoding in ENCODED},
    "headers without an end": Endless(b"HTTP/1.1 200 OK\r\n", HEADER),
    "trailers without an end": Endless(chunked([FINE.encode()], end=b"0\r\n"), HEADER),
}


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of memory is read from /proc")
@pytest.mark.parametrize("script", MEMORY_TRAPS.values(), ids=MEMORY_TRAPS)
async def test_a_body_that_would_fill_the_memory_is_an_error_that_costs_little(server, script):
    calls = 3
    server.play([FINE_ANSWER], *[script] * calls)
    errors, grown_mib = json.loads(await run_python(MEASURE_PEAK, server.url, str(calls)))
    assert [error.split(":")[0] for error in errors] == ["ResponseError"] * calls
    assert all(server.host in error for error in errors)
    assert grown_mib < TRAP_MEMORY_MIB


def waits_of_the_provider(monkeypatch) -> list[float]:
    """Have `asyncio.sleep` return at once, and return the list of what it is asked to wait."""
    waits = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    return waits


async def test_a_wait_is_twice_as_long_as_the_one_before(server, monkeypatch):
    monkeypatch.setattr(Websim, "backoff", DEFAULT_BACKOFF)
    monkeypatch.setattr(Websim, "max_tries", 6)
    waits = waits_of_the_provider(monkeypatch)
    await error_of(server, [http(status=503)])
    assert [math.floor(math.log2(wait)) for wait in waits] == [1, 2, 3, 4, 5]


async def test_the_waits_are_2_and_4_seconds_and_up_to_a_quarter_longer(server, monkeypatch):
    monkeypatch.setattr(Websim, "backoff", DEFAULT_BACKOFF)
    waits = waits_of_the_provider(monkeypatch)
    for _ in range(20):
        await error_of(server, [http(status=503)])
    for first, second in zip(waits[::2], waits[1::2], strict=True):
        assert 2 <= first <= 2 * (1 + JITTER)
        assert 4 <= second <= 4 * (1 + JITTER)
    assert len(set(waits)) == 40


@pytest.mark.parametrize(("value", "seconds"), [("0", 0), ("7", 7), (" 7 ", 7), ("007", 7), ("1.5", 1.5), ("60", 60)])
async def test_the_wait_is_what_retry_after_says(server, monkeypatch, value, seconds):
    waits = waits_of_the_provider(monkeypatch)
    await error_of(server, [http(status=429, headers=[("Retry-After", value)])])
    assert waits == [seconds] * (MAX_TRIES - 1)


@pytest.mark.parametrize("hours", [0, 1, -7])
async def test_the_wait_is_until_the_date_that_retry_after_says(server, monkeypatch, hours):
    waits = waits_of_the_provider(monkeypatch)
    now = datetime.now(timezone(timedelta(hours=hours)))
    date = email.utils.format_datetime(now + timedelta(seconds=50))
    await error_of(server, [http(status=429, headers=[("Retry-After", date)])])
    assert len(waits) == MAX_TRIES - 1
    assert all(50 - SECONDS_A_CALL <= wait <= 50 for wait in waits)
