"""The whole way before one's eyes: a series goes to the PACS, a thinner one comes back."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from pydicom import dcmread
from pydicom.dataset import Dataset
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from mrisr_node.choices import Recipe
from mrisr_node.errors import NodeError, SettingsError
from mrisr_node.jobs.stages import stages_of
from mrisr_node.node.orthanc import free_port, port_is_free, storage_of
from mrisr_node.node.sample import write_sample
from mrisr_node.node.supervisor import Node, is_running, stop_on_signals
from mrisr_node.node.verification import compare_mni, compare_native, verify
from mrisr_node.people.tokens import create_token
from mrisr_node.records import Job, Series, StageRun, State
from mrisr_node.settings import Settings
from mrisr_node.volumes.folders import find_series
from mrisr_node.web.viewer import comparison_url

__all__ = ["run"]

_log = logging.getLogger(__name__)

_HEADERS = [
    "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "SeriesDescription", "Modality",
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "Rows",
    "Columns", "FrameOfReferenceUID", "PerFrameFunctionalGroupsSequence",
    "SharedFunctionalGroupsSequence",
]  # fmt: skip
# How storescu is told to propose the syntax that files are in (PS3.5 10; its manual).
_PROPOSE = {
    "1.2.840.10008.1.2.4.50": "-xy",
    "1.2.840.10008.1.2.4.51": "-xx",
    "1.2.840.10008.1.2.4.70": "-xs",
    "1.2.840.10008.1.2.4.80": "-xt",
    "1.2.840.10008.1.2.4.81": "-xu",
    "1.2.840.10008.1.2.4.90": "-xv",
    "1.2.840.10008.1.2.4.91": "-xw",
    "1.2.840.10008.1.2.5": "-xr",
}
_FILES_PER_CALL = 500
_UNSEEN_SECONDS = 60.0
"""A series that the receiver has not seen so long after sending was not forwarded."""
_STUCK_SECONDS = 1800.0
_LINE_SECONDS = 15.0
"""How often progress inside a stage is told where there is no terminal."""
_END = {State.DONE, State.SKIPPED, State.FAILED, State.CANCELLED}
_PORTS = ("receiver_port", "orthanc_http_port", "pacs_port", "web_port")


@dataclass
class _Sent:
    """A series that was sent, and what became of it."""

    study_uid: str
    series_uid: str
    description: str
    headers: list[Dataset] = field(default_factory=list)
    paths: dict[str, list[Path]] = field(default_factory=lambda: defaultdict(list))
    """Files by transfer syntax."""
    view: dict[str, Any] = field(default_factory=dict)
    """The node's own words about it (/api/series)."""
    problems: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def state(self) -> State | None:
        return State(self.view["state"]) if self.view else None

    @property
    def verified(self) -> bool:
        return self.state is State.DONE and not self.problems


def run(
    settings: Settings,
    *,
    dicom: Path | None = None,
    exit_when_done: bool = False,
    console: Console | None = None,
) -> int:
    """Run the demonstration; return the exit status.

    Parameters
    ----------
    settings
        The demo keeps its own data directory inside theirs, made afresh, and takes free ports where
        theirs are taken.
    dicom
        Folder or file to send; None sends a sample.
    exit_when_done
        End once the results are verified, with one JSON object as the last line of output.
    console
        Where to speak; None takes standard output.
    """
    console = console or Console(highlight=False, soft_wrap=True, markup=False)
    settings = _prepare(settings)
    answer: dict[str, Any] | None = None
    try:
        with stop_on_signals(), Node(settings, console.print) as node:
            sent = _send(settings, dicom, console)
            began = time.time()
            token = create_token("admin", "demo")
            _follow(settings, sent, token, console)
            _judge(settings, sent, token, console, time.time() - began)
            done = [s for s in sent if s.verified]
            if _succeeded(sent):
                answer = _answer(settings, done)
            if not exit_when_done:
                _show_links(settings, done, node, console)
                console.print("The node keeps running; Ctrl-C ends it.")
                node.wait()
    except KeyboardInterrupt:
        console.print("ended")
    if exit_when_done and answer:
        # Not through rich: the line must not be wrapped or marked up.
        print(json.dumps(answer), flush=True)
    return 0 if answer else 1


def _succeeded(sent: Sequence[_Sent]) -> bool:
    """Tell whether something came back and nothing went wrong; what is skipped may be."""
    ended_well = all(s.verified or s.state in (None, State.SKIPPED) for s in sent)
    return ended_well and any(s.verified for s in sent)


