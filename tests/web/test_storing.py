"""STOW-RS: what each instance is answered with, and that it is there."""

from __future__ import annotations

import os
import signal

import httpx
import pytest
from pydicom import Dataset
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    MediaStorageDirectoryStorage,
    RLELossless,
    generate_uid,
)
from result_samples import ResultSet
from web_door import Door, served
from web_samples import as_file, make_study

from mrisr_node.node.orthanc import OrthancProcess
from mrisr_node.people.tokens import create_token
from mrisr_node.records import ApiToken

KIND = 'multipart/related; type="application/dicom"; boundary=X-y'
JSON = "application/dicom+json"


def message(*files: bytes, end: bytes = b"--X-y--\r\n") -> bytes:
    head = b"--X-y\r\nContent-Type: application/dicom\r\n\r\n"
    return b"".join(head + file + b"\r\n" for file in files) + end


def post(client: httpx.Client, content, resource: str = "studies", **headers: str):
    headers = {"Content-Type": KIND, "Accept": JSON} | headers
    return client.post(f"/dicom-web/{resource}", content=content, headers=headers)


def reasons(answer: httpx.Response, sequence: str = "00081198") -> list[int]:
    items = answer.json().get(sequence, {}).get("Value", [])
    return [item["00081197"]["Value"][0] for item in items]


def stored(answer: httpx.Response) -> list[str]:
    items = answer.json().get("00081199", {}).get("Value", [])
    return [item["00081155"]["Value"][0] for item in items]


def retrieve_url(answer: httpx.Response) -> dict[str, object]:
    return answer.json()["00081190"]


@pytest.fixture
def images() -> list[Dataset]:
    return make_study().source[:4]


@pytest.fixture
def tool(door: Door):
    with door.tool() as client:
        yield client


def test_each_instance_is_answered_for_by_itself(tool, door, images):
    good, other, broken, deflated = images
    broken.PixelData = broken.PixelData[:100]
    deflated.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    files = [as_file(image) for image in (good, broken, deflated, other)]
    answer = post(tool, message(*files[:2], b"no DICOM", *files[2:]))
    assert answer.status_code == 202
    assert answer.headers["content-type"] == JSON
    assert set(stored(answer)) == {good.SOPInstanceUID, other.SOPInstanceUID}
    assert reasons(answer, "0008119A") == [0xC000]
    failed = [one["00081155"]["Value"][0] for one in answer.json()["00081198"]["Value"]]
    assert dict(zip(failed, reasons(answer), strict=True)) == {
        broken.SOPInstanceUID: 0xC000,
        deflated.SOPInstanceUID: 0xC122,
    }
    study = f"{door.url}/dicom-web/studies/{good.StudyInstanceUID}"
    address = answer.json()["00081199"]["Value"][0]["00081190"]["Value"][0]
    assert address.startswith(f"{study}/series/")
    assert tool.get(address).status_code == 200
    assert retrieve_url(answer) == {"vr": "UR", "Value": [study]}
    there = tool.get(f"/dicom-web/studies/{good.StudyInstanceUID}/instances").json()
    assert {one["00080018"]["Value"][0] for one in there} == set(stored(answer))


def test_all_or_none(tool, door, images):
    first, *_ = images
    answer = post(tool, message(as_file(first)), f"studies/{first.StudyInstanceUID}")
    assert (answer.status_code, reasons(answer)) == (200, [])
    study = f"{door.url}/dicom-web/studies/{first.StudyInstanceUID}"
    assert retrieve_url(answer)["Value"] == [study]
    answer = post(tool, message(as_file(first)), f"studies/{generate_uid()}")
    assert (answer.status_code, reasons(answer)) == (409, [0xC409])
    assert retrieve_url(answer) == {"vr": "UR"}


def test_of_several_studies_no_address_is_told(tool, images):
    one, other = images[:2]
    other.StudyInstanceUID, other.SeriesInstanceUID = generate_uid(), generate_uid()
    answer = post(tool, message(as_file(one), as_file(other)))
    assert (answer.status_code, len(stored(answer))) == (200, 2)
    assert retrieve_url(answer) == {"vr": "UR"}


def test_a_repeat_is_stored_and_other_content_is_not(tool, images):
    image = images[0]
    assert post(tool, message(as_file(image))).status_code == 200
    assert stored(post(tool, message(as_file(image)))) == [image.SOPInstanceUID]
    image.SeriesDescription = "changed"
    assert reasons(post(tool, message(as_file(image)))) == [0x0111]
    # Orthanc would take these two for others: another patient's, and of another series.
    image.SeriesInstanceUID = generate_uid()
    assert reasons(post(tool, message(as_file(image)))) == [0x0111]
    image.PatientID = "somebody else"
    assert reasons(post(tool, message(as_file(image)))) == [0x0111]


