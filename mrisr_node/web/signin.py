"""Signing in and out with a browser."""

from __future__ import annotations

import logging
import re
from typing import Annotated

from fastapi import APIRouter, Form, Request
from starlette.responses import RedirectResponse, Response
from starlette.templating import Jinja2Templates

from mrisr_node.people.lockout import TooManyFailures
from mrisr_node.people.sessions import begin_session, end_session
from mrisr_node.people.sign_in import Refused
from mrisr_node.people.users import NAME_PATTERN
from mrisr_node.settings import Settings
from mrisr_node.web.auth import recognised
from mrisr_node.web.guard import cookie_name
from mrisr_node.web.limits import RateLimits, client_address
from mrisr_node.web.permissions import allow

__all__ = ["SIGN_IN_AGAIN", "forget_cookie", "sign_in_router"]

SIGN_IN_AGAIN = "/sign-in?next=/account&said=password"
"""The page of signing in that says why one has to again."""

_SAID = {"password": "The password is changed. Sign in with the new one."}

_log = logging.getLogger(__name__)


def sign_in_router(settings: Settings, templates: Jinja2Templates, limits: RateLimits) -> APIRouter:
    """Return the routes ``/sign-in`` and ``/sign-out``."""
    router = APIRouter(include_in_schema=False)

    def page(
        request: Request, wanted: str, username: str = "", *, status: int = 200, **told: str
    ) -> Response:
        # What can be no user name may be a password in the wrong field.
        again = username if re.fullmatch(NAME_PATTERN, username) else ""
        known = {"next": wanted, "username": again, **told}
        return templates.TemplateResponse(request, "sign-in.html", known, status_code=status)

    @router.get("/sign-in")
    def show(request: Request, next: str = "/", said: str = "") -> Response:
        return page(request, _own_path(next), said=_SAID.get(said, ""))

    @router.post("/sign-in")
    def sign_in(
        request: Request,
        username: Annotated[str, Form()] = "",
        password: Annotated[str, Form()] = "",
        next: Annotated[str, Form()] = "/",
    ) -> Response:
        wanted = _own_path(next)
        try:
            user = recognised(settings, limits, request, username, password)
            session = begin_session(settings, user)
        except TooManyFailures as limit:
            again = f"Too many attempts. Try again in {limit.seconds} seconds."
            answer = page(request, wanted, username, error=again, status=429)
            answer.headers["Retry-After"] = str(limit.seconds)
            return answer
        except Refused:
            # Not the name: people type passwords into the wrong field.
            _log.warning("sign-in refused, from %s", client_address(request.scope))
            wrong = "The name or the password is wrong."
            return page(request, wanted, username, error=wrong, status=401)
        redirect = RedirectResponse(wanted, 303)
        redirect.set_cookie(
            cookie_name(settings),
            session,
            max_age=round(settings.session_hours * 3600),
            httponly=True,
            # Lax, not Strict: a link in a report or a mail should open the comparison.
            samesite="lax",
            secure=settings.viewer_url.startswith("https:"),
        )
        return redirect

    @router.post("/sign-out", dependencies=[allow()])
    def sign_out(request: Request) -> Response:
        value = request.cookies.get(cookie_name(settings))
        if value:
            end_session(value)
        return forget_cookie(settings, RedirectResponse("/sign-in", 303))

    return router


def forget_cookie(settings: Settings, answer: Response) -> Response:
    """Have the browser forget its session, and return the answer that says so."""
    answer.delete_cookie(
        cookie_name(settings),
        httponly=True,
        samesite="lax",
        secure=settings.viewer_url.startswith("https:"),
    )
    return answer


def _own_path(wanted: str) -> str:
    """Return `wanted` if it is a path on this server, else the front page."""
    # Browsers read \ as / and // as another host.
    return wanted if re.fullmatch(r"/(?![/\\])[^\\\x00-\x20\x7f]*", wanted) else "/"
