"""Super-resolution of uploaded files, one or several at once, and what came of them as files.

A job on what is in the PACS is begun under ``/api/jobs``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query, Request
from pydantic import BaseModel, Field, StrictFloat
from starlette.responses import Response, StreamingResponse

from mrisr_node.choices import SeriesRecipe
from mrisr_node.errors import CheckpointError, OutOfRange
from mrisr_node.jobs.given_files import Wish, files_of_job, give, wake
from mrisr_node.jobs.stages import Queue
from mrisr_node.jobs.turns import next_try, waits_for
from mrisr_node.people.roles import Permission
from mrisr_node.records import ACTIVE, Batch, Job, NiftiSeries, Series, State, StoredFile
from mrisr_node.settings import Settings
from mrisr_node.superres.card import CARD, Card
from mrisr_node.volumes.contrast import CONTRASTS
from mrisr_node.web.bodies import Body
from mrisr_node.web.files import FileView, file_view, own_file
from mrisr_node.web.idempotency import LOCATION, IdempotentRoute
from mrisr_node.web.permissions import allow
from mrisr_node.web.series import JSON_NUMBER, Id, Limit, Offset
from mrisr_node.web.subjects import concerns_each, subject_of
from mrisr_node.web.viewer import comparison_path
from mrisr_node.web.zipped import zipped

__all__ = ["BatchView", "InferenceView", "inference_router"]

_MOST_TOGETHER = 100
# What a Long String may not hold (PS3.5 6.2).
_TEXT = r"^[^\\\x00-\x1f\x7f]*$"

_Text = Annotated[str, Field(max_length=64, pattern=_TEXT)]


class Study(Body):
    """The study that a file becomes in the PACS; what is left out is generated, or stays empty."""

    patient_name: _Text = Field(default="Converted^NIfTI", description="as DICOM writes it")
    patient_id: _Text = Field(default="", description="generated where it is empty")
    patient_birth_date: str = Field(default="", pattern="^([0-9]{8})?$", description="YYYYMMDD")
    patient_sex: str = Field(default="", pattern="^[MFO]?$")
    accession_number: str = Field(default="", max_length=16, pattern=_TEXT)
    study_description: _Text = "Converted from NIfTI"
    series_description: _Text = ""

    def attributes(self, key: str) -> dict[str, str]:
        """Return it as DICOM attributes, by keyword."""
        given = {
            "".join(word.capitalize() for word in name.split("_")): value
            for name, value in self.model_dump().items()
        }
        given["PatientID"] = given.pop("PatientId") or f"NIFTI-{key[:8].upper()}"
        return given


class Inference(Body):
    """What is to be done with a file."""

    file: str = Field(description="id of an uploaded NIfTI file, under /api/files")
    recipe: SeriesRecipe | None = Field(default=None, description="by default that of the settings")
    slice_axis: Annotated[int, Field(ge=0, le=2), JSON_NUMBER] | None = Field(
        default=None, description="by default the one along which voxels are longest"
    )
    thickness_mm: StrictFloat | None = Field(
        default=None, gt=0, le=50, description="by default the distance of the slices"
    )
    contrast: str | None = Field(
        default=None,
        pattern=f"^({'|'.join(CONTRASTS)})$",
        description="chooses among checkpoints; a file does not tell",
    )
    study: Study | None = Field(
        default=None, description="store it and the result in the PACS, too, as this study"
    )


class InferenceView(BaseModel):
    """A file that is processed, and what came of it."""

    id: int = Field(description="the series, as in /api/series")
    batch: str | None
    source: str | None = Field(description="id of the file; null once it is deleted")
    name: str = Field(description="of the file")
    state: State
    reason: str
    stage: str | None
    waiting_for: Queue | None = Field(
        description="whose worker has to have time for it, before the stage begins or goes on"
    )
    next_try_at: float | None = Field(
        description="until when it is put off, seconds since 1970 (UTC); null where it is not"
    )
    progress: float = Field(description="part of the current stage that is done, 0 to 1")
    files: list[FileView] = Field(description="thin slices, maps, brain, pictures, and a sidecar")
    zip_url: str | None = Field(description="all of them as one ZIP file")
    viewer_url: str | None = Field(
        description="original and result side by side, where in the PACS"
    )


class InferenceList(BaseModel):
    """A page of files that are processed, newest first."""

    total: int
    limit: int
    offset: int
    items: list[InferenceView]


class Together(Body):
    """Several files to process."""

    items: Annotated[list[Inference], Field(min_length=1, max_length=_MOST_TOGETHER)]


class BatchState(StrEnum):
    """How several are, taken together."""

    RUNNING = "running"
    DONE = "done"
    PARTLY_DONE = "partly_done"
    FAILED = "failed"


class BatchView(BaseModel):
    """Several files that are processed, and what came of them."""

    id: str
    state: BatchState
    done: int
    total: int
    created_at: float = Field(description="seconds since 1970")
    items: list[InferenceView]
    zip_url: str | None = Field(description="what is done of them, as one ZIP file")


def inference_router(settings: Settings) -> APIRouter:
    """Return the routes under ``/api/inference``."""
    router = APIRouter(
        prefix="/api/inference",
        tags=["inference"],
        dependencies=[allow(Permission.READ)],
        route_class=IdempotentRoute,
        responses={404: {"description": "there is none, or not for you"}},
    )
    operate = [allow(Permission.OPERATE)]
    as_zip: dict[int | str, dict[str, Any]] = {
        200: {"content": {"application/zip": {}}},
        410: {"description": "a file of it is gone"},
    }

    def begin(
        request: Request, asked: Sequence[Inference], *, together: bool
    ) -> tuple[list[Series], str]:
        wishes = []
        for number, one in enumerate(asked):
            try:
                wishes.append(_wish(settings, request, one))
            except HTTPException as error:
                if not together:
                    raise
                raise HTTPException(
                    error.status_code, f"items[{number}]: {error.detail}"
                ) from error
        series, key = give(request.state.person.username, wishes, together=together)
        concerns_each(request, map(subject_of, series))
        wake(settings, series)
        return series, key

    @router.post(
        "",
        status_code=202,
        summary="Process an uploaded file",
        dependencies=operate,
        responses={202: LOCATION},
    )
    def process(request: Request, response: Response, asked: Inference) -> InferenceView:
        [series], _ = begin(request, [asked], together=False)
        response.headers["Location"] = f"/api/inference/{series.id}"
        return _view(settings, NiftiSeries.get(NiftiSeries.series == series))

    @router.post(
        "/batch",
        status_code=202,
        summary="Process several uploaded files",
        dependencies=operate,
        responses={202: LOCATION},
    )
    def process_together(request: Request, response: Response, asked: Together) -> BatchView:
        _, key = begin(request, asked.items, together=True)
        response.headers["Location"] = f"/api/inference/batch/{key}"
        return _batch_view(settings, Batch.get(Batch.key == key))

    @router.get("", summary="List your files that are processed")
    def list_inference(
        request: Request,
        limit: Annotated[Limit, Query()] = 50,
        offset: Annotated[Offset, Query()] = 0,
    ) -> InferenceList:
        own = NiftiSeries.select().where(NiftiSeries.owner == request.state.person.username)
        rows = own.order_by(NiftiSeries.id.desc()).limit(limit).offset(offset)
        items = [_view(settings, row) for row in rows]
        return InferenceList(total=own.count(), limit=limit, offset=offset, items=items)

    @router.get("/batch/{key}", summary="Several that were begun together")
    def one_batch(request: Request, key: str) -> BatchView:
        batch = _own_batch(request, key)
        concerns_each(request, (subject_of(row.series) for row in _children(batch)))
        return _batch_view(settings, batch)

    @router.get(
        "/batch/{key}/zip",
        summary="What is done of several, as one ZIP file",
        response_class=StreamingResponse,
        responses=as_zip,
    )
    def batch_files(request: Request, key: str) -> Response:
        rows = _children(_own_batch(request, key))
        concerns_each(request, (subject_of(row.series) for row in rows))
        members = [
            (f"{number:03d}/{file.name}", settings.files_dir / file.key)
            for number, row in enumerate(rows, start=1)
            for file in _files(row)
        ]
        if not members:
            raise HTTPException(404, "nothing of it is done, or its files are deleted")
        told = [
            {"folder": f"{number:03d}", "name": _name(row), "state": row.series.state,
             "reason": row.series.reason}
            for number, row in enumerate(rows, start=1)
        ]  # fmt: skip
        return zipped(members, {"manifest.json": json.dumps(told, indent=1)}, "results.zip")

    @router.get("/{series_id}", summary="A file that is processed")
    def one(request: Request, series_id: Id) -> InferenceView:
        return _view(settings, _own(request, series_id))

    @router.get(
        "/{series_id}/zip",
        summary="All files of a result as one ZIP file",
        response_class=StreamingResponse,
        responses=as_zip,
    )
    def files(request: Request, series_id: Id) -> Response:
        found = _files(_own(request, series_id))
        if not found:
            raise HTTPException(404, "it has no files yet, or not any more")
        members = [(file.name, settings.files_dir / file.key) for file in found]
        return zipped(members, {}, f"result-{series_id}.zip")

    return router


def _wish(settings: Settings, request: Request, asked: Inference) -> Wish:
    file = own_file(request, asked.file)
    facts = json.loads(file.facts)
    if "shape" not in facts:
        raise HTTPException(422, "this file was not uploaded as NIfTI; upload the one to process")
    spacing = facts["spacing_mm"]
    axis = asked.slice_axis if asked.slice_axis is not None else spacing.index(max(spacing))
    thickness = asked.thickness_mm or spacing[axis]
    _require_range(settings, spacing, axis, thickness, asked.contrast)
    return Wish(
        file=file,
        recipe=asked.recipe or settings.recipe,
        slice_axis=axis,
        thickness_mm=thickness,
        contrast=asked.contrast,
        study=asked.study.attributes(file.key) if asked.study else None,
    )


def _require_range(
    settings: Settings, spacing: Sequence[float], axis: int, thickness: float, contrast: str | None
) -> None:
    """Refuse now what no checkpoint in use is made for; the job would, minutes later."""
    i, j = (size for number, size in enumerate(spacing) if number != axis)
    reason = ""
    for folder in settings.checkpoint_folders:
        try:
            Card.load(folder / CARD).check_range(
                distance_mm=spacing[axis],
                thickness_mm=thickness,
                pixel_mm=(i, j),
                contrast=contrast,
            )
        except (OutOfRange, CheckpointError) as error:
            reason = str(error)
        else:
            return
    raise HTTPException(422, f"{reason}; name slice_axis and thickness_mm, or install another one")


def _own(request: Request, series_id: Id) -> NiftiSeries:
    row = NiftiSeries.get_or_none(NiftiSeries.series == series_id)
    if row is None or not _may_see(request, row.owner):
        raise HTTPException(
            404, "there is no such file in work; series of DICOM are in /api/series"
        )
    found: NiftiSeries = row
    return found


def _own_batch(request: Request, key: str) -> Batch:
    batch: Batch | None = Batch.get_or_none(Batch.key == key)
    if batch is None or not _may_see(request, batch.owner):
        raise HTTPException(404, "there is no such batch")
    return batch


def _children(batch: Batch) -> list[NiftiSeries]:
    return list(NiftiSeries.select().where(NiftiSeries.batch == batch).order_by(NiftiSeries.id))


def _may_see(request: Request, owner: str) -> bool:
    person = request.state.person
    return owner == person.username or Permission.ADMIN in person.permissions


def _newest_job(row: NiftiSeries) -> Job:
    job: Job = Job.select().where(Job.series == row.series).order_by(Job.id.desc()).get()
    return job


def _files(row: NiftiSeries) -> list[StoredFile]:
    return files_of_job(_newest_job(row))


def _name(row: NiftiSeries) -> str:
    return row.file.name if row.file else ""


def _view(settings: Settings, row: NiftiSeries) -> InferenceView:
    job, series = _newest_job(row), row.series
    files = files_of_job(job)
    viewer = None
    if job.delivered_at is not None and job.result_series_uid:
        viewer = settings.viewer_url + comparison_path(
            series.study_instance_uid, series.series_instance_uid, job.result_series_uid
        )
    return InferenceView(
        id=series.id,
        batch=row.batch.key if row.batch else None,
        source=row.file.key if row.file else None,
        name=_name(row),
        state=State(series.state),
        reason=series.reason,
        stage=job.stage or None,
        waiting_for=waits_for(job, State(series.state)),
        next_try_at=next_try(job) if State(series.state) in ACTIVE else None,
        progress=job.progress,
        files=[file_view(settings, file) for file in files],
        zip_url=f"/api/inference/{series.id}/zip" if files else None,
        viewer_url=viewer,
    )


def _batch_view(settings: Settings, batch: Batch) -> BatchView:
    rows = _children(batch)
    states = [State(row.series.state) for row in rows]
    done = states.count(State.DONE)
    if any(state in ACTIVE for state in states):
        state = BatchState.RUNNING
    elif done == len(states):
        state = BatchState.DONE
    else:
        state = BatchState.PARTLY_DONE if done else BatchState.FAILED
    return BatchView(
        id=batch.key,
        state=state,
        done=done,
        total=len(rows),
        created_at=batch.created_at,
        items=[_view(settings, row) for row in rows],
        zip_url=f"/api/inference/batch/{batch.key}/zip" if done else None,
    )
