"""Tune CLIP to your own classes without labels: a folder of pictures and class names in, a classifier out.

    >>> import hybridcascade as hc
    >>> model = hc.fit("photos/", classes=["awe", "fear"], out="runs/mine")        # doctest: +SKIP
    >>> model.predict("holiday/").save("predictions.csv")                          # doctest: +SKIP

Importing the package loads no torch; the first call of `fit` or `load` does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hybridcascade.api import TunedModel, fit, load
    from hybridcascade.predictions import Predictions

    __version__: str

__all__ = ["Predictions", "TunedModel", "__version__", "fit", "load"]

_HOMES = {"fit": "api", "load": "api", "TunedModel": "api", "Predictions": "predictions"}


def __getattr__(name: str) -> Any:
    """Import the public names on first use."""
    if name == "__version__":
        from importlib.metadata import version

        return version("hybridcascade")
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
