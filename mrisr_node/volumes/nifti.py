"""A NIfTI file from outside: what its header says, whether that can be, and its slices.

Nothing of the header but its geometry is kept: what people write into it stays behind.
"""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from mrisr_node.errors import ConversionError
from mrisr_node.volumes.geometry import Affine, Volume, ras_to_lps, spacing_of, too_large

__all__ = ["GZIP", "NiftiFacts", "nifti_facts", "read_slices"]

# A head at half a millimetre has 100 million; each takes four bytes, several times over.
_MOST_VOXELS = 1 << 27
_LONGEST_SIDE = 4096
_SPACING_MM = (0.05, 50.0)
_FARTHEST_MM = 1e5
_PERPENDICULAR = 2e-3
_PIECE = 1 << 20
_ODD = (ImageFileError, HeaderDataError, OSError, EOFError, ValueError, zlib.error)

GZIP = b"\x1f\x8b"
"""How a file begins that gzip has compressed."""


@dataclass(frozen=True)
class NiftiFacts:
    """The geometry of a NIfTI file.

    Parameters
    ----------
    shape
        Voxels along its three axes.
    spacing_mm
        Voxel size along them.
    """

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]


def nifti_facts(path: Path, *, packed: bool) -> NiftiFacts:
    """Check header and length of a file, and return its geometry; whatever is in it.

    Parameters
    ----------
    packed
        Whether it is compressed by gzip. It is unpacked to its end, piece by piece, and never past
        what its header says.

    Raises
    ------
    ConversionError
        It is no single volume, its geometry cannot be, or it is longer or shorter than it says.
    """
    with _image(path) as image:
        shape, affine = _shape(image), _affine(image)
        if reason := too_large(shape, spacing_of(affine)):
            raise ConversionError(reason)
        begin = int(image.dataobj.offset)  # type: ignore[attr-defined]
    size = begin + math.prod(shape) * _kind(image).itemsize
    try:
        with gzip.open(path) if packed else path.open("rb") as file:
            _require_length(file, size)
    except (OSError, EOFError, zlib.error) as error:
        raise ConversionError("the file is damaged: it cannot be unpacked; make it anew") from error
    return NiftiFacts(shape, spacing_of(affine))


def read_slices(path: Path, axis: int) -> tuple[Volume, str]:
    """Read a file as a converted DICOM series comes: axes (column, row, slice).

    Columns and rows run as people look at them: to the left and to the back, and downwards in
    upright planes. The slices run along the normal, as a right-handed system has it.

    Returns
    -------
    tuple
        The slices, and where the axes of the file lead, such as ``RAS``.

    Raises
    ------
    ConversionError
        It holds no signal, or values that are no numbers.
    """
    with _image(path) as image:
        shape, affine = _shape(image), _affine(image)
        data = np.asarray(image.dataobj, dtype=np.float32).reshape(shape)
    if not np.isfinite(data).all():
        raise ConversionError("some voxels hold values that are no numbers")
    if data.min() == data.max():
        raise ConversionError(f"the file holds no signal: every voxel is {data.min():g}")
    axes = "".join(str(code) for code in nib.aff2axcodes(affine))  # type: ignore[no-untyped-call]
    return _as_displayed(Volume(data, affine), axis), axes


def _as_displayed(volume: Volume, axis: int) -> Volume:
    lps = ras_to_lps(volume.affine)[:3, :3]
    main = [int(np.argmax(np.abs(lps[:, i]))) for i in range(3)]
    inside = [i for i in range(3) if i != axis]
    # Columns run to the left where they can, else to the back; rows to the back, else downwards.
    column, row = sorted(inside, key=lambda i: main[i])
    data = np.transpose(volume.data, (column, row, axis))
    affine = volume.affine[:, [column, row, axis, 3]].copy()
    wanted = {0: 1.0, 1: 1.0, 2: -1.0}
    for i, source in enumerate((column, row)):
        if lps[main[source], source] * wanted[main[source]] < 0:
            data, affine = _flipped(data, affine, i)
    turned = ras_to_lps(affine)[:3, :3]
    if np.linalg.det(turned) < 0:
        data, affine = _flipped(data, affine, 2)
    return Volume(np.ascontiguousarray(data), affine)


def _flipped(
    data: NDArray[np.float32], affine: Affine, axis: int
) -> tuple[NDArray[np.float32], Affine]:
    turned = affine.copy()
    turned[:3, 3] += (data.shape[axis] - 1) * affine[:3, axis]
    turned[:3, axis] *= -1
    return np.flip(data, axis), turned


@contextmanager
def _image(path: Path) -> Iterator[nib.nifti1.Nifti1Image]:
    """Open a file, of which nothing but the header is read; its name says nothing."""
    with path.open("rb") as file:
        start = file.read(2)
    with gzip.open(path) if start == GZIP else path.open("rb") as content:
        try:
            start = content.read(12)
            content.seek(0)
            kind = nib.nifti2.Nifti2Image if start[4:7] == b"n+2" else nib.nifti1.Nifti1Image
            image = kind.from_stream(content)
        except _ODD as error:
            raise ConversionError(
                "the header is none of NIfTI (single files, .nii or .nii.gz, can be used)"
            ) from error
        yield image


def _shape(image: nib.nifti1.Nifti1Image) -> tuple[int, int, int]:
    shape = tuple(int(n) for n in image.shape)
    if len(shape) < 3 or any(n != 1 for n in shape[3:]):
        raise ConversionError(
            f"the file has {len(shape)} dimensions; one volume, of three, can be used"
        )
    if not all(1 < n <= _LONGEST_SIDE for n in shape[:3]) or math.prod(shape) > _MOST_VOXELS:
        raise ConversionError(
            f"{' × '.join(map(str, shape[:3]))} voxels are no volume that can be processed"
        )
    kind = _kind(image)
    if kind.kind not in "iuf" or kind.itemsize > 8:
        raise ConversionError("its voxels are no single numbers (complex, colour or 128 bits)")
    return shape[0], shape[1], shape[2]


def _kind(image: nib.nifti1.Nifti1Image) -> np.dtype[Any]:
    kind: np.dtype[Any] = image.get_data_dtype()  # type: ignore[no-untyped-call]
    return kind


def _affine(image: nib.nifti1.Nifti1Image) -> Affine:
    header = image.header
    if not (int(header["sform_code"]) or int(header["qform_code"])):
        raise ConversionError(
            "the file does not say how it lies in space (sform and qform code are 0), so left and"
            " right cannot be told; convert it again"
        )
    affine = np.asarray(image.affine, dtype=np.float64)
    if not np.isfinite(affine).all() or np.abs(affine).max() > _FARTHEST_MM:
        raise ConversionError("its place in space is no place: the affine holds odd numbers")
    spacing = spacing_of(affine)
    if not all(_SPACING_MM[0] <= s <= _SPACING_MM[1] for s in spacing):
        sizes = " × ".join(f"{s:.3g}" for s in spacing)
        raise ConversionError(f"its voxels measure {sizes} mm, which those of no scanner do")
    directions = affine[:3, :3] / spacing
    if np.abs(directions.T @ directions - np.eye(3)).max() > _PERPENDICULAR:
        raise ConversionError("its axes are not perpendicular: resample it onto a regular grid")
    return affine


def _require_length(file: BinaryIO | gzip.GzipFile, size: int) -> None:
    """Read a file to its end, or to where it is longer than it says."""
    read = 0
    while read <= size and (piece := file.read(min(_PIECE, size + 1 - read))):
        read += len(piece)
    if read != size:
        how = "less" if read < size else "more"
        raise ConversionError(f"the file holds {how} than the {size} bytes that its header says")
