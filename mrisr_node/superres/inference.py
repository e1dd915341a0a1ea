"""Super-resolve one volume: thick slices in, thin slices and a measure of their fidelity out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from typing import cast

import numpy as np
import torch
from monai.inferers.utils import sliding_window_inference
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from mrisr_node.superres.checkpoints import Checkpoint
from mrisr_node.superres.fidelity import Fidelity, measure
from mrisr_node.superres.interpolation import cubic_matrix
from mrisr_node.superres.networks import conditions
from mrisr_node.superres.operators import build_operators
from mrisr_node.superres.restoration import TorchOperators, fold, restore
from mrisr_node.volumes.degradation import (
    MINIMUM_SPACING_MM,
    Positions,
    SliceStack,
    along_last_axis,
    degradation_matrix,
    resliced_affine,
)
from mrisr_node.volumes.geometry import FloatArray, Volume

__all__ = ["SuperResolution", "pick_device", "restore_slices", "super_resolve"]

_OVERLAP = 32  # pixels that neighbouring tiles share and blend
_ROWS = 64  # image rows that the last, linear step handles at once
_NOISE = 0.03  # of the intensity scale: how far a result may exceed the source's brightest voxel

Progress = Callable[[float], None]


@dataclass(frozen=True)
class SuperResolution:
    """Thin slices, and what can be said about them.

    Parameters
    ----------
    volume
        Thin slices in the source's intensity scale; they cover exactly the acquired field of view.
    residual
        Acquired slices minus the result degraded again, on the acquired grid.
    fidelity
        That residual in numbers, beside the one of cubic interpolation.
    profile
        The slice profile that was assumed, in words.
    spacing_in_mm, spacing_out_mm
        Slice distance before and after.
    """

    volume: Volume
    residual: Volume
    fidelity: Fidelity
    profile: str
    spacing_in_mm: float
    spacing_out_mm: float


def pick_device() -> torch.device:
    """Return the GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _tiling(size: int, largest: int) -> tuple[int, int, float]:
    """Return how many tiles of which length cover ``size`` with least work, and their overlap.

    All lengths and steps are even, so that pixels are folded into channels alike in every tile. The
    overlap is a share of the length, a little less so that rounding cannot shorten the step.
    """
    count = max(1, ceil((size - _OVERLAP) / (largest - _OVERLAP)))
    if count == 1:
        return 1, size, 0.0
    length = 2 * ceil((size + (count - 1) * _OVERLAP) / (2 * count))
    return count, length, _OVERLAP / length - 1e-6


def _update(
    thick: Tensor,
    geometry: Tensor,
    operators: TorchOperators,
    checkpoint: Checkpoint,
    progress: Progress,
) -> Tensor:
    """Run the network in overlapping in-plane tiles, each with all slices.

    ``thick`` is (x, y, n) on the CPU; the update, (1, SUB_SLICES, x, y, n), is returned there.
    """
    x, y, n = thick.shape
    even = functional.pad(thick[None, None], (0, 0, 0, y % 2, 0, x % 2), mode="replicate")
    tiles_x, length_x, overlap_x = _tiling(x + x % 2, checkpoint.card.patch)
    tiles_y, length_y, overlap_y = _tiling(y + y % 2, checkpoint.card.patch)
    device = geometry.device
    network = checkpoint.network.to(device)
    done = 0

    def predict(window: Tensor) -> Tensor:
        nonlocal done
        update: Tensor = network(fold(window[:, 0], operators), geometry)
        done += 1
        progress(min(1.0, done / (tiles_x * tiles_y)))
        return update

    result = sliding_window_inference(
        even,
        (length_x, length_y, n),
        sw_batch_size=1,
        predictor=predict,
        overlap=(overlap_x, overlap_y, 0.0),
        mode="gaussian",
        sw_device=device,
        device=torch.device("cpu"),
    )
    return cast(Tensor, result)[..., :x, :y, :]


