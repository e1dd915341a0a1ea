"""NIfTI files that were given to be processed: as series with jobs, and what came of them as files.

Such a series has the states, queues and leases of every other one. What differs stands in
`NiftiSeries` and in the stages that read and write (`nifti`); of pairs, in `PairsSeries` and in
their one stage (`pairing`).
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from pydicom.uid import generate_uid

from mrisr_node.choices import Recipe
from mrisr_node.counts import counted
from mrisr_node.durable import sync
from mrisr_node.jobs.queues import Queues
from mrisr_node.jobs.stages import queue_of, stages_of
from mrisr_node.jobs.workspace import NiftiInput, PairsInput, Workspace
from mrisr_node.logs import words_of
from mrisr_node.pairs.options import PairOptions
from mrisr_node.records import (
    Batch,
    Job,
    NiftiSeries,
    PairsSeries,
    Series,
    State,
    StoredFile,
    Transition,
    transaction,
)
from mrisr_node.settings import Settings

__all__ = [
    "FILES_DELETED", "FILES_READY", "Wish", "files_of_job", "give", "give_for_pairs",
    "goes_to_pacs", "keep_files", "names_of_files", "owner_of", "wake", "with_given_files",
]  # fmt: skip


FILES_READY, FILES_DELETED = "its files are ready", "its files were deleted"
"""In the reason for which a job is done whose result does not go to the PACS."""

_TYPES = {
    ".gz": "application/gzip",
    ".json": "application/json",
    ".png": "image/png",
    ".zip": "application/zip",
}


_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wish:
    """What is to be done with a file.

    Parameters
    ----------
    slice_axis, thickness_mm, contrast, study
        As in `NiftiInput`.
    """

    file: StoredFile
    recipe: Recipe
    slice_axis: int
    thickness_mm: float
    contrast: str | None = None
    study: Mapping[str, str] | None = None


def give(owner: str, wishes: list[Wish], *, together: bool = False) -> tuple[list[Series], str]:
    """Queue files to be processed: all of them, or none.

    Returns
    -------
    tuple
        The series, and the key of the batch that they are; empty unless they are `together`.
    """
    with transaction():
        batch = Batch.create(key=secrets.token_hex(16), owner=owner) if together else None
        return [_queue(owner, wish, batch) for wish in wishes], batch.key if batch else ""


def give_for_pairs(
    owner: str, files: Sequence[StoredFile], options: PairOptions, licence: str | None
) -> Series:
    """Queue scans of high resolution, to make pairs of."""
    words = f"pairs of {counted(len(files), 'scan')}"
    with transaction():
        series = _new_series(owner, "pairs", words, words)
        PairsSeries.create(
            series=series,
            owner=owner,
            files=json.dumps([file.key for file in files]),
            options=json.dumps(options.as_json()),
            licence=licence,
        )
        voxels = sum(prod(json.loads(file.facts)["shape"]) for file in files)
        Job.create(series=series, recipe=Recipe.PAIRS.value, voxels=voxels)
    return series


def wake(settings: Settings, series: list[Series]) -> None:
    """Tell the workers, if the queues can be written; ``recovery`` finds what they are not told."""
    jobs = list(Job.select().where(Job.series.in_(series)))
    try:
        queues = Queues(settings)
        for job in jobs:
            queues.send(queue_of(stages_of(Recipe(job.recipe))[0]), job.id)
    except (sqlite3.Error, OSError) as error:
        # The jobs are there already: whoever asked for them must not think that they are not.
        _log.warning("the queues cannot be written, recovery will: %s", words_of(error))


def _queue(owner: str, wish: Wish, batch: Batch | None) -> Series:
    facts = json.loads(wish.file.facts)
    study = dict(wish.study) if wish.study is not None else None
    words = f"NIfTI, {' × '.join(map(str, facts['shape']))} voxels"
    description = (study or {}).get("SeriesDescription", "") or words
    series = _new_series(owner, "nifti", description, words, study)
    NiftiSeries.create(
        series=series,
        file=wish.file,
        batch=batch,
        owner=owner,
        slice_axis=wish.slice_axis,
        thickness_mm=wish.thickness_mm,
        contrast=wish.contrast,
        study=None if study is None else json.dumps(study),
    )
    Job.create(series=series, recipe=wish.recipe.value, voxels=prod(facts["shape"]))
    return series


def _new_series(
    owner: str, kind: str, description: str, words: str, study: Mapping[str, str] | None = None
) -> Series:
    study = study or {}
    series: Series = Series.create(
        series_instance_uid=generate_uid(prefix=None),
        study_instance_uid=generate_uid(prefix=None),
        modality="MR",
        description=description,
        patient_id=study.get("PatientID", ""),
        patient_name=study.get("PatientName", ""),
        accession_number=study.get("AccessionNumber", ""),
        study_date=study.get("StudyDate", ""),
        sender=owner,
        state=State.QUEUED.value,
        reason=words,
        format=kind,
    )
    Transition.create(
        series=series, source="", target=State.QUEUED.value, reason=words, at=series.state_at
    )
    return series


def goes_to_pacs(job: Job) -> bool:
    """Tell whether the result of a job is to be in the PACS; that of a file is by choice."""
    if job.recipe == Recipe.PAIRS.value:
        return False
    row = _row_of(job.series_id)
    return row is None or row.study is not None


def with_given_files(workspace: Workspace, series: Series) -> Workspace:
    """Return a workspace with the files that a series is; as it was for a series of DICOM."""
    if series.format == "pairs":
        scans = PairsSeries.get(PairsSeries.series == series)
        keys = json.loads(scans.files)
        names = {row.key: row.name for row in StoredFile.select().where(StoredFile.key.in_(keys))}
        return replace(
            workspace,
            sources=tuple(workspace.settings.files_dir / key for key in keys),
            pairs=PairsInput(
                options=json.loads(scans.options),
                licence=scans.licence,
                names=tuple(names.get(key, "") for key in keys),
            ),
        )
    row = _row_of(series.id)
    if row is None:
        return workspace
    key, digest = (row.file.key, row.file.sha256) if row.file else ("deleted", "")
    return replace(
        workspace,
        sources=(workspace.settings.files_dir / key,),
        nifti=NiftiInput(
            sha256=digest,
            slice_axis=row.slice_axis,
            thickness_mm=row.thickness_mm,
            contrast=row.contrast,
            series_instance_uid=series.series_instance_uid,
            study_instance_uid=series.study_instance_uid,
            study=None if row.study is None else json.loads(row.study),
        ),
    )


def keep_files(settings: Settings, job: Job) -> None:
    """Have what a job wrote of a file downloaded from now on, instead of what it wrote before."""
    owner = owner_of(job)
    if owner is None:
        return
    settings.files_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    before = files_of_job(job)
    rows = []
    for path in sorted((settings.work_dir / str(job.id) / "files").iterdir()):
        key = secrets.token_hex(16)
        os.link(path, settings.files_dir / key)
        with path.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        rows.append(
            {
                "key": key,
                "owner": owner,
                "name": path.name,
                "size": path.stat().st_size,
                "sha256": digest,
                "media_type": _TYPES[path.suffix],
                "job": job,
            }
        )
    sync(settings.files_dir)
    with transaction():
        StoredFile.delete().where(StoredFile.job == job).execute()
        StoredFile.insert_many(rows).execute()
    for old in before:
        (settings.files_dir / old.key).unlink(missing_ok=True)


def owner_of(job: Job) -> str | None:
    """Return whose files a job is made of; None where it is made of none."""
    for kind in (NiftiSeries, PairsSeries):
        row = kind.get_or_none(kind.series == job.series_id)
        if row is not None:
            return str(row.owner)
    return None


def names_of_files(series_ids: Sequence[int], owner: str | None = None) -> dict[int, str]:
    """Return the names of the files that series are which become no study, by series.

    Parameters
    ----------
    owner
        Only theirs: a name may tell of a patient, and an upload is its owner's alone.
    """
    rows: Any = NiftiSeries.select(NiftiSeries.series, StoredFile.name).join(StoredFile)
    rows = rows.where(NiftiSeries.series.in_(series_ids), NiftiSeries.study.is_null())
    if owner is not None:
        rows = rows.where(NiftiSeries.owner == owner)
    return dict(rows.tuples())


def _row_of(series_id: int) -> NiftiSeries | None:
    row: NiftiSeries | None = NiftiSeries.get_or_none(NiftiSeries.series == series_id)
    return row


def files_of_job(job: Job) -> list[StoredFile]:
    """Return the files that a job has made, by name."""
    return list(StoredFile.select().where(StoredFile.job == job).order_by(StoredFile.name))
