"""Which series super-resolution is for, told from headers alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

from pydicom.dataset import Dataset
from pydicom.uid import UID

from mrisr_node.counts import counted
from mrisr_node.errors import ConversionError, NotEligible
from mrisr_node.identity import is_own_result
from mrisr_node.intake.screening import SOP_CLASSES
from mrisr_node.volumes.acquisition import (
    MOST_SLICES,
    Acquisition,
    acquisition_of,
    of_one_patient,
    readable_header,
)
from mrisr_node.volumes.geometry import too_large
from mrisr_node.volumes.stacks import CODE_STRING, CONTRAST_TAGS, Image, image_of, labels_of, split

__all__ = ["SELECTION_TAGS", "Selection", "SelectionRules", "Stack", "select", "unsuitable_kind"]

SELECTION_TAGS = (
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "PatientID", "IssuerOfPatientID",
    "FrameOfReferenceUID", "Modality", "ImageType", "ComplexImageComponent",
    "PhotometricInterpretation", "BodyPartExamined", "ContributingEquipmentSequence", "Rows",
    "Columns", "PixelSpacing", "SliceThickness", "ImagePositionPatient", "ImageOrientationPatient",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", *CONTRAST_TAGS,
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
# Below this ratio of slice distance to pixel spacing there is nothing to gain.
_MINIMUM_FACTOR = 1.5
# 128 slices of 1024 x 1024: more than any thick-slice scan of a head. Conversion takes up to 16
# bytes for a voxel, and super-resolution, with its thin slices, 40 to 80: 10 GiB for so many.
_MOST_VOXELS = 2**27
# Echoes of one acquisition are two or three; more volumes are a series of measurements.
_MOST_STACKS = 8
_MOST_REASONS = 2


@dataclass(frozen=True)
class SelectionRules:
    """What the settings say about which series are worth the work."""

    minimum_slices: int
    minimum_distance: float
    """mm between slices."""


@dataclass(frozen=True)
class Stack:
    """One volume of a series that super-resolution should be made of.

    Parameters
    ----------
    label
        What distinguishes it from the others of its series; empty where it is the whole series.
    """

    label: str
    acquisition: Acquisition

    @property
    def voxels(self) -> int:
        """How many there are."""
        columns, rows, slices = self.acquisition.shape
        return columns * rows * slices


@dataclass(frozen=True)
class Selection:
    """What of a series is processed, and what is not.

    Parameters
    ----------
    stacks
        At least one.
    left_out
        For each other stack, in words, which it is and why it is none for super-resolution.
    """

    stacks: tuple[Stack, ...]
    left_out: tuple[str, ...] = ()


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
    return _unsuitable_type(image_type)


def _unsuitable_type(image_type: Sequence[str]) -> str | None:
    for value in image_type:
        kind = str(value).strip().upper()
        if kind in _KINDS or kind.endswith(" MAP"):
            return f"{_KINDS.get(kind, 'a map')} (ImageType {kind})"
    return None


def select(datasets: Iterable[Dataset], rules: SelectionRules) -> Selection:
    """Return the acquired volumes of a series that super-resolution should be made of.

    A series is one volume. Where it is not, it is split by what distinguishes its images, and what
    of it is a volume is taken.

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
        in memory; or a header cannot be read. Of several stacks none may be like that: what is
        missing of one of them may still come.
    """
    images: list[Image] = []
    count = 0
    placeless = ""
    for dataset in of_one_patient(datasets):
        with readable_header():
            reason, placeless = _unsuitable(dataset), placeless or _placeless(dataset)
            image_type = _image_type(dataset)
        if reason:
            raise NotEligible(reason)
        image = image_of(dataset, image_type, required=_unsuitable_type(image_type) is None)
        count += len(image.slices)
        if count > MOST_SLICES:
            raise NotEligible(
                f"the series has more than {MOST_SLICES} images; no volume has so many"
            )
        images.append(image)
    try:
        selection = Selection((Stack("", _volume(images, rules)),))
    except NotEligible:
        parts = _split(images, rules)
        if parts is None:
            raise  # with the reason of the whole: parts that are none alike tell no more
        selection = parts
    if placeless:
        raise NotEligible(placeless)
    return selection


def _split(images: Sequence[Image], rules: SelectionRules) -> Selection | None:
    """Return what there is in a series that is not one volume, if there is anything.

    Raises
    ------
    NotEligible
        Nothing of it is, and its parts for different reasons.
    """
    groups = split(images)
    if len(groups) < 2:
        return None
    stacks: list[Stack] = []
    left_out: list[str] = []
    reasons: set[str] = set()
    for label, group in zip(labels_of(groups), groups, strict=True):
        count = sum(len(image.slices) for image in group)
        try:
            _require_suitable(group)
            if count < rules.minimum_slices:
                raise NotEligible(_too_few(count, rules))  # and no matter how they lie
            stacks.append(Stack(label, _volume(group, rules)))
        except NotEligible as error:
            reasons.add(str(error))
            left_out.append(f"{label} left out: {error}")
        except ConversionError as error:
            raise ConversionError(f"{label}: {error}") from error
    if not stacks:
        if 1 < len(reasons) <= _MOST_REASONS:
            raise NotEligible("; ".join(left_out[:_MOST_STACKS]))
        return None
    if len(stacks) > _MOST_STACKS:
        raise NotEligible(
            f"the series holds {len(stacks)} volumes of different contrast, a series of"
            f" measurements; at most {_MOST_STACKS} are processed"
        )
    if len(left_out) > _MOST_STACKS:
        left_out[_MOST_STACKS:] = [f"{len(left_out) - _MOST_STACKS} others left out"]
    return Selection(tuple(stacks), tuple(left_out))


def _require_suitable(images: Sequence[Image]) -> None:
    for image in images:
        if reason := _unsuitable_type(image.image_type):
            raise NotEligible(reason)


def _volume(images: Sequence[Image], rules: SelectionRules) -> Acquisition:
    """Return the volume that some images make, if it is one that is worth the work."""
    _require_suitable(images)
    acquisition = acquisition_of(chain.from_iterable(image.slices for image in images))
    count, spacing = len(acquisition.slices), min(acquisition.slices[0].pixel_spacing)
    if count < rules.minimum_slices:
        raise NotEligible(_too_few(count, rules))
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
    if reason := too_large(acquisition.shape, acquisition.spacing):
        raise ConversionError(reason)
    return acquisition


def _too_few(count: int, rules: SelectionRules) -> str:
    return f"{counted(count, 'slice')}; at least {rules.minimum_slices} make a volume"


def _unsuitable(dataset: Dataset) -> str | None:
    """Return why an instance, whatever its ImageType, is no MR image of a head; or None."""
    if is_own_result(dataset):
        return "a result of this node; results are never processed again"
    reason = unsuitable_kind(
        str(dataset.get("SOPClassUID") or ""), str(dataset.get("Modality") or ""), ()
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


def _placeless(dataset: Dataset) -> str:
    """Return why nothing can be placed beside an image, or nothing where it can."""
    for keyword in ("StudyInstanceUID", "FrameOfReferenceUID"):
        if not dataset.get(keyword):
            return f"the images name no {keyword}, so no result could be placed beside them"
    return ""


def _quoted(what: str, code: str) -> str:
    """Return what a header says in code; what is none is not repeated: people type names there."""
    return f"{what} {code}" if CODE_STRING.fullmatch(code) else f"another {what}"


def _image_type(dataset: Dataset) -> list[str]:
    """Return ImageType and what an Enhanced image and its frames say of the same (C.8.13.3.1)."""
    groups = [
        *(dataset.get("SharedFunctionalGroupsSequence") or []),
        *(dataset.get("PerFrameFunctionalGroupsSequence") or []),
    ]
    frames = [item for group in groups for item in group.get("MRImageFrameTypeSequence") or []]
    said = [_values(dataset, "ImageType"), _values(dataset, "ComplexImageComponent")]
    for frame in frames:
        said += [_values(frame, "FrameType"), _values(frame, "ComplexImageComponent")]
    return list(dict.fromkeys(value for values in said for value in values))


def _values(dataset: Dataset, name: str) -> list[str]:
    value = dataset.get(name)
    if value is None:
        return []
    return [value] if isinstance(value, str) else [str(v) for v in value]
