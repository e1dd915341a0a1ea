"""What we promise to peers that ask for Storage Commitment: worked out, and reported to them.

A report goes out on a new association to where the settings say that the peer listens; where they
do not say, on the association of the request, if the peer waits on it. It is tried with growing
delays for as long as a result would be, and the records remember it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from peewee import PeeweeException
from pydicom.dataset import Dataset
from pydicom.filereader import read_file_meta_info
from pynetdicom import build_context, build_role
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
)

from mrisr_node import records
from mrisr_node.addresses import Listener
from mrisr_node.delays import Jitter, is_due, jitter, retry_delay
from mrisr_node.errors import DeliveryError, NodeError
from mrisr_node.intake.association import Destination, association
from mrisr_node.intake.spool import quarantine_name
from mrisr_node.intake.tls import client_context
from mrisr_node.records import CommitmentReport, CommitmentRequest, Instance, Rejection
from mrisr_node.settings import Settings

__all__ = ["CommitmentReports", "may_report_here", "report_here"]

_log = logging.getLogger(__name__)

# PS3.3 C.14.1.1
_PROCESSING_FAILURE = 0x0110
_NO_SUCH_INSTANCE = 0x0112
_CLASS_CONFLICT = 0x0119

_EVERY = 1.0
# A peer that waits for its report is still there after a second; one that does not has released.
_PEER_WAITS = 1.0
# Reports of a process that wait on their associations, a thread each.
_MOST_WAITING = 16
_WAITING = "report on commitment"
# Instances looked at while nobody else may write.
_AT_ONCE = 200
# One at a time: to read what a request names may take all of the disk.
_READING = threading.Lock()
_KEPT_DAYS = 30


class CommitmentReports:
    """Sends the reports that are due, in a thread of its own: a peer may be slow or gone."""

    def __init__(self, settings: Settings, jitter: Jitter = jitter) -> None:
        self._settings = settings
        self._jitter = jitter
        self._forgot = float("-inf")

    def run(self, stop: threading.Event) -> None:
        """Send reports until told to stop."""
        while not stop.wait(_EVERY):
            try:
                with records.connection():
                    self.round()
            except PeeweeException:
                _log.exception("reports on storage commitment could not be looked for")

    def round(self) -> None:
        """Send what is due now."""
        owed = CommitmentReport.ended_at.is_null()
        # Without what they name, which may be megabytes each.
        rows = CommitmentReport.select(CommitmentReport.id, CommitmentReport.not_before).where(
            owed,
            CommitmentReport.peer.in_(
                [*self._settings.commitment_peers, self._settings.pacs_ae_title]
            ),
        )
        for row in list(rows.order_by(CommitmentReport.id)):
            if not is_due(row.not_before, time.time()):
                continue
            report = CommitmentReport.get_or_none(CommitmentReport.id == row.id, owed)
            if report and (address := self._settings.peer_address(report.peer)):
                self._send(report, address)
        if time.monotonic() - self._forgot > 3600:
            self._forgot = time.monotonic()
            _forget(time.time() - _KEPT_DAYS * 86_400)

    def _send(self, report: CommitmentReport, address: Listener) -> None:
        peer = Destination(address.host, address.port, report.peer, self._settings.ae_title)
        # We are the SCP, though we ask for the association (PS3.4 J.3.3, PS3.7 D.3.3.4).
        role = build_role(StorageCommitmentPushModel, scp_role=True)
        timeout = self._settings.network_timeout
        offered = [build_context(StorageCommitmentPushModel)]
        try:
            tls = client_context(self._settings) if address.tls else None
            with association(peer, offered, timeout, roles=[role], tls=tls) as there:
                _report(self._settings, report, there)
        except (NodeError, RuntimeError, ValueError) as error:
            self._later(report, error)
        except Exception as error:  # noqa: BLE001
            # Whatever a peer does, the reports to others go on.
            _log.exception("a report on storage commitment failed")
            self._later(report, error)

    def _later(self, report: CommitmentReport, error: Exception) -> None:
        attempts, settings = report.attempts + 1, self._settings
        values: dict[str, Any] = {"attempts": attempts}
        if attempts >= settings.delivery_attempts:
            values |= {"ended_at": time.time(), "end": f"given up after {attempts} tries: {error}"}
            _log.error("%s does not get its report on storage commitment: %s", report.peer, error)
        else:
            delay = retry_delay(attempts, settings.delivery_first_delay, self._jitter)
            values["not_before"] = time.time() + delay
            _log.warning("%s has not got its report on storage commitment: %s; next try in %.0f s",
                         report.peer, error, delay)  # fmt: skip
        CommitmentReport.update(**values).where(
            CommitmentReport.id == report.id, CommitmentReport.ended_at.is_null()
        ).execute()


def may_report_here() -> bool:
    """Tell whether one more report may wait on its association."""
    waiting = sum(thread.name == _WAITING for thread in threading.enumerate())
    return waiting < _MOST_WAITING


def report_here(settings: Settings, there: Any, report_id: int) -> None:  # noqa: ANN401
    """Report on the association of the request, where the peer still holds it open soon after."""

    def wait_and_report() -> None:
        time.sleep(_PEER_WAITS)
        with records.connection():
            report = CommitmentReport.get_by_id(report_id)
            try:
                _report(settings, report, there)
            except (DeliveryError, RuntimeError, ValueError) as error:
                _log.warning(
                    "%s cannot get its report on storage commitment (%s): name its address in"
                    " commitment_peers", report.peer, error,
                )  # fmt: skip

    threading.Thread(target=wait_and_report, daemon=True, name=_WAITING).start()


def _report(settings: Settings, report: CommitmentReport, there: Any) -> None:  # noqa: ANN401
    """Send a report, worked out once so that a peer never gets two answers to one request.

    Raises
    ------
    DeliveryError
        The peer did not take it.
    """
    references = json.loads(report.instances)
    if report.failed is None:
        failed = _failures(settings, references)
        report.failed = json.dumps(failed)
        CommitmentReport.update(failed=report.failed).where(
            CommitmentReport.id == report.id
        ).execute()
    failed = json.loads(report.failed)
    # PS3.4 J.3.3: event 1 when all is kept, 2 when something is not.
    status, _ = there.send_n_event_report(
        _event_information(report.transaction_uid, references, failed),
        2 if failed else 1,
        StorageCommitmentPushModel,
        StorageCommitmentPushModelInstance,
    )
    if status.get("Status") is None:
        raise DeliveryError("no answer")
    if status.Status != 0x0000:
        raise DeliveryError(f"status 0x{status.Status:04X}")
    words = f"{len(references) - len(failed)} of {len(references)} instances are kept"
    CommitmentReport.update(ended_at=time.time(), end=words).where(
        CommitmentReport.id == report.id
    ).execute()
    _log.info("%s has its report on storage commitment: %s", report.peer, words)


def _failures(settings: Settings, references: list[list[str]]) -> dict[str, int]:
    """Return what we do not have, each with its reason; the rest is promised from now on."""
    failed: dict[str, int] = {}
    # Each pair once, or one large file could be asked for a thousand times.
    pairs = list(dict.fromkeys((sop_class, uid) for sop_class, uid in references))
    for start in range(0, len(pairs), _AT_ONCE):
        asked = pairs[start : start + _AT_ONCE]
        found = Instance.select().where(Instance.sop_instance_uid.in_([uid for _, uid in asked]))
        rows = {row.sop_instance_uid: row for row in found}
        # All files are read before the lock is taken: nobody should wait for that.
        with _READING:
            for sop_class, uid in asked:
                if reason := _file_failure(settings.spool_dir, rows.get(uid), sop_class):
                    failed[uid] = reason
        # What takes instances away holds the same lock, so nothing goes between look and promise.
        with records.transaction():
            for uid in rows.keys() - failed.keys():
                if reason := _record_failure(settings.spool_dir, rows[uid]):
                    failed[uid] = reason
            Instance.update(committed_at=time.time()).where(
                Instance.id.in_([rows[uid].id for uid in rows.keys() - failed.keys()]),
                Instance.committed_at.is_null(),
            ).execute()
    return failed


def _file_failure(spool: Path, row: Instance | None, sop_class: str) -> int | None:
    """Return why an instance's file cannot be promised, or None where it is as it was sent."""
    if row is None:
        return _NO_SUCH_INSTANCE
    path = spool / row.path
    try:
        if read_file_meta_info(path).MediaStorageSOPClassUID != sop_class:
            return _CLASS_CONFLICT
        with path.open("rb") as file:
            whole = hashlib.file_digest(file, "sha256").hexdigest() == row.sha256
    except FileNotFoundError:
        return _NO_SUCH_INSTANCE
    except Exception:  # noqa: BLE001 - pydicom raises anything on a damaged file
        return _PROCESSING_FAILURE
    return None if whole else _PROCESSING_FAILURE


