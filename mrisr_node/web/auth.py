"""Signing in for programs: access and refresh tokens, personal tokens, one's own password."""

from __future__ import annotations

import logging
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Query, Request
from pydantic import BaseModel, Field, SecretStr, StrictFloat
from starlette.responses import Response

from mrisr_node.people.access_tokens import (
    Grant,
    begin_api_session,
    end_api_session,
    refresh_api_session,
)
from mrisr_node.people.lockout import TooManyFailures
from mrisr_node.people.passwords import SHORTEST, UnfitPassword
from mrisr_node.people.person import Person
from mrisr_node.people.roles import Permission, Role
from mrisr_node.people.sessions import end_session
from mrisr_node.people.sign_in import Refused, change_password, recognise
from mrisr_node.people.tokens import TokenError, create_token, revoke_token, token_key, tokens_of
from mrisr_node.people.users import UserError
from mrisr_node.records import ApiToken, User
from mrisr_node.settings import Settings
from mrisr_node.web.bodies import Body
from mrisr_node.web.guard import cookie_name
from mrisr_node.web.idempotency import IdempotentRoute, shown_once
from mrisr_node.web.limits import RateLimits, client_address
from mrisr_node.web.permissions import allow, require
from mrisr_node.web.subjects import concerns

__all__ = [
    "SIGNED_IN",
    "Credentials",
    "TokenView",
    "auth_router",
    "recognised",
    "require_signed_in",
    "token_view",
]

_log = logging.getLogger(__name__)


class Credentials(Body):
    """A name and a password."""

    username: str = Field(max_length=64)
    password: SecretStr = Field(max_length=256)


class RefreshToken(Body):
    """What a new access token is given for."""

    refresh_token: SecretStr = Field(max_length=256)


class GrantView(BaseModel):
    """An access token, and what the next one is given for."""

    access_token: str = Field(description="send it as `Authorization: Bearer …`")
    token_type: str = "Bearer"  # noqa: S105 - no secret
    expires_in: int = Field(description="seconds until the access token expires")
    refresh_token: str = Field(description="can be used once; a second time ends the session")


class PersonView(BaseModel):
    """Who asks."""

    username: str
    role: Role
    permissions: list[Permission] = Field(
        description="what they may do; of a token, what it is for"
    )
    means: str = Field(description="cookie, access token or token")


class PasswordChange(Body):
    """A person's own new password."""

    current: SecretStr = Field(max_length=256)
    new: SecretStr = Field(description=f"at least {SHORTEST} characters", max_length=256)


class NewToken(Body):
    """A personal token that is wanted."""

    name: str = Field(
        description="what it is for, in printable letters", min_length=1, max_length=64
    )
    scopes: list[Permission] = Field(
        default=[], description="what it may do; none: whatever its user may do"
    )
    days: StrictFloat | None = Field(
        default=None, gt=0, le=36_500, description="none: until revoked"
    )
    username: str | None = Field(
        default=None, description="who it acts for, if not whoever asks; administrators only"
    )


class TokenView(BaseModel):
    """A personal token, without itself."""

    key: str = Field(description="what it is revoked by")
    name: str
    scopes: list[Permission]
    created_at: float = Field(description="seconds since 1970")
    expires_at: float | None


class MadeToken(BaseModel):
    """A new token; it is shown only now."""

    token: str


