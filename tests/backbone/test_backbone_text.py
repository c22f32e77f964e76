import logging

import pytest
import torch
from safetensors.torch import load_file, save_file

from hybridcascade.backbone.loading import load_backbone
from hybridcascade.backbone.text_bank import TextBank
from hybridcascade.errors import BackboneError

TEXTS = ["a photo of awe", "sad", "", "a painting that evokes quiet contentment in the viewer", "a photo of fear"]
LONG = "word " * 40


def counted(backbone, monkeypatch):
    calls = []
    encode = backbone.encode_text
    monkeypatch.setattr(backbone, "encode_text", lambda texts, size: calls.append(list(texts)) or encode(texts, size))
    return calls


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("bf16", 0.05), ("fp16", 0.01)])
def test_text_features_equal_open_clip(load_tiny, new_model, precision, tolerance):
    backbone = load_tiny(precision)
    model = new_model()
    with torch.no_grad():
        expected = model.encode_text(backbone._text.tokenizer([*TEXTS, LONG]))
    found = backbone.encode_text([*TEXTS, LONG]).features
    assert found.dtype == torch.float32
    assert found.shape == (6, 48)
    assert (found - expected).norm() / expected.norm() < tolerance


def test_batches_equal_one_by_one_in_any_order(tiny):
    texts = [f"{a} {b}" for a in TEXTS for b in ("", "x", "with more words behind it")]
    together = tiny.encode_text(texts).features
    for size in (1, 4):
        torch.testing.assert_close(tiny.encode_text(texts, size).features, together, atol=1e-5, rtol=1e-4)
    single = torch.cat([tiny.encode_text([text]).features for text in texts])
    torch.testing.assert_close(single, together, atol=1e-5, rtol=1e-4)
    assert tiny.encode_text([]).features.shape == (0, 48)


def test_truncated_texts_are_counted(tiny, caplog):
    # 16 places, two of them for start and end.
    exact, over = " ".join(["sad"] * 14), " ".join(["sad"] * 15)
    assert tiny.encode_text([*TEXTS, exact]).truncated == 0
    assert tiny.encode_text([over, "sad", LONG]).truncated == 2
    bank = TextBank(tiny, None)
    with caplog.at_level(logging.WARNING):
        bank.encode([over, "sad", LONG])
    assert bank.truncated == 2
    assert "2 of 3 texts are longer" in caplog.text
    bank.encode(["sad"])
    assert bank.truncated == 0


def test_bank_gives_unit_vectors(load_tiny):
    for precision in ("fp32", "bf16"):
        features = TextBank(load_tiny(precision), None, batch_size=2).encode(TEXTS)
        assert features.dtype == torch.float32
        torch.testing.assert_close(features.norm(dim=-1), torch.ones(len(TEXTS)))


def test_second_time_comes_from_the_cache(tiny, monkeypatch, tmp_path):
    calls = counted(tiny, monkeypatch)
    bank = TextBank(tiny, tmp_path / "cache")
    first = bank.encode([*TEXTS, LONG])
    again = TextBank(tiny, tmp_path / "cache")
    assert torch.equal(again.encode([*TEXTS, LONG]), first)
    assert again.truncated == 1  # the count is remembered too
    assert len(calls) == 1
    tiny.drop_text()
    assert torch.equal(bank.encode([*TEXTS, LONG]), first)
    assert [p.suffix for p in (tmp_path / "cache").iterdir()] == [".safetensors"]  # no file left half written


def test_key_follows_texts_weights_tokenizer_and_precision(load_tiny, new_model, tmp_path):
    backbone = load_tiny()
    base = TextBank(backbone, None).key(TEXTS)
    assert TextBank(load_tiny(), tmp_path, batch_size=7).key(TEXTS) == base
    others = [
        TextBank(backbone, None).key(texts) for texts in (TEXTS[:-1], TEXTS[::-1], [*TEXTS[:-1], "a photo of fears"])
    ]
    others += [TextBank(backbone, None).key(["".join(TEXTS)])]
    others += [TextBank(load_tiny("bf16"), None).key(TEXTS)]
    torch.save(new_model(seed=1).state_dict(), tmp_path / "other.pt")
    others += [TextBank(load_backbone(f"ViT-tiny@{tmp_path}/other.pt", precision="fp32"), None).key(TEXTS)]
    backbone.tokenizer_id = "another"
    others += [TextBank(backbone, None).key(TEXTS)]
    assert len({base, *others}) == 1 + len(others)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-8])


def empty(path):
    path.write_bytes(b"")


def flip(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def other_shape(path):
    save_file({"features": torch.zeros(1, 48)}, path)


def no_features(path):
    save_file({"wrong": torch.zeros(1, 48)}, path)


@pytest.mark.parametrize("damage", [truncate, empty, flip, other_shape, no_features])
def test_damaged_cache_file_is_named_and_rebuilt(tiny, monkeypatch, tmp_path, caplog, damage):
    calls = counted(tiny, monkeypatch)
    bank = TextBank(tiny, tmp_path)
    first = bank.encode(TEXTS)
    (path,) = tmp_path.iterdir()
    damage(path)
    with caplog.at_level(logging.WARNING):
        assert torch.equal(bank.encode(TEXTS), first)
    assert str(path) in caplog.text
    assert "damaged" in caplog.text
    assert len(calls) == 2
    assert torch.equal(load_file(path)["features"], first)
    bank.encode(TEXTS)
    assert len(calls) == 2


def test_a_cache_that_cannot_be_written_does_not_end_the_run(tiny, tmp_path, caplog, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    with caplog.at_level(logging.WARNING):
        assert TextBank(tiny, tmp_path / "file").encode(TEXTS).shape == (5, 48)
    assert "cannot write the text cache" in caplog.text

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hybridcascade.backbone.text_bank.save_file", full)
    TextBank(tiny, tmp_path / "cache").encode(TEXTS)
    assert list((tmp_path / "cache").iterdir()) == []
    assert "No space left on device" in caplog.text


def test_drop_text_frees_the_tower_and_says_so(tiny):
    import gc
    import weakref

    assert tiny.has_text
    gone = weakref.ref(tiny._text.model)
    tiny.drop_text()
    gc.collect()
    assert gone() is None
    assert not tiny.has_text
    with pytest.raises(BackboneError, match="was dropped; load the backbone again"):
        tiny.encode_text(["sad"])
    with pytest.raises(BackboneError, match="was dropped"):
        TextBank(tiny, None).encode(["sad"])
