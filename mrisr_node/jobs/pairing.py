"""The one stage of a set of uploaded scans: pairs of high and low resolution, as one dataset."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from mrisr_node.durable import sync
from mrisr_node.errors import StageError
from mrisr_node.jobs.workspace import PairsInput, Workspace
from mrisr_node.jobs.writing import replaced
from mrisr_node.pairs.options import PairOptions
from mrisr_node.pairs.run import Outcome, make_pairs
from mrisr_node.pairs.scans import subject_in
from mrisr_node.pairs.standing import Standing

__all__ = ["link_scans", "make_dataset"]

_GZIP = b"\x1f\x8b"


def make_dataset(workspace: Workspace, wanted: PairsInput) -> None:
    """Make the pairs of all scans, and pack them.

    What an earlier try has made is kept. A scan that cannot be used does not stop the others.

    Parameters
    ----------
    workspace
        Gets ``files_dir``, and the note ``pairs``: of each scan, in their order, what became of it.

    Raises
    ------
    StageError
        There are no pairs of any of them.
    """
    links = link_scans(workspace.folder / "scans", workspace.sources, wanted.names)

    def watch(standing: Standing) -> None:
        workspace.progress(standing.part)

    dataset = workspace.folder / "pairs"
    options = PairOptions.from_json(dict(wanted.options))
    outcomes = make_pairs(
        links, dataset, options, licence=wanted.licence, archive=True, watch=watch
    )
    made = [one for one in outcomes if one.state in ("done", "there")]
    left_out = [_told(one) for one in outcomes if one not in made]
    if not made:
        raise StageError(f"no pairs: {'; '.join(left_out) or 'no scan was named'}")
    with replaced(workspace.files_dir) as draft:
        os.link(dataset.with_name(f"{dataset.name}.zip"), draft / "pairs.zip")
        report = [
            {"scan": _number(one), "subject": one.subject, "state": one.state, "reason": one.reason}
            for one in outcomes
        ]
        (draft / "pairs.json").write_text(json.dumps(report, indent=1))
        sync(draft / "pairs.json")
    workspace.note("pairs", {"made": len(made), "left_out": left_out})


def link_scans(folder: Path, sources: Sequence[Path], names: Sequence[str]) -> list[Path]:
    """Link scans into a folder of their own.

    Parameters
    ----------
    names
        What their owner calls them. The links' names say of what kind they are, and which of them
        are one subject's; nothing of these is in them.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    links = []
    subjects: dict[str, int] = {}
    for number, (source, name) in enumerate(zip(sources, names, strict=True), start=1):
        with source.open("rb") as file:
            packed = file.read(2) == _GZIP
        label = subject_in(name)
        whose = f"sub-{subjects.setdefault(label, len(subjects) + 1)}_" if label else ""
        link = folder / f"{whose}scan-{number:03d}{'.nii.gz' if packed else '.nii'}"
        os.link(source, link)
        links.append(link)
    return links


def _number(outcome: Outcome) -> int:
    return int(outcome.source.name.partition(".")[0].rpartition("scan-")[2])


def _told(outcome: Outcome) -> str:
    return f"scan {_number(outcome)} left out: {outcome.reason}"
