"""How near a restored volume is to the truth, and how sure a mean over subjects is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, gaussian_laplace

from mrisr_node.volumes.geometry import FloatArray

__all__ = ["bootstrap", "hfen", "psnr", "ssim"]

_Mask = NDArray[np.bool_]


def psnr(truth: FloatArray, result: FloatArray, mask: _Mask, peak: float) -> float:
    """Peak signal-to-noise ratio in dB inside the mask."""
    error = float(np.mean(np.square((truth - result)[mask], dtype=np.float64)))
    return float(10.0 * np.log10(peak**2 / max(error, 1e-12 * peak**2)))


def ssim(truth: FloatArray, result: FloatArray, mask: _Mask, peak: float) -> float:
    """Mean structural similarity inside the mask, in 3D.

    With the constants and the Gaussian window (sigma 1.5 voxels) of Wang et al., IEEE TIP 13(4),
    2004.
    """

    def mean(image: FloatArray) -> FloatArray:
        return np.asarray(gaussian_filter(image, 1.5, truncate=3.5))

    a, b = truth / np.float32(peak), result / np.float32(peak)
    mean_a, mean_b = mean(a), mean(b)
    variance_a = mean(a * a) - mean_a**2
    variance_b = mean(b * b) - mean_b**2
    covariance = mean(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    similarity = ((2 * mean_a * mean_b + c1) * (2 * covariance + c2)) / (
        (mean_a**2 + mean_b**2 + c1) * (variance_a + variance_b + c2)
    )
    return float(similarity[mask].mean())


def hfen(truth: FloatArray, result: FloatArray, mask: _Mask) -> float:
    """High-frequency error norm inside the mask: 0 is perfect, 1 is no detail at all.

    Laplacian of a Gaussian of sigma 1.5 voxels, after Ravishankar and Bresler, IEEE TMI 30(5),
    2011.
    """
    detail = gaussian_laplace(truth, 1.5)[mask]
    error = gaussian_laplace(truth - result, 1.5)[mask]
    return float(np.linalg.norm(error) / np.linalg.norm(detail))


def bootstrap(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the mean and the 95 % percentile interval of 2000 resamples over subjects."""
    sample = np.asarray(values)
    draws = np.random.default_rng(0).integers(0, len(sample), (2000, len(sample)))
    low, high = np.percentile(sample[draws].mean(axis=1), (2.5, 97.5))
    return float(sample.mean()), float(low), float(high)
