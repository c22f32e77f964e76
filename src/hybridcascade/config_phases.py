"""Which phases a training run has, and whether the numbers given for them can work. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hybridcascade.errors import SettingsError
from hybridcascade.methods.registry import method_entry, no_heads
from hybridcascade.methods.settings import PhaseDefaults, default_heads, default_phases

__all__ = ["check_phase", "check_phase_numbers", "phases_of"]


def phases_of(method: str, tune: str, warm_start: int, heads: dict[str, Any]) -> dict[str, PhaseDefaults]:
    """Return the phases that a run has numbers for, in order, with the method's own numbers.

    Args:
        method: registry key.
        tune: full or heads.
        warm_start: epochs of a heads phase before the image phase.
        heads: numbers given for the heads phase; a warm start says its epochs there.

    Raises:
        SettingsError: the method has no heads phase, or the options contradict each other.
    """
    phases = default_phases(method)
    if tune == "full" and not warm_start:
        return phases
    if tune == "heads" and warm_start:
        raise SettingsError("--warm_start goes before the image phase, and --tune heads has none: drop one of the two")
    if "heads" not in method_entry(method).tunes:
        raise SettingsError(no_heads(method))
    if "image" not in phases:  # such a method reads stored features whatever is asked
        if warm_start:
            raise SettingsError(f"method {method!r} has no image phase to start warm: drop --warm_start")
        return phases
    if warm_start and heads.setdefault("epochs", warm_start) != warm_start:
        raise SettingsError(
            f"--warm_start {warm_start} and --heads.epochs {heads['epochs']} differ: give one of the two"
        )
    ordered: dict[str, PhaseDefaults] = {}
    for phase, numbers in phases.items():
        if phase == "image":
            ordered["heads"] = default_heads(method)
        if phase != "image" or warm_start:
            ordered[phase] = numbers
    return ordered


def check_phase_numbers(
    method: str, phases: Mapping[str, PhaseDefaults], given: Mapping[str, Mapping[str, Any]], tune: str
) -> None:
    """Refuse numbers for a phase that the run does not have; nobody would read them.

    A recipe may hold numbers of the image phase although `--tune heads` leaves it out this time.

    Args:
        method: registry key.
        phases: of the run.
        given: numbers by phase.
        tune: full or heads.

    Raises:
        SettingsError: there are such numbers.
    """
    for phase, numbers in given.items():
        if not numbers or phase in phases or (phase == "image" and tune == "heads" and "heads" in phases):
            continue
        keys = ", ".join(f"--{phase}.{key}" for key in numbers)
        if phase == "heads" and "heads" in method_entry(method).tunes and "image" in phases:
            raise SettingsError(f"{keys}: the heads phase runs only with --tune heads or --warm_start EPOCHS")
        has = f"its phases: {', '.join(phases)}" if phases else "there is nothing to set the length or rate of"
        raise SettingsError(f"method {method!r} has no {phase} phase with numbers ({has}); drop {keys}")


def check_phase(phase: str, numbers: PhaseDefaults) -> None:
    """Raise `SettingsError` when the numbers of a phase contradict each other."""
    if numbers.schedule == "multistep" and not numbers.milestones:
        raise SettingsError(f"schedule 'multistep' of the {phase} phase needs --{phase}.milestones, such as [10, 20]")
    if numbers.schedule != "multistep" and numbers.milestones:
        raise SettingsError(f"--{phase}.milestones belong to schedule 'multistep', got schedule {numbers.schedule!r}")
    if numbers.schedule in ("warmup", "cosine_warmup") and 0 < numbers.epochs <= numbers.warmup_epochs:
        raise SettingsError(
            f"the {phase} phase has {numbers.epochs} epochs, all of them inside its warm-up of "
            f"{numbers.warmup_epochs:g}: lower --{phase}.warmup_epochs or choose schedule 'none' or 'cosine'"
        )
