"""`ClipBackbone`: a frozen CLIP vision tower that shows its inside.

The tower is open_clip's own `VisionTransformer`. Matrix weights are stored in the compute dtype,
LayerNorms and embeddings in fp32 (open_clip's layout for "bf16" and "fp16"), so LayerNorms that are
trained, and prompts, keep fp32 parameters and gradients.

Without prompts and without gradients a forward pass runs open_clip's modules as they are: equal to its
`encode_image` bit for bit. Otherwise the blocks run through `backbone.blocks`, equal up to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
from open_clip.model import _build_vision_tower, convert_weights_to_lp
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from hybridcascade.backbone.blocks import is_plain_block, layer_norm, run_block, run_block_for_cls
from hybridcascade.backbone.precision import PRECISIONS
from hybridcascade.backbone.prompts import VisualPrompts
from hybridcascade.backbone.stored import FeatureLayout, is_stored, stored_taps
from hybridcascade.backbone.text import TextFeatures, TextTower, tokenizer_id
from hybridcascade.errors import BackboneError, SettingsError
from hybridcascade.types import Taps

__all__ = ["ClipBackbone", "check_tower"]

_FORMAT = 1


class ClipBackbone(nn.Module):
    """A frozen CLIP vision tower with taps and prompts, and (until dropped) its text tower.

    Everything is frozen (`requires_grad` False) until a method unfreezes what it declares. Nothing below
    the first trained parameter is part of a graph. The module stays in eval mode: CLIP has no dropout,
    and open_clip's fused attention runs in eval mode only.

    Attributes:
        visual: open_clip `VisionTransformer`.
        name: the name it was loaded by.
        depth: number of blocks.
        width: D, width of the tower.
        embed_dim: E, width of the joint embedding.
        heads: attention heads.
        patch_grid: patches (down, across).
        image_size: input height and width, pixels.
        logit_scale: factor on cosines that the weights were trained with (`exp` of the stored parameter).
        precision: `"fp32"`, `"bf16"` or `"fp16"`.
        compute_dtype: dtype of matrix weights and tokens.
        weights_hash: SHA-256 (hex) of all weights, text tower included, whatever the precision.
        mean, std: of the preprocessing, a number a colour, pictures in 0..1.
        interpolation, resize_mode: of the preprocessing, open_clip's names.
        pixel_mean, pixel_std: mean and standard deviation of each colour over the pictures that the weights were
            trained on, in 0..1, where the weights' record says them, else None.
        input_scale, input_shift: what `forward_taps` does to each colour of its pictures first, `[3]` each; 1 and 0
            until somebody aligns the pictures with what the weights expect. Part of a saved model.
        stored_layout: of the stored features that may come in place of pictures, or None when none will; it is
            set by whoever stores them and is part of no saved model.
    """

    input_scale: Tensor
    input_shift: Tensor

    def __init__(
        self,
        visual: nn.Module,
        *,
        name: str,
        vision_cfg: dict[str, Any],
        quick_gelu: bool,
        precision: str,
        logit_scale: float,
        weights_hash: str,
        mean: Sequence[float],
        std: Sequence[float],
        interpolation: str,
        resize_mode: str,
        text: TextTower | None = None,
        tokenizer: str = "",
        pixel_mean: Sequence[float] | None = None,
        pixel_std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        tower = check_tower(visual, name)
        self.visual = visual.eval().requires_grad_(False)
        self.name = name
        self.depth = len(tower.transformer.resblocks)
        self.width = int(tower.transformer.width)
        self.embed_dim = int(tower.output_dim)
        self.heads = int(tower.transformer.resblocks[0].attn.num_heads)
        self.patch_grid: tuple[int, int] = tuple(tower.grid_size)
        self.image_size = int(tower.image_size[0])
        self.precision = precision
        self.compute_dtype = PRECISIONS[precision]
        self.quick_gelu = quick_gelu
        self.logit_scale = logit_scale
        self.weights_hash = weights_hash
        self.mean, self.std = tuple(mean), tuple(std)
        self.interpolation, self.resize_mode = interpolation, resize_mode
        self.pixel_mean = None if pixel_mean is None else tuple(pixel_mean)
        self.pixel_std = None if pixel_std is None else tuple(pixel_std)
        self.register_buffer("input_scale", torch.ones(3))
        self.register_buffer("input_shift", torch.zeros(3))
        self.tokenizer_id = tokenizer_id(text.tokenizer) if text is not None else tokenizer
        self.stored_layout: FeatureLayout | None = None
        self._vision_cfg = dict(vision_cfg)
        self._text = text
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode whatever is asked; see the class."""
        return super().train(False)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.visual.parameters()).device

    @property
    def _tower(self) -> Any:
        return self.visual  # open_clip's attributes are not in nn.Module's types

    def encode_image(self, x: Tensor) -> Tensor:
        """Encode pictures as open_clip does, bit for bit.

        Args:
            x: normalised pictures `[B, 3, H, W]`.

        Returns:
            Features `[B, E]`, not normalised, in the compute dtype.
        """
        features: Tensor = self.visual(x.to(self.compute_dtype))
        return features

    def forward(self, x: Tensor) -> Tensor:
        """Same as `encode_image`."""
        return self.encode_image(x)

    def forward_taps(
        self,
        x: Tensor,
        taps: Sequence[int] = (),
        prompts: VisualPrompts | None = None,
        patch_mean: bool = False,
        patches: bool = False,
    ) -> Taps:
        """Run the tower and keep tokens after chosen blocks.

        Args:
            x: normalised pictures `[B, 3, H, W]`; or stored features `[B, V, F]` laid out as `stored_layout` says,
                whose first view is unpacked instead of running the tower.
            taps: blocks, counted from 1, ascending; the tokens *after* the block are kept.
            prompts: tokens that enter on the way; they are in none of the results.
            patch_mean: whether to return the mean patch token after each tapped block.
            patches: whether to return all patch tokens after each tapped block.

        Returns:
            `cls` float32 `[B, L, D]`, `image` float32 `[B, E]` (through the last block, always),
            `patch_mean` float32 `[B, L, D]`, `patches` `[B, L, P, D]` in the compute dtype.

        Raises:
            SettingsError: a tap out of 1..depth or out of order, prompts made for another tower, or stored
                features that cannot answer.
        """
        wanted = self._check_taps(taps, prompts)
        if is_stored(x):
            return stored_taps(self.stored_layout, x, taps, prompts is not None, patch_mean, patches)
        kept: list[tuple[Tensor, int]] = []
        tower = self._tower
        live: tuple[int, ...] = ()
        as_open_clip = prompts is None and not self._tracked(x)
        cls_only = not as_open_clip and self._ends_in_cls((patch_mean or patches) and self.depth in wanted)
        tokens = tower._embeds(self._aligned(x).to(self.compute_dtype))
        for number, block in enumerate(tower.transformer.resblocks, start=1):
            gated: Sequence[tuple[int, Tensor]] = ()
            if prompts is not None:
                tokens, live = prompts.enter(tokens, number, live)
                gated = prompts.gated(number, live)
            if as_open_clip:
                tokens = block(tokens)
            elif cls_only and number == self.depth:
                tokens = run_block_for_cls(block, tokens, gated)
            else:
                tokens = run_block(block, tokens, gated)
            if number in wanted:
                kept.append((tokens, 1 + prompts.count(live) if prompts is not None else 1))
        first = 1 + prompts.count(live) if prompts is not None else 1
        image = self._project(tokens, first, as_open_clip)
        cls = [seen[:, 0].float() for seen, _ in kept]
        spots = [seen[:, at:] for seen, at in kept] if patch_mean or patches else []
        return Taps(
            cls=torch.stack(cls, dim=1) if cls else image.new_zeros(len(x), 0, self.width),
            image=image,
            patch_mean=_stack([spot.mean(dim=1, dtype=torch.float32) for spot in spots]) if patch_mean else None,
            patches=_stack(spots) if patches else None,
        )

    def encode_text(self, texts: Sequence[str], batch_size: int = 256) -> TextFeatures:
        """Encode texts: float32 `[T, E]`, not normalised, with a count of truncated texts.

        Raises:
            BackboneError: the text tower was dropped, or never there (a saved model).
        """
        if self._text is None:
            raise BackboneError(f"the text tower of {self.name!r} was dropped; load the backbone again to encode texts")
        return self._text.encode(texts, self.device, batch_size)

    def drop_text(self) -> None:
        """Free the text tower, once the texts are encoded."""
        self._text = None

    @property
    def has_text(self) -> bool:
        """Whether the text tower is there."""
        return self._text is not None

    def layer_norm_names(self) -> tuple[str, ...]:
        """Names (as in `named_parameters`) of all LayerNorm weights and biases of the vision tower."""
        norms = [name for name, module in self.named_modules() if isinstance(module, nn.LayerNorm)]
        return tuple(f"{name}.{kind}" for name in norms for kind in ("weight", "bias"))

    def cls_projection_init(self) -> tuple[Tensor, Tensor, Tensor]:
        """The tower's own way from last CLS token to embedding, as float32 copies.

        Returns:
            `ln_post` weight `[D]` and bias `[D]`, and `proj` `[D, E]`.
        """
        parts = (self._tower.ln_post.weight, self._tower.ln_post.bias, self._tower.proj)
        weight, bias, proj = (part.detach().float().clone() for part in parts)
        return weight, bias, proj

    @torch.no_grad()
    def first_cls(self) -> Tensor:
        """Return the CLS token on its way into block 1, the same for every picture, float32 `[D]`."""
        blank = torch.zeros(1, 3, self.image_size, self.image_size, device=self.device, dtype=self.compute_dtype)
        first: Tensor = self._tower._embeds(blank)[0, 0].float()
        return first

    def describe(self) -> dict[str, Any]:
        """Everything, ready for JSON, that `from_description` needs to rebuild the empty vision tower."""
        return {
            "format": _FORMAT,
            "name": self.name,
            "embed_dim": self.embed_dim,
            "vision_cfg": dict(self._vision_cfg),
            "quick_gelu": self.quick_gelu,
            "precision": self.precision,
            "logit_scale": self.logit_scale,
            "weights_hash": self.weights_hash,
            "tokenizer": self.tokenizer_id,
            "mean": list(self.mean),
            "std": list(self.std),
            "interpolation": self.interpolation,
            "resize_mode": self.resize_mode,
            "pixel_mean": None if self.pixel_mean is None else list(self.pixel_mean),
            "pixel_std": None if self.pixel_std is None else list(self.pixel_std),
        }

    @classmethod
    def from_description(cls, d: dict[str, Any]) -> ClipBackbone:
        """Rebuild the vision tower of `describe`, without text tower and with arbitrary weights.

        Fill it with `load_state_dict`.

        Raises:
            BackboneError: not a description, or one of a newer format.
        """
        if d.get("format") != _FORMAT:
            raise BackboneError(f"expected a backbone description of format {_FORMAT}, found {d.get('format')!r}")
        try:
            dtype = PRECISIONS[d["precision"]]
            with torch.random.fork_rng(devices=[]):
                visual = _build_vision_tower(d["embed_dim"], dict(d["vision_cfg"]), d["quick_gelu"], dtype)
            if dtype != torch.float32:
                convert_weights_to_lp(visual, dtype=dtype)
            plain = {key: value for key, value in d.items() if key not in ("format", "embed_dim")}
            return cls(visual, **plain)
        except (KeyError, TypeError) as error:
            raise BackboneError(f"the backbone description is incomplete or of another kind: {error}") from error

    def _aligned(self, x: Tensor) -> Tensor:
        scale, shift = self.input_scale.view(3, 1, 1), self.input_shift.view(3, 1, 1)
        return torch.addcmul(shift, x.float(), scale)

    def expected_pixels(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each colour that the weights expect, normalised as their input, `[3]` each.

        Without a record they are 0 and 1: CLIP's preprocessing has the moments of its training pictures.
        """
        if self.pixel_mean is None or self.pixel_std is None:
            return torch.zeros(3), torch.ones(3)
        mean, std = torch.tensor(self.mean), torch.tensor(self.std)
        return (torch.tensor(self.pixel_mean) - mean) / std, torch.tensor(self.pixel_std) / std

    def _check_taps(self, taps: Sequence[int], prompts: VisualPrompts | None) -> frozenset[int]:
        if list(taps) != sorted(set(taps)) or any(not 1 <= tap <= self.depth for tap in taps):
            raise SettingsError(f"taps must ascend within 1 to {self.depth}, got {list(taps)}")
        if prompts is not None and prompts.tokens[0].shape[-1] != self.width:
            found = prompts.tokens[0].shape[-1]
            raise SettingsError(f"the prompts have width {found}, this tower has width {self.width}")
        return frozenset(taps)

    def _tracked(self, x: Tensor) -> bool:
        """Whether autograd follows this pass."""
        if not torch.is_grad_enabled():
            return False
        return x.requires_grad or any(parameter.requires_grad for parameter in self.visual.parameters())

    def _ends_in_cls(self, patches_wanted: bool) -> bool:
        """Whether the last block need only compute the CLS token: nobody reads the others."""
        return (
            not patches_wanted
            and self._tower.pool_type == "tok"
            and is_plain_block(self._tower.transformer.resblocks[-1])
        )

    def _project(self, tokens: Tensor, first_patch: int, as_open_clip: bool) -> Tensor:
        tower = self._tower
        if not as_open_clip and tower.pool_type == "tok":
            # Only the CLS token is read: normalising the others would be wasted.
            pooled = layer_norm(tower.ln_post, tokens[:, 0])
        else:
            if first_patch > 1:
                tokens = torch.cat([tokens[:, :1], tokens[:, first_patch:]], dim=1)
            pooled, _ = tower._pool(tokens)
        image: Tensor = (pooled @ tower.proj).float()
        return image


def check_tower(visual: nn.Module, name: str) -> Any:
    """Return the tower if taps and prompts can work on it.

    Raises:
        BackboneError: not a vision transformer of open_clip's own, one with attention pooling, or not square.
    """
    hint = "choose a ViT such as ViT-B-32, ViT-B-16 or ViT-L-14"
    if not isinstance(visual, VisionTransformer):
        raise BackboneError(f"the vision tower of {name!r} is a {type(visual).__name__}, no vision transformer; {hint}")
    if visual.attn_pool is not None or visual.pool_type not in ("tok", "avg") or visual.proj is None:
        raise BackboneError(
            f"the vision tower of {name!r} pools its tokens by attention, which is not supported; {hint}"
        )
    if visual.image_size[0] != visual.image_size[1]:
        raise BackboneError(f"the vision tower of {name!r} takes {visual.image_size} pixels, expected a square; {hint}")
    return visual


def _stack(parts: list[Tensor]) -> Tensor | None:
    return torch.stack(parts, dim=1) if parts else None
