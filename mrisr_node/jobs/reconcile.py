"""What the PACS has and the node never got: asked for again.

Orthanc's script forwards a series when it becomes stable. That event is lost when Orthanc restarts
before it, and the forwarding is lost when the receiver is down. So Orthanc's series are compared
with the records now and then, through its REST API (`/series`, `/modalities/{name}/store`).

The rounds, which make the comparison, have more to do: a PACS that is slow, or silent, costs them
seconds each time, and no more.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import requests
from peewee import PeeweeException

from mrisr_node import records
from mrisr_node.delays import LONGEST_DELAY, is_due
from mrisr_node.identity import MANUFACTURER_MODEL_NAME
from mrisr_node.intake.selection import unsuitable_kind
from mrisr_node.records import Failure, Instance, Job, RefusalReport, ResultSeries, Series, State
from mrisr_node.results.bounded_http import BoundedSession
from mrisr_node.settings import Settings

__all__ = ["MODALITY", "Reconciler", "is_result"]

_log = logging.getLogger(__name__)

MODALITY = "mrisr"
"""How Orthanc's configuration names our receiver."""
# After so many vain requests the series is shown as failed; it is still asked for.
_PATIENCE = 3
# Seconds that one request may take, and those after which a round makes no further one.
_REQUEST, _ROUND = 10.0, 5.0
# Series asked for in one request: Orthanc lists them with all their instances.
_PAGE = 100
_NO_ANSWER = (requests.ConnectionError, requests.Timeout)
# No answer, one of refusal, or one of another shape than the standard's and Orthanc's.
_ODD_ANSWER = (
    requests.RequestException,
    OSError,
    ArithmeticError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
)
_MOST = 2**31
"""Instances of a series; more is no answer."""


