"""Use Websim and g4f without a network: `offline()` starts the emulator and sends all requests to it."""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import tempfile
import threading
from collections import ChainMap
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import date, timedelta
from functools import partial
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

# A class or a module, or None for an environment variable; the name of the attribute or variable; the value, None to
# delete it.
Setting = tuple[Any, str, Any]
_Settings = dict[tuple[Any, str], Any]

# The settings of the blocks that have not ended, oldest first, and the values before the oldest of them.
_blocks: list[_Settings] = []
_before: _Settings = {}
_lock = threading.Lock()


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
    Blocks may overlap, in several threads too: the block that began last counts.

    Yields:
        The emulator, which records the requests and lets the caller choose the responses.
    """
    forget_limits()
    with (
        Emulator() as emulator,
        tempfile.TemporaryDirectory(prefix="g4f-websim-", ignore_cleanup_errors=True) as folder,
        exit_on_sigterm(),
    ):
        write_provider_list(Path(folder))  # for child processes
        with replaced([*emulator_settings(emulator.url), *_g4f_settings(folder), *provider_list_settings()]):
            yield emulator


def emulator_settings(url: str) -> Iterator[Setting]:
    """Yield the settings that direct the requests of `Websim` to the emulator at `url`, those of child processes too.

    g4f saves generated images from public hosts only, and has no setting for that. `data:` URIs would not help, because
    g4f's client cannot return them as `b64_json`. So its check is replaced, and accepts the emulator's images.
    """
    yield Websim, "url", url
    yield Websim, "chat_api_endpoint", SiteUrl(CHAT_PATH)
    yield Websim, "image_api_endpoint", SiteUrl(IMAGE_PATH)
    yield None, URL_VARIABLE, url
    if hasattr(copy_images, "is_safe_url"):  # older releases of g4f save images from every host
        yield copy_images, "is_safe_url", partial(_is_safe, copy_images.is_safe_url, url)


def provider_list_settings() -> Iterator[Setting]:
    """Yield the settings with which g4f does not download its list of providers."""
    for module, name in (("g4f.client", "ClientFactory"), ("g4f.client.factory", "AbstractClientFactory")):
        with suppress(ImportError, AttributeError):  # older releases of g4f download no list, or have one class
            yield getattr(importlib.import_module(module), name), "_live_providers", PROVIDER_LIST


def write_provider_list(cache_dir: Path) -> None:
    """Write the list of providers that g4f otherwise downloads from its own site when it starts.

    The list is valid today and tomorrow. An existing list is kept.

    Args:
        cache_dir: g4f's cache folder, the value of G4F_CACHE_DIR.
    """
    for folder in (".models", "models"):  # the first since g4f 8.4, the second in older releases
        for day in (date.today(), date.today() + timedelta(days=1)):
            file = cache_dir / folder / str(day) / "providers.json"
            file.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileExistsError), file.open("x") as opened:
                json.dump(PROVIDER_LIST, opened)


@contextmanager
def replaced(settings: Iterable[Setting]) -> Iterator[None]:
    """Replace settings, and restore them when this block and all that overlap with it have ended."""
    block = {(owner, name): value for owner, name, value in settings}
    with _lock:
        for owner, name in block:
            _before.setdefault((owner, name), _read(owner, name))
        _blocks.append(block)
        _write(block)
    try:
        yield
    finally:
        with _lock:
            _blocks.remove(block)
            current = ChainMap(*reversed(_blocks), _before)
            _write({key: current[key] for key in block})
            if not _blocks:
                _before.clear()


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


def _is_safe(is_safe_url: Any, url: str, image: str, *args: Any, **kwargs: Any) -> bool:
    return image.startswith(f"{url}/") or bool(is_safe_url(image, *args, **kwargs))


def _g4f_settings(folder: str) -> Iterator[Setting]:
    yield None, PROXY_VARIABLE, None
    yield None, "G4F_CACHE_DIR", folder
    yield None, "G4F_CONFIG_DIR", folder
    yield g4f.debug, "version_check", False
    yield CookiesConfig, "cookies_dir", folder
    with suppress(ImportError):  # older releases of g4f have no configuration folder
        from g4f import config

        yield config, "CONFIG_DIR", Path(folder)
        # g4f's client uses this folder instead of `CookiesConfig.cookies_dir`, and writes a log of its calls there.
        yield config, "COOKIES_DIR", Path(folder)


def _read(owner: Any, name: str) -> Any:
    return os.environ.get(name) if owner is None else vars(owner).get(name)


def _write(settings: _Settings) -> None:
    for (owner, name), value in settings.items():
        if owner is None and value is None:
            os.environ.pop(name, None)
        elif owner is None:
            os.environ[name] = value
        elif value is not None:
            setattr(owner, name, value)
        elif name in vars(owner):
            delattr(owner, name)
