"""Our trainers inside the real Dassl: its registry, loop, loaders, evaluator and files.

Skipped where Dassl cannot be imported. Last run against KaiyangZhou/Dassl.pytorch at commit
c61a1b570ac6333bd50fb5ae06aea59002fb20bb (0.6.3), with torch 2.15.0 and numpy 2.4.6:

    PYTHONPATH=path/to/Dassl.pytorch pytest tests/integrations

The pictures are the sandbox's, written as PNG files; the backbone is the bundled nano CLIP.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from PIL import Image

pytest.importorskip(
    "dassl.engine",
    reason="Dassl is not importable here; put a clone of KaiyangZhou/Dassl.pytorch on PYTHONPATH (docs/coming_from.md)",
)

from dassl.config import get_cfg_default
from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum
from dassl.engine import TRAINER_REGISTRY, TrainerX, build_trainer
from dassl.optim import build_lr_scheduler

import hybridcascade
from hybridcascade.errors import CheckpointError, SettingsError, UnknownNameError
from hybridcascade.integrations.dassl import TRAINERS, extend_cfg
from hybridcascade.integrations.dassl.registration import register_trainers
from hybridcascade.integrations.dassl.schedule import epoch_factor
from hybridcascade.sandbox.dataset import make_split
from hybridcascade.sandbox.world import EMOTIONS

NAME = "SandboxPictures"
TRAIN, TEST = 24, 16
QUICK = ["teacher_views=1", "predict_views=1"]


class SandboxPictures(DatasetBase):
    """PNG files `<split>/<number>_<emotion>.png` below DATASET.ROOT; every emotion has a training picture."""

    shuffle_labels = False

    def __init__(self, cfg):
        root = Path(cfg.DATASET.ROOT)
        train, test = (self.read(root / split) for split in ("train", "test"))
        if self.shuffle_labels:
            marks = [(item.label, item.classname) for item in train]
            random.Random(1).shuffle(marks)
            train = [
                Datum(impath=item.impath, label=mark[0], classname=mark[1])
                for item, mark in zip(train, marks, strict=True)
            ]
        super().__init__(train_x=train, test=test)

    @staticmethod
    def read(folder):
        names = {path: path.stem.partition("_")[2] for path in sorted(folder.iterdir())}
        return [Datum(impath=str(p), label=EMOTIONS.index(name), classname=name) for p, name in names.items()]


if NAME not in DATASET_REGISTRY.registered_names():
    DATASET_REGISTRY.register(SandboxPictures)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sandbox")
    for split, count in (("train", TRAIN), ("test", TEST)):
        data = make_split(split, count, "shifted", seed=3)
        (folder / split).mkdir()
        for number, (picture, emotion) in enumerate(zip(data.images, data.emotions, strict=True)):
            Image.fromarray(picture).save(folder / split / f"{number:03d}_{EMOTIONS[emotion]}.png")
    return folder


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import open_clip
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("tiny")
    vision = {"layers": 12, "width": 32, "head_width": 16, "patch_size": 16, "image_size": 64}
    text = {"layers": 1, "width": 32, "heads": 2, "context_length": 32, "vocab_size": 49408}
    config = {"embed_dim": 32, "quick_gelu": True, "vision_cfg": vision, "text_cfg": text}
    (folder / "nano.json").write_text(json.dumps(config))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = open_clip.CLIP(**config)
    state = {k: v.half().contiguous() for k, v in model.state_dict().items() if k != "attn_mask"}
    save_file(state, folder / "nano.safetensors")
    return folder


@pytest.fixture
def tiny(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny random tower under the name `nano`, for what does not need a good one."""
    monkeypatch.setattr("hybridcascade.backbone.loading.nano_folder", lambda: tiny_folder)


