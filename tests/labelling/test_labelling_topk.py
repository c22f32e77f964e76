import pytest
import torch

from hybridcascade.errors import SettingsError
from hybridcascade.labelling.topk import topk_labels


def naive_topk(p, count, predicted_only):
    n, k = len(p), len(p[0])
    first = [max(range(k), key=lambda c, row=row: (row[c], -c)) for row in p]
    claims = {}
    for c in range(k):
        rows = [i for i in range(n) if not predicted_only or first[i] == c]
        for i in sorted(rows, key=lambda i, c=c: (-p[i][c], i))[:count]:
            claims.setdefault(i, []).append((-p[i][c], c))
    chosen = [min(claims[i])[1] if i in claims else first[i] for i in range(n)]
    return chosen, [float(i in claims) for i in range(n)]


@pytest.mark.parametrize("predicted_only", [False, True])
@pytest.mark.parametrize(("per_class", "count"), [(1, 1), (3, 3), (500, 60), (0.5, 3), (0.01, 1)])
def test_matches_the_loop(per_class, count, predicted_only):
    # 10 classes and 60 pictures: a share of 0.5 is 3 pictures. Rounded, so that there are ties.
    p = (3 * torch.randn(60, 10, generator=torch.Generator().manual_seed(0))).softmax(dim=1)
    p = (p * 20).round() / 20 + 1e-3
    labels, weights = topk_labels(p, per_class, predicted_only)
    chosen, used = naive_topk(p.double().tolist(), count, predicted_only)
    assert labels.argmax(dim=1).tolist() == chosen
    assert weights.tolist() == used
    torch.testing.assert_close(labels.sum(dim=1), torch.ones(60))


def test_more_classes_than_a_chunk_of_columns():
    p = (3 * torch.randn(40, 150, generator=torch.Generator().manual_seed(0))).softmax(dim=1)
    labels, weights = topk_labels(p, 2)
    chosen, used = naive_topk(p.double().tolist(), 2, False)
    assert labels.argmax(dim=1).tolist() == chosen
    assert weights.tolist() == used


def test_a_picture_that_two_classes_choose_goes_to_the_surer():
    p = torch.tensor([[0.5, 0.45, 0.05], [0.4, 0.3, 0.3], [0.3, 0.3, 0.4]])
    labels, weights = topk_labels(p, 1)
    assert labels.argmax(dim=1).tolist() == [0, 0, 2]
    assert weights.tolist() == [1, 0, 1]


@pytest.mark.parametrize("per_class", [0, -1, 1.5, float("nan")])
def test_rejects(per_class):
    with pytest.raises(SettingsError, match="whole number"):
        topk_labels(torch.rand(4, 3), per_class)
