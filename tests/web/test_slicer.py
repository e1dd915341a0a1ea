"""What 3D Slicer asks for, call by call, through the gateway from a real Orthanc.

The calls are those of the extension DICOMwebBrowser and of Slicer's own importFromDICOMWeb, with
the arguments that they give; Slicer itself is not run.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import highdicom
import httpx
import pytest
from dicom_checks import read_by_dcm2niix
from dicomweb_client.api import DICOMwebClient
from highdicom.sr import srread
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filewriter import dcmwrite
from requests import HTTPError
from result_samples import ResultSet, write_result_set

from mrisr_node.choices import ResultKind


@pytest.fixture(scope="module")
def stored(tmp_path_factory, web_settings, orthanc) -> ResultSet:
    """A study with a whole result, in the PACS."""
    made = write_result_set(tmp_path_factory.mktemp("set"), "T1 for Slicer")
    auth = (web_settings.orthanc_username, web_settings.pacs_password())
    with httpx.Client(base_url=orthanc.url, auth=auth, trust_env=False, timeout=60) as client:
        for path in made.files:
            client.post("/instances", content=path.read_bytes()).raise_for_status()
    return made


@pytest.fixture
def browser(door, tmp_path, monkeypatch) -> Iterator[DICOMwebClient]:
    """The client of DICOMwebBrowser, which has no credentials but those of a netrc file."""
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine 127.0.0.1 login slicer password {door.token}\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    yield from _client(door, monkeypatch, headers={})


@pytest.fixture
def importer(door, monkeypatch) -> Iterator[DICOMwebClient]:
    """The client of importFromDICOMWeb with an access token."""
    monkeypatch.setenv("NETRC", os.devnull)
    yield from _client(door, monkeypatch, headers={"Authorization": f"Bearer {door.token}"})


def _client(door, monkeypatch, headers) -> Iterator[DICOMwebClient]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    client = DICOMwebClient(url=f"{door.url}/dicom-web", session=None, headers=headers)
    yield client
    client._session.close()


def test_the_browser_lists_studies_and_series(browser, stored):
    studies = []
    while found := browser.search_for_studies(offset=len(studies), fields=["StudyDescription"]):
        assert found[0] not in studies
        studies += found
    [study] = (s for s in studies if s["0020000D"]["Value"] == [stored.study.study])
    assert study["00100010"]["Value"][0]["Alphabetic"] == "Colin^27"
    assert study["00081030"]["Value"] == ["Head"]
    assert {"MR", "SEG", "SR"} <= set(study["00080061"]["Value"])
    found = browser.search_for_series(stored.study.study, fields=["SeriesNumber"])
    listed = {s.SeriesInstanceUID: s for s in map(Dataset.from_json, found)}
    for kind, written in stored.series.items():
        series = listed[written.series_instance_uid]
        first = dcmread(written.paths[0])
        for keyword in ("Modality", "SeriesNumber", "SeriesDescription"):
            assert series[keyword].value == first[keyword].value, kind
    assert len(listed) == 1 + len(stored.series)


def test_the_browser_downloads_every_series_whole(browser, stored, tmp_path):
    loaded = {}
    for series in browser.search_for_series(stored.study.study, fields=["SeriesNumber"]):
        uid = series["0020000E"]["Value"][0]
        folder = tmp_path / uid
        folder.mkdir()
        for instance in browser.search_for_instances(
            study_instance_uid=stored.study.study, series_instance_uid=uid
        ):
            name = instance["00080018"]["Value"][0]
            retrieved = browser.retrieve_instance(
                study_instance_uid=stored.study.study,
                series_instance_uid=uid,
                sop_instance_uid=name,
            )
            dcmwrite(folder / f"{name}.dcm", retrieved)
        loaded[uid] = sorted(folder.iterdir())
    _check(stored, loaded, tmp_path)


@pytest.mark.parametrize("bulk", [True, False])
def test_the_importer_imports_every_series_whole(importer, stored, tmp_path, bulk):
    loaded = {}
    for series in importer.search_for_series(study_instance_uid=stored.study.study):
        uid = series["0020000E"]["Value"][0]
        metadata = importer.retrieve_series_metadata(
            study_instance_uid=stored.study.study, series_instance_uid=uid
        )
        names = [instance["00080018"]["Value"][0] for instance in metadata]
        if bulk:
            instances = importer.iter_series(
                study_instance_uid=stored.study.study, series_instance_uid=uid
            )
        else:
            instances = (importer.retrieve_instance(stored.study.study, uid, n) for n in names)
        (tmp_path / uid).mkdir()
        loaded[uid] = []
        for number, instance in enumerate(instances):
            loaded[uid].append(tmp_path / uid / f"{number}.dcm")
            instance.save_as(loaded[uid][-1])
        assert len(loaded[uid]) == len(names)
    _check(stored, loaded, tmp_path)


def _check(stored: ResultSet, loaded: dict[str, list[Path]], folder: Path) -> None:
    """What was loaded is what was stored, and other programs read it."""
    expected: dict[str, dict[str, Dataset]] = {}
    for path in stored.files:
        dataset = dcmread(path)
        expected.setdefault(dataset.SeriesInstanceUID, {})[dataset.SOPInstanceUID] = dataset
    found = {
        uid: {d.SOPInstanceUID: d for d in map(dcmread, paths)} for uid, paths in loaded.items()
    }
    assert found == expected
    for kind, written in stored.series.items():
        paths = loaded[written.series_instance_uid]
        if kind is ResultKind.REPORT:
            groups = srread(paths[0]).content.get_image_measurement_groups()
            assert len(groups) == 2
        elif kind is ResultKind.MASK:
            mask = highdicom.seg.segread(paths[0])
            assert mask.get_segment_description(1).segment_label == "Brain"
            assert mask.pixel_array.any()
        else:
            image = read_by_dcm2niix(paths, folder / f"by-dcm2niix-{kind}")
            dataset = dcmread(paths[0])
            assert image.shape == (dataset.Columns, dataset.Rows, len(written.paths))


def test_nothing_is_removed_from_the_server(browser, stored):
    # "Remove from remote server" in the menu of the browser's series.
    with pytest.raises(HTTPError, match="405"):
        browser.delete_series(stored.study.study, stored.study.source_uid)
    assert browser.search_for_instances(stored.study.study, stored.study.source_uid)
