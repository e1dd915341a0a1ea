"""The one stage of a set of uploaded scans: pairs of high and low resolution, as one dataset."""

from __future__ import annotations

import json
import os
import shutil

from mrisr_node.durable import sync
from mrisr_node.errors import StageError
from mrisr_node.jobs.workspace import PairsInput, Workspace
from mrisr_node.jobs.writing import replaced
from mrisr_node.pairs.options import PairOptions
from mrisr_node.pairs.run import Outcome, make_pairs
from mrisr_node.pairs.scans import subject_in
from mrisr_node.pairs.standing import Standing

__all__ = ["make_dataset"]

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
    # Their names say of what kind they are and which of them are one subject's, and nothing else.
    scans = workspace.folder / "scans"
    shutil.rmtree(scans, ignore_errors=True)
    scans.mkdir()
    links = []
    subjects: dict[str, int] = {}
    for number, (source, name) in enumerate(
        zip(workspace.sources, wanted.names, strict=True), start=1
    ):
        with source.open("rb") as file:
            packed = file.read(2) == _GZIP
        label = subject_in(name)
        whose = f"sub-{subjects.setdefault(label, len(subjects) + 1)}_" if label else ""
        link = scans / f"{whose}scan-{number:03d}{'.nii.gz' if packed else '.nii'}"
        os.link(source, link)
        links.append(link)

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


def _number(outcome: Outcome) -> int:
    return int(outcome.source.name.partition(".")[0].rpartition("scan-")[2])


def _told(outcome: Outcome) -> str:
    return f"scan {_number(outcome)} left out: {outcome.reason}"
