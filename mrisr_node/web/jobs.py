"""The series of the node over HTTP: where each is, how long it takes, and trying again."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, HTTPException, Query
from pydantic import BaseModel, Field

from mrisr_node.choices import Recipe
from mrisr_node.jobs.dead_letters import (
    NoDeadLetter,
    dead_letters,
    send_again,
    send_all_again,
)
from mrisr_node.jobs.overview import SeriesOverview, count, find, overview
from mrisr_node.jobs.recovery import retry
from mrisr_node.jobs.stages import Stage, stages_of
from mrisr_node.people.roles import Permission
from mrisr_node.records import State, StateError
from mrisr_node.settings import Settings
from mrisr_node.web.permissions import allow
from mrisr_node.web.viewer import comparison_path, study_path

__all__ = ["STAGE_NAMES", "JobList", "JobView", "SentAgain", "TimeLeft", "jobs_router"]

STAGE_NAMES = {
    Stage.CONVERT: "Reading the slices",
    Stage.BRAIN: "Finding the brain",
    Stage.BIAS: "Correcting the bias field",
    Stage.NORMALISE: "Normalising intensities",
    Stage.REGISTER: "Registering to MNI space",
    Stage.SUPERRESOLVE: "Super-resolving",
    Stage.WRITE: "Writing DICOM",
    Stage.STORE: "Sending to the PACS",
    Stage.CONFIRM: "Checking in the PACS",
    Stage.COMMIT: "Waiting for the PACS to promise to keep it",
}


class TimeLeft(BaseModel):
    """Seconds until the job is done, once it is its turn."""

    seconds: float
    low: float
    high: float
    basis: str = Field(
        description="history: learnt from this node's runs; reference: figures of another machine"
    )


class JobView(BaseModel):
    """One received series and what has become of it."""

    id: int
    study_instance_uid: str
    series_instance_uid: str
    description: str
    modality: str
    sender: str
    instances: int
    expected_instances: int | None
    state: State
    reason: str
    received_at: float = Field(description="seconds since 1970")
    state_at: float = Field(description="when it came into this state, seconds since 1970")
    copies_deleted_at: float | None = Field(
        description="when its files were deleted here, past retention; the PACS has them"
    )
    recipe: str | None
    stage: str | None
    stage_name: str | None = Field(description="the stage in words")
    progress: float = Field(description="part of the current stage that is done, 0 to 1")
    overall: float = Field(description="part of the way through all stages, 0 to 1")
    time_left: TimeLeft | None
    result_series_uid: str | None
    dead_letter: bool = Field(
        description="the PACS did not take the result; it is kept and can be sent again"
    )
    viewer_url: str | None = Field(
        description="original and result side by side, once the result is in the PACS"
    )
    result_url: str | None = Field(description="the page of the result, once it is in the PACS")
    study_url: str = Field(description="the study in OHIF")


class SentAgain(BaseModel):
    """How many results are sent again."""

    sent_again: int


class JobList(BaseModel):
    """A page of series, newest first."""

    total: int
    dead_letters: int = Field(description="results of all series that can be sent again")
    limit: int
    offset: int
    items: list[JobView]


def jobs_router(settings: Settings) -> APIRouter:
    """Return the routes under ``/api/jobs``."""
    router = APIRouter(prefix="/api/jobs", tags=["jobs"], dependencies=[allow(Permission.READ)])
    operate = [allow(Permission.OPERATE)]

    def known(series_id: int) -> SeriesOverview:
        row = find(series_id)
        if row is None:
            raise HTTPException(404, f"there is no series {series_id}")
        return row

    @router.get("", summary="List the series that arrived")
    def list_jobs(
        state: State | None = None,
        limit: Annotated[int, Query(ge=1, le=500)] = 50,
        offset: Annotated[int, Query(ge=0, le=10**9)] = 0,
    ) -> JobList:
        rows = overview(state=state, limit=limit, offset=offset)
        items = [_view(settings, row) for row in rows]
        return JobList(
            total=count(state),
            dead_letters=len(dead_letters()),
            limit=limit,
            offset=offset,
            items=items,
        )

    @router.post(
        "/send-again",
        summary="Send every result again that the PACS did not take",
        dependencies=operate,
    )
    def send_all() -> SentAgain:
        return SentAgain(sent_again=send_all_again(settings))

    @router.get("/{series_id}", summary="One series")
    def one_job(series_id: int) -> JobView:
        return _view(settings, known(series_id))

    @router.post("/{series_id}/retry", summary="Try a failed series again", dependencies=operate)
    def retry_job(series_id: int) -> JobView:
        if known(series_id).state != State.FAILED:
            raise HTTPException(409, "only a series that failed can be tried again")
        try:
            retry(series_id)
        except StateError as error:
            raise HTTPException(409, "the series has moved on; look again") from error
        return _view(settings, known(series_id))

    @router.post(
        "/{series_id}/send-again", summary="Send a result again, as it is", dependencies=operate
    )
    def send_one(series_id: int) -> JobView:
        known(series_id)
        try:
            send_again(settings, series_id)
        except NoDeadLetter as error:
            raise HTTPException(409, str(error)) from error
        return _view(settings, known(series_id))

    return router


def _view(settings: Settings, row: SeriesOverview) -> JobView:
    state = State(row.state)
    compare = None
    # A result that is not confirmed yet would open on an empty viewport.
    if row.result_series_uid:
        compare = settings.viewer_url + comparison_path(
            row.study_instance_uid, row.series_instance_uid, row.result_series_uid
        )
    left = row.time_left
    return JobView(
        id=row.id,
        study_instance_uid=row.study_instance_uid,
        series_instance_uid=row.series_instance_uid,
        description=row.description,
        modality=row.modality,
        sender=row.sender,
        instances=row.instances,
        expected_instances=row.expected_instances,
        state=state,
        reason=row.reason,
        received_at=row.received_at,
        state_at=row.state_at,
        copies_deleted_at=row.copies_deleted_at,
        recipe=row.recipe,
        stage=row.stage,
        stage_name=STAGE_NAMES[Stage(row.stage)] if row.stage else None,
        progress=row.progress,
        overall=_overall(row, state),
        time_left=TimeLeft(seconds=left.seconds, low=left.low, high=left.high, basis=left.basis)
        if left
        else None,
        result_series_uid=row.result_series_uid,
        dead_letter=row.dead_letter,
        viewer_url=compare,
        result_url=f"{settings.viewer_url}/results/{row.id}" if row.result_series_uid else None,
        study_url=settings.viewer_url + study_path(row.study_instance_uid),
    )


def _overall(row: SeriesOverview, state: State) -> float:
    if state is State.DONE:
        return 1.0
    if not row.recipe or not row.stage:
        return 0.0
    stages = stages_of(Recipe(row.recipe))
    return (stages.index(Stage(row.stage)) + row.progress) / len(stages)
