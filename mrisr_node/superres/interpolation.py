"""What one could have without a network: interpolation and back-projection, as matrices too."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import map_coordinates, spline_filter1d

from mrisr_node.volumes.degradation import (
    Positions,
    SliceProfile,
    SliceStack,
    degradation_matrix,
)

__all__ = ["back_projection_matrix", "cubic_matrix", "lanczos_matrix", "linear_matrix"]

_LANCZOS = 3  # lobes on either side


def linear_matrix(stack: SliceStack, positions: Positions) -> Positions:
    """Return linear interpolation from N slices to M ``positions`` (mm), shape (M, N).

    Beyond the centres of the end slices it is constant.
    """
    place = np.clip(positions / stack.distance_mm, 0, stack.count - 1)
    return np.asarray(np.maximum(0.0, 1.0 - np.abs(place[:, None] - np.arange(stack.count))))


def cubic_matrix(stack: SliceStack, positions: Positions) -> Positions:
    """Return cubic B-spline interpolation (SciPy's, mirrored at the ends), shape (M, N)."""
    coefficients = spline_filter1d(np.eye(stack.count), order=3, axis=0, mode="mirror")
    place = positions[None, :] / stack.distance_mm
    columns = [
        map_coordinates(column, place, order=3, mode="mirror", prefilter=False)
        for column in coefficients.T
    ]
    return np.stack(columns, axis=1)


def lanczos_matrix(stack: SliceStack, positions: Positions) -> Positions:
    """Return Lanczos-3 interpolation, mirrored at the ends like cubic, shape (M, N).

    A sinc under the middle lobe of a wider one (Duchon, J Appl Meteorol 18, 1979). Weights are
    normalised, so that a constant stays constant.
    """
    place = positions / stack.distance_mm
    taps = np.floor(place)[:, None] + np.arange(1 - _LANCZOS, 1 + _LANCZOS)
    offsets = place[:, None] - taps
    weights = np.sinc(offsets) * np.sinc(offsets / _LANCZOS)
    weights /= weights.sum(axis=1, keepdims=True)
    period = max(1, 2 * (stack.count - 1))
    folded = np.mod(taps, period).astype(int)
    matrix = np.zeros((len(positions), stack.count))
    rows = np.arange(len(positions))[:, None]
    np.add.at(matrix, (rows, np.minimum(folded, period - folded)), weights)
    return matrix


def back_projection_matrix(
    stack: SliceStack,
    positions: Positions,
    steps: int = 5,
    profile: SliceProfile = SliceProfile.GAUSSIAN,
) -> Positions:
    """Return cubic interpolation followed by back-projection of what it misses, shape (M, N).

    Each step degrades the estimate with the known profile and adds the interpolated difference
    (Irani and Peleg, 1991).
    """
    cubic = cubic_matrix(stack, positions)
    degrade = degradation_matrix(stack, positions, profile)
    estimate = cubic
    for _ in range(steps):
        estimate = estimate + cubic @ (np.eye(stack.count) - degrade @ estimate)
    return estimate
