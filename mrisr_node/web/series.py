"""The series of the node over HTTP: what arrived, where it is, and how long it takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, HTTPException, Query, Request
from pydantic import BaseModel, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from mrisr_node.jobs.dead_letters import dead_letters
from mrisr_node.jobs.given_files import names_of_files
from mrisr_node.jobs.overview import Action, SeriesOverview, Which, count, find, overview
from mrisr_node.jobs.recovery import retry
from mrisr_node.jobs.stages import Queue
from mrisr_node.people.roles import Permission
from mrisr_node.records import Series, State, StateError, Transition
from mrisr_node.settings import Settings
from mrisr_node.web.bodies import Body
from mrisr_node.web.permissions import allow
from mrisr_node.web.stages import TimeLeft, overall, stage_name, time_left
from mrisr_node.web.subjects import concerns
from mrisr_node.web.viewer import comparison_path, study_path

__all__ = [
    "JSON_NUMBER",
    "Id",
    "Limit",
    "Offset",
    "SeriesList",
    "SeriesView",
    "Uid",
    "known_series",
    "series_router",
]

_LONGEST_SEARCH = 200
_NONE: dict[int | str, dict[str, Any]] = {404: {"description": "there is none"}}
Limit = Annotated[int, Field(ge=1, le=500)]
Offset = Annotated[int, Field(ge=0, le=10**9)]
Uid = Annotated[str, Field(max_length=64, pattern=r"^[0-9]+(\.[0-9]+)*$")]
Id = Annotated[int, Field(ge=1, le=2**63 - 1)]


def _number(value: object) -> object:
    if isinstance(value, bool | str):
        raise PydanticCustomError("number", "a number is needed")
    return value


JSON_NUMBER = BeforeValidator(_number)
"""Of a whole number in a body: unlike in an address, "1" and true are none; 1.0 is one in JSON."""


class SeriesView(BaseModel):
    """One received series and what has become of it."""

    id: int
    study_instance_uid: str
    series_instance_uid: str
    description: str = Field(
        description="of a NIfTI file that becomes no study, its name, too, for its owner"
    )
    format: str = Field(description="dicom; nifti or pairs where it is made of uploaded files")
    modality: str
    patient_id: str
    patient_name: str = Field(description="as in DICOM: Family^Given")
    accession_number: str
    study_date: str = Field(description="as in DICOM: YYYYMMDD")
    sender: str
    instances: int
    expected_instances: int | None
    state: State
    reason: str
    received_at: float = Field(description="seconds since 1970")
    state_at: float = Field(description="when it came into this state, seconds since 1970")
    copies_deleted_at: float | None = Field(description="when its files were deleted here; the"
                                            " PACS has them")  # fmt: skip
    job: int | None = Field(description="its newest job, as in /api/jobs")
    job_deleted_at: float | None = Field(description="when that one was deleted; `job` is null")
    recipe: str | None
    stage: str | None
    stage_name: str | None = Field(description="the stage in words")
    progress: float = Field(description="part of the current stage that is done, 0 to 1")
    overall: float = Field(description="part of the way through all stages, 0 to 1")
    waiting_for: Queue | None = Field(
        description="whose worker has to have time for it, before the stage begins or goes on; null"
        " while one works on it, and where it waits for its next try"
    )
    next_try_at: float | None = Field(
        description="until when it is put off, as the PACS is down or has not answered yet, or a"
        " stage failed, seconds since 1970 (UTC); null where it is not"
    )
    time_left: TimeLeft | None
    result_series_uid: str | None
    dead_letter: bool = Field(
        description="the PACS did not take the result; it is kept and can be sent again"
    )
    actions: list[Action] = Field(description="what can be done about it now, by who may")
    viewer_url: str | None = Field(
        description="original and result side by side, once the result is in the PACS"
    )
    result_url: str | None = Field(description="the page of the result, once it is in the PACS")
    study_url: str | None = Field(description="the study in OHIF, where the PACS has it")


class SeriesList(BaseModel):
    """A page of series, newest first."""

    total: int
    dead_letters: int = Field(description="results of all series that can be sent again")
    limit: int
    offset: int
    items: list[SeriesView]


class Search(Body):
    """What is looked for. It is a body: names in addresses would stand in logs and histories."""

    q: str = Field(
        default="",
        max_length=_LONGEST_SEARCH,
        description="each of its words is in the patient's id or name, the accession number or the"
        " description, whatever its case and accents; or it is a study's or series' UID",
    )
    state: State | None = None
    limit: Annotated[Limit, JSON_NUMBER] = 50
    offset: Annotated[Offset, JSON_NUMBER] = 0


class TransitionView(BaseModel):
    """One thing that happened to a series."""

    id: int = Field(description="the id of the event in /api/events, too")
    source: State | None = Field(description="null: it began here")
    target: State
    reason: str
    at: float = Field(description="seconds since 1970")


class History(BaseModel):
    """What happened to a series, oldest first."""

    items: list[TransitionView]


def series_router(settings: Settings) -> APIRouter:
    """Return the routes under ``/api/series``."""
    router = APIRouter(prefix="/api/series", tags=["series"], dependencies=[allow(Permission.READ)])

    def views(request: Request, rows: Sequence[SeriesOverview]) -> list[SeriesView]:
        person = request.state.person
        owner = None if Permission.ADMIN in person.permissions else person.username
        files = [row.id for row in rows if row.format == "nifti"]
        names = names_of_files(files, owner) if files else {}
        return [_view(settings, row, names.get(row.id, "")) for row in rows]

    def page(request: Request, which: Which, limit: int, offset: int) -> SeriesList:
        rows = overview(which, limit=limit, offset=offset)
        return SeriesList(
            total=count(which),
            dead_letters=len(dead_letters()),
            limit=limit,
            offset=offset,
            items=views(request, rows),
        )

    @router.get("", summary="List the series that arrived")
    def list_series(
        request: Request,
        state: State | None = None,
        study_instance_uid: Annotated[Uid | None, Query()] = None,
        series_instance_uid: Annotated[Uid | None, Query()] = None,
        limit: Annotated[Limit, Query()] = 50,
        offset: Annotated[Offset, Query()] = 0,
    ) -> SeriesList:
        which = Which(
            state=state,
            study_instance_uid=study_instance_uid,
            series_instance_uid=series_instance_uid,
        )
        return page(request, which, limit, offset)

    @router.post("/search", summary="Search by patient, accession number or description")
    def search(request: Request, wanted: Search) -> SeriesList:
        words = wanted.q.strip()
        is_patient = bool(words) and Series.select().where(Series.patient_id == words).exists()
        concerns(
            request,
            query=urlencode(wanted.model_dump(mode="json", exclude_defaults=True)),
            patient_id=words if is_patient else "",
        )
        which = Which(state=wanted.state, words=wanted.q)
        return page(request, which, wanted.limit, wanted.offset)

    @router.get("/{series_id}", summary="One series", responses=_NONE)
    def one_series(request: Request, series_id: Id) -> SeriesView:
        [view] = views(request, [known_series(series_id)])
        return view

    @router.get(
        "/{series_id}/transitions",
        summary="What happened to a series, when and why",
        responses=_NONE,
    )
    def transitions(series_id: Id) -> History:
        known_series(series_id)
        rows = Transition.select().where(Transition.series == series_id).order_by(Transition.id)
        return History(
            items=[
                TransitionView(
                    id=row.id,
                    source=State(row.source) if row.source else None,
                    target=State(row.target),
                    reason=row.reason,
                    at=row.at,
                )
                for row in rows
            ]
        )

    @router.post(
        "/{series_id}/retry",
        summary="Try a series again that failed or was cancelled",
        dependencies=[allow(Permission.OPERATE)],
        responses=_NONE | {409: {"description": "it did neither"}},
    )
    def retry_series(series_id: Id, request: Request) -> SeriesView:
        known_series(series_id)
        try:
            retry(series_id, f"tried again by {request.state.person.username}")
        except StateError as error:
            raise HTTPException(409, f"{error}; look again") from error
        [view] = views(request, [known_series(series_id)])
        return view

    return router


def known_series(series_id: int) -> SeriesOverview:
    """Return a series, or raise 404."""
    row = find(series_id)
    if row is None:
        raise HTTPException(404, f"there is no series {series_id}")
    return row


def _view(settings: Settings, row: SeriesOverview, name: str) -> SeriesView:
    """Return a series as the API gives it, with the name of its file for whoever may know it."""
    compare = None
    # A result that is not confirmed yet would open on an empty viewport.
    if row.result_series_uid:
        compare = settings.viewer_url + comparison_path(
            row.study_instance_uid, row.series_instance_uid, row.result_series_uid
        )
    done = row.state == State.DONE
    return SeriesView(
        id=row.id,
        study_instance_uid=row.study_instance_uid,
        series_instance_uid=row.series_instance_uid,
        description=f"{name}: {row.description}" if name else row.description,
        format=row.format,
        modality=row.modality,
        patient_id=row.patient_id,
        patient_name=row.patient_name,
        accession_number=row.accession_number,
        study_date=row.study_date,
        sender=row.sender,
        instances=row.instances,
        expected_instances=row.expected_instances,
        state=State(row.state),
        reason=row.reason,
        received_at=row.received_at,
        state_at=row.state_at,
        copies_deleted_at=row.copies_deleted_at,
        job=row.job,
        job_deleted_at=row.job_deleted_at,
        recipe=row.recipe,
        stage=row.stage,
        stage_name=stage_name(row.stage),
        progress=row.progress,
        overall=1.0 if done else overall(row.recipe, row.stage, row.progress),
        waiting_for=row.waiting_for,
        next_try_at=row.next_try_at,
        time_left=time_left(row.time_left),
        result_series_uid=row.result_series_uid,
        dead_letter=row.dead_letter,
        actions=list(row.actions),
        viewer_url=compare,
        result_url=f"{settings.viewer_url}/results/{row.id}" if row.result_series_uid else None,
        study_url=settings.viewer_url + study_path(row.study_instance_uid) if row.in_pacs else None,
    )
