"""Register a provider with g4f: one function for each way in which g4f has stored its providers.

Only the running process is changed, never a file of g4f. `unregister` restores the previous state.
"""

import logging
import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType
from typing import Any

import g4f.models
from g4f import Provider

from .transport.log import log

GUI_API = "g4f.gui.server.api"

_registered: dict[str, Any] = {}
_undo = ExitStack()


def register(provider: Any, name: str) -> None:
    """Register a provider class with g4f, and replace a provider that g4f has under this name."""
    if _registered.get(name) is provider:
        return
    if not _registered and GUI_API in sys.modules:
        _list_in_gui(sys.modules[GUI_API])
    elif not _registered:
        _insert(sys.meta_path, 0, _GuiApiFinder())
    _registered[name] = provider
    # `hasattr` would let the module's `__getattr__` look for a provider of that name, over the network too.
    names = vars(Provider)
    if "ProviderLoader" in names:
        _register_with_loader(provider, name)
    elif "_provider_names" in names:
        _register_with_names(provider, name)
    elif "__map_paths__" in names:
        _register_with_paths(provider, name)
    elif "__providers__" in names:
        _register_with_lists(provider, name)
    else:
        log(logging.WARNING, "this g4f keeps its providers in an unknown way: pass the class instead of its name")
        return
    _append(Provider.__all__, name)


def unregister() -> None:
    """Undo every `register` and restore the providers that were replaced."""
    _undo.close()
    _registered.clear()


def _register_with_loader(provider: Any, name: str) -> None:
    """Register with g4f 8.3 and later: a class with a list of names and a dict of loaded providers."""
    loader = Provider.ProviderLoader
    _append(loader.names, name)
    _set_item(loader.loaded, name, provider)
    _set_item(loader.loaded, name.lower().replace("-", "").replace("_", ""), provider)


def _register_with_names(provider: Any, name: str) -> None:
    """Register with g4f 7.8 to 8.2: a list of names and a dict of loaded providers."""
    _append(Provider._provider_names, name)
    _set_item(Provider._loaded_providers, name, provider)


def _register_with_paths(provider: Any, name: str) -> None:
    """Register with g4f 7.7: a dict from names to module paths, which also accepts provider classes."""
    _set_item(Provider.__map_paths__, name, provider)


def _register_with_lists(provider: Any, name: str) -> None:
    """Register with g4f 0.4.9 to 7.6: lists built at import. Up to g4f 6.6 they may contain a builtin Websim."""
    builtin = Provider.__map__.get(name)
    _set_item(Provider.__map__, name, provider)
    _set_item(vars(Provider), name, provider)
    if builtin is not None:
        _replace_in_lists(builtin, provider)
        _undo.callback(_replace_in_lists, provider, builtin)
    _append(Provider.__providers__, provider)


def _replace_in_lists(old: Any, new: Any) -> None:
    """Replace a provider in g4f's list of providers and in the lists of its models."""
    best_providers = [getattr(model, "best_provider", None) for model in list(vars(g4f.models).values())]
    lists = [getattr(best, "providers", []) for best in best_providers]
    lists += [working for _, working in g4f.models.__models__.values()]
    for providers in [Provider.__providers__, *lists]:
        if old in providers:
            providers[providers.index(old)] = new


class _GuiApiFinder(MetaPathFinder):
    """Import g4f's module `g4f.gui.server.api` with the registered providers in the GUI's list.

    g4f 8.7 and later read that list from a file of their package, for every server, those of a user's own program too.
    There is no setting for another list. `import g4f_websim` cannot import the module, which needs flask and downloads
    g4f's list of providers, and no other function of g4f runs in all servers before the list is read.
    """

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        """Return the module with a loader that changes it."""
        spec = PathFinder.find_spec(fullname, path) if fullname == GUI_API else None
        if spec and spec.origin:
            spec.loader = _GuiApiLoader(fullname, spec.origin)
        return spec


class _GuiApiLoader(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        _list_in_gui(module)


def _list_in_gui(module: ModuleType) -> None:
    """Add the registered providers to the list that `g4f.gui.server.api` reads from a file."""
    if hasattr(module.Api, "_read_providers_cache"):
        read = partial(_read_with_registered, module.Api._read_providers_cache)
        _set_attribute(module.Api, "_read_providers_cache", staticmethod(read))
        # With --debug, g4f would write the extended list into its own package.
        _set_attribute(module.Api, "_write_providers_cache", staticmethod(lambda entries: False))


def _read_with_registered(read: Callable[[], list[dict[str, Any]] | None]) -> list[dict[str, Any]] | None:
    entries = read()
    others = [entry for entry in entries or () if entry["name"] not in _registered]
    return entries and others + [_gui_entry(name, entries[0]) for name in _registered]


def _gui_entry(name: str, other: dict[str, Any]) -> dict[str, Any]:
    """Return the GUI's entry for a registered provider, with the same fields as `other`, a builtin provider's entry."""
    provider = _registered[name]
    counts = {kind: len(getattr(provider, f"{kind}_models")) for kind in ("image", "audio", "video")}
    same = {field: getattr(provider, field) for field in ("label", "login_url", "live")}
    own = {"name": name, "parent": None, "vision": bool(provider.vision_models)}
    return {**dict.fromkeys(other, False), **counts, **same, **own}


def _insert(values: list[Any], index: int, value: Any) -> None:
    values.insert(index, value)
    _undo.callback(values.remove, value)


def _append(names: list[Any], value: Any) -> None:
    if value not in names:
        _insert(names, len(names), value)


def _set_item(mapping: dict[str, Any], key: str, value: Any) -> None:
    # The methods of g4f's dict subclasses also find names that are not in the dict.
    if dict.__contains__(mapping, key):
        _undo.callback(mapping.__setitem__, key, dict.__getitem__(mapping, key))
    else:
        _undo.callback(dict.pop, mapping, key, None)
    mapping[key] = value


def _set_attribute(owner: Any, name: str, value: Any) -> None:
    _undo.callback(setattr, owner, name, vars(owner)[name])
    setattr(owner, name, value)
