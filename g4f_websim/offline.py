"""Use Websim and g4f without a network: `offline()` starts the emulator and sends all requests to it."""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import g4f.debug
from g4f.cookies import CookiesConfig
from g4f.image import copy_images

from .emulator import Emulator
from .provider import SiteUrl, Websim
from .transport.rate_limit import forget_limits
from .transport.target import PROXY_VARIABLE
from .wire.endpoints import CHAT_PATH, IMAGE_PATH, URL_VARIABLE

# g4f downloads a list of providers from its own site when it starts, and its code looks up these two entries. Their
# URL has a port on which no server listens.
_NO_SERVER = {"baseUrl": "http://127.0.0.1:9/v1"}
PROVIDER_LIST = {"providers": {"default": _NO_SERVER, "orcarouter": _NO_SERVER}, "defaultModels": {}}

# The folders in which g4f looks for the list of the day: the first since 8.4, the second in older releases.
PROVIDER_LIST_FOLDERS = (".models", "models")

_MISSING = object()


@contextmanager
def offline() -> Iterator[Emulator]:
    """Send the requests of `Websim` to the emulator and keep g4f off the network, also in child processes.

    For example:

        with offline():
            client = Client(provider=Websim)
            client.images.generate("a cat", model="flux")

    Inside the block, the URLs of `Websim`, g4f's configuration, cookie and cache folders, and the environment variables
    WEBSIM_URL, G4F_CACHE_DIR, G4F_CONFIG_DIR and G4F_PROXY are replaced, and g4f does not look for a new version. The
    end of the block restores them, except in modules of g4f that are imported inside the block and keep what they read.

    Yields:
        The emulator, which records the requests and lets the caller choose the responses.
    """
    with ExitStack() as stack:
        forget_limits()
        emulator = stack.enter_context(Emulator())
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="g4f-websim-", ignore_cleanup_errors=True))
        write_provider_list(Path(folder))
        for name, value in _environment(emulator.url, folder):
            stack.enter_context(environment_variable(name, value))
        for name, attribute in websim_attributes(emulator.url):
            stack.enter_context(_attribute(Websim, name, attribute))
        for owner, name, value in _g4f_settings(folder):
            stack.enter_context(_attribute(owner, name, value))
        stack.enter_context(accept_images_from(emulator.url))
        stack.enter_context(exit_on_sigterm())
        yield emulator


def websim_attributes(url: str) -> Iterator[tuple[str, Any]]:
    """Yield the names and values of the attributes of `Websim` that direct its requests to the emulator at `url`."""
    yield "url", url
    yield "chat_api_endpoint", SiteUrl(CHAT_PATH)
    yield "image_api_endpoint", SiteUrl(IMAGE_PATH)


def write_provider_list(cache_dir: Path) -> None:
    """Write the list of providers that g4f otherwise downloads from its own site when it starts.

    The list is valid today and tomorrow. An existing list is kept.

    Args:
        cache_dir: g4f's cache folder, the value of G4F_CACHE_DIR.
    """
    for folder in PROVIDER_LIST_FOLDERS:
        for day in (date.today(), date.today() + timedelta(days=1)):
            file = cache_dir / folder / str(day) / "providers.json"
            file.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileExistsError), file.open("x") as opened:
                json.dump(PROVIDER_LIST, opened)


@contextmanager
def accept_images_from(url: str) -> Iterator[None]:
    """Let g4f save images from the emulator.

    g4f saves generated images from public hosts only, and has no setting for that. `data:` URIs would not help, because
    g4f's client cannot return them as `b64_json`.

    Args:
        url: the emulator's URL. Images from other URLs are checked as usual.
    """
    if not hasattr(copy_images, "is_safe_url"):  # older releases of g4f save images from every host
        yield
        return
    is_safe_url = copy_images.is_safe_url

    def is_safe_or_emulator(image: str, *args: Any, **kwargs: Any) -> bool:
        return image.startswith(f"{url}/") or bool(is_safe_url(image, *args, **kwargs))

    with _attribute(copy_images, "is_safe_url", is_safe_or_emulator):
        yield


def _environment(url: str, folder: str) -> Iterator[tuple[str, str | None]]:
    """Yield the names and values of the environment variables in `offline()`; None deletes a variable."""
    yield URL_VARIABLE, url
    yield "G4F_CACHE_DIR", folder
    yield "G4F_CONFIG_DIR", folder
    yield PROXY_VARIABLE, None


def _g4f_settings(folder: str) -> Iterator[tuple[Any, str, Any]]:
    """Yield g4f's settings in `offline()`: the owner, the name and the value of each."""
    yield g4f.debug, "version_check", False
    yield CookiesConfig, "cookies_dir", folder
    with suppress(ImportError):  # older releases of g4f have no configuration folder
        from g4f import config

        yield config, "CONFIG_DIR", Path(folder)
        # g4f's client uses this folder instead of `CookiesConfig.cookies_dir`, and writes a log of its calls there.
        yield config, "COOKIES_DIR", Path(folder)
    with suppress(ImportError):  # older releases of g4f download no list of providers
        from g4f.client import ClientFactory

        yield ClientFactory, "_live_providers", PROVIDER_LIST


@contextmanager
def exit_on_sigterm() -> Iterator[None]:
    """Turn SIGTERM into `SystemExit`, so that servers stop and temporary folders are deleted.

    This does nothing if the program has a handler of its own, or outside the main thread, where Python allows none.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def environment_variable(name: str, value: str | None) -> Iterator[None]:
    """Set an environment variable and restore it at the end.

    Args:
        name: the name of the variable.
        value: the value; None deletes the variable.
    """
    before = os.environ.get(name)
    _set_variable(name, value)
    try:
        yield
    finally:
        _set_variable(name, before)


def _set_variable(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value


@contextmanager
def _attribute(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Set an attribute of a module or class and restore it at the end."""
    before = vars(owner).get(name, _MISSING)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if before is _MISSING:
            delattr(owner, name)
        else:
            setattr(owner, name, before)
