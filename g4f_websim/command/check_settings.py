"""Read the settings of `g4f-websim check` from the environment, and reject malformed ones."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field

from ..provider import Websim
from ..transport.causes import CHECK, PLAIN_ORIGIN, USE_NO_PROXY, Step, set_proxy
from ..transport.target import PROXY_VARIABLE, SITE_FORM, Target, is_valid_url
from ..wire.bodies import PROJECT_ID_FORM, PROJECT_VARIABLE, check_project_id
from ..wire.endpoints import API_URL, DEFAULT_URL, URL_VARIABLE
from ..wire.redaction import redact
from ..wire.tokens import TOKEN_VARIABLE, clean_key, is_token

SET_URL = f"export {URL_VARIABLE}=https://<host>"
USE_DEFAULT = Step(f"Use the default site, {DEFAULT_URL}:", (f"unset {URL_VARIABLE}",))
SET_PROJECT = Step(
    f"Open a project of your own on {DEFAULT_URL}, and set its id, the last part of websim.com/p/<id>:",
    (f"export {PROJECT_VARIABLE}=<id>",),
)
FIND_PROJECT = Step(
    f"The URL of a project may lack the id. Look it up: {DEFAULT_URL}/api/v1/users/NAME/slugs/PROJECT describes "
    f"{DEFAULT_URL}/@NAME/PROJECT."
)
USE_RANDOM = Step("Or use random project ids:", (f"unset {PROJECT_VARIABLE}",))


@dataclass(frozen=True)
class Settings:
    """The settings that a request is sent with.

    Attributes:
        site: the URL of the site.
        project_id: the project id; empty for a random one.
        token: the Websim token that is sent, if any.
        key: the value of WEBSIM_API_KEY, which is not shown even if it is not sent.
        proxy: the URL of the proxy, if any.
    """

    site: str
    project_id: str = ""
    token: str | None = field(default=None, repr=False)
    key: str | None = field(default=None, repr=False)
    proxy: str | None = field(default=None, repr=False)

    @property
    def is_known_site(self) -> bool:
        """Whether the site is one of Websim's two known hosts."""
        return self.site in (DEFAULT_URL, API_URL)

    def target(self, path: str = "") -> Target:
        """Return where a request to an endpoint goes."""
        is_other_key = bool(self.key) and not is_token(self.key)
        return Target(self.site + path, self.token, self.key, self.proxy, is_other_key)


class SettingError(ValueError):
    """A setting is malformed; `steps` says what to do. The value is not shown, because it may be a secret."""

    def __init__(self, message: str, *steps: Step) -> None:
        super().__init__(message)
        self.steps = steps


def read_settings(also: Iterable[str]) -> Settings:
    """Read the settings from the environment, and check the sites of --also.

    Raises:
        SettingError: a setting or a site is malformed.
    """
    site, proxy = Websim.url.rstrip("/"), os.environ.get(PROXY_VARIABLE) or None
    key = clean_key(os.environ.get(TOKEN_VARIABLE)) or None
    if not is_valid_url(site):
        raise SettingError(f"{URL_VARIABLE}: {SITE_FORM}", Step("Correct it:", (_corrected(site, key),)), USE_DEFAULT)
    if not all(map(is_valid_url, also)):
        raise SettingError(f"--also: {SITE_FORM}", Step("Name a site, as in:", (f"{CHECK} --also {API_URL}",)))
    try:
        Target(DEFAULT_URL, proxy=proxy)
    except ValueError as error:
        raise SettingError(str(error), Step("Correct it:", (set_proxy(proxy),)), USE_NO_PROXY) from None
    try:
        project_id = check_project_id(None)
    except ValueError:
        message = f"{PROJECT_VARIABLE}: {PROJECT_ID_FORM}"
        raise SettingError(message, FIND_PROJECT, SET_PROJECT, USE_RANDOM) from None
    return Settings(site, project_id, key if is_token(key) else None, key, proxy)


def _corrected(site: str, key: str | None) -> str:
    """Return a line that sets WEBSIM_URL to a malformed URL with the scheme https, if only that is missing."""
    url = f"https://{site.strip()}"
    # A key may have been pasted into the wrong variable.
    is_secret = "." not in site or "@" in site or redact(url, [key or ""]) != url
    return f"export {URL_VARIABLE}={url}" if not is_secret and PLAIN_ORIGIN.fullmatch(url) else SET_URL
