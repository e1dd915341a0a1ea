"""The one command of the node: ``mrisr-node``."""

from __future__ import annotations

import json
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import asdict
from enum import StrEnum
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from mrisr_node.errors import NodeError, SettingsError
from mrisr_node.jobs.stages import Queue, Stage
from mrisr_node.records import State
from mrisr_node.settings import Recipe, Settings, load_settings

# Commands import what they need by themselves: `mrisr-node jobs` should not wait for torch.
if TYPE_CHECKING:
    from collections.abc import Iterator

    from mrisr_node.jobs.overview import SeriesOverview

app = typer.Typer(
    help="MRI super-resolution node: thick MR slices in from the PACS, thin ones back beside them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
_out = Console()
_err = Console(stderr=True)


class Target(StrEnum):
    """Where ``send`` sends to."""

    PACS = "pacs"
    NODE = "node"


def _command(function: Callable[..., Any]) -> Callable[..., Any]:
    """End with the message of an error that is ours, without a traceback."""

    @wraps(function)
    def guarded(*args: Any, **keywords: Any) -> Any:  # noqa: ANN401 - passes through
        try:
            return function(*args, **keywords)
        except NodeError as error:
            _err.print(f"mrisr-node: {error}", style="red", markup=False, highlight=False)
            raise typer.Exit(2 if isinstance(error, SettingsError) else 1) from error

    return app.command()(guarded)


def _start_logging() -> None:
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    # Its INFO lines repeat every request, with UIDs in them.
    for name in ("httpx", "pynetdicom", "huey"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _service() -> Settings:
    """Prepare log, settings and records for a process of the node."""
    from mrisr_node.records import open_records

    _start_logging()
    settings = load_settings()
    open_records(settings.database_path)
    return settings


@_command
def up() -> None:
    """Run the whole node on this machine: Orthanc, receiver, workers, front door."""
    from mrisr_node.node.supervisor import up as run

    _start_logging()
    raise typer.Exit(run(load_settings()))


@_command
def receive() -> None:
    """Run the DICOM receiver, and follow series until they are complete."""
    from mrisr_node.intake.receiver import Receiver
    from mrisr_node.jobs.rounds import Rounds

    settings = _service()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    receiver = Receiver(settings)
    receiver.start()
    try:
        Rounds(settings).run(stop)
    finally:
        receiver.stop()


@_command
def work(queue: Annotated[Queue, typer.Argument(help="which queue to work on")]) -> None:
    """Work on one queue: cpu, gpu or delivery."""
    from mrisr_node.jobs.work import Worker

    Worker(_service()).run(queue)


@_command
def serve() -> None:
    """Serve the front door: pages, API, DICOMweb gateway and viewer."""
    import uvicorn

    from mrisr_node.web.app import create_app
    from mrisr_node.web.auth import ensure_admin

    settings = _service()
    # Where no supervisor has made the first user: in a container, say.
    if password := ensure_admin(settings):
        sys.stdout.write(f"user admin, password {password} (shown only this once)\n")
        sys.stdout.flush()
    uvicorn.run(
        create_app(settings),
        host=settings.web_host,
        port=settings.web_port,
        log_level="warning",
        server_header=False,
        # A download that hangs must not hold up the end.
        timeout_graceful_shutdown=5,
    )


@_command
def token(
    name: Annotated[str, typer.Argument(help="what the token is for, e.g. slicer")],
    user: Annotated[str, typer.Option(help="who the tool acts for")] = "admin",
    days: Annotated[float | None, typer.Option(help="how long it is valid; none: for ever")] = None,
) -> None:
    """Make a bearer token for a tool that uses the API or DICOMweb."""
    from mrisr_node.web.auth import create_token

    _service()
    sys.stdout.write(create_token(user, name, days) + "\n")


@_command
def password(user: Annotated[str, typer.Argument(help="whose password is forgotten")]) -> None:
    """Give a user a new password, and end what they are signed in to."""
    from mrisr_node.web.auth import set_password

    _service()
    sys.stdout.write(set_password(user) + "\n")


@_command
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
    with _progress() as bar:
        task = bar.add_task(f"C-STORE to {destination.called}", total=len(files))
        refused = odd + send_files(files, destination, lambda n: bar.update(task, completed=n))
    for line in refused:
        _err.print(f"not stored: {line}", markup=False)
    _out.print(f"{len(files) + len(odd) - len(refused)} of {len(files) + len(odd)} stored")
    raise typer.Exit(1 if refused else 0)


@_command
def jobs(
    state: Annotated[State | None, typer.Option(help="only series in this state")] = None,
    limit: Annotated[int, typer.Option(min=1, help="at most this many, newest first")] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="for programs")] = False,
    retry: Annotated[int | None, typer.Option(help="try a failed series again, by its id")] = None,
) -> None:
    """List series with state, progress, time left and reason."""
    from mrisr_node.jobs.overview import overview
    from mrisr_node.jobs.recovery import retry as retry_series
    from mrisr_node.records import open_records

    settings = load_settings()
    open_records(settings.database_path)
    if retry is not None:
        retry_series(retry)
    rows = overview(state=state, limit=limit)
    if as_json:
        sys.stdout.write(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
        return
    table = Table("id", "received", "series", "slices", "state", "stage", "left", "reason")
    for row in rows:
        received = time.strftime("%m-%d %H:%M", time.localtime(row.received_at))
        table.add_row(
            str(row.id), received, _plain(row.description), str(row.instances), row.state,
            f"{row.stage} {row.progress:.0%}" if row.stage else "", _left(row), _plain(row.reason),
        )  # fmt: skip
    _out.print(table)


def _plain(text: str) -> Text:
    """Return words from outside as they are: no markup, and nothing that moves the cursor."""
    return Text("".join(c if c.isprintable() else " " for c in text))


def _left(row: SeriesOverview) -> str:
    if row.time_left is None:
        return ""
    guess = "" if row.time_left.basis == "history" else "?"
    return f"{row.time_left.seconds:.0f} s{guess}"


@_command
def resolve(
    in_dir: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="DICOM in")],
    out_dir: Annotated[Path, typer.Argument(file_okay=False, help="DICOM out")],
    recipe: Annotated[Recipe | None, typer.Option(help="native or mni")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="for programs")] = False,
) -> None:
    """Super-resolve a folder of DICOM series into another, with no server at all."""
    from mrisr_node.jobs.resolve import resolve_folder

    settings = load_settings(**({"recipe": recipe} if recipe else {}))
    numbers: dict[str, int] = {}
    with _progress() as bar:
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
            _out.print(f"{result.series_instance_uid} {result.state}{where}{took}", markup=False)
        if not results:
            _err.print("no DICOM series found")
    done = any(r.state == "done" for r in results)
    raise typer.Exit(0 if done and all(r.state != "failed" for r in results) else 1)