def _read_series(path: Path) -> list[_Sent]:
    """Return the series below a folder (or in one file), whatever else lies there.

    Raises
    ------
    SettingsError
        Nothing there is DICOM.
    """
    found = []
    for uid, files in find_series(path).items():
        sent = _Sent("", uid, "")
        for file in files:
            try:
                header = dcmread(file, specific_tags=_HEADERS, stop_before_pixels=True)
                study = str(header.StudyInstanceUID)
                description = str(header.get("SeriesDescription") or "")
                syntax = str(header.file_meta.get("TransferSyntaxUID", ""))
            except Exception as error:  # noqa: BLE001 - pydicom raises anything on a damaged header
                _log.debug("%s is not sent: %s", file.name, type(error).__name__)
                continue
            sent.study_uid, sent.description = study, sent.description or description
            sent.headers.append(header)
            sent.paths[syntax].append(file)
        if sent.headers:
            found.append(sent)
    if not found:
        raise SettingsError(f"there is no DICOM file in {path}")
    return found


def _prepare(settings: Settings) -> Settings:
    """Return settings for a fresh node beside the real one."""
    data_dir = settings.data_dir / "demo"
    if is_running(data_dir):
        raise SettingsError(f"another demo runs on {data_dir}")
    changes: dict[str, Any] = {"data_dir": data_dir, "orthanc_url": None, "orthanc_dir": None}
    for name in _PORTS:
        if not port_is_free(getattr(settings, name)):
            changes[name] = free_port()
    changes["accepted_ae_titles"] = {settings.pacs_ae_title, *settings.accepted_ae_titles}
    changes["accepted_ae_titles"] = tuple(sorted(changes["accepted_ae_titles"]))
    settings = settings.model_copy(update=changes)
    if data_dir.exists():
        sys.stderr.write(f"the demo before this one is deleted: {data_dir}\n")
    shutil.rmtree(storage_of(settings), ignore_errors=True)
    shutil.rmtree(data_dir, ignore_errors=True)
    return settings


def _send(settings: Settings, dicom: Path | None, console: Console) -> list[_Sent]:
    """Send series to the PACS with DCMTK, as a scanner would."""
    if dicom is None:
        sample = write_sample(settings.data_dir / "sample")
        console.print(f"Sample: {sample.head}, cut into {len(sample.paths)} slices of 5 mm")
        dicom = sample.folder
    sent = _read_series(dicom)
    storescu = _dcmtk_storescu()
    for series in sent:
        for syntax, paths in series.paths.items():
            for start in range(0, len(paths), _FILES_PER_CALL):
                batch = paths[start : start + _FILES_PER_CALL]
                command = [
                    storescu, "-R", *([_PROPOSE[syntax]] if syntax in _PROPOSE else []),
                    "-aet", "SCANNER", "-aec", settings.pacs_ae_title,
                    "127.0.0.1", str(settings.pacs_port), *map(str, batch),
                ]  # fmt: skip
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode != 0:
                    raise NodeError(f"storescu could not send: {done.stderr.strip()[-500:]}")
    instances = sum(len(s.headers) for s in sent)
    console.print(
        f"storescu sent {instances} instances in {len(sent)} series to {settings.pacs_ae_title}"
    )
    return sent


def _dcmtk_storescu() -> str:
    """Return DCMTK's ``storescu``: in a Python environment, pynetdicom's has the same name."""
    own = Path(sys.prefix, "bin").resolve()
    folders = os.get_exec_path()
    path = os.pathsep.join(f for f in folders if Path(f or ".").resolve() != own)
    found = shutil.which("storescu", path=path)
    if found is None:
        raise SettingsError("storescu is missing: install Debian's package dcmtk")
    return found


def _follow(settings: Settings, sent: list[_Sent], token: str, console: Console) -> None:
    """Show how far the series are, until each has come to its end."""
    began = changed = time.monotonic()
    by_uid = {s.series_uid: s for s in sent}
    url = f"http://127.0.0.1:{settings.web_port}/api/series?limit=500"
    with (
        _display(console) as show,
        httpx.Client(headers={"Authorization": f"Bearer {token}"}, trust_env=False) as client,
    ):
        while True:
            try:
                items = client.get(url, timeout=30).raise_for_status().json()["items"]
            except (httpx.HTTPError, ValueError):
                items = []  # the front door is being restarted
            for item in items:
                series = by_uid.get(item["series_instance_uid"])
                if series and series.view != item:
                    series.view = item
                    changed = time.monotonic()
                    show(series)
            quiet = time.monotonic() - began > _UNSEEN_SECONDS
            if all(s.state in _END or (s.state is None and quiet) for s in sent):
                return
            if time.monotonic() - changed > _STUCK_SECONDS:
                raise NodeError(f"nothing moves; see the logs in {settings.data_dir / 'logs'}")
            time.sleep(0.5)


