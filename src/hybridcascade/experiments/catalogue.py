"""All kinds of arena, registered by name. Importing it imports no torch."""

from __future__ import annotations

from hybridcascade.experiments import kinds, picture_kinds

__all__ = ["KINDS"]

KINDS = (kinds.SandboxSpec, picture_kinds.PicturesSpec, picture_kinds.ShiftedPicturesSpec)
"""The specs that are registered when this module is imported."""
