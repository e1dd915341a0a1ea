"""The command that makes pairs of high and low resolution for research."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from mrisr_node.cli.console import command, err, out, plain

if TYPE_CHECKING:
    from mrisr_node.pairs.run import Outcome
    from mrisr_node.pairs.standing import Standing


@command
def pairs(
    inputs: Annotated[
        list[Path],
        typer.Argument(metavar="IN...", exists=True, help="NIfTI files, or folders of DICOM"),
    ],
    target: Annotated[Path, typer.Option("--out", file_okay=False, help="folder of the dataset")],
    slices: Annotated[
        list[str] | None,
        typer.Option(
            help="thickness/gap in mm, again for each; by default 3/0, 4/0.4, 5/0.5 and 5/1"
        ),
    ] = None,
    axis: Annotated[str, typer.Option(help="axis across the slices: x, y or z")] = "z",
    profile: Annotated[str, typer.Option(help="slice profile: gaussian or sinc")] = "gaussian",
    register: Annotated[
        bool, typer.Option("--register/--native", help="to MNI space, or as it was scanned")
    ] = True,
    contrast: Annotated[
        str | None, typer.Option(help="of scans that do not tell: T1w, T2w, FLAIR or PDw")
    ] = None,
    licence: Annotated[
        str | None, typer.Option("--license", help="of the dataset, such as CC0")
    ] = None,
    archive: Annotated[bool, typer.Option("--zip", help="one ZIP beside the folder, too")] = False,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="most scans at once; memory may allow fewer")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="for programs")] = False,
) -> None:
    """Make pairs of high-resolution brains and simulated thick slices, as a BIDS dataset."""
    from mrisr_node.errors import SettingsError
    from mrisr_node.pairs.options import TABLE, PairOptions, Slices
    from mrisr_node.pairs.run import make_pairs
    from mrisr_node.volumes.degradation import SliceProfile

    if profile not in list(SliceProfile):
        raise SettingsError(f"profile: {profile!r} is none of {', '.join(SliceProfile)}")
    options = PairOptions(
        slices=tuple(Slices.parse(text) for text in slices) if slices else TABLE,
        axis=axis,
        profile=SliceProfile(profile),
        register=register,
        contrast=contrast,
    )
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
    )
    with Progress(*columns, console=err) as bars:
        outcomes = make_pairs(
            inputs,
            target,
            options,
            jobs=jobs,
            licence=licence,
            archive=archive,
            watch=_Bars(bars).show,
            ended=lambda outcome: err.print(
                _line(outcome), markup=False, highlight=False, soft_wrap=True
            ),
        )
    if as_json:
        sys.stdout.write(json.dumps([asdict(o) for o in outcomes], default=str) + "\n")
    elif outcomes:
        made = sum(outcome.state in ("done", "there") for outcome in outcomes)
        out.print(f"{made} of {len(outcomes)} scans are in {target}", markup=False)
    else:
        err.print("no NIfTI file and no DICOM series found")
    there = any(outcome.state in ("done", "there") for outcome in outcomes)
    raise typer.Exit(0 if there and all(o.state != "failed" for o in outcomes) else 1)


def _line(outcome: Outcome) -> str:
    source = plain(str(outcome.source)).plain
    match outcome.state:
        case "done":
            seconds = sum(outcome.seconds.values())
            words = f"sub-{outcome.subject}, {seconds:.0f} s, {outcome.peak_mib} MiB"
        case "there":
            words = f"sub-{outcome.subject}, made before"
        case state:
            words = f"{state}: {plain(outcome.reason).plain}"
    return f"{source}: {words}"


class _Bars:
    """A bar for everything, and one for each scan that is worked on."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._whole = bars.add_task("reading", total=None, left="")
        self._scans: dict[int, TaskID] = {}

    def show(self, standing: Standing) -> None:
        """Show how far everything has come."""
        self._bars.update(
            self._whole,
            description=f"{standing.ended} of {standing.total} scans{_at_once(standing)}",
            total=1.0,
            completed=standing.part,
            left=_left(standing),
        )
        running = {scan.number: scan for scan in standing.running}
        for number in self._scans.keys() - running:
            self._bars.remove_task(self._scans.pop(number))
        for number, scan in running.items():
            if number not in self._scans:
                self._scans[number] = self._bars.add_task("", left="")
            # Of a stage that does not tell how far it is, the bar moves to and fro.
            self._bars.update(
                self._scans[number],
                description=f"scan {number}: {scan.stage}",
                total=1.0 if scan.part else None,
                completed=scan.part,
            )


def _at_once(standing: Standing) -> str:
    """Say how many there are and, since it bounds them, how much memory each may need."""
    if not standing.running:
        return ""
    return f", {len(standing.running)} at once, {standing.each_bytes / 2**30:.1f} GiB each"


def _left(standing: Standing) -> str:
    if standing.ended == standing.total:
        return ""
    if standing.seconds_left is None:
        return "time left unknown until the first is done"
    minutes = standing.seconds_left / 60
    return f"about {minutes:.0f} min left" if minutes >= 1 else "less than a minute left"
