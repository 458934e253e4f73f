"""Arguments as people pass them: keys, model names, logins of proxies, JSON, and misspelled names."""

import base64
import json

import pytest
from g4f.client import AsyncClient

from g4f_websim import Websim
from g4f_websim.wire.misspelled import meant_name
from tests.support.calls import HELLO, JWT, call_websim
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


PASTED = f'"Bearer {JWT}"\n'
KEYS = {"str": PASTED, "bytes": PASTED.encode(), "dict": {"Websim": PASTED}, "variable": None}


@pytest.mark.parametrize("api_key", KEYS.values(), ids=KEYS)
async def test_pasted_key_is_sent_as_token(server, monkeypatch, api_key):
    if api_key is None:
        monkeypatch.setenv("WEBSIM_API_KEY", PASTED)
    await call_websim(None, HELLO, api_key=api_key)
    assert f"authorization: bearer {JWT}\r\n".lower() in server.requests[0].head.decode().lower()


@pytest.mark.parametrize(
    ("model", "prompt", "is_image"),
    [
        *[("websim:flux", None, True), ("WEBSIM:FLUX", None, True), ("Flux", None, True), (" flux ", None, True)],
        *[
            ("Websim:auto", "a cat", True),
            ("AUTO", "a cat", True),
            ("Websim:", "a cat", True),
            ("Websim:auto", None, False),
        ],
        *[("websim:Gemini-1.5-Pro", "a cat", False), ("gpt-4o", "a cat", False)],
    ],
)
async def test_model_is_compared_without_case(server, model, prompt, is_image):
    await call_websim(model, HELLO, prompt=prompt)
    assert (b"run_image_generation" in server.requests[0].head) is is_image


@pytest.mark.parametrize(
    ("login", "sent"),
    [
        *[("анна:пароль", "анна:пароль"), ("ann:p%C3%A4ss", "ann:päss"), ("ann:€%3A%40", "ann:€:@")],
        *[("ann:p%40ss", "ann:p@ss"), ("ann", "ann:"), ("ann:a b".replace(" ", "%20"), "ann:a b")],
    ],
)
@pytest.mark.parametrize("site", ["http://websim.example", "https://websim.example"])
async def test_login_of_http_proxy_is_sent_as_utf_8(server, monkeypatch, site, login, sent):
    monkeypatch.setattr(Websim, "url", site)
    monkeypatch.setattr(Websim, "max_attempts", 1)
    if site.startswith("https"):
        server.respond = lambda request: [http_response(status=403)]
    try:
        await call_websim(None, HELLO, proxy=f"http://{login}@{server.host}")
    except Exception as error:
        assert site.startswith("https"), error
    head = server.requests[0].head.decode()
    assert f"proxy-authorization: basic {base64.b64encode(sent.encode()).decode()}\r\n".lower() in head.lower()
    assert head.count("uthorization") == 1


async def test_json_passes_through_g4f_client(server):
    await AsyncClient(provider=Websim).chat.completions.create(HELLO, json=True)
    assert json.loads(server.requests[0].body)["json"] is True


@pytest.mark.parametrize(
    ("arguments", "warning"),
    [
        ({"aspect_ration": "16:9"}, "the argument 'aspect_ration' is not known: did you mean aspect_ratio?"),
        ({"widht": 9}, "the argument 'widht' is not known: did you mean width?"),
        ({"siez": "9x9"}, "the argument 'siez' is not known: did you mean size?"),
        ({"model": "gemini-2.5-por"}, "the model 'gemini-2.5-por' is not known: did you mean gemini-2.5-pro?"),
        ({"model": "Websim:flx"}, "the model 'flx' is not known: did you mean flux?"),
    ],
    ids=repr,
)
async def test_warns_once_of_misspelled_name(server, caplog, arguments, warning):
    arguments = {"model": None, "messages": HELLO, **arguments}
    for _ in range(2):
        await call_websim(**arguments)
    assert [record.getMessage() for record in caplog.records] == [warning]
    assert len(server.requests) == 2


@pytest.mark.parametrize("model", [None, "", "auto", "flux", "gemini-2.5-pro", "gemini-2.0-flash", "gpt-4o"])
async def test_does_not_warn_of_what_g4f_passes(caplog, model):
    await call_websim(model, HELLO, size="1024x1024", json=None, **PASSED_BY_G4F)
    assert not caplog.records


KNOWN = ("n", "seed", "size", "width", "aspect_ratio", "gemini-2.5-pro", "flux")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        *[("aspect_ration", "aspect_ratio"), ("aspectRatio", "aspect_ratio"), ("apsect_ratio", "aspect_ratio")],
        *[("widht", "width"), ("with", "width"), ("Width", "width"), ("sed", "seed"), ("seeds", "seed")],
        *[("gemini-2.5-por", "gemini-2.5-pro"), ("gemini-25-pro", "gemini-2.5-pro"), ("flx", "flux")],
    ],
)
def test_finds_known_name_one_edit_away(name, meant):
    assert meant_name(name, KNOWN) == meant


@pytest.mark.parametrize("name", ["m", "", "nn", "sde", "esed_", "ratio", "gemini-2.0-pro", "gemini-1.5-pro", "gpt-4o"])
def test_other_names_are_not_misspelled(name):
    assert meant_name(name, KNOWN) is None
