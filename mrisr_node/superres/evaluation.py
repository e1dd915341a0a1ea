"""Degrade sharp volumes, restore them by every method, and score the outcome."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mrisr_node.superres.checkpoints import Checkpoint
from mrisr_node.superres.fidelity import Residual
from mrisr_node.superres.methods import DEFAULT_METHODS, build_methods, check_range
from mrisr_node.superres.metrics import bootstrap, hfen, psnr, ssim
from mrisr_node.superres.peak_memory import measured_memory
from mrisr_node.superres.peers import Eclare
from mrisr_node.superres.simulation import Protocol, crop_to_head, foreground, simulate
from mrisr_node.superres.sources import load_ras
from mrisr_node.volumes.degradation import SliceProfile, along_last_axis, degradation_matrix

__all__ = ["Evaluation", "Score", "Summary", "evaluate"]


@dataclass(frozen=True)
class Score:
    """One method on one volume.

    Parameters
    ----------
    subject
        The file's name without its endings.
    method
        Its name.
    psnr_db, ssim, hfen
        Inside the foreground. The peak is the 99.5th percentile of the truth there.
    seconds
        From thick slices to thin ones.
    peak_mib
        Highest resident memory above that before, of the process and those it starts, in MiB.
    residual_median, residual_p99
        Of the absolute difference between the thick slices and the result degraded again with the
        true profile, inside the foreground, over its mean intensity. With noise in the slices, a
        method that does not fit it has the noise here.
    """

    subject: str
    method: str
    psnr_db: float
    ssim: float
    hfen: float
    seconds: float
    peak_mib: float
    residual_median: float
    residual_p99: float


@dataclass(frozen=True)
class Summary:
    """Mean of a method over subjects; of the scores with its 95 % bootstrap interval.

    The memory is the largest of any subject.
    """

    method: str
    psnr_db: tuple[float, float, float]
    ssim: tuple[float, float, float]
    hfen: tuple[float, float, float]
    seconds: float
    peak_mib: float
    residual_median: float
    residual_p99: float

    @classmethod
    def of(cls, scores: Sequence[Score]) -> Summary:
        """Summarise the scores of one method."""
        return cls(
            scores[0].method,
            bootstrap([score.psnr_db for score in scores]),
            bootstrap([score.ssim for score in scores]),
            bootstrap([score.hfen for score in scores]),
            float(np.mean([score.seconds for score in scores])),
            max(score.peak_mib for score in scores),
            float(np.mean([score.residual_median for score in scores])),
            float(np.mean([score.residual_p99 for score in scores])),
        )


@dataclass(frozen=True)
class Evaluation:
    """Scores of several methods on the same simulated acquisitions.

    Parameters
    ----------
    thickness_mm, gap_mm, axis, noise, profile, partial_fourier
        What was simulated, as in :class:`Protocol`.
    scores
        One for each subject and method.
    """

    thickness_mm: float
    gap_mm: float
    axis: str
    noise: float
    profile: str
    partial_fourier: float
    scores: tuple[Score, ...]

    def summaries(self) -> list[Summary]:
        """Return the mean over subjects for each method."""
        return [
            Summary.of([score for score in self.scores if score.method == method])
            for method in dict.fromkeys(score.method for score in self.scores)
        ]

    def as_json(self) -> dict[str, Any]:
        """Return everything as plain values."""
        table = dataclasses.asdict(self)
        table["summaries"] = [dataclasses.asdict(summary) for summary in self.summaries()]
        return table

    def table(self) -> str:
        """Return a table for people, subjects first, then means with their intervals."""
        wide = max([34, *(len(score.subject) for score in self.scores)]) + 2
        width = max([6, *(len(score.method) for score in self.scores)]) + 2
        lines = [
            f"thickness {self.thickness_mm:g} mm, gap {self.gap_mm:g} mm, along {self.axis}, "
            f"{self.profile} profile, noise {100 * self.noise:g} %, "
            f"partial Fourier {self.partial_fourier:g}",
            f"{'volume':<{wide}}{'method':<{width}}{'PSNR dB':>9}{'SSIM':>8}{'HFEN':>8}{'s':>9}"
            f"{'MiB':>8}{'residual %: median':>20}{'p99':>7}",
        ]
        lines += [
            f"{s.subject:<{wide}}{s.method:<{width}}{s.psnr_db:>9.2f}{s.ssim:>8.4f}{s.hfen:>8.4f}"
            f"{s.seconds:>9.2f}{s.peak_mib:>8.0f}{100 * s.residual_median:>20.2f}"
            f"{100 * s.residual_p99:>7.2f}"
            for s in self.scores
        ]
        lines += [
            f"{'mean':<{wide}}{s.method:<{width}}{s.psnr_db[0]:>9.2f}{s.ssim[0]:>8.4f}"
            f"{s.hfen[0]:>8.4f}{s.seconds:>9.2f}{s.peak_mib:>8.0f}{100 * s.residual_median:>20.2f}"
            f"{100 * s.residual_p99:>7.2f}  [{s.psnr_db[1]:.2f}, {s.psnr_db[2]:.2f}] dB"
            for s in self.summaries()
        ]
        return "\n".join(lines)


def evaluate(
    paths: Sequence[Path],
    *,
    thickness_mm: float,
    gap_mm: float,
    axis: str = "y",
    methods: Sequence[str] = DEFAULT_METHODS,
    checkpoint: Checkpoint | None = None,
    noise: float = 0.0,
    profile: SliceProfile = SliceProfile.GAUSSIAN,
    partial_fourier: float = 1.0,
    eclare: Eclare | None = None,
    progress: Callable[[Score], None] | None = None,
) -> Evaluation:
    """Score methods on sharp volumes that are acquired again in thick slices.

    Every method gets the same thick slices and returns slices at the centres of the volume's own,
    where these lie in the simulated field of view.

    Parameters
    ----------
    paths
        NIfTI files, or ``.tar.xz`` archives of one DICOM series.
    thickness_mm, gap_mm, noise, profile, partial_fourier
        What is simulated, as in :class:`Protocol`.
    axis
        x, y or z in RAS order. The default is y, front to back: of the public heads that are
        measured here, some are not sharp along z, and all are along y.
    methods, checkpoint, eclare
        As in :func:`build_methods`.
    progress
        Called with each score as it is known.

    Raises
    ------
    ValueError
        If a method is unknown or lacks what it needs, or the protocol is impossible.
    OutOfRange
        If the network is among the methods and not made for such slices.
    """
    built = build_methods(methods, checkpoint, eclare)
    protocol = Protocol(thickness_mm, gap_mm, axis, profile, noise, partial_fourier)
    scores: list[Score] = []
    for path in paths:
        head = crop_to_head(load_ras(path))
        check_range(methods, checkpoint, protocol, head)
        made = simulate(head, protocol)
        thick, truth = made.thick, made.truth
        degrade = degradation_matrix(thick.stack, thick.positions, profile)
        mask, acquired = foreground(truth), foreground(thick.slices)
        peak = float(np.percentile(truth[mask], 99.5))
        for name, method in built.items():
            with measured_memory() as memory:
                started = time.perf_counter()
                result = method(thick)
                seconds = time.perf_counter() - started
            missing = (thick.slices - along_last_axis(degrade, result))[acquired]
            residual = Residual.of(missing, thick.intensity_scale)
            score = Score(
                path.name.split(".")[0],
                name,
                psnr(truth, result, mask, peak),
                ssim(truth, result, mask, peak),
                hfen(truth, result, mask),
                seconds,
                memory.mib,
                residual.relative_median,
                residual.relative_p99,
            )
            scores.append(score)
            if progress is not None:
                progress(score)
    return Evaluation(
        thickness_mm, gap_mm, axis, noise, profile.value, partial_fourier, tuple(scores)
    )
