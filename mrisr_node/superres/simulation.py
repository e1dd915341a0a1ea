"""Simulated acquisitions: sharp heads, acquired again in thick slices as a scanner would."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_closing, binary_fill_holes

from mrisr_node.volumes.degradation import (
    Positions,
    SliceProfile,
    SliceStack,
    thicken,
)
from mrisr_node.volumes.geometry import FloatArray, Volume
from mrisr_node.volumes.scanner import partial_fourier, rician

__all__ = ["Protocol", "Simulated", "ThickSlices", "crop_to_head", "foreground", "simulate"]

_MARGIN = 8  # voxels


@dataclass(frozen=True)
class Protocol:
    """What is simulated.

    Parameters
    ----------
    thickness_mm, gap_mm
        Of the thick slices.
    axis
        x, y or z in RAS order: the axis across the slices.
    profile
        Of the thick slices.
    noise
        Standard deviation of Rician noise in the thick slices, as a share of the foreground's mean.
    partial_fourier
        Share of k-space that is acquired along the first in-plane axis; 1 is all of it.
    """

    thickness_mm: float
    gap_mm: float = 0.0
    axis: str = "y"
    profile: SliceProfile = SliceProfile.GAUSSIAN
    noise: float = 0.0
    partial_fourier: float = 1.0

    def __post_init__(self) -> None:
        if self.axis not in ("x", "y", "z"):
            raise ValueError(f"axes are x, y and z, not {self.axis!r}")
        if self.thickness_mm <= 0 or self.thickness_mm + self.gap_mm <= 0:
            raise ValueError("thickness and slice distance must be above zero")
        if not 0.5 < self.partial_fourier <= 1.0:
            raise ValueError("partial Fourier acquires more than 1/2 and up to 1 of k-space")

    def pixel_mm(self, volume: Volume) -> tuple[float, float]:
        """Return the pixel size of such slices of a volume, along both of their axes."""
        i, j = (size for name, size in zip("xyz", volume.spacing, strict=True) if name != self.axis)
        return i, j


@dataclass(frozen=True)
class ThickSlices:
    """All that a method may know.

    Parameters
    ----------
    slices
        Shape (x, y, n), slice axis last.
    stack
        Their geometry.
    positions
        Centres (mm) of the m thin slices that are asked for, ascending and equidistant; 0 is the
        centre of the first thick one.
    in_plane_mm
        Pixel size.
    intensity_scale
        Mean intensity of the foreground.
    profile
        Of the thick slices.
    """

    slices: FloatArray
    stack: SliceStack
    positions: Positions
    in_plane_mm: float
    intensity_scale: float
    profile: SliceProfile


@dataclass(frozen=True)
class Simulated:
    """A simulated acquisition and its truth.

    Parameters
    ----------
    thick
        What was acquired.
    truth
        The thin slices at the positions that are asked for, (x, y, m).
    first
        Index of the first of them in the sharp volume.
    """

    thick: ThickSlices
    truth: FloatArray
    first: int


def foreground(image: FloatArray) -> NDArray[np.bool_]:
    """Return the head, or the brain of a volume that is stripped to it."""
    above = image[image > image.mean()]
    if above.size == 0:
        return np.zeros(image.shape, dtype=bool)
    bright = image > 0.25 * above.mean()
    return np.asarray(binary_fill_holes(binary_closing(bright, iterations=2)))


def crop_to_head(volume: Volume) -> Volume:
    """Cut away the air around the head but for a margin: it costs time and shows nothing."""
    inside = foreground(volume.data)
    if not inside.any():
        raise ValueError("the volume shows nothing")
    bounds = [
        np.flatnonzero(inside.any(axis=tuple({0, 1, 2} - {axis})))[[0, -1]] for axis in range(3)
    ]
    starts = [max(0, int(low) - _MARGIN) for low, _ in bounds]
    window = tuple(
        slice(start, int(high) + _MARGIN + 1)
        for start, (_, high) in zip(starts, bounds, strict=True)
    )
    affine = volume.affine.copy()
    affine[:3, 3] = volume.position((starts[0], starts[1], starts[2]))
    return Volume(np.ascontiguousarray(volume.data[window]), affine)


def simulate(volume: Volume, protocol: Protocol, intensity_scale: float | None = None) -> Simulated:
    """Acquire a sharp volume (axes in RAS order) by a protocol; its noise is always the same.

    The intensity scale is measured on the thick slices unless it is given.

    Raises
    ------
    ValueError
        The protocol is impossible, or the thick slices show no head.
    """
    axis = "xyz".index(protocol.axis)
    made = thicken(volume, axis, protocol.thickness_mm, protocol.gap_mm, protocol.profile)
    thick = np.ascontiguousarray(np.moveaxis(made.volume.data, axis, -1))
    seen = foreground(thick)
    if not seen.any():
        raise ValueError(f"no head is found in {made.stack.count} slices: too few, or empty")
    scale = intensity_scale or float(thick[seen].mean())
    if protocol.partial_fourier < 1:
        thick = partial_fourier(thick, 0, protocol.partial_fourier)
    if protocol.noise > 0:
        thick = rician(thick, protocol.noise * scale, np.random.default_rng(0))
    in_plane = fmean(protocol.pixel_mm(volume))
    return Simulated(
        ThickSlices(thick, made.stack, made.positions, in_plane, scale, protocol.profile),
        np.ascontiguousarray(np.moveaxis(volume.data, axis, -1)[..., made.inside]),
        made.inside.start,
    )
