"""MR instances of a few hundred bytes, as a scanner would send them."""

import functools
from io import BytesIO

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage


def instance_uid(series_uid: str, number: int) -> str:
    return f"{series_uid}.{number + 1}"


def small_slice(series_uid: str, number: int) -> Dataset:
    """Return one of a stack of axial slices of 5 mm."""
    d = Dataset()
    d.SOPClassUID, d.SOPInstanceUID = MRImageStorage, instance_uid(series_uid, number)
    d.StudyInstanceUID, d.SeriesInstanceUID = "2.25.1", series_uid
    d.FrameOfReferenceUID = "2.25.2"
    d.Modality, d.ImageType = "MR", ["ORIGINAL", "PRIMARY", "M"]
    d.PhotometricInterpretation, d.SamplesPerPixel = "MONOCHROME2", 1
    d.Rows = d.Columns = 4
    d.BitsAllocated, d.BitsStored, d.HighBit, d.PixelRepresentation = 16, 12, 11, 0
    d.PixelSpacing, d.SliceThickness = [1, 1], 5
    d.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    d.ImagePositionPatient = [0, 0, 5 * number]
    d.PixelData = bytes(32)
    d.file_meta = FileMetaDataset()
    d.file_meta.MediaStorageSOPClassUID = MRImageStorage
    d.file_meta.MediaStorageSOPInstanceUID = d.SOPInstanceUID
    d.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return d


def encoded(dataset: Dataset) -> bytes:
    file = BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


@functools.cache
def encoded_slice(series_uid: str, number: int, *, altered: bool = False) -> bytes:
    """Return the file of a slice; `altered`: with other pixels under the same UIDs."""
    dataset = small_slice(series_uid, number)
    if altered:
        dataset.PixelData = b"\1" * 32
    return encoded(dataset)
