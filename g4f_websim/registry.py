"""Register a provider with g4f: one function for each way in which g4f has stored its providers.

Only the running process is changed, never a file of g4f. `unregister` restores the previous state.
"""

import sys
from collections.abc import Callable
from contextlib import ExitStack
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

import g4f.models
from g4f import Provider

_registered: dict[str, Any] = {}
_undo = ExitStack()


def register(provider: Any, name: str) -> None:
    """Register a provider with g4f, and replace a provider that g4f has under this name.

    Args:
        provider: a provider class.
        name: the name for `provider=`, `--provider` and the prefix of a model.
    """
    if _registered.get(name) is provider:
        return
    if not _registered:
        _list_in_gui()
    _registered[name] = provider
    if hasattr(Provider, "ProviderLoader"):
        _register_with_loader(provider, name)
    elif hasattr(Provider, "_provider_names"):
        _register_with_names(provider, name)
    elif hasattr(Provider, "__map_paths__"):
        _register_with_paths(provider, name)
    else:
        _register_with_lists(provider, name)
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


def _list_in_gui() -> None:
    """Add the registered providers to the GUI's list, which g4f 8.7 and later read from a file."""

    def extend(gui: ModuleType) -> None:
        if not hasattr(gui.Api, "_read_providers_cache"):
            return
        read = gui.Api._read_providers_cache

        def read_and_add() -> list[dict[str, Any]] | None:
            entries = read()
            others = [entry for entry in entries or () if entry["name"] not in _registered]
            return entries and others + [_gui_entry(name, entries[0]) for name in _registered]

        _set_attribute(gui.Api, "_read_providers_cache", staticmethod(read_and_add))
        # With --debug, g4f would write the extended list into its own package.
        _set_attribute(gui.Api, "_write_providers_cache", staticmethod(lambda entries: False))

    _after_import("g4f.gui.server.api", extend)


def _gui_entry(name: str, other: dict[str, Any]) -> dict[str, Any]:
    """Return the GUI's entry for a registered provider, with the same fields as `other`, a builtin provider's entry."""
    provider = _registered[name]
    counts = {kind: len(getattr(provider, f"{kind}_models")) for kind in ("image", "audio", "video")}
    same = {field: getattr(provider, field) for field in ("label", "login_url", "live")}
    own = {"name": name, "parent": None, "vision": bool(provider.vision_models)}
    return {**dict.fromkeys(other, False), **counts, **same, **own}


def _after_import(name: str, then: Callable[[ModuleType], None]) -> None:
    """Call `then` with a module, now if it is imported already, or else when the program imports it.

    The module is not imported here because that is slow and most programs do not need it.
    """
    if name in sys.modules:
        then(sys.modules[name])
        return

    class Finder(MetaPathFinder):
        def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
            spec = PathFinder.find_spec(fullname, path) if fullname == name else None
            if spec and spec.loader:
                execute = spec.loader.exec_module

                def execute_then(module: ModuleType) -> None:
                    execute(module)
                    then(module)

                spec.loader.exec_module = execute_then  # type: ignore[method-assign]
            return spec

    finder = Finder()
    sys.meta_path.insert(0, finder)
    _undo.callback(sys.meta_path.remove, finder)


def _append(names: list[Any], value: Any) -> None:
    if value not in names:
        names.append(value)
        _undo.callback(names.remove, value)


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
