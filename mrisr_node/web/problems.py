"""Errors as problem details (RFC 9457): what happened, and what to do about it."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.encoders import jsonable_encoder
from fastapi.exceptions import RequestValidationError
from peewee import OperationalError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.routing import Match
from starlette.templating import Jinja2Templates

from mrisr_node.logs import words_of

__all__ = ["Problem", "install_problem_handlers", "mistake", "problem"]

_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_SAFE = ("GET", "HEAD", "OPTIONS")

_log = logging.getLogger(__name__)

# Where no route says more than the status does.
_WHAT_TO_DO = {
    404: "there is nothing at this address; /api/openapi.json lists what there is in the API",
    405: "this address does not take this method; /api/openapi.json lists the methods of each",
}
# The page shows where to go on.
_TO_PEOPLE = {
    404: "there is nothing at this address",
    405: "this address is where a form leads; there is nothing to see at it",
}


class WrongValue(BaseModel):
    """A value that cannot be used; what it was is not said, for it may be anyone's name."""

    where: list[str | int] = Field(description="the part of the request, and the way to it")
    why: str


class Problem(BaseModel):
    """An error, as problem details (RFC 9457)."""

    model_config = ConfigDict(extra="allow")

    type: str = "about:blank"
    title: str
    status: int
    detail: str = Field(description="what happened, and what to do about it")
    errors: list[WrongValue] = Field(default=[], description="of 422")


def problem(
    status: int,
    detail: str,
    *,
    headers: Mapping[str, str] | None = None,
    **more: object,
) -> JSONResponse:
    """Return a response that explains an error; `more` are members of the document."""
    body = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status}
    return JSONResponse(
        {**body, "detail": detail, **more},
        status_code=status,
        headers=headers,
        media_type="application/problem+json",
    )


def mistake() -> JSONResponse:
    """Return the answer where the node does not know what went wrong."""
    return problem(500, "the node made a mistake; its log says which")


def install_problem_handlers(app: FastAPI, templates: Jinja2Templates) -> None:
    """Make every error of `app` a problem document, or a page for whoever looks at pages."""

    def page(
        request: Request, status: int, detail: str, headers: Mapping[str, str] | None = None
    ) -> Response:
        said = {
            "person": getattr(request.state, "person", None),
            "title": HTTPStatus(status).phrase,
            "detail": detail,
        }
        return templates.TemplateResponse(
            request, "problem.html", said, status_code=status, headers=headers
        )

    def of_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101 - how the handler is registered
        detail = str(error.detail)
        is_page = _is_page(request)
        if detail == HTTPStatus(error.status_code).phrase:
            words = _TO_PEOPLE if is_page else _WHAT_TO_DO
            detail = words.get(error.status_code, detail)
        headers = dict(error.headers or {})
        if error.status_code == 405 and "Allow" in headers:
            headers["Allow"] = ", ".join(_methods_of(request))
        if is_page:
            return page(request, error.status_code, detail, headers)
        return problem(error.status_code, detail, headers=headers)

    def of_validation(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)  # noqa: S101
        # What was sent may be anyone's name: only where it is wrong and why goes back.
        errors = [
            {"where": _place(e), "why": e["msg"].removeprefix("Value error, ")}
            for e in error.errors()
        ]
        detail = "the request has values that cannot be used"
        if _is_page(request):
            wrong = "; ".join(f"{e['where'][-1]}: {e['why']}" for e in errors)
            return page(request, 422, f"{detail}: {wrong}. Go back and change them.")
        return problem(422, detail, errors=jsonable_encoder(errors))

    def of_records(request: Request, error: Exception) -> JSONResponse:
        _log.warning("the records cannot be used: %s", words_of(error))
        # It may have come after what was asked for had been written.
        what_to_do = (
            "try again"
            if request.method in _SAFE
            else "look whether what you asked for was done, and if not, try again"
        )
        return problem(
            503,
            f"the node's records are busy, or its disk is full; {what_to_do}",
            headers={"Retry-After": "5"},
        )

    def of_accident(_request: Request, _error: Exception) -> JSONResponse:
        return mistake()

    app.add_exception_handler(HTTPException, of_http)
    app.add_exception_handler(RequestValidationError, of_validation)
    app.add_exception_handler(OperationalError, of_records)
    app.add_exception_handler(Exception, of_accident)


def _is_page(request: Request) -> bool:
    """Tell whether a person looks at this address, and no tool or script."""
    wanted = request.headers.get("accept", "")
    return "text/html" in wanted and not request.scope["path"].startswith(("/api/", "/dicom-web/"))


def _place(error: Mapping[str, Any]) -> list[str | int]:
    """Return where a value is wrong; what can be no field of ours may be anyone's name."""
    *way, last = error["loc"]
    is_ours = error["type"] != "extra_forbidden" or re.fullmatch("[a-z_]{1,32}", str(last))
    return [*way, last] if is_ours else way


def _methods_of(request: Request) -> list[str]:
    """Return the methods of a path; the router names only those of the first route that has it."""
    routes = request.app.routes
    return [
        method
        for method in _METHODS
        if any(
            route.matches({**request.scope, "method": method})[0] is Match.FULL for route in routes
        )
    ]
