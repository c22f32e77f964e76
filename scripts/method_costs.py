"""Count what each method trains and costs, and write the counts into docs/methods.md.

    python scripts/method_costs.py           # write
    python scripts/method_costs.py --check   # fail if the page is not what this would write

No weights are needed: a tower of ViT-B-32's shape stands for it, and what it would say of a picture is
random. Every pass through the tower is counted as the method asks for it; a forward pass costs what its
matrix products cost, 2 operations a multiplication.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from hybridcascade.backbone.clip import ClipBackbone
from hybridcascade.backbone.prompts import VisualPrompts
from hybridcascade.cascade.heads import unit
from hybridcascade.methods.base import Method
from hybridcascade.methods.catalogue import CATALOGUE
from hybridcascade.methods.settings import default_phases
from hybridcascade.types import ImageBatch, Taps, TargetBatch, TextBatch, UnlabeledBatch

PAGE = Path(__file__).parents[1] / "docs" / "methods.md"
CLASSES = 8
PICTURES = 8

_DESCRIPTION = {
    "format": 1, "name": "ViT-B-32", "embed_dim": 512, "quick_gelu": True, "precision": "fp32",
    "vision_cfg": {"layers": 12, "width": 768, "patch_size": 32, "image_size": 224},
    "logit_scale": 100.0, "weights_hash": "0" * 64, "tokenizer": "none", "interpolation": "bicubic",
    "mean": [0.5] * 3, "std": [0.25] * 3, "resize_mode": "shortest",
}  # fmt: skip

_WORDS = {
    "head": "head", "bias": "bias", "class_bias": "class bias", "layer_norms": "LayerNorms of the tower",
    "prompts": "prompts", "alignment": "alignment of the stages", "mixing": "NGA and stage weights",
    "decoders": "decoders", "nga": "NGA sigmas", "segment_weights": "segment weights",
}  # fmt: skip


@dataclass
class Cost:
    """What one method trains and how often it runs the tower.

    Attributes:
        groups: numbers that train, by group and by phase.
        trained: numbers that train in any phase, each counted once.
        label_passes: passes a picture, without gradient, before training.
        epoch_passes: passes a picture, without gradient, at each later epoch.
        step_passes: passes of a picture in a training step, without gradient and with.
        backward: whether the gradient goes through the tower.
        predict_passes: passes of a predicted picture.
        predict_flops: all operations of a predicted picture.
        beside_flops: those of them outside of the tower.
    """

    groups: dict[str, dict[str, int]] = field(default_factory=dict)
    trained: int = 0
    label_passes: float = 0
    epoch_passes: float = 0
    step_passes: tuple[float, float] = (0, 0)
    backward: bool = False
    predict_passes: float = 0
    predict_flops: float = 0
    beside_flops: float = 0


class _CountedBackbone(ClipBackbone):
    """A tower of memory without values that counts the pictures it is asked about."""

    frozen = 0
    tracked = 0
    flops = 0.0

    def cls_projection_init(self) -> tuple[Tensor, Tensor, Tensor]:
        return torch.ones(self.width), torch.zeros(self.width), torch.randn(self.width, self.embed_dim)

    def forward_taps(
        self,
        x: Tensor,
        taps: Any = (),
        prompts: VisualPrompts | None = None,
        patch_mean: bool = False,
        patches: bool = False,
    ) -> Taps:
        if torch.is_grad_enabled():
            self.tracked += len(x)
        else:
            self.frozen += len(x)
        self.flops += len(x) * tower_flops(self, prompts)
        shape, places = (len(x), len(taps)), self.patch_grid[0] * self.patch_grid[1]
        return Taps(
            torch.randn(*shape, self.width),
            torch.randn(len(x), self.embed_dim),
            torch.randn(*shape, self.width) if patch_mean else None,
            torch.randn(*shape, places, self.width) if patches else None,
        )

    def encode_image(self, x: Tensor) -> Tensor:
        return self.forward_taps(x).image


def tower_flops(backbone: ClipBackbone, prompts: VisualPrompts | None = None) -> float:
    """Return the operations of one forward pass of one picture, every token through every block."""
    width, patches = backbone.width, backbone.patch_grid[0] * backbone.patch_grid[1]
    size = backbone.image_size // backbone.patch_grid[0]
    tokens, live = torch.zeros(1, 1 + patches, width), tuple[int, ...]()
    total = float(patches * width * 3 * size**2 + width * backbone.embed_dim)
    for number in range(1, backbone.depth + 1):
        if prompts is not None:
            with torch.no_grad():
                tokens, live = prompts.enter(tokens, number, live)
        count = tokens.shape[1]
        total += count * 12 * width**2 + 2 * count**2 * width
    return 2 * total


@contextmanager
def _passes(backbone: _CountedBackbone) -> Iterator[Callable[[], tuple[float, float]]]:
    """Count passes a picture, without gradient and with, from here on."""
    before = backbone.frozen, backbone.tracked
    yield lambda: ((backbone.frozen - before[0]) / PICTURES, (backbone.tracked - before[1]) / PICTURES)


def build(name: str) -> Method:
    """Build a method with its default settings on the counted tower."""
    with torch.device("meta"):
        backbone = _CountedBackbone.from_description(_DESCRIPTION)
    backbone.to_empty(device="cpu")
    entry = next(entry for entry in CATALOGUE if entry.name == name)
    labels = torch.arange(CLASSES).repeat_interleave(4)
    texts = unit(torch.randn(len(labels), backbone.embed_dim))
    return entry.load()(backbone=backbone, text_features=texts, text_labels=labels, class_count=CLASSES)


def cost(name: str) -> Cost:
    """Count what a method trains and how often it runs the tower, with its default settings."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return _cost(build(name))


