import pytest
import torch

from hybridcascade.errors import UnknownNameError
from hybridcascade.labelling.sinkhorn import sinkhorn
from hybridcascade.labelling.soft import make_labels, sharpen


def test_kinds():
    logits = torch.randn(30, 4) + torch.tensor([2.0, 0, 0, 0])
    torch.testing.assert_close(make_labels(logits, "softmax", epsilon=2.0), (logits / 2).softmax(dim=1))
    assert set(make_labels(logits, "argmax").unique().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(make_labels(logits, epsilon=0.5), sinkhorn(logits, 0.5))
    unbalanced = make_labels(logits, prior_power=1.0)  # the teacher's own shares: nothing to balance
    torch.testing.assert_close(unbalanced, logits.softmax(dim=1), rtol=1e-3, atol=1e-4)
    with pytest.raises(UnknownNameError, match="kind of labels"):
        make_labels(logits, "hard")


def test_sharpen():
    labels = torch.tensor([[0.6, 0.3, 0.1]])
    torch.testing.assert_close(sharpen(labels, 1.0), labels)
    squared = labels**2
    torch.testing.assert_close(sharpen(labels, 0.5), squared / squared.sum())
