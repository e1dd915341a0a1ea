"""From the DICOM files of one series to one NIfTI volume.

``dcm2niix`` converts; nothing it says is believed before it is checked: it ends well on series
with missing slices and badly on some that it converted. The volume comes back in the order of the
DICOM pixels (column, row, slice along the normal), so that results are written on the same grid.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from dcm2niix import bin as dcm2niix
from nibabel.orientations import io_orientation, ornt_transform
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.pixels.utils import iter_pixels

from mrisr_node.counts import counted
from mrisr_node.errors import ConversionError
from mrisr_node.volumes.acquisition import Acquisition, read_acquisition, rescales_of
from mrisr_node.volumes.geometry import Affine, Volume

__all__ = ["SLICE_AXIS", "Conversion", "convert"]

SLICE_AXIS = 2
"""Of a converted volume: (column, row, slice)."""

_TIMEOUT = 600
_TOLERANCE_MM = 0.01


@dataclass(frozen=True)
class Conversion:
    """A converted series.

    Parameters
    ----------
    volume
        Axes (column, row, slice) as in DICOM, real values after rescale.
    acquisition
        The slices it came from, in the order of its last axis.
    remark
        What was corrected on the way, for the report; empty when nothing was.
    """

    volume: Volume
    acquisition: Acquisition
    remark: str


def convert(paths: Sequence[Path]) -> Conversion:
    """Convert the DICOM files of one series to one checked volume.

    Raises
    ------
    NotEligible, ConversionError
        The files are not one regular volume, or ``dcm2niix`` does not give exactly one, or its
        voxels are not those that the files hold.
    """
    sources: list[_Source] = []
    acquisition = read_acquisition(_headers(paths, sources))
    each_scaled = len({pair for source in sources for pair in source.rescales}) > 1
    with tempfile.TemporaryDirectory(prefix="mrisr-convert-") as folder:
        image = _run(paths, Path(folder), each_scaled=each_scaled)
        stored = nib.nifti1.Nifti1Image.from_filename(image)
        if len(stored.shape) != 3:
            raise ConversionError(
                f"the series converts to {len(stored.shape)} dimensions, not to one 3D volume"
            )
        data, affine = _in_dicom_order(
            np.asarray(stored.dataobj, dtype=np.float32), np.asarray(stored.affine), acquisition
        )
    _same_voxels(data, sources, acquisition)
    if data.min() == data.max():
        raise ConversionError(f"the series holds no signal: every voxel is {data.min():g}")
    return Conversion(
        volume=Volume(data, acquisition.affine),
        acquisition=acquisition,
        remark=_compare(affine, acquisition),
    )


@dataclass(frozen=True)
class _Source:
    """What is remembered of an instance: neither its header nor its pixels, which can be large."""

    path: Path
    sop_instance_uid: str
    rescales: list[tuple[float, float]]


def _headers(paths: Sequence[Path], sources: list[_Source]) -> Iterator[Dataset]:
    """Read one header after the other, and note in ``sources`` how its frames are scaled."""
    for path in paths:
        header = dcmread(path, stop_before_pixels=True)
        yield header
        source = _Source(path, str(header.SOPInstanceUID), rescales_of(header))
        _check_frames(header, len(source.rescales))
        sources.append(source)


def _check_frames(header: Dataset, described: int) -> None:
    """Refuse pixel data that decode to more than the acquisition that a header describes."""
    frames, samples = (int(header.get(n) or 1) for n in ("NumberOfFrames", "SamplesPerPixel"))
    if frames != described:
        raise ConversionError(
            f"an image holds {counted(frames, 'frame')} and describes {described}"
        )
    if samples != 1:
        raise ConversionError(f"an image has {samples} samples per pixel; one of MR has one")


def _run(paths: Sequence[Path], folder: Path, *, each_scaled: bool) -> Path:
    """Run ``dcm2niix`` and return the one NIfTI that it made."""
    source, target = folder / "dicom", folder / "nifti"
    source.mkdir()
    target.mkdir()
    for number, path in enumerate(paths):
        # Names of our own: what came from outside never becomes a path or an argument.
        shutil.copyfile(path, source / f"{number:06d}.dcm")
    # Without -p it takes the first slice's rescale for all. With it, Philips' own private scaling
    # comes in where all are the same, and the values are no longer those of a DICOM reader.
    precise = "y" if each_scaled else "n"
    command = [dcm2niix, "-b", "n", "-z", "n", "-p", precise, "-m", "y", "-f", "volume"]
    try:
        done = subprocess.run(
            [*command, "-o", str(target), str(source)],
            capture_output=True,
            text=True,
            timeout=_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ConversionError(f"dcm2niix did not end within {_TIMEOUT} s") from error
    images = sorted(target.glob("*.nii"))
    if len(images) != 1:
        raise ConversionError(
            f"the series converts to {len(images)} volumes, not to one (dcm2niix ended with"
            f" {done.returncode}); it mixes acquisitions, or its pixel data cannot be read"
        )
    if "_Eq" in images[0].stem:
        raise ConversionError("slices are missing: dcm2niix would have interpolated them")
    return images[0]


def _in_dicom_order(
    data: NDArray[np.float32], affine: Affine, acquisition: Acquisition
) -> tuple[NDArray[np.float32], Affine]:
    """Flip and permute axes until they run as the DICOM's columns, rows and slices do."""
    if abs(np.linalg.det(affine)) < 1e-9:
        raise ConversionError("dcm2niix gives a singular geometry: slices share one position")
    turn = ornt_transform(io_orientation(affine), io_orientation(acquisition.affine))  # type: ignore[no-untyped-call]
    image = nib.nifti1.Nifti1Image(data, affine).as_reoriented(turn)  # type: ignore[no-untyped-call]
    turned = np.ascontiguousarray(image.get_fdata(dtype=np.float32))
    if turned.shape != acquisition.shape:
        raise ConversionError(
            f"dcm2niix gives {turned.shape} voxels where the images hold {acquisition.shape}"
        )
    return turned, np.asarray(image.affine)


