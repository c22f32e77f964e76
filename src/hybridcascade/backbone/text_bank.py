"""Texts to unit vectors, encoded in batches and kept on disk under a key that hashes all that made them."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from hybridcascade.backbone.clip import ClipBackbone

__all__ = ["TextBank"]

_log = logging.getLogger(__name__)


class TextBank:
    """Encodes texts, and remembers what it encoded.

    Args:
        backbone: its text tower is needed only for texts that are not in the cache.
        cache_dir: folder of cache files, made when needed; None for no cache.
        batch_size: texts encoded at once.

    Attributes:
        truncated: texts of the last `encode` call that were longer than the tower's context.
    """

    def __init__(self, backbone: ClipBackbone, cache_dir: Path | None, batch_size: int = 256) -> None:
        self._backbone = backbone
        self._cache_dir = Path(cache_dir) if cache_dir is not None else None
        self._batch_size = batch_size
        self.truncated = 0

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Encode texts.

        Args:
            texts: T texts.

        Returns:
            Unit vectors, float32 `[T, E]`, on the backbone's device.

        Raises:
            BackboneError: texts that are not in the cache, and the text tower was dropped.
        """
        path = self._cache_dir / f"{self.key(texts)}.safetensors" if self._cache_dir is not None else None
        found = self._read(path, len(texts)) if path is not None else None
        if found is None:
            encoded = self._backbone.encode_text(texts, self._batch_size)
            found = F.normalize(encoded.features, dim=-1), encoded.truncated
            if path is not None:
                self._write(path, *found)
        features, self.truncated = found
        if self.truncated:
            _log.warning(
                "%d of %d texts are longer than the text tower reads; their ends are lost", found[1], len(texts)
            )
        return features.to(self._backbone.device)

    def key(self, texts: Sequence[str]) -> str:
        """SHA-256 (hex) of the texts, the tokenizer, the weights and the precision."""
        made_of = [list(texts), self._backbone.tokenizer_id, self._backbone.weights_hash, self._backbone.precision]
        return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()

    def _read(self, path: Path, count: int) -> tuple[Tensor, int] | None:
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                features, meta = file.get_tensor("features"), file.metadata() or {}
            if features.shape != (count, self._backbone.embed_dim) or meta.get("sha256") != _digest(features):
                raise ValueError("its content does not match its checksum")
            return features, int(meta["truncated"])
        except (SafetensorError, OSError, ValueError, KeyError) as error:
            _log.warning("the text cache file %s is damaged (%s); it is rebuilt", path, error)
            return None

    def _write(self, path: Path, features: Tensor, truncated: int) -> None:
        features = features.cpu().contiguous()
        temporary = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".text-", suffix=".tmp")
            os.close(handle)
            metadata = {"truncated": str(truncated), "sha256": _digest(features)}
            save_file({"features": features}, temporary, metadata=metadata)
            os.replace(temporary, path)
        except (OSError, SafetensorError) as error:
            # A cache only saves time: a full or read-only disk must not end the run.
            _log.warning("cannot write the text cache file %s: %s", path, error)
            if temporary is not None:
                Path(temporary).unlink(missing_ok=True)


def _digest(features: Tensor) -> str:
    return hashlib.sha256(features.cpu().contiguous().numpy().tobytes()).hexdigest()
