"""The criterion without labels, measured on a fixed sample of the training pictures while a method is tuned."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from hybridcascade.backbone.clip import ClipBackbone
from hybridcascade.data.loaders import image_loader
from hybridcascade.data.shares import position_of
from hybridcascade.data.sources import PictureSource
from hybridcascade.data.views import plain_view
from hybridcascade.engine.watching import EpochWatch
from hybridcascade.evaluation.criterion import criterion_parts
from hybridcascade.evaluation.criterion_weights import weighted_mean
from hybridcascade.methods.base import Method
from hybridcascade.methods.parts import mild_views

__all__ = ["make_watch", "measure_parts", "sample_pictures"]

_BATCH = 64


def sample_pictures(source: PictureSource, backbone: ClipBackbone, count: int) -> Tensor:
    """Return a fixed sample of pictures as a method takes them, float `[min(count, N), 3, H, W]`.

    Which ones depends on their ids alone, so every method and every run looks at the same.
    """
    rows = sorted(range(len(source)), key=lambda row: position_of(source.samples[row].id))[:count]
    view = plain_view(backbone.image_size, backbone.mean, backbone.std, backbone.interpolation, backbone.resize_mode)
    batches = image_loader(source.take(sorted(rows)).unlabeled(), view, _BATCH)
    return torch.cat([batch.images for batch in batches])


def measure_parts(method: Method, images: Tensor, before: Tensor | None = None) -> tuple[dict[str, float], Tensor]:
    """Measure the parts of the criterion.

    Args:
        method: in evaluation, on its device.
        images: N pictures in the plain view, `[N, 3, H, W]`.
        before: class numbers `[N]` at the epoch before, or None.

    Returns:
        The parts, and the class numbers `[N]` now.
    """
    device = next(method.parameters()).device
    plain, changed, stages = [], [], []
    for batch in images.split(_BATCH):  # type: ignore[no-untyped-call]
        views = mild_views(batch.to(device), 4)
        prediction = method(views[0])
        plain.append(prediction.probabilities.cpu())
        changed.append(method(views[3]).probabilities.cpu())  # a mirrored corner: the strongest of the mild views
        if prediction.stage_logits is not None:
            stages.append(prediction.stage_logits.float().cpu())
    both = torch.stack([torch.cat(plain), torch.cat(changed)])
    return criterion_parts(both, torch.cat(stages) if stages else None, before), both[0].argmax(dim=1)


def make_watch(
    source: PictureSource | None, backbone: ClipBackbone, count: int, choose: bool = False
) -> EpochWatch | None:
    """Return the callback that measures the criterion on `count` of the training pictures after each epoch.

    Args:
        source: training pictures; labels are not read. None for a method that sees none.
        backbone: whose view the pictures take.
        count: 0 for no watch.
        choose: end each phase with the epoch of the best criterion.
    """
    if source is None or count == 0:
        return None
    images = sample_pictures(source, backbone, count)

    def measure(method: Method, before: Tensor | None) -> tuple[Mapping[str, float], Tensor]:
        parts, labels = measure_parts(method, images, before)
        return {
            "criterion": weighted_mean(parts),
            **{f"criterion_{name}": part for name, part in parts.items()},
        }, labels

    return EpochWatch(measure, choose)
