"""A thick-slice MR series made from a real head, as a scanner would send it."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from importlib.resources import files
from math import ceil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, MRImageStorage
from scipy.ndimage import affine_transform
from scipy.spatial.transform import Rotation

from mrisr_node import __version__
from mrisr_node.errors import SettingsError
from mrisr_node.volumes.degradation import thicken
from mrisr_node.volumes.geometry import Affine, FloatArray, Volume, lps_to_ras, ras_to_lps

__all__ = ["Acquisition", "Plane", "SampleSeries", "Study", "find_head", "write_sample"]

_COLIN27 = Path("/usr/share/mricron/templates/ch2.nii.gz")
_MNI152 = "datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
_IMPLEMENTATION = UID(f"2.25.{uuid.uuid5(uuid.NAMESPACE_DNS, 'sample.mrisr-node').int}")
_PEAK = 3000.0
"""Stored value of the brightest voxel: 12 bits, as scanners store MR, with room for noise."""
_WINDOW = 0.55
"""Part of the peak at which the display window ends."""


class Plane(StrEnum):
    """The plane that slices lie in."""

    AXIAL = "axial"
    SAGITTAL = "sagittal"
    CORONAL = "coronal"


# Directions (LPS) of rising column index and of rising row index, as radiographers expect them:
# the patient's right on the left of an image, anterior or superior on top.
_DIRECTIONS: dict[Plane, tuple[tuple[int, int, int], tuple[int, int, int]]] = {
    Plane.AXIAL: ((1, 0, 0), (0, 1, 0)),
    Plane.SAGITTAL: ((0, 1, 0), (0, 0, -1)),
    Plane.CORONAL: ((1, 0, 0), (0, 0, -1)),
}


@dataclass(frozen=True)
class Acquisition:
    """How the head is cut.

    Parameters
    ----------
    plane
        The plane of the slices, before `rotation`.
    rotation
        Degrees around the patient's x, y and z axes by which the plane is tilted.
    pixel_mm
        In-plane spacing.
    thickness_mm, gap_mm
        Full width at half maximum of the slice profile, and what lies between two slices.
    slices
        So many slices from the middle of the head; None takes all that fit.
    matrix
        So many rows and columns from the middle; None takes all.
    noise
        Standard deviation of the noise in either channel, as a part of the brightest voxel: the
        magnitude is Rician.
    """

    plane: Plane = Plane.AXIAL
    rotation: tuple[float, float, float] = (0.0, 0.0, 0.0)
    pixel_mm: float = 1.0
    thickness_mm: float = 5.0
    gap_mm: float = 0.0
    slices: int | None = None
    matrix: int | None = None
    noise: float = 0.0


def _new_uid() -> str:
    return f"2.25.{uuid.uuid4().int}"


@dataclass(frozen=True)
class Study:
    """What the series of one study share; made afresh unless given."""

    study_uid: str = field(default_factory=_new_uid)
    frame_of_reference_uid: str = field(default_factory=_new_uid)
    patient_name: str = "SAMPLE^HEAD"
    patient_id: str = "SAMPLE-1"


@dataclass(frozen=True)
class SampleSeries:
    """A series on disk."""

    study_uid: str
    series_uid: str
    folder: Path
    paths: tuple[Path, ...]
    head: str
    """Which head it was cut from, for people."""
    volume: Volume
    """Its stored values and geometry, slices along k."""


def find_head() -> tuple[Path, str]:
    """Return the head that samples are cut from, and what it is.

    Raises
    ------
    SettingsError
        Neither package that carries one is installed.
    """
    if _COLIN27.is_file():
        return _COLIN27, "Colin 27, one man's head averaged over 27 scans (package mricron-data)"
    average = Path(str(files("nilearn") / _MNI152))
    if average.is_file():
        return average, "ICBM 152, a smooth average of many heads (mricron-data is not installed)"
    raise SettingsError("no sample head is installed: install Debian's package mricron-data")


def write_sample(
    folder: Path,
    acquisition: Acquisition | None = None,
    *,
    study: Study | None = None,
    series_description: str = "T1 5 mm sample",
    series_number: int = 1,
    series_uid: str | None = None,
) -> SampleSeries:
    """Cut a head into thick slices and write them as an MR Image Storage series (PS3.3 A.4).

    Parameters
    ----------
    folder
        Made if it is missing; gets one file per slice, named after its number.
    acquisition
        How the head is cut; None takes axial slices of 5 mm.
    study
        Give the same one to several calls for several series of one study.
    series_description, series_number
        As the scanner's user would have set them.
    series_uid
        Series Instance UID, from which instance UIDs follow; None makes one.

    Returns
    -------
    SampleSeries
        What was written.
    """
    acquisition = acquisition or Acquisition()
    study = study or Study()
    series_uid = series_uid or _new_uid()
    path, head = find_head()
    volume = _acquire(path, acquisition)
    common = _common(acquisition, study, head)
    common.SeriesInstanceUID = series_uid
    common.SeriesNumber = series_number
    common.SeriesDescription = series_description
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for index in range(volume.data.shape[2]):
        name = uuid.uuid5(uuid.NAMESPACE_OID, f"{series_uid}.{index + 1}")
        dataset = _slice(common, volume, index, f"2.25.{name.int}")
        paths.append(folder / f"{index + 1:04d}.dcm")
        dataset.save_as(paths[-1], enforce_file_format=True)
    return SampleSeries(study.study_uid, series_uid, folder, tuple(paths), head, volume)


@lru_cache(maxsize=4)
def _acquire(path: Path, acquisition: Acquisition) -> Volume:
    """Return a head in thick slices of whole, positive, 12 bit values."""
    head = Volume.load(path)
    thick = thicken(
        _reslice(head, acquisition), 2, acquisition.thickness_mm, acquisition.gap_mm
    ).volume
    size = (acquisition.matrix, acquisition.matrix, acquisition.slices)
    thick = _central(thick, size)
    data = thick.data * (_PEAK / float(head.data.max()))
    if acquisition.noise:
        channels = np.random.default_rng(27).normal(
            0.0, acquisition.noise * _PEAK, size=(2, *data.shape)
        )
        data = np.hypot(data + channels[0], channels[1]).astype(np.float32)
    data = np.clip(np.rint(data), 0, 4095).astype(np.float32)
    data.setflags(write=False)
    return Volume(data, thick.affine)


def _reslice(head: Volume, acquisition: Acquisition) -> Volume:
    """Return the head on a grid along the acquisition's axes, 1 mm or finer along the slices."""
    along_columns, along_rows = (
        np.asarray(direction, dtype=np.float64) for direction in _DIRECTIONS[acquisition.plane]
    )
    axes = np.column_stack([along_columns, along_rows, np.cross(along_columns, along_rows)])
    axes = Rotation.from_euler("xyz", acquisition.rotation, degrees=True).as_matrix() @ axes
    spacing = np.array([acquisition.pixel_mm, acquisition.pixel_mm, min(head.spacing)])

    centre_index = (np.array(head.data.shape) - 1) / 2
    to_head = ras_to_lps(head.affine)
    corners = np.array(np.meshgrid(*[(-c, c) for c in centre_index])).reshape(3, -1)
    extent = np.abs(axes.T @ (to_head[:3, :3] @ corners)).max(axis=1)
    shape = np.array([2 * ceil(e / s - 1e-6) + 1 for e, s in zip(extent, spacing, strict=True)])
    # An even axis has its centre between two voxels; stay on the head's own grid where it can be.
    even = np.isclose(extent / spacing % 1.0, 0.5)
    shape = np.where(even, shape - 1, shape)

    affine: Affine = np.eye(4)
    affine[:3, :3] = axes * spacing
    centre = to_head[:3, :3] @ centre_index + to_head[:3, 3]
    affine[:3, 3] = centre - affine[:3, :3] @ ((shape - 1) / 2)
    to_index = np.linalg.inv(to_head) @ affine
    data: FloatArray = affine_transform(
        head.data, to_index[:3, :3], to_index[:3, 3], tuple(int(n) for n in shape), order=1
    )
    return Volume(data, lps_to_ras(affine))


