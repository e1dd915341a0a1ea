"""What a route asks for: each says so where it is declared, or the application does not start."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fastapi import HTTPException, Security
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute, APIWebSocketRoute
from fastapi.security import APIKeyCookie, HTTPBearer, SecurityScopes
from starlette.requests import HTTPConnection
from starlette.routing import BaseRoute

from mrisr_node.people.roles import Permission
from mrisr_node.web.guard import PUBLIC

__all__ = ["allow", "require", "require_permissions"]

# The guard has looked at both already; here they are for the OpenAPI document.
_BEARER = HTTPBearer(auto_error=False, description="an access token, or a personal one")
_COOKIE = APIKeyCookie(
    name="mrisr-session",
    auto_error=False,
    description="of a browser; with an https:// public_url it is named `__Host-mrisr-session`",
)


def allow(*permissions: Permission) -> Any:  # noqa: ANN401 - FastAPI's own type
    """Return the dependency of a route that only those may use who have all of `permissions`.

    Without any, it is for everybody who is signed in.
    """
    return Security(_check, scopes=[permission.value for permission in permissions])


def require(request: HTTPConnection, permission: Permission) -> None:
    """Raise 403 unless whoever asks has `permission`."""
    person = request.state.person
    if permission not in person.permissions:
        raise HTTPException(
            403,
            f"this needs the permission '{permission}', which this sign-in or token does not have;"
            " ask an administrator of the node",
        )


def require_permissions(routes: Iterable[BaseRoute]) -> None:
    """Check that every route of ours but the public ones says who may use it.

    Raises
    ------
    RuntimeError
        One does not.
    """
    open_routes = sorted(
        route.path
        for route in routes
        if isinstance(route, APIRoute | APIWebSocketRoute)
        and route.path not in PUBLIC
        and not _asks(route.dependant)
    )
    if open_routes:
        raise RuntimeError(f"routes without a permission: {', '.join(open_routes)}")


async def _check(
    request: HTTPConnection,
    needed: SecurityScopes,
    _bearer: Any = Security(_BEARER),  # noqa: ANN401, B008
    _cookie: Any = Security(_COOKIE),  # noqa: ANN401, B008
) -> None:
    # For the audit trail, which sees the request from outside.
    request.state.path_params = dict(request.path_params)
    for scope in needed.scopes:
        require(request, Permission(scope))


def _asks(dependant: Dependant) -> bool:
    return any(one.call is _check or _asks(one) for one in dependant.dependencies)
