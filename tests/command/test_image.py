"""The command `g4f-websim image`."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from aiohttp import ClientTimeout

from g4f_websim import Websim
from g4f_websim.command import image, main
from g4f_websim.emulator import Fault
from tests.support.calls import JWT, PNG, PNG_URI
from tests.support.processes import make_home, run_command, run_on_terminal
from tests.support.responses import PNG_MAGIC

FAILURE = Fault(status=500)


def image_at(url):
    return Fault(body=json.dumps({"url": url}).encode())


class Service(BaseHTTPRequestHandler):
    """Respond as Websim to POST and as an image host to GET, also as an HTTP proxy for both.

    The path and the headers of each request are added to the attribute `requests` of the server.
    """

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.respond("application/json", json.dumps({"url": "http://images.invalid/cat.png"}).encode())

    def do_GET(self):
        self.respond("image/png", PNG)

    def respond(self, content_type, body):
        self.server.requests.append((self.path, self.headers))
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@contextmanager
def service():
    with ThreadingHTTPServer(("127.0.0.1", 0), Service) as server:
        server.requests = []
        server.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        try:
            yield server
        finally:
            server.shutdown()


def assert_not_saved(capsys, reason):
    printed = capsys.readouterr()
    assert printed.out == ""
    first, last = printed.err.splitlines()
    assert first.startswith("g4f-websim: cat.png was not saved: ")
    assert reason in f"{first}\n"
    assert last == "g4f-websim: 0 of 1 image saved"


def usage_error(capsys, *words):
    """Run the command, which must end with status 2 and one line below the usage, and return that line."""
    with pytest.raises(SystemExit, match="^2$"):
        main.main(["image", *words])
    output, errors = capsys.readouterr()
    assert (output, errors[:7]) == ("", "usage: ")
    *_, line = errors.splitlines()
    return line


def test_saves_image(tmp_path):
    home = make_home(tmp_path / "home")
    done = run_command("--offline", "image", "a cat on a couch", "-O", "cat.png", home=home)
    assert (done.returncode, done.stdout, done.stderr) == (0, "cat.png\n", "")
    assert home.joinpath("cat.png").read_bytes().startswith(PNG_MAGIC)
    assert list(home.joinpath("config").rglob("conversation.json")) == []


def test_terminal_shows_progress(tmp_path):
    done = run_on_terminal("--offline", "image", "a cat", "-O", "cat.png", home=make_home(tmp_path / "home"))
    first, second = done.stderr.splitlines()
    assert first.startswith("g4f-websim: requesting 1 image from 127.0.0.1:")
    assert second == "g4f-websim: saving 1 image"


def test_numbers_several_images(websim_server, tmp_path, capsys):
    assert main.main(["image", "a cat", "-O", "cat.png", "-n", "2"]) == 0
    assert capsys.readouterr() == ("cat-1.png\ncat-2.png\n", "")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["cat-1.png", "cat-2.png"]


def test_sends_options(websim_server):
    options = ["--aspect-ratio", "16:9", "--size", "1024x768", "--seed", "1", "--transparent"]
    assert main.main(["image", "a", "cat", "-O", "cat.png", *options]) == 0
    body = websim_server.requests[0].json
    assert {name: value for name, value in body.items() if name != "project_id"} == {
        "prompt": "a cat",
        "aspect_ratio": "16:9",
        "width": 1024,
        "height": 768,
        "seed": 1,
        "transparent": True,
    }


def test_sends_no_option_by_default(websim_server):
    assert main.main(["image", "a cat", "-O", "cat.png"]) == 0
    assert websim_server.requests[0].json.keys() == {"project_id", "prompt", "aspect_ratio"}


def test_replaces_file(websim_server, tmp_path):
    tmp_path.joinpath("cat.png").write_text("another file")
    assert main.main(["image", "a cat", "-O", "cat.png"]) == 0
    assert tmp_path.joinpath("cat.png").read_bytes().startswith(PNG_MAGIC)


def test_decodes_data_uri(websim_server, tmp_path):
    websim_server.inject(image_at(PNG_URI))
    assert main.main(["image", "a cat", "-O", "cat.png"]) == 0
    assert tmp_path.joinpath("cat.png").read_bytes() == PNG


def test_decodes_percent_encoded_data_uri(websim_server, tmp_path):
    websim_server.inject(image_at("data:image/svg+xml,%3Csvg/%3E"))
    assert main.main(["image", "a cat", "-O", "cat.svg"]) == 0
    assert tmp_path.joinpath("cat.svg").read_text() == "<svg/>"


def test_downloads_through_proxy_without_token(monkeypatch, tmp_path):
    with service() as proxy:
        monkeypatch.setenv("G4F_PROXY", proxy.url)
        monkeypatch.setenv("WEBSIM_API_KEY", JWT)
        monkeypatch.setattr(Websim, "url", "http://websim.invalid")
        assert main.main(["image", "a cat", "-O", "cat.png"]) == 0
        (api_url, api_headers), (image_url, image_headers) = proxy.requests
    assert tmp_path.joinpath("cat.png").read_bytes() == PNG
    assert (api_url, image_url) == (Websim.image_api_endpoint, "http://images.invalid/cat.png")
    assert JWT in str(api_headers)
    assert JWT not in str(image_headers)


def test_saves_images_that_succeeded(websim_server, tmp_path, capsys):
    websim_server.inject(FAILURE)
    assert main.main(["image", "a cat", "-O", "cat.png", "-n", "3"]) == 1
    printed = capsys.readouterr()
    assert printed.out == "cat-1.png\ncat-2.png\n"
    assert printed.err.splitlines()[-1] == "g4f-websim: 2 of 3 images saved"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["cat-1.png", "cat-2.png"]


def test_failed_request_fails_on_one_line(websim_server, capsys):
    websim_server.inject(FAILURE)
    with pytest.raises(SystemExit, match="^1$"):
        main.main(["image", "a cat", "-O", "cat.png"])
    error = capsys.readouterr().err
    assert error.startswith("g4f-websim: ResponseStatusError: ")
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("-n", "0"), "-n: invalid choice: "),
        (("-n", "11"), "-n: invalid choice: "),
        (("-n", "two"), "-n: invalid int value: 'two'"),
        (("--aspect-ratio", "16x9"), "--aspect-ratio: expected W:H with positive numbers, as in 16:9, not '16x9'"),
        (("--aspect-ratio", "0:1"), "--aspect-ratio: expected "),
        (("--size", "1024"), "--size: expected WxH in pixels, as in 1024x768, not '1024'"),
        (("--seed", "abc"), "--seed: expected a whole number from "),
        (("--seed", str(2**53)), "--seed: expected a whole number from -9007199254740991 to 9007199254740991, "),
        (("-O", "images/cat.png"), "-O/--output: no such folder: images; create it first"),
        (("-O", "."), "-O/--output: . is a folder; name a file, as in cat.png"),
    ],
)
def test_malformed_argument_fails_before_request(websim_server, words, error, capsys):
    line = usage_error(capsys, "a cat", "-O", "cat.png", *words)
    assert line.startswith(f"g4f-websim image: error: argument {error}")
    assert websim_server.requests == []


def test_empty_prompt_fails_before_request(websim_server, capsys):
    line = usage_error(capsys, " ", "-O", "cat.png")
    assert line.endswith("argument prompt: expected what the image shows, as in 'a cat on a couch'")
    assert websim_server.requests == []


def test_missing_output_fails(capsys):
    assert "the following arguments are required: -O/--output" in usage_error(capsys, "a cat")


@pytest.mark.parametrize(
    ("protected", "file"), [(".", "cat-1.png"), ("cat-2.png", "cat-2.png")], ids=["folder", "file"]
)
def test_write_protected_output_fails_before_request(websim_server, monkeypatch, protected, file, capsys):
    Path("cat-2.png").touch()
    # The superuser may write everywhere.
    monkeypatch.setattr("os.access", lambda path, mode: path != Path(protected))
    line = usage_error(capsys, "a cat", "-O", "cat.png", "-n", "2")
    assert line.endswith(f"argument -O/--output: no permission to write {file}")
    assert websim_server.requests == []


@pytest.mark.parametrize(
    ("path", "reason"),
    [("/missing.png", "status 404 from"), ("/", "text/plain instead of an image from")],
)
def test_response_without_image_is_not_saved(websim_server, path, reason, capsys):
    websim_server.inject(image_at(f"{websim_server.url}{path}?signature=secret"))
    assert main.main(["image", "a cat", "-O", "cat.png"]) == 1
    assert_not_saved(capsys, f"{reason} {websim_server.url.removeprefix('http://')}\n")


def test_too_large_image_is_not_saved(websim_server, monkeypatch, capsys):
    monkeypatch.setattr(image, "MAX_IMAGE_BYTES", 10)
    assert main.main(["image", "a cat", "-O", "cat.png"]) == 1
    assert_not_saved(capsys, "more than 0 MiB from")


def test_malformed_data_uri_is_not_saved(websim_server, capsys):
    websim_server.inject(image_at("data:image/png;base64,####"))
    assert main.main(["image", "a cat", "-O", "cat.png"]) == 1
    assert_not_saved(capsys, "malformed data: URI")


def test_unreachable_image_is_not_saved(websim_server, closed_port, capsys):
    websim_server.inject(image_at(f"http://127.0.0.1:{closed_port}/cat.png"))
    assert main.main(["image", "a cat", "-O", "cat.png"]) == 1
    assert_not_saved(capsys, f"the download failed (ClientConnectorError) from 127.0.0.1:{closed_port}\n")


def test_malformed_image_url_is_not_saved(websim_server, capsys):
    websim_server.inject(image_at("https://images.example:99999/cat.png"))
    assert main.main(["image", "a cat", "-O", "cat.png"]) == 1
    assert_not_saved(capsys, "the download failed (InvalidUrlClientError) from images.example:99999\n")


def test_download_timeout_is_named(websim_server, monkeypatch, capsys):
    monkeypatch.setattr(image, "DOWNLOAD_TIMEOUT", ClientTimeout(total=1e-9))
    assert main.main(["image", "a cat", "-O", "cat.png"]) == 1
    assert_not_saved(capsys, "no response within 1e-09 s from")


def test_unwritable_file_is_named(websim_server, monkeypatch, capsys):
    def fail(file, data):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.write_bytes", fail)
    assert main.main(["image", "a cat", "-O", "cat.png"]) == 1
    assert_not_saved(capsys, "Permission denied")


def test_unexpected_error_fails_on_one_line(websim_server, monkeypatch, capsys):
    def fail(file, data):
        raise RuntimeError("unexpected")

    monkeypatch.setattr("pathlib.Path.write_bytes", fail)
    with pytest.raises(SystemExit, match="^1$"):
        main.main(["image", "a cat", "-O", "cat.png"])
    assert capsys.readouterr().err == "g4f-websim: RuntimeError: unexpected\n"
