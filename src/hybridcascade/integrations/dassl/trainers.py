"""Our methods as Dassl trainers: Dassl's loop, loaders, evaluator and files around our method, backbone and texts.

What Dassl calls an epoch is our image phase; the text phase runs before it, in the engine. The batch of a
training step is stripped of labels before the method sees it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from dassl.data import DataManager
from dassl.data.data_manager import build_data_loader
from dassl.engine import TrainerX
from dassl.optim import build_optimizer
from dassl.utils import save_checkpoint
from torch import Tensor

from hybridcascade.backbone.loading import load_backbone
from hybridcascade.cachedir import text_cache_folder
from hybridcascade.compose import TunedParts, build_method, plain_view_of, save_parts
from hybridcascade.data.classes import read_classes
from hybridcascade.data.views import strong_view
from hybridcascade.encoded import choose_texts, encode_texts
from hybridcascade.engine.module import OnDevice, seed_all
from hybridcascade.engine.state import checksums, restore, select
from hybridcascade.engine.trained import TrainedSetCheck, declare
from hybridcascade.engine.unfreezing import Unfreezing
from hybridcascade.errors import ClassListError
from hybridcascade.integrations.dassl.batches import PlainPictures, RandomView, unlabeled_batch
from hybridcascade.integrations.dassl.checking import check_configuration, text_numbers
from hybridcascade.integrations.dassl.checkpoints import checkpoint_file, read_checkpoint
from hybridcascade.integrations.dassl.schedule import epoch_schedule
from hybridcascade.integrations.dassl.text_phase import run_text_phase
from hybridcascade.integrations.keys import backbone_name, read_method
from hybridcascade.methods.settings import default_view
from hybridcascade.types import UnlabeledBatch

__all__ = ["TRAINER_CLASSES", "HybridCascadeLaFTer", "LaFTer", "LabelFreeTrainer", "MultiLayerLaFTer"]

logger = logging.getLogger(__name__)

_PHASE = "image"
_MODEL = "model"


class LabelFreeTrainer(TrainerX):  # type: ignore[misc]  # Dassl has no types
    """Base of our trainers: one method, trained on pictures without labels; the last epoch is tested.

    Attributes:
        keys_of: name under which the keys of the configuration are read (`integrations.keys`).
        model: the method.
        classes: K names, by Dassl's label numbers.
    """

    keys_of: ClassVar[str]

    def check_cfg(self, cfg: Any) -> None:
        """Refuse configurations that this trainer cannot follow."""
        check_configuration(self.keys_of, cfg)

    def build_data_loader(self) -> None:
        """Build Dassl's loaders with the views that the CLIP weights ask for: `img` plain, `img2` strong."""
        cfg = self.cfg
        self.backbone = load_backbone(
            backbone_name(cfg.MODEL.BACKBONE.NAME), cfg.LABEL_FREE.PRECISION, str(self.device)
        )
        backbone = self.backbone
        self.choice = read_method(self.keys_of, cfg, backbone.depth)
        plain = plain_view_of(backbone)
        name = cfg.LABEL_FREE.VIEW or default_view(self.choice.method)
        strong = strong_view(name, backbone.image_size, backbone.mean, backbone.std, backbone.interpolation)
        self.dm = DataManager(cfg, custom_tfm_train=(plain, RandomView(strong, plain)), custom_tfm_test=plain)
        self.train_loader_x, self.train_loader_u = self.dm.train_loader_x, self.dm.train_loader_u
        self.val_loader, self.test_loader = self.dm.val_loader, self.dm.test_loader
        self.num_classes, self.lab2cname = self.dm.num_classes, self.dm.lab2cname
        self.num_source_domains = self.dm.num_source_domains
        in_order = build_data_loader(
            cfg, data_source=self.dm.dataset.train_x, batch_size=cfg.DATALOADER.TEST.BATCH_SIZE, tfm=plain,
            is_train=False,
        )  # fmt: skip
        self.plain_pictures = OnDevice(PlainPictures(in_order), self.device)
        self.classes = self._class_names()

    def build_model(self) -> None:
        """Build the method, its optimiser by `cfg.OPTIM` and its schedule, and register them."""
        cfg, choice = self.cfg, self.choice
        own = cfg.LABEL_FREE
        # Dassl's negative seed means another result every time.
        self.method_seed = cfg.SEED if cfg.SEED >= 0 else int(torch.randint(2**31, ()).item())
        texts = choose_texts(
            self.classes, choice.method, own.TEXT_MODE, own.TEMPLATES or None, own.DESCRIPTIONS or None
        )
        self.texts = encode_texts(self.backbone, texts, text_cache_folder(own.TEXT_CACHE))
        self.backbone.drop_text()
        method = build_method(
            choice.method, self.backbone, self.texts, self.num_classes, self.method_seed, choice.settings
        )
        self.model = method.to(self.device)
        trained = (name for phase in method.phases for name in method.trainable_names(phase))
        self._baseline = checksums(method, leave_out=trained)
        self._open_image_phase()
        self.optim = build_optimizer(self.model, cfg.OPTIM, param_groups=self._optimizer_groups())
        self.sched = epoch_schedule(self.optim, cfg.OPTIM)
        self.register_model(_MODEL, self.model, self.optim, self.sched)
        logger.info("%s runs %s with %s", type(self).__name__, choice.method, choice.settings)
        for line in self._unfreezing.lines(cfg.OPTIM.LR):
            logger.info("image phase: %s", line)
        if self.device.type == "cuda" and torch.cuda.device_count() > 1:
            logger.warning("%d GPUs found, one is used: `hybridcascade train --devices` uses several",
                           torch.cuda.device_count())  # fmt: skip

    def before_train(self) -> None:
        """Resume where there is a checkpoint; else learn from the texts and prepare the image phase."""
        super().before_train()
        if self.start_epoch == 0:
            numbers = text_numbers(self.choice.method, self.cfg)
            if numbers is not None:
                run_text_phase(self.model, self.texts.batch, numbers, self.method_seed, self.device)
            self._begin_image_phase()
        self._check: TrainedSetCheck | None = None

    def after_train(self) -> None:
        """Test the last epoch; with `LABEL_FREE.EXPORT` save the model for `hybridcascade predict` too."""
        super().after_train()
        if self.cfg.LABEL_FREE.EXPORT:
            self.export(os.path.join(self.output_dir, "hybridcascade"))

    def before_epoch(self) -> None:
        """Open the groups that train from here on, and let the method relabel."""
        if self.cfg.SEED >= 0:  # order and augmentation of an epoch are the same in a resumed run
            seed_all(self.method_seed, _PHASE, self.epoch)
        if self._check is None or self._unfreezing.changes_at(self.epoch):
            self._check = TrainedSetCheck(self.model, _PHASE, self._unfreezing.parameters(self.epoch))
            self._unfreezing.open(self.epoch)
            self.model.groups_opened(_PHASE, self._unfreezing.groups(self.epoch))
        self.model.begin_epoch(_PHASE, self.epoch, self.plain_pictures)

    def parse_batch_train(self, batch: Mapping[str, Any]) -> UnlabeledBatch:
        """Return the pictures of a batch in both views; its labels are not read."""
        return unlabeled_batch(batch, self.device)

    def forward_backward(self, batch: Mapping[str, Any]) -> dict[str, float]:
        """Take one step; return the loss and its parts for Dassl's log."""
        pictures = self.parse_batch_train(batch)
        step = self.epoch * self.num_batches + self.batch_idx
        report = self.model.training_loss(_PHASE, pictures, step)
        check = None if self._check is None or self._check.done else self._check
        if check:
            check.before_step()
        self.model_backward_and_update(report.loss)
        self.model.after_step(_PHASE)
        if check:
            check.after_step()
        if self.batch_idx + 1 == self.num_batches:
            self.update_lr()
        return {"loss": report.loss.item(), **{name: float(value) for name, value in report.scalars.items()}}

    def model_inference(self, input: Tensor) -> Tensor:
        """Return the logits of plain pictures `[B, 3, H, W]`, `[B, K]`."""
        logits: Tensor = self.model(input).logits
        return logits

    def save_model(
        self, epoch: int, directory: str, is_best: bool = False, val_result: float | None = None, model_name: str = ""
    ) -> None:
        """Save a checkpoint where Dassl does, without the frozen weights, whose checksums it keeps."""
        kept, omitted = select(self.model.state_dict(), self._baseline)
        state = {
            "state_dict": kept, "omitted": omitted, "method": self.choice.method, "classes": list(self.classes),
            "epoch": epoch + 1, "optimizer": self.optim.state_dict(), "scheduler": self.sched.state_dict(),
            "val_result": None if val_result is None else float(val_result),
        }  # fmt: skip
        save_checkpoint(state, os.path.join(directory, _MODEL), is_best=is_best, model_name=model_name)

    def load_model(self, directory: str, epoch: int | None = None) -> None:
        """Load a checkpoint of `save_model`.

        Args:
            directory: an output folder; empty loads nothing, as in Dassl.
            epoch: epochs done; None is the last checkpoint.

        Raises:
            FileNotFoundError: there is none.
            CheckpointError: it is damaged, or of another method, backbone or class list.
        """
        if not directory:
            logger.warning("load_model: no folder was named, so nothing is loaded")
            return
        file = checkpoint_file(directory, _MODEL, epoch)
        if file is None:
            raise FileNotFoundError(f"no checkpoint in {os.path.join(directory, _MODEL)}")
        self._restore(file)

    def resume_model_if_exist(self, directory: str) -> int:
        """Continue from the last checkpoint in a folder; return the epochs done, 0 without one."""
        file = checkpoint_file(directory, _MODEL)
        if file is None:
            return 0
        self._begin_image_phase()  # what it leaves outside of the tensors must be there again
        saved = self._restore(file)
        self.optim.load_state_dict(saved["optimizer"])
        self.sched.load_state_dict(saved["scheduler"])
        logger.info("resuming from %s after %d epochs", file, saved["epoch"])
        return int(saved["epoch"])

    def export(self, folder: str) -> None:
        """Save the model as a folder that `hybridcascade predict` and `evaluate` read."""
        choice = self.choice
        parts = TunedParts(self.model, choice.method, choice.settings, self.classes, self.texts, self.method_seed)
        save_parts(Path(folder), parts)

    def _class_names(self) -> tuple[str, ...]:
        if missing := [label for label in range(self.num_classes) if label not in self.lab2cname]:
            raise ClassListError(f"the data set names no class for the labels {missing}: every class needs a picture")
        return read_classes([self.lab2cname[label] for label in range(self.num_classes)])

    def _open_image_phase(self) -> None:
        groups = declare(self.model, _PHASE)
        where = f"method {self.choice.method}, phase {_PHASE!r}"
        self._unfreezing = Unfreezing(groups, self.model.unfreezing(_PHASE), self.max_epoch, where)
        self._groups = groups

    def _optimizer_groups(self) -> list[dict[str, Any]]:
        optim = self.cfg.OPTIM
        return [
            {
                "params": parameters,
                "lr": optim.LR * group.lr_scale,
                "weight_decay": optim.WEIGHT_DECAY if group.weight_decay is None else group.weight_decay,
                "name": group.name,
            }
            for group, parameters in self._groups
        ]

    def _begin_image_phase(self) -> None:
        self.model.requires_grad_(False)
        seed_all(self.method_seed, _PHASE)
        self.model.fit_input(self.plain_pictures)
        self.model.begin_phase(_PHASE, self.plain_pictures)
        self._open_image_phase()

    def _restore(self, file: Path) -> dict[str, Any]:
        saved = read_checkpoint(file, self.choice.method, self.classes)
        tensors = {name: tensor.to(self.device) for name, tensor in saved["state_dict"].items()}
        restore(self.model, tensors, saved["omitted"], str(file))
        return saved


class LaFTer(LabelFreeTrainer):
    """LaFTer as its code has it: the method `lafter`."""

    keys_of = "LaFTer"


class MultiLayerLaFTer(LabelFreeTrainer):
    """Prompts, NGA and a verdict in each segment of the tower, unfrozen from deep to shallow: `multilayer`."""

    keys_of = "MultiLayerLaFTer"


class HybridCascadeLaFTer(LabelFreeTrainer):
    """The cascade: our method `hybrid_cascade`, or `hybrid_cascade_seed` by `HYBRID_CASCADE.METHOD`."""

    keys_of = "HybridCascadeLaFTer"


TRAINER_CLASSES: dict[str, type[LabelFreeTrainer]] = {
    trainer.__name__: trainer for trainer in (LaFTer, MultiLayerLaFTer, HybridCascadeLaFTer)
}
"""Our trainers by the name they are registered under."""
