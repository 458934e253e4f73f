"""Websim (websim.com) for g4f: chat and pictures, no key needed. Importing this registers `Websim` with g4f."""

from . import registry as _registry
from .provider import Websim

__all__ = ["Websim", "__version__", "register", "unregister"]

__version__ = "1.0.0"


def register(name: str = "Websim") -> type[Websim]:
    """Make `Websim` known to g4f, so that `provider="Websim"` works and its lists have it.

    A `Websim` that g4f itself ships is put aside until `unregister`. To call this again changes nothing.

    Args:
        name: what g4f is to call it.
    """
    _registry.register(Websim, name)
    return Websim


def unregister() -> type[Websim]:
    """Undo `register`, under whatever names: g4f has again what it had before."""
    _registry.unregister()
    return Websim


register()
