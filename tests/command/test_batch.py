"""The command `g4f-websim batch`."""

import json
import os
import random
import resource
import signal
import sys
import time
from pathlib import Path

import pytest
from openai.types import ImagesResponse
from openai.types.chat import ChatCompletion

from g4f_websim import Websim
from g4f_websim.command import batch as batch_module
from g4f_websim.command import batch_output, main
from g4f_websim.command.files import exclusive_lock
from g4f_websim.emulator import Emulator, Fault
from g4f_websim.emulator.limit import RateLimit
from tests.support.calls import PNG, PNG_URI
from tests.support.limits import MAX_SECONDS, wait_until
from tests.support.processes import errors_on_terminal, interrupt_download, started
from tests.support.responses import PNG_MAGIC, image_at

OUTPUT = "responses.jsonl"
CHAT_URL, IMAGE_URL = "/v1/chat/completions", "/v1/images/generations"
NO_LOGIN = Fault(status=401)


def chat_row(custom_id="a", prompt="Hello", **fields):
    messages = [{"role": "user", "content": prompt}]
    return {"custom_id": custom_id, "method": "POST", "url": CHAT_URL, "body": {"messages": messages, **fields}}


def image_row(custom_id="a", prompt="a cat", **fields):
    return {"custom_id": custom_id, "method": "POST", "url": IMAGE_URL, "body": {"prompt": prompt, **fields}}


def write(*rows, name="in.jsonl"):
    """Write an input: dicts as JSON, texts as they are."""
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    Path(name).write_text("".join(f"{line}\n" for line in lines))


def write_prompts(count):
    Path("prompts.txt").write_text("".join(f"Question {number}\n" for number in range(count)))


def batch(*words):
    return main.main(["batch", *words, "-o", OUTPUT])


def read():
    """Return the rows of the output."""
    data = Path(OUTPUT).read_bytes()
    assert data.endswith(b"\n") or not data
    return [json.loads(line) for line in data.splitlines()]


def text_of(row):
    return row["response"]["body"]["choices"][0]["message"]["content"]


def by_id(rows):
    found = {row["custom_id"]: row for row in rows}
    assert len(found) == len(rows)
    return found


def prompts_of(server):
    return [request.json["messages"][-1]["content"] for request in server.requests]


# Input


def test_text_file_is_a_prompt_a_line(websim_server, capsys):
    Path("prompts.txt").write_bytes("\ufeffHello\r\n\r\n  \nWhat\u2028now?\nHello".encode())
    assert batch("prompts.txt") == 0
    rows = by_id(read())
    assert [custom_id.partition("-")[0] for custom_id in rows] == ["1", "4", "5"]
    assert sorted(prompts_of(websim_server)) == ["Hello", "Hello", "What\u2028now?"]
    assert len(Path(OUTPUT).read_text().splitlines()) == 3
    assert capsys.readouterr() == ("", "g4f-websim: 3 of 3 rows have a response\n")


@pytest.mark.parametrize("model", ["flux", "Websim:flux", "FLUX"])
def test_text_file_makes_images_with_flux(websim_server, model):
    Path("prompts.txt").write_text("a cat\n")
    assert batch("prompts.txt", "--model", model) == 0
    (row,) = read()
    assert row["response"]["body"]["data"][0]["url"].startswith(websim_server.url)
    assert websim_server.requests[0].json["prompt"] == "a cat"


def test_output_is_openais_batch_format(websim_server):
    # The URL decides the kind, never the model.
    write(
        chat_row("a", model="gpt-9"), chat_row("b", model="flux"), image_row("c", model="gemini-2.5-pro", n=2, seed=5)
    )
    assert batch("in.jsonl", "--model", "flux") == 0
    rows = by_id(read())
    for row in rows.values():
        assert row.keys() == {"id", "custom_id", "response", "error"}
        assert (row["error"], row["response"]["status_code"]) == (None, 200)
        assert row["response"]["request_id"]
    for name, model in (("a", "gpt-9"), ("b", "flux")):
        completion = ChatCompletion.model_validate(rows[name]["response"]["body"], strict=True)
        assert (completion.model, completion.choices[0].finish_reason) == (model, "stop")
        assert completion.choices[0].message.content.endswith("You said: Hello")
    images = ImagesResponse.model_validate(rows["c"]["response"]["body"], strict=True)
    assert len(images.data) == 2
    assert sorted(request.json["seed"] for request in websim_server.requests if "seed" in request.json) == [5, 6]


