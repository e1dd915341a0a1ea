"""Series whose landmarks have known patient coordinates, and where dcm2niix finds these."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import nibabel as nib
import numpy as np
from highdicom.legacy import LegacyConvertedEnhancedMRImage
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import (
    UID,
    EnhancedMRImageStorage,
    LegacyConvertedEnhancedMRImageStorage,
    MRImageStorage,
    generate_uid,
)
from scipy.spatial.transform import Rotation

from mrisr_node.choices import MRObject
from mrisr_node.node.sample import Acquisition, Plane, write_sample
from mrisr_node.volumes.degradation import profile_sigma

# Where the patient's left, back and head are (columns: LPS+) seen from the scanner: its x to the
# left of one who lies on the back with the head first, its y down, its z out of the patient's head.
_L, _P, _S = np.eye(3)
_POSITIONS = {
    "HFS": (_L, _P, _S),
    "HFP": (-_L, -_P, _S),
    "HFDR": (_P, -_L, _S),
    "HFDL": (-_P, _L, _S),
    "FFS": (-_L, _P, -_S),
    "FFP": (_L, -_P, -_S),
}
# Directions along a row and along a column, in the scanner's axes.
_PLANES = {
    Plane.AXIAL: ((1, 0, 0), (0, 1, 0)),
    Plane.SAGITTAL: ((0, 1, 0), (0, 0, -1)),
    Plane.CORONAL: ((1, 0, 0), (0, 0, -1)),
}
_CENTRE = np.array([12.5, -20.25, 31.75])
# Of the field of view, from its centre: no two alike along any axis, none in the middle of a voxel.
_LANDMARKS = np.array(
    [[-0.24, -0.20, -0.22], [0.22, -0.21, 0.20], [-0.19, 0.25, 0.17], [0.21, 0.19, -0.25]]
)
_WIDTH = 3.0  # mm, standard deviation of a landmark in the patient
_AROUND = 16.0  # mm: four times its width, with the blur across the slices
_PEAK = 2500


@dataclass(frozen=True)
class Scan:
    """A way in which a head may be scanned and stored.

    Parameters
    ----------
    rotation
        Degrees around the scanner's axes by which the plane is tilted.
    matrix
        Columns, rows.
    pixel_mm
        Between columns, between rows.
    downwards
        Whether slices are numbered against their normal.
    """

    name: str
    plane: Plane = Plane.AXIAL
    position: str = "HFS"
    rotation: tuple[float, float, float] = (0, 0, 0)
    matrix: tuple[int, int] = (64, 64)
    pixel_mm: tuple[float, float] = (1.0, 1.0)
    slices: int = 12
    thickness_mm: float = 5.0
    gap_mm: float = 0.0
    downwards: bool = False
    sop_class: UID = MRImageStorage
    result: MRObject = MRObject.CLASSIC

    @property
    def _axes(self) -> NDArray[np.float64]:
        """Columns: directions (LPS+) along a row, along a column, and the slice normal."""
        row, column = np.array(_PLANES[self.plane], dtype=float)
        axes = np.column_stack([row, column, np.cross(row, column)])
        tilt = Rotation.from_euler("xyz", self.rotation, degrees=True).as_matrix()
        return np.column_stack(_POSITIONS[self.position]) @ tilt @ axes

    @property
    def _steps(self) -> NDArray[np.float64]:
        return np.array([*self.pixel_mm, self.thickness_mm + self.gap_mm])

    @property
    def _shape(self) -> NDArray[np.int_]:
        return np.array([*self.matrix, self.slices])

    @property
    def landmarks(self) -> NDArray[np.float64]:
        """Patient coordinates (LPS+, mm), a row for each landmark."""
        return _CENTRE + (_LANDMARKS * self._steps * self._shape) @ self._axes.T

    def write(self, folder: Path) -> list[Path]:
        """Write the series into a new folder, in the order in which its slices are numbered."""
        with TemporaryDirectory() as name:
            [header, *_] = write_sample(Path(name), Acquisition(slices=2, matrix=16)).paths
            slices = [self._slice(dcmread(header), number) for number in range(1, self.slices + 1)]
        folder.mkdir()
        if self.sop_class != MRImageStorage:
            slices = [self._multi_frame(slices)]
        paths = []
        for number, dataset in enumerate(slices, start=1):
            paths.append(folder / f"{number:04d}.dcm")
            dataset.save_as(paths[-1], enforce_file_format=True)
        return paths

    def _slice(self, d: Dataset, number: int) -> Dataset:
        index = self.slices - number if self.downwards else number - 1
        axes, steps = self._axes, self._steps
        first = _CENTRE - axes @ ((self._shape - 1) / 2 * steps) + axes[:, 2] * index * steps[2]
        d.SOPInstanceUID = d.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        d.InstanceNumber = number
        d.PatientPosition = self.position
        d.ImagePositionPatient = [f"{v:.8f}" for v in first]
        d.ImageOrientationPatient = [f"{v:.10f}" for v in axes[:, :2].T.ravel()]
        d.PixelSpacing = [self.pixel_mm[1], self.pixel_mm[0]]
        d.SliceThickness, d.SpacingBetweenSlices = self.thickness_mm, float(steps[2])
        del d.SliceLocation, d.SmallestImagePixelValue, d.LargestImagePixelValue
        d.Columns, d.Rows = self.matrix
        i, j = np.meshgrid(*map(np.arange, self.matrix))
        places = first + np.stack([i * steps[0], j * steps[1]], axis=-1) @ axes[:, :2].T
        d.PixelData = np.rint(self._seen(places)).astype("<u2").tobytes()
        return d

    def _seen(self, places: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return what a slice with a Gaussian profile sees of the landmarks at these places."""
        across = _WIDTH**2 + profile_sigma(self.thickness_mm) ** 2
        signal = np.zeros(places.shape[:-1])
        for landmark in self.landmarks:
            away = (places - landmark) @ self._axes
            squared = (away[..., :2] ** 2).sum(axis=-1) / _WIDTH**2 + away[..., 2] ** 2 / across
            signal += _PEAK * np.exp(-squared / 2)
        return signal

    def _multi_frame(self, slices: list[Dataset]) -> Dataset:
        made: Dataset = LegacyConvertedEnhancedMRImage(
            slices,
            series_instance_uid=generate_uid(),
            series_number=1,
            sop_instance_uid=generate_uid(),
            instance_number=1,
        )
        made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = self.sop_class
        return made


