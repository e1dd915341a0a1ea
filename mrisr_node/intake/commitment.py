"""Storage Commitment, Push Model (PS3.4 J), at our door.

A peer asks by N-ACTION whether we keep what it sent: the request is noted durably, and answered by
`commitment_reports`. The PACS answers by N-EVENT-REPORT what ``results.commitment`` asked it.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from pydicom.filereader import read_file_meta_info
from pydicom.uid import UID
from pynetdicom import evt
from pynetdicom.sop_class import StorageCommitmentPushModelInstance

from mrisr_node import records
from mrisr_node.intake.commitment_reports import may_report_here, report_here
from mrisr_node.intake.screening import count_items
from mrisr_node.intake.spool import OutOfSpace, Spool
from mrisr_node.records import CommitmentReport, CommitmentRequest
from mrisr_node.settings import Settings

__all__ = ["Reference", "handlers", "on_report", "reference_of"]

_log = logging.getLogger(__name__)

Reference = tuple[str, str]
"""SOP Class UID and SOP Instance UID."""

_SUCCESS = 0x0000
_PROCESSING_FAILURE = 0x0110
_NO_SUCH_INSTANCE = 0x0112
_NO_SUCH_EVENT = 0x0113
_INVALID_VALUE = 0x0115
_NO_SUCH_ACTION = 0x0123
_NOT_AUTHORISED = 0x0124
_RESOURCE_LIMITATION = 0x0213

_REQUEST = 1  # PS3.4 J.3.2: the one Action Type
_ALL_KEPT, _SOME_NOT_KEPT = 1, 2  # PS3.4 J.3.3: Event Types
# Far more than a study has; what a request names is held in memory and in one row. Items are
# counted before anything is decoded: an empty one has eight bytes, and in pydicom two kilobytes.
_MOST_ITEMS = 20_000
_MOST_BYTES = 4 * 1024**2
# Of one peer, with no report on them yet.
_MOST_OPEN = 100


def _guarded(handler: Callable[[Any], int]) -> Callable[[Any], tuple[int, None]]:
    """Give a handler its connection to the records, and an answer whatever happens."""

    def handle(event: Any) -> tuple[int, None]:  # noqa: ANN401 - pynetdicom's event
        try:
            with records.connection():
                return handler(event), None
        except Exception:  # noqa: BLE001 - the peer must not believe that it was heard
            _log.exception("storage commitment failed")
            return _PROCESSING_FAILURE, None

    return handle


def handlers(settings: Settings, spool: Spool) -> list[Any]:
    """Return pynetdicom's event handlers for the receiver."""
    return [
        (evt.EVT_N_ACTION, _guarded(_Requests(settings, spool).take)),
        (evt.EVT_N_EVENT_REPORT, _reports_to(settings)),
    ]


def _reports_to(settings: Settings) -> Callable[[Any], tuple[int, None]]:
    """Return `on_report` for whoever calls here: the PACS, by its title or one that is named."""

    def handle(event: Any) -> tuple[int, None]:  # noqa: ANN401 - pynetdicom's event
        peer = str(event.assoc.requestor.ae_title).strip()
        if peer not in (settings.pacs_ae_title, *settings.accepted_ae_titles):
            _log.warning("a report on storage commitment from AE title %r refused: neither"
                         " pacs_ae_title nor in accepted_ae_titles", peer)  # fmt: skip
            return _PROCESSING_FAILURE, None  # PS3.7 10.1.1.1.8 has none that says it better
        return on_report(event)

    return handle


def reference_of(path: Path) -> Reference:
    """Return what a DICOM file holds."""
    meta = read_file_meta_info(path)
    return str(meta.MediaStorageSOPClassUID), str(meta.MediaStorageSOPInstanceUID)


