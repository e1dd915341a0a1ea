"""The DICOM files of a written result: made durable, and looked at before they are sent."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from pydicom import dcmread

from mrisr_node.durable import sync

__all__ = ["DIGESTS", "digests_of", "has_whole_result", "make_durable"]

DIGESTS = "digests"
"""Under this name the stage that writes the result notes the SHA-256 of each file."""


def make_durable(paths: Sequence[Path], folder: Path) -> None:
    """Have files and the folder they are in outlive a power cut."""
    for path in paths:
        sync(path)
    sync(folder)


def digests_of(paths: Sequence[Path]) -> dict[str, str]:
    """Return the SHA-256 of files by their names."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def has_whole_result(folder: Path) -> bool:
    """Tell whether the folder of a job holds a result with all its instances, as written."""
    digests = folder / f"{DIGESTS}.json"
    try:
        expected: int = json.loads((folder / "result.json").read_text())["instances"]
        paths = sorted((folder / "result").glob("*.dcm"))
        if len(paths) != expected:
            return False
        if digests.exists():
            return bool(digests_of(paths) == json.loads(digests.read_text()))
    except (OSError, ValueError, LookupError, TypeError):
        return False
    # Written by a version that noted no digests.
    return all(_is_whole(path) for path in paths)


def _is_whole(path: Path) -> bool:
    try:
        dataset = dcmread(path)
        voxels = int(dataset.Rows) * int(dataset.Columns)
        return len(dataset.PixelData) * 8 >= voxels * int(dataset.BitsAllocated)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - pydicom raises anything on a damaged file
        return False
