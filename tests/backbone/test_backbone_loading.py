import json
import shutil
import warnings

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from hybridcascade.backbone import loading
from hybridcascade.backbone.loading import backbone_names, load_backbone, model_names
from hybridcascade.backbone.precision import has_bf16_units, resolve_precision
from hybridcascade.errors import BackboneError, SettingsError, UnknownNameError


def openai_layout(model):
    """OpenAI's storage: matrices in fp16, LayerNorms and embeddings in fp32, and three numbers."""
    open_clip.model.convert_weights_to_lp(model, dtype=torch.float16)
    for name, value in (("input_resolution", 32), ("context_length", 16), ("vocab_size", 49408)):
        if hasattr(model, name):
            delattr(model, name)
        model.register_buffer(name, torch.tensor(value))
    return model


def archive(path, model):
    """Save a TorchScript archive of a model, as OpenAI publishes its weights."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pictures = torch.zeros(1, 3, 32, 32, dtype=model.visual.conv1.weight.dtype)
        traced = torch.jit.trace_module(model, {"encode_image": pictures}, check_trace=False)
        torch.jit.save(traced, path)
    return path


def features(model, pictures):
    with torch.no_grad():
        return model.float().encode_image(pictures)


@pytest.fixture
def openai_archive(new_model, tmp_path):
    return archive(tmp_path / "openai.pt", openai_layout(new_model(quick_gelu=True)))


def test_openai_archive_runs_under_quick_gelu_whatever_the_name_says(openai_archive, new_model, pictures):
    expected = features(openai_layout(new_model(quick_gelu=True)), pictures)
    under_gelu = features(openai_layout(new_model(quick_gelu=False)), pictures)
    for name in ("ViT-tiny", "ViT-tiny-quickgelu"):
        backbone = load_backbone(f"{name}@{openai_archive}", precision="fp32")
        assert backbone.quick_gelu
        torch.testing.assert_close(backbone.encode_image(pictures), expected, atol=1e-5, rtol=1e-4)
        assert (backbone.encode_image(pictures) - under_gelu).abs().max() > 1e-3  # the trap, were it open


def test_openai_archive_equals_open_clip_s_own_loader(new_model, tmp_path, pictures, tiny_configs):
    model = new_model(quick_gelu=True, config=tiny_configs["ViT-tiny-heads64"])
    model.attn_mask = None  # tracing would store it; OpenAI's archives do not have it
    path = archive(tmp_path / "openai.pt", openai_layout(model))
    theirs = open_clip.load_openai_model(str(path), precision="fp32", device="cpu")
    ours = load_backbone(f"ViT-tiny-heads64@{path}", precision="fp32")
    with torch.no_grad():
        assert torch.equal(ours.encode_image(pictures), theirs.eval().encode_image(pictures))


def test_archive_of_a_gelu_model_runs_under_gelu(new_model, tmp_path, pictures):
    path = archive(tmp_path / "gelu.pt", new_model())
    backbone = load_backbone(f"ViT-tiny@{path}", precision="fp32")
    assert not backbone.quick_gelu
    assert torch.equal(backbone.encode_image(pictures), features(new_model(), pictures))
    with pytest.raises(BackboneError, match=r"computes GELU, but 'ViT-tiny-quickgelu' asks for QuickGELU"):
        load_backbone(f"ViT-tiny-quickgelu@{path}")


def save_plain(state, path):
    torch.save(state, path)


def save_trainer(state, path):
    torch.save({"epoch": 3, "name": "run", "state_dict": {f"module.{k}": v for k, v in state.items()}}, path)


def save_compiled(state, path):
    torch.save({"state_dict": {f"module._orig_mod.{k}": v for k, v in state.items()}}, path)


def save_safe(state, path):
    save_file({k: v.contiguous() for k, v in state.items()}, path)


@pytest.mark.parametrize(
    ("save", "ending"),
    [(save_plain, ".pt"), (save_trainer, ".pt"), (save_compiled, ".pth"), (save_safe, ".safetensors")],
)
@pytest.mark.parametrize("quick_gelu", [False, True])
def test_state_dicts_load(save, ending, quick_gelu, new_model, tmp_path, pictures):
    model = new_model(quick_gelu)
    save(model.state_dict(), tmp_path / f"weights{ending}")
    name = "ViT-tiny-quickgelu" if quick_gelu else "ViT-tiny"
    backbone = load_backbone(f"{name}@{tmp_path}/weights{ending}", precision="fp32")
    assert torch.equal(backbone.encode_image(pictures), features(model, pictures))
    assert backbone.logit_scale == pytest.approx(model.logit_scale.exp().item())


def test_half_precision_storage_of_all_tensors_is_no_mark_of_openai(new_model, tmp_path, pictures):
    model = new_model()
    save_safe({k: v.half() for k, v in model.state_dict().items()}, tmp_path / "half.safetensors")
    backbone = load_backbone(f"ViT-tiny@{tmp_path}/half.safetensors", precision="fp32")
    torch.testing.assert_close(backbone.encode_image(pictures), features(model, pictures), atol=5e-3, rtol=1e-2)


def test_separate_text_tower_layout_loads(new_model, tmp_path, pictures, tiny_configs):
    model = new_model()
    folder = tmp_path / "custom"
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": {**tiny_configs["ViT-tiny"], "custom_text": True}})
    )
    save_plain(model.state_dict(), folder / "weights.pt")
    backbone = load_backbone(f"ViT-tiny@{folder}/weights.pt", precision="fp32")
    assert torch.equal(backbone.encode_image(pictures), features(model, pictures))
    plain = loading.load_backbone  # the text feature is the same through both kinds of model
    save_plain(model.state_dict(), tmp_path / "plain.pt")
    texts = ["a calm picture", "an angry one"]
    expected = plain(f"ViT-tiny@{tmp_path}/plain.pt", precision="fp32").encode_text(texts).features
    torch.testing.assert_close(backbone.encode_text(texts).features, expected)


@pytest.mark.parametrize("with_numbers", [True, False])
@pytest.mark.parametrize("save", [save_plain, save_safe])
def test_openai_state_dict_under_gelu_stops_and_says_what_to_write(with_numbers, save, new_model, tmp_path, pictures):
    state = openai_layout(new_model(quick_gelu=True)).state_dict()
    if not with_numbers:
        state = {k: v for k, v in state.items() if v.ndim or "scale" in k}
        assert "input_resolution" not in state
    path = tmp_path / ("openai.pt" if save is save_plain else "openai.safetensors")
    save(state, path)
    with pytest.raises(BackboneError) as caught:
        load_backbone(f"ViT-tiny@{path}")
    assert f"Write ViT-tiny-quickgelu@{path}" in str(caught.value)
    backbone = load_backbone(f"ViT-tiny-quickgelu@{path}", precision="fp32")
    expected = features(openai_layout(new_model(quick_gelu=True)), pictures)
    torch.testing.assert_close(backbone.encode_image(pictures), expected, atol=1e-5, rtol=1e-4)
    # The other way out that the message names: state the activation beside the weights.
    config = {"model_cfg": {**open_clip.get_model_config("ViT-tiny"), "quick_gelu": False}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    assert not load_backbone(f"ViT-tiny@{path}").quick_gelu
    with pytest.raises(BackboneError, match="says GELU, but 'ViT-tiny-quickgelu' asks for QuickGELU"):
        load_backbone(f"ViT-tiny-quickgelu@{path}")


def test_sidecar_states_activation_and_preprocessing(new_model, tmp_path, pictures, tiny_configs):
    model = new_model(quick_gelu=True)
    save_safe(model.state_dict(), tmp_path / "weights.safetensors")
    preprocess = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.2], "interpolation": "bilinear", "resize_mode": "squash"}
    config = {"model_cfg": tiny_configs["ViT-tiny-quickgelu"], "preprocess_cfg": preprocess}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    backbone = load_backbone(f"ViT-tiny@{tmp_path}/weights.safetensors", precision="fp32")
    assert backbone.quick_gelu
    assert torch.equal(backbone.encode_image(pictures), features(model, pictures))
    assert (backbone.mean, backbone.interpolation, backbone.resize_mode) == ((0.5, 0.4, 0.3), "bilinear", "squash")
    (tmp_path / "open_clip_config.json").write_text("{not json")
    with pytest.raises(BackboneError, match=r"cannot read the model config .*open_clip_config\.json"):
        load_backbone(f"ViT-tiny@{tmp_path}/weights.safetensors")
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": open_clip.get_model_config("ViT-B-32")}))
    with pytest.raises(BackboneError, match="describes a tower of width 768, but ViT-tiny has 64"):
        load_backbone(f"ViT-tiny@{tmp_path}/weights.safetensors")


@pytest.mark.parametrize(
    ("model", "tag", "expected"),
    [
        ("ViT-B-32", "openai", True),
        ("ViT-B-32", "laion400m_e32", True),
        ("ViT-B-32", "laion2b_s34b_b79k", False),
        ("ViT-B-16", "laion400m_e32", False),
        ("ViT-B-32-quickgelu", "openai", True),
        ("ViT-L-14", "openai", True),
        ("ViT-L-14", "laion2b_s32b_b82k", False),
    ],
)
def test_activation_follows_the_pretrained_tag(model, tag, expected, monkeypatch, tmp_path):
    """open_clip 3 builds ViT-B-32/openai with GELU and only warns; here the tag's record decides."""
    monkeypatch.setattr(loading.pretrained, "download_pretrained", lambda record: str(tmp_path / "none.pt"))
    assert loading._resolve_tag(f"{model}/{tag}").config["quick_gelu"] is expected


