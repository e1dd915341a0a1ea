"""Commands that run the node, guard its door and look after it."""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path
from typing import Annotated

import typer

from mrisr_node.cli.console import command, out, plain, start_logging
from mrisr_node.jobs.stages import Queue, worker_name
from mrisr_node.settings import Settings, load_settings

# Commands import what they need by themselves: `mrisr-node jobs` should not wait for torch.


def _service(process: str = "") -> Settings:
    """Prepare settings, log and records for a process of the node."""
    from mrisr_node.records import open_records

    settings = load_settings()
    start_logging(process, settings.log_format)
    open_records(settings.database_path)
    return settings


@command
def up() -> None:
    """Run the whole node on this machine: Orthanc, receiver, workers, front door."""
    from mrisr_node.node.supervisor import up as run
    from mrisr_node.superres.card import CARD, Card

    settings = load_settings()
    for folder in settings.checkpoint_folders:
        Card.load(folder / CARD)  # without one every series would fail
    start_logging("up", settings.log_format)
    raise typer.Exit(run(settings))


@command
def receive() -> None:
    """Run the DICOM receiver, and follow series until they are complete."""
    from mrisr_node.beats import alive
    from mrisr_node.intake.receiver import Receiver
    from mrisr_node.jobs.rounds import Rounds

    settings = _service("receiver")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    receiver = Receiver(settings)
    receiver.start()
    try:
        with alive("receiver", lambda: {"associations": receiver.associations}):
            Rounds(settings).run(stop)
    finally:
        receiver.stop()


@command
def work(queue: Annotated[Queue, typer.Argument(help="which queue to work on")]) -> None:
    """Work on one queue: cpu, gpu, delivery or pairs."""
    from mrisr_node.jobs.work import Worker

    Worker(_service(worker_name(queue))).run(queue)


@command
def serve() -> None:
    """Serve the front door: pages, API, DICOMweb gateway and viewer."""
    import uvicorn

    from mrisr_node.people.users import ensure_admin
    from mrisr_node.web.app import create_app

    settings = _service("web")
    # Where no supervisor has made the first user: in a container, say.
    if password := ensure_admin(settings):
        sys.stdout.write(f"user admin, password {password} (shown only this once)\n")
        sys.stdout.flush()
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(settings, lambda: server.should_exit),
            host=settings.web_host,
            port=settings.web_port,
            log_config=None,  # its lines go through ours
            log_level="warning",
            server_header=False,
            # A download that hangs must not hold up the end.
            timeout_graceful_shutdown=5,
        )
    )
    server.run()


@command
def doctor() -> None:
    """Tell what is missing or misconfigured, and how to mend it."""
    from mrisr_node.node.doctor import examine

    marks = {"ok": "[green]✓[/]", "warning": "[yellow]![/]", "problem": "[red]✗[/]"}
    findings = examine(load_settings())
    for finding in findings:
        out.print(marks[finding.level], plain(finding.what), highlight=False)
        if finding.mend:
            out.print(f"    {finding.mend}", markup=False, highlight=False)
    raise typer.Exit(1 if any(f.level == "problem" for f in findings) else 0)


@command
def demo(
    dicom: Annotated[Path | None, typer.Option(exists=True, help="your own series")] = None,
    exit_when_done: Annotated[bool, typer.Option("--exit", help="end once verified")] = False,
) -> None:
    """Show the main job: a scanner's series to Orthanc, its super-resolved one back, in OHIF."""
    from mrisr_node.node.demo import run

    raise typer.Exit(run(load_settings(), dicom=dicom, exit_when_done=exit_when_done))
