"""Runs the toy method in a process of its own: `run_toy.py FOLDER [resume] [hold] [shuffle] [workers] [ddp]`."""

import logging
import os
import sys
from pathlib import Path

import torch
from toy_method import Toy, both, plain_loader, shuffling_loader, texts, train_loader

from hybridcascade.engine.folder import RunFolder
from hybridcascade.engine.run import run_phases


def main(path: Path, options: tuple[str, ...]) -> None:
    """Train, and leave the final state in `final.pt`."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    torch.set_num_threads(1)
    folder = RunFolder.open(path) if "resume" in options else RunFolder.create(path)
    toy = Toy(hold=path / "here" if "hold" in options else None)
    loader = shuffling_loader() if "shuffle" in options else train_loader(workers=2 if "workers" in options else 0)
    devices, strategy = (2, "ddp") if "ddp" in options else (1, "auto")
    run_phases(
        toy, both(40, 4, schedule="cosine_warmup", warmup_epochs=1.5), texts(), loader, plain_loader(),
        folder=folder, seed=5, resume="resume" in options, accelerator="cpu", devices=devices, strategy=strategy,
    )  # fmt: skip
    torch.save(toy.state_dict(), path / "final.pt")


def redirected(path: Path, options: tuple[str, ...], hold_step: int) -> None:
    """The same, with stdout and stderr of the process in `PATH.out` and `PATH.err`."""
    for number, ending in ((1, ".out"), (2, ".err")):
        with open(f"{path}{ending}", "w") as file:
            os.dup2(file.fileno(), number)
    os.environ["TOY_HOLD_STEP"] = str(hold_step)
    main(path, options)


if __name__ == "__main__":
    main(Path(sys.argv[1]), tuple(sys.argv[2:]))