def test_passes_known_fields_on(websim_server):
    schema = {"type": "json_object"}
    fields = {"size": "1024x768", "seed": 1, "transparent": True, "project_id": "p"}
    write(chat_row("a", response_format=schema, project_id="q"), image_row("b", aspect_ratio="16:9", **fields))
    assert batch("in.jsonl", "--concurrency", "1") == 0
    chat, image = (request.json for request in websim_server.requests)
    assert (chat["json"], chat["project_id"]) == (True, "q")
    expected = {"width": 1024, "height": 768, "seed": 1, "transparent": True, "project_id": "p", "aspect_ratio": "16:9"}
    assert image == {"prompt": "a cat", **expected}
    assert json.loads(text_of(by_id(read())["a"]))["offline"] is True


def test_names_unknown_fields_once(websim_server, capsys):
    write(chat_row("a", temperature=1, api_key="sk-secret"), chat_row("b", temperature=2), image_row("c", quality="hd"))
    assert batch("in.jsonl") == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].endswith(
        "Websim does not know these fields of body, which are ignored: api_key, quality, temperature"
    )
    assert len(lines) == 2
    assert "sk-secret" not in str([request.headers for request in websim_server.requests])


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, ""),
        ("[]", "expected an object"),
        (chat_row(custom_id=""), "expected custom_id"),
        (chat_row(custom_id=7), "expected custom_id"),
        (chat_row("x") | {"method": "GET"}, "expected method"),
        (chat_row("x") | {"url": "/v1/embeddings"}, "expected url: /v1/chat/completions or /v1/images/generations"),
        (chat_row("x") | {"url": ["/v1/chat/completions"]}, "expected url"),
        (chat_row("x") | {"body": "Hello"}, "expected body"),
        (chat_row("x") | {"body": {}}, "messages"),
        (chat_row("x", response_format="json"), "response_format"),
        (chat_row("x", project_id="a b"), "project_id"),
        (chat_row("x", model=7), "expected body.model"),
        (chat_row("x", timeout=-1), "timeout"),
        (image_row("x", prompt=" "), "prompt"),
        (image_row("x", n=11), "n: 1 to 10 images"),
        (image_row("x", aspect_ratio="wide"), "aspect_ratio"),
        (image_row("x", seed=2**53 - 1, n=2), "seed"),
        (chat_row("first"), "the custom_id 'first' stands in an earlier line too"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_malformed_line_fails_before_request(websim_server, line, reason, capsys):
    write(chat_row("first"), "", line)
    with pytest.raises(SystemExit, match="^2$"):
        batch("in.jsonl")
    output, error = capsys.readouterr()
    assert (output, error.startswith("g4f-websim: in.jsonl: line 3: ")) == ("", True)
    assert reason in error
    assert error.rstrip().endswith("; nothing was sent")
    assert (websim_server.requests, Path(OUTPUT).exists()) == ([], False)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["missing.txt"], "argument INPUT: no such file: missing.txt"),
        (["."], "argument INPUT: . is not a regular file"),
        (["pipe"], "argument INPUT: pipe is not a regular file, which is read twice; save the prompts to a file first"),
        (["in.jsonl", "-o", "in.jsonl"], "argument -o/--output: the output would replace the input"),
        (["in.jsonl", "-o", "link"], "argument -o/--output: the output would replace the input"),
        (["in.jsonl", "-o", "folder/out.jsonl"], "argument -o/--output: no such folder: "),
        (["in.jsonl", "-o", "/dev/null"], "argument -o/--output: /dev/null is not a regular file"),
        (["in.jsonl", "-o", "notes"], "line 1 of "),
        (["in.jsonl", "-o", "numbers"], "line 2 of "),
        (["in.jsonl", "-o", "other-ids"], "line 1 of "),
        (["latin-1.txt"], "line 2: no UTF-8 text; save the file as UTF-8"),
        (["utf-16-le.txt"], "line 1: a NUL character: save the file as UTF-8 text"),
        (["batch.json"], "line 1: a row of OpenAI's batch format, not a prompt: give the file the suffix .jsonl"),
        (["in.jsonl", "--image-dir", "in.jsonl"], "argument --image-dir: in.jsonl: File exists"),
        (["in.jsonl", "--concurrency", "0"], "argument --concurrency: expected a number from 1 to 100"),
        (["prompts.txt", "--model", "dall-e-3"], "argument --model: model: Websim's image model is flux"),
    ],
    ids=str,
)
def test_unusable_file_fails_before_request(websim_server, words, reason, capsys):
    write(chat_row())
    write(chat_row(), name="batch.json")
    Path("prompts.txt").write_text("Hello\n")
    for encoding in ("latin-1", "utf-16-le"):
        Path(f"{encoding}.txt").write_bytes("Hello\nGrüße".encode(encoding))
    os.mkfifo("pipe")
    Path("link").symlink_to("in.jsonl")
    Path("notes").write_text("my only notes")
    Path("numbers").write_text('{"id": "batch_req_1", "custom_id": "a", "response": null, "error": {}}\n1\n')
    Path("other-ids").write_text('{"custom_id": [1], "response": null, "error": null}\n')
    before = {file.name: file.stat().st_size for file in Path().iterdir() if file.is_file()}
    with pytest.raises(SystemExit, match="^2$"):
        main.main(["batch", "-o", OUTPUT, *words])
    assert reason in capsys.readouterr().err.splitlines()[-1]
    assert websim_server.requests == []
    assert {file.name: file.stat().st_size for file in Path().iterdir() if file.is_file()} == before


