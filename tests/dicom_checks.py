"""What validators and readers that are not ours say about files."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import nibabel as nib


def dciodvfy(path: Path) -> list[str]:
    """Return the lines in which dciodvfy finds errors."""
    tool = shutil.which("dciodvfy", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    done = subprocess.run([tool, str(path)], capture_output=True, text=True, timeout=60)
    return [line for line in done.stderr.splitlines() if line.startswith("Error")]


def read_by_dcm2niix(paths: Iterable[Path], folder: Path) -> nib.Nifti1Image:
    """Return the one volume that dcm2niix makes of the files of a series, in a new folder."""
    folder.mkdir()
    for number, path in enumerate(paths):
        shutil.copy(path, folder / f"{number:04d}.dcm")
    tool = Path(sys.executable).with_name("dcm2niix")
    subprocess.run(
        [tool, "-b", "n", "-z", "n", "-f", "volume", "-o", folder, folder],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    [image] = folder.glob("volume*.nii")
    return nib.load(image)
