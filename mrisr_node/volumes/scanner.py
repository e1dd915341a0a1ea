"""What else a scanner does to slices besides their thickness: noise, and k-space left out."""

from __future__ import annotations

import numpy as np
from scipy.fft import fft, fftfreq, ifft

from mrisr_node.volumes.geometry import FloatArray

__all__ = ["partial_fourier", "rician"]


def rician(
    slices: FloatArray, sigma: float, random: np.random.Generator | np.random.RandomState
) -> FloatArray:
    """Return slices with Rician noise: the magnitude of a signal with complex Gaussian noise.

    Gudbjartsson and Patz, Magn Reson Med 34(6), 1995.

    Parameters
    ----------
    slices
        Magnitudes, any shape.
    sigma
        Standard deviation of the noise in the real and in the imaginary part, in the unit of the
        slices.
    random
        Where the noise comes from; the same state gives the same noise.
    """
    real, imaginary = random.normal(0.0, sigma, (2, *slices.shape))
    return np.asarray(np.hypot(slices + real, imaginary), dtype=np.float32)


def partial_fourier(slices: FloatArray, axis: int, fraction: float) -> FloatArray:
    """Return slices whose k-space was sampled in part, the rest filled with zeros.

    What is missing are the highest positive frequencies along one in-plane axis, as after a partial
    acquisition that was not completed by conjugate symmetry. The image is the magnitude, so it is
    blurred along that axis and not shifted.

    Parameters
    ----------
    slices
        Magnitudes, shape (x, y, n), slice axis last.
    axis
        0 or 1: that of phase encoding.
    fraction
        Share of the lines of k-space that were acquired, above 1/2 and up to 1, such as 6/8.
    """
    if axis not in (0, 1):
        raise ValueError("partial Fourier acquisition is along an in-plane axis, 0 or 1")
    if not 0.5 < fraction <= 1.0:
        raise ValueError("a partial Fourier acquisition samples more than half of k-space")
    frequencies = fftfreq(slices.shape[axis])  # cycles per pixel, from -0.5 to below 0.5
    acquired = frequencies < fraction - 0.5
    shape = [1, 1, 1]
    shape[axis] = -1
    spectrum = fft(slices, axis=axis) * acquired.reshape(shape).astype(np.float32)
    return np.asarray(np.abs(ifft(spectrum, axis=axis)), dtype=np.float32)
