"""Run a tuned method over pictures, in order, batch by batch; a picture that cannot be read becomes an error row."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from hybridcascade.data.sources import PictureSource, open_pictures, open_source
from hybridcascade.errors import PictureError
from hybridcascade.methods.base import Method
from hybridcascade.predictions import Predictions
from hybridcascade.types import Prediction

__all__ = ["collect_pictures", "pick_device", "predict_pictures", "stream_pictures"]

logger = logging.getLogger(__name__)

_Cell = tuple[Tensor | None, str | None]


def pick_device(name: str) -> torch.device:
    """Return the device that `name` means; `auto` is CUDA, then Apple's MPS, then the CPU."""
    if name != "auto":
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def collect_pictures(inputs: Any, allow_outside: bool = False) -> PictureSource:
    """Turn what `predict` accepts into one source with unique ids, in the order of the input.

    Args:
        inputs: a path (picture, folder, zip, manifest), a Pillow picture, a uint8 array `[H, W, 3]` or
            `[N, H, W, 3]`, a `PictureSource`, or a list that mixes paths, pictures and arrays `[H, W, 3]`.
        allow_outside: a manifest, given alone, may point to pictures outside its own folder.

    Raises:
        DataError: nothing there, no picture, a wrong type, or an id twice.
    """
    if isinstance(inputs, PictureSource):
        return inputs.unlabeled()
    if isinstance(inputs, np.ndarray):
        return open_pictures(list(inputs) if inputs.ndim == 4 else [inputs])
    if isinstance(inputs, Iterable) and not isinstance(inputs, str | PathLike):
        inputs = list(inputs)
        inputs = inputs[0] if len(inputs) == 1 and isinstance(inputs[0], str | PathLike) else inputs
    if allow_outside and isinstance(inputs, str | PathLike):
        return open_source(inputs, allow_outside=True, form="none").unlabeled()
    return open_pictures(inputs)


class _Cells(Dataset[_Cell]):
    """Decoded pictures or the reason why not; an exception in a worker would end the whole loop."""

    def __init__(self, source: PictureSource, view: Callable[..., Tensor], strict: bool) -> None:
        self.source, self.view, self.strict = source, view, strict

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, row: int) -> _Cell:
        try:
            return self.view(self.source.open(row)), None
        except (PictureError, OSError) as error:
            if self.strict:
                raise
            return None, str(error)


@dataclass(frozen=True)
class _Part:
    probabilities: NDArray[np.float32]
    errors: tuple[str | None, ...]
    stages: NDArray[np.float32] | None
    weights: NDArray[np.float32] | None


def stream_pictures(
    method: Method,
    view: Callable[..., Tensor],
    source: PictureSource,
    classes: tuple[str, ...],
    batch_size: int = 64,
    workers: int = 0,
    strict: bool = False,
    device: torch.device | str = "cpu",
    temperature: float = 1.0,
) -> Iterator[Predictions]:
    """Yield the predictions of one batch after another, so that memory does not grow with the number of pictures.

    Args:
        method: what predicts; moved to `device` and set to evaluation.
        view: PIL picture -> normalised tensor `[3, H, W]`.
        source: the pictures to predict.
        classes: class names, K of them.
        batch_size: pictures in a forward pass.
        workers: decoding processes.
        strict: raise at the first picture that cannot be read.
        device: where to compute.
        temperature: of a calibrated model, above 0; scores are divided by it, those of stages are not.

    Raises:
        PictureError: a picture cannot be read and `strict` is set.
    """
    method = method.to(device).eval()
    loader: DataLoader[_Cell] = DataLoader(
        _Cells(source, view, strict),
        batch_size=batch_size,
        num_workers=workers,
        collate_fn=list,
    )
    start = 0
    for cells in loader:
        began = time.perf_counter()
        ids = source.ids[start : start + len(cells)]
        part = _predict_cells(method, cells, len(classes), device, temperature)
        start += len(cells)
        for name, error in zip(ids, part.errors, strict=True):
            if error:
                logger.warning("%s", error if name in error else f"{name}: {error}")
        yield Predictions(
            ids, classes, part.probabilities, part.errors, part.stages, part.weights, time.perf_counter() - began
        )


def predict_pictures(
    method: Method, view: Callable[..., Tensor], source: PictureSource, classes: tuple[str, ...],
    batch_size: int = 64, workers: int = 0, strict: bool = False, device: torch.device | str = "cpu",
    temperature: float = 1.0,
) -> Predictions:  # fmt: skip
    """Predict all pictures at once: the parts of `stream_pictures` put together, with the whole time."""
    began = time.perf_counter()
    parts = list(stream_pictures(method, view, source, classes, batch_size, workers, strict, device, temperature))
    return Predictions(
        ids=tuple(i for part in parts for i in part.ids),
        classes=classes,
        probabilities=np.concatenate([part.probabilities for part in parts]),
        errors=tuple(e for part in parts for e in part.errors),
        stage_probabilities=_join([(part.stage_probabilities, len(part)) for part in parts]),
        stage_weights=_join([(part.stage_weights, len(part)) for part in parts]),
        seconds=time.perf_counter() - began,
    )


def _predict_cells(
    method: Method, cells: list[_Cell], count: int, device: torch.device | str, temperature: float
) -> _Part:
    good = [row for row, (image, _) in enumerate(cells) if image is not None]
    errors = tuple(error for _, error in cells)
    if not good:
        return _Part(np.full((len(cells), count), np.nan, np.float32), errors, None, None)
    images = torch.stack([image for image, _ in cells if image is not None])
    with torch.inference_mode():
        prediction = method(images.to(device))
    stages = None if prediction.stage_logits is None else prediction.stage_logits.float().softmax(dim=-1)
    return _Part(
        _scatter((prediction.logits.float() / temperature).softmax(dim=-1), good, len(cells)),
        errors,
        None if stages is None else _scatter(stages, good, len(cells)),
        _scatter_weights(prediction, good, len(cells)),
    )


def _scatter(values: Tensor, rows: list[int], count: int) -> NDArray[np.float32]:
    """Put `values` into their rows of `count`; NaN elsewhere."""
    filled = np.full((count, *values.shape[1:]), np.nan, np.float32)
    filled[rows] = values.detach().float().cpu().numpy()
    return filled


def _scatter_weights(prediction: Prediction, rows: list[int], count: int) -> NDArray[np.float32] | None:
    weights = prediction.stage_weights
    if weights is None:
        return None
    return _scatter(weights if weights.ndim == 2 else weights.expand(len(rows), -1), rows, count)


def _join(parts: list[tuple[NDArray[np.float32] | None, int]]) -> NDArray[np.float32] | None:
    """Concatenate; a batch without a readable picture (None) becomes NaN rows of the others' shape."""
    shapes = {part.shape[1:] for part, _ in parts if part is not None}
    if not shapes:
        return None
    shape = shapes.pop()
    return np.concatenate(
        [np.full((count, *shape), np.nan, np.float32) if part is None else part for part, count in parts]
    )
