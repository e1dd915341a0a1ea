"""DICOM folder in, DICOM folder out: the queues' stages without queues, records or PACS."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.errors import InvalidDicomError

from mrisr_node.errors import NodeError, NotEligible
from mrisr_node.jobs.pipeline import Workspace, outcome, run_stage
from mrisr_node.jobs.stages import Stage, stages_of
from mrisr_node.settings import Settings

__all__ = ["Resolved", "find_series", "resolve_folder"]

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


def find_series(folder: Path) -> dict[str, list[Path]]:
    """Return the DICOM files below a folder by their SeriesInstanceUID; others are passed over."""
    found: dict[str, list[Path]] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        try:
            header = dcmread(path, stop_before_pixels=True, specific_tags=["SeriesInstanceUID"])
        except (InvalidDicomError, OSError):
            continue
        uid = str(header.get("SeriesInstanceUID") or "")
        if uid:
            found.setdefault(uid, []).append(path)
    return found


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
        # Beside the target, so that the finished folder can be renamed into place.
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".mrisr-", dir=target) as work:
            place = target / f"series-{number:03d}"
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
        if stage in (Stage.STORE, Stage.CONFIRM):
            continue
        report(uid, stage, 0.0)
        workspace = Workspace(
            folder=work,
            sources=paths,
            settings=settings,
            recipe=settings.recipe,
            progress=lambda part, stage=stage: report(uid, stage, part),  # type: ignore[misc]
        )
        started = time.monotonic()
        try:
            run_stage(stage, workspace)
        except NotEligible as error:
            return Resolved(uid, "skipped", str(error))
        except NodeError as error:
            return Resolved(uid, "failed", f"{stage.value}: {error}")
        seconds[stage.value] = round(time.monotonic() - started, 2)
        report(uid, stage, 1.0)
    if place.exists():
        return Resolved(uid, "failed", f"{place.name} exists already in the target folder")
    workspace.result_dir.rename(place)
    return Resolved(uid, "done", "", place, seconds, outcome(workspace))
