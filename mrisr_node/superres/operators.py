"""The linear part of super-resolution: all of it matrices along the slice axis.

Thick slices y are seen as y = A x + noise. Among all x that explain y, the most plausible one under
a stationary prior covariance C is C Aᵀ (A C Aᵀ + λI)⁻¹ y: back-projection with a prior, solved
exactly for any factor and gap instead of iterated (Rasmussen and Williams, Gaussian Processes for
Machine Learning, 2006, section 2.2, with an unknown mean as in ordinary kriging).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mrisr_node.volumes.degradation import Positions, SliceStack, degradation_matrix

__all__ = ["SUB_SLICES", "Operators", "build_operators"]

SUB_SLICES = 8
"""Thick slices are divided into this many; they are the channels on the network's grid."""

_CORRELATION = 1.0  # of the prior, in slice distances; half or double changes less than 0.1 dB
_NOISE = 1e-3  # variance of a thick slice's noise in units of the prior's variance
_MEAN_VARIANCE = 100.0  # the same for the prior mean: large, so that a constant stays constant


@dataclass(frozen=True)
class Operators:
    """What leads from N thick slices to M thin ones and back.

    Parameters
    ----------
    degrade
        A, shape (N, M).
    restore
        W, shape (M, N): the linear estimate of the thin slices, and of what a residual lacks.
    restore_folded
        The same for the SUB_SLICES·N sub-slices that the network works on.
    unfold
        R, shape (M, SUB_SLICES·N): linear interpolation from sub-slices to thin slices.
    """

    degrade: Positions
    restore: Positions
    restore_folded: Positions
    unfold: Positions


def _covariance(a: Positions, b: Positions, length_mm: float) -> Positions:
    """Matérn covariance of smoothness 3/2 between positions (mm), plus that of the mean."""
    scaled = np.sqrt(3.0) * np.abs(a[:, None] - b[None, :]) / length_mm
    return np.asarray((1.0 + scaled) * np.exp(-scaled) + _MEAN_VARIANCE)


def _interpolation(source: Positions, target: Positions) -> Positions:
    """Linear interpolation from equidistant ``source`` to ``target``, constant beyond the ends."""
    place = np.clip((target - source[0]) / (source[1] - source[0]), 0, len(source) - 1)
    return np.asarray(np.maximum(0.0, 1.0 - np.abs(place[:, None] - np.arange(len(source)))))


def build_operators(stack: SliceStack, positions: Positions) -> Operators:
    """Build the matrices that restore thin slices at ``positions`` (mm) from a stack."""
    sub_slices = stack.divided(stack.count * SUB_SLICES)
    degrade = degradation_matrix(stack, sub_slices)
    length_mm = _CORRELATION * stack.distance_mm
    prior = _covariance(sub_slices, sub_slices, length_mm)
    explained = degrade @ prior @ degrade.T
    gain = degrade.T @ np.linalg.inv(explained + _NOISE * np.eye(stack.count))
    return Operators(
        degrade=degradation_matrix(stack, positions),
        restore=_covariance(positions, sub_slices, length_mm) @ gain,
        restore_folded=prior @ gain,
        unfold=_interpolation(sub_slices, positions),
    )
