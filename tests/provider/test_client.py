"""Websim through the installed g4f: the scenarios of all release lines, and what only newer g4f's clients can do."""

import json

import pytest
from g4f.client import Client

from g4f_websim import Websim
from tests.compat.lines import has_warning
from tests.support.calls import HELLO, JWT, PNG_URI
from tests.support.interpreter import run_python


def test_all_scenarios_pass_on_installed_g4f():
    # A process of its own, because some scenarios let nest_asyncio patch asyncio.
    printed, errors = run_python("-m", "tests.compat.scenarios")
    results = [json.loads(line) for line in printed.splitlines()]
    assert len(results) > 150
    assert [result for result in results if result["error"]] == []
    assert [line for line in errors.splitlines() if has_warning(line)] == []


def test_sends_input_image(websim_server):
    Client(provider=Websim).chat.completions.create(HELLO, image=PNG_URI)
    content = websim_server.requests[-1].json["messages"][-1]["content"]
    assert content[-1] == {"type": "image_url", "image_url": {"url": PNG_URI}}


def test_sends_api_key_of_client_only_if_websim_token(websim_server):
    for api_key in (JWT, "sk-1234567890"):
        Client(provider=Websim, api_key=api_key).chat.completions.create(HELLO)
    assert [request.header("authorization") for request in websim_server.requests] == [f"Bearer {JWT}", None]


@pytest.mark.parametrize("model", ["flux", None])
@pytest.mark.parametrize("provider", [Websim, "Websim"], ids=["class", "name"])
def test_image_provider_generates_image(websim_server, provider, model):
    response = Client(image_provider=provider).images.generate("a cat", model=model, response_format="url")
    assert response.data[0].url.startswith(websim_server.url)
    assert websim_server.requests[-1].json["prompt"] == "a cat"
