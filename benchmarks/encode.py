"""`encode`: image features of pictures that are already decoded, and whether low precision changes a class.

Each pair encodes other pictures; the features of all pairs together give the agreement: the share of
pictures for which ours and fp32 have the same most similar class.

- nano (trained): pictures of the sandbox's shifted test split and the class texts, CLIP's zero-shot rule.
- random weights: such towers map all pictures to nearly the same feature, so texts would ask nothing.
  Each class is a picture, its prototype that picture's fp32 feature; the pictures to classify are
  distortions of class pictures; features are centred on the mean prototype, and the cosine decides.

How often two roundings disagree depends on how close the calls are, so `fp32_accuracy` says how hard the
task is for fp32 itself: the distortion is set so that it comes near CLIP's own on ImageNet (ViT-B-32: 63%).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.floor import encode_flops
from benchmarks.models import Models, class_pictures, distort, geometry, plain_tower
from benchmarks.runner import Contest
from hybridcascade.sandbox.dataset import make_split
from hybridcascade.sandbox.texts import CLASSES, TEMPLATES

__all__ = ["EncodeRace", "encode_contest"]

_DISTORTION = 0.33
"""Share mixed into the pictures of the random-weight protocol."""


@dataclass
class EncodeRace:
    """Encodes the same pictures by ours and by the reference and keeps what came out.

    Attributes:
        pictures: gives the pictures `[B, 3, H, W]` and true classes `[B]` of a pair, by its number.
        ours: the library's program, pictures to features `[B, E]`.
        exact: the fp32 reference.
        score: features to class scores `[B, K]`.
        found: features by program and pair.
    """

    pictures: Callable[[int], tuple[Tensor, Tensor]]
    ours: Callable[[Tensor], Tensor]
    exact: Callable[[Tensor], Tensor]
    score: Callable[[Tensor], Tensor]
    found: dict[str, dict[int, Tensor]] = field(default_factory=lambda: {"ours": {}, "exact": {}})
    _ready: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def prepare(self, pairs: int, warmup: int) -> None:
        """Make the pictures of all pairs, so that no program is timed making them."""
        self._ready = {number: self.pictures(number) for number in range(-warmup, pairs)}

    @torch.no_grad()
    def run_ours(self, number: int) -> None:
        """Encode the pictures of a pair by ours."""
        self.found["ours"][number] = self.ours(self._ready[number][0])

    @torch.no_grad()
    def run_exact(self, number: int) -> None:
        """Encode the pictures of a pair by the reference."""
        self.found["exact"][number] = self.exact(self._ready[number][0])

    def agreement(self) -> dict[str, float]:
        """Share of pictures with equal argmax, their number, the task's difficulty, and how well the features align."""
        ours, exact = (torch.cat([found[n] for n in sorted(found)]).float() for found in self.found.values())
        truth = torch.cat([self._ready[n][1] for n in sorted(self.found["exact"])])
        chosen = self.score(exact).argmax(dim=-1)
        same = self.score(ours).argmax(dim=-1) == chosen
        cosine = F.cosine_similarity(ours, exact).mean()
        return {
            "argmax_agreement": float(same.float().mean()),
            "fp32_accuracy": float((chosen == truth).float().mean()),
            "agreement_pictures": len(same),
            "agreement_classes": self.score(exact).shape[1],
            "mean_cosine_to_fp32": float(cosine),
        }


def encode_contest(models: Models, batch: int, classes: int, square: int) -> tuple[Contest, EncodeRace]:
    """The contest of a model and the race that holds its features.

    Args:
        models: the model.
        batch: pictures that each program encodes at once.
        classes: K of the random-weight protocol.
        square: for the matmul rate.
    """
    exact = plain_tower(models.exact)
    pictures, score = _sandbox(models, batch) if models.trained else _random(models, exact.encode, batch, classes)
    race = EncodeRace(pictures, models.ours.encode_image, exact.encode, score)
    sizes = geometry(models.ours)
    contest = Contest(
        name=f"encode/{models.name}",
        ours=race.run_ours,
        reference=race.run_exact,
        pictures=batch,
        flops=encode_flops(sizes, batch),
        dtype=models.ours.compute_dtype,
        geometry=sizes,
        rows=batch * (1 + sizes.patches),
        square=square,
        facts={"model": models.name, "batch": batch, "protocol": _PROTOCOL[models.trained]},
    )
    return contest, race


_PROTOCOL = {True: "zero-shot on the sandbox's shifted test pictures", False: "centred picture prototypes"}
_Protocol = tuple[Callable[[int], tuple[Tensor, Tensor]], Callable[[Tensor], Tensor]]


def _random(models: Models, encode: Callable[[Tensor], Tensor], batch: int, classes: int) -> _Protocol:
    originals = class_pictures(classes, models.exact.image_size)
    with torch.no_grad():
        prototypes = torch.cat([encode(originals[i : i + 50]) for i in range(0, classes, 50)])
    centre = prototypes.mean(dim=0)

    def pictures(number: int) -> tuple[Tensor, Tensor]:
        chosen = (torch.arange(batch) + number * batch) % classes
        return distort(originals[chosen], _DISTORTION, seed=1000 + 10 * number), chosen

    def score(features: Tensor) -> Tensor:
        return F.normalize(features - centre, dim=-1) @ F.normalize(prototypes - centre, dim=-1).T

    return pictures, score


def _sandbox(models: Models, batch: int) -> _Protocol:
    texts = [template.format(name) for name in CLASSES for template in TEMPLATES]
    features = F.normalize(models.exact.encode_text(texts).features, dim=-1)
    prototypes = F.normalize(features.view(len(CLASSES), len(TEMPLATES), -1).mean(dim=1), dim=-1)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (models.exact.mean, models.exact.std))

    def pictures(number: int) -> tuple[Tensor, Tensor]:
        split = make_split("test", batch, "shifted", seed=100 + number)
        images = (torch.from_numpy(split.images).permute(0, 3, 1, 2).float() / 255 - mean) / std
        return images, torch.from_numpy(split.emotions)

    def score(found: Tensor) -> Tensor:
        return F.normalize(found, dim=-1) @ prototypes.T

    return pictures, score