def _cost(method: Method) -> Cost:
    found, named = Cost(), dict(method.named_parameters())
    names: set[str] = set()
    for phase in method.phases:
        if phase == "text" and not default_phases(method.name)["text"].epochs:
            continue  # a phase of no epochs trains nothing
        groups = method.parameter_groups(phase)
        found.groups[phase] = {}
        for group in groups:
            label = re.sub(r"_(\d+)$", "", group.name)  # groups of one segment each are counted together
            count = sum(named[n].numel() for n in group.parameters)
            found.groups[phase][label] = found.groups[phase].get(label, 0) + count
            names.update(group.parameters)
    found.trained = sum(named[n].numel() for n in names)
    found.backward = any(n.startswith(("backbone.", "prompts.")) for n in names)
    _count_training(method, found)
    _count_prediction(method, found)
    return found


def _count_training(method: Method, found: Cost) -> None:
    backbone = _tower(method)
    index = torch.arange(PICTURES)
    ids = tuple(map(str, range(PICTURES)))
    pictures = torch.randn(PICTURES, 3, backbone.image_size, backbone.image_size)
    plain = [ImageBatch(index, ids, pictures)]
    targets = torch.rand(PICTURES, CLASSES).softmax(dim=1) if method.needs == "targets" else None
    for phase in method.phases:
        if phase == "text":
            continue
        with _passes(backbone) as counted, torch.no_grad():
            method.begin_phase(phase, plain, targets)
            found.label_passes = counted()[0]
        if phase in getattr(method, "solves", ()):
            continue
        with _passes(backbone) as counted:
            method.begin_epoch(phase, 1, plain)
            found.epoch_passes = counted()[0]
        batch: UnlabeledBatch | TextBatch = UnlabeledBatch(index, ids, pictures, pictures)
        if targets is not None:
            batch = TargetBatch(index, ids, pictures, pictures, targets)
        method.train()
        with _passes(backbone) as counted:
            method.training_loss(phase, batch, 0)
            found.step_passes = counted()


