"""Degrade sharp volumes, restore them by every method, and score the outcome."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_closing, binary_fill_holes, gaussian_filter, gaussian_laplace

from mrisr_node.superres.checkpoints import Checkpoint
from mrisr_node.superres.inference import restore_slices
from mrisr_node.superres.interpolation import back_projection_matrix, cubic_matrix, linear_matrix
from mrisr_node.superres.sources import load_ras
from mrisr_node.volumes.degradation import Positions, SliceStack, along_last_axis, thicken
from mrisr_node.volumes.geometry import FloatArray, Volume

__all__ = ["METHODS", "Evaluation", "Score", "Summary", "evaluate", "hfen", "psnr", "ssim"]

METHODS = ("linear", "cubic", "cubic-bp", "ours")
"""Linear, cubic B-spline, cubic and five back-projections with the known profile, and ours."""

_BASELINES: dict[str, Callable[[SliceStack, Positions], Positions]] = {
    "linear": linear_matrix,
    "cubic": cubic_matrix,
    "cubic-bp": back_projection_matrix,
}

_Mask = NDArray[np.bool_]

_MARGIN = 8  # voxels


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


@dataclass(frozen=True)
class Score:
    """One method on one volume.

    Parameters
    ----------
    subject
        The file's name without its endings.
    method
        One of METHODS.
    psnr_db, ssim, hfen
        Inside the foreground. The peak is the 99.5th percentile of the truth there.
    seconds
        From thick slices to thin ones.
    """

    subject: str
    method: str
    psnr_db: float
    ssim: float
    hfen: float
    seconds: float


@dataclass(frozen=True)
class Summary:
    """Mean of a method over subjects, each with its 95 % bootstrap interval."""

    method: str
    psnr_db: tuple[float, float, float]
    ssim: tuple[float, float, float]
    hfen: tuple[float, float, float]
    seconds: float


@dataclass(frozen=True)
class Evaluation:
    """Scores of several methods on the same simulated acquisitions.

    Parameters
    ----------
    thickness_mm, gap_mm, axis, noise
        What was simulated; noise as a share of the foreground's mean.
    scores
        One for each subject and method.
    """

    thickness_mm: float
    gap_mm: float
    axis: str
    noise: float
    scores: tuple[Score, ...]

    def summaries(self) -> list[Summary]:
        """Return the mean over subjects for each method."""
        result = []
        for method in dict.fromkeys(score.method for score in self.scores):
            scores = [score for score in self.scores if score.method == method]
            result.append(
                Summary(
                    method,
                    _bootstrap([score.psnr_db for score in scores]),
                    _bootstrap([score.ssim for score in scores]),
                    _bootstrap([score.hfen for score in scores]),
                    float(np.mean([score.seconds for score in scores])),
                )
            )
        return result

    def as_json(self) -> dict[str, Any]:
        """Return everything as plain values."""
        table = dataclasses.asdict(self)
        table["summaries"] = [dataclasses.asdict(summary) for summary in self.summaries()]
        return table

    def table(self) -> str:
        """Return a table for people, subjects first, then means with their intervals."""
        lines = [
            f"thickness {self.thickness_mm:g} mm, gap {self.gap_mm:g} mm, along {self.axis}, "
            f"noise {100 * self.noise:g} %",
            f"{'volume':<36}{'method':<10}{'PSNR dB':>9}{'SSIM':>8}{'HFEN':>8}{'s':>8}",
        ]
        lines += [
            f"{s.subject:<36}{s.method:<10}{s.psnr_db:>9.2f}{s.ssim:>8.4f}{s.hfen:>8.4f}"
            f"{s.seconds:>8.2f}"
            for s in self.scores
        ]
        lines += [
            f"{'mean':<36}{s.method:<10}{s.psnr_db[0]:>9.2f}{s.ssim[0]:>8.4f}{s.hfen[0]:>8.4f}"
            f"{s.seconds:>8.2f}  [{s.psnr_db[1]:.2f}, {s.psnr_db[2]:.2f}] dB"
            for s in self.summaries()
        ]
        return "\n".join(lines)


def _bootstrap(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the mean and the 95 % percentile interval of 2000 resamples over subjects."""
    sample = np.asarray(values)
    draws = np.random.default_rng(0).integers(0, len(sample), (2000, len(sample)))
    low, high = np.percentile(sample[draws].mean(axis=1), (2.5, 97.5))
    return float(sample.mean()), float(low), float(high)


