"""All kinds of labels where classes are balanced, missing or rare, against plain zero-shot.

Means over five draws of the toy world of `conftest.py`, accuracy in percent. The world is made for this test: the
table says what each kind assumes, not what it is worth on pictures.
"""

import sys

import pytest
import torch

from hybridcascade.labelling.soft import refine

KINDS = {
    "zero-shot": {"kind": "argmax"},
    "sinkhorn, uniform": {"kind": "sinkhorn"},
    "sinkhorn, estimated": {"kind": "sinkhorn", "prior": "estimated"},
    "topk": {"kind": "topk", "per_class": 0.2},
    "prototype": {"kind": "prototype", "scale": 20.0},
    "prototype, no balance": {"kind": "prototype", "scale": 20.0, "balance": 0.0},
    "anchored mixture": {"kind": "anchored_mixture"},
    "neighbours": {"kind": "softmax", "neighbours": 10},
    "neighbours, mixture": {"kind": "anchored_mixture", "neighbours": 10},
}
ROBUST = ("sinkhorn, estimated", "anchored mixture", "neighbours", "neighbours, mixture")


def table(scene):
    name, worlds = scene
    rows = {}
    for kind, numbers in KINDS.items():
        found = [refine(w.logits, w.features, w.texts, **numbers) for w in worlds]
        rows[kind] = [w.accuracy(f.labels, f.weights) for w, f in zip(worlds, found, strict=True)]
    lines = [f"{kind:24}{sum(row) / len(row):6.1f}" for kind, row in rows.items()]
    sys.stdout.write("\n".join(["", name, *lines, ""]))  # pytest -s shows the table
    return rows


def test_robust_kinds_stay_above_zero_shot_and_the_docstrings_say_which_do_not(scene):
    rows = {kind: torch.tensor(row) for kind, row in table(scene).items()}
    gain = {kind: (row - rows["zero-shot"]) for kind, row in rows.items()}
    for kind in ROBUST:
        assert gain[kind].min() >= 0, (scene[0], kind)
        assert gain[kind].mean() > 2, (scene[0], kind)
    falls = {kind for kind, row in gain.items() if row.mean() < -1}
    expected = {
        "balanced": set(),
        "two of eight": {"sinkhorn, uniform", "topk", "prototype"},
        "ten to one": {"sinkhorn, uniform"},
    }
    assert falls == expected[scene[0]]


@pytest.mark.parametrize("seed", range(3))
def test_the_estimated_prior_is_near_the_true_one(seed, toy):
    counts = [240, 240, 0, 0, 0, 0, 0, 0]
    world = toy(counts, seed)
    prior = refine(world.logits, world.features, world.texts, prior="estimated").prior
    truth = torch.tensor(counts) / 480
    assert (prior - truth).abs().sum() < 0.2 < (torch.full((8,), 1 / 8) - truth).abs().sum()
