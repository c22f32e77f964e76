"""Targets of some pictures, the teacher's labels for the others, in every method that takes targets."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from hybridcascade.cascade.losses import joint_target
from hybridcascade.errors import DataError, SettingsError
from hybridcascade.methods import catalogue  # noqa: F401  (registers the methods)
from hybridcascade.methods.given import given_or_pseudo, needs_teacher
from hybridcascade.methods.registry import METHODS
from hybridcascade.methods.settings import method_settings
from hybridcascade.types import TargetBatch

ROWS = [4, 0, 7, 9, 2]
KNOWN = [True, False, True, False, False]

WITH_TEACHER = [
    name
    for name, entry in METHODS.items()
    if entry.images == "unlabelled" and hasattr(method_settings(name), "distribution_share")
]


def build(name, backbone, world):
    entry = METHODS[name]
    settings = dataclasses.asdict(method_settings(name))
    return entry.load()(backbone=backbone, **world.arguments(), **settings)


def partly(world, rows, known):
    batch = world.with_targets(rows)
    mask = torch.tensor(known)
    return dataclasses.replace(batch, target=batch.target * mask[:, None], known=mask)


def known_targets(world, rows):
    """Targets by data set row, known for `rows` only."""
    table = torch.zeros_like(world.targets)
    table[rows] = world.targets[rows]
    return table


def image_loss(method, batch):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return method.eval().training_loss("image", batch, 0).loss.item()


@pytest.mark.parametrize("name", WITH_TEACHER)
def test_unknown_rows_learn_from_the_teacher(name, deep_backbone, deep_world):
    """Nothing known equals label-free, all known equals the targets, and some known is neither."""
    method = build(name, deep_backbone, deep_world)
    method.begin_phase("image", deep_world.plain_batches(), known_targets(deep_world, [4, 7]))
    free = image_loss(method, deep_world.unlabeled(ROWS))
    given = image_loss(method, deep_world.with_targets(ROWS))
    assert free != pytest.approx(given, rel=1e-4)
    assert image_loss(method, partly(deep_world, ROWS, [False] * 5)) == pytest.approx(free, rel=1e-6)
    assert image_loss(method, partly(deep_world, ROWS, [True] * 5)) == pytest.approx(given, rel=1e-6)
    mixed = image_loss(method, partly(deep_world, ROWS, KNOWN))
    assert mixed != pytest.approx(free, rel=1e-4)
    assert mixed != pytest.approx(given, rel=1e-4)


def test_hybrid_cascade_labels_all_pictures_when_some_have_no_target(deep_backbone, deep_world):
    backbone, world = deep_backbone, deep_world
    free, some, full = (build("hybrid_cascade", backbone, world) for _ in range(3))
    free.begin_phase("image", world.plain_batches())
    some.begin_phase("image", world.plain_batches(), known_targets(world, [1, 2]))
    torch.testing.assert_close(
        some.teacher_rows("labels", torch.arange(12)), free.teacher_rows("labels", torch.arange(12))
    )
    full.begin_phase("image", None, world.targets)  # nothing for the teacher to do
    batch = partly(world, ROWS, KNOWN)
    with pytest.raises(SettingsError, match="begin_phase with the plain pictures"):
        full.training_loss("image", batch, 0)
    with pytest.raises(SettingsError, match="plain pictures"):
        build("hybrid_cascade", backbone, world).begin_phase("image", None, known_targets(world, [1]))


def test_given_or_pseudo_row_by_row(world):
    batch = partly(world, ROWS, KNOWN)
    pseudo = torch.full((5, 4), 0.25)
    mixed = given_or_pseudo(batch, 0.8, lambda: pseudo)
    for row, known in enumerate(KNOWN):
        votes = world.targets[ROWS[row]]
        expected = 0.8 * votes + 0.2 * (torch.arange(4) == votes.argmax()) if known else pseudo[row]
        torch.testing.assert_close(mixed[row], expected)
    assert needs_teacher(None)
    assert needs_teacher(known_targets(world, [0]))
    assert not needs_teacher(world.targets)


def test_the_class_of_tied_votes_is_the_first():
    tied = torch.tensor([[0.2, 0.4, 0.4], [0.5, 0.0, 0.5]])
    torch.testing.assert_close(joint_target(tied, 0.8), torch.tensor([[0.16, 0.52, 0.32], [0.6, 0.0, 0.4]]))


@pytest.mark.parametrize("lam", [0.0, 0.3, 0.8, 1.0])
def test_gradient_of_the_joint_loss_is_p_minus_the_target(lam):
    """Central differences of the loss in float64 against p - (1 - lam) y - lam l, to 1e-6."""
    draw = torch.Generator().manual_seed(5)
    votes = torch.randn(3, 6, generator=draw, dtype=torch.float64).softmax(dim=1)
    votes[2] = torch.tensor([0.0, 0.4, 0.4, 0.2, 0.0, 0.0])  # votes with zeros and a tie
    z = 2 * torch.randn(3, 6, generator=draw, dtype=torch.float64)
    batch = TargetBatch(torch.arange(3), ("a", "b", "c"), z, z, votes)
    q = given_or_pseudo(batch, lam, lambda: votes)

    def loss(scores):
        return -(q * scores.log_softmax(dim=1)).sum()

    y = torch.zeros_like(votes)
    for row, best in enumerate([int(max(range(6), key=lambda k, r=row: float(r[k]))) for row in votes]):
        y[row, best] = 1.0
    expected = z.softmax(dim=1) - (1 - lam) * y - lam * votes
    numeric = torch.zeros_like(z)
    for i in range(z.numel()):
        step = torch.zeros_like(z)
        step.view(-1)[i] = 1e-5
        numeric.view(-1)[i] = (loss(z + step) - loss(z - step)) / 2e-5
    assert float((numeric - expected).abs().max()) < 1e-6


def test_linear_probe_refuses_pictures_without_any_target(deep_backbone, deep_world):
    probe = build("linear_probe", deep_backbone, deep_world)
    with pytest.raises(DataError, match="no picture has one"):
        probe.begin_phase("image", deep_world.plain_batches(), torch.zeros_like(deep_world.targets))
