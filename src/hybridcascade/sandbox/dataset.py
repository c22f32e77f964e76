"""Ready-made sets of sandbox pictures with their exact truth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hybridcascade.sandbox.render import Domain, render
from hybridcascade.sandbox.world import posterior, sample_attributes

__all__ = ["SandboxData", "make_split"]

Split = Literal["pretrain", "train", "test"]
_OFFSET: dict[str, int] = {"pretrain": 7_000_000, "train": 0, "test": 1_000_000}


@dataclass(frozen=True)
class SandboxData:
    """Pictures of the sandbox and what is known of them.

    Attributes:
        images: RGB, uint8 `[N, 64, 64, 3]`.
        ids: sample ids, `N` of them.
        attributes: values `[N, 5]` in the order of `world.ATTRIBUTES`.
        emotions: the emotion that caused each picture `[N]`: its label.
        posterior: exact p(emotion | picture) `[N, 8]`: its true distribution.
        domain: `"clean"` or `"shifted"`.
    """

    images: NDArray[np.uint8]
    ids: tuple[str, ...]
    attributes: NDArray[np.int64]
    emotions: NDArray[np.int64]
    posterior: NDArray[np.float64]
    domain: Domain

    def __len__(self) -> int:
        return len(self.ids)


def make_split(
    name: Split, n: int, domain: Domain, seed: int, severity: float = 1.0, shares: NDArray[np.float64] | None = None
) -> SandboxData:
    """Make a split; splits of one seed share no random stream, so they share no picture.

    Args:
        name: `"train"` (unlabelled use), `"test"`, or `"pretrain"` (the nano CLIP's own).
        n: number of pictures; a shorter split is a prefix of a longer one.
        domain: `"clean"` or `"shifted"`.
        seed: of everything, 0 to 999,999.
        severity: strength of the shift; 1 is the sandbox's own.
        shares: how often each emotion causes a picture, `[8]`; None for the world's own, all alike. The posterior
            stays the world's: how a picture is felt does not depend on how many others there are.

    Raises:
        ValueError: unknown split or domain, shares that are none, or a seed out of range.
    """
    if name not in _OFFSET:
        raise ValueError(f"split must be one of {', '.join(_OFFSET)}, got {name!r}")
    if not 0 <= seed < 1_000_000:
        raise ValueError(f"seed must be 0 to 999,999, got {seed}")
    own = _OFFSET[name] + seed
    attributes, emotions = sample_attributes(n, own, shares)
    return SandboxData(
        images=render(attributes, own, domain, severity),
        ids=tuple(f"{name}-{i:06d}" for i in range(n)),
        attributes=attributes,
        emotions=emotions,
        posterior=posterior(attributes),
        domain=domain,
    )
