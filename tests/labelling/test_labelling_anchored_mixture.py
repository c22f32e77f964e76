import math

import pytest
import torch

from hybridcascade.errors import SettingsError
from hybridcascade.labelling.anchored_mixture import FeatureSet, fit_anchored_mixture
from hybridcascade.labelling.neighbours import nearest_neighbours


def unit(v):
    return v / v.norm()


def confidence(z):
    return 1 + sum(float(p) * math.log(float(p)) for p in z if p > 0) / math.log(len(z))


def naive_variances(f, z, means, anchors, shares, trust, start, class_variances):
    n, k = z.shape
    if not class_variances:
        v = sum(z[i, c] * (f[i] - means[c]) ** 2 for i in range(n) for c in range(k)) / n
        rows = [v] * k
    else:
        rows = []
        for c in range(k):
            total = sum(trust[i] * z[i, c] for i in range(n))
            own = sum(trust[i] * z[i, c] * (f[i] - means[c]) ** 2 for i in range(n)) / total
            rows.append(shares[c] * own + (1 - shares[c]) * (start[0] + (anchors[c] - means[c]) ** 2))
    rows = torch.stack(rows)
    floor = 1e-3 * (rows.mean() if class_variances else rows[0].mean())
    return rows.clamp_min(floor)


def naive_links(features, neighbours, g):
    n = len(features)
    links = torch.zeros(n, n, dtype=torch.float64)
    cosines, rows = nearest_neighbours(features, neighbours)
    for i in range(n):
        for cosine, j in zip(cosines[i], rows[i], strict=True):
            links[i, j] += g / (2 * neighbours) * max(float(cosine), 0)
            links[j, i] += g / (2 * neighbours) * max(float(cosine), 0)
    return links


def naive_fit(toy, sets, *, epsilon, lam, anchor, class_variances, gap, neighbours, g, rounds):
    """Loops over pictures and classes; `sets` are (features, anchors, omega)."""
    y = (toy.logits.double() / epsilon).softmax(dim=1)
    n, k = y.shape
    z = y.clone()
    state = []
    for features, texts, omega in sets:
        f = torch.stack([unit(row) for row in features.double()])
        means = [sum(z[i, c] * f[i] for i in range(n)) / sum(z[:, c]) for c in range(k)]
        anchors = [unit(row) for row in (torch.stack(means) if texts is None else texts.double())]
        if gap and texts is not None:
            shift = sum(f[i] - sum(z[i, c] * anchors[c] for c in range(k)) for i in range(n)) / n
            anchors = [unit(a + shift) for a in anchors]
        start = naive_variances(f, z, anchors, anchors, None, None, None, False)
        state.append((f, anchors, omega, start))
    links = naive_links(sets[0][0], neighbours, g) if neighbours else torch.zeros(n, n, dtype=torch.float64)
    found = []
    for _ in range(rounds):
        trust = [confidence(row) for row in z]
        counts = [sum(trust[i] * z[i, c] for i in range(n)) for c in range(k)]
        shares = [count / (count + anchor * n / k) for count in counts]
        scores, found = lam * y.log(), []
        for f, anchors, omega, start in state:
            averages = [sum(trust[i] * z[i, c] * f[i] for i in range(n)) / counts[c] for c in range(k)]
            means = [unit(b * u + (1 - b) * a) for b, u, a in zip(shares, averages, anchors, strict=True)]
            v = naive_variances(f, z, means, anchors, shares, trust, start, class_variances)
            for i in range(n):
                for c in range(k):
                    square = sum((f[i] - means[c]) ** 2 / v[c]) + sum(v[c].log())
                    scores[i, c] -= omega / 2 * square
            found.append((torch.stack(means), v))
        for _ in range(5 if neighbours else 1):
            z = (scores + links @ z).softmax(dim=1)
    return z, found