@contextmanager
def _display(console: Console) -> Iterator[Any]:
    """Give a function that shows one series: a bar on a terminal, lines elsewhere."""
    if not console.is_terminal:
        last: dict[str, tuple[str, float]] = {}

        def line(series: _Sent) -> None:
            text = f"{series.view['state']:10} {series.view.get('stage_name') or ''}".rstrip()
            before, at = last.get(series.series_uid, ("", 0.0))
            if text != before or time.monotonic() - at > _LINE_SECONDS:
                last[series.series_uid] = (text, time.monotonic())
                share = f" {series.view['progress']:.0%}" if series.view.get("stage") else ""
                console.print(f"  {text}{share}{_in_words(series.view)}")

        yield line
        return
    # A scanner's description may look like markup.
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn(),
               TextColumn("{task.fields[left]}", markup=False))  # fmt: skip
    with Progress(*columns, console=console) as progress:
        tasks: dict[str, TaskID] = {}

        def bar(series: _Sent) -> None:
            uid, view = series.series_uid, series.view
            if uid not in tasks:
                tasks[uid] = progress.add_task("", total=1.0, left="")
            progress.update(
                tasks[uid],
                description=f"{series.description or 'series'}: "
                f"{view.get('stage_name') or view['state']}",
                completed=1.0 if series.state in _END else view.get("overall", 0.0),
                left=_in_words(view),
            )

        yield bar


def _in_words(view: dict[str, Any]) -> str:
    """Return the time left with its spread, or the reason for which there is none."""
    left = view.get("time_left")
    if not left or view.get("next_try_at"):
        return f" ({view['reason']})" if view.get("reason") else ""
    if left["seconds"] is None:
        return " (time left unknown: some stage has never run here)"
    low, likely, high = (_duration(left[key]) for key in ("low", "seconds", "high"))
    when = "once it is its turn" if view.get("waiting_for") else "left"
    return f" (about {likely} {when}, {low} to {high})"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min"


def _judge(
    settings: Settings, sent: list[_Sent], token: str, console: Console, seconds: float
) -> None:
    """Verify each result over the node's own DICOMweb, and show where the time went."""
    url = f"http://127.0.0.1:{settings.web_port}/dicom-web"
    for series in sent:
        name = series.description or series.series_uid
        if series.state is None:
            console.print(f"{name}: stays in the PACS, which forwards original MR series only")
        elif series.state is not State.DONE:
            console.print(f"{name}: {series.state}: {series.view['reason']}")
        else:
            result = series.view["result_series_uid"]
            compare = compare_native if settings.recipe is Recipe.NATIVE else compare_mni
            series.problems = verify(url, token, series.headers, result, compare)
            console.print(_stage_table(series, settings.recipe, name))
            for problem in series.problems:
                console.print(f"{name}: the result is wrong: {problem}")
            if series.verified:
                console.print(f"{name}: the result is in the PACS, in the same study, and verified")
    console.print(f"From sending to the end: {_duration(seconds)}")


def _stage_table(series: _Sent, recipe: Recipe, name: str) -> Table:
    table = Table("stage", "seconds", "peak memory", title=Text(name))
    job = (
        Job.select()
        .join(Series)
        .where(Series.series_instance_uid == series.series_uid)
        .order_by(Job.id.desc())
        .get()
    )
    runs = {r.stage: r for r in StageRun.select().where(StageRun.job == job, StageRun.finished)}
    for stage in stages_of(recipe):
        if stage.value in runs:
            run = runs[stage.value]
            series.seconds[stage.value] = round(run.seconds or 0.0, 2)
            peak = f"{run.peak_bytes / 1024**2:,.0f} MiB" if run.peak_bytes else ""
            table.add_row(stage.value, f"{run.seconds or 0.0:.1f}", peak)
    table.add_row("together", f"{sum(series.seconds.values()):.1f}", "", style="bold")
    return table


def _links(settings: Settings, series: _Sent) -> str:
    result = series.view["result_series_uid"]
    return comparison_url(settings, series.study_uid, series.series_uid, result)


def _answer(settings: Settings, done: Sequence[_Sent]) -> dict[str, Any]:
    """Return what a script wants to know; the first series stands at the top."""
    answers: list[dict[str, Any]] = [
        {
            "study": series.study_uid,
            "source_series": series.series_uid,
            "result_series": series.view["result_series_uid"],
            "stages": series.seconds,
            "viewer_url": _links(settings, series),
        }
        for series in done
    ]
    return answers[0] | ({"others": answers[1:]} if len(answers) > 1 else {})


def _show_links(settings: Settings, done: Sequence[_Sent], node: Node, console: Console) -> None:
    for series in done:
        console.print("Original and result side by side:")
        console.print(f"  {_links(settings, series)}", style="bold")
    console.print(f"All series: {settings.viewer_url}/")
    if node.admin_password:
        console.print(f"Sign in as admin with the password {node.admin_password}")
    console.print("For `mrisr-node jobs`, `mrisr-node token NAME` and the others:")
    console.print(f"  export MRISR_DATA_DIR={settings.data_dir}", soft_wrap=True, markup=False)
