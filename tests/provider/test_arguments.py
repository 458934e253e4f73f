"""Arguments as people and g4f pass them: models, ids, keys, logins of proxies, and what is ignored or rejected."""

import base64
import json
from contextlib import nullcontext

import pytest
from g4f.client import AsyncClient

from g4f_websim import Websim, WebsimError
from g4f_websim.wire.misspelled import meant_name
from tests.support.calls import CALLS_WEBSIM, HELLO, JWT, call_websim, make_token
from tests.support.interpreter import run_python
from tests.support.raw_server import http_response

# What g4f's clients and its server pass beside the arguments that Websim knows.
PASSED_BY_G4F = {
    "stream": True, "max_tokens": 9, "stop": None, "base_url": "http://127.0.0.1:9", "conversation": None,
    "download_media": True, "ignored": [], "stream_timeout": 9, "temperature": 1.0, "top_p": 1.0, "tools": None,
    "tool_choice": None, "user": "Ann", "images": None, "image": None, "negative_prompt": "", "resolution": "1k",
    "quality": "hd", "style": "vivid", "logprobs": None, "modalities": [], "web_search": False, "action": "next",
}  # fmt: skip


@pytest.fixture(autouse=True)
def any_response(server):
    server.respond = lambda request: [http_response(b'{"content": "{}", "url": "/cat.png"}')]


def header(server, name: str) -> list[str]:
    """Return the values of a header in the only request."""
    (request,) = server.requests
    lines = [line.split(": ", 1) for line in request.head.decode().split("\r\n")[1:-2]]
    return [value for found, value in lines if found.lower() == name]


@pytest.mark.parametrize(
    ("model", "prompt", "is_image"),
    [
        *[("flux", None, True), ("Websim:flux", None, True), ("websim:flux", None, True), ("WEBSIM:FLUX", None, True)],
        *[(" WEBSIM: Flux\n", None, True), (None, "a cat", True), ("", "a cat", True), ("auto", "a cat", True)],
        *[("Websim:", "a cat", True), ("Websim:auto", "a cat", True), ("AUTO", "a cat", True)],
        *[(None, None, False), ("", None, False), ("auto", None, False), ("Websim:auto", None, False)],
        *[("gemini-1.5-pro", "a cat", False), ("websim:Gemini-2.5-Pro", "a cat", False), ("gpt-4o", "a cat", False)],
        *[("Other:flux", "a cat", False), ("websimflux", "a cat", False)],
    ],
)
async def test_model_and_prompt_select_request(server, model, prompt, is_image):
    await call_websim(model, HELLO, prompt=prompt)
    (request,) = server.requests
    path = "run_image_generation" if is_image else "run_chat_completion"
    assert request.head.startswith(f"POST /api/v1/inference/{path} ".encode())


@pytest.mark.parametrize(
    ("environment", "argument", "sent"),
    [("https://websim.com/p/vno75_2x4ii3ayx8wmmw", None, "vno75_2x4ii3ayx8wmmw"), ("no/id", "mine", "mine")],
)
async def test_sends_project_id_of_argument_or_environment(server, monkeypatch, environment, argument, sent):
    monkeypatch.setenv("WEBSIM_PROJECT_ID", environment)
    await call_websim(None, HELLO, project_id=argument)
    assert json.loads(server.requests[0].body)["project_id"] == sent


OTHER_JWT = make_token(sub="2")
PASTED = f'"Bearer {JWT}"\n'
# Each row: the argument, the environment variable, the token that is sent.
KEYS = {
    "token": (JWT, "", JWT),
    "pasted": (PASTED, "", JWT),
    "bytes": (PASTED.encode(), "", JWT),
    "dict": ({"Websim": PASTED, "Other": "sk-1234"}, "", JWT),
    "pasted into environment": (None, PASTED, JWT),
    "both": (JWT, OTHER_JWT, JWT),
    "neither": (None, "", None),
    "key of OpenAI": ("sk-1234567890", JWT, JWT),
    "keys of OpenAI": ({"Websim": "sk-1234567890"}, "sk-1234567890", None),
    "key of OpenAI alone": ("sk-1234567890", "", None),
    "four parts": (f"{JWT}.x", "sk-1234567890", None),
    "token of another provider": ({"Other": OTHER_JWT}, JWT, JWT),
    "token of another provider alone": ({"Other": JWT}, "", None),
    "dict with another key": ({"Websim": "sk-1234567890"}, JWT, JWT),
    "empty": ("", JWT, JWT),
    "number": (7, JWT, JWT),
    "list": ([OTHER_JWT], JWT, JWT),
}


@pytest.mark.parametrize("model", ["", "flux"])
@pytest.mark.parametrize(("api_key", "environment", "token"), KEYS.values(), ids=KEYS)
async def test_sends_only_websim_tokens(server, monkeypatch, model, api_key, environment, token):
    monkeypatch.setenv("WEBSIM_API_KEY", environment)
    await call_websim(model, HELLO, api_key=api_key)
    assert header(server, "authorization") == ([f"Bearer {token}"] if token else [])
    assert b"sk-" not in server.requests[0].head + server.requests[0].body


