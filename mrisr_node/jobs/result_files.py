"""The DICOM files of a written result: made durable, and looked at before they are sent."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from pydicom import dcmread

from mrisr_node.choices import ResultKind
from mrisr_node.durable import sync

__all__ = [
    "DIGESTS",
    "STACKS",
    "digests_of",
    "files_of",
    "has_whole_result",
    "make_durable",
    "stack_folders",
]

DIGESTS = "digests"
"""Under this name the stage that writes the result notes the SHA-256 of each file."""

STACKS = "stacks"
"""Under this name the first stage notes which stacks of the series are processed."""


def stack_folders(folder: Path, count: int) -> list[Path]:
    """Return the folder of each stack within a job's: the job's own, where there is but one."""
    if count == 1:
        return [folder]
    return [folder / f"stack-{number}" for number in range(1, count + 1)]


def make_durable(paths: Sequence[Path], folder: Path) -> None:
    """Have files and the folder they are in outlive a power cut."""
    for path in paths:
        sync(path)
    sync(folder)


def files_of(result: Path) -> list[Path]:
    """Return the DICOM files in the folder of a result, series by series in the order of slices."""
    order = list(ResultKind)

    def place(path: Path) -> tuple[int, str]:
        kind = path.parent.name  # the folder itself, where an older version wrote the only series
        return (order.index(ResultKind(kind)) if kind in order else 0, path.name)

    return sorted(result.rglob("*.dcm"), key=place)


def digests_of(result: Path) -> dict[str, str]:
    """Return the SHA-256 of a result's files by their paths in its folder."""
    return {
        str(path.relative_to(result)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files_of(result)
    }


def has_whole_result(folder: Path) -> bool:
    """Tell whether the folder of a job holds a result with all its instances, as written."""
    noted = folder / f"{STACKS}.json"
    try:
        # An older version knew of one stack only.
        count = len(json.loads(noted.read_text())["stacks"]) if noted.exists() else 1
    except (OSError, ValueError, LookupError, TypeError):
        return False
    return all(_has_whole_result(stack) for stack in stack_folders(folder, count))


def _has_whole_result(folder: Path) -> bool:
    digests = folder / f"{DIGESTS}.json"
    try:
        expected: int = json.loads((folder / "result.json").read_text())["instances"]
        paths = files_of(folder / "result")
        if len(paths) != expected:
            return False
        if digests.exists():
            return bool(digests_of(folder / "result") == json.loads(digests.read_text()))
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