def test_pretrained_tag_loads_what_was_downloaded(monkeypatch, new_model, tmp_path, pictures):
    model = new_model(quick_gelu=True)
    save_safe(model.state_dict(), tmp_path / "open_clip_model.safetensors")
    record = {"url": "", "quick_gelu": True, "mean": (0.1, 0.2, 0.3), "std": (1, 1, 1), "interpolation": "bilinear"}
    monkeypatch.setitem(loading.pretrained._PRETRAINED, "ViT-tiny", {"mine": record})
    monkeypatch.setattr(
        loading.pretrained, "download_pretrained", lambda _: str(tmp_path / "open_clip_model.safetensors")
    )
    backbone = load_backbone("ViT-tiny/mine", precision="fp32")
    assert torch.equal(backbone.encode_image(pictures), features(model, pictures))
    assert backbone.quick_gelu
    assert backbone.mean == (0.1, 0.2, 0.3)
    assert backbone.resize_mode == "shortest"
    assert "ViT-tiny/mine" in backbone_names()


def test_hub_names_follow_the_hub_s_config(monkeypatch, new_model, tmp_path, pictures, tiny_configs):
    model = new_model(quick_gelu=True)
    save_safe(model.state_dict(), tmp_path / "weights.safetensors")
    config = {"model_cfg": tiny_configs["ViT-tiny-quickgelu"], "preprocess_cfg": {"resize_mode": "squash"}}
    monkeypatch.setattr(loading.factory, "_get_hf_config", lambda repository: config)
    monkeypatch.setattr(
        loading.pretrained, "download_pretrained_from_hf", lambda r: str(tmp_path / "weights.safetensors")
    )
    backbone = load_backbone("hf-hub:someone/tiny", precision="fp32")
    assert torch.equal(backbone.encode_image(pictures), features(model, pictures))
    assert backbone.resize_mode == "squash"


