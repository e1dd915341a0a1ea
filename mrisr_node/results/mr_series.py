"""The result as an MR Image Storage series (PS3.3 A.4, C.8.3) in the study of its source."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import highdicom
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

from mrisr_node import __version__
from mrisr_node.errors import ResultError
from mrisr_node.identity import (
    IMPLEMENTATION_CLASS_UID,
    MANUFACTURER_MODEL_NAME,
    derive_uid,
)
from mrisr_node.results.attributes import carry_over
from mrisr_node.results.values import (
    NORMALISED,
    Encoding,
    Window,
    decimal,
    encoding_of,
    lossy_compression,
    window_of,
)
from mrisr_node.volumes.acquisition import Acquisition, Slice
from mrisr_node.volumes.geometry import Volume, ras_to_lps

__all__ = ["Provenance", "WrittenSeries", "require_placement", "write_mr_series"]

_MANUFACTURER = "mrisr_node project"
_SERIES_NUMBER_OFFSET = 1000


@dataclass(frozen=True)
class Provenance:
    """What made a result, for its UIDs and for those who read it.

    Parameters
    ----------
    recipe
        ``native`` or ``mni``.
    checkpoint, digest
        Name of the checkpoint and SHA-256 of its weights.
    sentence
        One sentence on method, spacing, slice profile and fidelity.
    parameters
        Everything else that changes the result, in a fixed order.
    made_at
        When processing began; a repeat of the same job keeps it.
    """

    recipe: str
    checkpoint: str
    digest: str
    sentence: str
    parameters: tuple[str, ...]
    made_at: datetime


@dataclass(frozen=True)
class WrittenSeries:
    """A result series on disk."""

    study_instance_uid: str
    series_instance_uid: str
    paths: tuple[Path, ...]


def require_placement(sources: Sequence[Dataset]) -> None:
    """Refuse a source that no result can be placed beside; worth asking before any work is done.

    Raises
    ------
    ResultError
        An instance names no study or no frame of reference.
    """
    for keyword in ("StudyInstanceUID", "FrameOfReferenceUID"):
        if not all(d.get(keyword) for d in sources):
            raise ResultError(f"the source has no {keyword}; without it no result can be placed")


def write_mr_series(
    folder: Path,
    *,
    sources: Sequence[Dataset],
    acquisition: Acquisition,
    volume: Volume,
    provenance: Provenance,
    in_source_space: bool = True,
) -> WrittenSeries:
    """Write one MR instance per slice of `volume` and return where.

    Parameters
    ----------
    folder
        Empty; gets files ``0001.dcm`` and on.
    sources
        The instances that the result was made from.
    volume
        Axes (column, row, slice), RAS+ affine.
    in_source_space
        Whether the volume lies in the source's frame of reference, with its intensities. Otherwise
        it gets a frame of reference of its own, and values of 1000 for the mean of the brain.

    Raises
    ------
    ResultError
        The source lacks what a conformant result needs.
    """
    require_placement(sources)
    first = min(sources, key=lambda d: (int(d.get("InstanceNumber") or 0), str(d.SOPInstanceUID)))
    made_of = hashlib.sha256("|".join(sorted(str(d.SOPInstanceUID) for d in sources)).encode())
    identity = (made_of.hexdigest(), provenance.digest, *provenance.parameters, __version__)
    series_uid = derive_uid("series", provenance.recipe, *identity)
    template = _series_template(first, provenance, series_uid, in_source_space)
    template.update(lossy_compression(sources))
    encoding = encoding_of(sources, volume.data) if in_source_space else NORMALISED
    window = window_of(sources, acquisition) if in_source_space else None
    _describe_pixels(template, first, volume, encoding, window or _window(volume, encoding))
    _name(template, first, volume, in_source_space)
    lps = ras_to_lps(volume.affine)
    reverse = in_source_space and _numbered_downwards(sources, acquisition)
    count = volume.data.shape[2]
    paths = []
    for index in range(count):
        number = count - index if reverse else index + 1
        instance = _instance(template, volume, lps, index, encoding)
        instance.InstanceNumber = number
        instance.SOPInstanceUID = derive_uid("instance", str(series_uid), str(index))
        instance.file_meta.MediaStorageSOPInstanceUID = instance.SOPInstanceUID
        if in_source_space:
            references = _contributing(acquisition, lps[:3, 3] + index * lps[:3, 2])
        else:
            references = list(acquisition.slices)
        instance.SourceImageSequence = _source_images(sources, references)
        path = folder / f"{number:04d}.dcm"
        instance.save_as(path, enforce_file_format=True)
        paths.append(path)
    return WrittenSeries(
        study_instance_uid=str(template.StudyInstanceUID),
        series_instance_uid=str(series_uid),
        paths=tuple(sorted(paths)),
    )


def _series_template(
    first: Dataset, provenance: Provenance, series_uid: str, in_source_space: bool
) -> Dataset:
    """Return everything that the instances of the series share."""
    made = provenance.made_at
    ds = carry_over(first)
    ds.SOPClassUID = MRImageStorage
    ds.Modality = "MR"
    ds.SeriesInstanceUID = series_uid
    ds.SeriesNumber = int(first.get("SeriesNumber") or 0) + _SERIES_NUMBER_OFFSET
    ds.SeriesDate = ds.ContentDate = ds.InstanceCreationDate = made.strftime("%Y%m%d")
    ds.SeriesTime = ds.ContentTime = ds.InstanceCreationTime = made.strftime("%H%M%S")
    ds.Manufacturer = _MANUFACTURER
    ds.ManufacturerModelName = MANUFACTURER_MODEL_NAME
    ds.SoftwareVersions = __version__
    ds.ContributingEquipmentSequence = _equipment(first, provenance)
    ds.FrameOfReferenceUID = (
        first.FrameOfReferenceUID if in_source_space else derive_uid("frame", series_uid)
    )
    ds.PositionReferenceIndicator = (
        first.get("PositionReferenceIndicator") if in_source_space else ""
    )
    ds.ImageType = ["DERIVED", "SECONDARY", "OTHER", "RESAMPLED"]
    ds.DerivationDescription = provenance.sentence[:1024]
    ds.DerivationCodeSequence = [
        _code(codes.DCM.SpatialResampling),
        _code(codes.DCM.ArtificialIntelligence),
    ]
    ds.BurnedInAnnotation = "NO"
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = MRImageStorage
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = IMPLEMENTATION_CLASS_UID
    meta.ImplementationVersionName = f"MRISR_{__version__}"[:16]
    ds.file_meta = meta
    return ds


def _describe_pixels(
    ds: Dataset, first: Dataset, volume: Volume, encoding: Encoding, window: Window
) -> None:
    columns, rows, _ = volume.data.shape
    column_spacing, row_spacing, slice_spacing = volume.spacing
    ds.Rows, ds.Columns = rows, columns
    ds.PixelSpacing = [decimal(row_spacing), decimal(column_spacing)]
    ds.SliceThickness = ds.SpacingBetweenSlices = decimal(slice_spacing)
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = (
        "MONOCHROME2" if encoding is NORMALISED else str(first.PhotometricInterpretation)
    )
    ds.BitsAllocated = ds.BitsStored = 16
    ds.HighBit = 15
    ds.PixelRepresentation = int(encoding.signed)
    if encoding.declared:
        ds.RescaleSlope, ds.RescaleIntercept = decimal(encoding.slope), decimal(encoding.intercept)
        ds.RescaleType = "US"
    ds.WindowCenter, ds.WindowWidth = decimal(window.center), decimal(window.width)
    if window.function != "LINEAR":
        ds.VOILUTFunction = window.function


def _window(volume: Volume, encoding: Encoding) -> Window:
    """Return a window for a volume whose source has none: all but the brightest."""
    scale = 1.0 if encoding.declared else 1 / encoding.slope
    low, high = (scale * float(v) for v in np.percentile(volume.data, (1, 99.5)))
    return Window((low + high) / 2, max(1.0, high - low))


def _name(ds: Dataset, first: Dataset, volume: Volume, in_source_space: bool) -> None:
    name = str(first.get("SeriesDescription") or first.get("ProtocolName") or "MR")
    where = "" if in_source_space else " MNI"
    ds.SeriesDescription = f"SR{where} {volume.spacing[2]:.1f}mm {name}"[:64]


def _instance(
    template: Dataset, volume: Volume, lps: NDArray[np.float64], index: int, encoding: Encoding
) -> Dataset:
    ds = Dataset()
    ds.update(template)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.update(template.file_meta)
    row, column = (lps[:3, axis] / np.linalg.norm(lps[:3, axis]) for axis in (0, 1))
    position = lps[:3, 3] + index * lps[:3, 2]
    ds.ImageOrientationPatient = [decimal(v) for v in (*row, *column)]
    ds.ImagePositionPatient = [decimal(v) for v in position]
    ds.SliceLocation = decimal(float(np.cross(row, column) @ position))
    pixels = encoding.encode(volume.data[:, :, index].T)
    ds.PixelData = np.ascontiguousarray(pixels).astype(pixels.dtype.newbyteorder("<")).tobytes()
    ds["PixelData"].VR = "OW"
    # US or SS follows from PixelRepresentation, which pydicom settles when it writes.
    ds.SmallestImagePixelValue = int(pixels.min())
    ds.LargestImagePixelValue = int(pixels.max())
    return ds


def _numbered_downwards(sources: Sequence[Dataset], acquisition: Acquisition) -> bool:
    """Tell whether the source counts its slices against the slice normal."""
    numbers = {str(d.SOPInstanceUID): int(d.get("InstanceNumber") or 0) for d in sources}
    first, last = acquisition.slices[0], acquisition.slices[-1]
    before = (numbers[first.sop_instance_uid], first.frame)
    return before > (numbers[last.sop_instance_uid], last.frame)


def _contributing(acquisition: Acquisition, position: NDArray[np.float64]) -> list[Slice]:
    """Return the acquired slices whose profile reaches a position (LPS+, mm)."""
    reach = max(acquisition.distance, acquisition.thickness)
    return [s for s in acquisition.slices if np.linalg.norm(s.position - position) <= reach]


def _source_images(sources: Sequence[Dataset], slices: Sequence[Slice]) -> list[Dataset]:
    classes = {str(d.SOPInstanceUID): d for d in sources}
    frames: dict[str, list[int]] = {}
    for place in slices:
        frames.setdefault(place.sop_instance_uid, []).append(place.frame)
    items = []
    for uid, numbers in frames.items():
        item = Dataset()
        item.ReferencedSOPClassUID = classes[uid].SOPClassUID
        item.ReferencedSOPInstanceUID = uid
        if "NumberOfFrames" in classes[uid]:
            item.ReferencedFrameNumber = sorted(numbers)
        item.PurposeOfReferenceCodeSequence = [
            _code(codes.DCM.SourceImageForImageProcessingOperation)
        ]
        items.append(item)
    return items


def _equipment(first: Dataset, provenance: Provenance) -> list[Dataset]:
    """Name ourselves, and the scanner, whose place in the equipment module we take."""
    ours = highdicom.ContributingEquipment(
        manufacturer=_MANUFACTURER,
        purpose_of_reference=codes.DCM.ProcessingEquipment,
        manufacturer_model_name=MANUFACTURER_MODEL_NAME,
        software_versions=[__version__, f"{provenance.checkpoint} {provenance.digest[:40]}"],
        contribution_datetime=provenance.made_at,
        contribution_description=f"Super-resolution, checkpoint sha256 {provenance.digest}",
    )
    scanner = Dataset()
    scanner.PurposeOfReferenceCodeSequence = [_code(codes.DCM.AcquisitionEquipment)]
    scanner.Manufacturer = str(first.get("Manufacturer") or "unknown")
    for keyword in (
        "ManufacturerModelName",
        "InstitutionName",
        "StationName",
        "DeviceSerialNumber",
        "SoftwareVersions",
    ):
        if first.get(keyword):
            scanner[keyword] = first[keyword]
    return [ours, scanner]


def _code(code: Code) -> Dataset:
    item = Dataset()
    item.CodeValue = code.value
    item.CodingSchemeDesignator = code.scheme_designator
    item.CodeMeaning = code.meaning
    return item
