import errno
import json
import os
import threading

import pytest
import torch

from hybridcascade.engine import artifact, atomic
from hybridcascade.engine.artifact import load_model, save_model
from hybridcascade.errors import CheckpointError


def tensors(value, size=4):
    return {"a": torch.full((size, 3), float(value)), "b": torch.tensor(value, dtype=torch.int64)}


def test_round_trip_keeps_values_types_and_description(tmp_path):
    own = {
        "bf16": torch.randn(3, 4).bfloat16(),
        "half": torch.randn(2).half(),
        "scalar": torch.tensor(1.5),
        "empty": torch.zeros(0, 5),
        "turned": torch.arange(6.0).reshape(2, 3).T,
        "gradient": torch.nn.Parameter(torch.ones(2)),
    }
    own["shared"] = own["turned"][:2]
    save_model(tmp_path / "model", own, {"classes": ["é", "b"], "mean": [0.5]})
    found, description = load_model(tmp_path / "model")
    assert description == {"classes": ["é", "b"], "mean": [0.5]}
    assert found.keys() == own.keys()
    for name, value in own.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value), name
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == ["model.json", "model.safetensors"]


def test_replaced_whole(tmp_path):
    save_model(tmp_path, tensors(1), {"n": 1})
    save_model(tmp_path, tensors(2), {"n": 2})
    found, description = load_model(tmp_path)
    assert (int(found["b"]), description) == (2, {"n": 2})
    assert "previous" not in json.loads((tmp_path / "model.json").read_text())


@pytest.mark.parametrize("failing", [1, 2, 3])
def test_a_save_that_fails_or_is_killed_anywhere_leaves_a_whole_model(tmp_path, monkeypatch, failing):
    """The first, second or third rename of a save does not happen."""
    save_model(tmp_path, tensors(1), {"n": 1})
    renames = []
    replace = os.replace

    def full(source, target):
        renames.append(target)
        if len(renames) == failing:
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(atomic.os, "replace", full)
        with pytest.raises(OSError, match="could not save"):
            save_model(tmp_path, tensors(2), {"n": 2})
    found, description = load_model(tmp_path)
    expected = 1 if failing < 3 else 2  # the tensor file's rename is the moment from which the new model counts
    assert (int(found["b"]), description) == (expected, {"n": expected})
    save_model(tmp_path, tensors(3), {"n": 3})
    assert load_model(tmp_path)[1] == {"n": 3}


def test_description_that_json_cannot_say_touches_nothing(tmp_path):
    save_model(tmp_path, tensors(1), {"n": 1})
    with pytest.raises(TypeError):
        save_model(tmp_path, tensors(2), {"n": object()})
    assert load_model(tmp_path)[1] == {"n": 1}


def test_concurrent_readers_see_one_model_or_the_other(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic.os, "fsync", lambda _: None)  # waiting for the disk makes no difference to readers
    save_model(tmp_path, tensors(0, 2000), {"n": 0})
    seen, failures, stop = set(), [], threading.Event()

    def read():
        while not stop.is_set():
            try:
                found, description = load_model(tmp_path)
            except CheckpointError as error:
                failures.append(error)
            else:
                seen.add((int(found["b"]), description["n"], float(found["a"].sum())))

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for i in range(1, 9):
        save_model(tmp_path, tensors(i, 2000), {"n": i})
    stop.set()
    for reader in readers:
        reader.join()
    assert failures == []
    assert seen
    assert all(b == n and total == 6000.0 * n for b, n, total in seen)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "model.safetensors").write_bytes(b"x" * 100), "model.safetensors is damaged.*expected SHA-256"),
        (lambda f: os.truncate(f / "model.safetensors", 90), "damaged"),
        (lambda f: (f / "model.safetensors").unlink(), "cannot read the tensors"),
        (lambda f: (f / "model.json").unlink(), "no model here.*model.json does not exist. Was the training finished"),
        (lambda f: (f / "model.json").write_text("{"), "model.json is damaged .not JSON."),
        (lambda f: (f / "model.json").write_text("[1]"), "no model description of this package"),
        (lambda f: (f / "model.json").write_bytes(b"\xff\xfe"), "not JSON"),
    ],
)
def test_damage_is_named(tmp_path, monkeypatch, damage, message):
    monkeypatch.setattr(artifact, "_READ_WAIT", 0.001)
    save_model(tmp_path, tensors(1), {"n": 1})
    damage(tmp_path)
    with pytest.raises(CheckpointError, match=message):
        load_model(tmp_path)


def test_one_flipped_bit_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(artifact, "_READ_WAIT", 0.001)
    save_model(tmp_path, tensors(1), {"n": 1})
    data = bytearray((tmp_path / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (tmp_path / "model.safetensors").write_bytes(data)
    with pytest.raises(CheckpointError, match="damaged"):
        load_model(tmp_path)


def test_later_format_is_refused(tmp_path):
    save_model(tmp_path, tensors(1), {"n": 1})
    entry = json.loads((tmp_path / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps({**entry, "format": 2}))
    with pytest.raises(CheckpointError, match="has format 2, this version reads 1"):
        load_model(tmp_path)