def _count_prediction(method: Method, found: Cost) -> None:
    backbone = _tower(method)
    method.eval()
    pictures = torch.randn(PICTURES, 3, backbone.image_size, backbone.image_size)
    before = backbone.flops
    with _passes(backbone) as counted, torch.no_grad(), FlopCounterMode(display=False) as counter:
        method(pictures)
        found.predict_passes = counted()[0]
    found.beside_flops = counter.get_total_flops() / PICTURES
    found.predict_flops = (backbone.flops - before) / PICTURES + found.beside_flops


def _tower(method: Method) -> _CountedBackbone:
    backbone = method.backbone
    if not isinstance(backbone, _CountedBackbone):
        raise TypeError(f"expected the counted tower, got {type(backbone).__name__}")
    return backbone


# -- the page -----------------------------------------------------------------------------------------------


def table(costs: dict[str, Cost]) -> str:
    """Return the table that opens the page."""
    lines = [
        "| method | numbers that train | passes for labels | a training step: forward, backward | a prediction |",
        "|---|--:|---|---|---|",
    ]
    for name, one in costs.items():
        words = [f"[`{name}`](#{name})", f"{one.trained:,}", _label_words(one), _step_words(one), _predict_words(one)]
        lines.append(f"| {' | '.join(words)} |")
    return "\n".join(lines)


def _label_words(one: Cost) -> str:
    parts = [f"{one.label_passes:g} before training"] if one.label_passes else []
    parts += [f"{one.epoch_passes:g} each later epoch"] if one.epoch_passes else []
    parts += [f"{one.step_passes[0]:g} in each step"] if one.step_passes[0] else []
    return ", ".join(parts) or "none"


def _step_words(one: Cost) -> str:
    if not sum(one.step_passes):
        return "none on pictures"
    return f"{one.step_passes[1]:g}, {'1' if one.backward else 'none through the tower'}"


def _predict_words(one: Cost) -> str:
    passes = "1 pass" if one.predict_passes == 1 else f"{one.predict_passes:g} passes"
    beside = one.beside_flops / one.predict_flops
    share = f"{beside:.1%} of it beside the tower" if beside >= 0.001 else "nearly all of it in the tower"
    return f"{passes}, {one.predict_flops / 1e9:.1f} GFLOP, {share}"


def trains(one: Cost) -> str:
    """Return what a method trains, phase by phase, in words and numbers."""
    if not one.groups:
        return "Nothing."
    lines = []
    for phase, groups in one.groups.items():
        parts = [f"{_WORDS.get(label, label)} {count:,}" for label, count in groups.items()]
        lines.append(f"- {phase} phase: {', '.join(parts)}")
    return "\n".join([*lines, "", f"**{one.trained:,}** numbers in all."])


def render(page: str, costs: dict[str, Cost]) -> str:
    """Return the page with every counted block renewed."""
    blocks = {"costs": table(costs)} | {f"trains {name}": trains(one) for name, one in costs.items()}
    for key, text in blocks.items():
        pattern = re.compile(rf"(<!-- counted: {re.escape(key)} -->\n).*?(<!-- end -->)", re.DOTALL)
        if not pattern.search(page):
            raise ValueError(f"{PAGE.name} has no block 'counted: {key}'")
        page = pattern.sub(lambda match, text=text: f"{match[1]}\n{text}\n\n{match[2]}", page)  # type: ignore[misc]
    return page


def main() -> int:
    """Write the page, or check it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; fail if the page is out of date")
    parser.add_argument("--print", action="store_true", help="change nothing; print the counts")
    given = parser.parse_args()
    costs = {entry.name: cost(entry.name) for entry in CATALOGUE}
    if given.print:
        print(table(costs))
        for name, one in costs.items():
            print(f"\n{name}\n{trains(one)}")
        return 0
    page = PAGE.read_text(encoding="utf-8")
    new = render(page, costs)
    if given.check and new != page:
        print(f"{PAGE} is out of date: run python scripts/method_costs.py", file=sys.stderr)
        return 1
    if not given.check:
        PAGE.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
