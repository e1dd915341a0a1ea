"""The PACS's promise to keep a result: Storage Commitment, Push Model (PS3.4 J), as SCU.

Its answer comes on the same association, or later to our receiver; `intake.commitment` notes it
either way, and here it is looked for.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from pynetdicom import build_context, evt
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
)

from mrisr_node.choices import StorageCommitment
from mrisr_node.errors import DeliveryError, NotYet
from mrisr_node.intake.association import association
from mrisr_node.intake.commitment import Reference, on_report
from mrisr_node.intake.tls import client_context
from mrisr_node.records import CommitmentRequest
from mrisr_node.results.delivery import Pacs
from mrisr_node.settings import Settings

__all__ = ["require_promise"]

_log = logging.getLogger(__name__)

_REQUEST = 1  # PS3.4 J.3.2: the one Action Type
# How long the association is held open for the answer; most answer within a second, elsewhere.
_HOLD = 10.0
_LOOK_EVERY = 0.1
_FIRST_DELAY, _LONGEST_DELAY = 5.0, 300.0
# No such SOP class, class not supported, no such action, not authorised, unrecognised operation
# (PS3.7 C): what it will say again. Others, such as a processing failure, are of the moment.
_NOT_OFFERED = frozenset({0x0118, 0x0122, 0x0123, 0x0124, 0x0211})

Note = Callable[[Mapping[str, Any]], None]


def require_promise(
    settings: Settings, references: Sequence[Reference], noted: Mapping[str, Any], note: Note
) -> None:
    """Have the PACS promise to keep a result; call it again where it says `NotYet`.

    Parameters
    ----------
    noted, note
        What an earlier call kept, and how to keep something: `asking_since` while the PACS cannot
        be asked, `transaction_uid` while its answer is waited for, `committed_at` once it is
        promised, else the `remark` why it is not.

    Raises
    ------
    NotYet
        The PACS has not answered, or cannot be asked now.
    DeliveryError
        It does not keep all of it; or it has to (`storage_commitment`) and does not offer to, or
        does not answer.
    """
    wanted = settings.storage_commitment
    if wanted is StorageCommitment.OFF or "committed_at" in noted or "remark" in noted:
        return
    request = CommitmentRequest.get_or_none(
        CommitmentRequest.transaction_uid == noted.get("transaction_uid", "")
    )
    try:
        if request is None:
            request = _asked(settings, references, noted, note)
            note({"transaction_uid": request.transaction_uid})
        elif request.answered_at is None and _waited(request) > settings.commitment_wait:
            raise _NoPromise(f"no answer in {settings.commitment_wait:.0f} s (commitment_wait)")
    except _NoPromise as error:
        if wanted is StorageCommitment.ON:
            note({})
            raise DeliveryError(f"no storage commitment by the PACS: {error}") from error
        _log.info("no storage commitment by the PACS: %s", error)
        note({"remark": str(error)})
        return
    if request.answered_at is None:
        raise NotYet(
            "the PACS has not answered yet whether it keeps the result", _delay(_waited(request))
        )
    if failed := json.loads(request.failed):
        note({})
        reason = next(iter(failed.values()))
        raise DeliveryError(
            f"the PACS does not commit to {len(failed)} of {len(references)} instances,"
            f" first with 0x{reason:04X}"
        )
    note({"transaction_uid": request.transaction_uid, "committed_at": request.answered_at})


class _NoPromise(Exception):
    """The PACS does not offer to promise, or says nothing."""


class _Unreachable(Exception):
    """It could not be asked: that says nothing about what it offers."""


def _asked(
    settings: Settings, references: Sequence[Reference], noted: Mapping[str, Any], note: Note
) -> CommitmentRequest:
    """Ask the PACS; where it cannot be reached, as often as `commitment_wait` allows."""
    since = float(noted.get("asking_since", time.time()))
    try:
        return _ask(settings, references)
    except _Unreachable as error:
        waited = max(0.0, time.time() - since)
        if waited > settings.commitment_wait:
            limit = f"in {settings.commitment_wait:.0f} s (commitment_wait)"
            raise _NoPromise(f"it could not be asked {limit}: {error}") from error
        note({"asking_since": since})
        raise NotYet(
            f"the PACS cannot be asked to keep the result ({error})", _delay(waited)
        ) from error


def _ask(settings: Settings, references: Sequence[Reference]) -> CommitmentRequest:
    information = Dataset()
    information.TransactionUID = generate_uid()
    information.ReferencedSOPSequence = []
    for sop_class, uid in references:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, uid
        information.ReferencedSOPSequence.append(item)
    # Noted before it is asked: the answer may be quicker than the response.
    request = CommitmentRequest.create(
        transaction_uid=str(information.TransactionUID),
        instances=json.dumps([uid for _, uid in references]),
    )
    offered = [build_context(StorageCommitmentPushModel)]
    where, timeout = Pacs(settings).destination, settings.network_timeout
    here = _ReportHere()
    try:
        tls = client_context(settings) if settings.pacs_tls else None
        with association(where, offered, timeout, handlers=here.handlers, tls=tls) as peer:
            status, _ = peer.send_n_action(
                information,
                _REQUEST,
                StorageCommitmentPushModel,
                StorageCommitmentPushModelInstance,
            )
            if status.get("Status") != 0x0000:
                code = f"status 0x{status.Status:04X}" if "Status" in status else "no answer"
                kind = _NoPromise if status.get("Status") in _NOT_OFFERED else _Unreachable
                raise kind(f"N-ACTION to {where}: {code}")
            ends = time.monotonic() + _HOLD
            while peer.is_established and time.monotonic() < ends:
                request = CommitmentRequest.get_by_id(request.id)
                # Elsewhere, or here, where the peer has to get our response before a release.
                if here.ended.is_set() or (
                    request.answered_at is not None and not here.begun.is_set()
                ):
                    break
                time.sleep(_LOOK_EVERY)
    except (_NoPromise, _Unreachable):
        _forget(request)
        raise
    except DeliveryError as error:
        _forget(request)
        if here.accepted.is_set():  # the association, but not what it was for
            raise _NoPromise(f"not offered ({error})") from error
        raise _Unreachable(str(error)) from error
    except (RuntimeError, ValueError) as error:
        _forget(request)
        raise _Unreachable(f"N-ACTION to {where}: the association ended") from error
    return CommitmentRequest.get_by_id(request.id)


def _forget(request: CommitmentRequest) -> None:
    """Keep no request that the PACS does not know of; if it does, it is asked anew."""
    CommitmentRequest.delete().where(CommitmentRequest.id == request.id).execute()


class _ReportHere:
    """Tells whether the PACS reports on the association of the request, and has our response."""

    def __init__(self) -> None:
        self.accepted, self.begun, self.ended = (threading.Event() for _ in range(3))
        self.handlers = [
            (evt.EVT_ACCEPTED, lambda _: self.accepted.set()),
            (evt.EVT_N_EVENT_REPORT, self._on_report),
            (evt.EVT_PDU_SENT, self._on_sent),
        ]

    def _on_report(self, event: Any) -> tuple[int, None]:  # noqa: ANN401 - pynetdicom's event
        self.begun.set()
        return on_report(event)

    def _on_sent(self, _: Any) -> None:  # noqa: ANN401 - pynetdicom's event
        if self.begun.is_set():
            self.ended.set()


def _delay(waited: float) -> float:
    return min(max(_FIRST_DELAY, waited), _LONGEST_DELAY)


def _waited(request: CommitmentRequest) -> float:
    return max(0.0, time.time() - request.asked_at)
