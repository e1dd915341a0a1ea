"""A study for the viewer: a head in thick slices, and the same head in thin ones as its result.

Debian's mricron-data carries the head (Colin27, 1 mm).
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path

import nibabel
import numpy as np
from pydicom import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

HEAD = Path("/usr/share/mricron/templates/ch2.nii.gz")
PIXEL = 2.0
DEPTH = 120


@dataclass(frozen=True)
class SampleStudy:
    study: str
    source: list[Dataset]
    result: list[Dataset]
    source_uid: str = field(init=False)
    result_uid: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "source_uid", self.source[0].SeriesInstanceUID)
        object.__setattr__(self, "result_uid", self.result[0].SeriesInstanceUID)

    @property
    def instances(self) -> list[Dataset]:
        return self.source + self.result


def make_study(description: str = "T1 axial") -> SampleStudy:
    head = np.asarray(nibabel.load(HEAD).dataobj, dtype=np.float32)[::2, ::2, 30 : 30 + DEPTH]
    study, frame = generate_uid(), generate_uid()
    thick = head.reshape(*head.shape[:2], DEPTH // 5, 5).mean(axis=3)
    source = make_series(thick, 5.0, study=study, frame=frame, description=description)
    result = make_series(head, 1.0, study=study, frame=frame, description=f"SR 1mm {description}")
    for number, image in enumerate(result):
        image.ImageType = ["DERIVED", "SECONDARY", "OTHER", "RESAMPLED"]
        image.SeriesNumber = 1001
        reference = Dataset()
        reference.ReferencedSOPClassUID = MRImageStorage
        reference.ReferencedSOPInstanceUID = source[number // 5].SOPInstanceUID
        image.SourceImageSequence = [reference]
    return SampleStudy(study, source, result)


def make_series(
    volume: np.ndarray, distance: float, *, study: str, frame: str, description: str
) -> list[Dataset]:
    """Axial slices of `volume` (RAS+), its lowest voxel's lower face at z = 0."""
    series = generate_uid()
    return [
        _slice(volume[:, :, k], k, distance, (study, series, frame), description)
        for k in range(volume.shape[2])
    ]


def _slice(
    plane: np.ndarray, number: int, distance: float, uids: tuple[str, str, str], description: str
) -> Dataset:
    image = Dataset()
    image.SpecificCharacterSet = "ISO_IR 192"
    image.SOPClassUID = MRImageStorage
    image.SOPInstanceUID = generate_uid()
    image.StudyInstanceUID, image.SeriesInstanceUID, image.FrameOfReferenceUID = uids
    image.ImageType = ["ORIGINAL", "PRIMARY", "M"]
    image.Modality = "MR"
    image.PatientName, image.PatientID = "Colin^27", "C27"
    image.PatientBirthDate, image.PatientSex = "", "O"
    image.StudyDate = image.SeriesDate = image.ContentDate = "20260101"
    image.StudyTime = image.SeriesTime = image.ContentTime = "120000"
    image.StudyID, image.AccessionNumber, image.ReferringPhysicianName = "1", "A1", ""
    image.StudyDescription, image.SeriesDescription = "Head", description
    image.SeriesNumber, image.InstanceNumber = 1, number + 1
    image.Manufacturer, image.BodyPartExamined = "mrisr_node tests", "BRAIN"
    image.PatientPosition = "HFS"
    image.ScanningSequence, image.SequenceVariant, image.MRAcquisitionType = "GR", "NONE", "2D"
    image.ScanOptions, image.EchoTime, image.RepetitionTime = "", 3.0, 8.0
    image.PositionReferenceIndicator = ""
    # LPS: x and y run against RAS.
    pixels = np.ascontiguousarray(plane.T[::-1, ::-1]).round().astype(np.uint16)
    image.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    image.ImagePositionPatient = [-90.0, -108.0, (number + 0.5) * distance]
    image.SliceThickness = image.SpacingBetweenSlices = distance
    image.PixelSpacing = [PIXEL, PIXEL]
    image.Rows, image.Columns = pixels.shape
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit = 16, 12, 11
    image.PixelRepresentation = 0
    image.WindowCenter, image.WindowWidth = 70, 140
    image.PixelData = pixels.tobytes()
    # dicomweb-client sends a data set without this as something that is no DICOM file.
    image.preamble = bytes(128)
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    return image


def as_file(image: Dataset) -> bytes:
    buffer = io.BytesIO()
    image.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
