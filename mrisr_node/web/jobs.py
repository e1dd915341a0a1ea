"""Jobs over HTTP: what is done with series, and beginning, stopping and repeating it."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query, Request, Response
from pydantic import BaseModel, Field, StrictBool

from mrisr_node.errors import DeliveryError
from mrisr_node.jobs.asking import Answer, ask_for
from mrisr_node.jobs.cancellation import CannotCancel, cancel
from mrisr_node.jobs.copies import StillNeeded, delete_job
from mrisr_node.jobs.dead_letters import NoDeadLetter, send_again, send_all_again
from mrisr_node.jobs.given_files import owner_of
from mrisr_node.jobs.listing import JobOverview, JobState, count_jobs, find_job, list_jobs
from mrisr_node.jobs.recovery import retry
from mrisr_node.people.roles import Permission
from mrisr_node.records import Job, Series, StateError
from mrisr_node.results.delivery import Pacs
from mrisr_node.settings import Settings
from mrisr_node.web.bodies import Body
from mrisr_node.web.idempotency import LOCATION, IdempotentRoute
from mrisr_node.web.permissions import allow
from mrisr_node.web.series import Id, Limit, Offset, Uid, known_series
from mrisr_node.web.stages import TimeLeft, overall, stage_name, time_left
from mrisr_node.web.subjects import concerns, concerns_each, subject_of

__all__ = ["JobList", "JobView", "SentAgain", "jobs_router"]

_LATER = {"Retry-After": "10"}
_NONE: dict[int | str, dict[str, Any]] = {404: {"description": "there is none"}}
_NOT_NOW = _NONE | {409: {"description": "not as things are; the answer says why"}}
_OUTAGE = _NOT_NOW | {503: {"description": "the PACS cannot be asked; nothing was changed"}}


class StageView(BaseModel):
    """One run of one stage."""

    stage: str
    stage_name: str | None
    started_at: float = Field(description="seconds since 1970")
    seconds: float | None = Field(description="null while it runs, and where it did not end well")
    finished: bool


class JobView(BaseModel):
    """The processing of one series."""

    id: int
    series: int = Field(description="its series, as in /api/series")
    study_instance_uid: str
    series_instance_uid: str
    state: JobState
    reason: str
    recipe: str
    stage: str | None
    stage_name: str | None = Field(description="the stage in words")
    progress: float = Field(description="part of the current stage that is done, 0 to 1")
    overall: float = Field(description="part of the way through all stages, 0 to 1")
    attempts: int = Field(description="vain tries of the current stage")
    next_try_at: float | None = Field(description="seconds since 1970")
    created_at: float
    started_at: float | None
    finished_at: float | None
    delivered_at: float | None = Field(description="when the PACS showed the whole result")
    committed_at: float | None = Field(description="when the PACS promised to keep it")
    result_series_uid: str | None
    result_instances: int | None
    time_left: TimeLeft | None
    stages: list[StageView] = Field(description="what ran, in order, and how long")


class JobList(BaseModel):
    """A page of jobs, newest first."""

    total: int
    limit: int
    offset: int
    items: list[JobView]


class NewJob(Body):
    """A series, or all MR series of a study, that the PACS has."""

    study_instance_uid: Uid
    series_instance_uid: Uid | None = None
    again: StrictBool = Field(default=False, description="also what was processed already")


class AskedView(BaseModel):
    """What became of asking for one series."""

    series_instance_uid: str
    series: int | None = Field(description="as in /api/series; null until it has arrived")
    answer: Answer
    href: str = Field(description="where to look for it")


class AskedList(BaseModel):
    """What was found in the PACS; the jobs are made once the series are here whole."""

    items: list[AskedView]


class SentAgain(BaseModel):
    """How many results are sent again."""

    sent_again: int


def jobs_router(settings: Settings) -> APIRouter:
    """Return the routes under ``/api/jobs``."""
    router = APIRouter(
        prefix="/api/jobs",
        tags=["jobs"],
        dependencies=[allow(Permission.READ)],
        route_class=IdempotentRoute,
    )
    operate = [allow(Permission.OPERATE)]

    @router.get("", summary="List jobs")
    def list_all(
        state: JobState | None = None,
        series: Annotated[Id | None, Query(description="only of this series")] = None,
        limit: Annotated[Limit, Query()] = 50,
        offset: Annotated[Offset, Query()] = 0,
    ) -> JobList:
        rows = list_jobs(state=state, series=series, limit=limit, offset=offset)
        return JobList(
            total=count_jobs(state=state, series=series),
            limit=limit,
            offset=offset,
            items=[_view(row) for row in rows],
        )

    @router.post(
        "",
        status_code=202,
        summary="Process a series, or all MR series of a study, that the PACS has",
        dependencies=operate,
        responses=_OUTAGE | {202: LOCATION},
    )
    def create(wanted: NewJob, request: Request, response: Response) -> AskedList:
        study, series = wanted.study_instance_uid, wanted.series_instance_uid
        who = request.state.person.username
        concerns(request, study_uid=study, series_uid=series or "")
        try:
            asked = ask_for(settings, study, series, who, again=wanted.again)
        except DeliveryError as error:
            raise HTTPException(503, f"{error}; try again", headers=_LATER) from error
        if not asked:
            raise HTTPException(404, "the PACS has no such series; send it there first")
        answers = {one.answer for one in asked}
        if answers <= {Answer.PROCESSED, Answer.UNSUITABLE}:
            if Answer.PROCESSED in answers:
                raise HTTPException(409, "it was processed already; ask with again: true")
            raise HTTPException(409, "nothing of it can be processed: no MR, or results already")
        of = f"series_instance_uid={series}" if series else f"study_instance_uid={study}"
        response.headers["Location"] = f"/api/series?{of}"
        return AskedList(
            items=[
                AskedView(
                    series_instance_uid=one.series_instance_uid,
                    series=one.series_id,
                    answer=one.answer,
                    href=f"/api/series?series_instance_uid={one.series_instance_uid}",
                )
                for one in asked
            ]
        )

    @router.post(
        "/send-again",
        summary="Send every result again that the PACS did not take",
        dependencies=operate,
    )
    def send_all(request: Request) -> SentAgain:
        sent = send_all_again(settings)
        concerns_each(request, map(subject_of, Series.select().where(Series.id.in_(sent))))
        return SentAgain(sent_again=len(sent))

    @router.get("/{job_id}", summary="One job", responses=_NONE)
    def one_job(job_id: Id) -> JobView:
        return _view(_known(job_id))

    @router.post("/{job_id}/cancel", summary="Stop a job", dependencies=operate, responses=_NOT_NOW)
    def cancel_job(job_id: Id, request: Request) -> JobView:
        _known(job_id)
        try:
            cancel(job_id, request.state.person.username)
        except CannotCancel as error:
            raise HTTPException(409, str(error)) from error
        return _view(_known(job_id))

    @router.post(
        "/{job_id}/retry",
        summary="Try a job again that failed or was cancelled",
        dependencies=operate,
        responses=_NOT_NOW,
    )
    def retry_job(job_id: Id, request: Request) -> JobView:
        series = _newest(job_id)
        try:
            retry(series, f"tried again by {request.state.person.username}")
        except StateError as error:
            raise HTTPException(409, f"{error}; look again") from error
        return _view(_known(job_id))

    @router.post(
        "/{job_id}/send-again",
        summary="Send a result again, as it is",
        dependencies=operate,
        responses=_NOT_NOW,
    )
    def send_one(job_id: Id) -> JobView:
        series = _newest(job_id)
        try:
            send_again(settings, series)
        except NoDeadLetter as error:
            raise HTTPException(409, str(error)) from error
        return _view(_known(job_id))

    @router.delete(
        "/{job_id}",
        status_code=204,
        summary="Delete a job that is over, and its series' local copies; the PACS keeps its own",
        dependencies=operate,
        responses=_OUTAGE,
    )
    def delete(job_id: Id, request: Request) -> None:
        _known(job_id)
        person, owner = request.state.person, owner_of(Job.get_by_id(job_id))
        if owner not in (None, person.username) and Permission.ADMIN not in person.permissions:
            raise HTTPException(403, f"its files are {owner}'s; ask them, or an administrator")
        try:
            delete_job(settings, job_id, Pacs(settings).instances)
        except StillNeeded as error:
            raise HTTPException(409, str(error)) from error
        except DeliveryError as error:
            raise HTTPException(
                503,
                f"the PACS cannot be asked whether it has the originals ({error}); try again",
                headers=_LATER,
            ) from error

    return router


def _known(job_id: int) -> JobOverview:
    row = find_job(job_id)
    if row is None:
        raise HTTPException(404, f"there is no job {job_id}")
    return row


def _newest(job_id: int) -> int:
    """Return the series of a job that is its newest."""
    row = _known(job_id)
    if known_series(row.series).job != job_id:
        raise HTTPException(409, f"series {row.series} has a newer job; look there")
    return row.series


def _view(row: JobOverview) -> JobView:
    done = row.state is JobState.DONE
    return JobView(
        id=row.id,
        series=row.series,
        study_instance_uid=row.study_instance_uid,
        series_instance_uid=row.series_instance_uid,
        state=row.state,
        reason=row.reason,
        recipe=row.recipe,
        stage=row.stage,
        stage_name=stage_name(row.stage),
        progress=row.progress,
        overall=1.0 if done else overall(row.recipe, row.stage, row.progress),
        attempts=row.attempts,
        next_try_at=row.next_try_at,
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        delivered_at=row.delivered_at,
        committed_at=row.committed_at,
        result_series_uid=row.result_series_uid,
        result_instances=row.result_instances,
        time_left=time_left(row.time_left),
        stages=[
            StageView(
                stage=run.stage,
                stage_name=stage_name(run.stage),
                started_at=run.started_at,
                seconds=run.seconds,
                finished=run.finished,
            )
            for run in row.stages
        ],
    )
