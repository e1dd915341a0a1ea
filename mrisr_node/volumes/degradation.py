"""What a thick-slice acquisition does to a head, as a matrix along the slice axis.

Positions are millimetres along the slice axis, 0 at the centre of the first thick slice. A stack of
N slices of distance d covers the field of view [−d/2, (N−½)·d]. Each thick slice is a weighted mean
of thin ones, the weights being the slice profile at the thin slices' physical positions: so factors
need not be whole numbers, and nothing is ever shifted by half a voxel.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from math import ceil, floor, log, sqrt

import numpy as np
from numpy.typing import NDArray
from scipy.special import sici

from mrisr_node.volumes.geometry import FloatArray, Volume

__all__ = [
    "MINIMUM_SPACING_MM",
    "Positions",
    "SliceProfile",
    "SliceStack",
    "Thickened",
    "along_last_axis",
    "degradation_matrix",
    "profile_sigma",
    "resliced_affine",
    "slice_profile",
    "thicken",
]

Positions = NDArray[np.float64]

MINIMUM_SPACING_MM = 0.8
"""Thin slices are never closer than this: in-plane pixels below it are mostly interpolated."""


def profile_sigma(thickness_mm: float) -> float:
    """Return the standard deviation (mm) of a Gaussian slice profile of that width at half height.

    Selective pulses are designed for a nearly rectangular profile; what relaxation and the
    gradients leave of it is close to a Gaussian whose full width at half maximum is the stated
    SliceThickness.
    """
    return thickness_mm / (2.0 * sqrt(2.0 * log(2.0)))


class SliceProfile(StrEnum):
    """How sensitive a slice is across its thickness, which is the full width at half maximum.

    ``GAUSSIAN`` is what is assumed of an unknown scanner. ``SINC`` is what a sinc pulse with a Hann
    window and a time-bandwidth product of 4 excites at small flip angles: flatter on top, steeper,
    with side lobes below 1 %.
    """

    GAUSSIAN = "gaussian"
    SINC = "sinc"


_TIME_BANDWIDTH = 4.0
_SINC_WIDTH = 3.977730626391741  # full width at half maximum of the profile below, in its own unit
_REACH = 2.0  # thicknesses on either side; a Gaussian ends at 1.7, lobes beyond are below 0.02 %


def _sinc_pulse_profile(offsets: Positions) -> Positions:
    """Return the Fourier transform of a Hann-windowed sinc pulse of unit duration.

    In the small-tip-angle approximation it is the excited magnetisation (Pauly, Nishimura and
    Macovski, J Magn Reson 81, 1989). A truncated sinc gives a difference of sine integrals; a Hann
    window adds it shifted by one unit to either side at half the weight.
    """

    def truncated(at: Positions) -> Positions:
        upper, _ = sici(np.pi * (at + 0.5 * _TIME_BANDWIDTH))
        lower, _ = sici(np.pi * (at - 0.5 * _TIME_BANDWIDTH))
        return np.asarray(upper - lower)

    return 2.0 * truncated(offsets) + truncated(offsets - 1.0) + truncated(offsets + 1.0)


def slice_profile(
    offsets_mm: Positions, thickness_mm: float, profile: SliceProfile = SliceProfile.GAUSSIAN
) -> Positions:
    """Return how much of the signal at these distances from its centre a slice sees.

    The scale is arbitrary: :func:`degradation_matrix` normalises. Far away it is exactly zero.
    """
    if profile is SliceProfile.SINC:
        scaled = offsets_mm / thickness_mm
        return np.where(np.abs(scaled) <= _REACH, _sinc_pulse_profile(_SINC_WIDTH * scaled), 0.0)
    scaled = offsets_mm / profile_sigma(thickness_mm)
    return np.where(np.abs(scaled) <= 4.0, np.exp(-0.5 * scaled**2), 0.0)


@dataclass(frozen=True)
class SliceStack:
    """Geometry of a stack of equidistant slices along their normal.

    Parameters
    ----------
    count
        Number of slices N.
    distance_mm
        From centre to centre, by positions: some vendors put the gap in SpacingBetweenSlices.
    thickness_mm
        Full width at half maximum of the slice profile; above the distance, slices overlap.
    """

    count: int
    distance_mm: float
    thickness_mm: float

    def __post_init__(self) -> None:
        if self.count < 1 or self.distance_mm <= 0 or self.thickness_mm <= 0:
            raise ValueError("a stack needs slices, a distance and a thickness above zero")

    @property
    def gap_mm(self) -> float:
        """Distance between the edges of neighbouring slices; negative where they overlap."""
        return self.distance_mm - self.thickness_mm

    @property
    def centres(self) -> Positions:
        """Centres of the slices in mm, shape (N,)."""
        return np.arange(self.count, dtype=np.float64) * self.distance_mm

    def divided(self, count: int) -> Positions:
        """Return the centres (mm) of ``count`` equal slices that fill exactly the field of view."""
        spacing = self.count * self.distance_mm / count
        return (np.arange(count, dtype=np.float64) + 0.5) * spacing - 0.5 * self.distance_mm

    def thin_count(self, spacing_mm: float) -> int:
        """Return how many slices of about ``spacing_mm`` fill the field of view."""
        return max(self.count, round(self.count * self.distance_mm / spacing_mm))


def degradation_matrix(
    stack: SliceStack, positions: Positions, profile: SliceProfile = SliceProfile.GAUSSIAN
) -> Positions:
    """Return A, shape (N, M): thick slices from M thin ones.

    Each row is the profile at the thin slices' distances from the centre of a thick one. Where the
    profile reaches beyond the thin slices, the outermost of them stands for what is there, for
    tissue seldom ends with the field of view. Rows sum to one: a constant image stays constant. The
    adjoint is ``A.T``. Sums over samples equal the integrals over the profile to within 0.1 % as
    long as a slice is at least 1.5 times as thick as the thin ones are apart.

    Parameters
    ----------
    stack
        The thick slices.
    positions
        Centres of the thin slices in mm, shape (M,), ascending and equidistant.
    profile
        Of the thick slices.

    Raises
    ------
    ValueError
        If a thick slice lies outside of the thin ones.
    """
    offsets = positions[None, :] - stack.centres[:, None]
    if np.any(np.abs(offsets).min(axis=1) > stack.thickness_mm):
        raise ValueError("a thick slice lies outside of the thin slices")
    step = positions[1] - positions[0] if len(positions) > 1 else stack.distance_mm
    beyond = np.arange(1, ceil(_REACH * stack.thickness_mm / step) + 1) * step
    wide = np.concatenate([positions[0] - beyond, positions, positions[-1] + beyond])
    weights = slice_profile(wide[None, :] - stack.centres[:, None], stack.thickness_mm, profile)
    before, inside, after = np.split(weights, [len(beyond), -len(beyond)], axis=1)
    inside[:, 0] += before.sum(axis=1)
    inside[:, -1] += after.sum(axis=1)
    return np.asarray(inside / inside.sum(axis=1, keepdims=True))


def along_last_axis(matrix: Positions, data: FloatArray) -> FloatArray:
    """Apply ``matrix``, shape (n, m), to the last axis of ``data``, shape (…, m)."""
    return np.asarray(data @ matrix.T.astype(np.float32), dtype=np.float32)


def resliced_affine(
    affine: NDArray[np.float64], axis: int, first: float, step: float
) -> NDArray[np.float64]:
    """Return the affine of a grid that differs along one axis only.

    Parameters
    ----------
    affine
        4×4, of the grid that is replaced.
    axis
        The axis along which slices are replaced.
    first
        Index of the new first slice's centre on the old grid; it need not be whole.
    step
        Distance of the new slices in old indices.
    """
    result = affine.copy()
    result[:3, 3] += first * affine[:3, axis]
    result[:3, axis] *= step
    return result


@dataclass(frozen=True)
class Thickened:
    """A simulated acquisition, and where the slices it was made from lie in its field of view.

    Parameters
    ----------
    volume
        The thick slices.
    stack
        Their geometry.
    inside
        The thin slices (indices along the axis) whose centres the field of view contains.
    positions
        Their centres in mm, as everywhere in this module.
    """

    volume: Volume
    stack: SliceStack
    inside: slice
    positions: Positions


def thicken(
    volume: Volume,
    axis: int,
    thickness_mm: float,
    gap_mm: float = 0.0,
    profile: SliceProfile = SliceProfile.GAUSSIAN,
) -> Thickened:
    """Acquire a sharp volume again in thick slices along ``axis``.

    As many thick slices as fit are placed, centred in the volume.
    """
    spacing = volume.spacing[axis]
    size = volume.data.shape[axis]
    distance = thickness_mm + gap_mm
    count = floor(size * spacing / distance + 1e-6)
    if count < 1:
        raise ValueError("the volume is thinner than one thick slice")
    stack = SliceStack(count, distance, thickness_mm)
    first = 0.5 * (size - 1) - 0.5 * (count - 1) * distance / spacing
    positions = (np.arange(size) - first) * spacing
    matrix = degradation_matrix(stack, positions, profile)
    thick = np.moveaxis(along_last_axis(matrix, np.moveaxis(volume.data, axis, -1)), -1, axis)
    low, high = -0.5 * distance, (count - 0.5) * distance
    seen = np.flatnonzero((positions > low) & (positions < high))
    inside = slice(int(seen[0]), int(seen[-1]) + 1)
    return Thickened(
        Volume(
            np.ascontiguousarray(thick),
            resliced_affine(volume.affine, axis, first, distance / spacing),
        ),
        stack,
        inside,
        positions[inside],
    )
