"""Small pictures of a result for its page: three planes, as acquired and as it is now."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeVar, get_args

import numpy as np
from nibabel.orientations import (
    apply_orientation,
    axcodes2ornt,
    io_orientation,
    ornt_transform,
)
from numpy.typing import NDArray
from PIL import Image

from mrisr_node.results.values import Window
from mrisr_node.volumes.geometry import Volume

__all__ = ["PLANES", "SIDES", "Plane", "Side", "write_previews"]

_Values = TypeVar("_Values", bound=np.generic)

Plane = Literal["axial", "coronal", "sagittal"]
Side = Literal["acquired", "result"]

PLANES: tuple[Plane, ...] = get_args(Plane)
SIDES: tuple[Side, ...] = get_args(Side)

_PIXELS = 320  # the longer side
# Of a volume whose axes run to L, P and H: which axis each picture is across.
_ACROSS: dict[Plane, int] = {"axial": 2, "coronal": 1, "sagittal": 0}
_LPS = axcodes2ornt("LPS")  # type: ignore[no-untyped-call]


def write_previews(
    folder: Path, acquired: Volume, result: Volume, mask: NDArray[np.bool_], window: Window
) -> None:
    """Write ``PLANE-SIDE.png`` for each plane and side, through the middle of the brain.

    They lie as radiologists look at them: the patient's right, or front in sagittal ones, is on the
    left. Of an oblique volume each shows the plane of its own that is nearest.

    Parameters
    ----------
    folder
        Where they go.
    acquired, result
        Over the same field of view, in the same intensities, their axes in one order. An acquired
        slice is drawn as thick as it is: nothing is interpolated.
    mask
        Brain, on the grid of ``acquired``.
    window
        How intensities become grey.
    """
    middle = _middle(_as_looked_at(mask, acquired))
    for side, volume in zip(SIDES, (acquired, result), strict=True):
        data = _as_looked_at(volume.data, volume)
        order = np.argsort(_turn(volume)[:, 0])
        spacing = np.array(volume.spacing)[order]
        for plane, axis in _ACROSS.items():
            index = min(int(middle[axis] * data.shape[axis]), data.shape[axis] - 1)
            picture = _grey(np.take(data, index, axis=axis), window)
            if plane != "axial":
                picture = picture[:, ::-1]  # the head is on top
            _image(picture, np.delete(spacing, axis)).save(folder / f"{plane}-{side}.png")


def _turn(volume: Volume) -> NDArray[np.float64]:
    """Return what nibabel needs to make the axes of a volume run to L, P and H."""
    found: NDArray[np.float64] = ornt_transform(io_orientation(volume.affine), _LPS)  # type: ignore[no-untyped-call]
    return found


def _as_looked_at(data: NDArray[_Values], volume: Volume) -> NDArray[_Values]:
    """Return voxels of the grid of `volume` with axes that run to L, P and H."""
    turned: NDArray[_Values] = apply_orientation(data, _turn(volume))  # type: ignore[no-untyped-call]
    return turned


def _middle(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the middle of a mask, as parts of the way along its axes; of its grid if empty."""
    if not mask.any():
        return np.full(3, 0.5)
    places = np.array([np.median(indices) for indices in np.nonzero(mask)])
    return np.asarray((places + 0.5) / mask.shape)


def _grey(plane: NDArray[np.float32], window: Window) -> NDArray[np.uint8]:
    low = window.center - window.width / 2
    grey: NDArray[np.uint8] = np.clip(255 * (plane - low) / window.width, 0, 255).astype(np.uint8)
    return grey


def _image(picture: NDArray[np.uint8], spacing: NDArray[np.float64]) -> Image.Image:
    """Draw (x, y) with square pixels."""
    size = np.array(picture.shape) * spacing
    width, height = (max(1, round(v)) for v in size * _PIXELS / size.max())
    return Image.fromarray(np.ascontiguousarray(picture.T)).resize(
        (width, height), Image.Resampling.NEAREST
    )
