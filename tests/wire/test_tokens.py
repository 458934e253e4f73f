"""Login tokens: which keys are tokens, and when a token expires."""

import math
from datetime import UTC, datetime

import pytest

from g4f_websim import Websim
from g4f_websim.wire.tokens import clean_key, is_expired, is_token, token_expiry
from tests.support.calls import JWT, base64url, make_token

PASTED = [
    *(JWT, f"bearer\t{JWT}", f"BEARER  {JWT}", f" {JWT}\r\n", f"'{JWT}'", f"`{JWT}`", f'"Bearer {JWT}"'),
    *(f"Bearer '{JWT}'", f"\ufeff{JWT}\n", f"\u201c{JWT}\u201d", f'"{JWT}",', f"Bearer Bearer {JWT}"),
]
# The header of a token may have any length.
HEADERS = ['{"alg":"none"}', '{"alg":"HS256"}', '{"alg":"RS512","typ":"JWT"}', '{ "alg": 1 }', '{"alg":\n1}']
TOKENS = [f"{base64url(header)}.e30.c2ln" for header in HEADERS]

# Keys that are not tokens.
OTHER_KEYS = {
    "key of OpenAI": "sk-1234567890",
    "three short parts": "a.b.c",
    "four parts": f"{JWT}.x",
    "other scheme": f"Basic {JWT}",
    "Bearer alone": "bearer",
    "Bearer and a hyphen": "Bearer-1",
    "break inside": f"{JWT[:9]}\n{JWT[9:]}",
    "header that is not JSON": "bm90IGpzb24.e30.c2ln",
    "header without alg": make_token({"typ": "JWT"}),
    "header that is a list": make_token([]),
    "header nested too deeply": f"{base64url('[' * 100_000)}.e30.c2ln",
}
# Each row: what was pasted, what remains of it.
CLEANED_KEYS = {"Bearer sk-1 ": "sk-1", b"sk-1": "sk-1", b"\xff": "\ufffd", "": "", 7: "", None: ""}


@pytest.mark.parametrize("as_bytes", [False, True], ids=["str", "bytes"])
@pytest.mark.parametrize(
    ("key", "token"), [*((key, JWT) for key in PASTED), *((token, token) for token in TOKENS)], ids=ascii
)
def test_token_is_found_in_what_was_pasted(key, token, as_bytes):
    pasted = key.encode() if as_bytes else key
    assert clean_key(pasted) == token
    assert is_token(token)
    assert Websim.is_provider_api_key(pasted)


@pytest.mark.parametrize(
    ("key", "cleaned"),
    [*zip(OTHER_KEYS.values(), OTHER_KEYS.values(), strict=True), *CLEANED_KEYS.items()],
    ids=[*OTHER_KEYS, *CLEANED_KEYS],
)
def test_other_keys_are_not_tokens(key, cleaned):
    assert clean_key(key) == cleaned
    assert not is_token(key)
    assert not Websim.is_provider_api_key(key)


@pytest.mark.parametrize("expiry", [1_700_000_000, 1_700_000_000.5])
def test_reads_expiry(expiry):
    assert token_expiry(make_token(exp=expiry)) == datetime.fromtimestamp(expiry, UTC)


@pytest.mark.parametrize(
    "token",
    [
        *(JWT, None, "", "sk-1234567890", "e30.W10.c2ln"),
        *(make_token(exp=expiry) for expiry in ("soon", None, [], 10**400, 1e300, math.nan)),
    ],
    ids=lambda token: f"{token}"[:40],
)
def test_token_without_valid_expiry_does_not_expire(token):
    assert token_expiry(token) is None
    assert not is_expired(token)


@pytest.mark.parametrize(("seconds", "expired"), [(-60, True), (60, False)])
def test_token_expires(seconds, expired):
    assert is_expired(make_token(exp=datetime.now(UTC).timestamp() + seconds)) is expired
