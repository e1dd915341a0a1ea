"""Commands for series: send them, follow them, or super-resolve them without a server."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from mrisr_node.choices import Recipe
from mrisr_node.cli.console import command, err, existing_node, out, plain, progress_bar
from mrisr_node.errors import SettingsError
from mrisr_node.jobs.stages import Stage
from mrisr_node.records import State
from mrisr_node.settings import load_settings

if TYPE_CHECKING:
    from mrisr_node.jobs.overview import SeriesOverview


class Target(StrEnum):
    """Where ``send`` sends to."""

    PACS = "pacs"
    NODE = "node"


@command
def send(
    paths: Annotated[list[Path], typer.Argument(help="DICOM files or folders", exists=True)],
    to: Annotated[Target, typer.Option(help="the PACS, or the node's own receiver")] = Target.PACS,
    calling: Annotated[str | None, typer.Option(help="our AE title for this once")] = None,
) -> None:
    """Send DICOM files by C-STORE, as a scanner would."""
    from pydicom import dcmread

    from mrisr_node.intake.sending import Destination, send_files
    from mrisr_node.jobs.resolve import find_series

    settings = load_settings()
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
            odd.append(f"{path.name}: it cannot be read as DICOM")
    if not files:
        raise SettingsError("there is no DICOM file in what was named")
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
    for line in refused:
        err.print(f"not stored: {line}", markup=False)
    out.print(f"{len(files) + len(odd) - len(refused)} of {len(files) + len(odd)} stored")
    raise typer.Exit(1 if refused else 0)


@command
def jobs(
    state: Annotated[State | None, typer.Option(help="only series in this state")] = None,
    limit: Annotated[int, typer.Option(min=1, help="at most this many, newest first")] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="for programs")] = False,
    retry: Annotated[int | None, typer.Option(help="try a failed series again, by its id")] = None,
) -> None:
    """List series with state, progress, time left and reason."""
    from mrisr_node.jobs.overview import Which, overview
    from mrisr_node.jobs.recovery import retry as retry_series

    existing_node(load_settings())
    if retry is not None:
        retry_series(retry)
    rows = overview(Which(state=state), limit=limit)
    if as_json:
        sys.stdout.write(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
        return
    table = Table("id", "received", "series", "slices", "state", "stage", "left", "reason")
    for row in rows:
        received = time.strftime("%m-%d %H:%M", time.localtime(row.received_at))
        table.add_row(
            str(row.id), received, plain(row.description), str(row.instances), row.state,
            f"{row.stage} {row.progress:.0%}" if row.stage else "", _left(row), plain(_reason(row)),
        )  # fmt: skip
    out.print(table)


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
        sent = dead_letters.send_all_again(settings)
    else:
        for one in series or []:
            dead_letters.send_again(settings, one)
        sent = len(series or [])
    out.print(f"{sent} result{'' if sent == 1 else 's'} will be sent again")


def _reason(row: SeriesOverview) -> str:
    deleted = "local copies deleted" if row.copies_deleted_at else ""
    return "; ".join(filter(None, (row.reason, deleted)))


def _left(row: SeriesOverview) -> str:
    if row.time_left is None:
        return ""
    if row.time_left.seconds is None:
        return "unknown"
    low, high = row.time_left.low or 0.0, row.time_left.high or 0.0
    return f"{row.time_left.seconds:.0f} s ({low:.0f} to {high:.0f})"


@command
def resolve(
    in_dir: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="DICOM in")],
    out_dir: Annotated[Path, typer.Argument(file_okay=False, help="DICOM out")],
    recipe: Annotated[Recipe | None, typer.Option(help="native or mni")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="for programs")] = False,
) -> None:
    """Super-resolve a folder of DICOM series into another, with no server at all."""
    from mrisr_node.jobs.resolve import resolve_folder

    settings = load_settings(**({"recipe": recipe} if recipe else {}))
    if in_dir.resolve() in (out_dir.resolve(), *out_dir.resolve().parents):
        raise SettingsError("OUT must not lie in IN: results would be taken for sources")
    numbers: dict[str, int] = {}
    with progress_bar() as bar:
        task = bar.add_task("reading", total=1.0)

        def report(uid: str, stage: Stage, part: float) -> None:
            number = numbers.setdefault(uid, len(numbers) + 1)
            bar.update(task, description=f"series {number}: {stage.value}", completed=part)

        results = resolve_folder(in_dir, out_dir, settings, report)
    if as_json:
        sys.stdout.write(json.dumps([asdict(r) for r in results], default=str) + "\n")
    else:
        for result in results:
            where = f" → {result.folder}" if result.folder else f": {result.reason}"
            took = f" ({sum(result.seconds.values()):.0f} s)" if result.seconds else ""
            out.print(f"{result.series_instance_uid} {result.state}{where}{took}", markup=False)
        if not results:
            err.print("no DICOM series found")
    done = any(r.state == "done" for r in results)
    raise typer.Exit(0 if done and all(r.state != "failed" for r in results) else 1)
