"""The audit trail over HTTP, for administrators."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field, StrictFloat

from mrisr_node.people.audit import Action, AuditRow, Filter, search
from mrisr_node.people.roles import Permission
from mrisr_node.web.bodies import Body
from mrisr_node.web.permissions import allow
from mrisr_node.web.series import JSON_NUMBER, Offset
from mrisr_node.web.subjects import concerns

__all__ = ["AuditList", "AuditRowView", "AuditSearch", "audit_router"]


class AuditRowView(BaseModel):
    """One thing that was done, or refused."""

    id: int
    at: float = Field(description="seconds since 1970")
    username: str = Field(description="empty where nobody knows")
    role: str
    means: str = Field(description="cookie, access token, a token's name, or the command line")
    address: str
    action: Action
    method: str
    resource: str
    query: str
    patient_id: str
    study_uid: str
    series_uid: str
    status: int = Field(
        description="of the answer, as HTTP has it; 0: a change whose outcome was not written down"
    )


class AuditList(BaseModel):
    """A page of the audit trail, newest first."""

    total: int
    limit: int
    offset: int
    items: list[AuditRowView]


_Limit = Annotated[int, Field(ge=1, le=1000)]


class _Page(BaseModel):
    """Which rows, and how many of them."""

    username: str = Field(default="", max_length=64)
    action: Action | None = None
    since: float | None = Field(default=None, description="seconds since 1970")
    until: float | None = Field(default=None, description="seconds since 1970")
    limit: _Limit = 100
    offset: Offset = 0


class AuditSearch(_Page, Body):
    """What is looked for, also by patient."""

    patient_id: str = Field(default="", max_length=64)
    study_uid: str = Field(default="", max_length=64)
    # All that stands in an address is text; a body has numbers.
    since: StrictFloat | None = Field(default=None, description="seconds since 1970")
    until: StrictFloat | None = Field(default=None, description="seconds since 1970")
    limit: Annotated[_Limit, JSON_NUMBER] = 100
    offset: Annotated[Offset, JSON_NUMBER] = 0


def audit_router() -> APIRouter:
    """Return the routes under ``/api/audit``."""
    router = APIRouter(prefix="/api/audit", tags=["audit"], dependencies=[allow(Permission.ADMIN)])

    @router.get("", summary="List what was done, by whom")
    def list_rows(wanted: Annotated[_Page, Query()]) -> AuditList:
        return _found(AuditSearch(**wanted.model_dump()))

    @router.post("/search", summary="The same by patient, who has no business in an address")
    def search_rows(request: Request, wanted: AuditSearch) -> AuditList:
        concerns(request, patient_id=wanted.patient_id, study_uid=wanted.study_uid)
        return _found(wanted)

    return router


def _found(wanted: AuditSearch) -> AuditList:
    total, rows = search(
        Filter(
            patient_id=wanted.patient_id,
            study_uid=wanted.study_uid,
            username=wanted.username,
            action=wanted.action or "",
            since=wanted.since,
            until=wanted.until,
        ),
        wanted.limit,
        wanted.offset,
    )
    items = [_view(row) for row in rows]
    return AuditList(total=total, limit=wanted.limit, offset=wanted.offset, items=items)


def _view(row: AuditRow) -> AuditRowView:
    return AuditRowView(**{name: getattr(row, name) for name in AuditRowView.model_fields})
