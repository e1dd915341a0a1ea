"""Sharp volumes to train on and to measure with: NIfTI files, or archives of one DICOM series."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError

from mrisr_node.errors import ConversionError
from mrisr_node.volumes.geometry import Volume

__all__ = ["as_nifti", "load_ras"]


def _dcm2niix() -> str:
    """Find the converter beside this Python, where its wheel puts it, or on the PATH."""
    program = shutil.which("dcm2niix", path=str(Path(sys.executable).parent))
    program = program or shutil.which("dcm2niix")
    if program is None:
        raise ConversionError("dcm2niix is not installed: pip install dcm2niix")
    return program


@contextmanager
def as_nifti(path: Path) -> Iterator[Path]:
    """Give a NIfTI file for ``path``: itself, or what dcm2niix makes of a ``.tar.xz`` of DICOM."""
    if not path.name.endswith(".tar.xz"):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(path) as archive:
            for number, member in enumerate(archive):  # its names never become paths
                if content := archive.extractfile(member):
                    Path(folder, f"{number}.dcm").write_bytes(content.read())
        subprocess.run(
            [_dcm2niix(), "-z", "n", "-f", "volume", "-o", folder, folder],
            check=False,  # its exit status says little; what counts is exactly one volume
            capture_output=True,
        )
        made = sorted(Path(folder).glob("*.nii"))
        if len(made) != 1:
            raise ConversionError(f"{path.name} gives {len(made)} volumes instead of one")
        yield made[0]


def load_ras(path: Path) -> Volume:
    """Load a sharp volume with its axes nearest to right, anterior and superior.

    Raises
    ------
    ValueError
        It is no NIfTI file of one volume, or holds values that are no numbers.
    """
    with as_nifti(path) as nifti:
        try:
            image = nib.as_closest_canonical(nib.load(nifti))  # type: ignore[no-untyped-call]
        except ImageFileError as error:
            raise ValueError(f"{path.name} is no NIfTI file: {error}") from error
        data = np.asarray(image.dataobj, dtype=np.float32)
    if data.ndim == 4 and data.shape[3] == 1:
        data = data[..., 0]  # some writers give a single volume a time
    if data.ndim != 3 or not np.isfinite(data).all():
        raise ValueError(f"{path.name} is no single volume of finite numbers")
    return Volume(data, np.asarray(image.affine))
