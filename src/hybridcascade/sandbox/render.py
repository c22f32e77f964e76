"""Drawing the sandbox's paintings: attributes in, 64 x 64 pictures out.

All pictures are drawn together: the s-th shape of every picture that has one is computed in a small
window and blended into its canvas, so the Python loop runs over shapes, not pictures.
"""

from __future__ import annotations

from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from hybridcascade.sandbox.world import stream

__all__ = ["SIZE", "Domain", "age", "render"]

SIZE: Final = 64
"""Side of a picture in pixels."""

Domain = Literal["clean", "shifted"]
Floats = NDArray[np.float32]

_REACH: Final = 18  # half side of the window a shape is drawn in, pixels
_CHUNK: Final = 256  # pictures drawn at once: keeps the working set in cache

# Hue (turns) and saturation factor of each palette.
_HUE: Final = np.array([0.135, 0.995, 0.765, 0.575, 0.390, 0.60, 0.065, 0.915], dtype=np.float32)
_SAT: Final = np.array([1.0, 1.0, 0.85, 1.0, 0.95, 0.06, 0.70, 0.60], dtype=np.float32)
_VAL: Final = np.array([1.0, 0.92, 0.90, 0.98, 0.80, 0.80, 0.62, 1.0], dtype=np.float32)
# Per tone (dark, muted, pale, vivid): shape saturation and value, background saturation and value.
_TONE: Final = np.array(
    [(0.85, 0.58, 0.50, 0.09), (0.50, 0.74, 0.14, 0.40), (0.50, 0.90, 0.06, 0.98), (1.0, 1.0, 0.30, 0.80)],
    dtype=np.float32,
)
# Per density (few, some, many, crowded): least and most shapes, least and most radius in pixels.
_COUNT: Final = np.array([(2, 3), (5, 6), (10, 12), (19, 23)])
_RADIUS: Final = np.array([(9.0, 12.5), (7.0, 9.5), (5.0, 6.8), (3.6, 4.9)], dtype=np.float32)
_SOFTNESS: Final = np.array([1.8, 0.40, 0.50], dtype=np.float32)  # edge width in pixels: soft, crisp, ragged


def hsv_to_rgb(h: Floats, s: Floats, v: Floats) -> Floats:
    """Convert hue (turns), saturation and value (0..1) to RGB, `[..., 3]`."""
    k = (np.array([5.0, 3.0, 1.0], dtype=np.float32) + h[..., None] * 6.0) % 6.0
    ramp = np.clip(np.minimum(k, 4.0 - k), 0.0, 1.0)
    rgb: Floats = v[..., None] * (1.0 - s[..., None] * ramp)
    return rgb


def _distance(shape: NDArray[np.int64], u: Floats, v: Floats, r: Floats) -> Floats:
    """Signed distance in pixels to each of the six shapes, negative inside.

    Args:
        shape: shape values `[m]`.
        u: abscissae in the shape's own frame `[m, w, w]`.
        v: ordinates `[m, w, w]`.
        r: radii `[m, 1, 1]`.
    """
    radius = np.sqrt(u * u + v * v)
    box = np.maximum(np.abs(u), np.abs(v))
    result: Floats = np.empty_like(u)
    for value in range(6):
        m = shape == value
        if not m.any():
            continue
        um, vm, rm = u[m], v[m], r[m]
        if value == 0:
            result[m] = radius[m] - rm
        elif value == 1:
            result[m] = box[m] - 0.88 * rm
        elif value == 2:
            side = 0.866 * np.abs(um) + 0.5 * vm
            result[m] = np.maximum(side, -vm) - 0.62 * rm
        elif value == 3:
            result[m] = np.abs(radius[m] - 0.85 * rm) - 0.24 * rm
        elif value == 4:
            result[m] = np.maximum(np.abs(um) - 1.35 * rm, np.abs(vm) - 0.30 * rm)
        else:
            across = np.maximum(np.abs(um) - 1.1 * rm, np.abs(vm) - 0.30 * rm)
            along = np.maximum(np.abs(vm) - 1.1 * rm, np.abs(um) - 0.30 * rm)
            result[m] = np.minimum(across, along)
    return result


