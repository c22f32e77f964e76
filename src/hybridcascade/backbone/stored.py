"""Features that were computed once, in place of the pictures they belong to.

What a frozen tower gives for a picture never changes, so parts that only read it need not run it again. A
stored batch is a float tensor `[B, V, F]`: V views of each picture (the first is the picture itself), F
numbers a view, laid out as a `FeatureLayout` says. It stands where pictures `[B, 3, H, W]` would: the
number of axes tells which of the two a tensor is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from hybridcascade.errors import SettingsError
from hybridcascade.types import Taps

__all__ = ["FeatureLayout", "is_stored", "stored_taps"]


def is_stored(x: Tensor) -> bool:
    """Tell whether a batch holds stored features `[B, V, F]` and not pictures `[B, 3, H, W]`."""
    return x.dim() == 3


@dataclass(frozen=True)
class FeatureLayout:
    """What the F numbers of a stored view are: image feature, CLS tokens, and on request patch tokens.

    Attributes:
        taps: blocks whose tokens are stored, counted from 1, ascending.
        width: D of the tower.
        embed_dim: E of the tower.
        patch_mean: whether the mean patch token of each block is stored.
        patches: patch tokens stored of each block: P of the tower, or 0 for none.
    """

    taps: tuple[int, ...]
    width: int
    embed_dim: int
    patch_mean: bool = False
    patches: int = 0

    @property
    def size(self) -> int:
        """F, the numbers of one view."""
        return self.embed_dim + len(self.taps) * self.width * self._tokens

    @property
    def _tokens(self) -> int:
        return 1 + self.patch_mean + self.patches

    def describe(self) -> dict[str, Any]:
        """Return plain values that two layouts share only when they are the same."""
        return asdict(self)

    def pack(self, taps: Taps) -> Tensor:
        """Lay one forward pass out as rows.

        Args:
            taps: of this layout's blocks, with the tokens that the layout stores.

        Returns:
            float32 `[B, F]`.

        Raises:
            SettingsError: the pass lacks something that the layout stores.
        """
        count, (blocks, width) = len(taps.image), taps.cls.shape[1:]
        if (blocks, width, taps.image.shape[1]) != (len(self.taps), self.width, self.embed_dim):
            raise SettingsError(
                f"expected taps of the {len(self.taps)} blocks {list(self.taps)}, {self.width} wide, and an image "
                f"feature of {self.embed_dim}; found {blocks} blocks, {width} wide, and {taps.image.shape[1]}"
            )
        parts = [taps.image.float(), taps.cls.float().flatten(1)]
        for name, stored, tokens in (
            ("patch_mean", self.patch_mean, taps.patch_mean),
            ("patches", self.patches > 0, taps.patches),
        ):
            if stored and blocks:
                if tokens is None:
                    raise SettingsError(f"this layout stores {name}, but the forward pass was made without {name}")
                parts.append(tokens.float().flatten(1))
        packed = torch.cat(parts, dim=1)
        if packed.shape != (count, self.size):
            raise SettingsError(f"expected {self.size} numbers a picture, found {packed.shape[1]}")
        return packed

    def unpack(self, rows: Tensor, taps: Sequence[int] = (), patch_mean: bool = False, patches: bool = False) -> Taps:
        """Turn rows back into what a forward pass would have given.

        Args:
            rows: `[B, F]`, of any float dtype.
            taps: the wanted blocks, among the stored ones, ascending.
            patch_mean: whether to return the mean patch tokens.
            patches: whether to return all patch tokens.

        Returns:
            float32 tensors of the shapes of `Taps`.

        Raises:
            SettingsError: the rows are of another layout, or something wanted is not stored.
        """
        if rows.dim() != 2 or rows.shape[1] != self.size:
            raise SettingsError(f"expected stored features of {self.size} numbers a view, got {list(rows.shape)}")
        self._check(taps, patch_mean, patches)
        rows = rows.float()
        image, rest = rows[:, : self.embed_dim], rows[:, self.embed_dim :]
        places = [self.taps.index(tap) for tap in taps]
        blocks, width = len(self.taps), self.width
        cls, rest = rest[:, : blocks * width], rest[:, blocks * width :]
        mean = rest
        if self.patch_mean:
            mean, rest = rest[:, : blocks * width], rest[:, blocks * width :]
        spots = rest.reshape(len(rows), blocks, self.patches, width)
        return Taps(
            cls=cls.reshape(-1, blocks, width)[:, places] if places else image.new_zeros(len(rows), 0, width),
            image=image,
            patch_mean=mean.reshape(-1, blocks, width)[:, places] if patch_mean and places else None,
            patches=spots[:, places] if patches and places else None,
        )

    def _check(self, taps: Sequence[int], patch_mean: bool, patches: bool) -> None:
        missing = [f"block {tap}" for tap in taps if tap not in self.taps]
        if taps:
            missing += ["mean patch tokens"] * (patch_mean and not self.patch_mean)
            missing += ["patch tokens"] * (patches and not self.patches)
        if missing:
            kinds = "CLS tokens" + " and mean patch tokens" * self.patch_mean + " and patch tokens" * bool(self.patches)
            raise SettingsError(
                f"the stored features lack {', '.join(missing)}: they hold {kinds} of blocks {list(self.taps)}. "
                "The method must name all that it reads in `feature_needs`"
            )


def stored_taps(
    layout: FeatureLayout | None,
    stored: Tensor,
    taps: Sequence[int],
    with_prompts: bool,
    patch_mean: bool,
    patches: bool,
) -> Taps:
    """Answer a forward pass from stored features, in the first of their views.

    Args:
        layout: of the features; None when nobody said that features would come.
        stored: `[B, V, F]`.
        taps: the wanted blocks.
        with_prompts: whether prompt tokens should enter, which stored features cannot know.
        patch_mean: whether to return the mean patch tokens.
        patches: whether to return all patch tokens.

    Raises:
        SettingsError: no layout is set, prompts are asked for, or something wanted is not stored.
    """
    if layout is None:
        raise SettingsError(
            f"got a tensor {list(stored.shape)} in place of pictures [B, 3, H, W]; for stored features [B, V, F] "
            "set the backbone's `stored_layout` first"
        )
    if with_prompts:
        raise SettingsError(
            "prompts change what the tower computes, and stored features were computed without them: "
            "leave prompts out of the heads phase, or train with --tune full"
        )
    return layout.unpack(stored[:, 0], taps, patch_mean, patches)