@pytest.mark.parametrize(
    "numbers",
    [
        {},
        {"epsilon": 2.0, "lam": 0.5, "anchor": 0.0, "gap": False},
        {"class_variances": True},
        {"neighbours": 3, "g": 2.0, "rounds": 2},
    ],
)
@pytest.mark.parametrize("stages", [1, 2])
def test_matches_the_loop(stages, numbers, small):
    numbers = {
        "epsilon": 1.0, "lam": 1.0, "anchor": 0.5, "class_variances": False, "gap": True,
        "neighbours": 0, "g": 1.0, "rounds": 3,
    } | numbers  # fmt: skip
    other = torch.randn(len(small.features), 5, generator=torch.Generator().manual_seed(1))
    sets = [(small.features, small.texts, 0.4), (other, None, 0.2)][:stages]
    expected, statistics = naive_fit(small, sets, **numbers)
    found = fit_anchored_mixture(
        small.logits,
        [FeatureSet(*part) for part in sets],
        epsilon=numbers["epsilon"],
        zero_shot_weight=numbers["lam"],
        anchor=numbers["anchor"],
        class_variances=numbers["class_variances"],
        close_gap=numbers["gap"],
        neighbours=numbers["neighbours"],
        neighbour_weight=numbers["g"],
        rounds=numbers["rounds"],
    )
    torch.testing.assert_close(found.labels, expected.float(), rtol=1e-4, atol=1e-6)
    for number, (means, variances) in enumerate(statistics):
        torch.testing.assert_close(found.means[number], means, rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(found.variances[number].expand_as(variances), variances, rtol=1e-6, atol=1e-8)
    counts = [sum(confidence(z) * z[c] for z in expected) for c in range(4)]
    torch.testing.assert_close(found.counts, torch.stack(counts))


def test_omega_is_the_effective_share_of_dimensions(toy):
    world = toy([60] * 4, 0, dims=24)
    features = world.features.double()
    z = world.logits.double().softmax(dim=1)
    residual = features - z @ ((z.T @ features) / z.sum(dim=0)[:, None])
    eigenvalues = torch.linalg.svdvals(residual) ** 2
    expected = float(eigenvalues.sum() ** 2 / (24 * (eigenvalues**2).sum()))
    found = fit_anchored_mixture(world.logits, [FeatureSet(world.features, world.texts)], rounds=1)
    assert found.weights == (pytest.approx(expected),)
    twice = [FeatureSet(torch.cat([world.features] * 2, dim=1), torch.cat([world.texts] * 2, dim=1))]
    # Every dimension twice: the likelihood doubles, omega halves, and the labels stay.
    doubled = fit_anchored_mixture(world.logits, twice)
    assert doubled.weights == (pytest.approx(expected / 2, rel=1e-4),)
    single = fit_anchored_mixture(world.logits, [FeatureSet(world.features, world.texts)])
    torch.testing.assert_close(doubled.labels, single.labels, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("class_variances", [False, True])
def test_scores_of_new_pictures(class_variances, toy):
    world = toy([60] * 8, 3)
    half = world.logits[::2], [FeatureSet(world.features[::2], world.texts)]
    mixture = fit_anchored_mixture(*half, epsilon=2.0, class_variances=class_variances)
    seen = mixture.score(world.features[::2], world.logits[::2]).softmax(dim=1)
    torch.testing.assert_close(seen.float(), mixture.labels, rtol=1e-4, atol=1e-6)
    new = world.features[1::2]
    truth = world.truth[1::2]
    zero_shot = (world.logits[1::2].argmax(dim=1) == truth).float().mean()
    with_texts = (mixture.score(new, world.logits[1::2]).argmax(dim=1) == truth).float().mean()
    alone = (mixture.score(new).argmax(dim=1) == truth).float().mean()
    assert with_texts > zero_shot
    assert alone > zero_shot
    one = mixture.score(new[:1], world.logits[1:2])
    torch.testing.assert_close(one, mixture.score(new, world.logits[1::2])[:1])
    with pytest.raises(SettingsError, match="expected 1 feature sets"):
        mixture.score([new, new])


def test_a_class_without_pictures_stays_at_its_anchor():
    texts = torch.eye(3, 6)
    features = texts[[0, 0, 0, 1, 1, 1]] + 0.05 * torch.randn(6, 6, generator=torch.Generator().manual_seed(0))
    logits = 50 * features @ texts.T
    mixture = fit_anchored_mixture(logits, [FeatureSet(features, texts)], close_gap=False)
    assert mixture.counts[2] < 1e-6
    torch.testing.assert_close(mixture.means[0][2].float(), texts[2], rtol=0, atol=1e-4)
    assert (mixture.means[0][0].float() - texts[0]).abs().max() > 1e-3


def test_blind_predictions_and_a_dead_dimension_give_finite_labels(small):
    features = torch.cat([small.features, torch.zeros(15, 1)], dim=1)
    mixture = fit_anchored_mixture(torch.zeros(15, 4), [FeatureSet(features)], anchor=0.0, class_variances=True)
    assert torch.isfinite(mixture.labels).all()
    torch.testing.assert_close(mixture.labels.sum(dim=1), torch.ones(15))


@pytest.mark.parametrize(
    ("sets", "numbers", "match"),
    [
        ([], {}, "at least one feature set"),
        ([(torch.rand(14, 6), None)], {}, r"feature set 0.*15 pictures"),
        ([(torch.rand(15, 6), torch.rand(4, 5))], {}, "in the same space"),
        ([(torch.rand(15, 6), None, 0.0)], {}, "positive weight"),
        ([(torch.rand(15, 6), None)], {"epsilon": 0.0}, "positive epsilon"),
        ([(torch.rand(15, 6), None)], {"anchor": -1.0}, "from 0"),
        ([(torch.rand(15, 6), None)], {"rounds": 0}, "one round"),
    ],
)
def test_rejects(sets, numbers, match, small):
    with pytest.raises(SettingsError, match=match):
        fit_anchored_mixture(small.logits, [FeatureSet(*part) for part in sets], **numbers)
