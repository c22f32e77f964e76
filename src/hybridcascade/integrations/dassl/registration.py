"""Finding Dassl, and putting our trainers into its registry without pushing anybody else's out."""

from __future__ import annotations

import importlib
from typing import Any

from hybridcascade.errors import SettingsError

__all__ = ["import_dassl", "register_trainers"]

_GET_IT = (
    "Dassl is on no package index: clone the GitHub project KaiyangZhou/Dassl.pytorch and put the clone on the path "
    "(PYTHONPATH=path/to/Dassl.pytorch), or install it from the clone with `pip install --no-build-isolation "
    "--no-deps path/to/Dassl.pytorch`, since its pins are of 2022"
)
_NEEDS = "yacs gdown tabulate scikit-learn scipy wilds tqdm tensorboard"


def import_dassl() -> Any:
    """Return the module `dassl.engine`.

    Raises:
        ImportError: Dassl, or a package that it needs, is not installed; the message says which and what to do.
    """
    try:
        return importlib.import_module("dassl.engine")
    except ModuleNotFoundError as error:
        missing = str(error.name)
        if missing.partition(".")[0] == "dassl":
            raise ImportError(
                f"hybridcascade.integrations.dassl needs Dassl, which is not installed here. {_GET_IT}; "
                f"it needs {_NEEDS} beside it. Everything else of hybridcascade works without it",
                name="dassl",
            ) from error
        raise ImportError(
            f"Dassl is here, but it needs the package {missing!r}, which is not installed: `pip install {missing}` "
            f"(Dassl's engine imports {_NEEDS})",
            name=missing,
        ) from error


def register_trainers() -> dict[str, type[Any]]:
    """Register our trainers; all of them, or none when a name is taken.

    Returns:
        The trainer classes by name.

    Raises:
        SettingsError: somebody else's trainer has one of the names.
    """
    from dassl.engine import TRAINER_REGISTRY

    from hybridcascade.integrations.dassl.trainers import TRAINER_CLASSES

    registered = TRAINER_REGISTRY.registered_names()
    own = dict(TRAINER_CLASSES)
    for name, trainer in own.items():
        if name in registered and (other := TRAINER_REGISTRY.get(name)) is not trainer:
            raise SettingsError(
                f"Dassl's TRAINER_REGISTRY has a trainer {name!r} already, from {other.__module__} (the LaFTer "
                f"repository registers one of that name too). Import either that module or "
                f"hybridcascade.integrations.dassl in a process, not both; nothing was registered"
            )
    for name, trainer in own.items():
        if name not in registered:
            TRAINER_REGISTRY.register(trainer)
    return own
