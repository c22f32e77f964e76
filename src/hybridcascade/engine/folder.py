"""The run folder: everything of one run in one place that the user named, never overwritten by accident.

```
runs/mine/
  .hybridcascade-run   marks the folder as ours
  config.yaml          the resolved settings
  provenance.json      versions, commit, seed, data, command
  metrics.jsonl        one line an epoch
  logs/csv, logs/tensorboard
  checkpoints/         text.ckpt, image.ckpt: what a resume needs
  model/               model.safetensors + model.json: what loading needs, and nothing else
```
Needs no torch: a command can refuse an output folder before anything heavy is imported.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import yaml

from hybridcascade.engine.atomic import make_folder, remove_leftovers, write_json, write_text
from hybridcascade.engine.records import EpochRecord
from hybridcascade.errors import CheckpointError, OutputExistsError

__all__ = ["RunFolder", "is_first_process"]

_log = logging.getLogger(__name__)

_MARKER = ".hybridcascade-run"
_OWN = (
    _MARKER, "config.yaml", "provenance.json", "metrics.jsonl", "logs", "checkpoints", "model",
    "results.json", "report.html",
)  # fmt: skip


class RunFolder:
    """Paths and files of one run.

    Attributes:
        path: the folder.
    """

    def __init__(self, path: str | Path) -> None:
        """Name a folder; use `create` or `open` to touch the disk.

        Args:
            path: the folder.
        """
        self.path = Path(path)

    @classmethod
    def create(cls, path: str | Path, overwrite: bool = False, own: Iterable[str] = ()) -> Self:
        """Make the folder of a new run.

        A folder that exists and is empty is taken. With `overwrite`, the files of the earlier run are
        removed; files that this package did not write stay where they are. In a distributed run only
        the first process makes the folder.

        Args:
            path: the folder to make, with its parents.
            overwrite: replace an earlier run. Nothing but a run folder of ours is ever replaced.
            own: further names in the folder that the caller writes and `overwrite` may remove.

        Raises:
            OutputExistsError: the folder holds something and may not be replaced; nothing was changed.
            OutputPlaceError: there can be no folder at `path`.
        """
        folder = cls(path)
        if not is_first_process():
            return folder
        if folder.path.exists() or folder.path.is_symlink():
            folder._make_room(overwrite, {*_OWN, *own})
        make_folder(folder.path)
        try:
            with (folder.path / _MARKER).open("x", encoding="utf-8") as marker:  # "x": of two at once, one wins
                marker.write(json.dumps({"package": "hybridcascade", "format": 1}) + "\n")
        except FileExistsError as error:
            raise OutputExistsError(folder._refusal("holds a run")) from error
        return folder

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Open the folder of an earlier run, to resume or to read it; temporary files of killed writers go.

        Args:
            path: the folder.

        Raises:
            CheckpointError: there is no run of ours at `path`.
        """
        folder = cls(path)
        if not folder.is_run():
            what = "is not a run folder (no .hybridcascade-run in it)" if folder.path.exists() else "does not exist"
            raise CheckpointError(f"expected the folder of an earlier run, but '{path}' {what}")
        if is_first_process():
            for below in (folder.path, folder.checkpoints, folder.model):
                remove_leftovers(below)
        return folder

    def is_run(self) -> bool:
        """Whether the folder is recognisably one of ours: it carries our marker."""
        try:
            marker = json.loads((self.path / _MARKER).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        return isinstance(marker, dict) and marker.get("package") == "hybridcascade"

    @property
    def config_file(self) -> Path:
        """The resolved settings, YAML."""
        return self.path / "config.yaml"

    @property
    def provenance_file(self) -> Path:
        """Where the run came from, JSON."""
        return self.path / "provenance.json"

    @property
    def metrics_file(self) -> Path:
        """One JSON line an epoch."""
        return self.path / "metrics.jsonl"

    @property
    def logs(self) -> Path:
        """Folder of the CSV and TensorBoard logs."""
        return self.path / "logs"

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints, one file a phase."""
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        """Folder of the finished model."""
        return self.path / "model"

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write the resolved settings; paths become strings, tuples lists.

        Args:
            config: plain values, nested as they are.
        """
        write_text(self.config_file, yaml.safe_dump(_plain(config), sort_keys=False, allow_unicode=True))

    def read_config(self) -> dict[str, Any]:
        """Read the resolved settings.

        Raises:
            CheckpointError: the file is missing or is not a YAML mapping.
        """
        try:
            config = yaml.safe_load(self.config_file.read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise CheckpointError(f"cannot read the settings of the run, {self.config_file}: {error}") from error
        if not isinstance(config, dict):
            found = type(config).__name__
            raise CheckpointError(f"expected a mapping of settings in {self.config_file}, found {found}")
        return config

    def write_provenance(self, provenance: Mapping[str, Any]) -> None:
        """Write where the run came from.

        Args:
            provenance: what `collect_provenance` gives.
        """
        write_json(self.provenance_file, _plain(provenance))

    def append_metrics(self, record: EpochRecord) -> None:
        """Add one line to `metrics.jsonl`.

        Args:
            record: the finished epoch.
        """
        with self.metrics_file.open("a", encoding="utf-8", newline="\n") as file:
            file.write(json.dumps(record.to_dict()) + "\n")

    def read_metrics(self) -> list[EpochRecord]:
        """Read all epochs so far, in order.

        A last line that a killed run left unfinished is left out.

        Raises:
            CheckpointError: another line is not a record; the message names the line.
        """
        if not self.metrics_file.exists():
            return []
        lines = self.metrics_file.read_text(encoding="utf-8").splitlines()
        records = []
        for number, line in enumerate(lines, start=1):
            try:
                records.append(EpochRecord.from_dict(json.loads(line)))
            except (ValueError, TypeError) as error:
                if number == len(lines):
                    break
                raise CheckpointError(f"line {number} of {self.metrics_file} is not a record: {error}") from error
        return records

    def keep_metrics(self, records: Iterable[EpochRecord]) -> None:
        """Replace `metrics.jsonl` by `records` (a resume drops epochs that it will run again).

        Args:
            records: the epochs to keep, in order.
        """
        if is_first_process():
            write_text(self.metrics_file, "".join(json.dumps(r.to_dict()) + "\n" for r in records))

    def _make_room(self, overwrite: bool, own: set[str]) -> None:
        if not self.path.is_dir():
            raise OutputExistsError(f"the output '{self.path}' exists and is no folder; name another with --out")
        found = sorted(p.name for p in self.path.iterdir())
        if not found:
            return
        if not self.is_run():
            raise OutputExistsError(
                f"the output folder '{self.path}' holds files that are not of a run of this package "
                f"({', '.join(found[:3])}{', ...' if len(found) > 3 else ''}). Nothing was changed, and --overwrite "
                "and --resume work on run folders only: name another folder with --out"
            )
        if not overwrite:
            raise OutputExistsError(self._refusal("already holds a run"))
        for name in own.intersection(found) - {_MARKER}:
            path = self.path / name
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        remove_leftovers(self.path)
        (self.path / _MARKER).unlink()  # last: a removal that is cut short leaves a run folder
        if kept := [name for name in found if name not in own]:
            _log.warning("%s: replaced the earlier run; kept what is not of it: %s", self.path, ", ".join(kept))

    def _refusal(self, what: str) -> str:
        return (
            f"the output folder '{self.path}' {what}; nothing was changed. Continue it with --resume "
            "(resume=True), replace it with --overwrite (overwrite=True), or name another folder with --out"
        )


def _plain(value: Any) -> Any:
    """Values that YAML and JSON have words for."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, (set, frozenset)):
        return sorted(_plain(v) for v in value)
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def is_first_process() -> bool:
    """Whether this is rank 0, by what torchrun, Slurm and Lightning's launcher put in the environment."""
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"))