@_command
def train(
    config: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="TOML file")],
    run: Annotated[Path, typer.Option(help="folder of the run")],
    resume: Annotated[bool, typer.Option(help="go on from the folder's state")] = False,
    export_to: Annotated[
        Path | None, typer.Option("--export", help="write a checkpoint folder when done")
    ] = None,
) -> None:
    """Train a network."""
    from mrisr_node.superres.training import TrainingConfig, export
    from mrisr_node.superres.training import train as run_training

    _start_logging()
    parsed = TrainingConfig.load(config)
    run_training(parsed, run, resume=resume)
    if export_to is not None:
        export(parsed, run, export_to)


@_command
def evaluate(
    volumes: Annotated[list[Path], typer.Argument(exists=True, help="sharp NIfTI volumes")],
    thickness: Annotated[float, typer.Option(min=0.1, help="slice thickness in mm")],
    gap: Annotated[float, typer.Option(help="gap between slices in mm")] = 0.0,
    axis: Annotated[str, typer.Option(help="axis across the slices: x, y or z")] = "y",
    method: Annotated[list[str] | None, typer.Option(help="only these methods")] = None,
    noise: Annotated[float, typer.Option(min=0, help="Rician noise, part of the mean")] = 0.0,
    checkpoint: Annotated[Path | None, typer.Option(exists=True, file_okay=False)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="for programs")] = False,
) -> None:
    """Degrade sharp volumes, restore them by several methods, and score those."""
    from mrisr_node.superres.checkpoints import Checkpoint
    from mrisr_node.superres.evaluation import METHODS
    from mrisr_node.superres.evaluation import evaluate as run_evaluation

    methods = tuple(method or METHODS)
    unknown = sorted(set(methods) - set(METHODS))
    if unknown or axis not in ("x", "y", "z"):
        raise SettingsError(f"methods are {', '.join(METHODS)}; axes are x, y and z")
    folder = checkpoint or load_settings().checkpoint
    scores = run_evaluation(
        volumes,
        thickness_mm=thickness,
        gap_mm=gap,
        axis=axis,
        methods=methods,
        checkpoint=Checkpoint.load(folder) if "ours" in methods else None,
        noise=noise,
        progress=lambda s: _err.print(
            f"{s.subject} {s.method} {s.psnr_db:.2f} dB", markup=False, highlight=False
        ),
    )
    sys.stdout.write((json.dumps(scores.as_json()) if as_json else scores.table()) + "\n")


@_command
def doctor() -> None:
    """Tell what is missing or misconfigured, and how to mend it."""
    from mrisr_node.node.doctor import examine

    marks = {"ok": "[green]✓[/]", "warning": "[yellow]![/]", "problem": "[red]✗[/]"}
    findings = examine(load_settings())
    for finding in findings:
        _out.print(marks[finding.level], _plain(finding.what), highlight=False)
        if finding.mend:
            _out.print(f"    {finding.mend}", markup=False, highlight=False)
    raise typer.Exit(1 if any(f.level == "problem" for f in findings) else 0)


@_command
def demo(
    dicom: Annotated[Path | None, typer.Option(exists=True, help="your own series")] = None,
    exit_when_done: Annotated[bool, typer.Option("--exit", help="end once verified")] = False,
) -> None:
    """Show the main job: a scanner's series to Orthanc, its super-resolved one back, in OHIF."""
    from mrisr_node.node.demo import run

    raise typer.Exit(run(load_settings(), dicom=dicom, exit_when_done=exit_when_done))


@contextmanager
def _progress() -> Iterator[Progress]:
    columns = TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn()
    with Progress(*columns, console=_err) as bar:
        yield bar


if __name__ == "__main__":
    app()
