"""Targets: URLs are checked, and the secrets in them are known."""

import base64

import pytest

from g4f_websim.transport.target import Target
from tests.support.calls import JWT

URL = "https://websim.com/api"


def login(text: str) -> str:
    """Return a user and a password as the header Proxy-Authorization has them."""
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("url", "host"),
    [
        *[(URL, "websim.com"), ("http://127.0.0.1:8080/api", "127.0.0.1:8080"), ("http://[::1]:8080", "[::1]:8080")],
        *[("https://WEBSIM.com", "WEBSIM.com"), ("http://ann:pass@127.0.0.1:8080/api", "127.0.0.1:8080")],
    ],
)
def test_accepts_url(url, host):
    target = Target(url)
    assert (target.url, target.host, target.proxy_host) == (url, host, "")


@pytest.mark.parametrize(
    ("proxy", "socks_proxy", "http_proxy"),
    [
        *[(f"{scheme}://host:3128", None, f"{scheme}://host:3128") for scheme in ("http", "https")],
        *[(f"{scheme}://host:3128", f"{scheme}://host:3128", None) for scheme in ("socks4", "socks5", "socks5h")],
        ("http://host:3128/", None, "http://host:3128/"),
        ("SOCKS5H://ann:pass@host:3128", "socks5h://ann:pass@host:3128", None),
        ("socks4://ann@host:3128", "socks4://ann:@host:3128", None),
    ],
)
def test_accepts_proxy_and_writes_it_as_its_library_needs_it(proxy, socks_proxy, http_proxy):
    target = Target(URL, proxy=proxy)
    assert (target.socks_proxy, target.http_proxy, target.proxy_host) == (socks_proxy, http_proxy, "host:3128")


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
    *[("socks://ann:marker@host:1080", "socks://***"), ("http://", "http://***"), ("http://[", "http://***")],
    *[("https://:80", "https://***"), ("https://user@", "https://***"), ("https://host /", "https://***")],
]
MALFORMED_SITES = [("", "***"), ("socks5://marker:1080", "socks5://***"), ("https://host\r", "https://***")]
MALFORMED_PROXIES = [("http://marker:3128/path", "http://***"), ("socks5://marker:1080/path", "socks5://***")]


@pytest.mark.parametrize(
    ("setting", "url", "shown"),
    [
        *[("proxy", *row) for row in MALFORMED + MALFORMED_PROXIES],
        *[("G4F_PROXY", *row) for row in MALFORMED[:1] + MALFORMED_PROXIES],
        *[("WEBSIM_URL or Websim.url", *row) for row in MALFORMED + MALFORMED_SITES],
    ],
)
def test_malformed_url_is_named_and_never_shown(monkeypatch, setting, url, shown):
    monkeypatch.setenv("G4F_PROXY", url if setting == "G4F_PROXY" else "http://host:3128")
    with pytest.raises(
        ValueError, match=f"^{setting}: a URL like http.* with the scheme http.* and a valid "
    ) as raised:
        Target(url) if "url" in setting else Target(URL, proxy=url)
    assert str(raised.value).endswith(f", not {shown!r}")


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
    ("target", "secrets"),
    [
        (
            Target(URL, "token", "a-long-key", "http://ann:p%40ss@host:3128"),
            {"token", "a-long-key", "p%40ss", "p@ss", login("ann:p@ss")},
        ),
        (Target(URL, proxy="http://анна:пароль@host:3128"), {"пароль", login("анна:пароль")}),
        (Target("http://ann:p%40ss@127.0.0.1:8080/api"), {"p%40ss", "p@ss"}),
        # A placeholder in place of a key is an ordinary word.
        *((Target(URL, api_key=key, proxy="http://host:3128"), set()) for key in (None, "", "e", "websim")),
    ],
)
def test_secrets_are_token_key_and_passwords(target, secrets):
    assert set(target.secrets) == secrets


def test_representation_contains_no_secret():
    assert repr(Target(URL, "token", "key", "http://ann:pass@host:3128")) == f"Target(url='{URL}')"
