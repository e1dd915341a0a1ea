"""What the MR series of a result show: the thin slices, and two maps that a reader lays over them.

The maps tell how far the slices depart from what was acquired, and what super-resolution changed
against interpolation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from mrisr_node.choices import ResultKind
from mrisr_node.results.origin import Origin, code_item
from mrisr_node.results.values import (
    NORMALISED,
    Encoding,
    Window,
    encoding_by_range,
    encoding_of,
    window_of,
)
from mrisr_node.volumes.acquisition import Acquisition, Slice
from mrisr_node.volumes.geometry import Volume, ras_to_lps

__all__ = ["Content", "change_map", "fidelity_map", "source_images", "thin_slices"]

Position = NDArray[np.float64]


@dataclass(frozen=True)
class Content:
    """What one MR series shows, whatever object it is written as.

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
    derivation: tuple[Code, ...] = (codes.DCM.SpatialResampling, codes.DCM.ArtificialIntelligence)
    in_source_space: bool = True

    @property
    def count(self) -> int:
        """How many slices there are."""
        return int(self.volume.data.shape[2])

    def order(self) -> list[int]:
        """Return the indices of the slices in the order in which they are numbered."""
        return list(range(self.count))[:: -1 if self.downwards else 1]

    def directions(self) -> tuple[Position, Position]:
        """Return the unit vectors (LPS+) along a row and along a column."""
        lps = ras_to_lps(self.volume.affine)
        row, column = (lps[:3, axis] / np.linalg.norm(lps[:3, axis]) for axis in (0, 1))
        return row, column

    def position(self, index: int) -> Position:
        """Return the centre of the first voxel of a slice (LPS+, mm)."""
        lps = ras_to_lps(self.volume.affine)
        return np.asarray(lps[:3, 3] + index * lps[:3, 2])

    def pixels(self, index: int) -> NDArray[np.integer]:
        """Return the stored values of a slice, (row, column), little endian."""
        pixels = self.encoding.encode(self.volume.data[:, :, index].T)
        return np.ascontiguousarray(pixels).astype(pixels.dtype.newbyteorder("<"))


def thin_slices(origin: Origin, volume: Volume, *, in_source_space: bool = True) -> Content:
    """Return the super-resolved slices.

    Parameters
    ----------
    volume
        Axes (column, row, slice), RAS+ affine.
    in_source_space
        Whether the volume lies in the source's frame of reference, with its intensities. Otherwise
        it gets a frame of reference of its own, and values of 1000 for the mean of the brain.

    Raises
    ------
    ResultError
        The values cannot be stored.
    """
    sources, acquisition = origin.sources, origin.acquisition
    encoding = encoding_of(sources, volume.data) if in_source_space else NORMALISED
    window = window_of(sources, acquisition) if in_source_space else None
    reach = max(acquisition.distance, acquisition.thickness)
    return Content(
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


def fidelity_map(origin: Origin, residual: Volume) -> Content:
    """Return how far a result departs from each acquired slice.

    Parameters
    ----------
    residual
        Acquired slices minus the result degraded again, on the acquired grid, in the source's
        intensities. Its magnitude is shown.
    """
    data = np.abs(residual.data)
    most = _high(data)
    acquisition = origin.acquisition
    return Content(
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
        derivation=(codes.DCM.PixelByPixelSubtraction,),
    )


def change_map(origin: Origin, change: Volume) -> Content:
    """Return what super-resolution added to (above 0) or took from cubic interpolation.

    Parameters
    ----------
    change
        Thin slices minus interpolated ones, in the source's intensities.
    """
    most = _high(change.data)
    acquisition = origin.acquisition
    reach = max(acquisition.distance, acquisition.thickness)
    return Content(
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
        derivation=(codes.DCM.PixelByPixelSubtraction,),
    )


def source_images(sources: Sequence[Dataset], slices: Sequence[Slice]) -> list[Dataset]:
    """Return the items of a Source Image Sequence that names acquired slices."""
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


def _high(data: NDArray[np.float32]) -> float:
    """Return what nearly all magnitudes are below, from every second voxel of each axis."""
    return float(np.percentile(np.abs(data[::2, ::2, ::2]), 99.9))


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
