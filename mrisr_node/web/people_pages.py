"""Pages about people: users and the audit trail for administrators, one's account for everybody.

Plain forms, so nothing here needs a script; whatever is changed here is said at the top of the page
that comes back.
"""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Form, Request
from starlette.responses import RedirectResponse, Response
from starlette.templating import Jinja2Templates

from mrisr_node.errors import NodeError
from mrisr_node.people import users
from mrisr_node.people.audit import Action, Filter, search
from mrisr_node.people.lockout import forgive
from mrisr_node.people.passwords import SHORTEST
from mrisr_node.people.roles import Permission, Role, permissions_of
from mrisr_node.people.sign_in import Refused, change_password
from mrisr_node.people.tokens import create_token, revoke_token, tokens_of
from mrisr_node.settings import Settings
from mrisr_node.web.auth import SIGNED_IN, require_signed_in, token_view
from mrisr_node.web.permissions import allow
from mrisr_node.web.signin import SIGN_IN_AGAIN, forget_cookie
from mrisr_node.web.subjects import concerns
from mrisr_node.web.users import user_view

__all__ = ["people_pages_router"]

_ROWS = 50
Days = Annotated[int, Form(ge=1, le=36_500)]


def people_pages_router(settings: Settings, templates: Jinja2Templates) -> APIRouter:
    """Return the routes ``/users``, ``/audit`` and ``/account``."""
    router = APIRouter(include_in_schema=False)
    admin, anybody = [allow(Permission.ADMIN)], [allow()]

    def page(request: Request, name: str, status: int = 200, **values: object) -> Response:
        known = {"person": request.state.person, "here": name, "moment": datetime.fromtimestamp}
        return templates.TemplateResponse(
            request, f"{name}.html", known | values, status_code=status
        )

    def users_page(request: Request, said: str = "", secret: str = "", error: str = "") -> Response:
        return page(
            request,
            "users",
            400 if error else 200,
            users=[user_view(settings, user) for user in users.all_users()],
            roles=list(Role),
            tokens={
                user.username: [token_view(token) for token in tokens_of(user.username)]
                for user in users.all_users()
                if user.role == Role.SERVICE
            },
            service_permissions=sorted(permissions_of(Role.SERVICE)),
            said=said,
            secret=secret,
            error=error,
        )

    @router.get("/users", dependencies=admin)
    def show_users(request: Request) -> Response:
        return users_page(request)

    # Where a form has led, its page is found again.
    @router.get("/users/{username}", dependencies=admin)
    def back_to_users() -> Response:
        return RedirectResponse("/users", 303)

    @router.post("/users", dependencies=[*admin, SIGNED_IN])
    def add_user(
        request: Request, role: Annotated[Role, Form()], username: Annotated[str, Form()] = ""
    ) -> Response:
        try:
            secret = users.add_user(username, role)
        except NodeError as error:
            return users_page(request, error=str(error))
        if role is Role.SERVICE:
            said = f"{username} is added. It comes in with a token: make one below, in its row."
        else:
            said = f"{username} can come in now."
        return users_page(request, said, secret)

    @router.post("/users/{username}", dependencies=[*admin, SIGNED_IN])
    def change_user(
        request: Request,
        username: str,
        do: Annotated[str, Form()],
        role: Annotated[Role | None, Form()] = None,
        name: Annotated[str, Form()] = "",
        days: Days = 365,
        scopes: Annotated[list[Permission] | None, Form()] = None,
        key: Annotated[str, Form()] = "",
    ) -> Response:
        secret = ""
        try:
            users.find_user(username)
            match do:
                case "role" if role is not None:
                    users.set_role(username, role)
                    said = f"{username} is {role} now."
                case "disable":
                    users.disable_user(username)
                    said = f"{username} is let in no more."
                case "enable":
                    users.enable_user(username)
                    said = f"{username} is let in again."
                case "password":
                    secret = users.set_password(username)
                    forgive(settings, username)
                    said = f"{username} has a new password."
                case "token":
                    secret = create_token(username, name, days, scopes or ())
                    said = f"The token {name} of {username} is made."
                case "revoke":
                    revoke_token(username, key)
                    said = f"The token of {username} is revoked."
                case "unlock":
                    forgive(settings, username)
                    said = f"{username} can try again."
                case _:
                    return users_page(request, error="Nothing was changed.")
        except NodeError as error:
            return users_page(request, error=str(error))
        if username == request.state.person.username and do == "password":
            # Their own session has ended with it: this page is the last that they see.
            said += " Sign in with it."
        return users_page(request, said, secret)

    def account_page(
        request: Request, said: str = "", secret: str = "", error: str = ""
    ) -> Response:
        person = request.state.person
        return page(
            request,
            "account",
            400 if error else 200,
            tokens=[token_view(token) for token in tokens_of(person.username)],
            permissions=sorted(person.permissions),
            shortest=SHORTEST,
            said=said,
            secret=secret,
            error=error,
        )

    @router.get("/account", dependencies=anybody)
    def show_account(request: Request) -> Response:
        return account_page(request)

    @router.get("/account/password", dependencies=anybody)
    @router.get("/account/tokens", dependencies=anybody)
    @router.get("/account/tokens/{key}", dependencies=anybody)
    def back_to_account() -> Response:
        return RedirectResponse("/account", 303)

    @router.post("/account/password", dependencies=anybody)
    def own_password(
        request: Request,
        current: Annotated[str, Form()] = "",
        new: Annotated[str, Form()] = "",
        again: Annotated[str, Form()] = "",
    ) -> Response:
        person = request.state.person
        require_signed_in(person)
        if new != again:
            return account_page(request, error="The two new passwords differ.")
        try:
            change_password(settings, person.username, current, new)
        except Refused:
            return account_page(request, error="The current password is wrong.")
        except NodeError as error:
            return account_page(request, error=str(error))
        return forget_cookie(settings, RedirectResponse(SIGN_IN_AGAIN, 303))

    @router.post("/account/tokens", dependencies=anybody)
    def new_token(
        request: Request,
        name: Annotated[str, Form()] = "",
        days: Days = 365,
        scopes: Annotated[list[Permission] | None, Form()] = None,
    ) -> Response:
        require_signed_in(request.state.person)
        if not scopes:
            return account_page(request, error="Say what the token may do.")
        try:
            secret = create_token(request.state.person.username, name, days, scopes)
        except NodeError as error:
            return account_page(request, error=str(error))
        return account_page(request, f"The token {name} is made.", secret)

    @router.post("/account/tokens/{key}", dependencies=anybody)
    def no_token(request: Request, key: str) -> Response:
        require_signed_in(request.state.person)
        try:
            revoke_token(request.state.person.username, key)
        except NodeError as error:
            return account_page(request, error=str(error))
        return account_page(request, "The token is revoked.")

    @router.get("/audit", dependencies=admin)
    def show_audit(request: Request) -> Response:
        return audit_page(request)

    # By POST: a patient has no business in an address.
    @router.post("/audit", dependencies=admin)
    def audit_page(
        request: Request,
        patient: Annotated[str, Form(max_length=64)] = "",
        username: Annotated[str, Form(max_length=64)] = "",
        action: Annotated[str, Form(max_length=64)] = "",
        since: Annotated[str, Form(max_length=10)] = "",
        until: Annotated[str, Form(max_length=10)] = "",
        offset: Annotated[int, Form(ge=0, le=10**9)] = 0,
    ) -> Response:
        concerns(request, patient_id=patient)
        wanted = Filter(
            patient_id=patient,
            username=username,
            action=action,
            since=_midnight(since),
            until=_midnight(until, days=1),
        )
        total, rows = search(wanted, _ROWS, offset)
        return page(
            request,
            "audit",
            rows=rows,
            total=total,
            offset=offset,
            step=_ROWS,
            actions=sorted(Action),
            asked={
                "patient": patient,
                "username": username,
                "action": action,
                "since": since,
                "until": until,
            },
        )

    return router


def _midnight(day: str, days: int = 0) -> float | None:
    """Return when a day of this machine's calendar begins, or one some days later."""
    try:
        return datetime.combine(
            date.fromisoformat(day) + timedelta(days=days), datetime.min.time()
        ).timestamp()
    except (ValueError, OverflowError):
        return None
