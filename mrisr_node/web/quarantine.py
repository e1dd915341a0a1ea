"""Quarantine over HTTP: what was refused at the door, why, and what to do with it.

Objects are named by digits of their digest, so an address says nothing of a patient.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query, Request
from pydantic import BaseModel, Field

from mrisr_node.intake.quarantine import NotInQuarantine, Quarantine, Quarantined
from mrisr_node.intake.spool import OutOfSpace
from mrisr_node.people.roles import Permission
from mrisr_node.settings import Settings
from mrisr_node.web.permissions import allow
from mrisr_node.web.subjects import concerns

__all__ = [
    "QuarantineDetails",
    "QuarantineList",
    "QuarantineView",
    "ReleaseView",
    "quarantine_router",
]


class QuarantineView(BaseModel):
    """One object in quarantine."""

    key: str = Field(description="the first digits of its SHA-256")
    at: float = Field(description="when it was refused, seconds since 1970")
    reason: str
    sender: str = Field(description="calling AE title")
    address: str = Field(description="of the sender; empty where it is not known")
    size: int | None = Field(description="bytes; null where the file is gone")


class QuarantineList(BaseModel):
    """A page of objects, newest first."""

    total: int
    limit: int
    offset: int
    items: list[QuarantineView]


class QuarantineDetails(QuarantineView):
    """One object, and what its header says that does not name the patient."""

    facts: dict[str, str] = Field(description="by DICOM keyword; Problem where it cannot be read")


class ReleaseView(BaseModel):
    """What came of the attempt to take an object in."""

    released: bool
    outcome: str
    series: int | None = Field(description="the series that it belongs to, as in /api/series")


def quarantine_router(settings: Settings) -> APIRouter:
    """Return the routes under ``/api/quarantine``."""
    router = APIRouter(
        prefix="/api/quarantine", tags=["quarantine"], dependencies=[allow(Permission.READ)]
    )
    operate = [allow(Permission.OPERATE)]
    none: dict[int | str, dict[str, Any]] = {
        404: {"description": "there is none, or several begin with these digits"}
    }
    quarantine = Quarantine(settings)

    def tell_whose(request: Request, key: str) -> None:
        patient, study, series = quarantine.subject(key).values()
        concerns(request, patient_id=patient, study_uid=study, series_uid=series)

    @router.get("", summary="List what was refused at the door")
    def list_quarantine(
        limit: Annotated[int, Query(ge=1, le=500)] = 50,
        offset: Annotated[int, Query(ge=0, le=10**9)] = 0,
    ) -> QuarantineList:
        items = [_view(entry) for entry in quarantine.entries(limit, offset)]
        return QuarantineList(total=quarantine.count(), limit=limit, offset=offset, items=items)

    @router.get("/{key}", summary="One object, with facts of its header", responses=none)
    def one_object(request: Request, key: str) -> QuarantineDetails:
        try:
            tell_whose(request, key)
            entry, facts = quarantine.entry(key), quarantine.facts(key)
        except NotInQuarantine as error:
            raise HTTPException(404, str(error)) from error
        return QuarantineDetails(**asdict(entry), facts=facts)

    @router.post(
        "/{key}/release",
        summary="Try to take an object in after all",
        dependencies=operate,
        responses=none | {507: {"description": "free space is below the watermark"}},
    )
    def release_object(request: Request, key: str) -> ReleaseView:
        try:
            tell_whose(request, key)
            return ReleaseView(**asdict(quarantine.release(key)))
        except NotInQuarantine as error:
            raise HTTPException(404, str(error)) from error
        except OutOfSpace as error:
            raise HTTPException(507, str(error)) from error

    @router.delete(
        "/{key}",
        status_code=204,
        summary="Delete an object for good",
        dependencies=operate,
        responses=none,
    )
    def delete_object(request: Request, key: str) -> None:
        try:
            tell_whose(request, key)
            quarantine.delete(key)
        except NotInQuarantine as error:
            raise HTTPException(404, str(error)) from error

    return router


def _view(entry: Quarantined) -> QuarantineView:
    return QuarantineView(**asdict(entry))
