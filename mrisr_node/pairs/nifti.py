"""NIfTI files with nothing in them but numbers, the same bytes for the same volume."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from mrisr_node.volumes.geometry import Affine

__all__ = ["write_nifti"]

_SCANNER, _MNI = 1, 4  # NIFTI_XFORM_SCANNER_ANAT, NIFTI_XFORM_MNI_152
_LEVEL = 6


def write_nifti(
    path: Path, data: NDArray[np.generic], affine: Affine, *, in_template_space: bool
) -> None:
    """Write a compressed NIfTI-1 file.

    Its header is new: description, names and extensions of a source have no way into it. Nor does
    the gzip stream hold a name or a time.
    """
    code = _MNI if in_template_space else _SCANNER
    image = nib.nifti1.Nifti1Image(data, affine)  # type: ignore[no-untyped-call]
    image.header.set_xyzt_units("mm")  # type: ignore[no-untyped-call]
    image.set_sform(affine, code=code)  # type: ignore[no-untyped-call]
    image.set_qform(affine, code=code)  # type: ignore[no-untyped-call]
    path.write_bytes(gzip.compress(image.to_bytes(), _LEVEL, mtime=0))
