"""What became of uploads, and the page that makes them."""

from __future__ import annotations

import json
from typing import Annotated

from fastapi import APIRouter, HTTPException, Query, Request
from pydantic import BaseModel, Field
from starlette.responses import Response
from starlette.templating import Jinja2Templates

from mrisr_node.people.roles import Permission
from mrisr_node.records import Series, Upload, UploadState
from mrisr_node.settings import Settings
from mrisr_node.volumes.contrast import CONTRASTS
from mrisr_node.web.permissions import allow

__all__ = ["UploadView", "uploads_router"]


class UploadView(BaseModel):
    """An upload, and what became of it."""

    id: str
    name: str
    size: int
    offset: int = Field(description="so many bytes are here; tus goes on there")
    state: UploadState
    reason: str = Field(description="what it is, why it was refused, or what it waits for")
    next_try_at: float | None = Field(
        description="of one that waits: when it is tried again, seconds since 1970"
    )
    kind: str = Field(description="nifti, dicom or zip; empty until it was looked at")
    file: str | None = Field(description="of a NIfTI file: its id under /api/files")
    series: list[int] = Field(
        description="of DICOM: the series that the PACS has sent on to the node by now, by record"
    )
    created_at: float = Field(description="seconds since 1970")


class UploadList(BaseModel):
    """A page of uploads, newest first."""

    total: int
    limit: int
    offset: int
    items: list[UploadView]


def uploads_router(settings: Settings, templates: Jinja2Templates) -> APIRouter:
    """Return the routes that tell of uploads; those that make them are `tus`."""
    router = APIRouter(dependencies=[allow(Permission.STORE)])

    @router.get("/api/uploads", tags=["uploads"], summary="List your uploads")
    def list_uploads(
        request: Request,
        limit: Annotated[int, Query(ge=1, le=500)] = 50,
        offset: Annotated[int, Query(ge=0, le=10**9)] = 0,
    ) -> UploadList:
        own = Upload.select().where(Upload.owner == request.state.person.username)
        rows = own.order_by(Upload.id.desc()).limit(limit).offset(offset)
        return UploadList(
            total=own.count(), limit=limit, offset=offset, items=[_view(row) for row in rows]
        )

    @router.get(
        "/api/uploads/{key}",
        tags=["uploads"],
        summary="One of your uploads",
        responses={404: {"description": "there is no such upload of yours"}},
    )
    def one_upload(request: Request, key: str) -> UploadView:
        owner = request.state.person.username
        upload = Upload.get_or_none(Upload.key == key, Upload.owner == owner)
        if upload is None:
            raise HTTPException(404, "there is no such upload of yours")
        return _view(upload)

    @router.get("/upload", include_in_schema=False)
    def page(request: Request) -> Response:
        return templates.TemplateResponse(
            request,
            "upload.html",
            {
                "person": request.state.person,
                "here": "upload",
                "most": settings.maximum_upload_bytes,
                "contrasts": CONTRASTS,
                "may_operate": Permission.OPERATE in request.state.person.permissions,
            },
        )

    return router


def _view(upload: Upload) -> UploadView:
    uids = json.loads(upload.series)
    arrived = Series.select(Series.id).where(Series.series_instance_uid.in_(uids)) if uids else []
    return UploadView(
        id=upload.key,
        name=upload.name,
        size=upload.size,
        offset=upload.offset,
        state=UploadState(upload.state),
        reason=upload.reason,
        next_try_at=(upload.not_before or None) if upload.state == UploadState.SENDING else None,
        kind=upload.kind,
        file=upload.file.key if upload.file else None,
        series=[row.id for row in arrived],
        created_at=upload.created_at,
    )