def refusal(tool: httpx.Client, image: Dataset, file: bytes = b"") -> list[int]:
    answer = post(tool, message(file or as_file(image)))
    assert answer.status_code == 409
    assert tool.get(f"/dicom-web/studies/{image.StudyInstanceUID}/series").json() == []
    return reasons(answer) or reasons(answer, "0008119A")


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
def test_the_screening_of_the_receivers_door(tool, images):
    bomb, lies, odd, directory = images
    bomb.compress(RLELossless)
    bomb.Rows = bomb.Columns = 65535
    assert refusal(tool, bomb) == [0xC000]
    uid = lies.SOPInstanceUID.encode()
    renamed = as_file(lies).replace(uid, uid[:-1] + (b"1" if uid[-1:] != b"1" else b"2"), 1)
    assert refusal(tool, lies, renamed) == [0xA900]
    odd.SOPInstanceUID = odd.file_meta.MediaStorageSOPInstanceUID = "1.2.03"
    assert refusal(tool, odd) == [0xC000]
    directory.SOPClassUID = MediaStorageDirectoryStorage
    directory.file_meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
    assert refusal(tool, directory) == [0x0122]


def test_other_classes_go_to_the_pacs(tool, images, results: ResultSet):
    image = images[0]
    image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = CTImageStorage
    assert post(tool, message(as_file(image))).status_code == 200
    # Everything that the node itself makes: images, maps, segmentation, report.
    files = [path.read_bytes() for path in results.files[-6:]]
    answer = post(tool, message(*files))
    assert answer.status_code == 200, answer.text
    assert len(stored(answer)) == 6


def test_what_is_no_whole_message(tool, images):
    files = [as_file(image) for image in images[:2]]
    for content in (b"", message(*files)[:-2000], message(end=b""), b"garbage" * 1000):
        answer = post(tool, content)
        assert answer.status_code == 400
        assert answer.headers["content-type"] == "application/problem+json"
    # What came whole is in the PACS, and a repeat of it does no harm.
    assert len(stored(post(tool, message(*files)))) == 2
    for kind in ("application/dicom", "multipart/form-data; boundary=X-y",
                 'multipart/related; type="application/dicom+json"; boundary=X-y'):  # fmt: skip
        assert post(tool, message(*files), **{"Content-Type": kind}).status_code == 415
    assert post(tool, b"", **{"Content-Type": "multipart/related"}).status_code == 400
    assert post(tool, message(*files), Accept="image/png").status_code == 406


def test_a_token_does_what_it_is_for(door, images):
    image = images[0]
    study = f"/dicom-web/studies/{image.StudyInstanceUID}"
    for scopes, may_read, may_store in (
        ("read", 200, 403), ("read report", 200, 403), ("report", 403, 403),
        ("store", 403, 200), ("read store", 200, 200),
    ):  # fmt: skip
        token = create_token("admin", "tool")
        newest = ApiToken.select().order_by(ApiToken.id.desc()).get()
        ApiToken.update(scopes=scopes).where(ApiToken.id == newest.id).execute()
        with door.client(Authorization=f"Bearer {token}") as client:
            for path in (f"{study}/series", "/dicom-web/studies?limit=1"):
                assert client.get(path).status_code == client.head(path).status_code == may_read
            allowed = client.get(study.replace("dicom-web", "dicom-web-allowed"))
            assert allowed.status_code == (204 if may_read == 200 else 403)
            assert post(client, message(as_file(image))).status_code == may_store
            assert client.options(study).status_code == 204


def test_what_was_answered_as_stored_survives_a_kill_of_the_pacs(make_settings):
    settings = make_settings(stable_age=86_400)
    images = make_study().source[:5]
    with OrthancProcess(settings) as orthanc, served(settings) as door, door.tool() as tool:
        answer = post(tool, message(*map(as_file, images)))
        os.kill(orthanc.pid, signal.SIGKILL)
        assert len(stored(answer)) == 5
    with OrthancProcess(settings), served(settings) as door, door.tool() as tool:
        for image in images:
            path = f"/dicom-web/studies/{image.StudyInstanceUID}/series/{image.SeriesInstanceUID}"
            answer = tool.get(
                f"{path}/instances/{image.SOPInstanceUID}", headers={"Accept": "application/dicom"}
            )
            assert answer.content == as_file(image)
