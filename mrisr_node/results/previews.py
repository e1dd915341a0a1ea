"""Small pictures of a result for its page: three planes, as acquired and as it is now."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mrisr_node.results.values import Window
from mrisr_node.volumes.geometry import Volume

__all__ = ["PLANES", "SIDES", "Plane", "Side", "write_previews"]

Plane = Literal["in-plane", "across-rows", "across-columns"]
Side = Literal["acquired", "result"]

PLANES: tuple[Plane, ...] = get_args(Plane)
SIDES: tuple[Side, ...] = get_args(Side)

_PIXELS = 320  # the longer side
# Which axis of (column, row, slice) a picture is across.
_ACROSS: dict[Plane, int] = {"in-plane": 2, "across-columns": 0, "across-rows": 1}


def write_previews(
    folder: Path, acquired: Volume, result: Volume, mask: NDArray[np.bool_], window: Window
) -> None:
    """Write ``PLANE-SIDE.png`` for each plane and side, through the middle of the brain.

    Parameters
    ----------
    folder
        Where they go.
    acquired, result
        Axes (column, row, slice), over the same field of view, in the same intensities. An acquired
        slice is drawn as thick as it is: nothing is interpolated.
    mask
        Brain, on the grid of ``acquired``.
    window
        How intensities become grey.
    """
    middle = _middle(mask)
    for plane, axis in _ACROSS.items():
        for side, volume in zip(SIDES, (acquired, result), strict=True):
            place = (middle[axis] + 0.5) / mask.shape[axis]  # part of the way through
            index = min(int(place * volume.data.shape[axis]), volume.data.shape[axis] - 1)
            picture = _grey(np.take(volume.data, index, axis=axis), window)
            spacing = np.delete(np.array(volume.spacing), axis)
            _image(picture, spacing, upright=axis == 2).save(folder / f"{plane}-{side}.png")


def _middle(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the middle of a mask as an index; of its grid where it is empty."""
    if not mask.any():
        return np.array(mask.shape) / 2
    return np.array([np.median(places) for places in np.nonzero(mask)])


def _grey(plane: NDArray[np.float32], window: Window) -> NDArray[np.uint8]:
    low = window.center - window.width / 2
    grey: NDArray[np.uint8] = np.clip(255 * (plane - low) / window.width, 0, 255).astype(np.uint8)
    return grey


def _image(picture: NDArray[np.uint8], spacing: NDArray[np.float64], upright: bool) -> Image.Image:
    """Draw (x, y) with square pixels; slices go upwards, rows of an acquired image downwards."""
    rows = picture.T if upright else picture.T[::-1]
    size = np.array(picture.shape) * spacing
    width, height = (max(1, round(v)) for v in size * _PIXELS / size.max())
    return Image.fromarray(np.ascontiguousarray(rows)).resize(
        (width, height), Image.Resampling.NEAREST
    )
