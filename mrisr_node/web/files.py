"""Files over HTTP: what they are, their bytes in ranges, and away with them.

A file is its owner's, and an administrator's; to everybody else it does not exist.
"""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter, HTTPException, Request
from pydantic import BaseModel, Field
from starlette.responses import FileResponse, Response

from mrisr_node.jobs.uploads import delete_file
from mrisr_node.people.roles import Permission
from mrisr_node.records import NiftiSeries, StoredFile
from mrisr_node.settings import Settings
from mrisr_node.web.permissions import allow
from mrisr_node.web.subjects import Subject, concerns_each, subject_of
from mrisr_node.web.validators import is_unchanged

__all__ = ["FileView", "file_view", "files_router", "own_file"]


class FileView(BaseModel):
    """A file that can be downloaded."""

    id: str
    name: str
    size: int
    sha256: str
    media_type: str
    created_at: float = Field(description="seconds since 1970")
    deleted_at: float | None = Field(
        description="when it is deleted, seconds since 1970; null: it stays"
    )
    facts: dict[str, Any] = Field(description="of a NIfTI file: shape and spacing_mm")
    url: str = Field(description="where its bytes are")


def files_router(settings: Settings) -> APIRouter:
    """Return the routes under ``/api/files``."""
    router = APIRouter(
        prefix="/api/files",
        tags=["files"],
        dependencies=[allow(Permission.READ)],
        responses={404: {"description": "there is none, or not for you"}},
    )

    @router.get("/{key}/info", summary="What a file is")
    def info(request: Request, key: str) -> FileView:
        return file_view(settings, _asked_for(request, key))

    # A client may ask for the headers alone, as of every file on the web.
    @router.head("/{key}", include_in_schema=False)
    @router.get(
        "/{key}",
        summary="The bytes of a file, whole or in ranges",
        response_class=FileResponse,
        responses={
            200: {
                "description": "of the `media_type` that `info` tells",
                "content": {"*/*": {"schema": {"type": "string", "format": "binary"}}},
            },
            206: {"description": "the part that Range asks for"},
            304: {"description": "If-None-Match names what the file is"},
            410: {"description": "its bytes are gone"},
            416: {"description": "there is no such part"},
        },
    )
    def content(request: Request, key: str) -> Response:
        file = _asked_for(request, key)
        path = settings.files_dir / file.key
        if not path.is_file():
            raise HTTPException(410, "the bytes of this file are gone; make or upload it again")
        headers = {
            "ETag": f'"{file.sha256}"',
            "Content-Disposition": f"attachment; filename*=UTF-8''{quote(file.name, safe='')}",
            "Cache-Control": "private, no-cache",
        }
        # FileResponse knows ranges and If-Range.
        if is_unchanged(request, headers["ETag"]):
            return Response(status_code=304, headers=headers)
        return FileResponse(path, media_type=file.media_type, headers=headers)

    @router.delete(
        "/{key}",
        summary="Delete a file",
        status_code=204,
        responses={409: {"description": "a job works with it"}},
        dependencies=[allow(Permission.OPERATE)],
    )
    def delete(request: Request, key: str) -> None:
        if not delete_file(settings, _asked_for(request, key)):
            raise HTTPException(409, "a job works with this file; cancel it, or wait for its end")

    return router


def _asked_for(request: Request, key: str) -> StoredFile:
    """Return a file that whoever asks may have, and tell the audit trail whose data it is."""
    file = own_file(request, key)
    concerns_each(request, _subjects(file))
    return file


def _subjects(file: StoredFile) -> list[Subject]:
    """Return whose data a file is, as far as anybody has said so."""
    if file.job is not None:
        return [subject_of(file.job.series)]
    return [subject_of(row.series) for row in NiftiSeries.select().where(NiftiSeries.file == file)]


def own_file(request: Request, key: str) -> StoredFile:
    """Return a file that whoever asks may have; 404 for every other."""
    person = request.state.person
    file: StoredFile | None = StoredFile.get_or_none(StoredFile.key == key)
    if file is None or not (
        file.owner == person.username or Permission.ADMIN in person.permissions
    ):
        raise HTTPException(404, "there is no such file, or not any more")
    return file


def file_view(settings: Settings, file: StoredFile) -> FileView:
    """Return what is told of a file."""
    days = settings.retention_files_days
    return FileView(
        id=file.key,
        name=file.name,
        size=file.size,
        sha256=file.sha256,
        media_type=file.media_type,
        created_at=file.created_at,
        deleted_at=None if days is None else file.created_at + days * 86_400,
        facts=json.loads(file.facts),
        url=f"/api/files/{file.key}",
    )
