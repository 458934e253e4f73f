"""Targets: URLs are checked, and the secrets in them are known."""

import base64

import pytest

from g4f_websim.transport.target import Target
from tests.support.calls import JWT

URL = "https://websim.com/api"


@pytest.mark.parametrize("url", [URL, "http://127.0.0.1:8080/api", "http://[::1]:8080", "https://WEBSIM.com"])
def test_accepts_url(url):
    assert Target(url).url == url


@pytest.mark.parametrize(
    "url",
    [
        *("websim.com", "ftp://websim.com", "https://", "http://[", "http://host:0", "http://host:99999", ""),
        *("https://:80", "https://user@", "https://websim.com\r", "https://websim.com /", "https://websim.com?page=1"),
        *("https://websim.com#top", "http://user:12/34@websim.com"),
    ],
)
def test_rejects_malformed_url(url):
    message = "^WEBSIM_URL or Websim.url: a URL like https://websim.com with the scheme http or https and "
    with pytest.raises(ValueError, match=message):
        Target(url)


@pytest.mark.parametrize("scheme", ["http", "https", "socks4", "socks5", "socks5h"])
def test_accepts_proxy(scheme):
    proxy = f"{scheme}://127.0.0.1:3128"
    target = Target(URL, proxy=proxy)
    is_socks = scheme.startswith("socks")
    assert (target.socks_proxy, target.http_proxy) == ((proxy, None) if is_socks else (None, proxy))
    assert target.proxy_host == "127.0.0.1:3128"


@pytest.mark.parametrize(
    "proxy", ["ftp://127.0.0.1:21", "127.0.0.1:3128", "http://127.0.0.1:99999", "http://", "http://[", "socks://a:1"]
)
def test_rejects_malformed_proxy(proxy):
    message = "^proxy: a URL like http://user:password@host:3128 with the scheme http, https, .* or socks5h and a "
    with pytest.raises(ValueError, match=message):
        Target(URL, proxy=proxy)


def test_names_variable_of_malformed_proxy(monkeypatch):
    monkeypatch.setenv("G4F_PROXY", "127.0.0.1:3128")
    with pytest.raises(ValueError, match="^G4F_PROXY: a URL like .* not '127.0.0.1:3128'$"):
        Target(URL, proxy="127.0.0.1:3128")
    with pytest.raises(ValueError, match="^proxy: a URL like"):
        Target(URL, proxy="127.0.0.1:3129")


@pytest.mark.parametrize(
    ("proxy", "shown"),
    [
        ("ftp://ann:pass/word@host:21", "ftp://***@host:21"),
        ("http://ann:p@ss@host:0", "http://***@host:0"),
        ("ann:pass@host:3128", "host:3128"),
        ("htp://ann:pa://ss@host:3128", "htp://***@host:3128"),
        ("http://user:pass#word@host:3128", "http://***@host:3128"),
        ("http://user:12/pass@host:3128", "http://***@host:3128"),
        (JWT, "***"),
    ],
)
def test_rejected_proxy_is_shown_without_password(proxy, shown):
    with pytest.raises(ValueError, match="^proxy: a URL like") as raised:
        Target(URL, proxy=proxy)
    assert str(raised.value).endswith(f", not {shown!r}")


def test_representation_contains_no_secret():
    assert repr(Target(URL, "token", "key", "http://ann:pass@host:3128")) == f"Target(url='{URL}', host='websim.com')"


def test_host_contains_port_but_no_login():
    assert Target("http://ann:pass@127.0.0.1:8080/api").host == "127.0.0.1:8080"
    assert Target(URL).proxy_host == ""


def test_secrets_are_token_key_and_proxy_login():
    target = Target(URL, "token", "a-long-key", "http://ann:p%40ss@host:3128")
    basic_login = base64.b64encode(b"ann:p@ss").decode()
    assert target.secrets == ["token", "a-long-key", "p%40ss", "p@ss", basic_login]


def test_password_in_url_is_a_secret():
    assert set(Target("http://ann:p%40ss@127.0.0.1:8080/api").secrets) == {"p%40ss", "p@ss"}


@pytest.mark.parametrize("api_key", [None, "", "e", "websim"], ids=repr)
def test_placeholder_key_is_not_a_secret(api_key):
    assert Target(URL, api_key=api_key, proxy="http://host:3128").secrets == []
