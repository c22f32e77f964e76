"""The text-image decoder against a naive reference, finite differences, and what its design promises."""

import math

import pytest
import torch
from torch.nn import functional

from hybridcascade.cascade.aggregation import make_aggregation
from hybridcascade.cascade.align import CascadeStages, StageAlignment
from hybridcascade.cascade.decoder import READOUTS, TextImageDecoder, stage_patches
from hybridcascade.errors import SettingsError, UnknownNameError

EMBED, WIDTH, HEADS, PICTURES, PATCHES, CLASSES = 6, 8, 2, 3, 5, 4


def units(*shape, seed=0, dtype=torch.float32):
    draw = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return functional.normalize(draw, dim=-1).to(dtype)


def inputs(dtype=torch.float32):
    return (
        units(PICTURES, PATCHES, EMBED, seed=1, dtype=dtype),
        units(CLASSES, EMBED, seed=2, dtype=dtype),
        units(PICTURES, EMBED, seed=3, dtype=dtype),
    )


def decoder(readout="vector", layers=2, start=1.0, seed=0):
    made = TextImageDecoder(
        EMBED,
        torch.Generator().manual_seed(seed),
        width=WIDTH,
        layers=layers,
        heads=HEADS,
        feed_forward=7,
        readout=readout,
        readout_start=start,
    )
    # LayerNorms and biases that are not the identity, so that a mistake in them is seen.
    draw = torch.Generator().manual_seed(seed + 1)
    for parameter in made.parameters():
        if parameter.dim() == 1 and parameter is not getattr(made, "vector", None):
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=draw)
    return made


# -- naive reference: one picture, one class, one head, one patch at a time -------------------------------


def _linear(layer, vector):
    out = [sum(float(w) * v for w, v in zip(row, vector, strict=True)) for row in layer.weight]
    return out if layer.bias is None else [o + float(b) for o, b in zip(out, layer.bias, strict=True)]


def _norm(vector, module=None):
    mean = sum(vector) / len(vector)
    variance = sum((v - mean) ** 2 for v in vector) / len(vector)
    plain = [(v - mean) / math.sqrt(variance + 1e-5) for v in vector]
    if module is None:
        return plain
    scaled = [p * float(w) for p, w in zip(plain, module.weight, strict=True)]
    return scaled if module.bias is None else [s + float(b) for s, b in zip(scaled, module.bias, strict=True)]


def _head_scores(part, query, memory):
    """Scaled product of one query with each patch, head by head: `[heads][P]`."""
    size = WIDTH // HEADS
    asked = _linear(part.query, _norm(query, part.norm))
    keys = [_linear(part.key, patch) for patch in memory]
    return [
        [sum(asked[i] * key[i] for i in range(h * size, (h + 1) * size)) / math.sqrt(size) for key in keys]
        for h in range(HEADS)
    ]


def _gelu(x):
    return x * 0.5 * (1 + math.erf(x / math.sqrt(2)))


def _reference_layer(layer, query, memory):
    size = WIDTH // HEADS
    values = [_linear(layer.value, patch) for patch in memory]
    read = []
    for h, scores in enumerate(_head_scores(layer.scores, query, memory)):
        weights = [math.exp(s) for s in scores]
        for i in range(h * size, (h + 1) * size):
            read.append(sum(w * value[i] for w, value in zip(weights, values, strict=True)) / sum(weights))
    query = [q + r for q, r in zip(query, _linear(layer.out, read), strict=True)]
    inner = [_gelu(x) for x in _linear(layer.up, _norm(query, layer.norm))]
    return [q + t for q, t in zip(query, _linear(layer.down, inner), strict=True)]


def _reference(made, patches, text, image):
    """Logits `[B, K]` and patch scores of the last layer `[B, K, P]`."""
    logits, maps = torch.zeros(PICTURES, CLASSES), torch.zeros(PICTURES, CLASSES, PATCHES)
    root = math.sqrt(EMBED)
    for b in range(PICTURES):
        memory = [_linear(made.from_patches, [root * float(v) for v in patch]) for patch in patches[b]]
        for k in range(CLASSES):
            words = [root * float(v) for v in text[k]]
            matched = [w * root * float(f) for w, f in zip(words, image[b], strict=True)]
            query = _linear(made.from_text, matched + words)
            last = made.last if made.readout != "vector" else made.layers[-1].scores
            for layer in made.layers:
                if layer is made.layers[-1] and made.readout == "vector":
                    scores = _head_scores(last, query, memory)
                query = _reference_layer(layer, query, memory)
            if made.readout != "vector":
                scores = _head_scores(last, query, memory)
            mean = [sum(head[p] for head in scores) / HEADS for p in range(PATCHES)]
            maps[b, k] = torch.tensor(mean)
            if made.readout == "vector":
                logits[b, k] = sum(v * float(w) for v, w in zip(_norm(query), made.vector, strict=True))
            elif made.readout == "mean":
                logits[b, k] = sum(mean) / PATCHES
            else:
                logits[b, k] = math.log(sum(math.exp(m) for m in mean) / PATCHES)
    return logits, maps


