"""The back end of g4f's web page, in the server of `g4f-websim api`.

g4f lists the providers that a file in its package names, so the server runs with a copy of g4f.
"""

import json
import os
import shutil
from pathlib import Path

import g4f
import httpx
import pytest

from g4f_websim import Websim
from tests.support.calls import HELLO
from tests.support.limits import MAX_SECONDS
from tests.support.processes import API, first_on_path, make_home, server
from tests.support.responses import PNG_MAGIC, REPLY

PACKAGE = Path(g4f.__file__).parent
LIST = "providers.json"


@pytest.fixture(scope="module")
def gui(shared_emulator, tmp_path_factory):
    home = make_home(tmp_path_factory.mktemp("gui"))
    packages = home / "packages"
    shutil.copytree(PACKAGE, packages / PACKAGE.name)
    # With --debug, g4f rewrites the list if the file is older than five minutes.
    os.utime(packages / PACKAGE.name / LIST, (0, 0))
    variables = {"WEBSIM_URL": shared_emulator.url, "PYTHONPATH": first_on_path(packages)}
    with server(*API, "--debug", home=home, **variables) as started:
        yield started


def conversation(gui, **fields):
    """Send a conversation and return its events by type."""
    body = {"provider": "Websim", "messages": HELLO, **fields}
    response = httpx.post(f"{gui.url}/backend-api/v2/conversation", json=body, timeout=MAX_SECONDS)
    lines = response.raise_for_status().text.splitlines()
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    return {event["type"]: event for event in events}


def test_describes_websim_once_and_leaves_list_of_g4f_unchanged(gui, emulator):
    providers = gui.get("/backend-api/v2/providers")
    assert len(providers) > 1
    (listed,) = [provider for provider in providers if provider["name"] == "Websim"]
    assert listed == {
        "name": "Websim",
        "label": "Websim",
        "parent": None,
        "login_url": emulator.url,
        "image": 1,
        "vision": True,
        **dict.fromkeys(("audio", "video", "live"), 0),
        **dict.fromkeys(("nodriver", "hf_space", "active_by_default", "auth", "login"), False),
    }
    assert (gui.home / "packages" / "g4f" / LIST).read_bytes() == (PACKAGE / LIST).read_bytes()


def test_lists_models(gui):
    models = gui.get("/backend-api/v2/models/Websim")
    assert {model["id"]: model["image"] for model in models} == {name: name == "flux" for name in Websim.models}


def test_conversation_returns_text_and_image(gui):
    assert conversation(gui, model="gemini-2.5-pro")["content"]["content"] == REPLY
    (url,) = conversation(gui, model="flux", download_media=False)["content"]["urls"]
    assert httpx.get(url).content.startswith(PNG_MAGIC)


def test_gui_command_lists_websim_and_sends_messages_as_they_are(tmp_path, emulator):
    messages = [*HELLO, {"role": "assistant", "content": "Yes?"}, *HELLO]
    with server("gui", "--port", "0", home=make_home(tmp_path), WEBSIM_URL=emulator.url) as gui:
        assert "Websim" in [provider["name"] for provider in gui.get("/backend-api/v2/providers")]
        assert conversation(gui, messages=messages)["content"]["content"] == REPLY
    assert emulator.requests[-1].json["messages"] == messages
