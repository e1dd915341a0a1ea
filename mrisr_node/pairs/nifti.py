"""NIfTI files with nothing in them but numbers, the same bytes for the same volume."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mrisr_node.volumes.geometry import Affine, nifti_image

__all__ = ["write_nifti"]

_LEVEL = 6


def write_nifti(
    path: Path, data: NDArray[np.generic], affine: Affine, *, in_template_space: bool
) -> None:
    """Write a compressed NIfTI-1 file.

    Its header is new: description, names and extensions of a source have no way into it. Nor does
    the gzip stream hold a name or a time.
    """
    image = nifti_image(data, affine, in_template_space=in_template_space)
    path.write_bytes(gzip.compress(image.to_bytes(), _LEVEL, mtime=0))
