"""What several methods share: seeded draws, class prototypes, declared names, teachers by row."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from hybridcascade.backbone.prompts import PromptSpec, VisualPrompts
from hybridcascade.backbone.stored import is_stored
from hybridcascade.cascade.heads import unit
from hybridcascade.errors import DataError, SettingsError, TextError
from hybridcascade.methods.base import Method
from hybridcascade.types import ImageBatch

if TYPE_CHECKING:
    from hybridcascade.backbone.clip import ClipBackbone

__all__ = [
    "TeacherMethod",
    "check_waiting_prompts",
    "class_prototypes",
    "collect_rows",
    "layer_norm_names",
    "mean_view_feature",
    "mild_views",
    "parameter_names",
    "seeded_generator",
    "shallow_prompts",
]


def seeded_generator(seed: int, *key: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a generator that depends on (seed, key) only, never on what was drawn before.

    Args:
        seed: of the run.
        key: what the draw is for, such as `("text", step)`.
        device: where the draw happens; the same device draws the same numbers.
    """
    digest = hashlib.sha256(repr((seed, *key)).encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def class_prototypes(text_features: Tensor, text_labels: Tensor, class_count: int) -> Tensor:
    """Return the unit mean text feature of each class, float32 `[K, E]`.

    Args:
        text_features: unit vectors, `[T, E]`.
        text_labels: class of each text, int64 `[T]`.
        class_count: K.

    Raises:
        TextError: a class has no text, or a label is not in `0..K-1`.
    """
    counts = torch.bincount(text_labels, minlength=class_count)
    if counts.numel() != class_count:
        raise TextError(f"expected text labels from 0 to {class_count - 1}, got {int(text_labels.max())}")
    if bool((counts == 0).any()):
        missing = (counts == 0).nonzero().flatten().tolist()
        raise TextError(f"every class needs a text; there is none for classes number {missing} (counted from 0)")
    sums = torch.zeros(class_count, text_features.shape[1], device=text_features.device)
    return unit(sums.index_add_(0, text_labels, text_features.float()) / counts[:, None])


def shallow_prompts(backbone: ClipBackbone, tokens: int, init: str, seed: int) -> VisualPrompts:
    """Make prompt tokens that enter once, before the first block (LaFTer's place for them).

    Args:
        backbone: gives width, depth and heads.
        tokens: number of prompt tokens, at least 1.
        init: `"uniform"` or `"neutral"`, see `backbone.prompts`.
        seed: of the draw.
    """
    # Prompts and head must not draw the same numbers, so the prompts get a seed of their own.
    own_seed = seeded_generator(seed, "prompts").initial_seed()
    spec = PromptSpec.shallow(tokens)
    return VisualPrompts(spec, backbone.width, backbone.depth, backbone.heads, init=init, seed=own_seed)


def parameter_names(module: nn.Module, prefix: str) -> tuple[str, ...]:
    """Return the names of a submodule's parameters as the method sees them."""
    return tuple(f"{prefix}.{name}" for name, _ in module.named_parameters())


def layer_norm_names(backbone: ClipBackbone, which: str = "all", with_last: bool = True) -> tuple[str, ...]:
    """Return the names of visual LayerNorm parameters as the method sees them.

    Args:
        backbone: the method's backbone, its attribute `backbone`.
        which: `"all"`, `"last_half"` (those of the deeper half of the blocks and the one after them)
            or `"none"`.
        with_last: include `ln_post`; leave it out where the prediction does not pass through it, since
            no gradient could reach it.
    """
    names = backbone.layer_norm_names()
    if which == "none":
        return ()
    if which == "last_half":  # from the end: ln_post has 2 names, each block has 2 LayerNorms of 2
        names = names[-(2 + 4 * (backbone.depth - backbone.depth // 2)) :]
    if not with_last:
        names = names[:-2]
    return tuple(f"backbone.{name}" for name in names)


def check_waiting_prompts(method: str, prompts: VisualPrompts | None) -> None:
    """Check that prompts, which a heads phase leaves as they start, have no effect as they start.

    Raises:
        SettingsError: they are random, and would change what the tower says later.
    """
    if prompts is not None and prompts.init != "neutral":
        raise SettingsError(
            f"{method}: a heads phase leaves prompts as they start, and random ones would change what the tower "
            "says later; set prompts=0 or prompt_init=neutral"
        )


def mild_views(images: Tensor, count: int) -> list[Tensor]:
    """Return views that keep what a picture shows: itself, its mirror image, and four corner crops.

    A teacher that averages over them is less moved by where things happen to lie (microCLIP labels with
    crops for the same reason). A crop keeps 85% of each side; every other one is mirrored.

    Args:
        images: `[B, 3, H, W]`; or stored features `[B, V, F]`, whose views are these.
        count: how many of the six, 1 to 6; 1 is the picture alone.

    Returns:
        `count` tensors `[B, 3, H, W]`, or `[B, 1, F]` of stored features.

    Raises:
        SettingsError: fewer views are stored than asked for.
    """
    if is_stored(images):
        if images.shape[1] < count:
            raise SettingsError(
                f"{count} views of each picture were asked for, but features of {images.shape[1]} are stored: "
                "the method must name as many in `feature_needs`"
            )
        return [images[:, view : view + 1] for view in range(count)]
    height, width = images.shape[-2:]
    high, wide = round(0.85 * height), round(0.85 * width)
    views = [images, images.flip(-1)][:count]
    for number, (top, left) in enumerate(((0, 0), (1, 1), (1, 0), (0, 1))[: max(0, count - 2)]):
        y, x = top * (height - high), left * (width - wide)
        crop = images[..., y : y + high, x : x + wide]
        view = functional.interpolate(crop, size=(height, width), mode="bicubic", align_corners=False)
        views.append(view.flip(-1) if number % 2 else view)
    return views


def mean_view_feature(backbone: ClipBackbone, images: Tensor, count: int) -> Tensor:
    """Return the mean of the unit image features of mild views, `[B, 3, H, W]` to `[B, E]`.

    Args:
        backbone: encodes them, without prompts.
        images: pictures, or stored features of them.
        count: how many of `mild_views`.
    """
    views = mild_views(images, count)
    return torch.stack([unit(backbone.forward_taps(view).image.float()) for view in views]).mean(dim=0)


def collect_rows(plain: Iterable[ImageBatch], compute: Callable[[Tensor], Tensor], device: torch.device) -> Tensor:
    """Apply `compute` to all pictures and put the results in data set order.

    Args:
        plain: batches that hold every row once, in any order.
        compute: pictures `[B, 3, H, W]` to results `[B, ...]`; runs without gradient.
        device: where the pictures are sent and the results stay.

    Returns:
        Results by data set row, `[N, ...]`.

    Raises:
        DataError: rows are missing or repeated.
    """
    rows, results = [], []
    with torch.no_grad():
        for batch in plain:
            rows.append(batch.index.to(device))
            results.append(compute(batch.images.to(device)))
    if not rows:
        raise DataError("expected training pictures in the plain view, got none")
    index, values = torch.cat(rows), torch.cat(results)
    if not torch.equal(index.sort().values, torch.arange(len(index), device=device)):
        raise DataError(
            f"expected each row from 0 to {len(index) - 1} once in the plain view, got repeated or missing rows"
        )
    return torch.empty_like(values).index_copy_(0, index, values)


class TeacherMethod(Method):
    """A method that keeps quantities by data set row or step in buffers named `teacher_*`.

    They are in checkpoints, so that a resumed run has the same teacher, and not in the saved model.
    Their shapes depend on the data; whoever loads a checkpoint makes those that are not there yet.
    """

    @property
    def device(self) -> torch.device:
        """Where the method's parameters are."""
        return next(self.parameters()).device

    def set_teacher(self, name: str, value: Tensor) -> None:
        """Store `value` as the buffer `teacher_<name>`."""
        self.register_buffer(f"teacher_{name}", value.detach().clone())

    def started_warm(self, phase: str) -> bool:
        """Tell whether a phase goes on from a heads phase before it, and note that a heads phase has begun.

        The note is a buffer like the teacher's, so a resumed run knows it too.
        """
        if phase == "heads":
            self.set_teacher("warm", torch.ones(()))
            return False
        return "teacher_warm" in self._buffers

    def teacher_rows(self, name: str, index: Tensor) -> Tensor:
        """Return the rows of the buffer `teacher_<name>`.

        Raises:
            SettingsError: the phase was not begun, so there is no such buffer.
        """
        table = self._buffers.get(f"teacher_{name}")
        if table is None:
            raise SettingsError(f"{self.name}: no teacher {name}; call begin_phase with the plain pictures first")
        return table[index]
