"""Numbers of `zero_shot`, `text_only` and `lafter`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from hybridcascade.errors import SettingsError
from hybridcascade.methods.numbers.base import PROMPT_INITS, between, choice

__all__ = ["LafterSettings", "TextOnlySettings", "ZeroShotSettings"]


@dataclass(frozen=True)
class ZeroShotSettings:
    """`zero_shot` has no numbers of its own."""


@dataclass(frozen=True)
class TextOnlySettings:
    """Numbers of `text_only`."""

    noise_std: float = 0.1
    """Standard deviation of the Gaussian noise added to each dimension of a unit text feature."""

    label_smoothing: float = 0.1
    """Share of the uniform distribution in the target."""

    def __post_init__(self) -> None:
        between("noise_std", self.noise_std, 0)
        between("label_smoothing", self.label_smoothing, 0, 0.999)


@dataclass(frozen=True)
class LafterSettings(TextOnlySettings):
    """Numbers of `lafter`; the defaults are LaFTer's own, as its code has them."""

    preset: str = "faithful"
    """`faithful` pins the numbers below to LaFTer's; `custom` lets them be changed."""

    prompts: int = 50
    """Prompt tokens that enter once, before the first block."""

    prompt_init: str = "uniform"
    """`uniform` (random, LaFTer's) or `neutral` (no effect at the start)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        choice("preset", self.preset, ("faithful", "custom"))
        choice("prompt_init", self.prompt_init, PROMPT_INITS)
        between("prompts", self.prompts, 1)
        if self.preset != "faithful":
            return
        for field in dataclasses.fields(self):
            if getattr(self, field.name) != field.default:
                raise SettingsError(
                    f"{field.name}={getattr(self, field.name)!r} contradicts preset='faithful', which has "
                    f"{field.default!r}; set preset=custom to change it"
                )
