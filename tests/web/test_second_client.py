"""The gateway used by another client than the one that it grew up with: dicomtrolley."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import requests
from dicomtrolley.core import QueryLevels
from dicomtrolley.qido_rs import HierarchicalQuery, QidoRS, RelationalQuery
from dicomtrolley.trolley import Trolley
from dicomtrolley.wado_rs import WadoRS, WadoRSMetaData
from web_door import Door
from web_samples import SampleStudy


@pytest.fixture
def session(door: Door) -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.trust_env = False
        session.headers["Authorization"] = f"Bearer {door.token}"
        yield session


@pytest.fixture
def url(door: Door) -> str:
    return f"{door.url}/dicom-web"


@pytest.fixture
def trolley(session: requests.Session, url: str) -> Trolley:
    return Trolley(downloader=WadoRS(session, url), searcher=QidoRS(session, url))


def of_study(study: SampleStudy) -> RelationalQuery:
    return RelationalQuery(StudyInstanceUID=study.study, query_level=QueryLevels.INSTANCE)


def test_search_at_every_level(trolley: Trolley, study: SampleStudy):
    query = HierarchicalQuery(PatientName="*olin*", include_fields=["StudyDescription"])
    found = {one.uid: one for one in trolley.find_studies(query)}
    assert found[study.study].data.StudyDescription == "Head"
    [one] = trolley.find_studies(of_study(study))
    assert {series.uid: len(series.instances) for series in one.series} == {
        study.source_uid: 24,
        study.result_uid: 120,
    }
    page = RelationalQuery(StudyInstanceUID=study.study, query_level=QueryLevels.INSTANCE, limit=3)
    assert sum(len(s.instances) for one in trolley.find_studies(page) for s in one.series) == 3
    assert trolley.find_studies(HierarchicalQuery(PatientID="nobody")) == []


def test_download(trolley: Trolley, study: SampleStudy):
    [one] = trolley.find_studies(of_study(study))
    got = {image.SOPInstanceUID: image for image in trolley.fetch_all_datasets([one])}
    assert got == {image.SOPInstanceUID: image for image in study.instances}


def test_metadata_with_bulk_data(session, url, study: SampleStudy):
    image = study.source[0]
    trolley = Trolley(downloader=WadoRSMetaData(session, url), searcher=QidoRS(session, url))
    [one] = trolley.find_studies(of_study(study))
    heads = {head.SOPInstanceUID: head for head in trolley.fetch_all_datasets([one])}
    assert len(heads) == 144
    assert heads[image.SOPInstanceUID].ImagePositionPatient == image.ImagePositionPatient


def test_what_it_is_refused(url, door: Door):
    with requests.Session() as stranger:
        stranger.trust_env = False
        with pytest.raises(Exception, match="401"):
            QidoRS(stranger, url).find_studies(HierarchicalQuery(PatientID="x"))