class Reconciler:
    """Compares Orthanc's series with the records and has the missing ones sent.

    Parameters
    ----------
    compared_at
        What `compared_at` was when the node last ran.
    """

    def __init__(
        self,
        settings: Settings,
        clock: Callable[[], float] = time.time,
        compared_at: float | None = None,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._http = BoundedSession(connect=_REQUEST, total=_REQUEST)
        self._http.auth = (settings.orthanc_username, settings.pacs_password())
        # Proxies of the environment are for the internet, not for the PACS.
        self._http.trust_env = False
        self._asked: dict[str, tuple[int, float]] = {}
        self._spent = 0.0
        self._next, self._began, self._whole = 0, 0.0, True
        self.compared_at = compared_at
        """When a sweep began that found nothing missing but what was asked for in vain."""

    def close(self) -> None:
        """Close the connections to the PACS."""
        self._http.close()

    def begin_round(self) -> None:
        """Have the PACS asked again, though it was slow in the last round."""
        self._spent = 0.0

    def expected_instances(self, study: str, series: str) -> int | None:
        """Return how many instances of a series the PACS shows (QIDO-RS), or None if unknown."""
        if self._spent >= _ROUND:
            return None
        try:
            found = self._get(
                f"/dicom-web/studies/{study}/series",
                {"SeriesInstanceUID": series, "includefield": "00201209"},
            )
            count = int(found[0]["00201209"]["Value"][0]) if found else None
        except _ODD_ANSWER:
            return None
        return count if count is not None and 0 <= count < _MOST else None

    @property
    def under_way(self) -> bool:
        """Whether a sweep has begun that has not come to its end."""
        return self._next > 0

    def sweep(self) -> int:
        """Have every stable series sent that the node should have and has not.

        One call looks at a page of them at most, and the next one goes on there.

        Returns
        -------
        int
            How many series Orthanc was asked to send.
        """
        if not self.under_way:
            self._began, self._whole = self._clock(), True
        self._spent = 0.0
        query = {"expand": "", "since": str(self._next), "limit": str(_PAGE)}
        try:
            page = list(self._get("/series", query))
        except _ODD_ANSWER as error:
            _log.warning("the PACS cannot be compared with the records: %s", type(error).__name__)
            self._next = 0
            return 0
        asked = looked_at = 0
        for series in page:
            looked_at += 1
            try:
                asked += self._look_at(series)
            except (*_NO_ANSWER, PeeweeException) as error:
                _log.warning("a series of the PACS cannot be compared: %s", type(error).__name__)
                self._whole = False
                break
            except _ODD_ANSWER as error:
                # The next series may be in order, and this one at the next sweep.
                _log.warning("a series of the PACS cannot be compared: %s", type(error).__name__)
            if self._spent >= _ROUND:
                break
        self._next += looked_at
        if looked_at == len(page) != _PAGE:
            self._next = 0
            if self._whole:
                self.compared_at = self._began
        return asked

    def _look_at(self, found: dict[str, Any]) -> bool:
        tags = found["MainDicomTags"]
        uid, there = tags.get("SeriesInstanceUID", ""), len(found["Instances"])
        if not found.get("IsStable") or not there or is_result(uid):
            return False
        known = Series.get_or_none(Series.series_instance_uid == uid)
        awaited = known is not None and known.state == State.RECEIVING.value
        if self._old(found) and not awaited:
            return False
        if known is not None:
            here = Instance.select().where(Instance.series == known).count()
            state = State(known.state)
            if here >= there:
                return False
            still = self._clock() - known.last_instance_at
            if state is State.RECEIVING and still < 2 * self._settings.quiet_seconds:
                self._whole = False
                return False
            if here == 0 and state is State.SKIPPED:
                return False
        else:
            reason = self._unsuitable(found)
            if reason is not None:
                self._note(found, State.SKIPPED, reason)
                return False
        return self._ask(found, known is None)

    def _old(self, found: dict[str, Any]) -> bool:
        """Tell whether a series is of the archive, which connecting a node must not set off.

        What changed while the node, or the PACS, was down is not, however long that was.
        """
        changed = datetime.strptime(found["LastUpdate"], "%Y%m%dT%H%M%S").replace(tzinfo=UTC)
        now = self._clock()
        compared = now if self.compared_at is None else min(self.compared_at, now)
        return compared - changed.timestamp() > self._settings.reconcile_days * 86_400

    def _unsuitable(self, found: dict[str, Any]) -> str | None:
        """Return why a series is not worth sending, by three instances: a series may be mixed."""
        instances = found["Instances"]
        asked = instances[0], instances[len(instances) // 2], instances[-1]
        reasons = [self._unsuitable_instance(instance) for instance in dict.fromkeys(asked)]
        return reasons[0] if all(reasons) else None

    def _unsuitable_instance(self, instance: str) -> str | None:
        tags = self._get(f"/instances/{instance}/simplified-tags")
        equipment = tags.get("ContributingEquipmentSequence") or []
        if any(e.get("ManufacturerModelName") == MANUFACTURER_MODEL_NAME for e in equipment):
            return "a result of this node; results are never processed again"
        return unsuitable_kind(
            str(tags.get("SOPClassUID", "")),
            str(tags.get("Modality", "")),
            str(tags.get("ImageType", "")).split("\\"),
        )

    def _note(self, found: dict[str, Any], state: State, reason: str) -> None:
        """Show a series that is in the PACS alone, with the reason."""
        parent = self._get(f"/studies/{found['ParentStudy']}")
        study, patient = parent["MainDicomTags"], parent.get("PatientMainDicomTags", {})
        tags = found["MainDicomTags"]
        with records.transaction():
            series = Series.create(
                series_instance_uid=tags["SeriesInstanceUID"],
                study_instance_uid=study.get("StudyInstanceUID", ""),
                modality=tags.get("Modality", ""),
                description=tags.get("SeriesDescription", "")[:64],
                patient_id=patient.get("PatientID", "")[:64],
                patient_name=patient.get("PatientName", "")[:194],
                accession_number=study.get("AccessionNumber", "")[:64],
                study_date=study.get("StudyDate", "")[:64],
                sender=self._settings.pacs_ae_title,
                expected_instances=len(found["Instances"]),
            )
            series.move(State.COMPLETE, "in the PACS, not sent to the node")
            series.move(state, reason)
            if state is State.FAILED:
                Failure.create(series=series, stage="forwarding", kind="NothingArrived")

    def _ask(self, found: dict[str, Any], unknown: bool) -> bool:
        """Have Orthanc send a series, ever less often where that does not help."""
        orthanc_id = found["ID"]
        tries, not_before = self._asked.get(orthanc_id, (0, 0.0))
        now = self._clock()
        if tries < _PATIENCE:
            # Until it has arrived, or is shown as failed, it must not become too old to be sent.
            self._whole = False
        if not is_due(not_before, now):
            return False
        if unknown and tries == _PATIENCE:
            reason = f"the PACS was asked {tries} times to send the series, and nothing arrived"
            self._note(found, State.FAILED, f"{reason}; its log says why")
        delay = min(self._settings.reconcile_seconds * 2**tries, LONGEST_DELAY)
        self._asked[orthanc_id] = (tries + 1, now + delay)
        # Permissive: one instance of a class that is not accepted must not keep the others back.
        body = {"Resources": [orthanc_id], "Asynchronous": True, "Permissive": True}
        self._request("POST", f"/modalities/{MODALITY}/store", json=body)
        _log.info("the PACS was asked to send a series that never arrived whole")
        return True

    def _get(self, path: str, params: dict[str, str] | None = None) -> Any:  # noqa: ANN401 - JSON
        return self._request("GET", path, params=params).json()

    def _request(self, method: str, path: str, **what: Any) -> requests.Response:  # noqa: ANN401
        began = time.monotonic()
        try:
            answer = self._http.request(method, f"{self._settings.pacs_url}{path}", **what)
        finally:
            self._spent += time.monotonic() - began
        answer.raise_for_status()
        return answer


def is_result(series_instance_uid: str) -> bool:
    """Tell whether it is a series of a result: the thin slices, or what belongs to them."""
    return any(
        table.select().where(uid == series_instance_uid).exists()
        for table, uid in (
            (ResultSeries, ResultSeries.series_instance_uid),
            (RefusalReport, RefusalReport.series_instance_uid),
            (Job, Job.result_series_uid),  # all that older versions wrote down
        )
    )
