"""The gateway to a real Orthanc, used by dicomweb-client as any tool would."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
import pydicom
import pytest
import requests
from dicomweb_client.api import DICOMwebClient
from pydicom.uid import RLELossless, generate_uid
from web_samples import make_series

from mrisr_node.web.dicomweb import _READ, _STORE

UIDS = "studies/1.2/series/1.3/instances/1.4"


@pytest.fixture
def dicomweb(door) -> Iterator[DICOMwebClient]:
    with requests.Session() as session:
        session.trust_env = False
        session.headers["Authorization"] = f"Bearer {door.token}"
        yield DICOMwebClient(url=f"{door.url}/dicom-web", session=session)


def small_series() -> list[pydicom.Dataset]:
    volume = np.random.default_rng(3).integers(0, 4000, (16, 20, 3)).astype(np.float32)
    return make_series(volume, 5.0, study=generate_uid(), frame=generate_uid(), description="noise")


def test_search(dicomweb, study):
    found = dicomweb.search_for_studies(search_filters={"PatientName": "*olin*"})
    assert study.study in [one["0020000D"]["Value"][0] for one in found]
    series = dicomweb.search_for_series(study.study, fields=["SeriesDescription", "Modality"])
    assert {one["0020000E"]["Value"][0]: one["00201209"]["Value"][0] for one in series} == {
        study.source_uid: 24,
        study.result_uid: 120,
    }
    assert len(dicomweb.search_for_instances(study.study, study.source_uid)) == 24
    assert dicomweb.search_for_studies(search_filters={"PatientID": "nobody"}) == []


def test_search_for_names_of_every_kind(dicomweb):
    image = small_series()[0]
    for name in ("Müller^Jörg", "Doe & Sons^Ann", "100%^A+B"):
        image.PatientName, image.StudyInstanceUID = name, generate_uid()
        image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        image.SeriesInstanceUID = generate_uid()
        dicomweb.store_instances([image])
        found = dicomweb.search_for_studies(search_filters={"PatientName": name})
        assert [one["0020000D"]["Value"][0] for one in found] == [image.StudyInstanceUID]


def test_several_fields_in_one_parameter(door, study):
    # Encoded, as clients send it, Orthanc 1.10 would take it for one field of an odd name.
    query = "includefield=00081030%2C00201208&StudyInstanceUID=" + study.study
    with door.tool() as tool:
        found = tool.get(f"/dicom-web/studies?{query}").json()
    assert found[0]["00081030"]["Value"] == ["Head"]
    assert found[0]["00201208"]["Value"] == [144]


def test_metadata_and_bulk_data_lead_back_through_the_gateway(dicomweb, door, study, orthanc):
    uids = (study.study, study.source_uid, study.source[0].SOPInstanceUID)
    metadata = dicomweb.retrieve_instance_metadata(*uids)
    address = metadata["7FE00010"]["BulkDataURI"]
    assert address.startswith(f"{door.url}/dicom-web/studies/{study.study}/")
    assert orthanc.url.removeprefix("http://") not in str(metadata)
    assert b"".join(dicomweb.retrieve_bulkdata(address)) == study.source[0].PixelData
    assert len(dicomweb.retrieve_series_metadata(study.study, study.result_uid)) == 120


def test_instances_and_frames_come_as_they_were_stored(dicomweb, study):
    uids = (study.study, study.source_uid, study.source[3].SOPInstanceUID)
    instance = dicomweb.retrieve_instance(*uids)
    assert instance == study.source[3]
    assert len(dicomweb.retrieve_series(study.study, study.source_uid)) == 24
    frames = dicomweb.retrieve_instance_frames(*uids, frame_numbers=[1])
    assert frames == [study.source[3].PixelData]
    rendered = dicomweb.retrieve_instance_rendered(*uids, media_types=("image/png",))
    assert rendered.startswith(b"\x89PNG")


def test_store(dicomweb):
    images = small_series()
    dicomweb.store_instances(images)
    found = dicomweb.search_for_instances(images[0].StudyInstanceUID)
    assert len(found) == 3
    back = dicomweb.retrieve_instance(
        images[1].StudyInstanceUID, images[1].SeriesInstanceUID, images[1].SOPInstanceUID
    )
    assert back == images[1]


def test_compressed_frames_are_not_transcoded(dicomweb, door):
    image = small_series()[0]
    pixels = image.PixelData
    image.compress(RLELossless)
    dicomweb.store_instances([image])
    path = "/".join(
        ("/dicom-web/studies", image.StudyInstanceUID, "series", image.SeriesInstanceUID,
         "instances", image.SOPInstanceUID, "frames", "1")
    )  # fmt: skip
    stored = next(pydicom.encaps.generate_frames(image.PixelData, number_of_frames=1))
    as_ohif = "multipart/related; type=application/octet-stream; transfer-syntax=*"
    with door.tool() as tool:
        for accept in (as_ohif, "*/*", 'multipart/related; type="*/*"', "image/x, */*;q=0.1"):
            answer = tool.get(path, headers={"Accept": accept})
            assert answer.status_code == 200
            assert stored in answer.content
        # Unless the client says that it wants them decoded.
        plain = 'multipart/related; type="application/octet-stream"'
        assert pixels in tool.get(path, headers={"Accept": plain}).content


def test_store_refuses_what_is_no_dicom(door):
    with door.tool() as tool:
        for content, kind in ((b"", "multipart/related"), (b"x" * 500, "text/plain")):
            answer = tool.post(
                "/dicom-web/studies", content=content, headers={"Content-Type": kind}
            )
            assert 400 <= answer.status_code < 500
            assert answer.headers["content-type"] == "application/problem+json"


def test_what_the_pacs_does_not_have(door):
    with door.tool() as tool:
        answer = tool.get("/dicom-web/studies/1.2.3/metadata")
        assert answer.status_code == 404
        assert "no such study" in answer.json()["detail"]


def test_wrong_token(door, study):
    with requests.Session() as session:
        session.trust_env = False
        session.headers["Authorization"] = "Bearer mrisr_wrong"
        client = DICOMwebClient(url=f"{door.url}/dicom-web", session=session)
        with pytest.raises(requests.HTTPError, match="401"):
            client.search_for_studies()
        with pytest.raises(requests.HTTPError, match="401"):
            client.store_instances(study.source[:1])


def test_browsers_read_by_cookie(door, study):
    with door.browser() as client:
        assert client.get(f"/dicom-web/studies/{study.study}/series").status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "../system", "%2e%2e/system", "%2E%2E%2Fsystem", "..%2fsystem", "studies/../../system",
        "studies/%2e%2e/%2e%2e/system", "studies/..;/system", "studies\\..\\..\\system",
        "studies/1.2.3/../../../instances", "studies%00", "studies/%0d%0aX:y", "/system",
        "studies/1.2?a/../../system", "studies//", "servers", "servers/x/qido", "info", "",
        "studies/1.2/archive", "studies/1.2/series/abc", f"{UIDS}/frames/1/../../../tags",
        f"{UIDS}/bulk/../x", f"{UIDS}/frames/0x1", "studies/" + "1" * 65,
    ],
)  # fmt: skip
def test_nothing_else_of_orthanc_can_be_reached(door, path):
    with door.tool() as tool:
        for address in (f"/dicom-web/{path}", f"{door.url}/dicom-web/{path}"):
            answer = tool.get(address)
            assert answer.status_code in (400, 404)
            assert "Orthanc" not in answer.text
        assert tool.post(f"/dicom-web/{path}", content=b"{}").status_code in (400, 404, 415)


@pytest.mark.parametrize(
    "uid", [".", "..", "...", "1.", ".1", "1..2", "1.2\n", "", "1" * 65, "1." + "2" * 63]
)
def test_what_is_no_uid_matches_no_resource(uid):
    for resource in (
        f"studies/{uid}", f"studies/{uid}/series/1.3", f"studies/1.2/series/{uid}",
        f"studies/1.2/series/{uid}/instances/{uid}", f"studies/{uid}/series/{uid}/metadata",
    ):  # fmt: skip
        assert not _READ.fullmatch(resource)
    assert not _STORE.fullmatch(f"studies/{uid}")
    longest = "1." + "2" * 62
    assert _READ.fullmatch(f"studies/{longest}/series/{longest}/instances/{longest}/frames/1")


@pytest.mark.parametrize("method", ["DELETE", "PUT", "PATCH", "PROPFIND", "TRACE"])
def test_other_methods_are_refused(door, study, method):
    with door.tool() as tool:
        answer = tool.request(method, f"/dicom-web/studies/{study.study}")
        assert answer.status_code == 405
        assert tool.get(f"/dicom-web/studies/{study.study}/series").status_code == 200


@pytest.mark.parametrize(
    "resource",
    [
        "studies", "series", "instances", "studies/1.2/series", "studies/1.2/instances",
        "studies/1.2/series/1.3/instances", "studies/1.2", "studies/1.2/metadata",
        "studies/1.2/series/1.3/rendered", f"{UIDS}", f"{UIDS}/frames/1,2,3",
        f"{UIDS}/frames/1/rendered", f"{UIDS}/bulk/00420011", f"{UIDS}/bulk/52009229/1/00089092",
    ],
)  # fmt: skip
def test_what_dicomweb_knows_passes(resource):
    assert _READ.fullmatch(resource)


def test_a_stored_file_is_readable_by_pydicom(dicomweb, study):
    image = dicomweb.retrieve_instance(
        study.study, study.result_uid, study.result[0].SOPInstanceUID
    )
    buffer = io.BytesIO()
    image.save_as(buffer, enforce_file_format=True)
    assert pydicom.dcmread(io.BytesIO(buffer.getvalue())).pixel_array.shape == (109, 91)
