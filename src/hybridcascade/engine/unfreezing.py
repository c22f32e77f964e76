"""Which parameter groups train in which epoch: a method's schedule, as the engine follows it."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from hybridcascade.errors import HybridCascadeError, did_you_mean
from hybridcascade.methods.base import ParameterGroup, UnfreezeStep

__all__ = ["Unfreezing"]


class Unfreezing:
    """The steps of a method over the epochs of one phase.

    Without steps everything trains from epoch 0. Whatever is not open yet keeps its value exactly: it gets
    no gradient, and AdamW leaves a parameter without gradient alone, its weight decay included.

    Attributes:
        starts: epoch (from 0) in which each step begins, ascending; steps of a short phase may coincide.
    """

    def __init__(
        self,
        groups: Sequence[tuple[ParameterGroup, list[nn.Parameter]]],
        steps: Sequence[UnfreezeStep],
        epochs: int,
        where: str,
    ) -> None:
        """Lay the steps out over the epochs.

        Args:
            groups: all groups of the phase, as `declare` gives them.
            steps: of the method, or none.
            epochs: length of the phase, at least 1.
            where: method and phase, for messages.

        Raises:
            HybridCascadeError: a step names a group that does not exist or is open already, a group is in no
                step, or the starts are not ascending from 0 within [0, 1).
        """
        self._groups = tuple(groups)
        self._epochs = epochs
        names = [group.name for group, _ in groups]
        self._steps = tuple(steps)
        if steps:
            _check(names, steps, where)
        self.starts = tuple(step.first_epoch(epochs) for step in self._steps)

    @property
    def progressive(self) -> bool:
        """Whether something waits at first."""
        return any(start > 0 for start in self.starts)

    def groups(self, epoch: int) -> frozenset[str]:
        """Return the names of the groups that train in `epoch` (from 0)."""
        if not self._steps:
            return frozenset(group.name for group, _ in self._groups)
        steps = zip(self.starts, self._steps, strict=True)
        return frozenset(name for start, step in steps if start <= epoch for name in step.groups)

    def parameters(self, epoch: int) -> frozenset[str]:
        """Return the names of the parameters that train in `epoch`."""
        active = self.groups(epoch)
        return frozenset(name for group, _ in self._groups if group.name in active for name in group.parameters)

    def changes_at(self, epoch: int) -> bool:
        """Whether further groups begin to train in `epoch`."""
        return epoch > 0 and epoch in self.starts

    def open(self, epoch: int) -> None:
        """Set `requires_grad` as `epoch` needs it, so that nothing is computed for what waits."""
        active = self.groups(epoch)
        for group, parameters in self._groups:
            for parameter in parameters:
                parameter.requires_grad_(group.name in active)

    def drop_gradients(self, epoch: int) -> None:
        """Forget the gradients of what waits; for when `open` cannot be used."""
        active = self.groups(epoch)
        for group, parameters in self._groups:
            if group.name not in active:
                for parameter in parameters:
                    parameter.grad = None

    def lines(self, lr: float) -> list[str]:
        """Return the schedule in words, a line a step; epochs count from 1 there.

        Args:
            lr: learning rate at `lr_scale` 1.
        """
        rates = {group.name: lr * group.lr_scale for group, _ in self._groups}
        found = []
        for number, (start, step) in enumerate(zip(self.starts, self._steps, strict=True)):
            end = self.starts[number + 1] if number + 1 < len(self.starts) else self._epochs
            when = f"from epoch {start + 1}" if end > start else f"also from epoch {start + 1}"
            what = ", ".join(f"{name} (lr {rates[name]:.3g})" for name in step.groups)
            found.append(f"{when}, {step.name}: {what}")
        return found


def _check(names: Sequence[str], steps: Sequence[UnfreezeStep], where: str) -> None:
    starts = [step.start for step in steps]
    if starts[0] != 0 or starts != sorted(starts) or starts[-1] >= 1:
        raise HybridCascadeError(f"{where}: unfreezing must start at 0 and ascend below 1, got {starts}")
    seen: set[str] = set()
    for name in (name for step in steps for name in step.groups):
        if name not in names:
            raise HybridCascadeError(f"{where}: unfreezing names no group {name!r}.{did_you_mean(name, names)}")
        if name in seen:
            raise HybridCascadeError(f"{where}: group {name!r} is unfrozen twice")
        seen.add(name)
    if len(set(names)) != len(names) or (waiting := sorted(set(names) - seen)):
        found = f"groups {waiting} are in no step" if len(set(names)) == len(names) else f"group names repeat: {names}"
        raise HybridCascadeError(f"{where}: every group needs a name and a step of its own; {found}")
