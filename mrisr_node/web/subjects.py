"""Whose data a request is about, for the audit trail."""

from __future__ import annotations

import json
import logging
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, replace

import httpx
from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection

from mrisr_node.records import Job, NiftiSeries, Series
from mrisr_node.settings import Settings

__all__ = ["PatientIds", "Subject", "concerns", "concerns_each", "series_of", "subject_of"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Subject:
    """Whose data; empty where it is nobody's, or nobody knows."""

    patient_id: str = ""
    study_uid: str = ""
    series_uid: str = ""
    username: str = ""
    """Of whoever signs in, before the guard knows them."""
    query: str = ""
    """What is searched for, where it stands in the body."""


def concerns(request: HTTPConnection, **facts: str) -> None:
    """Tell the audit trail whose data a request is about, as far as its address does not."""
    subject = getattr(request.state, "subject", Subject())
    request.state.subject = replace(subject, **facts)


def concerns_each(request: HTTPConnection, subjects: Iterable[Subject]) -> None:
    """Tell the audit trail of several whose data a request is about: each gets a row."""
    request.state.subjects = list(dict.fromkeys(subjects))


def series_of(parameters: dict[str, object]) -> Subject:
    """Return whose data a route's ``series_id`` or ``job_id`` stands for."""
    series = Series.select()
    try:
        if "series_id" in parameters:
            found = series.where(Series.id == int(str(parameters["series_id"]))).first()
        elif "job_id" in parameters:
            jobs = series.join(Job)
            found = jobs.where(Job.id == int(str(parameters["job_id"]))).first()
        else:
            return Subject()
    except (ValueError, OverflowError):
        return Subject()
    return Subject() if found is None else subject_of(found)


def subject_of(series: Series) -> Subject:
    """Return whose data a series is; of a file, whose it was said to be."""
    patient = _patient(series)
    if not patient and series.format == "nifti":
        file = NiftiSeries.get_or_none(NiftiSeries.series == series)
        patient = json.loads(file.study)["PatientID"] if file is not None and file.study else ""
    return Subject(
        patient_id=patient,
        study_uid=series.study_instance_uid,
        series_uid=series.series_instance_uid,
    )


def _patient(series: Series | None) -> str:
    return (series.patient_id if series else None) or ""


def _received(study_uid: str) -> str:
    """Return the Patient ID of a study of which the node has received a series."""
    return _patient(Series.select().where(Series.study_instance_uid == study_uid).first())


class PatientIds:
    """Whose study a study is, as the records or else the PACS have it; asked once for each."""

    _MOST = 10_000

    def __init__(self, settings: Settings) -> None:
        self._url = f"{settings.pacs_url}/dicom-web/studies"
        self._known: OrderedDict[str, str] = OrderedDict()

    async def of(self, study_uid: str, pacs: httpx.AsyncClient) -> str:
        """Return the Patient ID of a study; empty where the PACS does not know or answer."""
        if study_uid in self._known:
            return self._known[study_uid]
        patient = await run_in_threadpool(_received, study_uid) or await self._asked(
            study_uid, pacs
        )
        # A study that is not there yet may come.
        if patient:
            self._known[study_uid] = patient
            if len(self._known) > self._MOST:
                self._known.popitem(last=False)
        return patient

    async def _asked(self, study_uid: str, pacs: httpx.AsyncClient) -> str:
        query = f"StudyInstanceUID={study_uid}&includefield=00100020"
        url = httpx.URL(self._url).copy_with(query=query.encode())
        try:
            answer = await pacs.get(url, headers={"Accept": "application/dicom+json"}, timeout=10)
            studies = json.loads(answer.content) if answer.status_code == 200 else []
            return str(studies[0]["00100020"]["Value"][0]) if studies else ""
        except (httpx.HTTPError, ValueError, LookupError, TypeError) as error:
            _log.warning("the PACS did not tell whose study it is: %s", type(error).__name__)
            return ""
