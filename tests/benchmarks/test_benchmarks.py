"""The benchmarks run end to end, their reference computes the right thing, and their FLOPs are counted right.

No time is asserted: times belong to a quiet machine.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from benchmarks.__main__ import main
from benchmarks.encode import encode_contest
from benchmarks.floor import Geometry, encode_flops, matmul_rate, train_step_flops
from benchmarks.models import geometry, plain_tower, prepare
from benchmarks.reference import PlainAdamW
from benchmarks.runner import Contest, run_contest
from benchmarks.train_step import OurStep, make_batch, make_method, plain_lafter
from torch.utils.flop_counter import FlopCounterMode

from hybridcascade.methods.lafter import Lafter

PROMPTS, CLASSES, BATCH = 5, 4, 3


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return prepare("tiny", tmp_path_factory.mktemp("tiny"), "fp32")


def spread(backbone, seed=5):
    """Give LayerNorms and biases values that are not those of a fresh model, so that each one matters."""
    draw = torch.Generator().manual_seed(seed)
    for parameter in backbone.visual.parameters():
        if parameter.dim() == 1:
            parameter.data.add_(0.2 * torch.randn(parameter.shape, generator=draw))


@pytest.fixture
def lafter(tmp_path):
    pair = prepare("tiny", tmp_path, "fp32")
    spread(pair.ours)
    spread(pair.exact)
    method = make_method(Lafter, pair.ours, PROMPTS, CLASSES, preset="custom")
    return pair, method


def run(benchmark, file, *options):
    small = [
        "--models",
        "tiny",
        "--batch",
        "4",
        "--classes",
        "5",
        "--pairs",
        "5",
        "--square",
        "64",
        "--json",
        str(file),
    ]
    assert main([benchmark, *small, *options]) == 0
    return json.loads(file.read_text())


@pytest.mark.parametrize(
    ("benchmark", "names"),
    [
        ("train_step", ["train_step/tiny/hybrid_cascade", "train_step/tiny/lafter_faithful"]),
        ("encode", ["encode/tiny"]),
    ],
)
def test_benchmarks_write_their_report(benchmark, names, tmp_path, capsys):
    report = run(benchmark, tmp_path / "new" / "report.json", "--prompts", "3")
    assert report["benchmark"] == benchmark
    assert report["machine"]["threads"] == torch.get_num_threads()
    assert isinstance(report["machine"]["keeps_freed_memory"], bool)
    assert [entry["name"] for entry in report["entries"]] == names
    for entry in report["entries"]:
        assert len(entry["rows"]) == 5
        ratios = sorted(row["reference_s"] / row["ours_s"] for row in entry["rows"])
        assert entry["ratio"] == pytest.approx(ratios[2])
        assert entry["floor_share"] == pytest.approx(entry["gflop"] / entry["matmul_gflops"] / entry["ours_s"])
        assert [row["first"] for row in entry["rows"]] == ["ours", "reference"] * 2 + ["ours"]
        if benchmark == "encode":
            assert 0 <= entry["argmax_agreement"] <= 1
            assert 0 <= entry["fp32_accuracy"] <= 1
            assert entry["agreement_pictures"] == 4 * 6  # the warm-up's pictures too
    table = capsys.readouterr().out
    assert all(name in table for name in names)


def test_reference_forward_is_open_clips(lafter):
    models, _ = lafter
    pictures = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours = models.exact.visual(pictures)
        reference = plain_tower(models.exact).encode(pictures)
    assert ours.std() > 0.1
    torch.testing.assert_close(reference, ours, rtol=1e-4, atol=1e-4)


def test_reference_step_has_the_methods_gradients(lafter):
    models, method = lafter
    batch = make_batch(32, BATCH)
    ours, reference = OurStep(method, batch), plain_lafter(models, method)
    loss, reference_loss = ours.loss(), reference.loss(batch.plain, batch.strong)
    loss.backward()
    reference_loss.backward()
    torch.testing.assert_close(reference_loss, loss, rtol=1e-5, atol=1e-6)
    found = {n: p.grad for n, p in method.named_parameters() if p.grad is not None}
    names = {"head.weight": "head", "prompts.tokens.0": "prompts"}
    expected = {name: reference.trained[names.get(name, name.removeprefix("backbone.visual."))].grad for name in found}
    assert len(found) == len(reference.trained)
    for name, gradient in expected.items():
        assert gradient.abs().max() > 1e-7, name
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_reference_steps_follow_the_methods(lafter):
    models, method = lafter
    batch = make_batch(32, BATCH)
    reference = plain_lafter(models, method)
    ours = OurStep(method, batch)
    losses = [(ours(), reference.step(batch.plain, batch.strong)) for _ in range(3)]
    assert losses[2][0] < losses[0][0]
    torch.testing.assert_close(
        torch.tensor([b for _, b in losses]), torch.tensor([a for a, _ in losses]), rtol=1e-4, atol=1e-4
    )


def test_plain_adamw_is_torchs():
    draw = torch.Generator().manual_seed(2)
    start = torch.randn(4, 3, generator=draw)
    ours, theirs = (start.clone().requires_grad_() for _ in range(2))
    plain, torchs = PlainAdamW([ours], 0.1, 0.05), torch.optim.AdamW([theirs], lr=0.1, weight_decay=0.05)
    for _ in range(5):
        gradient = torch.randn(4, 3, generator=draw)
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        plain.step()
        torchs.step()
    assert not torch.equal(ours, start)
    torch.testing.assert_close(ours, theirs)


def test_encode_flops_are_those_that_run(models):
    tower, sizes = plain_tower(models.exact), geometry(models.exact)
    pictures = torch.zeros(BATCH, 3, 32, 32)
    for prompts in (0, PROMPTS):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            tower.encode(pictures, torch.zeros(1, prompts, sizes.width) if prompts else None)
        assert counter.get_total_flops() == encode_flops(sizes, BATCH, prompts, only_cls_last=False)


def test_train_step_flops_are_those_that_run(lafter):
    models, method = lafter
    reference, batch = plain_lafter(models, method), make_batch(32, BATCH)
    with FlopCounterMode(display=False) as counter:
        reference.loss(batch.plain, batch.strong).backward()
    head = 2 * BATCH * models.ours.embed_dim * CLASSES
    heads = head + 3 * head  # the teacher's; the student's forward, and the gradients of both its sides
    expected = train_step_flops(geometry(models.ours), BATCH, PROMPTS, live_teacher=True, only_cls_last=False)
    assert counter.get_total_flops() == expected + heads


def test_the_floor_leaves_out_what_the_last_block_need_not_do():
    g = Geometry(depth=2, width=8, embed_dim=4, patch=2, patches=9, mlp=32)
    one_block = (2 * 8 * 2 * 8 + 2 * 2 * 8 * 32) + 2 * 2 * 10 * 8  # of one token: query, output, MLP, scores
    assert encode_flops(g, 5, only_cls_last=False) - encode_flops(g, 5) == 5 * 9 * one_block


def test_agreement_notices_a_difference(models):
    contest, race = encode_contest(models, batch=4, classes=5, square=64)
    race.prepare(pairs=5, warmup=0)
    run_contest(contest, pairs=5, warmup=0)
    assert race.agreement()["argmax_agreement"] == 1  # both fp32
    race.found["ours"][0] = race.found["ours"][0].flip(0)
    assert race.agreement()["argmax_agreement"] < 1


def test_runner_alternates_and_does_not_count_the_warmup():
    calls = []
    contest = Contest(
        name="toy", ours=lambda n: calls.append(("ours", n)), reference=lambda n: calls.append(("reference", n)),
        pictures=1, flops=1, dtype=torch.float32, geometry=Geometry(1, 8, 8, 2, 4, 8), rows=8, square=8,
    )  # fmt: skip
    entry = run_contest(contest, pairs=2, warmup=1)
    order = [("ours", -1), ("reference", -1), ("ours", 0), ("reference", 0), ("reference", 1), ("ours", 1)]
    assert calls == order
    assert len(entry.rows) == 2


def test_matmul_rate_is_positive():
    assert matmul_rate(torch.float32, Geometry(1, 8, 8, 2, 4, 16), rows=8, square=8, repeats=2) > 0


def test_report_path_is_optional(capsys, tmp_path: Path):
    assert main(["encode", "--models", "tiny", "--batch", "2", "--classes", "3", "--pairs", "5", "--square", "32"]) == 0
    assert "encode/tiny" in capsys.readouterr().out
