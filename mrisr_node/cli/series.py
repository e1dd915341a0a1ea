"""Commands for series: send them, follow them, or super-resolve them without a server."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.padding import Padding
from rich.text import Text

from mrisr_node.choices import Recipe
from mrisr_node.cli.console import (
    command,
    err,
    existing_node,
    out,
    plain,
    progress_bar,
    server,
)
from mrisr_node.counts import counted
from mrisr_node.errors import SettingsError
from mrisr_node.jobs.stages import Stage
from mrisr_node.records import State
from mrisr_node.settings import load_settings

if TYPE_CHECKING:
    from mrisr_node.cli.remote import Server


class Target(StrEnum):
    """Where ``send`` sends to."""

    PACS = "pacs"
    NODE = "node"


class SeriesRecipe(StrEnum):
    """What a series of DICOM can become; pairs are made of uploaded scans."""

    NATIVE = Recipe.NATIVE.value
    MNI = Recipe.MNI.value


@command
def send(
    context: typer.Context,
    paths: Annotated[list[Path], typer.Argument(help="DICOM files or folders", exists=True)],
    to: Annotated[Target, typer.Option(help="the PACS, or the node's own receiver")] = Target.PACS,
    calling: Annotated[str | None, typer.Option(help="our AE title for this once")] = None,
) -> None:
    """Send DICOM files by C-STORE, as a scanner would; to a server by STOW-RS."""
    from mrisr_node.intake.sending import Destination, send_files

    remote = server(context)
    files, odd = _storable(paths)
    if not files:
        if odd:
            _tell_stored(len(odd), odd)
        raise SettingsError("there is no DICOM file in what was named")
    if remote is not None:
        with progress_bar() as bar:
            task = bar.add_task("STOW-RS", total=len(files))
            refused = odd + remote.store(files, lambda n: bar.update(task, completed=n))
        _tell_stored(len(files) + len(odd), refused)
    settings = load_settings()
    destination = (
        Destination(
            settings.pacs_host, settings.pacs_port, settings.pacs_ae_title, calling or "SENDER"
        )
        if to is Target.PACS
        else Destination(
            settings.receiver_host,
            settings.receiver_port,
            settings.ae_title,
            calling or settings.accepted_ae_titles[0],
        )
    )
    with progress_bar() as bar:
        task = bar.add_task(f"C-STORE to {destination.called}", total=len(files))
        refused = odd + send_files(files, destination, lambda n: bar.update(task, completed=n))
    _tell_stored(len(files) + len(odd), refused)


def _storable(paths: list[Path]) -> tuple[list[Path], list[str]]:
    """Return the DICOM files in what was named; and of the others, in words, why not."""
    from pydicom import dcmread

    from mrisr_node.volumes.folders import find_series

    files: list[Path] = []
    odd: list[str] = []
    for path in paths:
        found = [file for series in find_series(path).values() for file in series]
        for file in found:
            meta = dcmread(file, stop_before_pixels=True, specific_tags=[]).file_meta
            if meta.get("MediaStorageSOPClassUID") and meta.get("TransferSyntaxUID"):
                files.append(file)
            else:
                odd.append(f"{file.name}: it does not say what kind of object it holds")
        if path.is_file() and not found:
            odd.append(f"{path.name}: {_why_not(path)}")
    return files, odd


def _why_not(path: Path) -> str:
    """Say why a file that was named is of no series."""
    from pydicom import dcmread

    try:
        dcmread(path, stop_before_pixels=True, specific_tags=["SeriesInstanceUID"])
    except Exception:  # noqa: BLE001 - pydicom raises anything on a damaged header
        return "it cannot be read as DICOM"
    return "it has no Series Instance UID (0020,000E), so it belongs to no series"


def _tell_stored(count: int, refused: list[str]) -> NoReturn:
    for line in refused:
        err.print(f"not stored: {line}", markup=False)
    out.print(f"{count - len(refused)} of {count} stored")
    raise typer.Exit(1 if refused else 0)


@command
def jobs(
    context: typer.Context,
    state: Annotated[State | None, typer.Option(help="only series in this state")] = None,
    limit: Annotated[int, typer.Option(min=1, help="at most this many, newest first")] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="for programs")] = False,
    retry: Annotated[int | None, typer.Option(help="try a failed series again, by its id")] = None,
) -> None:
    """List series with state, progress, time left and reason."""
    if remote := server(context):
        if retry is not None:
            remote.retry(retry)
        rows, total = remote.series(state=state and state.value, limit=min(limit, 500))
    else:
        from mrisr_node.jobs.given_files import names_of_files
        from mrisr_node.jobs.overview import Which, count, overview
        from mrisr_node.jobs.recovery import retry as retry_series

        existing_node(load_settings())
        if retry is not None:
            retry_series(retry)
        which = Which(state=state)
        rows, total = [asdict(row) for row in overview(which, limit=limit)], count(which)
        names = names_of_files([row["id"] for row in rows])
        for row in rows:
            if row["id"] in names:
                row["description"] = f"{names[row['id']]}: {row['description']}"
    if retry is not None:
        out.print(f"series {retry} is queued again")
    elif as_json:
        sys.stdout.write(json.dumps(rows, indent=1) + "\n")
    else:
        for row in rows:
            _tell(row)
    if retry is None and total > len(rows):
        err.print(f"{len(rows)} of {total}; --limit shows more")


def _tell(row: Mapping[str, Any]) -> None:
    """Print a series: what it is on one line, and why on the next, however narrow the terminal."""
    received = time.strftime("%m-%d %H:%M", time.localtime(row["received_at"]))
    stage = f"{row['stage']} {row['progress']:.0%}" if row["stage"] else ""
    known = (received, row["state"], stage, _left(row), _images(row))
    said = plain("  ".join(filter(None, (*known, row["description"]))))
    out.print(Text.assemble((f"{row['id']:>5}", "bold"), "  ", said))
    if reason := _reason(row):
        out.print(Padding(plain(reason), (0, 0, 0, 7), expand=False))


@command
def send_again(
    series: Annotated[
        list[int] | None, typer.Argument(help="ids of series, as `mrisr-node jobs` shows them")
    ] = None,
    all_of_them: Annotated[
        bool, typer.Option("--all", help="every result that the PACS did not take")
    ] = False,
) -> None:
    """Send results again that the PACS did not take, without computing them anew."""
    from mrisr_node.jobs import dead_letters

    if bool(series) == all_of_them:
        raise SettingsError("name series by their ids, or say --all")
    settings = existing_node(load_settings())
    if all_of_them:
        sent = len(dead_letters.send_all_again(settings))
    else:
        for one in series or []:
            dead_letters.send_again(settings, one)
        sent = len(series or [])
    out.print(f"{counted(sent, 'result')} will be sent again")


def _images(row: Mapping[str, Any]) -> str:
    """Say how many images came; a series that is files has none."""
    if row["format"] != "dicom":
        return ""
    return counted(row["instances"], "image")


def _reason(row: Mapping[str, Any]) -> str:
    deleted = "local copies deleted" if row["copies_deleted_at"] else ""
    return "; ".join(filter(None, (row["reason"], deleted)))


def _left(row: Mapping[str, Any]) -> str:
    time_left = row["time_left"]
    if time_left is None:
        return ""
    if time_left["seconds"] is None:
        return "unknown"
    words = "{seconds:.0f} s ({low:.0f} to {high:.0f})".format(**time_left)
    return f"{words} once it is its turn" if row["waiting_for"] else words


@command
def resolve(
    context: typer.Context,
    in_dir: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="DICOM in")],
    out_dir: Annotated[Path, typer.Argument(file_okay=False, help="DICOM out")],
    recipe: Annotated[
        SeriesRecipe | None, typer.Option(help="for reading, or for research; else the settings'")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="for programs")] = False,
) -> None:
    """Super-resolve a folder of DICOM series into another: with no server at all, or by one."""
    from mrisr_node.jobs.resolve import resolve_folder

    if remote := server(context):
        if recipe is not None:
            raise SettingsError("the recipe is the server's own; leave --recipe out")
        _resolve_elsewhere(remote, in_dir, out_dir, as_json)
    settings = load_settings(**({"recipe": Recipe(recipe)} if recipe else {}))
    if in_dir.resolve() in (out_dir.resolve(), *out_dir.resolve().parents):
        raise SettingsError("OUT must not lie in IN: results would be taken for sources")
    numbers: dict[str, int] = {}
    with progress_bar() as bar:
        task = bar.add_task("reading", total=1.0)

        def report(uid: str, stage: Stage, part: float) -> None:
            number = numbers.setdefault(uid, len(numbers) + 1)
            bar.update(task, description=f"series {number}: {stage.value}", completed=part)

        results = resolve_folder(in_dir, out_dir, settings, report)
    _tell_resolved([asdict(result) for result in results], as_json)


def _resolve_elsewhere(remote: Server, in_dir: Path, out_dir: Path, as_json: bool) -> NoReturn:
    """Send a folder, wait, and fetch what came of it."""
    from mrisr_node.volumes.folders import find_series

    found = find_series(in_dir)
    places = {uid: out_dir / f"series-{n:03d}" for n, uid in enumerate(found, start=1)}
    for place in places.values():
        if place.exists():  # asked before minutes of work are done for nothing
            raise SettingsError(f"{place.name} exists already in the target folder")
    files = [path for paths in found.values() for path in paths]
    with progress_bar() as bar:
        task = bar.add_task("sending", total=len(files) or 1)
        refused = remote.store(files, lambda n: bar.update(task, completed=n))
        for line in refused:
            err.print(f"not stored: {line}", markup=False)
        overall = {}

        def report(row: Mapping[str, Any]) -> None:
            overall[row["series_instance_uid"]] = row["overall"]
            what = row["stage_name"] or row["state"]
            bar.update(task, description=what, completed=sum(overall.values()), total=len(found))

        # A file of an instance that another file holds, too, is one instance.
        sent = {uid: len({_instance_of(path) for path in paths}) for uid, paths in found.items()}
        ended = remote.wait(sent, report)
        results = []
        for uid, outcome in ended.items():
            if outcome.state == "done":
                bar.update(task, description="fetching")
                seconds = remote.download(uid, places[uid])
                outcome = replace(outcome, folder=places[uid], seconds=seconds)
            results.append(asdict(outcome))
    _tell_resolved(results, as_json)


def _instance_of(path: Path) -> str:
    from pydicom import dcmread

    header = dcmread(path, stop_before_pixels=True, specific_tags=["SOPInstanceUID"])
    return str(header.get("SOPInstanceUID", ""))


def _tell_resolved(results: list[dict[str, Any]], as_json: bool) -> NoReturn:
    if as_json:
        sys.stdout.write(json.dumps(results, default=str) + "\n")
    else:
        for result in results:
            where = f" → {result['folder']}" if result["folder"] else f": {result['reason']}"
            took = f" ({sum(result['seconds'].values()):.0f} s)" if result["seconds"] else ""
            line = f"{result['series_instance_uid']} {result['state']}{where}{took}"
            out.print(line, markup=False)
        if not results:
            err.print("no DICOM series found")
    states = [result["state"] for result in results]
    well = "done" in states and not {"failed", "cancelled"} & set(states)
    raise typer.Exit(0 if well else 1)
