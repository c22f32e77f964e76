"""Text-image decoders: class queries read the patch tokens of one stage.

Each stage has a decoder of its own, and what the decoders say of a class is summed over the stages.
Source of the design: Cascade-CLIP (ICML 2024), built for segmentation; the turn to classification, the
normalisation before each layer and the scaling of the inputs are this package's.

Letters: B pictures, S stages, L tapped blocks, P patches, D width of the tower, E embedding, K classes,
W width of the decoder.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from hybridcascade.cascade.align import CascadeStages
from hybridcascade.cascade.heads import unit
from hybridcascade.errors import SettingsError, UnknownNameError

__all__ = ["READOUTS", "PatchReading", "PatchScores", "TextImageDecoder", "stage_patches"]

READOUTS = ("vector", "mean", "logsumexp")


def stage_patches(stages: CascadeStages, patches: Tensor) -> Tensor:
    """Aggregate and align patch tokens, each place by itself.

    Args:
        stages: what turns the tokens of L blocks into one aligned feature a stage.
        patches: patch tokens after the tapped blocks, `[B, L, P, D]`.

    Returns:
        Unit vectors in the space of texts, float32 `[B, S, P, E]`.
    """
    batch, blocks, places, width = patches.shape
    rows = patches.transpose(1, 2).reshape(batch * places, blocks, width)
    aligned: Tensor = unit(stages(rows))
    return aligned.view(batch, places, *aligned.shape[1:]).transpose(1, 2)


def _linear(inputs: int, outputs: int, bias: bool, generator: torch.Generator) -> nn.Linear:
    """A linear layer drawn (Xavier uniform, bias 0) from `generator`; the global random state stays as it is."""
    layer = nn.Linear(inputs, outputs, bias=bias, device="meta").to_empty(device="cpu")
    nn.init.xavier_uniform_(layer.weight, generator=generator)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


class PatchScores(nn.Module):
    """How well each query fits each patch, head by head: `(LN(x) A) (m B)^T / sqrt(W / heads)`.

    Neither side has a bias, the LayerNorm included: a bias on the keys adds the same to all patches, one on
    the queries (pooled over patches) the same to all classes, and a softmax sees neither.

    Args:
        width: W.
        heads: parts of W that score by themselves; must divide W.
        generator: source of the start values.
    """

    def __init__(self, width: int, heads: int, generator: torch.Generator) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width, bias=False)
        self.query = _linear(width, width, False, generator)
        self.key = _linear(width, width, False, generator)

    def split(self, tokens: Tensor) -> Tensor:
        """Return `[B, N, W]` as heads, `[B, heads, N, W / heads]`."""
        batch, count, width = tokens.shape
        return tokens.view(batch, count, self.heads, width // self.heads).transpose(1, 2)

    def pair(self, queries: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Return queries and keys by head, `[B, heads, K, W / heads]` and `[B, heads, P, W / heads]`."""
        return self.split(self.query(self.norm(queries))), self.split(self.key(memory))

    def forward(self, queries: Tensor, memory: Tensor) -> Tensor:
        """Return the scores before any softmax.

        Args:
            queries: `[B, K, W]`.
            memory: `[B, P, W]`.

        Returns:
            Mean over the heads, `[B, K, P]`.
        """
        query, key = self.pair(queries, memory)
        # The mean over heads of the heads' products is one product of the joined heads.
        joined = query.transpose(1, 2).flatten(2) @ key.transpose(1, 2).flatten(2).transpose(1, 2)
        return joined / (self.heads * math.sqrt(query.shape[-1]))


class PatchReading(nn.Module):
    """One decoder layer: queries read the patches, then think by themselves (both as residuals).

    Queries do not see each other, so a class is scored alike whatever the other classes are.

    Args:
        width: W.
        heads: attention heads.
        feed_forward: inner width of the feed-forward part.
        generator: source of the start values.
    """

    def __init__(self, width: int, heads: int, feed_forward: int, generator: torch.Generator) -> None:
        super().__init__()
        self.scores = PatchScores(width, heads, generator)
        self.value = _linear(width, width, True, generator)
        self.out = _linear(width, width, True, generator)
        self.norm = nn.LayerNorm(width)
        self.up = _linear(width, feed_forward, True, generator)
        self.down = _linear(feed_forward, width, True, generator)

    def forward(self, queries: Tensor, memory: Tensor) -> Tensor:
        """Return the queries after reading, `[B, K, W]`; arguments as in `PatchScores`."""
        query, key = self.scores.pair(queries, memory)
        value = self.scores.split(self.value(memory))
        read = functional.scaled_dot_product_attention(query, key, value)
        queries = queries + self.out(read.transpose(1, 2).flatten(2))
        thought: Tensor = self.down(functional.gelu(self.up(self.norm(queries))))
        return queries + thought


