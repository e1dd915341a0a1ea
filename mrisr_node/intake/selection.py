"""Which series super-resolution is for, told from headers alone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from pydicom.dataset import Dataset
from pydicom.uid import UID

from mrisr_node.errors import ConversionError, NotEligible
from mrisr_node.identity import is_own_result
from mrisr_node.intake.screening import SOP_CLASSES
from mrisr_node.volumes.acquisition import Acquisition, read_acquisition, readable_header

__all__ = ["SELECTION_TAGS", "SelectionRules", "select", "unsuitable_kind"]

SELECTION_TAGS = (
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "PatientID", "IssuerOfPatientID",
    "FrameOfReferenceUID", "Modality", "ImageType", "PhotometricInterpretation",
    "BodyPartExamined", "ContributingEquipmentSequence", "Rows", "Columns", "PixelSpacing",
    "SliceThickness", "ImagePositionPatient", "ImageOrientationPatient",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
)  # fmt: skip
"""All that `select` and `read_acquisition` look at."""

# ImageType (PS3.3 C.8.3.1.1.1, C.8.16.1 and vendors' own values) of what is no magnitude image of
# anatomy, with the words for the reader.
_KINDS = {
    "DERIVED": "a derived image; super-resolution starts from acquired slices only",
    "SECONDARY": "a derived image; super-resolution starts from acquired slices only",
    "MOSAIC": "a mosaic of many slices in one image",
    "LOCALIZER": "a localizer",
    "P": "a phase image",
    "PHASE": "a phase image",
    "PHASE MAP": "a phase image",
    "VELOCITY": "a velocity image",
    "R": "a real-part image",
    "REAL": "a real-part image",
    "I": "an imaginary-part image",
    "IMAGINARY": "an imaginary-part image",
    "ADC": "a diffusion map",
    "FA": "a diffusion map",
    "TRACEW": "a diffusion map",
    "PROJECTION IMAGE": "a projection",
    "MIP": "a projection",
    "FMRI": "a functional time series",
    "PERFUSION": "a perfusion series",
    "DIFFUSION": "a diffusion series",
}
_HEADS = frozenset({"", "HEAD", "BRAIN", "SKULL", "WHOLEBODY", "HEADNECK", "IAC", "PITUITARY"})
# Code String (PS3.5 6.2)
_CODE = re.compile("[A-Z0-9 _]{1,16}")
# Below this ratio of slice distance to pixel spacing there is nothing to gain.
_MINIMUM_FACTOR = 1.5
# 128 slices of 1024 x 1024: more than any thick-slice scan of a head. Conversion takes up to 16
# bytes for a voxel, and super-resolution, with its thin slices, 40 to 80: 10 GiB for so many.
_MOST_VOXELS = 2**27


@dataclass(frozen=True)
class SelectionRules:
    """What the settings say about which series are worth the work."""

    minimum_slices: int
    minimum_distance: float
    """mm between slices."""


def unsuitable_kind(sop_class_uid: str, modality: str, image_type: Sequence[str]) -> str | None:
    """Return why images of this kind are not processed, or None where they may be.

    Parameters
    ----------
    image_type
        The values of ImageType.
    """
    if modality and modality != "MR":
        return f"{_quoted('modality', modality)}: only MR images are processed"
    if sop_class_uid not in SOP_CLASSES:
        name = UID(sop_class_uid).name
        known = name if name != sop_class_uid else "another SOP class"
        return f"{known}: no MR image that can be processed"
    for value in image_type:
        kind = str(value).strip().upper()
        if kind in _KINDS:
            return f"{_KINDS[kind]} (ImageType {kind})"
    return None


def select(datasets: Iterable[Dataset], rules: SelectionRules) -> Acquisition:
    """Return the acquired volume of a series that super-resolution should be made of.

    Parameters
    ----------
    datasets
        Every instance of the series; pixel data are not looked at. They are taken one by one, so
        that they need not be in memory together.

    Raises
    ------
    NotEligible
        The series is not one for super-resolution, with the reason.
    ConversionError
        It is one, and its slices make no regular volume, are not of one patient, or would not fit
        in memory; or a header cannot be read.
    """
    acquisition = read_acquisition(_suitable(datasets))
    count, spacing = len(acquisition.slices), min(acquisition.slices[0].pixel_spacing)
    if count < rules.minimum_slices:
        raise NotEligible(f"{count} slices; at least {rules.minimum_slices} make a volume")
    distance = acquisition.distance
    if distance < rules.minimum_distance or distance < _MINIMUM_FACTOR * spacing:
        raise NotEligible(
            f"the slices are {distance:.2f} mm apart at {spacing:.2f} mm in-plane: thin already"
        )
    columns, rows, _ = acquisition.shape
    voxels = columns * rows * count
    if voxels > _MOST_VOXELS:
        raise ConversionError(
            f"{count} slices of {columns} x {rows} voxels are {voxels}; at most {_MOST_VOXELS} are"
            " processed, because the whole volume is held in memory"
        )
    return acquisition


def _suitable(datasets: Iterable[Dataset]) -> Iterator[Dataset]:
    """Pass on instances of a kind that is processed; raise at the first of another."""
    for dataset in datasets:
        with readable_header():
            reason = _unsuitable(dataset)
        if reason:
            raise NotEligible(reason)
        yield dataset


def _unsuitable(dataset: Dataset) -> str | None:
    """Return why an instance is no acquired MR image of a head, or None where it is."""
    if is_own_result(dataset):
        return "a result of this node; results are never processed again"
    reason = unsuitable_kind(
        str(dataset.get("SOPClassUID") or ""),
        str(dataset.get("Modality") or ""),
        _values(dataset, "ImageType"),
    )
    if reason:
        return reason
    match str(dataset.get("PhotometricInterpretation") or ""):
        case "MONOCHROME1":
            # What is bright there has low values, and every stage takes high ones for signal.
            return "an inverted image (PhotometricInterpretation MONOCHROME1)"
        case "MONOCHROME2":
            pass
        case _:
            return "a colour image"
    part = str(dataset.get("BodyPartExamined") or "")
    if part.replace(" ", "").upper() in _HEADS:
        return None
    return f"{_quoted('body part', part)}: only heads are processed"


def _quoted(what: str, code: str) -> str:
    """Return what a header says in code; what is none is not repeated: people type names there."""
    return f"{what} {code}" if _CODE.fullmatch(code) else f"another {what}"


def _values(dataset: Dataset, name: str) -> list[str]:
    value = dataset.get(name)
    if value is None:
        return []
    return [value] if isinstance(value, str) else [str(v) for v in value]