def _central(volume: Volume, size: tuple[int | None, ...]) -> Volume:
    """Return the middle of a volume."""
    shape = volume.data.shape
    take = [min(n, wanted or n) for n, wanted in zip(shape, size, strict=True)]
    first = [(n - t) // 2 for n, t in zip(shape, take, strict=True)]
    affine = volume.affine.copy()
    affine[:3, 3] = volume.position((first[0], first[1], first[2]))
    window = tuple(slice(f, f + t) for f, t in zip(first, take, strict=True))
    return Volume(np.ascontiguousarray(volume.data[window]), affine)


def _common(acquisition: Acquisition, study: Study, head: str) -> Dataset:
    """Return what all instances share."""
    d = Dataset()
    d.SpecificCharacterSet = "ISO_IR 192"
    d.SOPClassUID = MRImageStorage
    # Patient, General Study, General Series, Frame of Reference (PS3.3 C.7.1 to C.7.4)
    d.PatientName = study.patient_name
    d.PatientID = study.patient_id
    d.PatientBirthDate = ""
    d.PatientSex = "M"
    d.StudyInstanceUID = study.study_uid
    d.StudyID = "1"
    d.StudyDate = d.SeriesDate = d.AcquisitionDate = d.ContentDate = "20260101"
    d.StudyTime = d.SeriesTime = d.AcquisitionTime = d.ContentTime = "120000"
    d.StudyDescription = "Sample head"
    d.ReferringPhysicianName = ""
    d.AccessionNumber = ""
    d.Modality = "MR"
    d.BodyPartExamined = "HEAD"
    d.PatientPosition = "HFS"
    d.ProtocolName = "T1 sample"
    d.FrameOfReferenceUID = study.frame_of_reference_uid
    d.PositionReferenceIndicator = ""
    # General Equipment (C.7.5.1): the program that cut the head, not a scanner it never saw
    d.Manufacturer = "mrisr_node sample"
    d.ManufacturerModelName = "simulated acquisition"
    d.DeviceSerialNumber = "0"
    d.SoftwareVersions = __version__
    d.ImageComments = f"Cut by mrisr_node from {head}"
    # MR Image (C.8.3.1): a conventional T1 spin echo
    d.ImageType = ["ORIGINAL", "PRIMARY", "OTHER"]
    d.ScanningSequence = "SE"
    d.SequenceVariant = "NONE"
    d.ScanOptions = ""
    d.MRAcquisitionType = "2D"
    d.SequenceName = "se2d1"
    d.RepetitionTime = "500"
    d.EchoTime = "12"
    d.EchoNumbers = 1
    d.EchoTrainLength = 1
    d.FlipAngle = "90"
    d.NumberOfAverages = "1"
    d.MagneticFieldStrength = "1.5"
    d.ImagingFrequency = "63.87"
    d.ImagedNucleus = "1H"
    d.SliceThickness = f"{acquisition.thickness_mm:g}"
    d.SpacingBetweenSlices = f"{acquisition.thickness_mm + acquisition.gap_mm:g}"
    d.AcquisitionNumber = 1
    # Image Pixel (C.7.6.3): 12 of 16 bits, unsigned
    d.SamplesPerPixel = 1
    d.PhotometricInterpretation = "MONOCHROME2"
    d.BitsAllocated = 16
    d.BitsStored = 12
    d.HighBit = 11
    d.PixelRepresentation = 0
    # White matter shows bright; the scalp's fat, which has the peak, saturates.
    d.WindowCenter = f"{_WINDOW * _PEAK / 2:g}"
    d.WindowWidth = f"{_WINDOW * _PEAK:g}"
    return d


def _slice(common: Dataset, volume: Volume, index: int, sop_instance_uid: str) -> Dataset:
    """Return one slice as a dataset that is ready to be saved."""
    to_lps = ras_to_lps(volume.affine)
    steps = np.linalg.norm(to_lps[:3, :3], axis=0)
    axes = to_lps[:3, :3] / steps
    position = to_lps[:3, 3] + index * to_lps[:3, 2]
    d = Dataset()
    d.update(common)
    d.SOPInstanceUID = sop_instance_uid
    d.InstanceNumber = index + 1
    d.ImagePositionPatient = _decimals(position)
    d.ImageOrientationPatient = _decimals(np.concatenate([axes[:, 0], axes[:, 1]]))
    d.PixelSpacing = _decimals(np.array([steps[1], steps[0]]))
    d.SliceLocation = _decimals(np.array([position @ axes[:, 2]]))[0]
    # DICOM counts rows first (C.7.6.3.1.4): the volume's j.
    pixels = volume.data[:, :, index].T.astype("<u2")
    d.Rows, d.Columns = pixels.shape
    d.SmallestImagePixelValue = int(pixels.min())
    d.LargestImagePixelValue = int(pixels.max())
    d.PixelData = pixels.tobytes()
    d.file_meta = FileMetaDataset()
    d.file_meta.MediaStorageSOPClassUID = MRImageStorage
    d.file_meta.MediaStorageSOPInstanceUID = UID(sop_instance_uid)
    d.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    d.file_meta.ImplementationClassUID = _IMPLEMENTATION
    d.file_meta.ImplementationVersionName = "MRISR_SAMPLE"
    return d


def _decimals(values: NDArray[np.float64]) -> list[str]:
    """Return numbers as decimal strings of at most 16 characters (PS3.5 6.2, VR DS)."""
    return [f"{0.0 if abs(v) < 1e-9 else v:.8f}".rstrip("0").rstrip(".")[:16] for v in values]
