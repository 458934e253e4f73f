"""Login tokens: which keys are tokens, and when a token expires."""

from datetime import UTC, datetime

import pytest

from g4f_websim import Websim
from g4f_websim.wire.tokens import is_expired, is_token, token_expiry
from tests.support.calls import JWT, base64url, make_token

OTHER_KEYS = {
    "OpenAI key": "sk-1234567890",
    "three short parts": "a.b.c",
    "empty": "",
    "four parts": f"{JWT}.x",
    "trailing line break": f"{JWT}\n",
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


def test_provider_recognizes_its_keys():
    assert Websim.is_provider_api_key(JWT)
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
