"""A tiny random CLIP under the name `nano`, and a tiny recipe."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.api.conftest import tiny_nano  # noqa: F401  (a fixture)

RECIPE = """
method: hybrid_cascade
backbone: nano
image: {epochs: 1, batch_size: 20}
settings: {teacher_views: 1, predict_views: 1}
arena: {kind: sandbox, train_pictures: 24, test_pictures: 40}
methods:
  text_only: {text: {epochs: 2}}
  lafter: {text: {epochs: 2}, image: {epochs: 1, batch_size: 12}}
  on_votes: {method: hybrid_cascade, targets: votes}
components:
  sigma_2: {settings: {sigma: 2.0}, why: a wider Gaussian}
"""


@pytest.fixture
def offline_nano(tiny_nano: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:  # noqa: F811
    """`nano` is the tiny model; the user's cache folder is ours."""
    monkeypatch.setattr("hybridcascade.backbone.loading.nano_folder", lambda: tiny_nano)
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.setenv(name, str(tmp_path / "cache"))
    return tiny_nano


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(RECIPE)
    return path
