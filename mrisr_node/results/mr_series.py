"""Results as MR Image Storage series (PS3.3 A.4, C.8.3) in the study of their source.

The thin slices themselves, and two maps that a reader lays over them: how far they depart from what
was acquired, and what super-resolution changed against interpolation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import MRImageStorage

from mrisr_node.choices import ResultKind
from mrisr_node.identity import derive_uid
from mrisr_node.results.attributes import carry_over
from mrisr_node.results.facts import write_private
from mrisr_node.results.origin import Origin, WrittenSeries, code_item, file_meta
from mrisr_node.results.values import (
    NORMALISED,
    Encoding,
    Window,
    decimal,
    encoding_by_range,
    encoding_of,
    lossy_compression,
    window_of,
)
from mrisr_node.volumes.acquisition import Acquisition, Slice
from mrisr_node.volumes.geometry import Volume, ras_to_lps

__all__ = ["write_change_map", "write_fidelity_map", "write_mr_series"]

Position = NDArray[np.float64]


@dataclass(frozen=True)
class _Content:
    """What an MR series shows.

    Parameters
    ----------
    thickness_mm
        Of its slices; their distance is the volume's.
    sentence
        DerivationDescription.
    derivation
        The codes of how it was derived.
    references
        Which acquired slices contribute to the slice at an LPS+ position (mm).
    downwards
        Whether its slices are numbered against the volume's third axis.
    """

    kind: ResultKind
    volume: Volume
    thickness_mm: float
    encoding: Encoding
    window: Window
    photometric_interpretation: str
    sentence: str
    references: Callable[[Position], Sequence[Slice]]
    downwards: bool
    in_source_space: bool = True


def write_mr_series(
    folder: Path, origin: Origin, volume: Volume, *, in_source_space: bool = True
) -> WrittenSeries:
    """Write one MR instance per thin slice and return where.

    Parameters
    ----------
    folder
        Empty; gets files ``0001.dcm`` and on.
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
    sources, acquisition = origin.sources, origin.acquisition
    encoding = encoding_of(sources, volume.data) if in_source_space else NORMALISED
    window = window_of(sources, acquisition) if in_source_space else None
    reach = max(acquisition.distance, acquisition.thickness)
    content = _Content(
        kind=ResultKind.IMAGE,
        volume=volume,
        thickness_mm=volume.spacing[2],
        encoding=encoding,
        window=window or _usual_window(volume, encoding),
        photometric_interpretation=(
            str(origin.first.PhotometricInterpretation) if in_source_space else "MONOCHROME2"
        ),
        sentence=origin.provenance.sentence,
        references=(
            (lambda place: _within(acquisition, place, reach))
            if in_source_space
            else (lambda place: acquisition.slices)
        ),
        downwards=in_source_space and _numbered_downwards(sources, acquisition),
        in_source_space=in_source_space,
    )
    return _write(folder, origin, content)


def write_fidelity_map(folder: Path, origin: Origin, residual: Volume) -> WrittenSeries:
    """Write how far a result departs from each acquired slice.

    Parameters
    ----------
    residual
        Acquired slices minus the result degraded again, on the acquired grid, in the source's
        intensities. Its magnitude is written.
    """
    data = np.abs(residual.data)
    most = float(np.percentile(data, 99.9))
    acquisition = origin.acquisition
    content = _Content(
        kind=ResultKind.FIDELITY,
        volume=Volume(data, residual.affine),
        thickness_mm=acquisition.thickness,
        encoding=encoding_by_range(data),
        window=_map_window(0.0, most),
        photometric_interpretation="MONOCHROME2",
        sentence=(
            "How far the super-resolved series, degraded again with the slice profile, departs from"
            f" each acquired slice, in the source's intensities. {origin.provenance.sentence}"
        ),
        references=lambda place: _within(acquisition, place, acquisition.distance / 2),
        downwards=_numbered_downwards(origin.sources, acquisition),
    )
    return _write(folder, origin, content)


def write_change_map(folder: Path, origin: Origin, change: Volume) -> WrittenSeries:
    """Write what super-resolution added to (above 0) or took from cubic interpolation.

    Parameters
    ----------
    change
        Thin slices minus interpolated ones, in the source's intensities.
    """
    most = float(np.percentile(np.abs(change.data), 99.9))
    acquisition = origin.acquisition
    reach = max(acquisition.distance, acquisition.thickness)
    content = _Content(
        kind=ResultKind.CHANGE,
        volume=change,
        thickness_mm=change.spacing[2],
        encoding=encoding_by_range(change.data),
        window=_map_window(-most, most),
        photometric_interpretation="MONOCHROME2",
        sentence=(
            "The super-resolved series minus cubic B-spline interpolation of the acquired slices,"
            f" in the source's intensities. {origin.provenance.sentence}"
        ),
        references=lambda place: _within(acquisition, place, reach),
        downwards=_numbered_downwards(origin.sources, acquisition),
    )
    return _write(folder, origin, content)


