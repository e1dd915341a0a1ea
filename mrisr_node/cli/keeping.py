"""Commands for what the node keeps: quarantine, backup and restore."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.filesize import decimal
from rich.table import Table

from mrisr_node.cli.console import (
    app,
    command,
    err,
    existing_node,
    opened_node,
    out,
    plain,
    progress_bar,
)
from mrisr_node.cli.recording import record_done, recorded
from mrisr_node.counts import counted
from mrisr_node.people.audit import Action
from mrisr_node.settings import Settings, load_settings

if TYPE_CHECKING:
    from mrisr_node.intake.quarantine import Quarantine
    from mrisr_node.web.subjects import Subject

quarantine = typer.Typer(no_args_is_help=True)
app.add_typer(
    quarantine, name="quarantine", help="List, show, release and delete what was refused."
)
_command = partial(command, to=quarantine)

_Keys = Annotated[list[str], typer.Argument(help="keys that `list` shows")]
_Json = Annotated[bool, typer.Option("--json", help="for programs")]


def _opened() -> tuple[Settings, Quarantine]:
    from mrisr_node.intake.quarantine import Quarantine

    settings = opened_node()
    return settings, Quarantine(settings)


def _whose(kept: Quarantine, key: str) -> Subject:
    from mrisr_node.web.subjects import Subject

    return Subject(*kept.subject(key).values())


@partial(_command, name="list")
def list_quarantine(
    limit: Annotated[int, typer.Option(min=1, help="at most this many, newest first")] = 50,
    as_json: _Json = False,
) -> None:
    """List what was refused at the door: reason, origin, time and size."""
    settings, kept = _opened()
    with recorded(settings, Action.RECORD, "quarantine list"):
        entries = kept.entries(limit)
    if as_json:
        sys.stdout.write(json.dumps([asdict(entry) for entry in entries], indent=1) + "\n")
        return
    table = Table("key", "refused", "from", "size", "reason")
    for entry in entries:
        table.add_row(
            entry.key,
            time.strftime("%m-%d %H:%M", time.localtime(entry.at)),
            plain(" ".join(filter(None, (entry.sender, entry.address)))),
            "gone" if entry.size is None else decimal(entry.size),
            plain(entry.reason),
        )
    out.print(table)
    if (total := kept.count()) > len(entries):
        out.print(f"{len(entries)} of {total}; --limit shows more")


@_command
def show(
    key: Annotated[str, typer.Argument(help="a key that `list` shows")], as_json: _Json = False
) -> None:
    """Show one object, and what its header says that does not name the patient."""
    settings, kept = _opened()
    with recorded(settings, Action.RECORD, f"quarantine show {key}", _whose(kept, key)):
        entry, facts = kept.entry(key), kept.facts(key)
    if as_json:
        sys.stdout.write(json.dumps({**asdict(entry), "facts": facts}, indent=1) + "\n")
        return
    refused = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(entry.at))
    known = {
        "key": entry.key,
        "refused": refused,
        "reason": entry.reason,
        "AE title": entry.sender,
        "address": entry.address,
        "size": "its file is gone" if entry.size is None else counted(entry.size, "byte"),
    }
    for name, value in (known | facts).items():
        if value:
            out.print(plain(f"{name}: {value}"), highlight=False)


@_command
def release(keys: _Keys) -> None:
    """Try to take objects in, through the same screening as at the door."""
    (settings, kept), refused = _opened(), 0
    for key in keys:
        with recorded(settings, Action.CHANGE, f"quarantine release {key}", _whose(kept, key)):
            release = kept.release(key)
        refused += not release.released
        out.print(plain(f"{key}: {release.outcome}"), highlight=False)
    raise typer.Exit(1 if refused else 0)


@_command
def delete(
    keys: _Keys,
    yes: Annotated[bool, typer.Option("--yes", help="do not ask")] = False,
) -> None:
    """Delete objects and their files for good."""
    settings, kept = _opened()
    for key in keys:
        kept.entry(key)
    number = counted(len(keys), "object")
    if not yes:
        typer.confirm(
            f"Delete {number} for good? There may be no other copy.", abort=True, err=True
        )
    for key in keys:
        with recorded(settings, Action.CHANGE, f"quarantine delete {key}", _whose(kept, key)):
            kept.delete(key)
    out.print(f"{number} deleted")


@command
def backup(
    to: Annotated[Path, typer.Argument(help="a folder, or the tar file to write")],
) -> None:
    """Back up the node, also while it runs; not the storage of Orthanc."""
    from mrisr_node.node.backup import back_up

    settings = existing_node(load_settings())
    with recorded(settings, Action.EXPORT, f"backup {to}"), progress_bar() as bar:
        task = bar.add_task("backup", total=None)
        made = back_up(
            settings, to, lambda done, total: bar.update(task, completed=done, total=total)
        )
    for name in made.damaged:
        err.print(f"missing or altered in the node: {name}", style="red", markup=False)
    out.print(f"{made.path}: {counted(made.files, 'file')}, {decimal(made.size)}", markup=False)
    raise typer.Exit(1 if made.damaged else 0)


@command
def restore(
    source: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="a backup")],
) -> None:
    """Bring a node back from a backup, into an empty data_dir."""
    from mrisr_node.node.backup import restore as bring_back

    settings = load_settings()
    with progress_bar() as bar:
        task = bar.add_task("comparing with the manifest", total=None)
        made = bring_back(
            settings, source, lambda done, total: bar.update(task, completed=done, total=total)
        )
    # In the trail that came with it: before, there was none.
    record_done(settings, Action.IMPORT, f"restore {source}")
    for name in made.damaged:
        words = f"missing or altered when the backup was made: {name}"
        err.print(plain(words), style="red")
    size = decimal(made.size)
    out.print(
        f"{counted(made.files, 'file')}, {size}, in {settings.data_dir}; start the node",
        markup=False,
    )