def test_other_key_is_logged_once(websim_server):
    program = f"import logging; logging.basicConfig(level='INFO', format='%(levelname)s %(message)s'); {CALLS_WEBSIM}"
    program = program.replace("HELLO)", "HELLO, api_key='sk-of-the-caller')") + f"; {CALLS_WEBSIM}"
    _, errors = run_python("-c", program, WEBSIM_URL=websim_server.url, WEBSIM_API_KEY="sk-of-the-environment")
    assert len(websim_server.requests) == 2
    assert errors.splitlines() == [
        "INFO api_key is not a Websim token (a JSON Web Token): not sent",
        "INFO WEBSIM_API_KEY is not a Websim token (a JSON Web Token): not sent",
    ]


@pytest.mark.parametrize(
    ("login", "sent"),
    [
        *[("анна:пароль", "анна:пароль"), ("ann:p%C3%A4ss", "ann:päss"), ("ann:€%3A%40", "ann:€:@")],
        *[("ann:p%40ss", "ann:p@ss"), ("ann", "ann:"), ("ann:a%20b", "ann:a b")],
    ],
)
@pytest.mark.parametrize("site", ["http://websim.example", "https://websim.example"])
async def test_http_proxy_receives_its_own_login_only_and_as_utf_8(server, monkeypatch, site, login, sent):
    monkeypatch.setattr(Websim, "url", site)
    is_tunnel = site.startswith("https")
    if is_tunnel:
        server.respond = lambda request: [http_response(status=403)]
    with pytest.raises(WebsimError) if is_tunnel else nullcontext():
        await call_websim(None, HELLO, proxy=f"http://{login}@{server.host}", api_key=JWT if is_tunnel else "sk-1")
    assert server.requests[0].head.startswith(b"CONNECT " if is_tunnel else b"POST ")
    assert header(server, "proxy-authorization") == [f"Basic {base64.b64encode(sent.encode()).decode()}"]
    assert header(server, "authorization") == []
    assert JWT.encode() not in server.requests[0].head


async def test_json_passes_through_g4f_client(server):
    await AsyncClient(provider=Websim).chat.completions.create(HELLO, json=True)
    assert json.loads(server.requests[0].body)["json"] is True


# Each row: the model, the arguments, the beginning of the message. The tests of bodies contain all other arguments.
REJECTED = {
    "model": (7, {}, "model: a name"),
    "image model of another service": ("dall-e-3", {}, "model: Websim's image model is flux, not 'dall-e-3'"),
    "messages": (None, {"messages": []}, "messages: a message with content, as in messages="),
    "project_id": (None, {"project_id": "a/b"}, "project_id: 1 to 64"),
    "timeout": (None, {"timeout": -1}, "timeout: seconds"),
    "proxy": (None, {"proxy": "127.0.0.1:3128"}, "proxy: a URL like"),
    "prompt": ("flux", {"prompt": " "}, "prompt: a description"),
    "n": ("flux", {"n": 11}, "n: 1 to 10 images"),
    "n of 5000 digits": ("flux", {"n": 10**5000}, "n: 1 to 10 images"),
    "height of 5000 digits": ("flux", {"height": 10**5000}, "height: pixels, as in height=1024, not this value"),
}


@pytest.mark.parametrize(("model", "arguments", "message"), REJECTED.values(), ids=REJECTED)
async def test_rejects_argument_before_anything_is_sent(server, model, arguments, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        await call_websim(model, **{"messages": HELLO, **arguments})
    assert not server.requests


@pytest.mark.parametrize("model", [None, "", "auto", "flux", "gemini-2.5-pro", "gemini-2.0-flash", "gpt-4o"])
async def test_ignores_what_g4f_passes_without_a_warning(server, caplog, model):
    await call_websim(model, HELLO, size="1024x1024", json=None, **PASSED_BY_G4F)
    assert not caplog.records
    fields = {"prompt", "aspect_ratio", "width", "height"} if model == "flux" else {"messages"}
    assert json.loads(server.requests[0].body).keys() == {"project_id", *fields}


@pytest.mark.parametrize(
    ("arguments", "warning"),
    [
        ({"aspect_ration": "16:9"}, "the argument 'aspect_ration' is not known: did you mean aspect_ratio?"),
        ({"model": "gemini-2.5-por"}, "the model 'gemini-2.5-por' is not known: did you mean gemini-2.5-pro?"),
        ({"model": "Websim:flx"}, "the model 'flx' is not known: did you mean flux?"),
    ],
    ids=repr,
)
async def test_warns_once_of_misspelled_name(server, caplog, arguments, warning):
    arguments = {"model": None, "messages": HELLO, **arguments}
    for _ in range(2):
        await call_websim(**arguments)
    assert caplog.messages == [warning]
    assert len(server.requests) == 2


KNOWN = ("n", "seed", "size", "width", "aspect_ratio", "gemini-2.5-pro", "flux")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        *[("aspect_ration", "aspect_ratio"), ("aspectRatio", "aspect_ratio"), ("apsect_ratio", "aspect_ratio")],
        *[("widht", "width"), ("with", "width"), ("Width", "width"), ("sed", "seed"), ("seeds", "seed")],
        *[("gemini-2.5-por", "gemini-2.5-pro"), ("gemini-25-pro", "gemini-2.5-pro"), ("flx", "flux")],
        *[(other, None) for other in ("m", "", "nn", "sde", "esed_", "ratio", "gemini-2.0-pro", "gemini-1.5-pro")],
        ("gpt-4o", None),
    ],
)
def test_finds_known_name_one_edit_away(name, meant):
    assert meant_name(name, KNOWN) == meant
