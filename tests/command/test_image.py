"""The command `g4f-websim image`."""

import base64
import errno
import json
import os
import re
import signal
import stat
import threading
import tracemalloc
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path

import pytest
from aiohttp import ClientTimeout
from PIL import Image

from g4f_websim import Websim
from g4f_websim.command import images, main
from g4f_websim.command.images import DownloadError, fetch_image
from g4f_websim.emulator import Fault
from g4f_websim.emulator.png import draw_gradient
from tests.support.calls import JWT, PNG, PNG_URI
from tests.support.limits import MAX_SECONDS
from tests.support.processes import errors_on_terminal, interrupt_download, started
from tests.support.responses import PNG_MAGIC, image_at

FAILURE = Fault(status=500)
NOT_SAVED = "g4f-websim: an image was not saved: "
SITE = "http://websim.invalid"
IMAGE_URL = "http://images.invalid/cat.png"
MALFORMED = "malformed: a data: URI of Websim"


def encode(image_format):
    buffer = BytesIO()
    Image.new("RGB", (9, 9), "red").save(buffer, image_format)
    return buffer.getvalue()


IMAGES = {suffix: encode(name) for name, suffix in (("JPEG", ".jpg"), ("GIF", ".gif"), ("WEBP", ".webp"))}
IMAGES |= {".bmp": encode("BMP"), ".avif": encode("AVIF"), ".png": draw_gradient(9, 9, b"abc", b"def")}


