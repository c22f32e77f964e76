"""What the demo runs and where it may write. Needs no torch, so that a wrong option is answered at once."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from hybridcascade.config import PhaseSettings, TrainConfig, at_least, one_of
from hybridcascade.engine.folder import RunFolder
from hybridcascade.errors import CheckpointError, OutputExistsError
from hybridcascade.recipes import build_config, find_recipe, read_recipe

__all__ = ["DemoConfig", "DemoRow", "check_demo_folder", "shipped_demo"]


@dataclass(frozen=True)
class DemoRow:
    """One row of the demo: a method and what differs from its defaults."""

    method: str
    """Registry name of the method."""

    text: PhaseSettings = field(default_factory=PhaseSettings)
    """Numbers of the text phase."""

    heads: PhaseSettings = field(default_factory=PhaseSettings)
    """Numbers of the heads phase."""

    image: PhaseSettings = field(default_factory=PhaseSettings)
    """Numbers of the image phase."""

    tune: str = "full"
    """What trains on pictures: full or heads."""

    warm_start: int = 0
    """Epochs of a heads phase before the image phase."""

    view: str | None = None
    """Augmentation of the student's pictures."""

    settings: dict[str, Any] = field(default_factory=dict)
    """The method's own numbers."""

    def train_config(self, seed: int, backbone: str) -> TrainConfig:
        """Return the row as a `TrainConfig` (its data and classes come from the sandbox)."""
        return TrainConfig(
            data="sandbox", classes="sandbox", method=self.method, backbone=backbone, seed=seed,
            text=self.text, heads=self.heads, image=self.image, tune=self.tune, warm_start=self.warm_start,
            view=self.view, settings=self.settings,
        )  # fmt: skip


@dataclass(frozen=True)
class DemoConfig:
    """The demo: every method on the same generated pictures."""

    out: str = "runs/demo"
    """Folder for results.json and report.html."""

    seed: int = 0
    """Seed of the pictures and of the training: 0 or above."""

    train_pictures: int = 1500
    """Unlabelled pictures that every tuned method sees."""

    test_pictures: int = 1500
    """Pictures that every method is evaluated on."""

    domain: str = "shifted"
    """Sandbox domain of all pictures: clean (as the nano CLIP was trained) or shifted (aged canvas)."""

    backbone: str = "nano"
    """CLIP weights."""

    rows: list[DemoRow] = field(default_factory=list)
    """Methods in the order of the table; recipes/demo.yaml has the shipped ones."""

    overwrite: bool = False
    """Replace the run in --out even if it is no demo."""

    def __post_init__(self) -> None:
        at_least("seed", self.seed, 0)
        at_least("train_pictures", self.train_pictures, 1)
        at_least("test_pictures", self.test_pictures, 1)
        one_of("domain", self.domain, ("clean", "shifted"))

    def resolved(self) -> dict[str, Any]:
        """Return the demo as plain values, phases of each row filled in: what its `config.yaml` holds."""
        rows = []
        for row in self.rows:
            phases = row.train_config(self.seed, self.backbone).phases()
            plain = {name: dataclasses.asdict(numbers) for name, numbers in phases.items()}
            ways = {"tune": row.tune, "warm_start": row.warm_start, "view": row.view}
            rows.append({"method": row.method, **plain, **ways, "settings": dict(row.settings)})
        return {**dataclasses.asdict(self), "rows": rows}


def shipped_demo(**changes: Any) -> DemoConfig:
    """Return the shipped demo, changed where asked."""
    return build_config(DemoConfig, read_recipe(find_recipe("demo.yaml")) | changes)


def check_demo_folder(out: str, overwrite: bool = False) -> None:
    """Check the folder of a demo before the work. Nothing is changed.

    A demo that is there already may be replaced: the same command makes it again. A training run may be
    replaced only with `overwrite`; files of others never.

    Raises:
        OutputExistsError: the folder holds something that may not be replaced.
    """
    folder = RunFolder(out)
    if not folder.path.exists() or (folder.path.is_dir() and not any(folder.path.iterdir())):
        return
    if not folder.is_run():
        raise OutputExistsError(f"{out!r} exists and is no demo; nothing was changed. Name another folder with --out")
    if not overwrite and not _is_demo(folder):
        raise OutputExistsError(
            f"{out!r} holds a training run; nothing was changed. Name another folder with --out, "
            "or replace the run with --overwrite"
        )


def _is_demo(folder: RunFolder) -> bool:
    try:
        return "rows" in folder.read_config()
    except CheckpointError:
        return False