class _Requests:
    def __init__(self, settings: Settings, spool: Spool) -> None:
        self._settings = settings
        self._spool = spool

    def take(self, event: Any) -> int:  # noqa: ANN401 - pynetdicom's event
        """Note a peer's request, so that a restart does not lose it."""
        peer = str(event.assoc.requestor.ae_title).strip()
        if peer not in self._settings.accepted_ae_titles:
            _log.warning("storage commitment asked by AE title %r refused: not in"
                         " accepted_ae_titles", peer)  # fmt: skip
            return _NOT_AUTHORISED
        if event.action_type != _REQUEST:
            return _NO_SUCH_ACTION
        if event.request.RequestedSOPInstanceUID != StorageCommitmentPushModelInstance:
            return _NO_SUCH_INSTANCE
        if _too_much(event.request.ActionInformation):
            _log.warning("a request for storage commitment from %s is too large", peer)
            return _RESOURCE_LIMITATION
        try:
            asked = event.action_information
            transaction = str(asked.TransactionUID)
            references = [_reference(item) for item in asked.ReferencedSOPSequence]
        except Exception:  # noqa: BLE001 - pydicom raises anything on a damaged dataset
            _log.warning("a request for storage commitment from %s cannot be read", peer)
            return _INVALID_VALUE
        if not references or not all(UID(u).is_valid for u in chain([transaction], *references)):
            return _INVALID_VALUE
        instances = json.dumps(sorted(references))
        if why := self._no_room(peer, transaction, len(instances)):
            _log.warning("storage commitment asked by %s refused: %s", peer, why)
            return _RESOURCE_LIMITATION
        known = self._note(peer, transaction, instances)
        if known is None:
            _log.warning("%s used one Transaction UID for two requests", peer)
            return _PROCESSING_FAILURE
        _log.info("%s asks for storage commitment of %d instances", peer, len(references))
        if self._settings.peer_address(peer) is None:
            report_here(self._settings, event.assoc, known)
        return _SUCCESS

    def _no_room(self, peer: str, transaction: str, size: int) -> str:
        """Return why a request cannot be taken now; nothing where it can."""
        others = CommitmentReport.select().where(
            CommitmentReport.peer == peer,
            CommitmentReport.transaction_uid != transaction,
            CommitmentReport.ended_at.is_null(),
        )
        if others.count() >= _MOST_OPEN:
            return f"it has not got its reports on {_MOST_OPEN} other requests"
        if self._settings.peer_address(peer) is None and not may_report_here():
            return "too many requests wait on their associations; commitment_peers names no address"
        try:
            self._spool.check_space(size)
        except OutOfSpace as error:
            return str(error)
        return ""

    def _note(self, peer: str, transaction: str, instances: str) -> int | None:
        """Return the row of a request, new or asked again, or None where it is another one."""
        with records.transaction():
            known, new = CommitmentReport.get_or_create(  # type: ignore[no-untyped-call]
                peer=peer, transaction_uid=transaction, defaults={"instances": instances}
            )
            if known.instances != instances:
                return None
            if not new:
                # Asked again: it has not got our answer, and what we have may be another now.
                CommitmentReport.update(
                    failed=None, attempts=0, not_before=0.0, ended_at=None, end=""
                ).where(CommitmentReport.id == known.id).execute()
            return int(known.id)


@_guarded
def on_report(event: Any) -> int:  # noqa: ANN401 - pynetdicom's event
    """Note what the PACS promises to keep, and what not, of what it was asked."""
    if event.event_type not in (_ALL_KEPT, _SOME_NOT_KEPT):
        return _NO_SUCH_EVENT
    if _too_much(event.request.EventInformation):
        _log.warning("a report on storage commitment is too large")
        return _RESOURCE_LIMITATION
    try:
        told = event.event_information
        transaction = str(told.TransactionUID)
        kept = {_reference(item)[1] for item in told.get("ReferencedSOPSequence") or []}
        failed = {
            _reference(item)[1]: int(item.get("FailureReason") or _PROCESSING_FAILURE)
            for item in told.get("FailedSOPSequence") or []
        }
    except Exception:  # noqa: BLE001 - as above
        _log.warning("a report on storage commitment cannot be read")
        return _INVALID_VALUE
    with records.transaction():
        asked = CommitmentRequest.get_or_none(CommitmentRequest.transaction_uid == transaction)
        if asked is None:
            # Nobody can guess a Transaction UID of ours.
            return _NO_SUCH_INSTANCE
        for uid in json.loads(asked.instances):
            if uid not in kept:
                failed.setdefault(uid, _PROCESSING_FAILURE)
        if asked.answered_at is None:
            CommitmentRequest.update(answered_at=time.time(), failed=json.dumps(failed)).where(
                CommitmentRequest.id == asked.id
            ).execute()
    return _SUCCESS


def _too_much(encoded: BytesIO | None) -> bool:
    """Tell whether a data set, not decoded yet, would take more memory than any honest one."""
    data = encoded.getvalue() if encoded else b""
    return len(data) > _MOST_BYTES or count_items(data) > _MOST_ITEMS


def _reference(item: Dataset) -> Reference:
    return str(item.ReferencedSOPClassUID), str(item.ReferencedSOPInstanceUID)
