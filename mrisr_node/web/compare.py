"""NiiVue: the page where two NIfTI files are compared, and the script that draws them.

The page reads files that are on the reader's computer, or under ``/api/`` of this node; there is
nothing to do here but to hand it out.
"""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.templating import Jinja2Templates
from starlette.types import Scope

from mrisr_node.people.roles import Permission
from mrisr_node.settings import Settings
from mrisr_node.web.permissions import allow
from mrisr_node.web.viewer import missing_page

__all__ = ["NiiVue", "compare_router"]


def compare_router(settings: Settings, templates: Jinja2Templates) -> APIRouter:
    """Return the route of the page ``/compare``."""
    router = APIRouter(include_in_schema=False, dependencies=[allow(Permission.READ)])

    @router.get("/compare")
    def page(request: Request) -> Response:
        if not (settings.niivue_dist / "niivue.js").is_file():
            return missing_page("NiiVue")
        person = request.state.person
        return templates.TemplateResponse(
            request, "compare.html", {"person": person, "here": "compare"}
        )

    return router


class NiiVue(StaticFiles):
    """NiiVue's script; large, so that browsers may keep it for a while."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(directory=settings.niivue_dist, check_dir=False)

    async def check_config(self) -> None:
        """Let a missing script be; the page says what to do about it."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Return a file."""
        answer = await super().get_response(path, scope)
        answer.headers["Cache-Control"] = "private, max-age=300"
        return answer