def _same_voxels(
    data: NDArray[np.float32], sources: Sequence[_Source], acquisition: Acquisition
) -> None:
    """Check every voxel against what pydicom reads from the files."""
    places = {(s.sop_instance_uid, s.frame): index for index, s in enumerate(acquisition.slices)}
    for source in sources:
        for number, frame in enumerate(_real_values(source), start=1):
            index, expected = places[source.sop_instance_uid, number], frame.T
            scale = max(1.0, float(np.abs(expected).max()))
            if not np.allclose(data[:, :, index], expected, rtol=1e-5, atol=1e-5 * scale):
                raise ConversionError(
                    f"slice {index + 1} converted to other values than its pixel data hold"
                )


def _real_values(source: _Source) -> Iterator[NDArray[np.float32]]:
    """Decode the frames of an instance, one at a time.

    As screening did it in its child: so what stands behind the pixel data is not read, and memory
    is no more than the child's limit was.
    """
    try:
        frames = iter_pixels(source.path, raw=True)
        for frame, (slope, intercept) in zip(frames, source.rescales, strict=True):
            yield (frame * np.float64(slope) + intercept).astype(np.float32)
    except Exception as error:
        # Decoders raise anything on data that were damaged or made wrongly.
        raise ConversionError(
            f"the pixel data of an image cannot be read ({type(error).__name__}: they are damaged,"
            " cut off, or stored in an unknown way); send the series again, uncompressed"
        ) from error


def _compare(affine: Affine, acquisition: Acquisition) -> str:
    """Say where ``dcm2niix`` and the slices' own positions differ; the positions are kept."""
    remarks = []
    corners = np.array(
        [[i, j, k, 1] for i in (0, 1) for j in (0, 1) for k in (0, 1)], dtype=np.float64
    ) * [*(n - 1 for n in acquisition.shape), 1]
    off = float(np.linalg.norm(((affine - acquisition.affine) @ corners.T)[:3], axis=0).max())
    if off > acquisition.distance:
        raise ConversionError(
            f"dcm2niix places the volume up to {off:.1f} mm away from where its slices lie"
        )
    if off > _TOLERANCE_MM:
        remarks.append(
            f"placed by the slices' own positions, {acquisition.distance:.3f} mm apart, which"
            f" dcm2niix alone would have missed by up to {off:.2f} mm"
        )
    if acquisition.unevenness > _TOLERANCE_MM:
        remarks.append(
            f"the slices lie up to {acquisition.unevenness:.2f} mm off the regular grid that the"
            " result has"
        )
    return "; ".join(remarks)
