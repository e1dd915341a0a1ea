"""Super-resolve one volume: thick slices in, thin slices and a measure of their fidelity out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from mrisr_node.superres.checkpoints import Checkpoint
from mrisr_node.superres.fidelity import Fidelity, measure
from mrisr_node.superres.folded import restore_folded
from mrisr_node.superres.interpolated import restore_interpolated
from mrisr_node.superres.interpolation import cubic_matrix
from mrisr_node.superres.networks import INTERPOLATED, conditions
from mrisr_node.superres.operators import build_operators
from mrisr_node.superres.precision import computes_in_bfloat16, multiplies_in_tf32
from mrisr_node.superres.restoration import TorchOperators
from mrisr_node.volumes.degradation import (
    MINIMUM_SPACING_MM,
    Positions,
    SliceStack,
    along_last_axis,
    degradation_matrix,
    resliced_affine,
)
from mrisr_node.volumes.geometry import FloatArray, Volume

__all__ = [
    "Precision",
    "SuperResolution",
    "change_over_cubic",
    "pick_device",
    "pick_precision",
    "restore_slices",
    "super_resolve",
]

_TILE_SLICES = 32  # a tile has as many voxels as the card's patch, squared, times this
_NOISE = 0.03  # of the intensity scale: how far a result may exceed the source's brightest voxel

Precision = Literal["float32", "tf32", "bfloat16"]
"""``tf32`` is float32 whose convolutions multiply with 10 bits of mantissa, as GPUs do."""

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
    precision
        In what the network computed.
    spacing_in_mm, spacing_out_mm
        Slice distance before and after.
    """

    volume: Volume
    residual: Volume
    fidelity: Fidelity
    profile: str
    precision: Precision
    spacing_in_mm: float
    spacing_out_mm: float


def pick_device() -> torch.device:
    """Return the GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def pick_precision(
    device: torch.device, network: str, capabilities: Mapping[str, Any] | None = None
) -> Precision:
    """Return in what a network of the registry computes, unless told otherwise.

    bfloat16 on CPUs whose convolutions are several times faster in it (AMX), for networks that
    return a small update of the linear estimate; float32 for those that return intensities, and on
    other CPUs; on GPUs what torch makes of float32. ``capabilities`` are the CPU's, as torch tells
    them by default.
    """
    if multiplies_in_tf32(device):
        return "tf32"
    fast = device.type == "cpu" and computes_in_bfloat16(device, capabilities)
    return "bfloat16" if fast and network not in INTERPOLATED else "float32"


def restore_slices(
    thick: FloatArray,
    stack: SliceStack,
    positions: Positions,
    *,
    in_plane_mm: float,
    intensity_scale: float,
    checkpoint: Checkpoint,
    device: torch.device | None = None,
    precision: Precision | None = None,
    progress: Progress | None = None,
) -> FloatArray:
    """Restore thin slices at any equidistant positions.

    Parameters
    ----------
    thick
        Acquired slices, shape (x, y, n), slice axis last.
    stack
        Their geometry.
    positions
        Centres (mm) of the m thin slices, ascending; 0 is the centre of the first acquired one.
    in_plane_mm
        Pixel size.
    intensity_scale
        Mean intensity of the brain.
    checkpoint
        The network.
    device, precision, progress
        As for :func:`super_resolve`.

    Returns
    -------
    FloatArray
        Shape (x, y, m), within the intensities of ``thick`` plus noise.
    """
    device = device or pick_device()
    card = checkpoint.card
    precision = precision or pick_precision(device, card.network)
    if precision == "bfloat16" and card.network in INTERPOLATED:
        raise ValueError("a network on the interpolated grid computes in float32")
    if not np.isfinite(thick).all():
        raise ValueError("the slices hold values that are no numbers")
    report = progress or (lambda share: None)
    network = checkpoint.network.to(device)
    operators = TorchOperators.of(build_operators(stack, positions)).to(device)
    scaled = torch.from_numpy(np.divide(thick, np.float32(intensity_scale), order="C"))
    with torch.inference_mode():
        if card.network in INTERPOLATED:
            cubic = torch.tensor(cubic_matrix(stack, positions).T, dtype=torch.float32)
            thin = restore_interpolated(
                scaled,
                cubic.to(device),
                operators,
                network,
                patch=card.patch,
                progress=report,
            )
        else:
            thin = restore_folded(
                scaled,
                operators,
                network.to(memory_format=torch.channels_last_3d),  # type: ignore[call-overload]
                conditions(stack.distance_mm, stack.thickness_mm, in_plane_mm)[None].to(device),
                tile_voxels=card.patch**2 * _TILE_SLICES,
                bfloat16=precision == "bfloat16",
                progress=report,
            )
    thin *= np.float32(intensity_scale)
    return np.clip(thin, thick.min(), thick.max() + _NOISE * intensity_scale, out=thin)


def change_over_cubic(source: Volume, thin: Volume, slice_axis: int) -> Volume:
    """Return thin slices minus cubic B-spline interpolation of the acquired ones.

    Parameters
    ----------
    source, thin
        Acquired and super-resolved slices on the same in-plane grid.
    slice_axis
        Axis of both across the slices.
    """
    between = np.linalg.inv(source.affine) @ thin.affine
    places = between[slice_axis, slice_axis] * np.arange(thin.data.shape[slice_axis])
    distance = source.spacing[slice_axis]
    # Interpolation knows no thickness.
    stack = SliceStack(source.data.shape[slice_axis], distance, distance)
    matrix = cubic_matrix(stack, distance * (places + between[slice_axis, 3]))
    data = along_last_axis(matrix, np.moveaxis(source.data, slice_axis, -1))
    np.subtract(np.moveaxis(thin.data, slice_axis, -1), data, out=data)
    return Volume(np.ascontiguousarray(np.moveaxis(data, -1, slice_axis)), thin.affine)


def super_resolve(
    volume: Volume,
    *,
    slice_axis: int,
    thickness_mm: float,
    intensity_scale: float,
    checkpoint: Checkpoint,
    mask: NDArray[np.bool_] | None = None,
    device: torch.device | None = None,
    precision: Precision | None = None,
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
    precision
        In what the network computes; :func:`pick_precision` by default.
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
    i, j = (size for axis, size in enumerate(spacing) if axis != slice_axis)
    checkpoint.card.check_range(distance_mm=distance, thickness_mm=thickness_mm, pixel_mm=(i, j))
    in_plane = (i + j) / 2
    device = device or pick_device()
    precision = precision or pick_precision(device, checkpoint.card.network)
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
        precision=precision,
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
        precision=precision,
        spacing_in_mm=distance,
        spacing_out_mm=distance * step,
    )