class TextImageDecoder(nn.Module):
    """Score the classes of a picture from the patch tokens of one stage.

    The query of class k is a linear map of `[t_k * f, t_k]`: the class's text and its product with the
    picture's final feature, entry by entry. It passes `layers` layers over the patches. Three ways to
    read a logit from it:

    - `vector`: a learned vector on the last layer's normalised output.
    - `mean`, `logsumexp`: the last layer gives scores of the patches alone, as Cascade-CLIP's does, and
      the logit is their mean or their `log mean exp`, a soft maximum.

    Args:
        embed_dim: E.
        generator: source of the start values.
        width: W.
        layers: at least 1.
        heads: attention heads; must divide `width`.
        feed_forward: inner width of the feed-forward parts.
        readout: one of `READOUTS`.
        readout_start: size of the logits at the start. Small is close to silence; exactly 0 would leave
            all before the read-out without gradient in the first step.

    Raises:
        UnknownNameError: no such read-out.
        SettingsError: no layer, heads that do not divide the width, or a start that is not positive.
    """

    def __init__(
        self,
        embed_dim: int,
        generator: torch.Generator,
        *,
        width: int = 256,
        layers: int = 3,
        heads: int = 8,
        feed_forward: int = 512,
        readout: str = "vector",
        readout_start: float = 1.0,
    ) -> None:
        super().__init__()
        if readout not in READOUTS:
            raise UnknownNameError("decoder read-out", readout, READOUTS)
        if layers < 1 or heads < 1 or width % heads:
            raise SettingsError(
                f"expected at least one decoder layer and a width that the heads divide, "
                f"got {layers} layers, width {width}, {heads} heads"
            )
        if not readout_start > 0:
            raise SettingsError(f"expected a positive size of the logits at the start, got {readout_start}")
        self.readout = readout
        self.from_text = _linear(2 * embed_dim, width, True, generator)
        self.from_patches = _linear(embed_dim, width, True, generator)
        full = layers if readout == "vector" else layers - 1
        readings = [PatchReading(width, heads, feed_forward, generator) for _ in range(full)]
        self.layers = nn.ModuleList(readings)
        if readout == "vector":
            # The normalised output has length sqrt(W), so this gives logits of size `readout_start`.
            start = torch.randn(width, generator=generator) * (readout_start / math.sqrt(width))
            self.vector = nn.Parameter(start)
        else:
            self.last = PatchScores(width, heads, generator)
            with torch.no_grad():
                self.last.query.weight.mul_(readout_start)

    def forward(self, patches: Tensor, text: Tensor, image: Tensor) -> Tensor:
        """Return logits.

        Args:
            patches: unit patch features of the stage, `[B, P, E]`.
            text: unit class vectors, `[K, E]`.
            image: unit final features of the pictures, `[B, E]`.

        Returns:
            Logits, `[B, K]`.
        """
        queries, memory = self._open(patches, text, image)
        for layer in self.layers:
            queries = layer(queries, memory)
        if self.readout == "vector":
            return functional.layer_norm(queries, queries.shape[-1:]) @ self.vector
        scores: Tensor = self.last(queries, memory)
        if self.readout == "mean":
            return scores.mean(dim=-1)
        return scores.logsumexp(dim=-1) - math.log(scores.shape[-1])

    def scores(self, patches: Tensor, text: Tensor, image: Tensor) -> Tensor:
        """Return the last layer's scores of the patches, before a softmax, mean over heads, `[B, K, P]`.

        Arguments as in `forward`.
        """
        queries, memory = self._open(patches, text, image)
        full = list(self.layers)
        last = self.last if self.readout != "vector" else cast(PatchReading, full.pop()).scores
        for layer in full:
            queries = layer(queries, memory)
        found: Tensor = last(queries, memory)
        return found

    def _open(self, patches: Tensor, text: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        """First queries `[B, K, W]` and the memory `[B, P, W]` that all layers read."""
        # Entries of unit vectors are of size 1/sqrt(E) and their products of 1/E; both are brought to 1.
        root = math.sqrt(text.shape[-1])
        words = (root * text).expand(len(image), -1, -1)
        matched = words * (root * image).unsqueeze(1)
        return self.from_text(torch.cat([matched, words], dim=-1)), self.from_patches(root * patches)
