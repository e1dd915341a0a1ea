"""Intensity normalisation inside the brain."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mrisr_node.errors import BrainError
from mrisr_node.volumes.geometry import Volume

__all__ = ["IntensityScale", "measure_intensity", "normalised"]


@dataclass(frozen=True)
class IntensityScale:
    """What the intensities of a volume are measured in.

    Parameters
    ----------
    mean, deviation
        Of the voxels inside the brain, in the source's units. MR intensities have no absolute unit;
        the networks see them divided by the mean.
    low, high
        Of the whole volume: what no result may leave by more than noise.
    """

    mean: float
    deviation: float
    low: float
    high: float


def measure_intensity(volume: Volume, mask: NDArray[np.bool_]) -> IntensityScale:
    """Measure the intensity scale of a volume inside its brain mask.

    Raises
    ------
    BrainError
        The brain has no signal.
    """
    inside = volume.data[mask]
    mean = float(inside.mean(dtype=np.float64)) if inside.size else 0.0
    if mean <= 0:
        raise BrainError("the brain shows no signal, so its intensities cannot be normalised")
    return IntensityScale(
        mean=mean,
        deviation=float(inside.std(dtype=np.float64)),
        low=float(volume.data.min()),
        high=float(volume.data.max()),
    )


def normalised(volume: Volume, scale: IntensityScale) -> Volume:
    """Return the volume with a mean of 1 inside the brain."""
    return Volume(volume.data / np.float32(scale.mean), volume.affine)