def test_malformed_setting_fails_before_request(websim_server, monkeypatch, capsys):
    monkeypatch.setenv("WEBSIM_PROJECT_ID", "a b")
    write(chat_row())
    with pytest.raises(SystemExit, match="^1$"):
        batch("in.jsonl")
    assert "WEBSIM_PROJECT_ID" in capsys.readouterr().err
    assert not Path(OUTPUT).exists()


# Failures, and the next run


def test_failed_rows_are_sent_again_and_others_are_not(websim_server, capsys):
    write(*(chat_row(name, prompt=name) for name in "abcd"))
    websim_server.inject(Fault(status=400), times=2)
    assert batch("in.jsonl", "--concurrency", "1") == 1
    rows = by_id(read())
    assert [name for name, row in rows.items() if row["response"] is None] == ["a", "b"]
    assert rows["a"]["error"].keys() == {"code", "message"}
    assert rows["a"]["error"]["code"] == "request_refused"
    error = capsys.readouterr().err
    assert error.startswith("g4f-websim: 2 of 4 rows have a response, 2 failed (the last: ")
    assert error.endswith("; the same command continues\n")

    first = {name: rows[name] for name in "cd"}
    assert batch("in.jsonl") == 0
    rows = by_id(read())
    assert sorted(prompts_of(websim_server)) == ["a", "a", "b", "b", "c", "d"]
    assert {name: rows[name] for name in "cd"} == first
    assert all(row["error"] is None for row in rows.values())

    assert batch("in.jsonl") == 0
    assert len(websim_server.requests) == 6


def test_keeps_rows_of_other_inputs(websim_server):
    write(chat_row("a"), chat_row("b"))
    websim_server.inject(Fault(status=400))
    batch("in.jsonl", "--concurrency", "1")
    before = read()
    write(chat_row("c"))
    assert batch("in.jsonl") == 0
    assert read()[:2] == before
    assert [row["custom_id"] for row in read()] == ["a", "b", "c"]


