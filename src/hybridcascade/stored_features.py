"""The heads phase, put together: one pass of the frozen tower over all pictures, kept, and loaded in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from hybridcascade.backbone.clip import ClipBackbone
from hybridcascade.backbone.stored import FeatureLayout
from hybridcascade.data.loaders import image_loader
from hybridcascade.data.pictures import PictureSource
from hybridcascade.data.stored import stored_image_loader, stored_loader
from hybridcascade.data.views import PlainView
from hybridcascade.engine.feature_store import FeatureStore, FeatureTable, feature_key, features_of
from hybridcascade.engine.run import StoredData
from hybridcascade.engine.state import checksum
from hybridcascade.methods.base import FeatureNeeds
from hybridcascade.methods.parts import mild_views

__all__ = ["feature_layout", "feature_table", "stored_data", "view_features"]

_FORMAT = 1  # of what is stored: part of the key, so that a change makes new files
_PICTURES = 64  # in a forward pass without gradients, which all views of a picture go through
_ROWS = 1024  # stored rows that the hooks get at once


def feature_layout(backbone: ClipBackbone, needs: FeatureNeeds) -> FeatureLayout:
    """Return the layout of the features that a method needs of this tower."""
    down, across = backbone.patch_grid
    return FeatureLayout(
        taps=needs.taps,
        width=backbone.width,
        embed_dim=backbone.embed_dim,
        patch_mean=needs.patch_mean,
        patches=down * across if needs.patches else 0,
    )


def view_features(backbone: ClipBackbone, needs: FeatureNeeds) -> Callable[[Tensor], Tensor]:
    """Return the function that turns pictures `[B, 3, H, W]` into the features `[B, V, F]` that a method needs."""
    layout = feature_layout(backbone, needs)

    def compute(images: Tensor) -> Tensor:
        rows = [
            layout.pack(backbone.forward_taps(view, needs.taps, patch_mean=needs.patch_mean, patches=needs.patches))
            for view in mild_views(images, needs.views)
        ]
        return torch.stack(rows, dim=1)

    return compute


def feature_table(
    backbone: ClipBackbone,
    needs: FeatureNeeds,
    source: PictureSource,
    view: PlainView,
    store: FeatureStore,
    device: torch.device,
    workers: int = 0,
) -> FeatureTable:
    """Return the features of all pictures; they are computed, or found in the store, when first read.

    Features are stored in float32 where the tower computes in float32, else in float16, which holds more digits
    than the bfloat16 they were computed with.

    Args:
        backbone: as loaded; moved to `device` when the features are computed.
        needs: what to store.
        source: the pictures, N of them.
        view: the plain view.
        store: where features are kept.
        device: where to compute.
        workers: decoding processes.

    Raises:
        SettingsError: they would be larger than the store allows.
    """
    layout = feature_layout(backbone, needs)
    bare = source.unlabeled()

    def fill() -> Iterator[tuple[Tensor, Tensor]]:
        backbone.to(device)
        batches = image_loader(bare, view, _PICTURES, workers=workers)
        yield from features_of(batches, view_features(backbone, needs), device)

    dtype = torch.float32 if backbone.compute_dtype == torch.float32 else torch.float16
    shape = (len(bare), needs.views, layout.size)
    key = "" if store.folder is None else _key(backbone, needs, layout, bare, view)
    return store.table(key, shape, dtype, fill)


def stored_data(
    table: FeatureTable, ids: tuple[str, ...], batch_size: int, seed: int, targets: Tensor | None = None
) -> StoredData:
    """Return the loaders of stored features for the heads phase.

    Args:
        table: features of N pictures.
        ids: their sample ids.
        batch_size: pictures a step.
        seed: of order and choice of views.
        targets: distributions `[N, K]`, zeros where a row has none, or None.
    """
    views = table.shape[1]
    return StoredData(
        stored_loader(table.rows, ids, views, batch_size, seed, targets),
        stored_image_loader(table.rows, ids, views, _ROWS),
    )


def _key(
    backbone: ClipBackbone, needs: FeatureNeeds, layout: FeatureLayout, source: PictureSource, view: PlainView
) -> str:
    """Everything that decides the features; a tower whose LayerNorms were tuned has a key of its own."""
    parameters = dict(backbone.named_parameters())
    plain: dict[str, Any] = {name: value for name, value in vars(view).items() if not callable(value)}
    return feature_key(
        {
            "format": _FORMAT,
            "pictures": source.fingerprint(exact=True),
            "weights": backbone.weights_hash,
            "input": [checksum(backbone.input_scale), checksum(backbone.input_shift)],
            "layer_norms": [checksum(parameters[name]) for name in backbone.layer_norm_names()],
            "precision": backbone.precision,
            "layout": layout.describe(),
            "views": needs.views,
            "plain_view": repr(sorted(plain.items())),
        }
    )