@pytest.mark.parametrize("readout", READOUTS)
@pytest.mark.parametrize("layers", [1, 2])
def test_logits_and_maps_match_the_naive_reference(readout, layers):
    made = decoder(readout, layers)
    with torch.no_grad():
        logits, maps = _reference(made, *inputs())
        torch.testing.assert_close(made(*inputs()), logits, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(made.scores(*inputs()), maps, rtol=1e-4, atol=1e-5)
    assert float(logits.std()) > 1e-3


@pytest.mark.parametrize("readout", READOUTS)
def test_gradients_match_finite_differences(readout):
    made = decoder(readout).double()
    given = [tensor.requires_grad_() for tensor in inputs(torch.float64)]
    names = [name for name, _ in made.named_parameters()]

    def apply(*values):
        parameters = dict(zip(names, values[3:], strict=True))
        return torch.func.functional_call(made, parameters, tuple(values[:3]))

    parameters = [parameter.detach().clone().requires_grad_() for parameter in made.parameters()]
    assert torch.autograd.gradcheck(apply, (*given, *parameters), fast_mode=True)


@pytest.mark.parametrize("readout", READOUTS)
def test_every_parameter_gets_a_gradient_that_a_softmax_can_see(readout):
    made = decoder(readout, start=0.01)
    target = torch.arange(PICTURES) % CLASSES
    functional.cross_entropy(made(*inputs()), target).backward()
    for name, parameter in made.named_parameters():
        assert parameter.grad is not None, name
        assert float(parameter.grad.abs().max()) > 1e-9, name


@pytest.mark.parametrize("readout", READOUTS)
def test_classes_are_scored_alike_whatever_their_order_and_company(readout):
    made, (patches, text, image) = decoder(readout), inputs()
    order = torch.tensor([2, 0, 3, 1])
    with torch.no_grad():
        logits = made(patches, text, image)
        torch.testing.assert_close(made(patches, text[order], image), logits[:, order])
        torch.testing.assert_close(made(patches, text[:1], image), logits[:, :1])


@pytest.mark.parametrize("readout", READOUTS)
def test_patches_have_no_order_and_pictures_no_company(readout):
    made, (patches, text, image) = decoder(readout), inputs()
    order = torch.tensor([4, 2, 0, 1, 3])
    with torch.no_grad():
        logits = made(patches, text, image)
        torch.testing.assert_close(made(patches[:, order], text, image), logits)
        torch.testing.assert_close(made.scores(patches[:, order], text, image), made.scores(*inputs())[..., order])
        torch.testing.assert_close(made(patches[1:2], text, image[1:2]), logits[1:2])


@pytest.mark.parametrize("readout", READOUTS)
def test_start_sets_the_size_of_the_logits(readout):
    wide = {"width": 64, "heads": 4, "layers": 3, "readout": readout}
    patches, text, image = units(8, 16, 32, seed=1), units(8, 32, seed=2), units(8, 32, seed=3)
    sizes = {}
    for start in (0.01, 1.0):
        made = TextImageDecoder(32, torch.Generator().manual_seed(0), readout_start=start, **wide)
        with torch.no_grad():
            sizes[start] = float(made(patches, text, image).abs().mean())
    # A log mean exp is no multiple of its scores, only close to one.
    assert sizes[0.01] == pytest.approx(0.01 * sizes[1.0], rel=0.5 if readout == "logsumexp" else 0.05)
    assert 0 < sizes[0.01] < 0.05


def test_the_start_depends_on_the_generator_alone():
    state = torch.random.get_rng_state()
    first, again, other = decoder(seed=5), decoder(seed=5), decoder(seed=6)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.vector, other.vector)


def test_stage_patches_are_the_stages_place_by_place():
    sizes, width = (2, 1), 10
    draw = torch.Generator().manual_seed(0)
    start = torch.randn(width, generator=draw), torch.randn(width, generator=draw)
    projection = torch.randn(width, EMBED, generator=draw)
    stages = CascadeStages(make_aggregation("free", sizes), StageAlignment(sizes, *start, projection))
    patches = torch.randn(PICTURES, sum(sizes), PATCHES, width, generator=draw)
    with torch.no_grad():
        found = stage_patches(stages, patches)
        for place in range(PATCHES):
            alone = functional.normalize(stages(patches[:, :, place]), dim=-1)
            torch.testing.assert_close(found[:, :, place], alone)
    assert found.shape == (PICTURES, 2, PATCHES, EMBED)


def test_wrong_numbers_are_named():
    draw = torch.Generator()
    with pytest.raises(UnknownNameError, match="Valid: vector, mean, logsumexp"):
        TextImageDecoder(EMBED, draw, readout="max")
    with pytest.raises(SettingsError, match="got 0 layers, width 8, 2 heads"):
        TextImageDecoder(EMBED, draw, width=8, layers=0, heads=2)
    with pytest.raises(SettingsError, match="width 8, 3 heads"):
        TextImageDecoder(EMBED, draw, width=8, heads=3)
    with pytest.raises(SettingsError, match="positive size"):
        TextImageDecoder(EMBED, draw, width=8, heads=2, readout_start=0.0)
