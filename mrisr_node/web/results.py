"""One result over HTTP: its figures, pictures and files, for people and for tools."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime
from io import BytesIO
from tempfile import TemporaryFile
from typing import Annotated, BinaryIO

from fastapi import APIRouter, HTTPException, Query, Request
from pydantic import BaseModel, Field
from pydicom.dataset import Dataset
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.templating import Jinja2Templates

from mrisr_node.errors import DeliveryError
from mrisr_node.jobs.findings import Findings, findings
from mrisr_node.jobs.overview import find
from mrisr_node.jobs.stages import Stage
from mrisr_node.people.roles import Permission
from mrisr_node.results.delivery import Pacs
from mrisr_node.results.previews import PLANES, SIDES, Plane, Side
from mrisr_node.settings import Settings
from mrisr_node.web.permissions import allow
from mrisr_node.web.series import Id
from mrisr_node.web.stages import STAGE_NAMES
from mrisr_node.web.viewer import comparison_path

__all__ = ["ResidualView", "ResultView", "results_router"]

_CHUNK = 1 << 20
# What is on the left, right, top and bottom of the picture of a plane.
_EDGES: dict[Plane, str] = {"axial": "RLAP", "coronal": "RLHF", "sagittal": "APHF"}


Stack = Annotated[int, Query(ge=1, description="which of the stacks of the series, from 1")]


class ResidualView(BaseModel):
    """How far something, degraded again, departs from the acquired slices inside the brain."""

    median: float = Field(description="in the source's intensities")
    p99: float = Field(description="99th percentile, in the source's intensities")
    relative_median: float = Field(description="over the mean of the brain")
    relative_p99: float = Field(description="99th percentile over the mean of the brain")


class ResultView(BaseModel):
    """What is known of the newest result of a series that the PACS has."""

    id: int
    stack: int = Field(description="which of the stacks of the series, from 1")
    left_out: list[str] = Field(description="what of the series is not processed, and why")
    stacks: list[str] = Field(description="what distinguishes the stacks that were processed")
    description: str
    delivered_at: float = Field(description="when the PACS showed it, seconds since 1970")
    derivation: str = Field(description="method, checkpoint, profile, fidelity and remarks")
    checkpoint: str
    digest: str = Field(description="SHA-256 of the checkpoint's weights")
    profile: str = Field(description="the slice profile that was assumed")
    contrast: str | None
    field_strength: float | None = Field(description="tesla")
    acquired_spacing_mm: float
    acquired_thickness_mm: float
    spacing_mm: float
    residuals: ResidualView
    interpolated: ResidualView = Field(description="the same for cubic interpolation")
    seconds: dict[str, float] = Field(description="by stage")
    series: dict[str, str] = Field(description="Series Instance UID by what it is")
    previews: list[str] = Field(description="addresses of pictures")
    viewer_url: str


def results_router(settings: Settings, templates: Jinja2Templates) -> APIRouter:
    """Return the routes under ``/api/results`` and the page of a result."""
    router = APIRouter(dependencies=[allow(Permission.READ)])

    def known(series_id: int, stack: int) -> Findings:
        found = findings(settings, series_id, stack)
        if found is None:
            which = f"series {series_id}" if stack == 1 else f"stack {stack} of series {series_id}"
            series = find(series_id) if stack == 1 else None
            now = f"; it is {series.state}: {series.reason or 'wait'}" if series else ""
            raise HTTPException(404, f"{which} has no result in the PACS{now}")
        return found

    @router.get("/api/results/{series_id}", tags=["results"], summary="Figures of a result")
    def one_result(series_id: Id, stack: Stack = 1) -> ResultView:
        return _view(settings, known(series_id, stack), stack)

    @router.get(
        "/api/results/{series_id}/previews/{plane}/{side}",
        tags=["results"],
        summary="A picture through the middle of the brain",
        response_class=FileResponse,
        responses={200: {"content": {"image/png": {}}}},
    )
    def preview(series_id: Id, plane: Plane, side: Side, stack: Stack = 1) -> Response:
        path = known(series_id, stack).previews / f"{plane}-{side}.png"
        if not path.is_file():
            raise HTTPException(404, f"the pictures of series {series_id} are no longer kept")
        return FileResponse(path, media_type="image/png")

    @router.get(
        "/api/results/{series_id}/dicom",
        tags=["results"],
        summary="All series of a result as a ZIP file of DICOM files",
        response_class=StreamingResponse,
        responses={200: {"content": {"application/zip": {}}}},
    )
    def dicom(series_id: Id, stack: Stack = 1) -> Response:
        found = known(series_id, stack)
        try:
            file = _zipped(settings, found)
        except DeliveryError as error:
            raise HTTPException(503, str(error)) from error
        name = f"result-{series_id}.zip" if stack == 1 else f"result-{series_id}-{stack}.zip"
        return StreamingResponse(
            _chunks(file),
            media_type="application/zip",
            headers={"Content-Disposition": f'attachment; filename="{name}"'},
        )

    @router.get("/results/{series_id}", include_in_schema=False)
    def page(request: Request, series_id: Id, stack: Stack = 1) -> Response:
        view = _view(settings, known(series_id, stack), stack)
        return templates.TemplateResponse(
            request,
            "result.html",
            {
                "person": request.state.person,
                "here": "result",
                "result": view,
                "planes": _EDGES if view.previews else {},
                "stages": {STAGE_NAMES[Stage(s)]: t for s, t in view.seconds.items()},
                "delivered": datetime.fromtimestamp(view.delivered_at).astimezone(),
            },
        )

    return router


def _view(settings: Settings, found: Findings, stack: int) -> ResultView:
    source, made = found.known["source"], found.known["superresolve"]
    result = found.known["result"]
    return ResultView(
        id=found.series_id,
        stack=stack,
        left_out=list(found.left_out),
        stacks=list(found.stacks),
        description=found.description,
        delivered_at=found.delivered_at,
        derivation=result["description"],
        checkpoint=made["checkpoint"],
        digest=made["digest"],
        profile=made["profile"],
        contrast=source.get("contrast"),
        field_strength=source.get("field_strength"),
        acquired_spacing_mm=made["spacing_in_mm"],
        acquired_thickness_mm=source["thickness_mm"],
        spacing_mm=made["spacing_out_mm"],
        residuals=ResidualView(**made["fidelity"]["inside"]),
        interpolated=ResidualView(**made["fidelity"]["cubic_inside"]),
        seconds=dict(found.seconds),
        series=dict(found.series),
        previews=[
            f"/api/results/{found.series_id}/previews/{plane}/{side}?stack={stack}"
            for plane in PLANES
            for side in SIDES
            if (found.previews / f"{plane}-{side}.png").is_file()
        ],
        viewer_url=settings.viewer_url
        + comparison_path(
            found.study_instance_uid, found.series_instance_uid, found.result_series_uid
        ),
    )


def _zipped(settings: Settings, found: Findings) -> BinaryIO:
    """Return a ZIP file of a result as the PACS has it, open at its beginning.

    Raises
    ------
    DeliveryError
        The PACS cannot be asked, or has lost a part of it.
    """
    pacs = Pacs(settings)
    # In the system's folder for such files: the data folder is for what must not be lost.
    with ExitStack() as until_whole:
        file = until_whole.enter_context(TemporaryFile())
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for kind, uid in found.series.items():
                _add(
                    archive,
                    kind,
                    pacs.retrieve(found.study_instance_uid, uid),
                    found.instances[uid],
                )
        until_whole.pop_all()
    file.seek(0)
    return file


def _add(archive: zipfile.ZipFile, kind: str, datasets: Iterator[Dataset], expected: int) -> None:
    """Put the instances of a series into an archive."""
    count = 0
    for dataset in datasets:
        count += 1
        encoded = BytesIO()  # pydicom goes back while it writes, which an archive cannot
        dataset.save_as(encoded, enforce_file_format=True)
        archive.writestr(f"{kind}/{count:04d}.dcm", encoded.getbuffer())
    if count < expected:
        raise DeliveryError(
            f"the PACS has {count} of {expected} instances of the series {kind}; look there"
        )


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    with file:
        while chunk := file.read(_CHUNK):
            yield chunk