SCANS = (
    Scan("axial"),
    Scan("sagittal", plane=Plane.SAGITTAL),
    Scan("coronal", plane=Plane.CORONAL),
    Scan("axial, oblique", rotation=(18, 0, 0)),
    Scan("axial, double oblique", rotation=(15, 8, -20)),
    Scan("sagittal, double oblique", plane=Plane.SAGITTAL, rotation=(-9, 12, 7)),
    Scan("coronal, double oblique", plane=Plane.CORONAL, rotation=(20, -5, 11)),
    Scan("head first, prone, axial", position="HFP"),
    Scan("head first, prone, sagittal", plane=Plane.SAGITTAL, position="HFP"),
    Scan("head first, on the right side, axial", position="HFDR"),
    Scan("head first, on the left side, sagittal", plane=Plane.SAGITTAL, position="HFDL"),
    Scan("head first, on the left side, double oblique", position="HFDL", rotation=(12, -9, 6)),
    Scan("feet first, supine, axial", position="FFS"),
    Scan("feet first, prone, coronal", plane=Plane.CORONAL, position="FFP"),
    Scan("slices numbered downwards", downwards=True),
    Scan("slices numbered downwards, double oblique", rotation=(10, 14, 5), downwards=True),
    Scan("gap of 1 mm", gap_mm=1.0),
    Scan("slices that overlap by 0.4 mm", gap_mm=-0.4),
    Scan("pixels of 0.8 mm × 1.2 mm", pixel_mm=(0.8, 1.2), matrix=(80, 54)),
    Scan("unequal field of view, 80 × 56 pixels", matrix=(80, 56), rotation=(0, 0, 30)),
    Scan("from Enhanced MR", rotation=(15, 8, -20), sop_class=EnhancedMRImageStorage),
    Scan(
        "from Legacy Converted Enhanced MR",
        plane=Plane.SAGITTAL,
        downwards=True,
        sop_class=LegacyConvertedEnhancedMRImageStorage,
    ),
    Scan("to Enhanced MR", rotation=(15, 8, -20), result=MRObject.ENHANCED),
    Scan(
        "to Enhanced MR, slices numbered downwards",
        plane=Plane.CORONAL,
        downwards=True,
        result=MRObject.ENHANCED,
    ),
)


def largest_distance(scan: Scan, image: nib.Nifti1Image) -> float:
    """Return how far (mm) a landmark lies from where it is, at most, in what dcm2niix made."""
    data, affine = image.get_fdata(), image.affine
    places = np.moveaxis(np.indices(data.shape), 0, -1) @ affine[:3, :3].T + affine[:3, 3]
    lps = np.array([-1, -1, 1])
    return max(_distance(data, places, lps * landmark) for landmark in scan.landmarks)


def _distance(
    data: NDArray[np.float64], places: NDArray[np.float64], landmark: NDArray[np.float64]
) -> float:
    """Return how far the centre of the signal around lies from a landmark; others are far."""
    near = np.linalg.norm(places - landmark, axis=-1) < _AROUND
    values = data[near]
    return float(np.linalg.norm(values @ places[near] / values.sum() - landmark))