def test_failed_downloads_say_what_to_do(monkeypatch):
    def offline(*_):
        raise OSError("no route to host\nlong trace")

    monkeypatch.setattr(loading.pretrained, "download_pretrained", offline)
    monkeypatch.setattr(loading.factory, "_get_hf_config", offline)
    for name in ("ViT-B-32/openai", "hf-hub:someone/something"):
        with pytest.raises(BackboneError, match=r"no route to host\. Without network, load a local file: MODEL@FILE"):
            load_backbone(name)


@pytest.mark.parametrize(
    ("name", "nearest", "listed"),
    [
        ("nanno", "nano", "ViT-B-32"),
        ("ViT-B32/openai", "ViT-B-32", "ViT-L-14"),
        ("ViT-B-32/openia", "ViT-B-32/openai", "ViT-B-32/laion2b_s34b_b79k"),
        ("ViT-B-32", "ViT-B-32/", "ViT-B-32/openai"),
        ("ViT-B-33@weights.pt", "ViT-B-32", "ViT-L-14"),
        ("RN50/openai", "", "ViT-B-16"),
    ],
)
def test_unknown_names_list_the_valid_ones_and_the_nearest(name, nearest, listed):
    with pytest.raises(UnknownNameError) as caught:
        load_backbone(name)
    message = str(caught.value)
    assert "Did you mean" in message or not nearest
    assert nearest in message.split("Valid:")[0]
    assert listed in message.split("Valid:")[1]


