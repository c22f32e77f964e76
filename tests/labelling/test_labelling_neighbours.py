import math

import pytest
import torch

from hybridcascade.errors import SettingsError
from hybridcascade.labelling.neighbours import nearest_neighbours, neighbour_mean, smooth_by_neighbours


def naive_neighbours(features, count):
    rows = []
    for i, a in enumerate(features):
        length = math.sqrt(sum(v * v for v in a))
        others = []
        for j, b in enumerate(features):
            if i != j:
                cosine = sum(x * y for x, y in zip(a, b, strict=True)) / length / math.sqrt(sum(v * v for v in b))
                others.append((-cosine, j))
        rows.append([(j, -c) for c, j in sorted(others)[:count]])
    return rows


@pytest.mark.parametrize("cells", [1, 40, 2**24])
def test_neighbours_match_the_loop_in_any_chunk(cells, small):
    features = small.features * torch.linspace(0.5, 3, len(small.features))[:, None]
    expected = naive_neighbours(features.double().tolist(), 4)
    cosines, rows = nearest_neighbours(features, 4, chunk_cells=cells)
    assert rows.tolist() == [[j for j, _ in found] for found in expected]
    torch.testing.assert_close(cosines, torch.tensor([[c for _, c in found] for found in expected]))


def test_a_copy_is_a_neighbour_and_the_picture_itself_is_not():
    features = torch.tensor([[1.0, 0], [1, 0], [0, 1]])
    cosines, rows = nearest_neighbours(features, 9)
    assert rows.shape == (3, 2)
    assert rows[:2, 0].tolist() == [1, 0]
    assert cosines[0].tolist() == [1, 0]


def test_smoothing_matches_the_loop(small):
    p = small.logits.softmax(dim=1)
    _, rows = nearest_neighbours(small.features, 3)
    weights = torch.rand(rows.shape, generator=torch.Generator().manual_seed(0))
    weights[2] = 0
    expected = p.double().tolist()
    for _ in range(2):
        before = expected
        expected = []
        for i, own in enumerate(before):
            total = sum(weights[i].tolist())
            line = []
            for k in range(4):
                mean = sum(float(weights[i, n]) * before[int(rows[i, n])][k] for n in range(3))
                line.append(0.3 * own[k] + 0.7 * (mean / total if total else own[k]))
            expected.append(line)
    found = smooth_by_neighbours(p, rows, share=0.7, rounds=2, weights=weights)
    torch.testing.assert_close(found, torch.tensor(expected))
    torch.testing.assert_close(found.sum(dim=1), torch.ones(len(p)))


def test_no_share_no_round_or_no_neighbour_changes_nothing(small):
    p = small.logits.softmax(dim=1)
    _, rows = nearest_neighbours(small.features, 3)
    assert torch.equal(smooth_by_neighbours(p, rows, share=0.0), p)
    assert torch.equal(smooth_by_neighbours(p, rows, rounds=0), p)
    _, alone = nearest_neighbours(small.features[:1], 3)
    assert torch.equal(smooth_by_neighbours(p[:1], alone), p[:1])
    torch.testing.assert_close(neighbour_mean(p, rows[:, :1]), p[rows[:, 0]])


def test_rejects(small):
    with pytest.raises(SettingsError, match="at least one neighbour"):
        nearest_neighbours(small.features, 0)
    with pytest.raises(SettingsError, match=r"share in \[0, 1\]"):
        smooth_by_neighbours(small.logits, torch.zeros(15, 1, dtype=torch.long), share=1.5)
