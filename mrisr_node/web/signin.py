"""Signing in and out with a browser."""

from __future__ import annotations

import logging
import re
from urllib.parse import parse_qs

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import RedirectResponse, Response
from starlette.templating import Jinja2Templates

from mrisr_node.people import access
from mrisr_node.settings import Settings
from mrisr_node.web.guard import cookie_name
from mrisr_node.web.limits import Limiter, TooManyAttempts
from mrisr_node.web.permissions import allow
from mrisr_node.web.problems import problem

__all__ = ["sign_in_router"]

_LONGEST_FORM = 8192

_log = logging.getLogger(__name__)


def sign_in_router(settings: Settings, templates: Jinja2Templates) -> APIRouter:
    """Return the routes ``/sign-in`` and ``/sign-out``."""
    router = APIRouter(include_in_schema=False)
    per_name = Limiter(most=5)
    per_peer = Limiter(most=50)

    def page(request: Request, wanted: str, *, error: str = "", status: int = 200) -> Response:
        return templates.TemplateResponse(
            request, "sign-in.html", {"next": wanted, "error": error}, status_code=status
        )

    @router.get("/sign-in")
    async def show(request: Request, next: str = "/") -> Response:
        return page(request, _own_path(next))

    @router.post("/sign-in")
    async def sign_in(request: Request) -> Response:
        form = await _form(request)
        if form is None:
            return problem(413, "a user name and a password are shorter than this")
        wanted = _own_path(form.get("next", "/"))
        username, password = form.get("username", ""), form.get("password", "")
        peer = request.client.host if request.client else ""
        try:
            per_peer.enter(peer)
            per_name.enter(f"{peer} {username}")
        except TooManyAttempts as limit:
            again = f"Too many attempts. Try again in {limit.seconds} seconds."
            answer = page(request, wanted, error=again, status=429)
            answer.headers["Retry-After"] = str(limit.seconds)
            return answer
        session = await run_in_threadpool(access.sign_in, settings, username, password)
        if session is None:
            # Not the name: people type passwords into the wrong field.
            _log.warning("sign-in refused, from %s", peer)
            return page(request, wanted, error="The name or the password is wrong.", status=401)
        per_name.forgive(f"{peer} {username}")
        per_peer.forgive(peer)
        answer = RedirectResponse(wanted, 303)
        answer.set_cookie(
            cookie_name(settings),
            session,
            max_age=round(settings.session_hours * 3600),
            httponly=True,
            # Lax, not Strict: a link in a report or a mail should open the comparison.
            samesite="lax",
            secure=settings.viewer_url.startswith("https:"),
        )
        return answer

    @router.post("/sign-out", dependencies=[allow()])
    async def sign_out(request: Request) -> Response:
        value = request.cookies.get(cookie_name(settings))
        if value:
            await run_in_threadpool(access.sign_out, value)
        answer = RedirectResponse("/sign-in", 303)
        answer.delete_cookie(
            cookie_name(settings),
            httponly=True,
            samesite="lax",
            secure=settings.viewer_url.startswith("https:"),
        )
        return answer

    return router


def _own_path(wanted: str) -> str:
    """Return `wanted` if it is a path on this server, else the front page."""
    # Browsers read \ as / and // as another host.
    return wanted if re.fullmatch(r"/(?![/\\])[^\\\x00-\x20\x7f]*", wanted) else "/"


async def _form(request: Request) -> dict[str, str] | None:
    """Read a small form; None if it is not small."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _LONGEST_FORM:
            return None
    try:
        fields = parse_qs(body.decode("utf-8", "replace"), max_num_fields=10)
    except ValueError:
        return None
    return {name: values[0] for name, values in fields.items()}
