"""The scans that pairs are made of, found in files and folders, and read."""

from __future__ import annotations

import hashlib
import logging
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.orientations import io_orientation
from pydicom import dcmread

from mrisr_node.errors import ConversionError, NotEligible
from mrisr_node.superres.sources import load_ras
from mrisr_node.volumes.contrast import CONTRASTS, contrast_of
from mrisr_node.volumes.conversion import convert
from mrisr_node.volumes.folders import find_series
from mrisr_node.volumes.geometry import Affine, Volume

__all__ = ["COARSEST_MM", "Scan", "find_scans", "read_scan", "sha256_of", "subject_in"]

COARSEST_MM = 1.5
"""Voxels that are longer along any axis are no high resolution: half the thinnest usual slice."""

_log = logging.getLogger(__name__)

# Of the header's own word, before anything is read: four times a cube of 400.
_MOST_VOXELS = 2**28
_NIFTI = (".nii", ".nii.gz")
_BIDS_SUBJECT = re.compile(r"sub-([0-9A-Za-z+]+)_")
_BIDS_CONTRAST = re.compile(rf"_({'|'.join(CONTRASTS)})\.nii")


@dataclass(frozen=True)
class Scan:
    """One NIfTI file, or one DICOM series.

    Parameters
    ----------
    paths
        Its files.
    sha256
        Of the file; of a series, over the sorted digests of its files.
    person
        Who was scanned, where that can be told; it never leaves this process.
    contrast
        A suffix of BIDS, where it can be told.
    named
        Whether the user named it, and did not just have it in a folder.
    """

    paths: tuple[Path, ...]
    sha256: str
    person: str | None
    contrast: str | None
    named: bool

    @property
    def source(self) -> Path:
        """The file, or the folder of the series' first."""
        return self.paths[0] if len(self.paths) == 1 else self.paths[0].parent


def find_scans(inputs: Iterable[Path]) -> list[Scan]:
    """Return the scans of files and folders in a fixed order, each once: DICOM series come last."""
    scans: list[Scan] = []
    series: dict[str, dict[Path, None]] = {}
    named: set[str] = set()
    for path in inputs:
        if path.is_dir():
            files = sorted(p for p in path.rglob("*") if p.is_file() and p.name.endswith(_NIFTI))
            scans += [_nifti(file, named=False) for file in files]
        if path.is_file() and path.name.endswith(_NIFTI):
            scans.append(_nifti(path, named=True))
            continue
        found = find_series(path)
        for uid, files in found.items():
            series.setdefault(uid, {}).update(dict.fromkeys(files))
        if path.is_file():
            named |= found.keys()
            scans += [] if found else [_nifti(path, named=True)]  # it will say that it is none
    scans += [_series(list(files), named=uid in named) for uid, files in series.items()]
    once: dict[str, Scan] = {}
    for scan in scans:
        once.setdefault(scan.sha256, scan)
    return list(once.values())


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def subject_in(name: str) -> str | None:
    """Return the label of the subject in a file's name that is as in BIDS."""
    found = _BIDS_SUBJECT.match(name)
    return found[1] if found else None


def _nifti(path: Path, *, named: bool) -> Scan:
    subject, contrast = subject_in(path.name), _BIDS_CONTRAST.search(path.name)
    return Scan(
        paths=(path,),
        sha256=sha256_of(path),
        person=f"BIDS {subject}" if subject else None,
        contrast=contrast[1] if contrast else None,
        named=named,
    )


def _series(paths: Sequence[Path], *, named: bool) -> Scan:
    digests = sorted(sha256_of(path) for path in paths)
    contrast = contrast_of(dcmread(path, stop_before_pixels=True) for path in paths)
    return Scan(
        paths=tuple(paths),
        sha256=hashlib.sha256("\n".join(digests).encode()).hexdigest(),
        person=_person(paths[0]),
        contrast=contrast,
        named=named,
    )


def _person(path: Path) -> str | None:
    tags = ["PatientID", "IssuerOfPatientID"]
    header = dcmread(path, stop_before_pixels=True, specific_tags=tags)
    words = [str(header.get(tag) or "").strip() for tag in tags]
    return "\n".join(["DICOM", *words]) if words[0] else None


def read_scan(paths: Sequence[Path]) -> Volume:
    """Read a scan, its axes nearest to right, anterior and superior.

    Raises
    ------
    NotEligible
        It is no volume of high resolution.
    SeriesError
        It cannot be read, or does not say how it lies in space.
    """
    nifti = len(paths) == 1 and paths[0].name.endswith(_NIFTI)
    volume = _read_nifti(paths[0]) if nifti else _canonical(convert(paths).volume)
    for axis, spacing in zip("xyz", volume.spacing, strict=True):
        if spacing > COARSEST_MM:
            raise NotEligible(
                f"its voxels are {spacing:.2f} mm long along {axis}: a scan of high resolution has"
                f" at most {COARSEST_MM:g} mm along every axis"
            )
    return volume


def _read_nifti(path: Path) -> Volume:
    try:
        image = nib.nifti1.Nifti1Image.from_filename(path)
        if math.prod(image.shape) > _MOST_VOXELS:
            raise ConversionError(f"it has more than {_MOST_VOXELS} voxels")
        placed = int(image.header["sform_code"]) or int(image.header["qform_code"])
        volume = load_ras(path)
    except (ConversionError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - what nibabel raises has no common root
        # Its words may hold the file's name.
        _log.debug("a NIfTI file cannot be read: %s", type(error).__name__)
        raise ConversionError(
            "it is no NIfTI file of one volume of finite numbers, or is damaged"
        ) from None
    if not placed:
        raise ConversionError(
            "its header does not say how it lies in space (sform and qform code are 0), so left"
            " and right cannot be told apart; convert it again from DICOM"
        )
    if volume.data.min() == volume.data.max():
        raise ConversionError("it holds no signal")
    return volume


def _canonical(volume: Volume) -> Volume:
    """Turn a volume until its axes run as near to right, anterior and superior as they can."""
    turn = io_orientation(volume.affine)  # type: ignore[no-untyped-call]
    image = nib.nifti1.Nifti1Image(volume.data, volume.affine).as_reoriented(turn)  # type: ignore[no-untyped-call]
    affine: Affine = np.asarray(image.affine)
    return Volume(np.ascontiguousarray(image.get_fdata(dtype=np.float32)), affine)
