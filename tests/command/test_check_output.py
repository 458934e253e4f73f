"""The report and the output of `g4f-websim check`: what they show, and what they never show."""

import io
import re
import sys

import pytest

from g4f_websim import Websim
from g4f_websim.command import check
from g4f_websim.emulator import Fault
from g4f_websim.wire.endpoints import CHAT_PATH
from tests.support.check import (
    COLUMNS,
    EMAIL,
    EXPIRED_TOKEN,
    MARKER,
    TOKEN,
    json_fault,
    page,
    redirect,
    refusal,
    run_in_shell,
)
from tests.support.processes import make_home, run_command
from tests.support.raw_server import raw_server_in_thread

# The report


def test_report_shows_requests_and_chosen_headers(websim_server, run_check):
    headers = {"cf-ray": "8a1-FRA", "Set-Cookie": MARKER, "Retry-After": "7", "X-Other": "hidden"}
    websim_server.inject(page(503, "Down", **headers))
    websim_server.inject(redirect(f"https://ann:{MARKER}@websim.example/x?{MARKER}"))
    report = run_check("--report").text.partition("\n\n### g4f-websim check\n\n```text\n")[2]
    assert report.startswith("g4f-websim ")
    assert "\nproject: random, login: none, proxy: none\n" in report
    assert f"\nPOST {websim_server.url}{CHAT_PATH}\nstatus: 503, " in report
    for line in ("cf-ray: 8a1-FRA", "retry-after: 7", "body: an HTML page: <title>Down</title>"):
        assert f"\n{line}\n" in report
    assert "\nlocation: https://" in report
    assert "hidden" not in report
    assert report.endswith("\n```\n")


@pytest.mark.parametrize(("key", "shown"), [(TOKEN, "token"), (EXPIRED_TOKEN, "expired token")])
def test_report_names_settings(websim_server, run_check, monkeypatch, key, shown):
    monkeypatch.setenv("WEBSIM_API_KEY", key)
    monkeypatch.setenv("WEBSIM_PROJECT_ID", "mine")
    monkeypatch.setenv("G4F_PROXY", websim_server.url)
    assert f"project: configured, login: {shown}, proxy: yes" in run_check("--report").text


def test_report_shows_errors_without_response(websim_server, run_check):
    websim_server.inject(Fault(disconnect=True))
    report = run_check("--report").text
    assert re.search(r"\nstatus: -, \S+ s\nerror: No response from .*: the connection was closed", report)


# The output


def test_help_fits_into_the_width(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(COLUMNS))
    with pytest.raises(SystemExit, match="0"):
        check.main(["--help"])
    lines = capsys.readouterr().out.splitlines()
    assert any("--also URL" in line for line in lines)
    assert [line for line in lines if len(line) > COLUMNS] == []


def test_wraps_a_long_url_so_that_a_shell_joins_it(websim_server, run_check):
    websim_server.inject(Fault(status=404), times=2)
    with raw_server_in_thread() as server:
        url = server.url + "/deeper" * 40
        result = run_check("--also", url)
    pasted = result.text.partition("    export")[2]
    assert run_in_shell(f"export{pasted}", "WEBSIM_URL") == url


def test_does_not_show_the_password_of_the_site(websim_server, run_check, monkeypatch):
    monkeypatch.setattr(Websim, "url", websim_server.url.replace("//", f"//user:{MARKER}@"))
    websim_server.inject(refusal(404, f"no {MARKER}"), times=2)
    result = run_check("--report")
    assert result.lines[1] == f"site     {websim_server.url} (with a user and password)"


def test_prints_no_control_character_of_a_body(websim_server, run_check):
    websim_server.inject(json_fault(200, {"\x1b[31m" + "x" * 500: 1, "two words": EMAIL}), times=2)
    result = run_check("--report")
    assert "\x1b" not in result.text


def test_replaces_characters_that_the_output_cannot_represent(websim_server, monkeypatch):
    websim_server.inject(Fault(status=500, body="größer".encode()), times=2)
    output = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", output)
    assert check.main([]) == 1
    output.seek(0)
    assert "gr??er" in output.read()


def test_prints_no_error_if_the_reader_of_its_output_ends(websim_server, tmp_path):
    home = make_home(tmp_path)
    script = f'"{sys.executable}" -m g4f_websim check | head -1'
    done = run_command(home=home, command=("sh", "-c", script), WEBSIM_URL=websim_server.url)
    assert done.stdout.startswith("g4f-websim ")
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == ""