def restore_slices(
    thick: FloatArray,
    stack: SliceStack,
    positions: Positions,
    *,
    in_plane_mm: float,
    intensity_scale: float,
    checkpoint: Checkpoint,
    device: torch.device | None = None,
    progress: Progress | None = None,
) -> FloatArray:
    """Restore thin slices at any positions.

    Parameters
    ----------
    thick
        Acquired slices, shape (x, y, n), slice axis last.
    stack
        Their geometry.
    positions
        Centres (mm) of the m thin slices; 0 is the centre of the first acquired one.
    in_plane_mm
        Pixel size.
    intensity_scale
        Mean intensity of the brain.
    checkpoint
        The network.
    device, progress
        As for :func:`super_resolve`.

    Returns
    -------
    FloatArray
        Shape (x, y, m), within the intensities of ``thick`` plus noise.
    """
    operators = TorchOperators.of(build_operators(stack, positions))
    device = device or pick_device()
    geometry = conditions(stack.distance_mm, stack.thickness_mm, in_plane_mm)[None]
    scaled = torch.from_numpy(np.ascontiguousarray(thick / np.float32(intensity_scale)))
    with torch.inference_mode():
        update = _update(
            scaled,
            geometry.to(device),
            operators.to(device),
            checkpoint,
            progress or (lambda share: None),
        )
        thin = np.empty((*thick.shape[:2], len(positions)), dtype=np.float32)
        for start in range(0, thick.shape[0], _ROWS):
            rows = slice(start, start + _ROWS)
            thin[rows] = restore(scaled[None, rows], update[:, :, rows], operators)[0].numpy()
    thin *= np.float32(intensity_scale)
    return np.clip(thin, thick.min(), thick.max() + _NOISE * intensity_scale, out=thin)


def super_resolve(
    volume: Volume,
    *,
    slice_axis: int,
    thickness_mm: float,
    intensity_scale: float,
    checkpoint: Checkpoint,
    mask: NDArray[np.bool_] | None = None,
    device: torch.device | None = None,
    progress: Progress | None = None,
) -> SuperResolution:
    """Return thin slices for a volume of thick ones.

    The in-plane grid is unchanged. Along ``slice_axis`` the acquired field of view is divided into
    slices of about the pixel size, never below 0.8 mm. The same input gives the same bits on the
    same machine and number of threads.

    Parameters
    ----------
    volume
        Acquired slices; their distance is that of the affine.
    slice_axis
        Axis of ``volume`` across the slices.
    thickness_mm
        SliceThickness; it may exceed the distance.
    intensity_scale
        Mean intensity inside the brain.
    checkpoint
        The network and the range it is made for.
    mask
        Brain, on the grid of ``volume``; where fidelity is measured. Without it, whatever is
        brighter than a fifth of the intensity scale.
    device
        GPU where there is one, by default.
    progress
        Called with the share done, rising from 0 to 1.

    Raises
    ------
    OutOfRange
        If the geometry is unlike what the checkpoint was trained for.
    """
    if not intensity_scale > 0:
        raise ValueError("the intensity scale must be above zero")
    if mask is not None and mask.shape != volume.data.shape:
        raise ValueError("the mask must be on the grid of the volume")
    report = progress or (lambda share: None)
    report(0.0)
    spacing = volume.spacing
    distance = spacing[slice_axis]
    in_plane = float(np.mean([size for axis, size in enumerate(spacing) if axis != slice_axis]))
    checkpoint.card.check_range(
        distance_mm=distance, thickness_mm=thickness_mm, in_plane_mm=in_plane
    )
    stack = SliceStack(volume.data.shape[slice_axis], distance, thickness_mm)
    positions = stack.divided(stack.thin_count(max(in_plane, MINIMUM_SPACING_MM)))
    thick = np.moveaxis(volume.data, slice_axis, -1)
    thin = restore_slices(
        thick,
        stack,
        positions,
        in_plane_mm=in_plane,
        intensity_scale=intensity_scale,
        checkpoint=checkpoint,
        device=device,
        progress=lambda share: report(0.95 * share),
    )
    degrade = degradation_matrix(stack, positions)
    residual = thick - along_last_axis(degrade, thin)
    cubic = thick - along_last_axis(degrade @ cubic_matrix(stack, positions), thick)
    inside = volume.data > 0.2 * intensity_scale if mask is None else mask
    fidelity = measure(residual, cubic, np.moveaxis(inside, slice_axis, -1), intensity_scale)
    step = stack.count / len(positions)
    affine = resliced_affine(volume.affine, slice_axis, float(positions[0] / distance), step)
    report(1.0)
    return SuperResolution(
        volume=Volume(np.ascontiguousarray(np.moveaxis(thin, -1, slice_axis)), affine),
        residual=Volume(np.ascontiguousarray(np.moveaxis(residual, -1, slice_axis)), volume.affine),
        fidelity=fidelity,
        profile=f"Gaussian, full width at half maximum {thickness_mm:g} mm",
        spacing_in_mm=distance,
        spacing_out_mm=distance * step,
    )
