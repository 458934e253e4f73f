"""Login tokens: which keys are tokens, and when a token expires."""

from datetime import UTC, datetime

import pytest

from g4f_websim import Websim
from g4f_websim.wire.tokens import clean_key, is_expired, is_token, token_expiry
from tests.support.calls import JWT, base64url, make_token

OTHER_KEYS = {
    "OpenAI key": "sk-1234567890",
    "three short parts": "a.b.c",
    "empty": "",
    "four parts": f"{JWT}.x",
    "bytes": b"sk-1234567890",
    "other scheme": f"Basic {JWT}",
    "Bearer alone": "Bearer ",
    "break inside": f"{JWT[:9]}\n{JWT[9:]}",
    "header that is not JSON": "bm90IGpzb24.e30.c2ln",
    "header without alg": make_token({"typ": "JWT"}),
    "header that is a list": make_token([]),
    "header nested too deeply": f"{base64url('[' * 100_000)}.e30.c2ln",
    "number": 7,
    "None": None,
}


@pytest.mark.parametrize("header", ['{"alg":"none"}', '{"alg":"HS256"}', '{"alg":"RS512","typ":"JWT"}', '{ "alg": 1 }'])
def test_token_header_may_have_any_length(header):
    assert is_token(f"{base64url(header)}.e30.c2ln")


@pytest.mark.parametrize("key", OTHER_KEYS.values(), ids=OTHER_KEYS)
def test_other_keys_are_not_tokens(key):
    assert not is_token(key)


PASTED = [
    *(JWT, f"Bearer {JWT}", f"bearer\t{JWT}", f"BEARER  {JWT}", f" {JWT}\r\n", f'"{JWT}"', f"'{JWT}'", f"`{JWT}`"),
    *(
        f'"Bearer {JWT}"',
        f"Bearer '{JWT}'",
        f"\ufeff{JWT}\n",
        f"\u201c{JWT}\u201d",
        f'"{JWT}",',
        f"Bearer Bearer {JWT}",
    ),
]


@pytest.mark.parametrize("as_bytes", [False, True], ids=["str", "bytes"])
@pytest.mark.parametrize("key", PASTED, ids=ascii)
def test_key_is_found_in_what_was_pasted(key, as_bytes):
    pasted = key.encode() if as_bytes else key
    assert clean_key(pasted) == JWT
    assert Websim.is_provider_api_key(pasted)


@pytest.mark.parametrize(
    ("key", "cleaned"),
    [("Bearer sk-1 ", "sk-1"), ("bearer", "bearer"), ("Bearer-1", "Bearer-1"), (7, ""), (b"\xff", "\ufffd")],
)
def test_cleans_keys_of_other_services(key, cleaned):
    assert clean_key(key) == cleaned


def test_provider_recognizes_its_keys():
    assert [name for name, key in OTHER_KEYS.items() if Websim.is_provider_api_key(key)] == []


@pytest.mark.parametrize("expiry", [1_700_000_000, 1_700_000_000.5])
def test_reads_expiry(expiry):
    assert token_expiry(make_token(exp=expiry)) == datetime.fromtimestamp(expiry, UTC)


@pytest.mark.parametrize(
    "expiry", ["soon", None, [], pytest.param(10**400, id="400 digits"), 1e300, float("nan")], ids=repr
)
def test_ignores_malformed_expiry(expiry):
    assert token_expiry(make_token(exp=expiry)) is None


@pytest.mark.parametrize("token", [JWT, None, "", "sk-1234567890", "e30.W10.c2ln"])
def test_token_without_expiry_does_not_expire(token):
    assert token_expiry(token) is None
    assert not is_expired(token)


@pytest.mark.parametrize(("seconds", "expired"), [(-60, True), (60, False)])
def test_token_expires(seconds, expired):
    assert is_expired(make_token(exp=datetime.now(UTC).timestamp() + seconds)) is expired