def test_listed_models_are_vision_transformers():
    names = model_names()
    assert {"ViT-B-32", "ViT-B-16", "ViT-L-14", "ViT-L-14-quickgelu"} <= set(names)
    assert not {"RN50", "coca_ViT-B-32", "ViT-B-16-SigLIP"} & set(names)
    assert backbone_names()[0] == "nano"
    assert "ViT-B-32/openai" in backbone_names()


def test_old_spelling_with_a_slash(monkeypatch, tmp_path):
    monkeypatch.setattr(loading.pretrained, "download_pretrained", lambda record: str(tmp_path / "none.pt"))
    assert loading._resolve_tag("ViT-B/32/openai").config["vision_cfg"]["patch_size"] == 32
    with pytest.raises(UnknownNameError, match="A tag is missing"):
        load_backbone("ViT-B/32")


def test_missing_and_damaged_files_are_named(tiny_file, openai_archive, tmp_path, new_model):
    with pytest.raises(BackboneError, match=r"no weights file at .*absent\.pt"):
        load_backbone(f"ViT-tiny@{tmp_path}/absent.pt")
    plain = tmp_path / "plain.pt"
    save_plain(new_model().state_dict(), plain)
    for source in (tiny_file, openai_archive, plain):
        damaged = tmp_path / f"damaged{source.suffix}"
        damaged.write_bytes(source.read_bytes()[: source.stat().st_size // 2])
        with pytest.raises(BackboneError, match=f"cannot read weights from .*{damaged.name}"):
            load_backbone(f"ViT-tiny@{damaged}")
    for content in (b"", b"hello", b"\x80\x04K\x01."):
        (tmp_path / "odd.pt").write_bytes(content)
        with pytest.raises(BackboneError, match=r"odd\.pt"):
            load_backbone(f"ViT-tiny@{tmp_path}/odd.pt")


class Evil:
    def __reduce__(self):
        import os

        return os.mkdir, (Evil.path,)


def test_pickles_run_no_code(tmp_path):
    Evil.path = str(tmp_path / "executed")
    torch.save({"state_dict": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(BackboneError, match=r"evil\.pt"):
        load_backbone(f"ViT-tiny@{tmp_path}/evil.pt")
    assert not (tmp_path / "executed").exists()


def test_weights_of_another_model_are_refused(tiny_file, tmp_path, new_model):
    with pytest.raises(BackboneError, match="do not fit 'ViT-tiny-heads64@"):
        load_backbone(f"ViT-tiny-heads64@{tiny_file}")
    save_plain({"layer.weight": torch.zeros(2)}, tmp_path / "other.pt")
    with pytest.raises(BackboneError, match=r"visual\.conv1\.weight' is missing"):
        load_backbone(f"ViT-tiny@{tmp_path}/other.pt")
    save_plain([1, 2], tmp_path / "list.pt")
    with pytest.raises(BackboneError, match="holds list, expected a dictionary"):
        load_backbone(f"ViT-tiny@{tmp_path}/list.pt")
    state = new_model().state_dict()
    del state["visual.transformer.resblocks.3.ln_1.weight"]
    save_plain(state, tmp_path / "short.pt")
    with pytest.raises(BackboneError, match=r"do not fit .* Missing key.*resblocks\.3\.ln_1\.weight"):
        load_backbone(f"ViT-tiny@{tmp_path}/short.pt")


def test_nano_loads_from_the_package_folder(monkeypatch, tiny_file, tiny_configs, tmp_path, pictures):
    monkeypatch.setattr(loading, "nano_folder", lambda: tmp_path)
    with pytest.raises(BackboneError, match=r"nano\.json"):
        load_backbone("nano")
    (tmp_path / "nano.json").write_text(json.dumps(tiny_configs["ViT-tiny-quickgelu"]))
    with pytest.raises(BackboneError, match=r"nano\.safetensors"):
        load_backbone("nano")
    shutil.copy(tiny_file, tmp_path / "nano.safetensors")
    backbone = load_backbone("nano", precision="fp32")
    same = load_backbone(f"ViT-tiny-quickgelu@{tiny_file}", precision="fp32")
    assert backbone.quick_gelu
    assert torch.equal(backbone.encode_image(pictures), same.encode_image(pictures))
    assert backbone.weights_hash == same.weights_hash


def test_nano_s_architecture_takes_other_weights_from_a_file(monkeypatch, tiny_file, tiny_configs, tmp_path, pictures):
    monkeypatch.setattr(loading, "nano_folder", lambda: tmp_path)
    (tmp_path / "nano.json").write_text(json.dumps(tiny_configs["ViT-tiny-quickgelu"]))
    backbone = load_backbone(f"nano@{tiny_file}", precision="fp32")
    same = load_backbone(f"ViT-tiny-quickgelu@{tiny_file}", precision="fp32")
    assert backbone.quick_gelu
    assert torch.equal(backbone.encode_image(pictures), same.encode_image(pictures))


def test_nano_folder_is_in_the_package():
    assert loading.nano_folder().parts[-3:] == ("hybridcascade", "sandbox", "nano")


def test_weights_hash_follows_the_weights_not_the_precision(load_tiny, new_model, tmp_path):
    hashes = {load_tiny(precision).weights_hash for precision in ("fp32", "bf16", "fp16")}
    assert len(hashes) == 1
    assert len(hashes.pop()) == 64
    state = new_model().state_dict()
    state["ln_final.weight"][0] += 1e-3  # a text weight alone must show
    save_plain(state, tmp_path / "changed.pt")
    assert load_backbone(f"ViT-tiny@{tmp_path}/changed.pt").weights_hash != load_tiny().weights_hash


def test_loading_leaves_the_global_random_state(load_tiny):
    state = torch.random.get_rng_state()
    load_tiny()
    assert torch.equal(torch.random.get_rng_state(), state)


def test_precisions(monkeypatch, load_tiny):
    assert load_tiny("auto").precision == ("bf16" if has_bf16_units() else "fp32")
    for probe in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.setattr(torch.cpu, probe, lambda: False, raising=False)
    assert not has_bf16_units()
    assert resolve_precision("auto") == "fp32"
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True, raising=False)
    assert resolve_precision("auto") == "bf16"
    for probe in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.delattr(torch.cpu, probe)
    assert not has_bf16_units()  # another torch: no probe, no promise
    assert not has_bf16_units("mps")
    with pytest.raises(UnknownNameError, match=r"Did you mean 'fp16'\?.*auto, fp32, bf16, fp16"):
        resolve_precision("fp-16")
    if not torch.cuda.is_available():
        with pytest.raises(SettingsError, match="torch finds no CUDA device"):
            resolve_precision("auto", "cuda")