class _Plan:
    """All random choices of a set of pictures, each from a stream of its own."""

    def __init__(self, attributes: NDArray[np.int64], seed: int) -> None:
        n, most = len(attributes), int(_COUNT.max())
        self.palette, self.shape, density, self.tone, self.edge = attributes.T
        low, high = _COUNT[density].T
        self.count = low + (stream(seed, 10).random(n) * (high - low + 1)).astype(np.int64)
        small, large = _RADIUS[density].T
        self.radius = small[:, None] + stream(seed, 12).random((n, most), dtype=np.float32) * (large - small)[:, None]
        margin = 0.9 * self.radius[..., None]
        self.center = margin + stream(seed, 11).random((n, most, 2), dtype=np.float32) * (SIZE - 1 - 2 * margin)
        self.angle = stream(seed, 13).random((n, most), dtype=np.float32) * np.float32(2 * np.pi)
        self.jitter = stream(seed, 14).standard_normal((n, most, 3), dtype=np.float32)
        self.background = stream(seed, 15).standard_normal((n, 3), dtype=np.float32)
        self.ragged = stream(seed, 16).random((n, most, 3), dtype=np.float32)


def _backgrounds(plan: _Plan, rows: slice) -> Floats:
    tone, palette, noise = plan.tone[rows], plan.palette[rows], plan.background[rows]
    hue = (_HUE[palette] + 0.02 * noise[:, 0]) % 1.0
    sat = np.clip(_TONE[tone, 2] * (_SAT[palette] + 0.02 * noise[:, 1]), 0, 1)
    val = np.clip(_TONE[tone, 3] + 0.03 * noise[:, 2], 0, 1)
    return hsv_to_rgb(hue, sat, val)


def _draw_chunk(plan: _Plan, rows: slice) -> Floats:
    base = _backgrounds(plan, rows)
    pad = _REACH
    canvas = np.broadcast_to(base[:, None, None], (len(base), SIZE + 2 * pad, SIZE + 2 * pad, 3)).copy()
    grid = np.arange(-_REACH, _REACH + 1)
    count = plan.count[rows]
    for s in range(int(count.max())):
        who = np.flatnonzero(count > s)
        take = who + (rows.start or 0)
        cx, cy = plan.center[take, s].T
        ix, iy = cx.astype(np.int64), cy.astype(np.int64)
        dx = grid[None, None, :] - (cx - ix)[:, None, None]
        dy = grid[None, :, None] - (cy - iy)[:, None, None]
        cos, sin = np.cos(plan.angle[take, s])[:, None, None], np.sin(plan.angle[take, s])[:, None, None]
        u, v = (dx * cos + dy * sin).astype(np.float32), (dy * cos - dx * sin).astype(np.float32)
        r = plan.radius[take, s][:, None, None]
        distance = _distance(plan.shape[take], u, v, r)
        edge = plan.edge[take]
        torn = np.flatnonzero(edge == 2)
        if len(torn):
            f1, f2, phase = (plan.ragged[take[torn], s, i][:, None, None] for i in range(3))
            theta = np.arctan2(v[torn], u[torn])
            wave = np.sin(theta * np.floor(7 + 4 * f1) + 6.3 * phase) + np.sin(theta * np.floor(13 + 6 * f2))
            distance[torn] += np.float32(0.9) * wave
        alpha = 1.0 / (1.0 + np.exp(np.clip(distance / _SOFTNESS[edge][:, None, None], -30, 30)))
        color = _shape_colors(plan, take, s)
        yy = (iy + pad)[:, None, None] + grid[None, :, None]
        xx = (ix + pad)[:, None, None] + grid[None, None, :]
        window = canvas[who[:, None, None], yy, xx]
        canvas[who[:, None, None], yy, xx] = window + alpha[..., None] * (color[:, None, None] - window)
    return canvas[:, pad:-pad, pad:-pad]


def _shape_colors(plan: _Plan, take: NDArray[np.int64], s: int) -> Floats:
    tone, palette, noise = plan.tone[take], plan.palette[take], plan.jitter[take, s]
    hue = (_HUE[palette] + 0.015 * noise[:, 0]) % 1.0
    sat = np.clip(_TONE[tone, 0] * _SAT[palette] + 0.04 * noise[:, 1], 0, 1)
    val = np.clip(_TONE[tone, 1] * _VAL[palette] + 0.05 * noise[:, 2], 0, 1)
    return hsv_to_rgb(hue, sat, val)