def _record_failure(spool: Path, row: Instance) -> int | None:
    """Return why an instance cannot be promised whose file was whole; the write lock is held."""
    now = Instance.get_or_none(Instance.id == row.id, Instance.sha256 == row.sha256)
    # Once copies are deleted by retention, what comes again is held for a day only.
    if now is None or now.series.copies_deleted_at is not None or not (spool / row.path).exists():
        return _NO_SUCH_INSTANCE
    # Somebody sent something else under this UID. Who sent which cannot be told from quarantine:
    # the same bytes lie there once, whoever brought them.
    other = (Rejection.sop_instance_uid == row.sop_instance_uid) & (
        Rejection.path != quarantine_name(row.sha256)
    )
    return _PROCESSING_FAILURE if Rejection.select().where(other).exists() else None


def _event_information(
    transaction: str, references: Iterable[list[str]], failed: dict[str, int]
) -> Dataset:
    """Return what PS3.4 table J.3-2 asks for."""
    kept, missing = [], []
    for sop_class, uid in references:
        item = Dataset()
        item.ReferencedSOPClassUID = sop_class
        item.ReferencedSOPInstanceUID = uid
        if uid in failed:
            item.FailureReason = failed[uid]
            missing.append(item)
        else:
            kept.append(item)
    information = Dataset()
    information.TransactionUID = transaction
    # Each sequence only where it has items.
    if kept:
        information.ReferencedSOPSequence = kept
    if missing:
        information.FailedSOPSequence = missing
    return information


def _forget(before: float) -> None:
    """Remove what ended, or was left without an end, long ago."""
    CommitmentReport.delete().where(CommitmentReport.received_at < before).execute()
    CommitmentRequest.delete().where(CommitmentRequest.asked_at < before).execute()
