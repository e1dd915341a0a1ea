"""Where the slices of an MR series lie, read from its DICOM headers.

Positions decide, never tags about spacing: SpacingBetweenSlices holds the gap on some scanners,
the distance on others, and is wrong after editing on a few. Classic and Enhanced MR objects give
the same list of slices (PS3.3 C.7.6.2 Image Plane; C.7.6.16.2.1–4 functional groups).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from mrisr_node.counts import counted
from mrisr_node.errors import ConversionError, NotEligible
from mrisr_node.volumes.geometry import Affine, lps_to_ras, spacing_of

__all__ = [
    "MOST_SLICES",
    "Acquisition",
    "Slice",
    "acquisition_of",
    "of_one_patient",
    "read_acquisition",
    "readable_header",
    "rescales_of",
    "same_plane",
    "slices_of",
]

# What all slices of a volume have in common, by what several of them would be.
_IN_COMMON = {
    "patients": ("PatientID", "IssuerOfPatientID"),
    "studies": ("StudyInstanceUID",),
    "frames of reference": ("FrameOfReferenceUID",),
}
# Positions are often written with one decimal, and gradients are never perfectly linear. Past this
# part of the slice distance a stack is not one regular grid.
_UNEVEN = 0.02
_ORIENTATION = 1e-3
# No scanner images what is 100 m away, or pixels of a micrometre (mm).
_FARTHEST = 1e5
_SMALLEST = 1e-3
# Cosines written with three decimals are this much off at most.
_PERPENDICULAR = 2e-3
_SPACING = 1e-3
# Of one series; the longest time series have less, and a hundred times more would fill memory.
MOST_SLICES = 100_000


@dataclass(frozen=True)
class Slice:
    """One acquired slice: an instance, or a frame of one.

    Parameters
    ----------
    sop_instance_uid
        The instance that holds it.
    frame
        Its frame number, from 1; 1 for a classic instance.
    position
        ImagePositionPatient, LPS+ mm: centre of the first voxel.
    row_cosine, column_cosine
        ImageOrientationPatient, LPS+: direction along a row, and along a column.
    pixel_spacing
        PixelSpacing in mm: between rows, between columns.
    """

    sop_instance_uid: str
    frame: int
    position: NDArray[np.float64]
    row_cosine: NDArray[np.float64]
    column_cosine: NDArray[np.float64]
    pixel_spacing: tuple[float, float]
    rows: int
    columns: int
    thickness: float | None


@dataclass(frozen=True)
class Acquisition:
    """A stack of parallel, evenly spaced slices: one volume.

    Parameters
    ----------
    slices
        In order along the slice normal (row cosine × column cosine).
    affine
        4×4, index (column, row, slice) to RAS+ mm, from the positions of the first and last slice.
    thickness
        SliceThickness in mm; the slice distance where the tag is missing or not positive.
    unevenness
        Largest distance in mm between a slice's position and the regular grid.
    """

    slices: tuple[Slice, ...]
    affine: Affine
    thickness: float
    unevenness: float

    @property
    def distance(self) -> float:
        """Distance between the centres of neighbouring slices, in mm."""
        return float(np.linalg.norm(self.affine[:3, 2]))

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Millimetres between columns, rows and slices."""
        return spacing_of(self.affine)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Columns, rows, slices."""
        return self.slices[0].columns, self.slices[0].rows, len(self.slices)


def slices_of(dataset: Dataset) -> list[Slice]:
    """Return the slices that an MR instance holds, in the order of its frames.

    Raises
    ------
    NotEligible
        An attribute that places the slices in space is missing.
    """
    try:
        frames = dataset.get("PerFrameFunctionalGroupsSequence")
        if frames is None:
            return [_slice(dataset, 1, dataset, dataset, dataset)]
        shared = (dataset.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
        return [
            _slice(
                dataset,
                number,
                _group(frame, shared, "PlanePositionSequence"),
                _group(frame, shared, "PlaneOrientationSequence"),
                _group(frame, shared, "PixelMeasuresSequence"),
            )
            for number, frame in enumerate(frames, start=1)
        ]
    except MemoryError:
        raise
    except Exception as error:  # pydicom raises anything on a damaged header
        raise NotEligible(
            "the images do not say where in the patient they lie (position, orientation or pixel"
            " spacing is missing), so no volume can be made of them"
        ) from error


def read_acquisition(datasets: Iterable[Dataset]) -> Acquisition:
    """Order the slices of a series and check that they make one regular volume.

    Raises
    ------
    NotEligible, ConversionError
        As `acquisition_of`; or they are not all of one patient, one study and one frame of
        reference.
    """
    return acquisition_of(chain.from_iterable(map(slices_of, of_one_patient(datasets))))


def acquisition_of(images: Iterable[Slice]) -> Acquisition:
    """Order slices and check that they make one regular volume.

    Raises
    ------
    NotEligible
        They are something else by nature: several orientations, several images at one place.
    ConversionError
        They should be a volume and are not: some are missing or unevenly spaced.
    """
    slices = list(islice(images, MOST_SLICES + 1))
    if len(slices) > MOST_SLICES:
        raise NotEligible(f"the series has more than {MOST_SLICES} images; one volume has fewer")
    _like_the_first(slices)
    first = slices[0]
    normal = np.cross(first.row_cosine, first.column_cosine)
    slices.sort(key=lambda s: (float(normal @ s.position), s.sop_instance_uid, s.frame))
    positions = np.array([s.position for s in slices])
    along = positions @ normal
    steps = np.diff(along)
    if len(slices) < 2:
        raise NotEligible("the series has one slice only; super-resolution needs a stack of them")
    places = 1 + int((steps > 0.01).sum())
    if places < len(slices):
        raise NotEligible(
            f"{len(slices)} images lie at only {counted(places, 'slice position')}: several volumes"
            " (a time series, diffusion weightings, echoes), none of which can be processed by"
            " itself"
        )
    typical = float(np.median(steps))
    uneven = np.abs(steps - typical) > 0.5 * typical
    if uneven.any():
        at = int(np.argmax(uneven))
        raise ConversionError(
            f"the slices are not evenly spaced: {steps[at]:.2f} mm between slices {at + 1} and"
            f" {at + 2} where {typical:.2f} mm is usual, so slices are missing or the series is"
            " mixed; send the complete series again"
        )
    step = (positions[-1] - positions[0]) / (len(slices) - 1)
    distance = float(np.linalg.norm(step))
    grid = positions[0] + np.arange(len(slices))[:, None] * step
    away = np.linalg.norm(positions - grid, axis=1)
    unevenness = float(away.max())
    if unevenness > max(0.01, _UNEVEN * distance):
        raise ConversionError(
            f"the slices are not evenly spaced: slice {int(away.argmax()) + 1} lies"
            f" {unevenness:.2f} mm away from a regular stack of {distance:.2f} mm; nothing is"
            " interpolated silently, so the series is not processed"
        )
    if abs(float(normal @ step) / distance) < 1 - 1e-4:
        raise ConversionError(
            "the slices are shifted against each other (a sheared stack); such a volume has no"
            " rectangular grid and is not processed"
        )
    affine = np.eye(4)
    affine[:3, 0] = first.row_cosine * first.pixel_spacing[1]
    affine[:3, 1] = first.column_cosine * first.pixel_spacing[0]
    affine[:3, 2] = step
    affine[:3, 3] = positions[0]
    stated = first.thickness
    return Acquisition(
        slices=tuple(slices),
        affine=lps_to_ras(affine),
        thickness=stated if stated is not None and 0 < stated < np.inf else distance,
        unevenness=unevenness,
    )


@contextmanager
def readable_header() -> Iterator[None]:
    """Say of whatever pydicom raises on a damaged header that it cannot be read.

    Raises
    ------
    ConversionError
        With the kind of the error alone: its message may quote the header.
    """
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        raise ConversionError(
            f"a header of the series cannot be read ({type(error).__name__}); send it again"
        ) from error


def of_one_patient(datasets: Iterable[Dataset]) -> Iterator[Dataset]:
    """Pass on instances that belong together; raise at the first that does not.

    A Series Instance UID alone says little: two senders may use one for two patients.
    """
    first: dict[str, list[str]] = {}
    for dataset in datasets:
        with readable_header():
            found = {
                several: [str(dataset.get(keyword) or "").strip() for keyword in keywords]
                for several, keywords in _IN_COMMON.items()
            }
        first = first or found
        for several, keywords in _IN_COMMON.items():
            if found[several] != first[several]:
                raise ConversionError(
                    f"the series holds slices of several {several} ({', '.join(keywords)} differ);"
                    " nothing is made of it: send each under a Series Instance UID of its own"
                )
        yield dataset


def same_plane(one: Slice, other: Slice) -> str:
    """Return in what two slices differ that slices of one volume have in common; or nothing."""
    turned = max(
        float(np.abs(other.row_cosine - one.row_cosine).max()),
        float(np.abs(other.column_cosine - one.column_cosine).max()),
    )
    if turned > _ORIENTATION:
        return "orientations"
    if (other.rows, other.columns) != (one.rows, one.columns):
        return "sizes"
    apart = (abs(a - b) for a, b in zip(other.pixel_spacing, one.pixel_spacing, strict=True))
    return "pixel spacings" if max(apart) > _SPACING else ""


def _like_the_first(slices: Sequence[Slice]) -> None:
    if not slices:
        raise NotEligible("the series holds no image")
    for s in slices:
        _possible(s)
        if several := same_plane(slices[0], s):
            meaning = " (a localizer or a radial stack)" if several == "orientations" else ""
            raise NotEligible(
                f"the images have several {several}{meaning}; one volume has one of them"
            )


def _possible(s: Slice) -> None:
    """Refuse numbers that no scanner can mean; a comparison with NaN never does so by itself."""
    values = (s.position, s.row_cosine, s.column_cosine, np.array(s.pixel_spacing))
    if (
        not (np.abs(np.concatenate(values)) < _FARTHEST).all()
        or min(s.pixel_spacing) < _SMALLEST
        or min(s.rows, s.columns) < 1
    ):
        raise ConversionError(
            "position, orientation, size or pixel spacing of the images is not a possible one"
        )
    lengths = np.array([np.linalg.norm(s.row_cosine), np.linalg.norm(s.column_cosine)])
    if (
        np.abs(lengths - 1).max() > _ORIENTATION
        or abs(s.row_cosine @ s.column_cosine) > _PERPENDICULAR
    ):
        raise ConversionError(
            "the directions of rows and columns (ImageOrientationPatient) do not stand at right"
            " angles, or are no directions at all; such a volume has no rectangular grid"
        )


def rescales_of(dataset: Dataset) -> list[tuple[float, float]]:
    """Return RescaleSlope and RescaleIntercept of an instance, or of each of its frames.

    Raises
    ------
    ConversionError
        They give no values: the slope is zero, or one of them no number.
    """
    name = "PixelValueTransformationSequence"
    shared = dataset.get("SharedFunctionalGroupsSequence") or []
    frames = dataset.get("PerFrameFunctionalGroupsSequence")
    return [
        _rescale([item for group in (frame, *shared) for item in group.get(name) or []] + [dataset])
        for frame in ([Dataset()] if frames is None else frames)
    ]


def _rescale(holders: Sequence[Dataset]) -> tuple[float, float]:
    for holder in holders:
        stated = holder.get("RescaleSlope")
        if stated not in (None, ""):
            slope, intercept = float(stated), float(holder.get("RescaleIntercept") or 0)
            if slope == 0 or not np.isfinite([slope, intercept]).all():
                raise ConversionError(
                    f"RescaleSlope {slope:g} with RescaleIntercept {intercept:g} gives no values;"
                    " send the series with a rescale that it can be read with"
                )
            return slope, intercept
    return 1.0, 0.0


def _group(frame: Dataset, shared: Dataset, name: str) -> Dataset:
    found: Dataset = (frame.get(name) or shared[name].value)[0]
    return found


def _slice(
    dataset: Dataset, frame: int, position: Dataset, orientation: Dataset, measures: Dataset
) -> Slice:
    cosines = _floats(orientation.ImageOrientationPatient, 6)
    spacing = _floats(measures.PixelSpacing, 2)
    thickness: Any = measures.get("SliceThickness")
    return Slice(
        sop_instance_uid=str(dataset.SOPInstanceUID),
        frame=frame,
        position=_floats(position.ImagePositionPatient, 3),
        row_cosine=cosines[:3],
        column_cosine=cosines[3:],
        pixel_spacing=(float(spacing[0]), float(spacing[1])),
        rows=int(dataset.Rows),
        columns=int(dataset.Columns),
        thickness=None if thickness in (None, "") else float(thickness),
    )


def _floats(values: Any, count: int) -> NDArray[np.float64]:  # noqa: ANN401 - a DICOM value
    found = np.array([float(v) for v in values])
    if found.shape != (count,):
        raise ValueError(f"{count} values expected")
    return found
