"""DICOM folder in, DICOM folder out: the queues' stages without queues, records or PACS."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mrisr_node.errors import NodeError, NotEligible
from mrisr_node.jobs.pipeline import outcome, run_stage
from mrisr_node.jobs.stages import SENDING, Stage, stages_of
from mrisr_node.jobs.workspace import Workspace
from mrisr_node.settings import Settings
from mrisr_node.volumes.folders import find_series

__all__ = ["Resolved", "resolve_folder"]

_log = logging.getLogger(__name__)

Report = Callable[[str, Stage, float], None]


@dataclass(frozen=True)
class Resolved:
    """What became of one series of a folder."""

    series_instance_uid: str
    state: str
    """``done``, ``skipped`` or ``failed``."""
    reason: str = ""
    folder: Path | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    outcome: dict[str, Any] = field(default_factory=dict)


def resolve_folder(
    source: Path, target: Path, settings: Settings, report: Report = lambda *_: None
) -> list[Resolved]:
    """Super-resolve every suitable series of a folder.

    Parameters
    ----------
    source
        Searched for DICOM files, sub-folders too.
    target
        Gets a folder ``series-001`` and on, for each series that was processed.
    report
        Told series UID, stage and the part of it that is done.
    """
    results = []
    for number, (uid, paths) in enumerate(find_series(source).items(), start=1):
        place = target / f"series-{number:03d}"
        if place.exists():  # asked before minutes of work are done for nothing
            reason = f"{place.name} exists already in the target folder"
            results.append(Resolved(uid, "failed", reason))
            continue
        # Beside the target, so that the finished folder can be renamed into place.
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".mrisr-", dir=target) as work:
            results.append(_resolve(uid, tuple(paths), Path(work), place, settings, report))
    return results


def _resolve(
    uid: str,
    paths: tuple[Path, ...],
    work: Path,
    place: Path,
    settings: Settings,
    report: Report,
) -> Resolved:
    seconds: dict[str, float] = {}
    for stage in stages_of(settings.recipe):
        if stage in SENDING:
            continue
        report(uid, stage, 0.0)
        workspace = Workspace(
            folder=work,
            sources=paths,
            settings=settings,
            recipe=settings.recipe,
            seconds=dict(seconds),
            progress=lambda part, stage=stage: report(uid, stage, part),  # type: ignore[misc]
        )
        started = time.monotonic()
        try:
            run_stage(stage, workspace)
        except NotEligible as error:
            return Resolved(uid, "skipped", str(error))
        except NodeError as error:
            return Resolved(uid, "failed", f"{stage.value}: {error}")
        except Exception as error:  # noqa: BLE001 - one bad series must not end the others
            _log.debug("series failed in %s", stage.value, exc_info=True)
            words = f"{type(error).__name__}: {error}"[:300]
            return Resolved(uid, "failed", f"{stage.value}: {words}")
        seconds[stage.value] = round(time.monotonic() - started, 2)
        report(uid, stage, 1.0)
    _place(workspace, place)
    return Resolved(uid, "done", "", place, seconds, outcome(workspace))


def _place(workspace: Workspace, place: Path) -> None:
    """Give a finished result its name in one step, whole."""
    match workspace.stacks():
        case [only]:
            only.result_dir.rename(place)
        case several:
            whole = workspace.folder / "whole"
            whole.mkdir()
            for stack in several:
                stack.result_dir.rename(whole / stack.folder.name)
            whole.rename(place)
