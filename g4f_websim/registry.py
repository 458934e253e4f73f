"""How g4f gets to know a provider of ours: one function for each way in which it has kept its own.

g4f's files are never touched: all happens in the running process, and `unregister` undoes it.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from contextlib import ExitStack
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import g4f.models
from g4f import Provider

GUI_API = "g4f.gui.server.api"

_registered: dict[str, Any] = {}
_undo = ExitStack()


def register(provider: Any, name: str) -> None:
    """Make `provider` known to g4f as `name`, in place of a provider that g4f has under that name.

    Args:
        provider: a provider class.
        name: what `provider=`, `--provider` and a model's prefix call it.
    """
    if _registered.get(name) is provider:
        return
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
    _list_in_gui(provider, name)


def unregister() -> None:
    """Undo every `register`: what g4f had before is there again."""
    _undo.close()
    _registered.clear()


def _register_with_loader(provider: Any, name: str) -> None:
    """g4f 8.3 and later: a class with the names that it lists and the providers that it has loaded."""
    loader = Provider.ProviderLoader
    _append(loader.names, name)
    _set_item(loader.loaded, name, provider)
    _set_item(loader.loaded, name.lower().replace("-", "").replace("_", ""), provider)


def _register_with_names(provider: Any, name: str) -> None:
    """g4f 7.8 to 8.2: a list of names and a dict of the providers loaded."""
    _append(Provider._provider_names, name)
    _set_item(Provider._loaded_providers, name, provider)


def _register_with_paths(provider: Any, name: str) -> None:
    """g4f 7.7: a dict from name to module path; what is no path is taken for the provider itself."""
    _set_item(Provider.__map_paths__, name, provider)


def _register_with_lists(provider: Any, name: str) -> None:
    """g4f 0.4.9 to 7.6: lists made at import; up to 6.6 a provider of that name may be among them already."""
    shipped = Provider.__map__.get(name)
    _set_item(Provider.__map__, name, provider)
    _replace_or_append(Provider.__providers__, shipped, provider)
    _set_attribute(Provider, name, provider)
    if shipped is not None:
        _replace_in_models(shipped, provider)
        _undo.callback(_replace_in_models, provider, shipped)


def _replace_in_models(old: Any, new: Any) -> None:
    """Put a provider in another's place in g4f's models, in its lists as they are now: g4f makes new ones."""
    for model in list(vars(g4f.models).values()):
        if getattr(model, "best_provider", None) is old:
            model.best_provider = new
    bests = (getattr(model, "best_provider", None) for model in vars(g4f.models).values())
    working = (providers for _, providers in g4f.models.__models__.values())
    for providers in [*(getattr(best, "providers", []) for best in bests), *working]:
        if old in providers:
            providers[providers.index(old)] = new


def _list_in_gui(provider: Any, name: str) -> None:
    """g4f 8.7 and later: the GUI's list is read from a file of g4f's, so it is completed after reading.

    The GUI is heavy and may never be used; where it is not imported yet, this waits until it is.
    """

    def without_ours(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [entry for entry in entries if entry["name"] != name]

    def complete(gui: ModuleType) -> None:
        if not hasattr(gui.Api, "_read_providers_cache"):
            return
        read = gui.Api._read_providers_cache

        def read_and_add() -> list[dict[str, Any]] | None:
            entries = read()
            return entries and [*without_ours(entries), _gui_entry(provider, name, entries[0])]

        _set_attribute(gui.Api, "_read_providers_cache", staticmethod(read_and_add))
        # With --debug, g4f writes its list anew into its own package.
        _set_attribute(gui.Api, "_write_providers_cache", staticmethod(lambda entries: False))

    if hasattr(sys.modules.get(GUI_API), "Api"):
        complete(sys.modules[GUI_API])
    else:
        finder = _AfterImport(GUI_API, complete)
        sys.meta_path.insert(0, finder)
        _undo.callback(finder.stop)


def _gui_entry(provider: Any, name: str, other: dict[str, Any]) -> dict[str, Any]:
    """Return an entry with the fields of another provider's."""
    entry: dict[str, Any] = {
        **dict.fromkeys(other, False),
        "name": name,
        "parent": None,
        "vision": bool(provider.vision_models),
    }
    entry |= {kind: len(getattr(provider, f"{kind}_models")) for kind in ("image", "audio", "video")}
    return entry | {field: getattr(provider, field) for field in ("label", "login_url", "live")}


class _AfterImport(MetaPathFinder):
    """Calls a function with a module as soon as that is imported."""

    def __init__(self, name: str, then: Callable[[ModuleType], None]) -> None:
        self._name, self._then = name, then

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != self._name:
            return None
        self.stop()
        spec = importlib.util.find_spec(name)
        if spec and spec.loader:
            execute = spec.loader.exec_module

            def execute_then(module: ModuleType) -> None:
                execute(module)
                self._then(module)

            spec.loader.exec_module = execute_then  # type: ignore[method-assign]
        return spec

    def stop(self) -> None:
        """Wait no longer."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)


def _append(names: list[Any], value: Any) -> None:
    if value not in names:
        names.append(value)
        _undo.callback(names.remove, value)


def _replace_or_append(providers: list[Any], old: Any, new: Any) -> None:
    if old in providers:
        index = providers.index(old)
        providers[index] = new
        _undo.callback(providers.__setitem__, index, old)
    else:
        _append(providers, new)


def _set_item(mapping: dict[str, Any], key: str, value: Any) -> None:
    # g4f's own dict subclasses answer for names that they do not hold.
    if dict.__contains__(mapping, key):
        _undo.callback(mapping.__setitem__, key, dict.__getitem__(mapping, key))
    else:
        _undo.callback(dict.pop, mapping, key, None)
    mapping[key] = value


def _set_attribute(owner: Any, name: str, value: Any) -> None:
    if name in vars(owner):
        _undo.callback(setattr, owner, name, vars(owner)[name])
    else:
        _undo.callback(delattr, owner, name)
    setattr(owner, name, value)
