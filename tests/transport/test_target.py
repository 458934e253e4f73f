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
    with pytest.raises(ValueError, match="^G4F_PROXY: a URL like"):
        Target(URL, proxy="127.0.0.1:3128")
    with pytest.raises(ValueError, match="^proxy: a URL like"):
        Target(URL, proxy="127.0.0.1:3129")


# Each malformed URL contains marker, and the last part says how it is shown.
MALFORMED = [
    *[("marker.example.com:3128:ann:marker", "***"), ("http://marker.example.com:3128:ann:marker", "http://***")],
    *[("http://marker.example.com:3128@ann:marker", "http://***"), ("ann:marker@host:3128", "***")],
    *[("ann:marker:host:3128", "***"), ("marker", "***"), (f"marker{JWT}", "***"), ("marker://host:3128", "***")],
    *[("ftp://ann:marker/word@host:21", "ftp://***"), ("htp://ann:mar://marker@host:3128", "***")],
    *[("http://user:marker#word@host:3128", "http://***"), ("http://user:marker?word@host:3128", "http://***")],
    *[("http://user:12/marker@host:3128", "http://***"), ("http://ann:p@marker@host:0", "http://***")],
    *[("http:/ann:marker@host:3128", "***"), ("http:ann:marker@host:3128", "***"), ("//ann:marker@host", "***")],
    *[("HTTP://ann:marker@host:99999", "HTTP://***"), ("http://ann:mar ker@host marker", "http://***")],
    *[("http://ann:[marker@host", "http://***"), ("https://host:3128?token=marker", "https://***")],
    *[("https://host#marker", "https://***"), (f"https://host\n{JWT}marker", "https://***")],
    ("socks://ann:marker@host:1080", "socks://***"),
]


@pytest.mark.parametrize(("url", "shown"), MALFORMED)
@pytest.mark.parametrize("setting", ["proxy", "G4F_PROXY", "WEBSIM_URL"])
def test_malformed_url_is_never_shown(monkeypatch, url, shown, setting):
    if setting == "G4F_PROXY":
        monkeypatch.setenv(setting, url)
    with pytest.raises(ValueError, match=f"^{setting}( or Websim.url)?: a URL like ") as raised:
        Target(url) if setting == "WEBSIM_URL" else Target(URL, proxy=url)
    assert str(raised.value).endswith(f", not {shown!r}")


@pytest.mark.parametrize("proxy", ["http://marker:3128/path", "socks5://marker:1080/path", "http://marker/a?b"])
def test_proxy_with_path_is_malformed(proxy):
    with pytest.raises(ValueError, match="^proxy: a URL like .*, not '(http|socks5)://\\*\\*\\*'$"):
        Target(URL, proxy=proxy)
    assert Target(URL, proxy="http://host:3128/").proxy_host == "host:3128"


@pytest.mark.parametrize(
    "proxy",
    [
        *("socks5://marker", "socks4://marker:", "socks5://märker:a@host:1080", "socks5h://ann:m%C3%A4rker@host:1080"),
        *(f"socks5://{'marker' * 50}:a@host:1080", f"socks5://ann:{'marker' * 50}@host:1080"),
    ],
)
def test_proxy_that_socks_library_cannot_use_is_malformed(proxy):
    with pytest.raises(ValueError, match="^proxy: the URL of a SOCKS proxy with a port and .* ASCII ") as raised:
        Target(URL, proxy=proxy)
    assert "rker" not in str(raised.value)


@pytest.mark.parametrize(
    ("proxy", "used"),
    [
        ("SOCKS5H://ann:pass@host:1080", "socks5h://ann:pass@host:1080"),
        ("socks4://ann@host:1080", "socks4://ann:@host:1080"),
        ("socks5://host:1080", "socks5://host:1080"),
    ],
)
def test_socks_proxy_is_written_as_its_library_needs_it(proxy, used):
    assert (Target(URL, proxy=proxy).socks_proxy, Target(URL, proxy=proxy).http_proxy) == (used, None)


def test_representation_contains_no_secret():
    assert repr(Target(URL, "token", "key", "http://ann:pass@host:3128")) == f"Target(url='{URL}', host='websim.com')"


def test_host_contains_port_but_no_login():
    assert Target("http://ann:pass@127.0.0.1:8080/api").host == "127.0.0.1:8080"
    assert Target(URL).proxy_host == ""


def test_secrets_are_token_key_and_proxy_login():
    target = Target(URL, "token", "a-long-key", "http://ann:p%40ss@host:3128")
    basic_login = base64.b64encode(b"ann:p@ss").decode()
    assert target.secrets == ["token", "a-long-key", "p%40ss", "p@ss", basic_login]


def test_login_of_proxy_in_another_alphabet_is_a_secret():
    basic_login = base64.b64encode("анна:пароль".encode()).decode()
    assert basic_login in Target(URL, proxy="http://анна:пароль@host:3128").secrets


def test_password_in_url_is_a_secret():
    assert set(Target("http://ann:p%40ss@127.0.0.1:8080/api").secrets) == {"p%40ss", "p@ss"}


@pytest.mark.parametrize("api_key", [None, "", "e", "websim"], ids=repr)
def test_placeholder_key_is_not_a_secret(api_key):
    assert Target(URL, api_key=api_key, proxy="http://host:3128").secrets == []