@pytest.fixture
def make_cfg(root: Path, tmp_path: Path):
    def make(trainer: str = "HybridCascadeLaFTer", out: str = "out", **changes):
        cfg = get_cfg_default()
        extend_cfg(cfg)
        options = {
            "DATASET.NAME": NAME, "DATASET.ROOT": str(root), "OUTPUT_DIR": str(tmp_path / out), "SEED": 1,
            "USE_CUDA": False, "VERBOSE": False, "TRAINER.NAME": trainer, "MODEL.BACKBONE.NAME": "nano",
            "DATALOADER.NUM_WORKERS": 0, "DATALOADER.TRAIN_X.BATCH_SIZE": 8, "OPTIM.NAME": "adamw",
            "LABEL_FREE.SETTINGS": [] if trainer == "LaFTer" else QUICK, "OPTIM.LR": 1e-3,
            "OPTIM.MAX_EPOCH": 2, "OPTIM.LR_SCHEDULER": "cosine", "LABEL_FREE.TEXT_CACHE": "none",
            "LABEL_FREE.TEXT_MODE": "names",
        }  # fmt: skip
        options |= {key.replace("__", "."): value for key, value in changes.items()}
        cfg.merge_from_list([part for pair in options.items() for part in pair])
        cfg.freeze()
        return cfg

    return make


def weights(trainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in trainer.model.state_dict().items() if name[:9] != "backbone."}


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def test_the_three_are_registered_trainers_of_dassls_kind():
    assert set(TRAINERS) == {"LaFTer", "MultiLayerLaFTer", "HybridCascadeLaFTer"}
    for name, trainer in TRAINERS.items():
        assert TRAINER_REGISTRY.get(name) is trainer
        assert issubclass(trainer, TrainerX)
    assert register_trainers() == TRAINERS, "importing again registers nothing twice"


def test_a_taken_name_is_explained_and_nothing_is_registered(monkeypatch: pytest.MonkeyPatch):
    others = {"LaFTer": type("LaFTer", (TrainerX,), {"__module__": "trainers.LaFTer"})}
    monkeypatch.setattr(TRAINER_REGISTRY, "_obj_map", others)
    with pytest.raises(SettingsError, match=r"'LaFTer' already, from trainers.LaFTer .*not both"):
        register_trainers()
    assert list(others) == ["LaFTer"]


@pytest.mark.slow
def test_hybrid_cascade_trains_saves_loads_and_tests_the_last_step(make_cfg, tmp_path: Path, capsys):
    cfg = make_cfg(LABEL_FREE__EXPORT=True)
    trainer = build_trainer(cfg)
    before, scale = weights(trainer), trainer.model.backbone.input_scale.clone()
    trainer.train()
    said = capsys.readouterr().out
    assert "epoch [2/2]" in said
    assert "Deploy the last-epoch model" in said
    after = weights(trainer)
    assert any(not torch.equal(before[name], after[name]) for name in before if "alignment" in name)
    assert not torch.equal(trainer.model.backbone.input_scale, scale), "the colours are aligned, as without Dassl"

    folder = tmp_path / "out" / "model"
    assert (folder / "checkpoint").read_text().strip() == "model.pth.tar-2"
    assert (folder / "model.pth.tar-2").stat().st_size < 10e6, "the frozen tower is not saved again"
    reported = trainer.test()
    with torch.no_grad():
        logits = [trainer.model_inference(batch["img"]) for batch in trainer.test_loader]
    truth = torch.cat([batch["label"] for batch in trainer.test_loader])
    assert reported == pytest.approx(100 * float((torch.cat(logits).argmax(1) == truth).float().mean()))

    other = build_trainer(make_cfg(out="other"))
    other.load_model(str(tmp_path / "out"))
    assert_equal(after, weights(other))
    assert other.test() == reported
    pictures = next(iter(trainer.test_loader))["img"]
    assert torch.equal(trainer.model_inference(pictures), other.model_inference(pictures))

    model = hybridcascade.load(str(tmp_path / "out" / "hybridcascade"))
    paths = [item.impath for item in trainer.dm.dataset.test]
    torch.testing.assert_close(
        torch.from_numpy(model.predict(paths).probabilities), torch.cat(logits).softmax(1), atol=2e-6, rtol=1e-5
    )


@pytest.mark.usefixtures("tiny")
def test_labels_of_the_training_pictures_change_nothing(make_cfg, monkeypatch: pytest.MonkeyPatch):
    results = []
    for shuffled in (False, True):
        monkeypatch.setattr(SandboxPictures, "shuffle_labels", shuffled)
        trainer = build_trainer(make_cfg(out=f"labels{shuffled}", OPTIM__MAX_EPOCH=1, TEST__NO_TEST=True))
        trainer.train()
        results.append((trainer, weights(trainer)))
    labels = [[item.label for item in trainer.dm.dataset.train_x] for trainer, _ in results]
    assert labels[0] != labels[1]
    assert_equal(results[0][1], results[1][1])


