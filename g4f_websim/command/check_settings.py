"""The settings of the check, and how to correct a malformed one."""

import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from ..provider import Websim
from ..transport.causes import USE_NO_PROXY, Step
from ..transport.failures import USE_HTTP_PROXY
from ..transport.target import PROXY_FORM, PROXY_VARIABLE, SITE_FORM, Target, host_in, is_valid_url
from ..wire.bodies import PROJECT_ID_FORM, PROJECT_VARIABLE, check_project_id
from ..wire.endpoints import API_URL, DEFAULT_URL, URL_VARIABLE
from ..wire.redaction import REDACTED, excerpt, redact
from ..wire.tokens import TOKEN_VARIABLE, is_expired, is_token
from .check_steps import CHECK, SET_HTTP_PROXY, export, set_project

# The login of websim-cli, Websim's own command line tool.
TOKEN_FILE = "~/.websim-cli.json"
TOKEN_FIELD = "authToken"

# Variables that other programs read for a proxy; g4f and this package do not.
OTHER_PROXY_VARIABLES = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")

# The maximum length of a malformed value in an error.
MAX_SHOWN_CHARS = 300

# A host name with a dot or a port, and a path. A word with neither may be a key or a typing error.
_HOST = re.compile(
    r"([A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+|localhost|[A-Za-z0-9-]+(?=:))(:[0-9]{1,5})?(/[\w/.-]*)?", re.ASCII
)
_LOOPBACK = re.compile(r"(localhost|127\.[0-9.]+)(:|/|$)")
_SLUG_PAGE = re.compile(r"https?://[^/]+/@([\w-]+)/([\w-]+)/?", re.ASCII)


@dataclass(frozen=True)
class Settings:
    """The settings that requests of the check are sent with.

    Attributes:
        site: the URL of the site.
        project_id: the project id; empty for a random one.
        key: the value of WEBSIM_API_KEY, which is sent only if it is a Websim token.
        proxy: the URL of the proxy, if any.
        stored_token: the token that websim-cli stored, if any. It is never sent.
        unused_proxy: the name of a variable that contains a proxy for other programs, if any.
        sends_token: whether the site receives the token.
    """

    site: str
    project_id: str = ""
    key: str | None = field(default=None, repr=False)
    proxy: str | None = field(default=None, repr=False)
    stored_token: str | None = field(default=None, repr=False)
    unused_proxy: str = ""
    sends_token: bool = True

    @property
    def token(self) -> str | None:
        """The token that is sent."""
        return self.key if self.sends_token and is_token(self.key) else None

    @property
    def is_known_site(self) -> bool:
        """Whether the site is one of Websim's two known hosts."""
        return self.site in (DEFAULT_URL, API_URL)

    @property
    def shown_site(self) -> str:
        """The URL of the site without its user and password."""
        return without_login(self.site)

    @property
    def new_token(self) -> str | None:
        """The token that websim-cli stored, if it differs from the token in use and has not expired."""
        return None if self.stored_token == self.token or is_expired(self.stored_token) else self.stored_token

    def target(self, path: str = "") -> Target:
        """Return where a request to an endpoint goes."""
        return Target(self.site + path, self.token, self.key, self.proxy)


class SettingError(ValueError):
    """A setting is malformed; `steps` says what to do."""

    def __init__(self, message: str, steps: list[Step]) -> None:
        super().__init__(message)
        self.steps = steps


def without_login(url: str) -> str:
    """Return a URL without its user and password."""
    parts = urlsplit(url)
    return parts._replace(netloc=host_in(parts)).geturl()


# Read the settings


def read_settings() -> Settings:
    """Read the settings from the environment and from websim-cli's file.

    Raises:
        SettingError: a setting is malformed; the message names it.
    """
    site, proxy = Websim.url.rstrip("/"), os.environ.get(PROXY_VARIABLE)
    project = os.environ.get(PROJECT_VARIABLE)
    _validate(URL_VARIABLE, site, SITE_FORM, Target, steps_for_url)
    if proxy:
        _validate(PROXY_VARIABLE, proxy, PROXY_FORM, lambda url: Target(DEFAULT_URL, proxy=url), steps_for_proxy)
    if project:
        _validate(PROJECT_VARIABLE, project, PROJECT_ID_FORM, check_project_id, steps_for_project)
    project_id = check_project_id(None)
    return Settings(site, project_id, _read_key() or None, proxy, _read_stored_token(), _find_unused_proxy())


