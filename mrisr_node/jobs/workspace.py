"""The folder of one job: what its stages keep there outlives a power cut, whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset

from mrisr_node.choices import Recipe
from mrisr_node.durable import sync
from mrisr_node.errors import ConversionError, ResultGone
from mrisr_node.intake.screening import count_items
from mrisr_node.results.facts import Predecessor
from mrisr_node.settings import Settings
from mrisr_node.volumes.geometry import Volume

__all__ = ["Progress", "Workspace", "read_headers"]

Progress = Callable[[float], None]

# Of all headers of a series, which are in memory together: each by itself is limited by screening.
_MOST_BYTES = 512 * 1024**2
_MOST_ITEMS = 500_000


@dataclass(frozen=True)
class Workspace:
    """The folder of one job and what its stages need to know.

    Parameters
    ----------
    folder
        Where the stages keep their files.
    sources
        The DICOM files of the series; never written to.
    """

    folder: Path
    sources: tuple[Path, ...]
    settings: Settings
    recipe: Recipe
    progress: Progress = lambda _: None
    remarks: tuple[str, ...] = ()
    """What a reader has to know of the result besides what the stages find out."""
    predecessor: Predecessor | None = None
    """The earlier result of the series, whose place this one takes."""
    previews: Path | None = None
    """Where small pictures of the result go; None: nobody looks at them."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """How long the stages before took."""

    @property
    def result_dir(self) -> Path:
        """Where the result's DICOM files are."""
        return self.folder / "result"

    def has(self, name: str) -> bool:
        """Tell whether a stage noted something."""
        return (self.folder / f"{name}.json").is_file()

    def read(self, name: str) -> dict[str, Any]:
        """Return what a stage noted.

        Raises
        ------
        ResultGone
            It is not there, or damaged.
        """
        try:
            noted: dict[str, Any] = json.loads((self.folder / f"{name}.json").read_text())
        except (OSError, ValueError) as error:
            raise ResultGone(f"{name}.json is gone or damaged") from error
        return noted

    def note(self, name: str, values: Mapping[str, Any]) -> None:
        """Keep what a later stage or a reader needs to know."""
        with self.placed(f"{name}.json") as draft:
            draft.write_text(json.dumps(values, indent=1))

    def load(self, name: str) -> Volume:
        """Return a volume that a stage made.

        Raises
        ------
        ResultGone
            It is not there, or damaged.
        """
        try:
            return Volume.load(self.folder / f"{name}.nii.gz")
        except MemoryError:
            raise
        except Exception as error:  # what nibabel raises on a damaged file has no common root
            raise ResultGone(f"{name}.nii.gz is gone or damaged") from error

    def save(self, name: str, volume: Volume) -> None:
        """Keep a volume."""
        with self.placed(f"{name}.nii.gz") as draft:
            volume.save(draft)

    @contextmanager
    def placed(self, name: str) -> Iterator[Path]:
        """Give the path of a draft, which gets its name once it is on the disk."""
        draft = self.folder / f".{os.getpid()}.{name}"
        try:
            yield draft
            sync(draft)
            draft.replace(self.folder / name)
        except BaseException:
            draft.unlink(missing_ok=True)  # what is cut off takes no room
            raise
        sync(self.folder)

    def clear(self, keep: str) -> None:
        """Remove everything but one file: what an earlier run of the job has left."""
        for path in self.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != keep:
                path.unlink()

    def headers(self) -> list[Dataset]:
        """Return the source instances without their pixel data, as `read_headers` does."""
        return read_headers(self.sources)


def read_headers(paths: Sequence[Path]) -> list[Dataset]:
    """Return instances without their pixel data.

    Raises
    ------
    ConversionError
        Together they would fill memory.
    """
    found: list[Dataset] = []
    size = items = 0
    for path in paths:
        with path.open("rb") as file:
            found.append(dcmread(file, stop_before_pixels=True))
            here = file.tell()
            file.seek(0)
            items += count_items(file.read(here))
        size += here
        if size > _MOST_BYTES or items > _MOST_ITEMS:
            raise ConversionError(
                f"the headers of the series have more than {_MOST_BYTES} bytes or"
                f" {_MOST_ITEMS} items in sequences, and are needed together; send it again"
                " without private elements"
            )
    return found
