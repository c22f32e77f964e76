"""The declared set of trained parameters, and the check that it is what trains."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor, nn

from hybridcascade.engine.state import checksums
from hybridcascade.errors import HybridCascadeError, did_you_mean
from hybridcascade.methods.base import Method, ParameterGroup

__all__ = ["GRACE_STEPS", "TrainedSetCheck", "check_solved", "declare"]

GRACE_STEPS = 10
"""Optimiser steps within which a parameter whose gradient starts at exactly zero must get another."""


def declare(method: Method, phase: str) -> list[tuple[ParameterGroup, list[nn.Parameter]]]:
    """Freeze everything, then open what `phase` declares.

    Args:
        method: changed in place (`requires_grad`).
        phase: the phase that begins.

    Returns:
        Each group with its parameters, in declared order.

    Raises:
        HybridCascadeError: a declared name does not exist, is declared twice, or nothing is declared.
    """
    own = dict(method.named_parameters())
    method.requires_grad_(False)
    seen: set[str] = set()
    groups = []
    for group in method.parameter_groups(phase):
        for name in group.parameters:
            where = f"method {type(method).__name__}, phase {phase!r}, group {group.name!r}"
            if name not in own:
                raise HybridCascadeError(f"{where}: no parameter is called {name!r}.{did_you_mean(name, own)}")
            if name in seen:
                raise HybridCascadeError(f"{where}: parameter {name!r} is declared twice")
            seen.add(name)
            own[name].requires_grad_(True)
        groups.append((group, [own[name] for name in group.parameters]))
    if not seen:
        raise HybridCascadeError(f"method {type(method).__name__} declares nothing to train in phase {phase!r}")
    return groups


class TrainedSetCheck:
    """Compares the parameters that changed in its first optimiser step with the declared ones.

    A parameter counts as changed when its value is another and its gradient is not exactly zero: weight
    decay alone moves inert parameters too. A declared parameter outside of the graph (no gradient at
    all) fails at once; one whose gradient is exactly zero (the other side of a zero-initialised product)
    has `GRACE_STEPS` steps to get one. EMA teachers (`teacher*`) may change undeclared.
    """

    def __init__(self, method: Method, phase: str, declared: Collection[str]) -> None:
        """Watch a phase, or the part of it in which the same parameters train.

        Args:
            method: the method.
            phase: for messages.
            declared: names of the parameters that train now.
        """
        self._method = method
        self._phase = phase
        self._declared = {n: p for n, p in method.named_parameters() if n in declared}
        self._steps = 0
        self._before: dict[str, Tensor] = {}
        self._frozen: dict[str, int] = {}
        self._pending: set[str] = set()

    @property
    def done(self) -> bool:
        """Whether there is nothing more to check."""
        return self._steps > 0 and not self._pending

    def before_step(self) -> None:
        """Remember all parameters; call before an optimiser step while not `done`."""
        if self._steps == 0:
            self._before = {n: p.detach().clone() for n, p in self._declared.items()}
            self._frozen = self._frozen_checksums()

    def after_step(self) -> None:
        """Compare; call after an optimiser step (and the method's `after_step`) while not `done`.

        Raises:
            HybridCascadeError: the parameters that changed are not the declared ones; both differences
                are listed.
        """
        self._steps += 1
        if self._steps == 1:
            self._check_first()
        else:
            self._pending = {n for n in self._pending if self._fate(n)}
        if self._pending and self._steps >= GRACE_STEPS:
            self.finish()

    def finish(self) -> None:
        """Close the check at the end of a phase that is shorter than the grace.

        Raises:
            HybridCascadeError: a declared parameter never had a gradient other than zero.
        """
        if self._pending:
            reasons = [f"{n} (gradient exactly zero in all {self._steps} steps)" for n in sorted(self._pending)]
            raise HybridCascadeError(self._message(reasons, []))

    def _check_first(self) -> None:
        inert, self._pending = [], set()
        for name, parameter in self._declared.items():
            reason = self._fate(name)
            if reason == _ZERO:
                self._pending.add(name)
            elif reason or torch.equal(self._before[name], parameter):
                inert.append(f"{name} ({reason or 'its value stayed: learning rate zero, or below its precision?'})")
        now = self._frozen_checksums()
        moved = sorted(n for n in now if now[n] != self._frozen.get(n))
        self._before, self._frozen = {}, {}  # the clones are not needed again
        if inert or moved:
            inert += [f"{n} ({_ZERO})" for n in sorted(self._pending)]
            raise HybridCascadeError(self._message(inert, moved))

    def _fate(self, name: str) -> str:
        grad = self._declared[name].grad
        if grad is None:
            return "no gradient: the loss does not use it"
        return "" if bool(grad.count_nonzero()) else _ZERO

    def _frozen_checksums(self) -> dict[str, int]:
        found = checksums(self._method, leave_out=self._declared)
        return {name: value for name, value in found.items() if not name.startswith("teacher")}

    def _message(self, inert: Sequence[str], moved: Sequence[str]) -> str:
        return _difference(self._method, self._phase, inert, moved)


def check_solved(method: Method, phase: str, declared: Collection[str], before: Mapping[str, int]) -> None:
    """Check a phase that was solved at once as `TrainedSetCheck` checks steps.

    Args:
        method: after `solve`.
        phase: for messages.
        declared: names of the parameters that the phase declares.
        before: checksums of all parameters before `solve`.

    Raises:
        HybridCascadeError: the parameters that changed are not the declared ones.
    """
    changed = {name for name, value in checksums(method).items() if value != before.get(name)}
    changed = {name for name in changed if not name.startswith("teacher")}
    inert = [f"{name} (its value stayed)" for name in sorted(set(declared) - changed)]
    if inert or changed - set(declared):
        raise HybridCascadeError(_difference(method, phase, inert, sorted(changed - set(declared))))


def _difference(method: Method, phase: str, inert: Sequence[str], moved: Sequence[str]) -> str:
    return (
        f"method {type(method).__name__}, phase {phase!r}: what trains is not what is declared. "
        f"Declared but unchanged: {', '.join(inert) or 'none'}. "
        f"Changed but not declared: {', '.join(moved) or 'none'}. "
        "Correct parameter_groups() or the loss (a gradient of exactly zero counts as unchanged)"
    )


_ZERO = "gradient exactly zero"
