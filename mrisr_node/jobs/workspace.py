"""The folder of one job: what its stages keep there outlives a power cut, whole or not at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset

from mrisr_node.choices import Recipe
from mrisr_node.durable import placed
from mrisr_node.errors import ConversionError, ResultGone
from mrisr_node.intake.screening import count_items
from mrisr_node.jobs.result_files import STACKS, stack_folders
from mrisr_node.results.facts import Predecessor
from mrisr_node.settings import Settings
from mrisr_node.volumes.geometry import Volume

__all__ = ["NiftiInput", "PairsInput", "Progress", "Workspace", "read_headers"]

Progress = Callable[[float], None]

# Of all headers of a series, which are in memory together: each by itself is limited by screening.
_MOST_BYTES = 512 * 1024**2
_MOST_ITEMS = 500_000


@dataclass(frozen=True)
class NiftiInput:
    """What a series that is a NIfTI file is to be taken for.

    Parameters
    ----------
    sha256
        Of the file.
    slice_axis
        Its axis across the slices, from 0.
    thickness_mm
        Of the slices.
    contrast
        One of ``CONTRASTS``, where somebody has said so.
    series_instance_uid, study_instance_uid
        Of its slices, where they become DICOM.
    study
        DICOM attributes of patient and study that they become, by keyword; None: they become none.
    """

    sha256: str
    slice_axis: int
    thickness_mm: float
    contrast: str | None
    series_instance_uid: str
    study_instance_uid: str
    study: Mapping[str, str] | None


@dataclass(frozen=True)
class PairsInput:
    """What kind of pairs are to be made of the sources.

    Parameters
    ----------
    options
        As `pairs.options.PairOptions` gives them.
    licence
        Of the dataset.
    names
        Of the sources, as their owner has them: what may tell whose scans they are.
    """

    options: Mapping[str, Any]
    licence: str | None
    names: tuple[str, ...]


@dataclass(frozen=True)
class Workspace:
    """The folder of one job and what its stages need to know.

    Parameters
    ----------
    folder
        Where the stages keep their files.
    sources
        The DICOM files of the series, or its NIfTI file; never written to.
    """

    folder: Path
    sources: tuple[Path, ...]
    settings: Settings
    recipe: Recipe
    progress: Progress = lambda _: None
    remarks: tuple[str, ...] = ()
    """What a reader has to know of the result besides what the stages find out."""
    predecessors: Mapping[str, Predecessor] = field(default_factory=dict)
    """Earlier results of the series, by an instance that each was made of; empty: not noted."""
    previews: Path | None = None
    """Where small pictures of the result go; None: nobody looks at them."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """How long the stages before took."""
    stack: str = ""
    """What distinguishes this stack from the others of the series; empty for a whole series."""
    stack_number: int = 0
    """Which of several stacks it is, from 0."""
    instances: frozenset[str] | None = None
    """The SOP Instance UIDs of the stack; None: all of `sources`."""
    nifti: NiftiInput | None = None
    pairs: PairsInput | None = None
    """What the series is, where it is no DICOM."""

    def stacks(self) -> list[Workspace]:
        """Return a workspace for each stack that is processed: this one, where it is the only one.

        Raises
        ------
        ResultGone
            The note that tells them apart is damaged.
        """
        if not self.has(STACKS):
            return [self]  # an older version has begun the job
        note = self.read(STACKS)
        noted, left_out = note["stacks"], note["left_out"]
        count = len(noted)
        return [
            replace(
                self,
                folder=folder,
                stack=noted[number]["label"],
                stack_number=number,
                instances=frozenset(noted[number]["sop_instance_uids"]),
                remarks=(*self.remarks, *left_out),
                previews=self.previews and stack_folders(self.previews, count)[number],
                progress=_part_of(self.progress, number, count),
            )
            for number, folder in enumerate(stack_folders(self.folder, count))
        ]

    def files(self) -> tuple[Path, ...]:
        """Return the source files of this stack.

        Raises
        ------
        ResultGone
            One of them is no longer there.
        """
        if self.instances is None:
            return self.sources
        found = {_sop_instance_uid(path): path for path in self.sources}
        if not found.keys() >= self.instances:
            raise ResultGone("the series has lost instances since the job began")
        return tuple(path for uid, path in found.items() if uid in self.instances)

    @property
    def files_dir(self) -> Path:
        """Where the result's other files are, where a NIfTI file is the source."""
        return self.folder / "files"

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
        with placed(self.folder / f"{name}.json") as draft:
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
        with placed(self.folder / f"{name}.nii.gz") as draft:
            volume.save(draft)

    def clear(self, keep: str) -> None:
        """Remove everything but one file: what an earlier run of the job has left."""
        for path in self.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != keep:
                path.unlink()

    def headers(self) -> list[Dataset]:
        """Return this stack's instances without their pixel data, as `read_headers` does."""
        return read_headers(self.files())


def _part_of(progress: Progress, number: int, count: int) -> Progress:
    return lambda part: progress((number + part) / count)


def _sop_instance_uid(path: Path) -> str:
    header = dcmread(path, stop_before_pixels=True, specific_tags=["SOPInstanceUID"])
    return str(header.SOPInstanceUID)


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
