"""Websim (websim.com) as a provider of g4f. Importing this package registers `Websim` with g4f."""

from .command import interrupt as _interrupt  # noqa: F401, I001  # first, because the other imports take long
from . import registry as _registry
from .errors import WebsimError
from .provider import Websim

__all__ = ["Websim", "WebsimError", "__version__", "register", "unregister"]

__version__ = "1.0.0"


def register(name: str = "Websim") -> type[Websim]:
    """Register `Websim` with g4f, so that `provider="Websim"` finds it and g4f's lists contain it.

    If g4f contains a provider of that name, `Websim` replaces it until `unregister`. A repeated call changes nothing.

    Args:
        name: the name by which g4f finds `Websim`.

    Returns:
        `Websim`.
    """
    _registry.register(Websim, name)
    return Websim


def unregister() -> type[Websim]:
    """Undo `register` for all names and restore the providers that g4f had before.

    Returns:
        `Websim`.
    """
    _registry.unregister()
    return Websim


register()
