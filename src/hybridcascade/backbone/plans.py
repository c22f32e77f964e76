"""Which blocks of the vision tower form which stage, for a tower of any depth.

The papers write their plans for 12 blocks. A named plan is kept as fractions of the depth, so that the
same plan fits 12 blocks (ViT-B) and 24 (ViT-L): the hybrid plan {5-7}, {8-9}, {10-12} of 12 becomes
{9-14}, {15-18}, {19-24} of 24. Blocks count from 1.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence

from hybridcascade.errors import SettingsError, UnknownNameError
from hybridcascade.types import StagePlan

__all__ = ["STAGE_PLANS", "stage_plan"]

# Borders between stages in twelfths of the depth: (4, 7, 9, 12) is {5-7}, {8-9}, {10-12} of 12.
STAGE_PLANS: dict[str, tuple[int, ...]] = {
    "hybrid": (4, 7, 9, 12),
    "multilayer": (0, 4, 8, 11, 12),
    "cascade_clip": (5, 8, 11, 12),
    "last": (),
}

_RANGES = re.compile(r"^\s*\d+(\s*-\s*\d+)?(\s*,\s*\d+(\s*-\s*\d+)?)*\s*$")


def stage_plan(spec: str | Sequence[Sequence[int]], depth: int, allow_gaps: bool = False) -> StagePlan:
    """Turn a plan's name, or explicit blocks, into the stages of a tower.

    Args:
        spec: a name of `STAGE_PLANS`; ranges as text, a stage between commas (`"5-7,8-9,10-12"`); or the
            blocks of each stage, counted from 1, from shallow to deep (`[[5, 6, 7], [8, 9]]`).
        depth: number of blocks of the tower.
        allow_gaps: whether blocks between the first and the last of an explicit plan may be left out.

    Raises:
        UnknownNameError: `spec` is text that is neither a name nor ranges.
        SettingsError: a block out of 1..depth, blocks that overlap or descend, an empty stage, a gap that
            was not asked for, or a tower too shallow for the named plan.

    Example:
        >>> stage_plan("hybrid", 24).stages[0]
        (9, 10, 11, 12, 13, 14)
    """
    if depth < 1:
        raise SettingsError(f"a vision tower has at least 1 block, got depth {depth}")
    if not isinstance(spec, str):
        return _explicit(spec, depth, allow_gaps)
    if spec in STAGE_PLANS:
        return _named(spec, depth)
    if _RANGES.match(spec):
        return _explicit([_blocks(part) for part in spec.split(",")], depth, allow_gaps)
    raise UnknownNameError("stage plan", spec, STAGE_PLANS, "Ranges work too, a stage between commas: 5-7,8-9,10-12.")


def _named(name: str, depth: int) -> StagePlan:
    if name == "last":
        return StagePlan(((depth,),), depth)
    # Halves round up, so that no plan of 12 changes and a doubled depth doubles every border.
    borders = [math.floor(border * depth / 12 + 0.5) for border in STAGE_PLANS[name]]
    stages = tuple(tuple(range(low + 1, high + 1)) for low, high in itertools.pairwise(borders))
    if any(not stage for stage in stages):
        raise SettingsError(
            f"stage plan {name!r} has {len(stages)} stages and does not fit {depth} blocks; "
            "use 'last' or explicit blocks"
        )
    return StagePlan(stages, depth)


def _blocks(part: str) -> list[int]:
    low, _, high = part.partition("-")
    return list(range(int(low), int(high or low) + 1))


def _explicit(spec: Sequence[Sequence[int]], depth: int, allow_gaps: bool) -> StagePlan:
    stages = tuple(tuple(int(block) for block in stage) for stage in spec)
    if not stages or any(not stage for stage in stages):
        raise SettingsError(f"every stage needs at least one block, got {list(map(list, stages))}")
    taps = [block for stage in stages for block in stage]
    if outside := [block for block in taps if not 1 <= block <= depth]:
        raise SettingsError(f"block {outside[0]} is out of range: this tower has blocks 1 to {depth}")
    if len(set(taps)) != len(taps):
        twice = next(block for block in taps if taps.count(block) > 1)
        raise SettingsError(f"block {twice} appears more than once; a block belongs to one stage")
    if taps != sorted(taps):
        raise SettingsError(f"blocks must ascend from shallow to deep, got {taps}")
    missing = sorted(set(range(taps[0], taps[-1] + 1)) - set(taps))
    if missing and not allow_gaps:
        raise SettingsError(
            f"blocks {missing} between {taps[0]} and {taps[-1]} are in no stage; add them, or allow gaps on purpose"
        )
    return StagePlan(stages, depth)
