import pytest
import torch

from hybridcascade.errors import SettingsError
from hybridcascade.labelling.prototype import image_prototypes, prototype_labels


def unit(v):
    return v / v.norm()


def naive(toy, epsilon, a, balance, rounds):
    n, k = toy.logits.shape
    features, texts = toy.features.double(), toy.texts.double()
    plain = torch.stack([(toy.logits[i].double() / epsilon).softmax(dim=0) for i in range(n)])
    text = plain.clone()
    for c in range(k):
        text[:, c] /= (sum(plain[i, c] for i in range(n)) / n) ** balance
    text = torch.stack([row / row.sum() for row in text])

    def rebuild(label):
        rows = [[i for i in range(n) if label[i] == c] for c in range(k)]
        return [unit(features[r].sum(dim=0)) if r else unit(texts[c]) for c, r in enumerate(rows)]

    label = [int(row.argmax()) for row in text]
    for _ in range(rounds):
        prototypes = rebuild(label)
        cosines = [torch.stack([f @ t for t in prototypes]) for f in features]
        image = torch.stack([(toy.scale / epsilon * row).softmax(dim=0) for row in cosines])
        label = [int((a * image[i] + (1 - a) * text[i]).argmax()) for i in range(n)]
    weights = [plain[i, y] / plain[i].max() * image[i, y] / image[i].max() for i, y in enumerate(label)]
    return label, torch.stack(weights), torch.stack(rebuild(label))


@pytest.mark.parametrize(
    ("epsilon", "a", "balance", "rounds"), [(1.0, 0.3, 1.0, 1), (2.0, 0.7, 0.5, 3), (1.0, 0.5, 0.0, 2)]
)
def test_matches_the_loop(epsilon, a, balance, rounds, small):
    label, weights, prototypes = naive(small, epsilon, a, balance, rounds)
    found = prototype_labels(
        small.logits, small.features, small.texts,
        scale=small.scale, epsilon=epsilon, image_share=a, balance=balance, rounds=rounds,
    )  # fmt: skip
    assert found[0].argmax(dim=1).tolist() == label
    assert set(found[0].unique().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(found[1], weights.float(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found[2], prototypes.float(), rtol=1e-4, atol=1e-6)


def test_weight_is_one_where_both_prefer_the_label_and_less_elsewhere(toy):
    world = toy([40, 30, 20, 10], 1, dims=16, text_error=1.0)
    labels, weights, prototypes = prototype_labels(world.logits, world.features, world.texts, scale=world.scale)
    agree = (world.logits.argmax(dim=1) == labels.argmax(dim=1)) & (
        (world.features @ prototypes.T).argmax(dim=1) == labels.argmax(dim=1)
    )
    assert 0 < agree.float().mean() < 1
    assert weights[agree].mean() > 0.98  # prototypes moved once more after the vote
    assert weights[~agree].max() < 1


def test_a_class_without_pictures_falls_back_to_its_text():
    features = torch.eye(4)[:3]
    texts = torch.tensor([[1.0, 1, 0, 0], [0, 0, 0, 2.0]])
    found = image_prototypes(features, torch.tensor([[0.5, 0], [0.5, 0], [0, 0.0]]), texts)
    expected = torch.tensor([[0.5**0.5, 0.5**0.5, 0, 0], [0, 0, 0, 1.0]])
    torch.testing.assert_close(found.float(), expected)


@pytest.mark.parametrize(
    ("numbers", "match"),
    [({"scale": 0.0}, "positive scale"), ({"image_share": 1.1}, "image_share"), ({"rounds": 0}, "one round")],
)
def test_rejects(numbers, match, small):
    with pytest.raises(SettingsError, match=match):
        prototype_labels(small.logits, small.features, small.texts, **numbers)
