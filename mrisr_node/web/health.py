"""Health checks for whoever watches the node: alive, and ready to do its work.

Both answer without credentials, because load balancers have none. A stranger is told only which
check failed; what is wrong and what to do about it is for those who may sign in.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
from fastapi import APIRouter, Request
from peewee import PeeweeException
from starlette.responses import JSONResponse, Response

from mrisr_node import records
from mrisr_node.beats import STALE_SECONDS, signs
from mrisr_node.errors import CheckpointError
from mrisr_node.jobs.stages import Queue, worker_name
from mrisr_node.records import Beat
from mrisr_node.settings import Settings
from mrisr_node.superres.card import CARD, WEIGHTS, described_weights

__all__ = ["PROCESSES", "Check", "Health", "health_router"]

PROCESSES = ("receiver", "rounds", *(worker_name(queue) for queue in Queue))
"""What has to give signs of life, besides the front door itself."""

# However often it is asked: strangers may, and must not keep the disk and the PACS busy.
_KEPT_SECONDS = 2.0
_DATABASE_PATIENCE = 2.0
_PACS_PATIENCE = 5.0
_GIB = 1024**3


@dataclass(frozen=True)
class Check:
    """One thing that has to be right for the node to work."""

    ok: bool
    what: str
    """What was found."""
    mend: str = ""
    """What to do about it."""


class Health:
    """Looks at what the node needs; a report is kept for a moment.

    Parameters
    ----------
    settings
        Of the node.
    kept
        Seconds for which a report is given again.
    """

    def __init__(self, settings: Settings, kept: float = _KEPT_SECONDS) -> None:
        self._settings = settings
        self._kept = kept
        self._lock = threading.Lock()
        self._report: dict[str, Check] = {}
        self._made_at = float("-inf")
        self._checkpoints: dict[Path, tuple[object, Check]] = {}

    def report(self) -> dict[str, Check]:
        """Return every check by its name; one caller looks, the others wait for what it finds."""
        with self._lock:
            if time.monotonic() - self._made_at > self._kept:
                checks: dict[str, Callable[[], Check]] = {
                    "database": self._database,
                    "disk": self._disk,
                    "orthanc": self._orthanc,
                    "workers": self._workers,
                    "checkpoint": self._checkpoint,
                }
                self._report = {name: check() for name, check in checks.items()}
                self._made_at = time.monotonic()
            return self._report

    def _database(self) -> Check:
        try:
            _write_and_take_back()
        except PeeweeException as error:
            return Check(
                False,
                f"{self._settings.database_path.name} cannot be written: {error}",
                "look who holds it (`fuser`), for room on the disk, and for the owner of the file;"
                " nothing is lost meanwhile: instances are refused until it can be written",
            )
        return Check(True, "the records can be written")

    def _disk(self) -> Check:
        least = self._settings.minimum_free_bytes
        try:
            free = shutil.disk_usage(self._settings.data_dir).free
        except OSError as error:
            return Check(False, f"data_dir: {error.strerror}", "is its file system mounted?")
        text = f"{free / _GIB:.1f} GiB free, watermark {least / _GIB:.1f} GiB"
        if free < least:
            return Check(
                False,
                f"{text}: C-STORE is refused with 0xA700",
                "make room in data_dir, or lower minimum_free_bytes; what was refused is asked for"
                " again by itself",
            )
        return Check(True, text)

    def _orthanc(self) -> Check:
        settings = self._settings
        auth = (settings.orthanc_username, settings.pacs_password())
        mend = "see logs/orthanc.log; `mrisr-node up` starts its own Orthanc again by itself"
        try:
            url = f"{settings.pacs_url}/system"
            # Reading the certificates of the system takes longer than all the checks together.
            tls = url.startswith("https:")
            answer = httpx.get(url, auth=auth, timeout=_PACS_PATIENCE, trust_env=False, verify=tls)
        except httpx.HTTPError as error:
            kind = type(error).__name__
            return Check(False, f"no answer from {settings.pacs_url} ({kind})", mend)
        if answer.status_code in (401, 403):
            mend = "set orthanc_username and orthanc_password as Orthanc's RegisteredUsers say"
            return Check(False, f"{settings.pacs_url} refuses our user or password", mend)
        if answer.status_code != 200:
            return Check(False, f"{settings.pacs_url} answers {answer.status_code}", mend)
        return Check(True, f"{settings.pacs_url} answers")

    def _workers(self) -> Check:
        try:
            known = signs()
        except PeeweeException:
            return Check(False, "the records cannot be read", "see the check of the database")
        silent = []
        for kind in PROCESSES:
            seen = [sign for sign in known if sign.kind == kind]
            if not any(sign.fresh for sign in seen):
                ago = time.time() - max((sign.at for sign in seen), default=0.0)
                silent.append(
                    f"{kind} ({f'silent for {ago:.0f} s' if seen else 'not started yet'})"
                )
        if silent:
            return Check(
                False,
                f"no sign of life from {', '.join(silent)}",
                "`mrisr-node up` restarts what dies: if it runs, logs/NAME.log says why that does"
                " not help; nothing is lost, work goes on where it stopped",
            )
        return Check(True, f"all gave signs of life in the last {STALE_SECONDS:.0f} s")

    def _checkpoint(self) -> Check:
        found = [self._verified(folder) for folder in self._settings.checkpoint_folders]
        words = ", ".join(check.what for check in found)
        return next((check for check in found if not check.ok), Check(True, words))

    def _verified(self, folder: Path) -> Check:
        """Compare weights with their card, and again only once a file has changed."""
        try:
            state = [(file.stat().st_mtime_ns, file.stat().st_size)
                     for file in (folder / CARD, folder / WEIGHTS)]  # fmt: skip
        except OSError:
            state = []
        known = self._checkpoints.get(folder)
        if known and state and known[0] == state:
            return known[1]
        try:
            card, _ = described_weights(folder)
        except CheckpointError as error:
            mend = "install it again, or name another in `checkpoint`; see `checkpoint verify`"
            check = Check(False, str(error), mend)
        else:
            check = Check(True, f"{folder.name} ({card.weights_sha256[:12]})")
        self._checkpoints[folder] = (state, check)
        return check


def health_router(health: Health) -> APIRouter:
    """Return the routes ``/healthz`` and ``/readyz``."""
    router = APIRouter(include_in_schema=False)

    @router.get("/healthz")
    async def alive() -> dict[str, str]:
        return {"status": "ok"}

    @router.get("/readyz")
    def ready(request: Request) -> Response:
        report = health.report()
        good = all(check.ok for check in report.values())
        known = request.state.person is not None
        checks = {
            name: {"ok": check.ok} | ({"what": check.what, "mend": check.mend} if known else {})
            for name, check in report.items()
        }
        status = "ok" if good else "not ready"
        return JSONResponse({"status": status, "checks": checks}, 200 if good else 503)

    return router


def _write_and_take_back() -> None:
    """Write a row and roll it back, on a connection that does not wait long for a lock."""
    failed: list[PeeweeException] = []

    def write() -> None:
        try:
            with records.connection():
                patience = round(_DATABASE_PATIENCE * 1000)
                records.database.execute_sql(f"PRAGMA busy_timeout = {patience}")
                with records.database.atomic("IMMEDIATE") as change:
                    Beat.create(process="readyz", owner="", at=time.time())
                    change.rollback()
        except PeeweeException as error:
            failed.append(error)

    # Connections belong to threads: in one of its own, the short patience is nobody else's.
    thread = threading.Thread(target=write, name="readyz")
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
