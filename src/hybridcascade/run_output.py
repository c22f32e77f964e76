"""The folder that a training run writes to: made or opened again, and its log."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator

from hybridcascade.backbone.clip import ClipBackbone
from hybridcascade.config import TrainConfig
from hybridcascade.data.sources import PictureSource
from hybridcascade.engine.folder import RunFolder
from hybridcascade.engine.provenance import collect_provenance
from hybridcascade.errors import CheckpointError, SettingsError

__all__ = ["log_file", "open_folder"]


def open_folder(
    config: TrainConfig, classes: tuple[str, ...], source: PictureSource | None, backbone: ClipBackbone
) -> RunFolder | None:
    """Make the run folder of a configuration, or open that of the run to go on with; None without `--out`.

    Raises:
        OutputExistsError: it holds something.
        CheckpointError: the run to go on with is damaged.
        SettingsError: it began with other pictures.
    """
    if config.out is None:
        return None
    dataset = None if source is None else source.fingerprint()
    if config.resume:
        return _reopen_folder(config.out, dataset)
    folder = RunFolder.create(config.out, config.overwrite)
    folder.write_config(config.resolved() | {"classes": list(classes)})
    weights = {"backbone": config.backbone, "weights_hash": backbone.weights_hash}
    folder.write_provenance(collect_provenance(seed=config.seed, dataset=dataset, extra=weights))
    return folder


def _reopen_folder(out: str, dataset: str | None) -> RunFolder:
    """Open a run to go on with; its pictures must be those it began with."""
    folder = RunFolder.open(out)
    try:
        began_with = json.loads(folder.provenance_file.read_text(encoding="utf-8")).get("dataset")
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{folder.provenance_file} is missing or damaged; begin again with --overwrite"
        ) from error
    if began_with != dataset:
        raise SettingsError(
            f"--resume: the pictures are not those that {out!r} began with; begin again with --overwrite"
        )
    return folder


@contextlib.contextmanager
def log_file(folder: RunFolder | None) -> Iterator[None]:
    """Keep what the libraries remark in `logs/run.log`, since the terminal does not show it."""
    if folder is None:
        yield
        return
    folder.logs.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(folder.logs / "run.log", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        handler.close()
