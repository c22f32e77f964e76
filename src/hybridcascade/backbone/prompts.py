"""Learned tokens that enter the vision tower between the CLS token and the patches.

*Shallow* prompts enter once, after `ln_pre` (LaFTer); *staged* prompts enter at the first block of each
stage and either join the earlier ones or replace them.

Two starts exist:

`uniform`: tokens are ordinary tokens, drawn from U(-0.0625, 0.0625) as LaFTer does. They take part in
attention from the first step, so an untrained prompt already disturbs the features.

`neutral`: the tower starts as if there were no prompt. CLS and patches attend to each other in their own
softmax, and to each entry's prompts in a second softmax whose result is scaled by a gate, one for each
block and head: `out = attention(x, x) + gate * attention(x, prompts)` (zero-initialised attention, Zhang
et al. 2023, LLaMA-Adapter). Prompts attend to all tokens without a gate. A gate of exactly 0 would leave
the tokens without gradient in the first step, so it starts at 1e-6, below what fp32 features resolve.
An additive bias on the prompts' columns was not chosen: made negative enough to vanish in the softmax it
also makes its own gradient vanish, and a mask that trains leaves the fused attention kernels. In fp16 the
tokens' first gradient underflows; they start in the second step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from hybridcascade.errors import SettingsError, UnknownNameError
from hybridcascade.types import StagePlan

__all__ = ["GATE_SCALE", "PROMPT_INITS", "PromptEntry", "PromptSpec", "VisualPrompts"]

PROMPT_INITS = ("uniform", "neutral")
GATE_SCALE = 8.0
"""Gate over its parameter, so that one AdamW learning rate suits tokens (range 0.06) and gates (0.5)."""

_GATE_START = 1e-6


@dataclass(frozen=True)
class PromptEntry:
    """Prompt tokens that enter together.

    Attributes:
        after_block: block (from 1) after which they enter; 0 is after `ln_pre`, before block 1.
        tokens: how many.
        replace: whether earlier prompts leave as these enter. What patches and CLS have read from the
            earlier ones by then stays in them, under both starts.
    """

    after_block: int
    tokens: int
    replace: bool = False


@dataclass(frozen=True)
class PromptSpec:
    """All prompt tokens of a tower, from shallow to deep.

    Attributes:
        entries: ascending by `after_block`, at most one a block.

    Raises:
        SettingsError: no entry, entries out of order, or an entry without tokens.
    """

    entries: tuple[PromptEntry, ...]

    def __post_init__(self) -> None:
        places = [entry.after_block for entry in self.entries]
        if not places or places != sorted(set(places)) or places[0] < 0:
            raise SettingsError(f"prompt entries need ascending, distinct blocks from 0 on, got after_block {places}")
        if any(entry.tokens < 1 for entry in self.entries):
            raise SettingsError(f"each prompt entry needs at least 1 token, got {[e.tokens for e in self.entries]}")

    @classmethod
    def shallow(cls, tokens: int = 50) -> Self:
        """Tokens that enter once after `ln_pre`, as in LaFTer."""
        return cls((PromptEntry(0, tokens),))

    @classmethod
    def staged(cls, plan: StagePlan, tokens: int = 16, replace: bool = True) -> Self:
        """Tokens of their own at the first block of each stage of a plan."""
        return cls(tuple(PromptEntry(stage[0] - 1, tokens, replace) for stage in plan.stages))

    @classmethod
    def from_lists(cls, entries: Sequence[Sequence[int]]) -> Self:
        """Build from `[after_block, tokens, replace]` triples, as JSON keeps them (see `to_lists`)."""
        return cls(tuple(PromptEntry(int(place), int(count), bool(rest)) for place, count, rest in entries))

    def to_lists(self) -> list[list[int]]:
        """`[after_block, tokens, replace]` for each entry, for JSON."""
        return [[entry.after_block, entry.tokens, int(entry.replace)] for entry in self.entries]

    @property
    def tokens(self) -> int:
        """Number of prompt tokens of all entries."""
        return sum(entry.tokens for entry in self.entries)


class VisualPrompts(nn.Module):
    """The prompt tokens (and, for a neutral start, gates) of one vision tower, all fp32.

    Parameters: `tokens.<i>` of shape `[1, M, D]` for entry i; with `init="neutral"` also `gates.<i>` of
    shape `[blocks that entry i lives through, heads]`.

    Args:
        spec: where how many tokens enter.
        width: D of the tower.
        depth: number of blocks of the tower.
        heads: attention heads of the tower.
        init: `"uniform"` or `"neutral"`; see the module's text.
        seed: of the tokens' draw; the global random state is neither read nor moved.
        bound: tokens start in (-bound, bound).

    Raises:
        UnknownNameError: no such start.
        SettingsError: an entry behind the last block.
    """

    def __init__(
        self,
        spec: PromptSpec,
        width: int,
        depth: int,
        heads: int,
        init: str = "uniform",
        seed: int = 0,
        bound: float = 0.0625,
    ) -> None:
        super().__init__()
        if init not in PROMPT_INITS:
            raise UnknownNameError("prompt start", init, PROMPT_INITS)
        if spec.entries[-1].after_block >= depth:
            place = spec.entries[-1].after_block
            raise SettingsError(f"prompts after block {place} change nothing: this tower has blocks 1 to {depth}")
        self._spec = spec
        self.init = init
        draw = torch.Generator().manual_seed(seed)
        self.tokens = nn.ParameterList(
            nn.Parameter((torch.rand(1, entry.tokens, width, generator=draw) * 2 - 1) * bound) for entry in spec.entries
        )
        self.gates = nn.ParameterList()
        if init == "neutral":
            for index, entry in enumerate(spec.entries):
                blocks = _last_block(spec, index, depth) - entry.after_block
                self.gates.append(nn.Parameter(torch.full((blocks, heads), _GATE_START / GATE_SCALE)))

    def spec(self) -> PromptSpec:
        """Where how many tokens enter."""
        return self._spec

    def enter(self, tokens: Tensor, block: int, live: tuple[int, ...]) -> tuple[Tensor, tuple[int, ...]]:
        """Let the prompts of a block enter.

        Args:
            tokens: `[B, 1 + M + P, D]` on its way into the block.
            block: the block about to run, from 1.
            live: entries whose tokens are among `tokens`, in token order.

        Returns:
            The tokens with this block's prompts behind those that stay, and the entries now live.
        """
        index = next((i for i, e in enumerate(self._spec.entries) if e.after_block == block - 1), None)
        if index is None:
            return tokens, live
        behind = 1 + self.count(live)
        stay = 1 if self._spec.entries[index].replace else behind
        new = self.tokens[index].to(tokens.dtype).expand(tokens.shape[0], -1, -1)
        kept = () if self._spec.entries[index].replace else live
        return torch.cat([tokens[:, :stay], new, tokens[:, behind:]], dim=1), (*kept, index)

    def gated(self, block: int, live: tuple[int, ...]) -> list[tuple[int, Tensor]]:
        """Number of tokens and gate `[heads]` of each live entry at a block; empty for the uniform start."""
        if self.init != "neutral":
            return []
        entries = self._spec.entries
        return [(entries[i].tokens, GATE_SCALE * self.gates[i][block - 1 - entries[i].after_block]) for i in live]

    def count(self, live: tuple[int, ...]) -> int:
        """Number of prompt tokens of the live entries."""
        return sum(self._spec.entries[index].tokens for index in live)


def _last_block(spec: PromptSpec, index: int, depth: int) -> int:
    """The last block that an entry's tokens pass through."""
    return next((entry.after_block for entry in spec.entries[index + 1 :] if entry.replace), depth)