@pytest.mark.usefixtures("tiny")
def test_labels_and_domains_of_a_batch_are_not_even_read(make_cfg):
    class Poisoned(dict):
        def __getitem__(self, key):
            assert key not in ("label", "domain"), f"read {key}"
            return super().__getitem__(key)

    trainer = build_trainer(make_cfg())
    batch = Poisoned(next(iter(trainer.train_loader_x)))
    pictures = trainer.parse_batch_train(batch)
    assert not hasattr(pictures, "label")
    assert pictures.ids == tuple(batch["impath"])
    row = int(pictures.index[0])
    assert trainer.dm.dataset.train_x[row].impath == pictures.ids[0], "the row is the row of the data set"
    assert not torch.equal(pictures.plain, pictures.strong)


@pytest.mark.usefixtures("tiny")
def test_a_killed_run_resumes_to_the_same_weights(make_cfg, monkeypatch: pytest.MonkeyPatch):
    options = {"TRAIN__CHECKPOINT_FREQ": 1, "TEST__NO_TEST": True}
    whole = build_trainer(make_cfg(out="whole", **options))
    whole.train()
    killed = build_trainer(make_cfg(out="killed", **options))
    begin = killed.before_epoch

    def die_in_the_second() -> None:
        if killed.epoch == 1:
            raise KeyboardInterrupt
        begin()

    monkeypatch.setattr(killed, "before_epoch", die_in_the_second)
    with pytest.raises(KeyboardInterrupt):
        killed.train()
    torch.manual_seed(99)
    again = build_trainer(make_cfg(out="killed", **options))
    again.train()
    assert again.start_epoch == 1
    assert_equal(weights(whole), weights(again))


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("trainer", ["LaFTer", "MultiLayerLaFTer"])
def test_the_others_train_and_load_too(trainer: str, make_cfg, tmp_path: Path):
    first = build_trainer(make_cfg(trainer, LABEL_FREE__TEXT_EPOCHS=3))
    first.train()
    second = build_trainer(make_cfg(trainer, out="second"))
    second.load_model(str(tmp_path / "out"), epoch=2)
    assert_equal(weights(first), weights(second))


@pytest.mark.usefixtures("tiny")
def test_progressive_training_moves_only_what_its_schedule_says(make_cfg):
    trainer = build_trainer(make_cfg("MultiLayerLaFTer", LABEL_FREE__TEXT_EPOCHS=1, TEST__NO_TEST=True))
    trainer.before_train()
    trainer.epoch = 0
    before = weights(trainer)
    trainer.before_epoch()
    trainer.run_epoch()
    moved = {name for name, value in weights(trainer).items() if not torch.equal(value, before[name])}
    allowed = trainer._unfreezing.parameters(0)
    everything = trainer.model.trainable_names("image")
    assert moved & everything
    assert (moved & everything) < everything
    assert moved & everything <= allowed


@pytest.mark.usefixtures("tiny")
def test_keys_of_texts_views_and_precision_do_what_they_say(make_cfg):
    usual = build_trainer(make_cfg("LaFTer"))
    other = build_trainer(
        make_cfg("LaFTer", LABEL_FREE__TEXT_MODE="templates", LABEL_FREE__TEMPLATES="general", LABEL_FREE__VIEW="none",
                 LABEL_FREE__PRECISION="fp32", OPTIM__NAME="sgd")
    )  # fmt: skip
    assert [text.text for text in usual.texts.texts] == list(EMOTIONS)
    assert f"a photo of {EMOTIONS[0]}." in [text.text for text in other.texts.texts]
    batch = next(iter(other.train_loader_x))
    assert torch.equal(batch["img"], batch["img2"])
    assert {p.dtype for p in other.model.backbone.parameters()} == {torch.float32}
    assert isinstance(other.optim, torch.optim.SGD)
    assert isinstance(usual.optim, torch.optim.AdamW)


def test_a_warm_up_works_on_current_torch():
    optim = get_cfg_default().OPTIM
    optim.merge_from_list(
        ["LR", 0.1, "MAX_EPOCH", 6, "LR_SCHEDULER", "multi_step", "STEPSIZE", (2,), "WARMUP_EPOCH", 2]
    )
    linear = [0.1 * epoch_factor(epoch, optim) for epoch in range(6)]
    assert linear == pytest.approx([1e-5, 0.05, 0.1, 0.1, 0.01, 0.01]), "recounted: the step falls 2 epochs later"
    optim.merge_from_list(["WARMUP_TYPE", "constant", "WARMUP_CONS_LR", 0.02, "WARMUP_RECOUNT", False])
    constant = [0.1 * epoch_factor(epoch, optim) for epoch in range(6)]
    assert constant == pytest.approx([0.02, 0.02, 0.01, 0.01, 0.01, 0.01])


