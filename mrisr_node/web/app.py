"""The front door put together."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from anyio import CapacityLimiter
from fastapi import FastAPI, HTTPException, Request
from starlette.middleware import Middleware
from starlette.responses import RedirectResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.templating import Jinja2Templates
from starlette.types import Scope

from mrisr_node import __version__
from mrisr_node.people.audit import open_audit
from mrisr_node.people.roles import Permission
from mrisr_node.records import open_records
from mrisr_node.settings import Settings
from mrisr_node.web.api_document import DocumentedAPI
from mrisr_node.web.audit import Announcements, AuditTrail
from mrisr_node.web.audit_search import audit_router
from mrisr_node.web.auth import auth_router
from mrisr_node.web.checkpoints import checkpoints_router
from mrisr_node.web.compare import NiiVue, compare_router
from mrisr_node.web.dicomweb import gateway_router
from mrisr_node.web.events import events_router
from mrisr_node.web.feed import Feed
from mrisr_node.web.files import files_router
from mrisr_node.web.guard import Guard
from mrisr_node.web.headers import SecurityHeaders
from mrisr_node.web.health import Health, health_router
from mrisr_node.web.inference import inference_router
from mrisr_node.web.jobs import jobs_router
from mrisr_node.web.limits import RateLimits
from mrisr_node.web.metrics import metrics_router
from mrisr_node.web.pairs import pairs_router
from mrisr_node.web.people_pages import people_pages_router
from mrisr_node.web.permissions import allow, require_permissions
from mrisr_node.web.problems import install_problem_handlers
from mrisr_node.web.quarantine import quarantine_router
from mrisr_node.web.results import results_router
from mrisr_node.web.series import Id, known_series, series_router
from mrisr_node.web.signin import sign_in_router
from mrisr_node.web.storing import open_stores
from mrisr_node.web.tus import tus_router
from mrisr_node.web.uploads import uploads_router
from mrisr_node.web.upstream import pacs_client
from mrisr_node.web.users import users_router
from mrisr_node.web.validators import RangesOfGet
from mrisr_node.web.viewer import Viewer

__all__ = ["create_app"]

_PAGES = Path(__file__).parent / "pages"


def create_app(settings: Settings, stopping: Callable[[], bool] = lambda: False) -> FastAPI:
    """Return the web application; the records are opened here, in the process that serves.

    Parameters
    ----------
    stopping
        Whether the server has been told to end: what is open for long ends then by itself.
    """
    open_records(settings.database_path)
    open_audit(settings.audit_path)
    limits = RateLimits(settings)
    templates = Jinja2Templates(_PAGES)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        # Each of them is read in a process of its own, which may take a gigabyte.
        app.state.readers_of_reports = CapacityLimiter(2)
        with open_stores(settings) as app.state.stores:
            async with pacs_client(settings) as app.state.pacs:
                yield

    app = DocumentedAPI(
        title="mrisr_node",
        version=__version__,
        lifespan=lifespan,
        # The interactive documentation would load scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/openapi.json",
        middleware=[
            Middleware(SecurityHeaders, settings=settings),
            Middleware(AuditTrail, settings=settings),
            Middleware(Guard, settings=settings, limits=limits),
            Middleware(Announcements),
            Middleware(RangesOfGet),
        ],
    )
    install_problem_handlers(app, templates)

    @app.get("/", include_in_schema=False, dependencies=[allow(Permission.READ)])
    async def front_page(request: Request) -> Response:
        person = request.state.person
        return templates.TemplateResponse(
            request, "series.html", {"person": person, "here": "series"}
        )

    @app.get("/series/{series_id}", include_in_schema=False, dependencies=[allow(Permission.READ)])
    def series_page(request: Request, series_id: Id) -> Response:
        known_series(series_id)
        person = request.state.person
        return templates.TemplateResponse(
            request, "one-series.html", {"person": person, "here": "one", "id": series_id}
        )

    @app.get("/quarantine", include_in_schema=False, dependencies=[allow(Permission.READ)])
    async def quarantine_page(request: Request) -> Response:
        person = request.state.person
        return templates.TemplateResponse(
            request, "quarantine.html", {"person": person, "here": "quarantine"}
        )

    @app.get("/viewer", include_in_schema=False, dependencies=[allow(Permission.READ)])
    async def viewer() -> Response:
        return RedirectResponse("/viewer/", 308)

    health = Health(settings)
    app.state.feed = feed = Feed(settings.maximum_event_streams, stopping)
    require_permissions(app.routes)
    for router in (
        health_router(health),
        metrics_router(settings, health),
        sign_in_router(settings, templates, limits),
        auth_router(settings, limits),
        users_router(settings),
        people_pages_router(settings, templates),
        audit_router(),
        series_router(settings),
        jobs_router(settings),
        events_router(feed),
        results_router(settings, templates),
        quarantine_router(settings),
        compare_router(settings, templates),
        uploads_router(settings, templates),
        tus_router(settings),
        files_router(settings),
        checkpoints_router(settings),
        inference_router(settings),
        pairs_router(settings, templates),
        gateway_router(settings),
    ):
        require_permissions(router.routes)
        app.include_router(router)
    app.mount("/pages", _Assets(directory=_PAGES))
    app.mount("/viewer", Viewer(settings))
    app.mount("/niivue", NiiVue(settings))
    return app


class _Assets(StaticFiles):
    """The style sheet, script and icon of the pages, not their templates."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Return a file that is no template."""
        if path.endswith(".html"):
            raise HTTPException(404)
        return await super().get_response(path, scope)
