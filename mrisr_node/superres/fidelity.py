"""How well a result, degraded again, agrees with the slices that were acquired."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mrisr_node.volumes.geometry import FloatArray

__all__ = ["Fidelity", "Residual", "measure"]


@dataclass(frozen=True)
class Residual:
    """Absolute difference to the acquired slices.

    Parameters
    ----------
    median, p99
        Median and 99th percentile in the units of the source.
    relative_median, relative_p99
        The same over the intensity scale.
    """

    median: float
    p99: float
    relative_median: float
    relative_p99: float

    @classmethod
    def of(cls, difference: FloatArray, intensity_scale: float) -> Residual:
        """Summarise a difference of any shape."""
        median, p99 = (float(q) for q in np.percentile(np.abs(difference), (50, 99)))
        return cls(median, p99, median / intensity_scale, p99 / intensity_scale)


@dataclass(frozen=True)
class Fidelity:
    """Residuals of a result, and of cubic B-spline interpolation of the same slices.

    Parameters
    ----------
    inside, overall
        Of the result, in the mask and everywhere.
    cubic_inside, cubic_overall
        Of the interpolation.
    """

    inside: Residual
    overall: Residual
    cubic_inside: Residual
    cubic_overall: Residual


def measure(
    residual: FloatArray, cubic: FloatArray, mask: NDArray[np.bool_], intensity_scale: float
) -> Fidelity:
    """Summarise the residuals (acquired grid) of the result and of cubic interpolation."""
    inside = mask if mask.any() else np.ones_like(mask)
    return Fidelity(
        Residual.of(residual[inside], intensity_scale),
        Residual.of(residual, intensity_scale),
        Residual.of(cubic[inside], intensity_scale),
        Residual.of(cubic, intensity_scale),
    )
