"""Lesion test: whether small spheres, planted before degradation, are kept and none invented.

A method restores every head twice, with spheres and without. Their difference tells how much of a
sphere's contrast is left. Whether a sphere can be seen is told by an observer that knows where to
look and what for, the non-prewhitening matched filter of the literature on medical image quality
(Burgess, Semin Nucl Med 41(6), 2011): the mean inside the sphere minus that of the tissue around
it, in standard deviations of this tissue. It calls a sphere detected above a threshold that only
5 % of the places without spheres exceed in the sharp heads. How many of these places exceed it in
a method's result is the method's rate of false spheres.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrisr_node.superres.checkpoints import Checkpoint
from mrisr_node.superres.methods import build_methods, check_range
from mrisr_node.superres.peers import Eclare
from mrisr_node.superres.simulation import Protocol, crop_to_head, simulate
from mrisr_node.superres.sources import load_ras
from mrisr_node.superres.spheres import (
    Lesions,
    Point,
    Sphere,
    SphereOnGrid,
    place_spheres,
    plant,
)
from mrisr_node.volumes.geometry import FloatArray, Volume

__all__ = [
    "LESION_METHODS",
    "LesionEvaluation",
    "LesionScore",
    "evaluate_lesions",
]

LESION_METHODS = ("cubic", "cubic-bp", "ours")

_TRUTH = "truth"  # the sharp heads themselves, scored like a method
_FALSE_IN_TRUTH = 0.05


@dataclass(frozen=True)
class LesionScore:
    """One method on the spheres of one diameter and sign, over all heads.

    Parameters
    ----------
    method
        Its name; ``truth`` is the sharp heads themselves.
    diameter_mm, bright
        Of the spheres.
    planted
        How many.
    recovered
        Mean share of their contrast in the difference of the two results; 1 is perfect.
    detected
        Share of the spheres that stand out of the tissue around by more than the threshold.
    false
        Share of the places, in the heads without spheres, that do so as well.
    """

    method: str
    diameter_mm: float
    bright: bool
    planted: int
    recovered: float
    detected: float
    false: float


@dataclass(frozen=True)
class LesionEvaluation:
    """Scores of several methods on the same spheres."""

    protocol: Protocol
    lesions: Lesions
    subjects: tuple[str, ...]
    scores: tuple[LesionScore, ...]

    def as_json(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return dataclasses.asdict(self)

    def table(self) -> str:
        """Return a table for people."""
        p = self.protocol
        width = max(len(score.method) for score in self.scores) + 2
        lines = [
            f"{len(self.subjects)} heads, thickness {p.thickness_mm:g} mm, gap {p.gap_mm:g} mm, "
            f"along {p.axis}, {p.profile.value} profile, noise {100 * p.noise:g} %, "
            f"spheres of ±{100 * self.lesions.contrast:g} %",
            f"{'diameter mm':<13}{'sign':<8}{'method':<{width}}{'planted':>8}{'recovered':>11}"
            f"{'detected':>10}{'false':>8}",
        ]
        lines += [
            f"{s.diameter_mm:<13g}{'bright' if s.bright else 'dark':<8}{s.method:<{width}}"
            f"{s.planted:>8}{s.recovered:>11.2f}{s.detected:>10.2f}{s.false:>8.2f}"
            for s in self.scores
        ]
        return "\n".join(lines)


@dataclass(frozen=True)
class _Outcome:
    """One method on one head: per sphere, and per place and diameter without spheres."""

    recovered: NDArray[np.float64]
    seen: NDArray[np.float64]
    seen_without: dict[float, NDArray[np.float64]]


def _outcome(
    with_spheres: FloatArray,
    without: FloatArray,
    spheres: Sequence[Sphere],
    heights: Sequence[float],
    spacing: Point,
) -> _Outcome:
    boxes = [SphereOnGrid.of(s.centre, s.diameter_mm, spacing, without.shape) for s in spheres]
    difference = with_spheres - without
    return _Outcome(
        np.array(
            [b.projection(difference) / height for b, height in zip(boxes, heights, strict=True)]
        ),
        np.array([box.visibility(with_spheres) for box in boxes]),
        {
            diameter: np.array(
                [
                    SphereOnGrid.of(s.centre, diameter, spacing, without.shape).visibility(without)
                    for s in spheres
                ]
            )
            for diameter in {s.diameter_mm for s in spheres}
        },
    )


def _scores(
    method: str,
    outcomes: Sequence[_Outcome],
    truths: Sequence[_Outcome],
    spheres: Sequence[Sequence[Sphere]],
    lesions: Lesions,
) -> list[LesionScore]:
    result = []
    recovered = np.concatenate([outcome.recovered for outcome in outcomes])
    seen = np.concatenate([outcome.seen for outcome in outcomes])
    everywhere = [sphere for head in spheres for sphere in head]
    for diameter in lesions.diameters_mm:
        usual = np.concatenate([truth.seen_without[diameter] for truth in truths])
        without = np.concatenate([outcome.seen_without[diameter] for outcome in outcomes])
        for bright in (True, False):
            sign = 1.0 if bright else -1.0
            threshold = np.quantile(sign * usual, 1.0 - _FALSE_IN_TRUTH)
            chosen = [s.diameter_mm == diameter and s.bright == bright for s in everywhere]
            result.append(
                LesionScore(
                    method,
                    diameter,
                    bright,
                    int(np.sum(chosen)),
                    float(recovered[chosen].mean()),
                    float((sign * seen[chosen] > threshold).mean()),
                    float((sign * without > threshold).mean()),
                )
            )
    return result


def evaluate_lesions(
    paths: Sequence[Path],
    protocol: Protocol,
    *,
    lesions: Lesions | None = None,
    methods: Sequence[str] = LESION_METHODS,
    checkpoint: Checkpoint | None = None,
    eclare: Eclare | None = None,
    progress: Callable[[str, str], None] | None = None,
) -> LesionEvaluation:
    """Plant spheres in sharp heads, acquire these in thick slices, restore them, and look for them.

    Both acquisitions of a head, with spheres and without, have the same noise.

    Parameters
    ----------
    paths
        NIfTI files, or ``.tar.xz`` archives of one DICOM series.
    protocol
        Of the simulated acquisition.
    lesions
        What is planted.
    methods, checkpoint, eclare
        As in :func:`build_methods`.
    progress
        Called with subject and method when both are restored.

    Raises
    ------
    ValueError
        If a method is unknown or lacks what it needs, or a head has no room for the spheres.
    OutOfRange
        If the network is among the methods and not made for such slices.
    """
    lesions = lesions or Lesions()
    built = build_methods(methods, checkpoint, eclare)
    outcomes: dict[str, list[_Outcome]] = {name: [] for name in (_TRUTH, *built)}
    planted: list[list[Sphere]] = []
    subjects = []
    for path in paths:
        subjects.append(path.name.split(".")[0])
        head = crop_to_head(load_ras(path))
        check_range(methods, checkpoint, protocol, head)
        plain = simulate(head, protocol)
        spheres = place_spheres(head.data, head.spacing, lesions)
        data, heights = plant(head.data, spheres, head.spacing, lesions.contrast)
        sick = simulate(Volume(data, head.affine), protocol, plain.thick.intensity_scale)
        axis = "xyz".index(protocol.axis)
        spheres = [sphere.on_slices(axis, plain.first) for sphere in spheres]
        x, y = (size for index, size in enumerate(head.spacing) if index != axis)
        spacing = (x, y, head.spacing[axis])
        planted.append(spheres)
        outcomes[_TRUTH].append(_outcome(sick.truth, plain.truth, spheres, heights, spacing))
        for name, method in built.items():
            restored = method(sick.thick), method(plain.thick)
            outcomes[name].append(_outcome(*restored, spheres, heights, spacing))
            if progress is not None:
                progress(subjects[-1], name)
    scores = [
        score
        for name, found in outcomes.items()
        for score in _scores(name, found, outcomes[_TRUTH], planted, lesions)
    ]
    order = {name: index for index, name in enumerate(outcomes)}
    scores.sort(key=lambda s: (s.diameter_mm, not s.bright, order[s.method]))
    return LesionEvaluation(protocol, lesions, tuple(subjects), tuple(scores))