def _write(folder: Path, origin: Origin, content: _Content) -> WrittenSeries:
    template = _template(origin, content)
    lps = ras_to_lps(content.volume.affine)
    count = content.volume.data.shape[2]
    paths = []
    for index in range(count):
        number = count - index if content.downwards else index + 1
        instance = _instance(template, content, lps, index)
        instance.InstanceNumber = number
        instance.SOPInstanceUID = derive_uid(
            "instance", str(template.SeriesInstanceUID), str(index)
        )
        instance.file_meta.MediaStorageSOPInstanceUID = instance.SOPInstanceUID
        references = content.references(lps[:3, 3] + index * lps[:3, 2])
        instance.SourceImageSequence = _source_images(origin.sources, references)
        path = folder / f"{number:04d}.dcm"
        instance.save_as(path, enforce_file_format=True)
        paths.append(path)
    return WrittenSeries(
        kind=content.kind,
        study_instance_uid=str(template.StudyInstanceUID),
        series_instance_uid=str(template.SeriesInstanceUID),
        paths=tuple(sorted(paths)),
    )


def _template(origin: Origin, content: _Content) -> Dataset:
    """Return everything that the instances of the series share."""
    volume, encoding, window = content.volume, content.encoding, content.window
    ds = carry_over(origin.first, content.in_source_space)
    ds.SOPClassUID = MRImageStorage
    ds.file_meta = file_meta(MRImageStorage)
    ds.Modality = "MR"
    ds.SeriesInstanceUID = origin.series_uid(content.kind)
    ds.SeriesNumber = origin.series_number(content.kind)
    ds.SeriesDescription = origin.describe(
        content.kind,
        origin.facts.spacing_mm if content.in_source_space else volume.spacing[2],
        "" if content.in_source_space else " MNI",
    )
    origin.stamp(ds)
    if not content.in_source_space:
        ds.FrameOfReferenceUID = derive_uid("frame", str(ds.SeriesInstanceUID))
    if "PositionReferenceIndicator" not in ds:
        ds.PositionReferenceIndicator = ""
    what = "RESAMPLED" if content.kind is ResultKind.IMAGE else content.kind.name
    ds.ImageType = ["DERIVED", "SECONDARY", "OTHER", what]
    ds.DerivationDescription = content.sentence[:1024]
    ds.DerivationCodeSequence = [
        code_item(codes.DCM.SpatialResampling),
        code_item(codes.DCM.ArtificialIntelligence),
    ]
    ds.BurnedInAnnotation = "NO"
    made = origin.provenance
    write_private(ds, origin.facts, made.recipe, made.checkpoint, made.digest)
    ds.update(lossy_compression(origin.sources))
    columns, rows, _ = volume.data.shape
    column_spacing, row_spacing, slice_spacing = volume.spacing
    ds.Rows, ds.Columns = rows, columns
    ds.PixelSpacing = [decimal(row_spacing), decimal(column_spacing)]
    ds.SliceThickness = decimal(content.thickness_mm)
    ds.SpacingBetweenSlices = decimal(slice_spacing)
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = content.photometric_interpretation
    ds.BitsAllocated = ds.BitsStored = 16
    ds.HighBit = 15
    ds.PixelRepresentation = int(encoding.signed)
    if encoding.declared:
        ds.RescaleSlope, ds.RescaleIntercept = decimal(encoding.slope), decimal(encoding.intercept)
        ds.RescaleType = "US"
    ds.WindowCenter, ds.WindowWidth = decimal(window.center), decimal(window.width)
    if window.function != "LINEAR":
        ds.VOILUTFunction = window.function
    return ds


def _instance(
    template: Dataset, content: _Content, lps: NDArray[np.float64], index: int
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
    pixels = content.encoding.encode(content.volume.data[:, :, index].T)
    ds.PixelData = np.ascontiguousarray(pixels).astype(pixels.dtype.newbyteorder("<")).tobytes()
    ds["PixelData"].VR = "OW"
    # US or SS follows from PixelRepresentation, which pydicom settles when it writes.
    ds.SmallestImagePixelValue = int(pixels.min())
    ds.LargestImagePixelValue = int(pixels.max())
    return ds


def _usual_window(volume: Volume, encoding: Encoding) -> Window:
    """Return a window for a volume whose source has none: all but the brightest."""
    scale = 1.0 if encoding.declared else 1 / encoding.slope
    low, high = (scale * float(v) for v in np.percentile(volume.data, (1, 99.5)))
    return Window((low + high) / 2, max(1.0, high - low))


def _map_window(low: float, high: float) -> Window:
    # A linear window has a width of 1 at least (C.11.2.1.2.1); values of a map may all be smaller.
    return Window((low + high) / 2, max(high - low, 1e-6), "LINEAR_EXACT")


def _numbered_downwards(sources: Sequence[Dataset], acquisition: Acquisition) -> bool:
    """Tell whether the source counts its slices against the slice normal."""
    numbers = {str(d.SOPInstanceUID): int(d.get("InstanceNumber") or 0) for d in sources}
    first, last = acquisition.slices[0], acquisition.slices[-1]
    before = (numbers[first.sop_instance_uid], first.frame)
    return before > (numbers[last.sop_instance_uid], last.frame)


def _within(acquisition: Acquisition, position: Position, reach: float) -> list[Slice]:
    """Return the acquired slices that lie within so many mm of a position (LPS+)."""
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
            code_item(codes.DCM.SourceImageForImageProcessingOperation)
        ]
        items.append(item)
    return items