@pytest.mark.parametrize("cut", [1, 5, 17, 18, 100, -20, -3, -2, -1])
@pytest.mark.parametrize("fill", [b"", b"\0" * 50])
def test_torn_last_row_is_sent_again(websim_server, cut, fill):
    write(*(chat_row(name, prompt=name) for name in "abc"))
    assert batch("in.jsonl", "--concurrency", "1") == 0
    first, second, third = Path(OUTPUT).read_bytes().splitlines(keepends=True)
    Path(OUTPUT).write_bytes(first + second + third[:cut] + fill)
    assert batch("in.jsonl") == 0
    assert [row["custom_id"] for row in read()] == ["a", "b", "c"]
    # Only the line end is missing: the row is complete.
    assert prompts_of(websim_server) == ["a", "b", "c"] + ["c"] * (cut != -1)


def test_each_custom_id_stands_once_after_files_were_joined(websim_server):
    write(chat_row("a"))
    assert batch("in.jsonl") == 0
    Path(OUTPUT).write_bytes(Path(OUTPUT).read_bytes() * 2)
    assert batch("in.jsonl") == 0
    assert len(read()) == 1
    assert len(websim_server.requests) == 1


@pytest.mark.parametrize(
    ("fault", "sent"),
    [
        (Fault(status=401), 3),
        (Fault(status=402), 3),
        (Fault(status=404), 3),
        (Fault(status=404, body=b'{"error": "project not found"}'), 3),
        (Fault(status=403, headers={"cf-mitigated": "challenge"}), 3),
        (Fault(disconnect=True), 3 * Websim.max_attempts),
        (Fault(status=400), 6),
        (Fault(status=500), 6),
    ],
)
def test_stops_after_three_failures_that_concern_every_row(websim_server, fault, sent, capsys):
    write(*(chat_row(str(number)) for number in range(6)))
    websim_server.inject(fault, times=100)
    assert batch("in.jsonl", "--concurrency", "1") == 1
    assert len(websim_server.requests) == sent
    is_stopped = "stopped: 3 failures in a row, which the other rows would have too: " in capsys.readouterr().err
    assert is_stopped == (len(read()) == 3) == (sent != 6)
    websim_server.reset()
    assert batch("in.jsonl") == 0
    assert len(by_id(read())) == 6


def test_response_between_failures_lets_the_batch_go_on(websim_server):
    write(*(chat_row(str(number)) for number in range(9)))
    for _ in range(3):
        websim_server.inject(NO_LOGIN, times=2)
        websim_server.reply("42")
    assert batch("in.jsonl", "--concurrency", "1") == 1
    assert sum(row["error"] is None for row in read()) == 3


def test_waits_for_the_rate_limit_longer_than_max_wait(monkeypatch, websim_server):
    monkeypatch.setattr(Websim, "max_wait", 0.01)
    write(chat_row())
    websim_server.inject(Fault(status=429, headers={"Retry-After": "0.3"}))
    assert batch("in.jsonl") == 0


def test_sends_two_requests_at_a_time(monkeypatch):
    write(*(image_row(str(number), n=4) for number in range(4)))
    with Emulator(limit=RateLimit(max_in_flight=2), delay=0.02) as server:
        monkeypatch.setattr(Websim, "url", server.url)
        assert batch("in.jsonl") == 0
        assert len(server.requests) == 16  # none was refused


# Images


def test_saves_images(websim_server):
    ids = ["../../etc/passwd", "/tmp/x", "a/b", "A/B", "con", "🐈", "x" * 300, "plain-1", "\ud800"]
    write(*(image_row(name, n=2) for name in ids))
    assert batch("in.jsonl", "--image-dir", "images/of/cats") == 0
    files = {Path(image["file"]) for row in read() for image in row["response"]["body"]["data"]}
    assert len(files) == 2 * len(ids)
    assert {file.resolve().parent for file in files} == {Path("images/of/cats").resolve()}
    assert all(file.read_bytes().startswith(PNG_MAGIC) for file in files)
    assert set(Path("images/of/cats").iterdir()) == files


