"""Having the node process a series that is in the PACS, because somebody asks for it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import requests

from mrisr_node import records
from mrisr_node.errors import DeliveryError
from mrisr_node.jobs.copies import forget_deleted_instances
from mrisr_node.jobs.reconcile import MODALITY, is_result
from mrisr_node.records import ACTIVE, Instance, Series, State
from mrisr_node.results.bounded_http import BoundedSession
from mrisr_node.settings import Settings

__all__ = ["Answer", "Asked", "ask_for"]

# Seconds that one request may take.
_CONNECT, _REQUEST = 5.0, 30.0
_UNDER_WAY = (State.RECEIVING, State.COMPLETE, *ACTIVE)


class Answer(StrEnum):
    """What became of asking for one series."""

    ASKED_FOR = "asked for"
    """It is on its way: from the PACS, or from the node's own copy."""
    UNDER_WAY = "under way"
    """It was on its way already."""
    PROCESSED = "processed already"
    """Nothing is done unless it is asked for again."""
    UNSUITABLE = "unsuitable"
    """It is no MR series, a result, or was made of a file."""


@dataclass(frozen=True)
class Asked:
    """One series of what was asked for."""

    series_instance_uid: str
    series_id: int | None
    """Its row, where the node knows it already."""
    answer: Answer


def ask_for(settings: Settings, study: str, series: str | None, who: str, *, again: bool
            ) -> list[Asked]:  # fmt: skip
    """Have one series of a study processed, or all of them.

    Parameters
    ----------
    study, series
        Their UIDs; without `series`, every MR series of the study that is no result.
    who
        Asks; it stands in the series' history.
    again
        Also what was processed already.

    Returns
    -------
    list of Asked
        What the PACS has of it; empty where it has nothing.

    Raises
    ------
    DeliveryError
        The PACS cannot be asked.
    """
    query = {"StudyInstanceUID": study} | ({"SeriesInstanceUID": series} if series else {})
    with BoundedSession(connect=_CONNECT, total=_REQUEST) as http:
        http.auth = (settings.orthanc_username, settings.pacs_password())
        # Proxies of the environment are for the internet, not for the PACS.
        http.trust_env = False
        try:
            found = _post(http, f"{settings.pacs_url}/tools/find",
                          {"Level": "Series", "Query": query, "Expand": True})  # fmt: skip
            missing: list[str] = []
            asked = [_look_at(one, again, missing) for one in found]
            if missing:
                # Permissive: one instance that is not accepted must not keep the others back.
                body = {"Resources": missing, "Asynchronous": True, "Permissive": True}
                _post(http, f"{settings.pacs_url}/modalities/{MODALITY}/store", body)
        except (requests.RequestException, OSError, LookupError, TypeError, ValueError) as error:
            raise DeliveryError(f"the PACS cannot be asked ({type(error).__name__})") from error
    # Only now, as a PACS that refuses must leave everything as it was. What it has sent meanwhile
    # is on the spool, and is not forgotten.
    for one in asked:
        if one.answer is Answer.ASKED_FOR and one.series_id is not None:
            _open(settings, one.series_id, who)
    return asked


def _look_at(found: dict[str, Any], again: bool, missing: list[str]) -> Asked:
    """Tell what is to become of a series of the PACS; note it where the PACS has to send it."""
    uid = str(found["MainDicomTags"]["SeriesInstanceUID"])
    if found["MainDicomTags"].get("Modality") != "MR" or is_result(uid):
        return Asked(uid, None, Answer.UNSUITABLE)
    series = Series.get_or_none(Series.series_instance_uid == uid)
    if series is None:
        missing.append(found["ID"])
        return Asked(uid, None, Answer.ASKED_FOR)
    if series.format != "dicom":
        return Asked(uid, series.id, Answer.UNSUITABLE)
    state = State(series.state)
    if state in (State.DONE, State.SKIPPED) and not again:
        return Asked(uid, series.id, Answer.PROCESSED)
    here = Instance.select().where(Instance.series == series).count()
    if here < len(found["Instances"]) or series.copies_deleted_at is not None:
        missing.append(found["ID"])
    answer = Answer.UNDER_WAY if state in _UNDER_WAY else Answer.ASKED_FOR
    return Asked(uid, series.id, answer)


def _open(settings: Settings, series_id: int, who: str) -> None:
    """Have a series received again, unless it is already."""
    with records.transaction():
        series = Series.get_by_id(series_id)
        if State(series.state) in _UNDER_WAY:
            return
        series.move(State.RECEIVING, f"asked for by {who}")
        Series.update(last_instance_at=time.time()).where(Series.id == series.id).execute()
        if series.copies_deleted_at is not None:
            forget_deleted_instances(settings, series)


def _post(http: BoundedSession, url: str, body: dict[str, Any]) -> Any:  # noqa: ANN401 - JSON
    answer = http.post(url, json=body)
    answer.raise_for_status()
    return answer.json()
