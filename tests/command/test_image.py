"""The command `g4f-websim image`."""

import base64
import errno
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import tracemalloc
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path

import pytest
from aiohttp import ClientTimeout
from PIL import Image

from g4f_websim import Websim
from g4f_websim.command import images, main
from g4f_websim.emulator import Fault
from g4f_websim.emulator.png import draw_gradient
from tests.support.calls import JWT, PNG, PNG_URI
from tests.support.limits import MAX_SECONDS
from tests.support.processes import SCRIPT, environment, make_home, run_command, run_on_terminal
from tests.support.responses import PNG_MAGIC

FAILURE = Fault(status=500)
NOT_SAVED = "g4f-websim: an image was not saved: "
SITE = "http://websim.invalid"
IMAGE_URL = "http://images.invalid/cat.png"


def image_at(url, **options):
    return Fault(body=json.dumps({"url": url}).encode(), **options)


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


@pytest.fixture
def home(tmp_path):
    return make_home(tmp_path / "home")


@contextmanager
def started(home, *words, **options):
    """Start the command in a process of its own."""
    process = subprocess.Popen(
        [*SCRIPT, *words], cwd=home, env=environment(home, **options), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def saved_files(folder="."):
    return sorted(file.name for file in Path(folder).iterdir() if file.is_file())


def errors_of(capsys):
    return capsys.readouterr().err.splitlines()


def usage_error(capsys, *words):
    """Run the command, which must end with status 2 and one line below the usage, and return that line."""
    with pytest.raises(SystemExit, match="^2$"):
        main.main(["image", *words])
    output, errors = capsys.readouterr()
    assert (output, errors[:7]) == ("", "usage: ")
    *_, line = errors.splitlines()
    return line


# Requests and file names


def test_saves_image(home):
    done = run_command("--offline", "image", "a cat on a couch", "-O", "cat.png", home=home)
    assert (done.returncode, done.stdout, done.stderr) == (0, "cat.png\n", "")
    assert home.joinpath("cat.png").read_bytes().startswith(PNG_MAGIC)
    assert list(home.joinpath("config").rglob("conversation.json")) == []


def test_terminal_shows_progress(home):
    done = run_on_terminal("--offline", "image", "a cat", "-O", "cat.png", home=home)
    assert done.stderr.startswith("g4f-websim: requesting 1 image from 127.0.0.1:")


def test_numbers_several_images(websim_server, capsys):
    assert main.main(["image", "a cat", "-O", "cat.png", "-n", "2"]) == 0
    assert capsys.readouterr() == ("cat-1.png\ncat-2.png\n", "g4f-websim: 1 of 2\ng4f-websim: 2 of 2\n")
    assert saved_files() == ["cat-1.png", "cat-2.png"]


@pytest.mark.parametrize(
    ("words", "fields"),
    [
        ([], {"aspect_ratio": "1:1"}),
        (
            ["--aspect-ratio", "16:9", "--size", "1024x768", "--seed", "1", "--transparent"],
            {"aspect_ratio": "16:9", "width": 1024, "height": 768, "seed": 1, "transparent": True},
        ),
    ],
)
def test_sends_options(websim_server, words, fields):
    assert main.main(["image", "a", "cat", "-O", "cat.png", *words]) == 0
    body = websim_server.requests[0].json
    assert body == {"project_id": body["project_id"], "prompt": "a cat", **fields}


def test_each_image_has_its_own_seed_and_the_file_its_number(websim_server, capsys):
    websim_server.inject(FAILURE)
    assert main.main(["image", "a cat", "-O", "cat.png", "-n", "3", "--seed", "7"]) == 1
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
    assert main.main(["image", f"{prompt} "]) == 0
    assert (capsys.readouterr().out, saved_files()) == (f"{name}\n", [name])


def test_name_from_prompt_is_one_that_no_file_has(websim_server, capsys):
    Path("a-cat.png").write_text("another file")
    for words in (["a cat"], ["a cat"], ["a cat", "-n", "2"]):
        assert main.main(["image", *words]) == 0
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
    assert main.main(["image", "a cat", "-O", name]) == 0
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
    assert main.main(["image", "cats", *words]) == 1
    assert f"g4f-websim: {url} was not saved: No space left on device" in errors_of(capsys)
    assert (saved_files(), Path("cat.png").read_text()) == (["cat.png"], "the old file")


# Standard output


@pytest.mark.parametrize("target", ["-", "/dev/stdout"])
def test_writes_image_to_pipe(home, target):
    done = subprocess.run(
        [*SCRIPT, "--offline", "image", "a cat", "-O", target], cwd=home, env=environment(home), capture_output=True,
        timeout=MAX_SECONDS,
    )  # fmt: skip
    assert (done.returncode, done.stdout[:8]) == (0, PNG_MAGIC)
    assert [file.name for file in home.iterdir() if file.is_file()] == []


def test_closed_pipe_ends_quietly(home):
    done = run_command(*SCRIPT, "--offline image a -O - | true", home=home, command=("sh", "-c", '"$0" $1'))
    assert "Traceback" not in done.stderr


def test_ended_reader_of_the_names_loses_no_image(home):
    read, write = os.pipe()
    os.close(read)
    done = run_command("--offline", "image", "a cat", "-n", "3", home=home, stdout=write)
    os.close(write)
    assert len(list(home.glob("*.png"))) == 3, done.stderr


def test_terminal_gets_no_image(monkeypatch, websim_server, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("NO_COLOR", "1")  # argparse of Python 3.14 and later
    assert "argument -O/--output: a terminal cannot show an image" in usage_error(capsys, "a cat", "-O", "-")
    assert websim_server.requests == []


# Signals


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=lambda value: str(int(value))
)
def test_signal_keeps_what_has_arrived(websim_server, home, number, status):
    url = f"{websim_server.url}/offline/1x1/000000000000.png"
    websim_server.inject(image_at(url))
    websim_server.inject(Fault(delay=MAX_SECONDS), times=2)
    words = ("image", "a cat", "-n", "3", "-O", "cat.png")
    with started(home, *words, WEBSIM_URL=websim_server.url) as process:
        assert process.stdout.readline() == "cat-1.png\n"
        process.send_signal(number)
        output, errors = process.communicate(timeout=MAX_SECONDS)
    assert (process.returncode, output) == (status, "")
    assert "Traceback" not in errors
    assert home.joinpath("cat-1.png").read_bytes().startswith(PNG_MAGIC)
    assert [file.name for file in home.iterdir() if file.is_file()] == ["cat-1.png"]


def interrupt_download(server, home, *words):
    """Press Ctrl-C during the download of an image, and return the errors of the command and the URL of the image."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/cat.png"
        server.inject(image_at(url))
        with started(home, *words, WEBSIM_URL=server.url) as process:
            listener.settimeout(MAX_SECONDS)
            connection, _ = listener.accept()
            with connection:
                process.send_signal(signal.SIGINT)
                _, errors = process.communicate(timeout=MAX_SECONDS)
    assert process.returncode == 130
    return errors, url


def test_signal_during_download_names_the_url(websim_server, home):
    errors, url = interrupt_download(websim_server, home, "image", "a cat")
    assert errors == f"g4f-websim: {url} was not saved\n"


# Failures


@pytest.mark.parametrize("failures", [1, 3])
def test_saves_images_that_succeeded_and_reports_a_failure_once(websim_server, failures, capsys):
    websim_server.inject(FAILURE, times=failures)
    names = ["cat-1.png", "cat-2.png"][: 3 - failures]
    assert main.main(["image", "a cat", "-O", "cat.png", "-n", "3"]) == 1
    output, errors = capsys.readouterr()
    assert (output.split(), saved_files()) == (names, names)
    assert errors.count("500") == 1
    assert errors.endswith(f"g4f-websim: {len(names)} of 3 images saved\n")


def test_failed_request_fails_on_one_line(websim_server, capsys):
    websim_server.inject(FAILURE)
    with pytest.raises(SystemExit, match="^1$"):
        main.main(["image", "a cat", "-O", "cat.png"])
    (error,) = errors_of(capsys)
    assert error.startswith("g4f-websim: ")
    assert "500" in error


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ((" ",), "prompt: expected what the image shows, as in 'a cat on a couch'"),
        (("a cat", "-n", "0"), "-n: invalid choice: "),
        (("a cat", "-n", "11"), "-n: invalid choice: "),
        (("a cat", "-n", "two"), "-n: invalid int value: 'two'"),
        (
            ("a cat", "--aspect-ratio", "16x9"),
            "--aspect-ratio: expected W:H with positive numbers, as in 16:9, not '16x9'",
        ),
        (("a cat", "--aspect-ratio", "0:1"), "--aspect-ratio: expected "),
        (("a cat", "--size", "1024"), "--size: expected WxH in pixels, as in 1024x768, not '1024'"),
        (("a cat", "--seed", "abc"), "--seed: expected a whole number, as in 42, not 'abc'"),
        (("a cat", "--seed", str(2**53)), f"--seed: expected a whole number from {1 - 2**53} to {2**53 - 1}"),
        (
            ("a cat", "--seed", str(2**53 - 1), "-n", "2"),
            f"--seed: expected a whole number from {1 - 2**53} to {2**53 - 2}",
        ),
        (("a cat", "-O", "images/cat.png"), "-O/--output: no such folder: images; create it first"),
        (("a cat", "-O", "."), "-O/--output: . is a folder; name a file, as in cat.png"),
        (("a cat", "-O", "-", "-n", "2"), "-O/--output: stdout takes one image; name a file, as in cat.png"),
    ],
)
def test_malformed_argument_fails_before_request(websim_server, words, error, capsys):
    line = usage_error(capsys, *words)
    assert line.startswith(f"g4f-websim image: error: argument {error}")
    assert websim_server.requests == []


# What is an image


@pytest.mark.parametrize("suffix", IMAGES)
def test_new_file_has_the_suffix_of_its_format(internet, suffix, capsys):
    internet.pages[IMAGE_URL] = (200, {"Content-Type": "text/plain"}, IMAGES[suffix])
    assert main.main(["image", "a cat"]) == 0
    assert capsys.readouterr() == (f"a-cat{suffix}\n", "")
    assert Path(f"a-cat{suffix}").read_bytes() == IMAGES[suffix]


@pytest.mark.parametrize("name", ["cat.jpeg", "CAT.JPG", "cat.jpe", "cat.png", "cat"])
def test_other_suffix_is_reported(internet, name, capsys):
    internet.pages[IMAGE_URL] = (200, {}, IMAGES[".jpg"])
    assert main.main(["image", "a cat", "-O", name]) == 0
    report = f"g4f-websim: {name} is a JPEG image; its usual suffix is .jpg\n" if name in ("cat.png", "cat") else ""
    assert capsys.readouterr() == (f"{name}\n", report)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "an empty body"),
        (b" \n<!DOCTYPE html><svg></svg>", "an HTML page"),
        (b"<HTML><img src='cat.png'>", "an HTML page"),
        (b"MZ\x90\0", "other data"),
        (b"\x7fELF\x02\x01\x01", "other data"),
        (b"#!/bin/sh\nrm -rf /", "other data"),
        (b'{"error": "none"}', "other data"),
        (b"BMW is a car, and this is a text.", "other data"),
        (b"%PDF-1.7", "other data"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "other data"),
        *((IMAGES[suffix][:-3], "a truncated ") for suffix in (".png", ".jpg", ".gif", ".webp")),
        (PNG_MAGIC, "a truncated PNG image"),
    ],
)
@pytest.mark.parametrize("kind", ["web", "data"])
def test_other_data_is_not_saved(internet, kind, data, reason, capsys):
    internet.pages[IMAGE_URL] = (200, {"Content-Type": "image/png"}, data)
    if kind == "data":
        internet.image_url = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    assert main.main(["image", "a cat"]) == 1
    error, last = errors_of(capsys)
    assert error.startswith(f"{NOT_SAVED}{reason}")
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
def test_decodes_data_uri(websim_server, uri):
    websim_server.inject(image_at(uri))
    assert main.main(["image", "a cat", "-O", "cat.png"]) == 0
    assert Path("cat.png").read_bytes() == PNG


def test_malformed_data_uri_is_not_saved(websim_server, capsys):
    websim_server.inject(image_at("data:image/png;base64,####"))
    assert main.main(["image", "a cat", "-O", "cat.png"]) == 1
    assert errors_of(capsys)[0] == f"{NOT_SAVED}malformed: a data: URI of Websim"


def test_decoding_takes_little_memory():
    uri = "data:image/png," + "a" + "%41" * images.MAX_ESCAPES
    tracemalloc.start(1)
    try:
        assert images.decode_data_uri(uri) == b"a" + b"A" * images.MAX_ESCAPES
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100_000_000


def test_data_uri_that_takes_long_to_decode_is_not_saved(websim_server, capsys):
    websim_server.inject(image_at("data:image/png," + "%41" * (images.MAX_ESCAPES + 1)))
    assert main.main(["image", "a cat", "-O", "cat.png"]) == 1
    assert errors_of(capsys)[0] == f"{NOT_SAVED}malformed: a data: URI of Websim"


# Downloads


def test_download_has_the_headers_of_the_request_without_token(internet, monkeypatch):
    monkeypatch.setenv("WEBSIM_API_KEY", JWT)
    assert main.main(["image", "a cat", "-O", "cat.png"]) == 0
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
def test_follows_redirects(internet, status):
    target = "http://storage.invalid/cat"
    internet.pages[IMAGE_URL] = (status, {"Location": "/next?x=1"}, b"")
    internet.pages["http://images.invalid/next?x=1"] = (status, {"Location": target}, b"")
    assert main.main(["image", "a cat", "-O", "cat.png"]) == 0
    assert [path for path, _ in internet.requests[1:]] == [IMAGE_URL, "http://images.invalid/next?x=1", target]
    assert Path("cat.png").read_bytes() == PNG


def test_login_of_the_site_is_sent_to_the_site_only(internet, monkeypatch):
    monkeypatch.setattr(Websim, "url", SITE.replace("://", "://ann:password@"))
    internet.image_url = "/cat.png"
    internet.pages[f"{SITE}/cat.png"] = (302, {"Location": IMAGE_URL}, b"")
    assert main.main(["image", "a cat", "-O", "cat.png"]) == 0
    _, (first_url, first), (second_url, second) = internet.requests
    assert (first_url, second_url) == (f"{SITE}/cat.png", IMAGE_URL)
    assert "Authorization" in first
    assert "password" not in str(second)
    assert "Authorization" not in second


def test_ends_circle_of_redirects(internet, capsys):
    internet.pages[IMAGE_URL] = (302, {"Location": IMAGE_URL}, b"")
    assert main.main(["image", "a cat"]) == 1
    assert errors_of(capsys)[0] == f"{NOT_SAVED}more than 10 redirects: {IMAGE_URL}"
    assert len(internet.requests) == 12


LOCAL_HOSTS = (
    "127.0.0.1", "127.0.0.1.", "127.1", "2130706433", "0x7f000001", "0x7f.0.0.1", "0177.0.0.1", "017700000001",
    "0", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "0xa9fea9fe", "100.64.0.1",
    "224.0.0.1", "255.255.255.255", "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:a9fe:a9fe]", "[fe80::1]",
    "[fd00:ec2::254]", "[ff02::1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "[::127.0.0.1]", "localhost", "LOCALHOST",
    "localhost.", "a.localhost", "localhost:8080", "ⓛocalhost", "127。0。0。1", "%6cocalhost", "ann:pw@images.invalid",
    "ann@images.invalid",
)  # fmt: skip


@pytest.mark.parametrize("how", ["directly", "by redirect"])
@pytest.mark.parametrize("host", LOCAL_HOSTS)
def test_local_host_and_login_are_refused(internet, how, host, capsys):
    url = f"http://{host}/latest/meta-data?x=1"
    internet.pages[IMAGE_URL] = (302, {"Location": url}, b"")
    internet.image_url = url if how == "directly" else IMAGE_URL
    assert main.main(["image", "a cat"]) == 1
    error, _ = errors_of(capsys)
    assert "no public host and was not opened" in error or "a URL with a login, which was not opened" in error
    assert error.endswith(internet.image_url.replace("ann:pw@", "").replace("ann@", ""))
    assert [path for path, _ in internet.requests] in (
        [Websim.image_api_endpoint],
        [Websim.image_api_endpoint, IMAGE_URL],
    )
    assert "pw" not in error


@pytest.mark.parametrize(
    "host", ["8.8.8.8", "[2606:4700::1111]", "1.2.3.4.example", "localhost.example", "images.invalid:81"]
)
def test_public_host_is_accepted(internet, host):
    internet.image_url = f"http://{host}/cat.png"
    assert main.main(["image", "a cat", "-O", "cat.png"]) == 0


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://images.invalid/cat.png", "//[", "http:///cat.png"])
def test_redirect_elsewhere_than_to_the_web_is_refused(internet, url, capsys):
    internet.pages[IMAGE_URL] = (302, {"Location": url}, b"")
    assert main.main(["image", "a cat"]) == 1
    assert errors_of(capsys)[0].endswith(f": {IMAGE_URL}")


def test_local_site_may_name_images_on_the_same_machine_only(websim_server, closed_port, capsys):
    url = f"{websim_server.url}/offline/1x1/000000000000.png"
    for image in (url, url.replace("127.0.0.1", "localhost"), f"http://127.0.0.2:{closed_port}/", "http://10.0.0.1/"):
        websim_server.inject(image_at(image))
        main.main(["image", "a cat"])
    assert saved_files() == ["a-cat-2.png", "a-cat.png"]
    unreachable, _, refused, _ = errors_of(capsys)
    assert unreachable == f"{NOT_SAVED}the download failed (ClientConnectorError): http://127.0.0.2:{closed_port}/"
    assert refused == f"{NOT_SAVED}10.0.0.1 is no public host and was not opened: http://10.0.0.1/"


@pytest.mark.parametrize(
    ("status", "headers", "body", "reason"),
    [
        (404, {}, b"", "status 404"),
        (503, {"Content-Type": "text/html"}, b"<html>", "status 503"),
        (302, {}, b"", "status 302"),
        (200, {"Content-Length": "1000"}, PNG, "the download failed (ClientPayloadError)"),
    ],
)
def test_failed_download_names_the_url(internet, status, headers, body, reason, capsys):
    internet.image_url = "http://images.invalid/cat.png?signature=abc&expires=1"
    internet.pages[internet.image_url] = (status, headers, body)
    assert main.main(["image", "a cat"]) == 1
    assert errors_of(capsys)[0] == f"{NOT_SAVED}{reason}: {internet.image_url}"


def test_too_large_image_is_not_saved(websim_server, monkeypatch, capsys):
    monkeypatch.setattr(images, "MAX_IMAGE_BYTES", 10)
    assert main.main(["image", "a cat", "-O", "cat.png"]) == 1
    assert errors_of(capsys)[0].startswith(f"{NOT_SAVED}more than 0 MiB: http://127.0.0.1:")


def test_download_timeout_is_named(websim_server, monkeypatch, capsys):
    monkeypatch.setattr(images, "DOWNLOAD_TIMEOUT", ClientTimeout(total=1e-9))
    assert main.main(["image", "a cat", "-O", "cat.png"]) == 1
    assert errors_of(capsys)[0].startswith(f"{NOT_SAVED}no response within 1e-09 s: ")


def test_proxy_password_is_not_shown(websim_server, monkeypatch, closed_port, capsys):
    monkeypatch.setattr(Websim, "url", SITE)
    monkeypatch.setenv("G4F_PROXY", f"http://ann:password@127.0.0.1:{closed_port}")
    with pytest.raises(SystemExit, match="^1$"):
        main.main(["image", "a cat", "-O", "cat.png"])
    assert "password@" not in capsys.readouterr().err