def test_image_that_cannot_be_saved_keeps_its_url(websim_server, closed_port, capsys):
    file = Path("images/a-ca978112ca1b.png")
    file.mkdir(parents=True)
    write(image_row("a"), image_row("b"))
    url = f"http://127.0.0.1:{closed_port}/cat.png?signature=1"
    websim_server.inject(Fault())
    websim_server.inject(image_at(url))
    assert batch("in.jsonl", "--concurrency", "1", "--image-dir", "images") == 1
    assert capsys.readouterr().err.splitlines() == [
        f"g4f-websim: {file.stem} was not saved: Is a directory; its URL is in the output",
        f"g4f-websim: an image was not saved: the download failed (ClientConnectorError): {url}",
        "g4f-websim: 2 of 2 rows have a response, 2 images were not saved",
    ]
    first, second = (row["response"]["body"]["data"] for row in read())
    assert [image.keys() for image in first] == [{"url"}]
    assert second == [{"url": url}]


def test_saves_data_uri(websim_server):
    write(image_row())
    websim_server.inject(image_at(PNG_URI))
    assert batch("in.jsonl", "--image-dir", "images") == 0
    (image,) = read()[0]["response"]["body"]["data"]
    assert image.keys() == {"file"}
    assert Path(image["file"]).read_bytes() == PNG


@pytest.mark.parametrize(("status", "sent", "saved"), [(500, 3, 2), (401, 1, 0)])
def test_some_images_of_a_row_may_fail(websim_server, status, sent, saved, capsys):
    write(image_row(n=3))
    websim_server.inject(Fault(status=status))
    assert batch("in.jsonl") == 1
    assert len(websim_server.requests) == sent  # after a refusal, no further image is requested
    response = read()[0]["response"]
    assert len(response["body"]["data"] if response else []) == saved
    assert ("1 image was not saved" in capsys.readouterr().err) == bool(saved)


# Signals, crashes, locks, full disks


def start_batch(server):
    return started("batch", "prompts.txt", "-o", OUTPUT, home=Path.cwd(), WEBSIM_URL=server.url)


def wait_for_rows(count):
    wait_until(lambda: Path(OUTPUT).exists() and Path(OUTPUT).read_bytes().count(b"\n") >= count)


def test_sigterm_keeps_the_responses(home, websim_server):
    write_prompts(8)
    websim_server.inject(Fault(), times=4)
    websim_server.inject(Fault(delay=MAX_SECONDS), times=2)
    with start_batch(websim_server) as process:
        wait_for_rows(4)
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=MAX_SECONDS)
    assert (process.returncode, output) == (143, "")
    assert errors == "g4f-websim: 4 of 8 rows have a response; the same command continues\n"
    assert len(by_id(read())) == 4
    assert sorted(file.name for file in home.iterdir() if file.is_file()) == ["prompts.txt", OUTPUT]
    assert batch("prompts.txt") == 0
    assert len(by_id(read())) == 8
    # Only the two requests in flight were sent twice.
    assert len(websim_server.requests) <= 10


def test_ctrl_c_during_download_keeps_the_url(home, websim_server):
    write_prompts(2)
    websim_server.inject(Fault(delay=MAX_SECONDS))  # this row is cancelled sooner than the download
    words = ("batch", "prompts.txt", "-o", OUTPUT, "--model", "flux", "--image-dir", "images")
    errors, url = interrupt_download(websim_server, *words, home=home)
    (row,) = read()
    assert row["response"]["body"]["data"] == [{"url": url}]
    assert errors == "g4f-websim: 1 of 2 rows have a response; the same command continues\n"


