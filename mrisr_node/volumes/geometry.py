"""Volumes in space, and the only place where LPS and RAS meet.

In memory a volume is ``float32`` with axes (i, j, k) and a 4×4 affine that maps voxel indices to
RAS+ millimetres (NIfTI-1, nibabel's convention). DICOM's patient coordinate system is LPS+
(PS3.3 C.7.6.2.1.1): x and y change sign.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import affine_transform

__all__ = [
    "Affine",
    "FloatArray",
    "Volume",
    "lps_to_ras",
    "nifti_image",
    "ras_to_lps",
    "resampled",
    "spacing_of",
    "too_large",
]

FloatArray = NDArray[np.float32]
Affine = NDArray[np.float64]

_LONGEST_MM = 600.0
_SCANNER, _MNI = 1, 4  # NIFTI_XFORM_SCANNER_ANAT, NIFTI_XFORM_MNI_152
_FLIP_XY = np.diag([-1.0, -1.0, 1.0, 1.0])


def spacing_of(affine: Affine) -> tuple[float, float, float]:
    """Return the voxel size in mm along i, j and k."""
    i, j, k = np.linalg.norm(affine[:3, :3], axis=0)
    return float(i), float(j), float(k)


def too_large(shape: Sequence[int], spacing: Sequence[float]) -> str | None:
    """Return why a volume of these voxels, in mm, is no scan of a head; None where it may be one.

    No scanner's field of view is longer. What brain extraction and super-resolution need in memory
    grows with it, however few voxels there are: with its cube, and with the square of the slices.
    """
    longest = max(n * size for n, size in zip(shape, spacing, strict=True))
    if longest <= _LONGEST_MM:
        return None
    return f"the volume is {longest:.0f} mm long; at most {_LONGEST_MM:g} mm are processed"


def lps_to_ras(affine: Affine) -> Affine:
    """Return a voxel-to-LPS affine (mm, 4×4) as voxel-to-RAS."""
    return np.asarray(_FLIP_XY @ affine, dtype=np.float64)


def ras_to_lps(affine: Affine) -> Affine:
    """Return a voxel-to-RAS affine (mm, 4×4) as voxel-to-LPS."""
    return np.asarray(_FLIP_XY @ affine, dtype=np.float64)


@dataclass(frozen=True)
class Volume:
    """A scalar image on a regular grid.

    Parameters
    ----------
    data
        ``float32``, shape (i, j, k).
    affine
        4×4, voxel index to RAS+ mm; maps the *centre* of voxel (i, j, k).
    """

    data: FloatArray
    affine: Affine

    def __post_init__(self) -> None:
        if self.data.ndim != 3:
            raise ValueError(f"a volume has three axes, not {self.data.ndim}")
        if self.data.dtype != np.float32:
            raise ValueError(f"a volume is float32, not {self.data.dtype}")
        if self.affine.shape != (4, 4) or abs(np.linalg.det(self.affine)) < 1e-9:
            raise ValueError("a volume needs a non-singular 4×4 affine")

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size in mm along i, j and k."""
        return spacing_of(self.affine)

    def position(self, index: tuple[float, float, float]) -> NDArray[np.float64]:
        """Return the RAS+ position (mm) of a voxel index, which need not be whole."""
        return np.asarray(self.affine[:3, :3] @ np.asarray(index) + self.affine[:3, 3])

    @classmethod
    def load(cls, path: Path) -> Volume:
        """Read a 3D NIfTI file, scaled to its real values."""
        image = nib.nifti1.Nifti1Image.from_filename(path)
        return cls(np.asarray(image.dataobj, dtype=np.float32), np.asarray(image.affine))

    def save(self, path: Path, *, in_template_space: bool = False) -> None:
        """Write a float32 NIfTI-1 file; see `nifti_image`."""
        image = nifti_image(self.data, self.affine, in_template_space=in_template_space)
        image.to_filename(path)


def nifti_image(
    data: NDArray[np.generic], affine: Affine, *, in_template_space: bool
) -> nib.nifti1.Nifti1Image:
    """Return a NIfTI-1 image whose new header says nothing but where the voxels are.

    Parameters
    ----------
    data
        Shape (i, j, k).
    affine
        4×4, voxel index to RAS+ mm; becomes sform and qform.
    in_template_space
        The affine leads to the MNI template, and not to where the scanner saw the head.
    """
    code = _MNI if in_template_space else _SCANNER
    image = nib.nifti1.Nifti1Image(data, affine)  # type: ignore[no-untyped-call]
    image.header.set_xyzt_units("mm")  # type: ignore[no-untyped-call]
    image.set_sform(affine, code=code)  # type: ignore[no-untyped-call]
    image.set_qform(affine, code=code)  # type: ignore[no-untyped-call]
    return image


def resampled(volume: Volume, affine: Affine, shape: tuple[int, ...]) -> Volume:
    """Return a volume on another grid, interpolated linearly; beyond its edges it goes on as there.

    Parameters
    ----------
    affine
        4×4, index of the new grid to RAS+ mm.
    shape
        Of the new grid, (i, j, k).
    """
    between = np.linalg.inv(volume.affine) @ affine
    data = affine_transform(
        volume.data,
        between[:3, :3],
        between[:3, 3],
        output_shape=shape,
        order=1,
        mode="nearest",
        output=np.float32,
    )
    return Volume(data, affine)
