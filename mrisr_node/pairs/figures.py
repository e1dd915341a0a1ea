"""A picture of a pair, for looking at: high resolution on the left, low on the right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from mrisr_node.volumes.geometry import FloatArray, Volume

__all__ = ["write_figure"]

_PIXELS_PER_MM = 1.6
_CAPTION = 18
_GREY = 200
# What is drawn, as radiologists expect it, and the axis across.
_VIEWS = (
    ("axial, right on the left", 2),
    ("coronal, right on the left", 1),
    ("sagittal, anterior on the left", 0),
)


def write_figure(
    path: Path, high: Volume, low: Volume, mask: NDArray[np.bool_], axis: int, words: str
) -> None:
    """Write a PNG of three planes through the middle of the brain.

    Parameters
    ----------
    high, low
        Of one field of view, different along ``axis`` only. A thick slice is drawn as thick as it
        is, at its place; where there is none, it is black.
    mask
        Brain, on the grid of ``high``.
    words
        What the low resolution is.
    """
    shown = _on_grid(low, high, axis)
    white = float(np.percentile(high.data[mask], 99.5)) if mask.any() else 1.0
    middle = [int(np.median(places)) for places in np.nonzero(mask)] if mask.any() else [0, 0, 0]
    rows = []
    for _, across in _VIEWS:
        spacing = [size for index, size in enumerate(high.spacing) if index != across]
        pictures = [
            _picture(np.take(data, middle[across], axis=across), spacing, white)
            for data in (high.data, shown)
        ]
        rows.append(np.hstack(pictures))
    width = max(row.shape[1] for row in rows)
    rows = [np.pad(row, [(0, 0), (0, width - row.shape[1])]) for row in rows]
    whole = Image.fromarray(np.pad(np.vstack(rows), [(_CAPTION, 0), (0, 0)]))
    draw = ImageDraw.Draw(whole)
    draw.text((4, 2), "high resolution", fill=_GREY)
    draw.text((rows[0].shape[1] // 2 + 4, 2), words, fill=_GREY)
    top = _CAPTION
    for (name, _), row in zip(_VIEWS, rows, strict=True):
        draw.text((4, top + 4), name, fill=_GREY)
        top += row.shape[0]
    whole.save(path, format="PNG")


def _on_grid(low: Volume, high: Volume, axis: int) -> FloatArray:
    """Return the thick slices on the thin ones' grid, each repeated; 0 where there is none."""
    to_low = np.linalg.inv(low.affine) @ high.affine
    places = to_low[axis, axis] * np.arange(high.data.shape[axis]) + to_low[axis, 3]
    nearest = np.rint(places).astype(int)
    there = (nearest >= 0) & (nearest < low.data.shape[axis])
    taken = np.take(low.data, np.clip(nearest, 0, low.data.shape[axis] - 1), axis=axis)
    shape = [1, 1, 1]
    shape[axis] = -1
    return np.asarray(taken * there.reshape(shape), dtype=np.float32)


def _picture(plane: FloatArray, spacing: list[float], white: float) -> NDArray[np.uint8]:
    """Draw (x, y) of RAS with square pixels, both running towards the picture's top left."""
    grey = np.clip(255 * plane / white, 0, 255).astype(np.uint8)
    width, height = (
        max(1, round(n * size * _PIXELS_PER_MM))
        for n, size in zip(grey.shape, spacing, strict=True)
    )
    image = Image.fromarray(np.ascontiguousarray(grey[::-1, ::-1].T))
    return np.asarray(image.resize((width, height), Image.Resampling.NEAREST))