class Service(BaseHTTPRequestHandler):
    """Respond as Websim to POST and as an image host to GET, as an HTTP proxy for all hosts.

    The path and the headers of each request are added to the attribute `requests` of the server. The attribute `pages`
    maps URLs to a status, headers and a body; the other URLs are images.
    """

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.respond(200, {}, json.dumps({"url": self.server.image_url}).encode())

    def do_GET(self):
        self.respond(*self.server.pages.get(self.path, (200, {}, PNG)))

    def respond(self, status, headers, body):
        self.server.requests.append((self.path, dict(self.headers)))
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value.encode().decode("latin-1"))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def internet(monkeypatch):
    """A proxy through which the command reaches a site that is not on this machine."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Service) as server:
        server.requests, server.pages, server.image_url = [], {}, IMAGE_URL
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        monkeypatch.setenv("G4F_PROXY", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setattr(Websim, "url", SITE)
        try:
            yield server
        finally:
            server.shutdown()


def image(*words):
    return main.main(["image", *words])


def saved_files(folder="."):
    return sorted(file.name for file in Path(folder).iterdir() if file.is_file())


async def failure_of(url):
    """Return the message of the error with which a download fails."""
    with pytest.raises(DownloadError) as caught:
        await fetch_image(url)
    return str(caught.value)


# Requests and file names


def test_terminal_shows_progress(websim_server):
    shown = errors_on_terminal(lambda: image("a cat", "-O", "cat.png"))
    assert shown.startswith("g4f-websim: requesting 1 image from 127.0.0.1:")


@pytest.mark.parametrize(
    ("words", "fields"),
    [
        ("", {"aspect_ratio": "1:1"}),
        (
            "--aspect-ratio 16:9 --size 1024x768 --seed 1 --transparent",
            {"aspect_ratio": "16:9", "width": 1024, "height": 768, "seed": 1, "transparent": True},
        ),
    ],
)
def test_sends_options(websim_server, words, fields):
    assert image("a", "cat", "-O", "cat.png", *words.split()) == 0
    body = websim_server.requests[0].json
    assert body == {"project_id": body["project_id"], "prompt": "a cat", **fields}


def test_each_image_has_its_own_seed_and_the_file_its_number(websim_server):
    websim_server.inject(FAILURE)
    assert image("a cat", "-O", "cat.png", "-n", "3", "--seed", "7") == 1
    seeds = [request.json["seed"] for request in websim_server.requests]
    failed = seeds[0] - 6
    assert sorted(seeds) == [7, 8, 9]
    assert saved_files() == [f"cat-{number}.png" for number in (1, 2, 3) if number != failed]


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("a cat on a couch", "a-cat-on-a-couch.png"),
        ("../../etc/passwd", "etc-passwd.png"),
        ('C:\\Windows\\x: a*b?<c>|"d"\n', "C-Windows-x-a-b-c-d.png"),
        ("-rf .hidden...", "rf-hidden.png"),
        ("Grüße, 日本 हिन्दी", "Grüße-日本-हिन्दी.png"),
        ("ﬁsh", "fish.png"),
        ("nul", "image-nul.png"),
        ("COM¹", "image-COM1.png"),
        ("🐈 !!!", "image.png"),
        ("word " * 100, "-".join(["word"] * 24) + ".png"),
        ("日" * 300, "日" * 40 + ".png"),
    ],
)
def test_makes_file_name_from_prompt(websim_server, prompt, name, capsys):
    assert image(f"{prompt} ") == 0
    assert (capsys.readouterr().out, saved_files()) == (f"{name}\n", [name])


def test_name_from_prompt_is_one_that_no_file_has(websim_server, capsys):
    Path("a-cat.png").write_text("another file")
    for words in (["a cat"], ["a cat"], ["a cat", "-n", "2"]):
        assert image(*words) == 0
    names = ["a-cat-2.png", "a-cat-3.png", "a-cat-1.png", "a-cat-4.png"]
    assert capsys.readouterr().out.splitlines() == names
    assert Path("a-cat.png").read_text() == "another file"
    assert saved_files() == sorted(["a-cat.png", *names])


@pytest.mark.parametrize("name", ["folder/cat.png", "link.png"])
def test_replaces_file_and_keeps_link_and_permissions(websim_server, name):
    file = Path("folder/cat.png")
    file.parent.mkdir()
    file.write_text("another file")
    file.chmod(0o600)
    Path("link.png").symlink_to(file)
    assert image("a cat", "-O", name) == 0
    assert file.read_bytes().startswith(PNG_MAGIC)
    assert (saved_files("folder"), Path("link.png").is_symlink()) == (["cat.png"], True)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("words", [["-O", "cat.png"], []], ids=["replaced", "new"])
def test_failed_write_leaves_no_trace(websim_server, monkeypatch, step, words, capsys):
    def fail(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    Path("cat.png").write_text("the old file")
    url = f"{websim_server.url}/offline/1x1/000000000000.png"
    websim_server.inject(image_at(url))
    monkeypatch.setattr(os, step, fail)
    assert image("cats", *words) == 1
    assert f"g4f-websim: {url} was not saved: No space left on device\n" in capsys.readouterr().err
    assert (saved_files(), Path("cat.png").read_text()) == (["cat.png"], "the old file")


# Standard output


def test_writes_image_to_stdout(websim_server, capsysbinary):
    assert image("a cat", "-O", "-") == 0
    assert capsysbinary.readouterr().out.startswith(PNG_MAGIC)
    assert saved_files() == []


def test_writes_image_to_named_pipe_and_does_not_replace_it(websim_server):
    os.mkfifo("pipe")
    with os.fdopen(os.open("pipe", os.O_RDONLY | os.O_NONBLOCK), "rb") as reader:
        assert image("a cat", "-O", "pipe") == 0
        assert reader.read(len(PNG_MAGIC)) == PNG_MAGIC
    assert Path("pipe").is_fifo()


@pytest.mark.parametrize(("words", "count"), [(["-O", "-"], 0), (["-n", "3"], 3)], ids=["of the image", "of the names"])
def test_ended_reader_of_stdout_is_no_error_and_loses_no_file(websim_server, monkeypatch, words, count, capsys):
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as stdout:
        monkeypatch.setattr("sys.stdout", stdout)
        assert image("a cat", *words) == 1
    assert len(saved_files()) == count
    assert "Broken" not in capsys.readouterr().err


# Signals


def test_ctrl_c_keeps_what_has_arrived(websim_server, home):
    websim_server.inject(Fault())
    websim_server.inject(Fault(delay=MAX_SECONDS), times=2)
    words = ("image", "a cat", "-n", "3", "-O", "cat.png")
    with started(*words, home=home, WEBSIM_URL=websim_server.url) as process:
        assert process.stdout.readline() == "cat-1.png\n"
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=MAX_SECONDS)
    assert (process.returncode, output) == (130, "")
    assert "Traceback" not in errors
    assert home.joinpath("cat-1.png").read_bytes().startswith(PNG_MAGIC)
    assert saved_files(home) == ["cat-1.png"]


def test_ctrl_c_during_download_names_the_url(websim_server, home):
    errors, url = interrupt_download(websim_server, "image", "a cat", home=home)
    assert errors == f"g4f-websim: {url} was not saved\n"


# Failures


@pytest.mark.parametrize("failures", [0, 1, 3])
def test_numbers_saved_images_and_reports_a_failure_once(websim_server, failures, capsys):
    websim_server.inject(FAILURE, times=failures)
    saved = 3 - failures
    names = ["cat-1.png", "cat-2.png", "cat-3.png"][:saved]
    assert image("a cat", "-O", "cat.png", "-n", "3") == (1 if failures else 0)
    output, errors = capsys.readouterr()
    assert (output.split(), saved_files()) == (names, names)
    lines = errors.splitlines()
    assert sum("500" in line for line in lines) == bool(failures)
    assert [line for line in lines if line.endswith(" of 3")] == [f"g4f-websim: {n} of 3" for n in range(1, saved + 1)]
    assert (lines[-1] == f"g4f-websim: {saved} of 3 images saved") == bool(failures)


def test_failed_request_fails_on_one_line(websim_server, capsys):
    websim_server.inject(FAILURE)
    with pytest.raises(SystemExit, match="^1$"):
        image("a cat", "-O", "cat.png")
    assert re.fullmatch("g4f-websim: .*500.*\n", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ([" "], """prompt: a description, as in prompt="a cat on a couch", not ' '"""),
        (["-n", "0"], "argument -n: invalid choice: "),
        (["-n", "11"], "argument -n: invalid choice: "),
        (["-n", "two"], "argument -n: invalid int value: 'two'"),
        (["--aspect-ratio", "16x9"], "aspect_ratio: W:H with positive integers, as in aspect_ratio="),
        (["--aspect-ratio", "0:1"], "aspect_ratio: W:H with positive integers"),
        (["--size", "1024"], """size: WIDTHxHEIGHT, as in size="1024x768", not '1024'"""),
        (["--seed", "abc"], "argument --seed: invalid int value: 'abc'"),
        (["--seed", "9" * 20], "seed: an integer, as in seed=42, not 9999"),
        (["--seed", str(2**53 - 1), "-n", "2"], f"seed: an integer, as in seed=42, not {2**53}"),
        (["-O", "images/cat.png"], "argument -O/--output: no such folder: images; create it first"),
        (["-O", "."], "argument -O/--output: . is a folder; name a file, as in cat.png"),
        (["-O", "-", "-n", "2"], "argument -O/--output: stdout takes one image; name a file, as in cat.png"),
        (["-O", "-"], "argument -O/--output: a terminal cannot show an image"),
    ],
    ids=" ".join,
)
def test_malformed_argument_fails_before_request(websim_server, monkeypatch, words, error, capsys):
    monkeypatch.setenv("NO_COLOR", "1")  # argparse of Python 3.14 and later
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    with pytest.raises(SystemExit, match="^2$"):
        image(*(words if words == [" "] else ["a cat", *words]))
    output, errors = capsys.readouterr()
    assert (output, errors[:7]) == ("", "usage: ")
    assert errors.splitlines()[-1].startswith(f"g4f-websim image: error: {error}")
    assert websim_server.requests == []


# What is an image


@pytest.mark.parametrize("suffix", IMAGES)
def test_new_file_has_the_suffix_of_its_format(internet, suffix, capsys):
    internet.pages[IMAGE_URL] = (200, {"Content-Type": "text/plain"}, IMAGES[suffix])
    assert image("a cat") == 0
    assert capsys.readouterr() == (f"a-cat{suffix}\n", "")
    assert Path(f"a-cat{suffix}").read_bytes() == IMAGES[suffix]


@pytest.mark.parametrize("name", ["cat.jpeg", "CAT.JPG", "cat.jpe", "cat.png", "cat"])
def test_other_suffix_is_reported(internet, name, capsys):
    internet.pages[IMAGE_URL] = (200, {}, IMAGES[".jpg"])
    assert image("a cat", "-O", name) == 0
    report = f"g4f-websim: {name} is a JPEG image; its usual suffix is .jpg\n" if name in ("cat.png", "cat") else ""
    assert capsys.readouterr() == (f"{name}\n", report)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "an empty body"),
        (b" \n<!DOCTYPE html><svg></svg>", "an HTML page"),
        (b"<HTML><img src='cat.png'>", "an HTML page"),
        (b"MZ\x90\0", "other data"),
        (b"#!/bin/sh\nrm -rf /", "other data"),
        (b'{"error": "none"}', "other data"),
        (b"BMW is a car, and this is a text.", "other data"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "other data"),
        *((IMAGES[suffix][:-3], "a truncated ") for suffix in (".png", ".jpg", ".gif", ".webp")),
        (PNG_MAGIC, "a truncated PNG image"),
    ],
)
async def test_other_data_is_no_image(data, reason):
    uri = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    assert (await failure_of(uri)).startswith(reason)


def test_other_data_is_not_saved(internet, capsys):
    internet.pages[IMAGE_URL] = (200, {"Content-Type": "image/png"}, b"#!/bin/sh\nrm -rf /")
    assert image("a cat") == 1
    error, last = capsys.readouterr().err.splitlines()
    assert error == f"{NOT_SAVED}other data instead of an image: {IMAGE_URL}"
    assert last == "g4f-websim: 0 of 1 image saved"
    assert saved_files() == []


# data: URIs


@pytest.mark.parametrize(
    "uri",
    [
        PNG_URI,
        PNG_URI.replace(";base64", ";charset=x;BASE64"),
        PNG_URI.rstrip("="),
        PNG_URI.replace("+", "%2B").replace("=", "%3D"),
        f"data:image/png,{''.join(f'%{byte:02x}' for byte in PNG)}",
    ],
)
async def test_decodes_data_uri(uri):
    assert (await fetch_image(uri))[0] == PNG


async def test_data_uri_that_is_malformed_or_takes_long_to_decode_is_not_saved():
    for uri in ("data:image/png;base64,####", "data:image/png," + "%41" * (images.MAX_ESCAPES + 1)):
        assert await failure_of(uri) == MALFORMED


def test_decoding_takes_little_memory():
    uri = "data:image/png," + "%41" * images.MAX_ESCAPES
    tracemalloc.start(1)
    try:
        assert images.decode_data_uri(uri) == b"A" * images.MAX_ESCAPES
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 150_000_000


# Downloads


def test_download_has_the_headers_of_the_request_without_token(internet, monkeypatch):
    monkeypatch.setenv("WEBSIM_API_KEY", JWT)
    assert image("a cat", "-O", "cat.png") == 0
    (api_url, sent), (image_url, headers) = internet.requests
    assert (api_url, image_url) == (Websim.image_api_endpoint, IMAGE_URL)
    own = {"Host", "Content-Length", "authorization", "content-type"}
    assert {name: value for name, value in sent.items() if name not in own} == {
        name: value for name, value in headers.items() if name not in own
    }
    assert {"origin", "referer", "user-agent"} <= headers.keys()
    assert JWT in str(sent)
    assert JWT not in str(headers)
    assert "content-type" not in headers


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_follows_redirects(internet, status):
    urls = [IMAGE_URL, "http://images.invalid/next?x=1", "http://storage.invalid/cat"]
    internet.pages[urls[0]] = (status, {"Location": "/next?x=1"}, b"")
    internet.pages[urls[1]] = (status, {"Location": urls[2]}, b"")
    assert (await fetch_image(IMAGE_URL))[0] == PNG
    assert [path for path, _ in internet.requests] == urls


async def test_ends_circle_of_redirects(internet):
    internet.pages[IMAGE_URL] = (302, {"Location": IMAGE_URL}, b"")
    assert await failure_of(IMAGE_URL) == f"more than 10 redirects: {IMAGE_URL}"
    assert len(internet.requests) == 11


def test_login_of_the_site_is_sent_to_the_site_only(internet, monkeypatch):
    monkeypatch.setattr(Websim, "url", SITE.replace("://", "://ann:password@"))
    internet.image_url = "/cat.png"
    internet.pages[f"{SITE}/cat.png"] = (302, {"Location": IMAGE_URL}, b"")
    assert image("a cat", "-O", "cat.png") == 0
    _, (first_url, first), (second_url, second) = internet.requests
    assert (first_url, second_url) == (f"{SITE}/cat.png", IMAGE_URL)
    assert "Authorization" in first
    assert "password" not in str(second)
    assert "Authorization" not in second


LOCAL_HOSTS = (
    "127.0.0.1", "127.0.0.1.", "127.1", "2130706433", "0x7f000001", "0x7f.0.0.1", "0177.0.0.1", "017700000001",
    "0", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "0xa9fea9fe", "100.64.0.1",
    "224.0.0.1", "255.255.255.255", "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:a9fe:a9fe]", "[fe80::1]",
    "[fd00:ec2::254]", "[ff02::1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "[::127.0.0.1]", "localhost", "LOCALHOST",
    "localhost.", "a.localhost", "localhost:8080", "ⓛocalhost", "127。0。0。1", "%6cocalhost",
)  # fmt: skip


async def test_local_hosts_are_refused(internet):
    for host in LOCAL_HOSTS:
        url = f"http://{host}/latest/meta-data?x=1"
        error = await failure_of(url)
        assert error.endswith(f" is no public host and was not opened: {url}")
    assert internet.requests == []


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://127.0.0.1/latest/meta-data", "127.0.0.1 is no public host and was not opened"),
        ("http://ann:pw@images.invalid/", "a URL with a login, which was not opened"),
        ("http://ann@images.invalid/", "a URL with a login, which was not opened"),
        ("file:///etc/passwd", "no web URL"),
        ("ftp://images.invalid/cat.png", "no web URL"),
    ],
)
async def test_url_or_redirect_elsewhere_than_to_a_public_host_is_refused(internet, url, reason):
    error = await failure_of(url)
    assert error.startswith(f"{reason}: ")
    assert "ann" not in error
    internet.pages[IMAGE_URL] = (302, {"Location": url}, b"")
    assert await failure_of(IMAGE_URL) == f"{reason}: {IMAGE_URL}"
    assert [path for path, _ in internet.requests] == [IMAGE_URL]


async def test_url_without_host_is_refused():
    assert await failure_of("http:///cat.png") == "no web URL: http:///cat.png"


async def test_public_hosts_are_accepted(internet):
    for host in ("8.8.8.8", "[2606:4700::1111]", "1.2.3.4.example", "localhost.example", "images.invalid:81"):
        assert (await fetch_image(f"http://{host}/cat.png"))[0] == PNG


async def test_local_site_may_name_images_on_the_same_machine_only(websim_server, closed_port):
    url = f"{websim_server.url}/offline/1x1/000000000000.png"
    for image_url in (url, url.replace("127.0.0.1", "localhost")):
        assert (await fetch_image(image_url))[0].startswith(PNG_MAGIC)
    other_loopback = f"http://127.0.0.2:{closed_port}/"
    assert await failure_of(other_loopback) == f"the download failed (ClientConnectorError): {other_loopback}"
    assert (await failure_of("http://10.0.0.1/")).startswith("10.0.0.1 is no public host and was not opened: ")


@pytest.mark.parametrize(
    ("status", "headers", "body", "reason"),
    [
        (404, {}, b"", "status 404"),
        (503, {"Content-Type": "text/html"}, b"<html>", "status 503"),
        (302, {}, b"", "status 302"),
        (302, {"Location": "//["}, b"", "the download failed (ValueError)"),
        (200, {"Content-Length": "1000"}, PNG, "the download failed (ClientPayloadError)"),
    ],
)
async def test_failed_download_names_the_url(internet, status, headers, body, reason):
    url = "http://images.invalid/cat.png?signature=abc&expires=1"
    internet.pages[url] = (status, headers, body)
    assert await failure_of(url) == f"{reason}: {url}"


@pytest.mark.parametrize(
    ("limit", "value", "reason"),
    [
        ("MAX_IMAGE_BYTES", 10, "more than 0 MiB"),
        ("DOWNLOAD_TIMEOUT", ClientTimeout(total=1e-9), "no response within 1e-09 s"),
    ],
)
async def test_download_has_limits(internet, monkeypatch, limit, value, reason):
    monkeypatch.setattr(images, limit, value)
    assert await failure_of(IMAGE_URL) == f"{reason}: {IMAGE_URL}"


async def test_proxy_password_is_not_shown(monkeypatch, closed_port):
    monkeypatch.setenv("G4F_PROXY", f"http://ann:password@127.0.0.1:{closed_port}")
    assert await failure_of(IMAGE_URL) == f"the download failed (ClientProxyConnectionError): {IMAGE_URL}"