def _foreground(image: FloatArray) -> _Mask:
    """Return the head, or the brain of a volume that is stripped to it."""
    bright = image > 0.25 * image[image > image.mean()].mean()
    return np.asarray(binary_fill_holes(binary_closing(bright, iterations=2)))


def _head(volume: Volume) -> Volume:
    """Cut away the air around the head but for a margin: it costs time and shows nothing."""
    inside = _foreground(volume.data)
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


def evaluate(
    paths: Sequence[Path],
    *,
    thickness_mm: float,
    gap_mm: float,
    axis: str = "y",
    methods: Sequence[str] = METHODS,
    checkpoint: Checkpoint | None = None,
    noise: float = 0.0,
    progress: Callable[[Score], None] | None = None,
) -> Evaluation:
    """Score methods on sharp volumes that are acquired again in thick slices.

    Every method gets the same thick slices and returns slices at the centres of the volume's own,
    where these lie in the simulated field of view.

    Parameters
    ----------
    paths
        NIfTI files, or ``.tar.xz`` archives of one DICOM series.
    thickness_mm, gap_mm
        Of the simulated slices.
    axis
        x, y or z in RAS order. The default is y, front to back: of the public heads that are
        measured here, some are not sharp along z, and all are along y.
    methods
        Some of METHODS.
    checkpoint
        Needed for ``ours``.
    noise
        Standard deviation of Rician noise in the thick slices, as a share of the foreground's mean.
    progress
        Called with each score as it is known.
    """
    unknown = [name for name in methods if name not in METHODS]
    if unknown:
        raise ValueError(f"unknown method {unknown[0]!r}; there are {', '.join(METHODS)}")
    if checkpoint is None and "ours" in methods:
        raise ValueError("the method 'ours' needs a checkpoint")
    scores: list[Score] = []
    for path in paths:
        volume = _head(load_ras(path))
        made = thicken(volume, "xyz".index(axis), thickness_mm, gap_mm)
        thick = np.ascontiguousarray(np.moveaxis(made.volume.data, "xyz".index(axis), -1))
        truth = np.moveaxis(volume.data, "xyz".index(axis), -1)[..., made.inside]
        scale = float(thick[_foreground(thick)].mean())
        if noise > 0:
            random = np.random.default_rng(0)
            real, imaginary = random.normal(0.0, noise * scale, (2, *thick.shape))
            thick = np.hypot(thick + real, imaginary).astype(np.float32)
        mask = _foreground(truth)
        peak = float(np.percentile(truth[mask], 99.5))
        in_plane = float(
            np.mean([s for i, s in enumerate(volume.spacing) if i != "xyz".index(axis)])
        )
        for method in methods:
            started = time.perf_counter()
            if checkpoint is not None and method == "ours":
                result = restore_slices(
                    thick,
                    made.stack,
                    made.positions,
                    in_plane_mm=in_plane,
                    intensity_scale=scale,
                    checkpoint=checkpoint,
                )
            else:
                result = along_last_axis(_BASELINES[method](made.stack, made.positions), thick)
            seconds = time.perf_counter() - started
            score = Score(
                path.name.split(".")[0],
                method,
                psnr(truth, result, mask, peak),
                ssim(truth, result, mask, peak),
                hfen(truth, result, mask),
                seconds,
            )
            scores.append(score)
            if progress is not None:
                progress(score)
    return Evaluation(thickness_mm, gap_mm, axis, noise, tuple(scores))