def check_also(url: str) -> None:
    """Raise a `SettingError` if a URL after --also is malformed."""
    _validate("--also", url, SITE_FORM, Target, steps_for_also)


def _validate(
    name: str, value: str, form: str, check: Callable[[str], object], steps: Callable[[str], list[Step]]
) -> None:
    """Raise a `SettingError` if a setting is malformed.

    Args:
        name: the name of the setting.
        value: its value.
        form: the form of a valid value, in words.
        check: raises a `ValueError` if the value is malformed.
        steps: returns what to do about a malformed value.
    """
    try:
        check(value)
    except ValueError:
        # A key may have been pasted into the wrong variable.
        key = _read_key()
        value = value.replace(key, REDACTED) if key else value
        # The user and password of a URL are not shown.
        shown = excerpt(re.sub("(.*?://)?.*@", r"\1", value, flags=re.DOTALL), (), MAX_SHOWN_CHARS)
        raise SettingError(f"{name}: {form}, not {shown!r}", steps(value)) from None


def _read_key() -> str:
    return os.environ.get(TOKEN_VARIABLE, "").strip()


def _find_unused_proxy() -> str:
    """Return the name of a variable that contains a usable proxy for other programs, or an empty string."""
    values = {name: os.environ.get(name) for name in OTHER_PROXY_VARIABLES}
    return next((name for name, value in values.items() if value and is_valid_url(DEFAULT_URL, value)), "")


def _read_stored_token() -> str | None:
    """Return the token that websim-cli stored, if any."""
    try:
        token = json.loads(Path(TOKEN_FILE).expanduser().read_text("utf-8"))[TOKEN_FIELD]
    except (OSError, ValueError, RuntimeError, LookupError, TypeError):  # no such file, or not the file expected
        return None
    return token if is_token(token) else None


# Correct a malformed setting


def steps_for_url(url: str) -> list[Step]:
    """Return what to do about a malformed WEBSIM_URL."""
    corrected = _correct(url)
    if corrected in ("", DEFAULT_URL):
        return [Step(f"Use the default, {DEFAULT_URL}:", (f"unset {URL_VARIABLE}",))]
    first = Step("Correct it:", (export(URL_VARIABLE, corrected),))
    return [first, Step(f"Or use the default, {DEFAULT_URL}:", (f"unset {URL_VARIABLE}",))]


def steps_for_also(url: str) -> list[Step]:
    """Return what to do about a malformed URL after --also."""
    corrected = _correct(url)
    start = "Correct it" if corrected else "Name a site, as in"
    return [Step(f"{start}:", (f"{CHECK} --also {corrected or API_URL}",))]


def steps_for_project(value: str) -> list[Step]:
    """Return what to do about a malformed WEBSIM_PROJECT_ID."""
    slug = _SLUG_PAGE.fullmatch(value.strip())
    steps = [set_project("Open the project in a browser, and set")]
    if slug:
        url = f"{DEFAULT_URL}/api/v1/users/{slug[1]}/slugs/{slug[2]}"
        steps.insert(0, Step(f"This URL does not contain the id. See {url}, which describes the project."))
    return [*steps, Step("Or use random project ids:", (f"unset {PROJECT_VARIABLE}",))]


def steps_for_proxy(url: str) -> list[Step]:
    """Return what to do about a malformed G4F_PROXY."""
    # What USE_HTTP_PROXY makes of the URL.
    corrected = f"http://{url.split('://', 1)[-1]}"
    is_corrected = _HOST.fullmatch(_without_scheme_and_login(url)) and is_valid_url(DEFAULT_URL, corrected)
    if is_corrected:
        return [Step("If it is an HTTP proxy:", (USE_HTTP_PROXY,)), USE_NO_PROXY]
    return [Step("Correct it:", (SET_HTTP_PROXY,)), USE_NO_PROXY]


def _correct(url: str) -> str:
    """Return a valid URL with the scheme http or https and without a login, or an empty string if there is none."""
    rest = _without_scheme_and_login(url.strip()).rstrip("/")
    corrected = f"{'http' if _LOOPBACK.match(rest) else 'https'}://{rest}"
    # A token may have been pasted into the wrong variable.
    is_secret = redact(corrected) != corrected
    return corrected if _HOST.fullmatch(rest) and is_valid_url(corrected) and not is_secret else ""


def _without_scheme_and_login(url: str) -> str:
    return url.rpartition("://")[2].rpartition("@")[2]
