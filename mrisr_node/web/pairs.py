"""Pairs of high and low resolution from uploaded scans, and the dataset that they become."""

from __future__ import annotations

import json
from typing import Annotated

from fastapi import APIRouter, HTTPException, Query, Request
from pydantic import BaseModel, Field, StrictBool
from starlette.responses import Response
from starlette.templating import Jinja2Templates

from mrisr_node.errors import SettingsError
from mrisr_node.jobs.given_files import files_of_job, give_for_pairs, wake
from mrisr_node.jobs.overview import Action, find
from mrisr_node.jobs.stages import Queue
from mrisr_node.pairs.options import TABLE, PairOptions, Slices
from mrisr_node.people.roles import Permission
from mrisr_node.records import Job, PairsSeries, State
from mrisr_node.settings import Settings
from mrisr_node.volumes.contrast import CONTRASTS
from mrisr_node.volumes.degradation import SliceProfile
from mrisr_node.web.bodies import Body
from mrisr_node.web.files import FileView, file_view, own_file
from mrisr_node.web.idempotency import LOCATION, IdempotentRoute
from mrisr_node.web.permissions import allow
from mrisr_node.web.series import Id, Limit, Offset
from mrisr_node.web.stages import TimeLeft, time_left

__all__ = ["PairsView", "pairs_router"]

_ROOT = "/api/pairs"
_MOST_TOGETHER = 100


class Pairs(Body):
    """What pairs are to be made of."""

    files: Annotated[list[str], Field(min_length=1, max_length=_MOST_TOGETHER)] = Field(
        description="ids of uploaded NIfTI files of high resolution, under /api/files"
    )
    slices: Annotated[list[str], Field(min_length=1, max_length=16)] = Field(
        default=[str(one) for one in TABLE],
        description="thickness/gap in mm of the thick slices, such as 4/0.4; each makes a pair",
    )
    axis: str = Field(default="z", pattern="^[xyz]$", description="of RAS, across the slices")
    profile: SliceProfile = Field(
        default=SliceProfile.GAUSSIAN, description="of the slices; as wide as they are thick"
    )
    register_to_mni: StrictBool = Field(default=True, description="else each stays on its own grid")
    contrast: str | None = Field(
        default=None,
        pattern=f"^({'|'.join(CONTRASTS)})$",
        description="of all of them: a NIfTI file does not tell",
    )
    license: str | None = Field(
        default=None, max_length=64, description="of the dataset, such as CC0"
    )


class PairsView(BaseModel):
    """Scans that pairs are made of, and what came of them."""

    id: int = Field(description="the series, as in /api/series")
    scans: int
    state: State
    reason: str = Field(description="with which scans were left out, and why")
    progress: float = Field(description="part that is done, 0 to 1")
    waiting_for: Queue | None = Field(
        description="whose worker has to have time for it; null while one works on it"
    )
    next_try_at: float | None = Field(
        description="until when it is put off, seconds since 1970 (UTC); null where it is not"
    )
    time_left: TimeLeft | None
    created_at: float = Field(description="seconds since 1970")
    job: int | None = Field(description="as in /api/jobs; null once it is deleted")
    actions: list[Action] = Field(description="what can be done about it now, by who may")
    files: list[FileView] = Field(description="the dataset as a ZIP, and what became of each scan")


class PairsList(BaseModel):
    """A page of datasets, newest first."""

    total: int
    limit: int
    offset: int
    items: list[PairsView]


def pairs_router(settings: Settings, templates: Jinja2Templates) -> APIRouter:
    """Return the routes under ``/api/pairs``, and the page."""
    router = APIRouter(
        tags=["pairs"],
        dependencies=[allow(Permission.READ)],
        route_class=IdempotentRoute,
        responses={404: {"description": "there is none, or not for you"}},
    )

    @router.post(
        _ROOT,
        status_code=202,
        summary="Make pairs of uploaded scans",
        dependencies=[allow(Permission.OPERATE)],
        responses={202: LOCATION},
    )
    def make(request: Request, response: Response, asked: Pairs) -> PairsView:
        files = [own_file(request, key) for key in dict.fromkeys(asked.files)]
        if any("shape" not in json.loads(file.facts) for file in files):
            raise HTTPException(422, "a file was not uploaded as NIfTI; upload the scans")
        try:
            options = PairOptions(
                slices=tuple(Slices.parse(text) for text in asked.slices),
                axis=asked.axis,
                profile=asked.profile,
                register=asked.register_to_mni,
                contrast=asked.contrast,
            )
        except SettingsError as error:
            raise HTTPException(422, str(error)) from error
        owner = request.state.person.username
        series = give_for_pairs(owner, files, options, asked.license)
        wake(settings, [series])
        response.headers["Location"] = f"/api/pairs/{series.id}"
        return _view(settings, PairsSeries.get(PairsSeries.series == series))

    @router.get(_ROOT, summary="List your datasets")
    def list_pairs(
        request: Request,
        limit: Annotated[Limit, Query()] = 50,
        offset: Annotated[Offset, Query()] = 0,
    ) -> PairsList:
        own = PairsSeries.select().where(PairsSeries.owner == request.state.person.username)
        rows = own.order_by(PairsSeries.id.desc()).limit(limit).offset(offset)
        items = [_view(settings, row) for row in rows]
        return PairsList(total=own.count(), limit=limit, offset=offset, items=items)

    @router.get(f"{_ROOT}/{{series_id}}", summary="One dataset")
    def one(request: Request, series_id: Id) -> PairsView:
        row = PairsSeries.get_or_none(PairsSeries.series == series_id)
        person = request.state.person
        if row is None or (
            row.owner != person.username and Permission.ADMIN not in person.permissions
        ):
            raise HTTPException(404, "there are no such pairs")
        return _view(settings, row)

    @router.get("/pairs", include_in_schema=False)
    def page(request: Request) -> Response:
        person = request.state.person
        said = {
            "person": person,
            "here": "pairs",
            "table": [str(one) for one in TABLE],
            "profiles": list(SliceProfile),
            "contrasts": CONTRASTS,
            "may_operate": Permission.OPERATE in person.permissions,
        }
        return templates.TemplateResponse(request, "pairs.html", said)

    return router


def _view(settings: Settings, row: PairsSeries) -> PairsView:
    job: Job = Job.select().where(Job.series == row.series).order_by(Job.id.desc()).get()
    now = find(row.series.id)
    assert now is not None  # noqa: S101 - its row is there with its series
    done = now.state == State.DONE
    return PairsView(
        id=now.id,
        scans=len(json.loads(row.files)),
        state=State(now.state),
        reason=now.reason,
        progress=1.0 if done else now.progress,
        waiting_for=now.waiting_for,
        next_try_at=now.next_try_at,
        time_left=time_left(now.time_left),
        created_at=job.created_at,
        job=now.job,
        actions=list(now.actions),
        files=[file_view(settings, file) for file in files_of_job(job)],
    )