REFUSED = {
    "best_val": ({"TEST__FINAL_MODEL": "best_val"}, r"TEST.FINAL_MODEL: expected last_step"),
    "two transforms": ({"DATALOADER__K_TRANSFORMS": 2}, r"K_TRANSFORMS: expected 1"),
    "staged": ({"OPTIM__STAGED_LR": True}, r"STAGED_LR"),
    "resnet": ({"MODEL__BACKBONE__NAME": "RN50"}, r"BACKBONE.NAME: expected a CLIP vision transformer"),
    "view": ({"LABEL_FREE__VIEW": "affect_sav"}, r"Did you mean 'affect_safe'"),
    "schedule": ({"OPTIM__LR_SCHEDULER": "cosin"}, r"Did you mean 'cosine'"),
    "other trainer's key": ({"MULTI_LAYER_PROMPT__NUM_TOKENS": 4}, r"HybridCascadeLaFTer does not read it"),
    "setting": ({"LABEL_FREE__SETTINGS": ["promts=3"]}, r"Did you mean 'prompts'"),
    "contradiction": (
        {"NGA__INIT_SIGMA": 2.0, "HYBRID_CASCADE__NGA_INIT_SIGMA": 1.0}, r"NGA_INIT_SIGMA = 1.0 and NGA.INIT_SIGMA"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_followed_is_refused_at_once(name: str, make_cfg):
    changes, message = REFUSED[name]
    with pytest.raises(SettingsError, match=message):
        build_trainer(make_cfg(**changes))


def test_without_extend_cfg_the_error_says_so(root: Path):
    cfg = get_cfg_default()
    cfg.TRAINER.NAME = "LaFTer"
    with pytest.raises(SettingsError, match=r"extend_cfg\(cfg\)"):
        build_trainer(cfg)


def test_keys_that_nobody_reads_are_refused(make_cfg):
    cfg = make_cfg()
    cfg.defrost()
    cfg.HYBRID_CASCADE.STAGE_BOUNDRIES = [[1, 2]]
    with pytest.raises(UnknownNameError, match="Did you mean 'STAGE_BOUNDARIES'"):
        build_trainer(cfg)


@pytest.mark.usefixtures("tiny")
def test_a_checkpoint_of_something_else_is_refused(make_cfg, tmp_path: Path):
    trainer = build_trainer(make_cfg("LaFTer"))
    trainer.save_model(0, str(tmp_path / "saved"))
    with pytest.raises(CheckpointError, match="of method 'lafter'"):
        build_trainer(make_cfg()).load_model(str(tmp_path / "saved"))
    with pytest.raises(FileNotFoundError, match="no checkpoint in"):
        trainer.load_model(str(tmp_path / "nothing"))
    with pytest.raises(CheckpointError, match=r"no checkpoint of epoch 7 .* there is model.pth.tar-1"):
        trainer.load_model(str(tmp_path / "saved"), epoch=7)
    (tmp_path / "saved" / "model" / "model.pth.tar-1").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(CheckpointError, match="cannot be read"):
        trainer.load_model(str(tmp_path / "saved"))


SCHEDULES = {
    "cosine": {"LR_SCHEDULER": "cosine"},
    "single_step": {"LR_SCHEDULER": "single_step", "STEPSIZE": (2,), "GAMMA": 0.3},
    "single_step, default size": {"LR_SCHEDULER": "single_step"},
    "multi_step": {"LR_SCHEDULER": "multi_step", "STEPSIZE": (2, 5), "GAMMA": 0.5},
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_are_dassls_own_epoch_by_epoch(name: str):
    optim = get_cfg_default().OPTIM
    optim.merge_from_list([part for pair in {"MAX_EPOCH": 8, "LR": 0.2, **SCHEDULES[name]}.items() for part in pair])
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.2)
    theirs = build_lr_scheduler(optimizer, optim)
    for epoch in range(8):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.2 * epoch_factor(epoch, optim), abs=1e-12)
        optimizer.step()
        theirs.step()