def test_kill_at_random_moments_loses_and_repeats_nothing(home, monkeypatch):
    count, kills = 20, 3
    write_prompts(count)
    chance = random.Random(20261127)
    with Emulator(delay=0.02) as server:
        monkeypatch.setattr(Websim, "url", server.url)
        for _ in range(kills):
            with start_batch(server) as process:
                before = Path(OUTPUT).read_bytes().count(b"\n") if Path(OUTPUT).exists() else 0
                wait_for_rows(min(before + chance.randrange(3), count - 1))
                time.sleep(chance.random() * 0.03)
                process.kill()
                process.wait()
        assert batch("prompts.txt") == 0
        # At each moment, at most two requests were in flight.
        assert len(server.requests) <= count + 2 * kills
    texts = [text_of(row).partition("Question ")[2] for row in by_id(read()).values()]
    assert sorted(texts, key=int) == list(map(str, range(count)))


def test_second_run_is_kept_away(websim_server, capsys):
    write_prompts(2)
    with exclusive_lock(Path(OUTPUT)), pytest.raises(SystemExit, match="^2$"):
        batch("prompts.txt")
    assert "another g4f-websim batch writes this output: wait for it to end" in capsys.readouterr().err
    assert websim_server.requests == []
    assert batch("prompts.txt") == 0


def test_lock_that_cannot_be_created_is_an_error(websim_server, capsys):
    write_prompts(2)
    Path(f"{OUTPUT}.lock").mkdir()
    with pytest.raises(SystemExit, match="^1$"):
        batch("prompts.txt")
    assert f"{OUTPUT}.lock: Is a directory" in capsys.readouterr().err


def test_full_disk_stops_the_batch_and_loses_nothing(websim_server, capsys):
    # The row of another input is so large that only the output reaches the limit, and no other file of this process.
    size = 1_000_000
    other = {"id": "batch_req_0", "custom_id": "other", "response": {"body": "x" * size}, "error": None}
    write(other, name=OUTPUT)
    write_prompts(10)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 2000, before[1]))
    try:
        assert batch("prompts.txt") == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "stopped: the output cannot be written: File too large" in capsys.readouterr().err
    kept = read()
    assert 2 <= len(kept) < 11
    assert batch("prompts.txt") == 0
    assert read()[: len(kept)] == kept
    assert len(by_id(read())) == 11


def test_changed_input_stops_the_batch(websim_server, monkeypatch, capsys):
    def change_and_clean(*arguments):
        with Path("prompts.txt").open("ab") as opened:
            opened.write(b"One more\n\xff\n")
        return batch_output.clean(*arguments)

    write_prompts(10)
    monkeypatch.setattr(batch_module, "clean", change_and_clean)
    assert batch("prompts.txt") == 1
    assert "stopped: the input has changed: prompts.txt: line 12: no UTF-8 text" in capsys.readouterr().err
    assert len(by_id(read())) == 10


# Progress


def test_terminal_shows_progress_bar_with_failures(websim_server, monkeypatch):
    monkeypatch.setattr("tqdm.tqdm.monitor_interval", 0)  # no thread that outlives the test
    websim_server.inject(Fault(status=400))
    websim_server.inject(image_at("http://10.0.0.1/cat.png"))
    write_prompts(3)
    shown = errors_on_terminal(lambda: batch("prompts.txt", "--model", "flux", "--image-dir", "images"))
    assert "3/3" in shown
    assert "failed=1" in shown
    assert "10.0.0.1 is no public host" in shown
    assert "g4f-websim: 2 of 3 rows have a response, 1 failed" in shown


def test_reports_now_and_then_without_tqdm(websim_server, monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    monkeypatch.setattr(batch_output, "LINE_INTERVAL", 0)
    websim_server.inject(Fault(status=400))
    write_prompts(2)
    lines = errors_on_terminal(lambda: batch("prompts.txt", "--concurrency", "1")).splitlines()
    assert lines[:2] == ["g4f-websim: 0 of 2 rows, 1 failed", "g4f-websim: 1 of 2 rows, 1 failed"]
    assert lines[2].startswith("g4f-websim: 1 of 2 rows have a response, 1 failed")
