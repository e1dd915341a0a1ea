"""The slices of a NIfTI file as MR images: so that its result has something to lie beside."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import MRImageStorage

from mrisr_node import __version__
from mrisr_node.choices import ResultKind
from mrisr_node.identity import derive_uid
from mrisr_node.results.mr_content import Content
from mrisr_node.results.origin import file_meta
from mrisr_node.results.values import Encoding, Window, decimal, encoding_by_range
from mrisr_node.volumes.geometry import Volume

__all__ = ["write_converted"]

_SENTENCE = (
    f"Converted from a NIfTI file by mrisr_node {__version__}: of the acquisition nothing is known"
    " but the geometry that the file states, and patient and study are what somebody has entered."
)
_MARK = " (from NIfTI)"
_WHOLE = (
    Encoding(1.0, 0.0, signed=False, declared=False),
    Encoding(1.0, 0.0, signed=True, declared=False),
)


def write_converted(
    folder: Path,
    volume: Volume,
    *,
    thickness_mm: float,
    study_instance_uid: str,
    series_instance_uid: str,
    attributes: Mapping[str, str],
    made_at: datetime,
) -> list[Path]:
    """Write one MR Image instance per slice, marked as derived (PS3.3 C.7.6.1.1.2).

    Parameters
    ----------
    folder
        Empty; gets files ``0001.dcm`` and on.
    volume
        Axes (column, row, slice).
    attributes
        DICOM attributes of patient, study and series, by keyword.
    made_at
        When it was converted; a repeat gives the same bytes.
    """
    content = _content(volume, thickness_mm)
    template = _template(content, attributes, made_at)
    template.StudyInstanceUID, template.SeriesInstanceUID = study_instance_uid, series_instance_uid
    template.FrameOfReferenceUID = derive_uid("frame", series_instance_uid)
    paths = []
    row, column = content.directions()
    for index in range(content.count):
        ds = Dataset()
        ds.update(template)
        ds.file_meta = FileMetaDataset()
        ds.file_meta.update(file_meta(MRImageStorage))
        ds.SOPInstanceUID = derive_uid("instance", series_instance_uid, str(index))
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        ds.InstanceNumber = index + 1
        position = content.position(index)
        ds.ImageOrientationPatient = [decimal(v) for v in (*row, *column)]
        ds.ImagePositionPatient = [decimal(v) for v in position]
        ds.SliceLocation = decimal(float(np.cross(row, column) @ position))
        ds.PixelData = content.pixels(index).tobytes()
        ds["PixelData"].VR = "OW"
        path = folder / f"{index + 1:04d}.dcm"
        ds.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def _content(volume: Volume, thickness_mm: float) -> Content:
    data = volume.data
    whole = bool((data == np.rint(data)).all())
    encoding = next((e for e in _WHOLE if whole and e.fits(data)), encoding_by_range(data))
    low, high = (float(v) for v in np.percentile(data[::2, ::2, ::2], (1, 99.5)))
    return Content(
        kind=ResultKind.IMAGE,
        volume=volume,
        thickness_mm=thickness_mm,
        encoding=encoding,
        window=Window((low + high) / 2, max(1.0, high - low)),
        photometric_interpretation="MONOCHROME2",
        sentence=_SENTENCE,
        references=lambda _: (),
        downwards=False,
    )


def _template(content: Content, attributes: Mapping[str, str], made_at: datetime) -> Dataset:
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    for keyword in (
        *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime"),
        *("ReferringPhysicianName", "StudyID", "AccessionNumber", "Manufacturer", "ScanOptions"),
        *("MRAcquisitionType", "RepetitionTime", "EchoTime", "EchoTrainLength"),
        *("AcquisitionNumber", "PositionReferenceIndicator", "PatientPosition"),
    ):
        setattr(ds, keyword, attributes.get(keyword))
    ds.StudyDescription = attributes.get("StudyDescription", "")
    ds.SeriesDescription = attributes.get("SeriesDescription", "")[: 64 - len(_MARK)] + _MARK
    ds.SOPClassUID = MRImageStorage
    ds.Modality, ds.SeriesNumber, ds.BodyPartExamined = "MR", 1, "HEAD"
    ds.SeriesDate = ds.InstanceCreationDate = made_at.strftime("%Y%m%d")
    ds.SeriesTime = ds.InstanceCreationTime = made_at.strftime("%H%M%S")
    ds.ImageType = ["DERIVED", "SECONDARY", "OTHER", "NIFTI"]
    ds.DerivationDescription = _SENTENCE
    ds.ScanningSequence, ds.SequenceVariant = "RM", "NONE"
    ds.BurnedInAnnotation, ds.LossyImageCompression = "NO", "00"
    volume, encoding, window = content.volume, content.encoding, content.window
    ds.Columns, ds.Rows, _ = volume.data.shape
    column_spacing, row_spacing, distance = volume.spacing
    ds.PixelSpacing = [decimal(row_spacing), decimal(column_spacing)]
    ds.SliceThickness = decimal(content.thickness_mm)
    ds.SpacingBetweenSlices = decimal(distance)
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, content.photometric_interpretation
    ds.BitsAllocated = ds.BitsStored = 16
    ds.HighBit, ds.PixelRepresentation = 15, int(encoding.signed)
    if encoding.declared:
        ds.RescaleSlope, ds.RescaleIntercept = decimal(encoding.slope), decimal(encoding.intercept)
        ds.RescaleType = "US"
    ds.WindowCenter, ds.WindowWidth = decimal(window.center), decimal(window.width)
    return ds
