"""From one scan to its pairs: files in a folder of drafts."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mrisr_node.errors import ConversionError
from mrisr_node.pairs.figures import write_figure
from mrisr_node.pairs.names import Names
from mrisr_node.pairs.nifti import write_nifti
from mrisr_node.pairs.options import PairOptions, Slices
from mrisr_node.pairs.scans import read_scan
from mrisr_node.pairs.sidecars import high_sidecar, low_sidecar, mask_sidecar
from mrisr_node.volumes.bias import correct_bias
from mrisr_node.volumes.brain import extract_brain
from mrisr_node.volumes.degradation import Thickened, thicken
from mrisr_node.volumes.geometry import Volume
from mrisr_node.volumes.intensity import measure_intensity, normalised
from mrisr_node.volumes.registration import register_to_mni, to_mni

__all__ = ["PairStage", "degraded", "make_pairs_of", "write_pairs"]

# Below, sums over thin slices are no longer the integrals over the profile.
_THIN_PER_THICKNESS = 1.5


class PairStage(StrEnum):
    """What is done to a scan, in this order."""

    READ = "read"
    BRAIN = "brain"
    BIAS = "bias"
    REGISTER = "register"
    WRITE = "write"


Report = Callable[[PairStage, float], None]


def make_pairs_of(
    paths: Sequence[Path], sha256: str, names: Names, drafts: Path, report: Report
) -> None:
    """Make the pairs of a scan.

    Parameters
    ----------
    paths, sha256
        The scan's files and their digest.
    drafts
        Folder that gets the files, by the names that they have in the dataset.
    report
        Told each stage and the part of it that is done.

    Raises
    ------
    NodeError
        Why there are none.
    """
    options = names.options
    report(PairStage.READ, 0.0)
    scan = read_scan(paths)
    if not options.register:
        _require_thin(scan, options)
    report(PairStage.BRAIN, 0.0)
    mask = extract_brain(scan, progress=lambda part: report(PairStage.BRAIN, part))
    report(PairStage.BIAS, 0.0)
    corrected = correct_bias(scan, mask)
    brain = Volume(np.where(mask, corrected.data, np.float32(0)), scan.affine)
    brain = normalised(brain, measure_intensity(brain, mask))
    if options.register:
        report(PairStage.REGISTER, 0.0)
        brain, mask = _in_mni(brain, mask)
        _require_thin(brain, options)
    report(PairStage.WRITE, 0.0)
    write_pairs(brain, mask, sha256, names, drafts, dicom=not _is_nifti(paths))


def _is_nifti(paths: Sequence[Path]) -> bool:
    return len(paths) == 1 and paths[0].name.endswith((".nii", ".nii.gz"))


def _require_thin(volume: Volume, options: PairOptions) -> None:
    """Refuse what cannot be made of it, before or after the minutes that registration takes."""
    spacing = volume.spacing["xyz".index(options.axis)]
    for slices in options.slices:
        if slices.thickness_mm < _THIN_PER_THICKNESS * spacing:
            raise ConversionError(
                f"slices of {slices.thickness_mm:g} mm cannot be made of ones that are"
                f" {spacing:.2f} mm apart; they must be {_THIN_PER_THICKNESS:g} times as thick"
            )


def _in_mni(brain: Volume, mask: NDArray[np.bool_]) -> tuple[Volume, NDArray[np.bool_]]:
    with tempfile.TemporaryDirectory(prefix="mrisr-pairs-") as folder:
        transform = Path(folder, "to_mni.mat")
        register_to_mni(brain, transform)
        moved = to_mni(brain, transform)
        inside = to_mni(Volume(mask.astype(np.float32), brain.affine), transform).data > 0.5
    data = np.where(inside, np.maximum(moved.data, 0), np.float32(0))
    return Volume(np.asarray(data, dtype=np.float32), moved.affine), inside


def degraded(high: Volume, options: PairOptions) -> dict[Slices, Thickened]:
    """Acquire the high resolution again in each kind of thick slices.

    Raises
    ------
    ConversionError
        One of them does not fit into it.
    """
    axis = "xyz".index(options.axis)
    try:
        return {
            s: thicken(high, axis, s.thickness_mm, s.gap_mm, options.profile)
            for s in options.slices
        }
    except ValueError as error:
        raise ConversionError(str(error)) from error


def write_pairs(
    high: Volume,
    mask: NDArray[np.bool_],
    sha256: str,
    names: Names,
    drafts: Path,
    *,
    dicom: bool,
) -> None:
    """Degrade a prepared brain and write both, with what is said of them."""
    options = names.options
    write = _Writer(drafts, in_template_space=options.register)
    write(names.high, high, high_sidecar(names, high, sha256, dicom=dicom))
    write(names.mask, high, mask_sidecar(names, high), mask.astype(np.uint8))
    for slices, thick in degraded(high, options).items():
        sidecar = low_sidecar(names, slices, thick, sha256, dicom=dicom)
        write(names.low(slices), thick.volume, sidecar)
        figure = drafts / f"{names.figure(slices)}.png"
        figure.parent.mkdir(parents=True, exist_ok=True)
        words = f"{options.plane} slices of {slices.thickness_mm:g} mm, gap {slices.gap_mm:g} mm"
        write_figure(figure, high, thick.volume, mask, "xyz".index(options.axis), words)


class _Writer:
    """Writes images with their sidecars into a folder of drafts."""

    def __init__(self, drafts: Path, *, in_template_space: bool) -> None:
        self._drafts = drafts
        self._in_template_space = in_template_space

    def __call__(
        self,
        name: str,
        volume: Volume,
        sidecar: dict[str, object],
        data: NDArray[np.generic] | None = None,
    ) -> None:
        image = self._drafts / f"{name}.nii.gz"
        image.parent.mkdir(parents=True, exist_ok=True)
        write_nifti(
            image,
            volume.data if data is None else data,
            volume.affine,
            in_template_space=self._in_template_space,
        )
        text = json.dumps(sidecar, indent=2, ensure_ascii=False) + "\n"
        (self._drafts / f"{name}.json").write_text(text, encoding="utf-8")
