"""Commands for who may use the node: users, passwords, tokens, and what everybody did."""

from __future__ import annotations

import json
import sys
import time
from datetime import datetime
from functools import partial
from typing import Annotated

import typer
from rich.table import Table

from mrisr_node.cli.console import app, command, err, opened_node, out, plain
from mrisr_node.cli.recording import recorded
from mrisr_node.people.audit import Action
from mrisr_node.people.roles import Permission, Role

users = typer.Typer(no_args_is_help=True)
app.add_typer(users, name="user", help="Add, list, enable and disable users; give them roles.")
_command = partial(command, to=users)

_Name = Annotated[str, typer.Argument(help="user name")]
_Json = Annotated[bool, typer.Option("--json", help="for programs")]


@_command
def add(
    name: _Name,
    role: Annotated[Role, typer.Option(help="what they are for the node")] = Role.VIEWER,
) -> None:
    """Add a user, and print the password that was made; a service has none, but tokens."""
    from mrisr_node.people.users import add_user

    settings = opened_node()
    with recorded(settings, Action.USERS, f"user add {name} --role {role}"):
        password = add_user(name, role)
    if password:
        sys.stdout.write(password + "\n")
    else:
        words = f"{name} has no password; `mrisr-node token NAME --user {name}` makes its token"
        err.print(words, markup=False, highlight=False)


@partial(_command, name="list")
def list_users(as_json: _Json = False) -> None:
    """List the users and their roles."""
    from mrisr_node.people.lockout import locked_until
    from mrisr_node.people.users import all_users

    settings = opened_node()
    found = [(user, locked_until(settings, user.username)) for user in all_users()]
    if as_json:
        rows = [
            {
                "username": user.username,
                "role": user.role,
                "created_at": user.created_at,
                "disabled_at": user.disabled_at,
                "locked_until": locked,
            }
            for user, locked in found
        ]
        sys.stdout.write(json.dumps(rows, indent=1) + "\n")
        return
    table = Table("user", "role", "since", "")
    for user, locked in found:
        state = "disabled" if user.disabled_at else "locked" if locked else ""
        since = time.strftime("%Y-%m-%d", time.localtime(user.created_at))
        table.add_row(plain(user.username), user.role, since, state)
    out.print(table)


@_command
def disable(name: _Name) -> None:
    """Let a user in no more, at once: not by password, session or token."""
    from mrisr_node.people.users import disable_user

    settings = opened_node()
    with recorded(settings, Action.USERS, f"user disable {name}"):
        disable_user(name)


@_command
def enable(name: _Name) -> None:
    """Let a user in again, also one that was locked after wrong passwords."""
    from mrisr_node.people.lockout import forgive
    from mrisr_node.people.users import enable_user

    settings = opened_node()
    with recorded(settings, Action.USERS, f"user enable {name}"):
        enable_user(name)
        forgive(settings, name)


@partial(_command, name="role")
def set_user_role(
    name: _Name, role: Annotated[Role, typer.Argument(help="viewer, operator or admin")]
) -> None:
    """Give a user another role, which counts at once."""
    from mrisr_node.people.users import set_role

    settings = opened_node()
    with recorded(settings, Action.USERS, f"user role {name} {role}"):
        set_role(name, role)


@command
def password(user: Annotated[str, typer.Argument(help="whose password is forgotten")]) -> None:
    """Give a user a new password, and end what they are signed in to."""
    from mrisr_node.people.lockout import forgive
    from mrisr_node.people.users import set_password

    settings = opened_node()
    with recorded(settings, Action.USERS, f"password {user}"):
        made = set_password(user)
        forgive(settings, user)
    sys.stdout.write(made + "\n")


@command
def token(
    name: Annotated[str, typer.Argument(help="what the token is for, e.g. slicer")],
    user: Annotated[str, typer.Option(help="who the tool acts for")] = "admin",
    days: Annotated[float | None, typer.Option(help="how long it is valid; none: for ever")] = None,
    scope: Annotated[
        list[Permission] | None,
        typer.Option(help="what it may do, several times; none: whatever the user may do"),
    ] = None,
) -> None:
    """Make a bearer token for a tool that uses the API or DICOMweb."""
    from mrisr_node.people.tokens import create_token

    settings = opened_node()
    with recorded(settings, Action.USERS, f"token --user {user}"):
        made = create_token(user, name, days, scope or ())
    sys.stdout.write(made + "\n")


@command
def audit(
    patient: Annotated[str, typer.Option(help="Patient ID")] = "",
    user: Annotated[str, typer.Option(help="who did it")] = "",
    action: Annotated[str, typer.Option(help="what was done, as the list shows it")] = "",
    since: Annotated[datetime | None, typer.Option(help="from this local time on")] = None,
    until: Annotated[datetime | None, typer.Option(help="before this local time")] = None,
    limit: Annotated[int, typer.Option(min=1, help="at most this many, newest first")] = 50,
    as_json: _Json = False,
) -> None:
    """List who did what with whose data. The list names patients."""
    from mrisr_node.people.audit import Filter, search
    from mrisr_node.web.subjects import Subject

    settings = opened_node()
    wanted = Filter(
        patient_id=patient,
        username=user,
        action=action,
        since=since.timestamp() if since else None,
        until=until.timestamp() if until else None,
    )
    with recorded(settings, Action.AUDIT, "audit", Subject(patient_id=patient)):
        total, rows = search(wanted, limit)
    if as_json:
        sys.stdout.write(json.dumps([row.__data__ for row in rows], indent=1) + "\n")
        return
    table = Table("at", "who", "from", "what", "whose", "outcome")
    for row in rows:
        table.add_row(
            time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(row.at)),
            plain(f"{row.username or '?'} ({row.means})" if row.means else row.username or "?"),
            plain(row.address),
            plain(f"{row.action}: {row.method} {row.resource}"),
            plain(row.patient_id or row.study_uid),
            str(row.status or "unknown"),
        )
    out.print(table)
    if total > len(rows):
        out.print(f"{len(rows)} of {total}; --limit shows more")
