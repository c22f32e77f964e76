"""A tiny random CLIP under the name `nano`, and a few real picture files: end to end in seconds."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

VISION = {"layers": 12, "width": 32, "head_width": 16, "patch_size": 16, "image_size": 64}
TEXT = {"layers": 1, "width": 32, "heads": 2, "context_length": 32, "vocab_size": 49408}
CLASSES = ["awe", "fear", "calm joy"]


@pytest.fixture(scope="session")
def tiny_nano(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import open_clip
    import torch
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("nano")
    config = {"embed_dim": 32, "quick_gelu": True, "vision_cfg": VISION, "text_cfg": TEXT}
    (folder / "nano.json").write_text(json.dumps(config))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = open_clip.CLIP(**config)
    state = {k: v.half().contiguous() for k, v in model.state_dict().items() if k != "attn_mask"}
    save_file(state, folder / "nano.safetensors")
    return folder


@pytest.fixture(autouse=True)
def offline_world(tiny_nano: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """`nano` is the tiny model; the user's cache folder is ours."""
    monkeypatch.setattr("hybridcascade.backbone.loading.nano_folder", lambda: tiny_nano)
    cache = str(tmp_path_factory.getbasetemp() / "cache")
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.setenv(name, cache)


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine pictures in three folders named like `CLASSES`, one of which is cut off."""
    root = tmp_path_factory.mktemp("photos")
    draw = np.random.default_rng(0)
    for k, name in enumerate(CLASSES):
        (root / name).mkdir()
        for i in range(3):
            pixels = draw.integers(0, 255, (40 + 10 * i, 60, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{k}{i}.png")
    cut = root / "fear" / "11.png"
    cut.write_bytes(cut.read_bytes()[:200])
    return root


@pytest.fixture(scope="session")
def photos_zip(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("zip") / "photos.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(photos.rglob("*.png")):
            archive.write(file, file.relative_to(photos).as_posix())
    return path
