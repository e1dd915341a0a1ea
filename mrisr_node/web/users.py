"""Users over HTTP, for administrators."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, HTTPException, Request, Response
from pydantic import BaseModel, Field, SecretStr, StrictBool

from mrisr_node.people import users
from mrisr_node.people.lockout import forgive, locked_until
from mrisr_node.people.passwords import SHORTEST, UnfitPassword
from mrisr_node.people.roles import Permission, Role
from mrisr_node.people.users import NAME_PATTERN, NameTaken, NoSuchUser, UserError
from mrisr_node.records import User, transaction
from mrisr_node.settings import Settings
from mrisr_node.web.auth import SIGNED_IN
from mrisr_node.web.bodies import Body
from mrisr_node.web.idempotency import LOCATION, IdempotentRoute, shown_once
from mrisr_node.web.permissions import allow

__all__ = ["UserView", "user_view", "users_router"]


class UserView(BaseModel):
    """A user."""

    username: str
    role: Role
    created_at: float = Field(description="seconds since 1970")
    disabled_at: float | None = Field(description="since when they are let in no more")
    locked_until: float | None = Field(
        description="until when their password is not taken, after too many wrong ones"
    )


class NewUser(Body):
    """A user who is to be made."""

    # What is refused by these in the document is refused below, in better words.
    username: str = Field(max_length=64, json_schema_extra={"pattern": f"^{NAME_PATTERN}$"})
    role: Role
    password: SecretStr | None = Field(
        default=None,
        max_length=256,
        description=f"at least {SHORTEST} characters, not easily guessed; none: one is made, and"
        " shown once; a service has none",
    )


class UserChange(Body):
    """What is to be changed of a user; what is left out stays."""

    role: Role | None = None
    disabled: StrictBool | None = None


class Password(BaseModel):
    """A password that was made for a user; it is shown only now, and empty of a service."""

    password: str


def users_router(settings: Settings) -> APIRouter:
    """Return the routes under ``/api/users``."""
    router = APIRouter(
        prefix="/api/users",
        tags=["users"],
        dependencies=[allow(Permission.ADMIN)],
        route_class=IdempotentRoute,
    )
    no_such: dict[int | str, dict[str, Any]] = {404: {"description": "there is no such user"}}
    not_now = no_such | {409: {"description": "not with this user; the answer says why"}}
    # A token that could change users could make itself an account without scopes or an end.
    by_people = [SIGNED_IN]

    def known(username: str) -> UserView:
        try:
            return user_view(settings, users.find_user(username))
        except NoSuchUser as error:
            raise HTTPException(404, str(error)) from error

    @router.get("", summary="List the users")
    def list_users() -> list[UserView]:
        return [user_view(settings, user) for user in users.all_users()]

    @router.post(
        "",
        status_code=201,
        summary="Make a user",
        dependencies=by_people,
        responses={
            201: LOCATION,
            409: {
                "description": "there is a user of that name; or this request made one before,"
                " and the password is shown once"
            },
        },
    )
    def add(request: Request, response: Response, wanted: NewUser) -> Password:
        given = wanted.password.get_secret_value() if wanted.password else None
        try:
            made = users.add_user(wanted.username, wanted.role, given)
        except NameTaken as error:
            raise HTTPException(409, str(error)) from error
        except (UserError, UnfitPassword) as error:
            raise HTTPException(422, str(error)) from error
        response.headers["Location"] = f"/api/users/{wanted.username}"
        if made and not given:
            shown_once(
                request,
                "this request made the user before, and the password was shown then; for a new one,"
                " POST to /api/users/{username}/password",
            )
        return Password(password="" if given else made)

    @router.get("/{username}", summary="One user", responses=no_such)
    def one(username: str) -> UserView:
        return known(username)

    @router.patch(
        "/{username}",
        summary="Give a user another role; disable or enable them",
        responses=not_now,
        dependencies=by_people,
    )
    def change(username: str, wanted: UserChange) -> UserView:
        known(username)
        try:
            with transaction():  # both, or neither
                if wanted.role is not None:
                    users.set_role(username, wanted.role)
                if wanted.disabled is not None:
                    (users.disable_user if wanted.disabled else users.enable_user)(username)
        except UserError as error:
            raise HTTPException(409, str(error)) from error
        return known(username)

    @router.post(
        "/{username}/password",
        summary="Give a user a new password, and end their sessions",
        responses=not_now,
        dependencies=by_people,
    )
    def reset(request: Request, username: str) -> Password:
        known(username)
        try:
            made = users.set_password(username)
        except UserError as error:
            raise HTTPException(409, str(error)) from error
        forgive(settings, username)
        shown_once(
            request,
            "this request gave the user a new password before, which was shown then; for another"
            " one, ask with another Idempotency-Key",
        )
        return Password(password=made)

    @router.post(
        "/{username}/unlock",
        summary="Take a user's password again at once",
        responses=no_such,
        dependencies=by_people,
    )
    def unlock(username: str) -> UserView:
        known(username)
        forgive(settings, username)
        return known(username)

    return router


def user_view(settings: Settings, user: User) -> UserView:
    """Return what is shown of a user."""
    return UserView(
        username=user.username,
        role=Role(user.role),
        created_at=user.created_at,
        disabled_at=user.disabled_at,
        locked_until=locked_until(settings, user.username),
    )
