"""Read what g4f knows of its providers, on every release line, before and after Websim is registered."""

from collections.abc import Iterator
from typing import Any

import g4f.models
from g4f import Provider


def registry_state() -> dict[str, Any]:
    """Return everything through which g4f finds and lists its providers."""
    convert = Provider.ProviderUtils.convert
    return {
        "__all__": list(Provider.__all__),
        "__providers__": list(vars(Provider).get("__providers__", [])),
        "names": list(convert.keys()),
        "converted": convert.get("Websim"),
        "attribute": getattr(Provider, "Websim", None),
        "models": {name: list(providers) for name, providers in model_lists()},
    }


def model_lists() -> Iterator[tuple[str, list[Any]]]:
    """Yield the name and the providers of each list that g4f keeps for a model."""
    for name, model in vars(g4f.models).items():
        best = getattr(model, "best_provider", None)
        if best is not None:
            yield name, getattr(best, "providers", [best])
    for table in ("__models__", "demo_models"):
        for name, (_, providers) in getattr(g4f.models, table, {}).items():
            yield f"{table} {name}", providers