def auth_router(settings: Settings, limits: RateLimits) -> APIRouter:
    """Return the routes under ``/api/auth``."""
    router = APIRouter(prefix="/api/auth", tags=["auth"])
    no_such: dict[int | str, dict[str, Any]] = {
        404: {"description": "there is no such user or token"}
    }

    def granted(grant: Grant, answer: Response) -> GrantView:
        answer.headers["Cache-Control"] = "no-store"
        return GrantView(
            access_token=grant.access_token,
            expires_in=grant.seconds,
            refresh_token=grant.refresh_token,
        )

    @router.post(
        "/login",
        summary="Sign in with name and password",
        responses={401: {"description": "name or password is wrong"}},
    )
    def login(request: Request, given: Credentials, answer: Response) -> GrantView:
        try:
            user = recognised(
                settings, limits, request, given.username, given.password.get_secret_value()
            )
            return granted(begin_api_session(settings, user), answer)
        except TooManyFailures as error:
            raise _later(error) from error
        except Refused as error:
            _log.warning("sign-in refused, from %s", client_address(request.scope))
            raise HTTPException(401, f"{error}; try again") from error

    @router.post(
        "/refresh",
        summary="Get a new access token for a refresh token, which is spent by that",
        responses={401: {"description": "the token is spent, expired or none"}},
    )
    def refresh(request: Request, given: RefreshToken, answer: Response) -> GrantView:
        try:
            grant = refresh_api_session(settings, given.refresh_token.get_secret_value())
        except Refused as error:
            raise HTTPException(401, "this refresh token is spent or expired; sign in") from error
        concerns(request, username=grant.username)
        return granted(grant, answer)

    @router.post("/logout", status_code=204, summary="End the session", dependencies=[allow()])
    def logout(request: Request) -> None:
        person: Person = request.state.person
        require_signed_in(person)
        if person.session:
            end_api_session(person.session)
        else:
            end_session(request.cookies[cookie_name(settings)])

    @router.get("/me", summary="Who asks, and what they may do", dependencies=[allow()])
    def me(request: Request) -> PersonView:
        person: Person = request.state.person
        return PersonView(
            username=person.username,
            role=person.role,
            permissions=sorted(person.permissions),
            means=person.means.value,
        )

    @router.post(
        "/password",
        status_code=204,
        summary="Change one's own password, which ends one's sessions",
        dependencies=[allow()],
    )
    def password(request: Request, wanted: PasswordChange) -> None:
        person: Person = request.state.person
        require_signed_in(person)
        try:
            change_password(
                settings,
                person.username,
                wanted.current.get_secret_value(),
                wanted.new.get_secret_value(),
            )
        except TooManyFailures as error:
            raise _later(error) from error
        except Refused as error:
            raise HTTPException(403, "the current password is wrong") from error
        except UnfitPassword as error:
            raise HTTPException(422, str(error)) from error

    def owner(request: Request, username: str | None) -> str:
        person: Person = request.state.person
        if username is None or username == person.username:
            return person.username
        require(request, Permission.ADMIN)
        return username

    @router.get(
        "/tokens",
        summary="List personal tokens",
        dependencies=[allow()],
        responses=no_such | {403: {"description": "another user's, for administrators"}},
    )
    def list_tokens(
        request: Request,
        username: Annotated[str | None, Query(description="administrators only")] = None,
    ) -> list[TokenView]:
        try:
            return [token_view(token) for token in tokens_of(owner(request, username))]
        except UserError as error:
            raise HTTPException(404, str(error)) from error

    def make_token(request: Request, wanted: NewToken) -> MadeToken:
        require_signed_in(request.state.person)
        username = owner(request, wanted.username)
        try:
            token = create_token(username, wanted.name, wanted.days, wanted.scopes)
        except UserError as error:
            raise HTTPException(404, str(error)) from error
        except TokenError as error:
            raise HTTPException(422, str(error)) from error
        shown_once(
            request,
            "this request made a token before, which was shown then; revoke it, and ask for another"
            " one with another Idempotency-Key",
        )
        return MadeToken(token=token)

    # The other POSTs under this path make tokens of sessions, or end them: none comes twice.
    router.add_api_route(
        "/tokens",
        make_token,
        methods=["POST"],
        status_code=201,
        summary="Make a personal token",
        dependencies=[allow()],
        responses=no_such,
        route_class_override=IdempotentRoute,
    )

    @router.delete(
        "/tokens/{key}",
        status_code=204,
        summary="Revoke a token",
        dependencies=[allow()],
        responses=no_such,
    )
    def delete_token(
        request: Request,
        key: str,
        username: Annotated[str | None, Query(description="administrators only")] = None,
    ) -> None:
        require_signed_in(request.state.person)
        try:
            revoke_token(owner(request, username), key)
        except (TokenError, UserError) as error:
            raise HTTPException(404, str(error)) from error

    return router


def recognised(
    settings: Settings, limits: RateLimits, request: Request, username: str, password: str
) -> User:
    """Return the user who signs in; the audit trail is told who tried.

    Raises
    ------
    Refused
        The name or the password is wrong.
    TooManyFailures
        The name, or the address, has tried too often.
    """
    if seconds := limits.by_sign_in(request.scope):
        raise TooManyFailures(seconds)
    # Only a name that exists: people type passwords into the wrong field.
    known = User.select(User.username).where(User.username == username).first()
    if known is not None:
        concerns(request, username=known.username)
    return recognise(settings, username, password)


def require_signed_in(person: Person) -> None:
    """Refuse what only a person may do who has a password, and no tool.

    Raises
    ------
    HTTPException
        They came with a personal token.
    """
    if not person.signed_in:
        raise HTTPException(403, "a personal token cannot do this; sign in with a password")


def _signed_in(request: Request) -> None:
    require_signed_in(request.state.person)


SIGNED_IN = Depends(_signed_in)
"""The dependency of a route that is for people alone: no personal token may use it."""


def token_view(token: ApiToken) -> TokenView:
    """Return what is shown of a token."""
    return TokenView(
        key=token_key(token),
        name=token.name,
        scopes=[Permission(scope) for scope in token.scopes.split()],
        created_at=token.created_at,
        expires_at=token.expires_at,
    )


def _later(error: TooManyFailures) -> HTTPException:
    return HTTPException(429, str(error), headers={"Retry-After": str(error.seconds)})
