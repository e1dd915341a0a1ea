"""An MR series as MR Image Storage: one instance per slice (PS3.3 A.4, C.8.3)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import MRImageStorage

from mrisr_node.choices import ResultKind
from mrisr_node.identity import derive_uid
from mrisr_node.results.attributes import carry_over
from mrisr_node.results.facts import write_private
from mrisr_node.results.mr_content import Content, source_images
from mrisr_node.results.origin import Origin, WrittenSeries, code_item, file_meta
from mrisr_node.results.values import burned_in, decimal, lossy_compression

__all__ = ["write_classic"]


def write_classic(folder: Path, origin: Origin, content: Content) -> WrittenSeries:
    """Write one MR Image instance per slice.

    Parameters
    ----------
    folder
        Empty; gets files ``0001.dcm`` and on.
    """
    template = _template(origin, content)
    series_uid = str(template.SeriesInstanceUID)
    paths = []
    for number, index in enumerate(content.order(), start=1):
        instance = _instance(template, content, index)
        instance.InstanceNumber = number
        instance.SOPInstanceUID = derive_uid("instance", series_uid, str(index))
        instance.file_meta.MediaStorageSOPInstanceUID = instance.SOPInstanceUID
        slices = content.references(content.position(index))
        instance.SourceImageSequence = source_images(origin.sources, slices)
        path = folder / f"{number:04d}.dcm"
        instance.save_as(path, enforce_file_format=True)
        paths.append(path)
    return WrittenSeries(
        kind=content.kind,
        study_instance_uid=str(template.StudyInstanceUID),
        series_instance_uid=series_uid,
        paths=tuple(paths),
    )


def _template(origin: Origin, content: Content) -> Dataset:
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
    ds.DerivationCodeSequence = [code_item(code) for code in content.derivation]
    ds.BurnedInAnnotation = burned_in(origin.sources)
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


def _instance(template: Dataset, content: Content, index: int) -> Dataset:
    ds = Dataset()
    ds.update(template)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.update(template.file_meta)
    row, column = content.directions()
    position = content.position(index)
    ds.ImageOrientationPatient = [decimal(v) for v in (*row, *column)]
    ds.ImagePositionPatient = [decimal(v) for v in position]
    ds.SliceLocation = decimal(float(np.cross(row, column) @ position))
    pixels = content.pixels(index)
    ds.PixelData = pixels.tobytes()
    ds["PixelData"].VR = "OW"
    # US or SS follows from PixelRepresentation, which pydicom settles when it writes.
    ds.SmallestImagePixelValue = int(pixels.min())
    ds.LargestImagePixelValue = int(pixels.max())
    return ds