class _Wear:
    """How each canvas of a set has aged, drawn once for all of them."""

    def __init__(self, n: int, seed: int) -> None:
        self.seed = seed
        self.strength = stream(seed, 20).random((n, 6), dtype=np.float32)
        self.coarse = stream(seed, 21).standard_normal((n, 8, 8), dtype=np.float32)


def age(pictures: Floats, seed: int, severity: float = 1.0, start: int = 0) -> Floats:
    """Turn clean pictures into aged canvases: fading, colour cast, vignette, texture, noise.

    Args:
        pictures: RGB in 0..1, `[N, 64, 64, 3]`.
        seed: of the random strengths of each picture.
        severity: 0 leaves the pictures as they are, 1 is the sandbox's shifted domain.
        start: row of the first picture in its set, so that chunks draw what the whole would.

    Returns:
        RGB in 0..1, `[N, 64, 64, 3]`.
    """
    return _age_rows(pictures, _Wear(start + len(pictures), seed), severity, start)


def _age_rows(pictures: Floats, wear: _Wear, severity: float, start: int) -> Floats:
    rows = slice(start, start + len(pictures))
    fade, cast, dim, weave, blot, grain = (wear.strength[rows, i, None, None, None] for i in range(6))
    paper = np.array([0.80, 0.73, 0.58], dtype=np.float32)
    varnish = np.array([1.0, 0.86, 0.62], dtype=np.float32)
    x: NDArray[np.floating] = pictures + severity * (0.15 + 0.11 * fade) * (paper - pictures)
    x = x * (1.0 + severity * (0.22 + 0.22 * cast) * (varnish - 1.0))
    line = np.linspace(-1, 1, SIZE, dtype=np.float32)
    far = (line[:, None] ** 2 + line[None, :] ** 2)[None, :, :, None] / 2
    x = x * (1.0 - severity * (0.12 + 0.18 * dim) * far)
    wave = np.sin(np.arange(SIZE, dtype=np.float32) * 2.1)
    x = x + severity * (0.005 + 0.01 * weave) * (wave[:, None] + wave[None, :])[None, :, :, None]
    stains = wear.coarse[rows].repeat(SIZE // 8, axis=1).repeat(SIZE // 8, axis=2)[..., None]
    x = x + severity * (0.005 + 0.01 * blot) * stains
    noise = stream(wear.seed, 22, start).standard_normal(pictures.shape, dtype=np.float32)
    x = x + severity * (0.005 + 0.015 * grain) * noise
    aged: Floats = np.clip(x, 0.0, 1.0).astype(np.float32)
    return aged


def render(
    attributes: NDArray[np.int64], seed: int, domain: Domain = "clean", severity: float = 1.0
) -> NDArray[np.uint8]:
    """Draw pictures.

    Args:
        attributes: values `[N, 5]` in the order of `ATTRIBUTES`.
        seed: of everything the attributes leave open; same seed, same pictures, whatever N.
        domain: `"clean"`, or `"shifted"` for aged canvases.
        severity: strength of the shift, 0 (none) and up; 1 is the sandbox's own.

    Returns:
        RGB pictures, uint8 `[N, 64, 64, 3]`.

    Raises:
        ValueError: unknown domain, or negative severity.
    """
    if domain not in ("clean", "shifted"):
        raise ValueError(f"domain must be 'clean' or 'shifted', got {domain!r}")
    if severity < 0:
        raise ValueError(f"severity must be 0 or more, got {severity}")
    plan = _Plan(attributes, seed)
    wear = _Wear(len(attributes), seed) if domain == "shifted" else None
    out = np.empty((len(attributes), SIZE, SIZE, 3), dtype=np.uint8)
    for first in range(0, len(attributes), _CHUNK):
        rows = slice(first, min(first + _CHUNK, len(attributes)))
        x = _draw_chunk(plan, rows)
        if wear is not None:
            x = _age_rows(x, wear, severity, first)
        out[rows] = np.round(x * 255).astype(np.uint8)
    return out
