"""Uploads of DICOM that no library writes like this: taken as they are, refused one by one."""

from __future__ import annotations

import time
import zipfile
from io import BytesIO

import pytest
from bad_pacs import bad_pacs
from pydicom import dcmread
from pydicom.uid import UID, ExplicitVRLittleEndian, MRImageStorage
from test_storing import KIND, message
from tus_client import TUS, Sender
from web_door import served
from web_samples import as_file, make_study

from mrisr_node.intake.part_10 import in_file_format
from mrisr_node.intake.receiver import Receiver
from mrisr_node.jobs.uploads import Uploads
from mrisr_node.node.orthanc import OrthancProcess
from mrisr_node.records import Instance, Rejection, Series, Upload
from mrisr_node.results.delivery import Pacs


def checked(settings, key: str) -> Upload:
    """Let the node look at what is whole."""
    uploads = Uploads(settings)
    try:
        uploads.sweep()
    finally:
        uploads.close()
    return Upload.get(Upload.key == key)


def zipped(paths) -> bytes:
    file = BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in paths:
            archive.writestr(path.name, path.read_bytes())
    return file.getvalue()


def wait_until(true) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def brain(shared_data):
    """A series whose first file has megabytes of zeros behind its data set."""
    found = sorted(path for path in shared_data("series/papaya_brain").rglob("*.dcm"))
    assert found[0].read_bytes().endswith(bytes(2_000_000))
    return found


def test_zeros_behind_the_data_set_are_no_obstacle(make_settings, needs_orthanc, brain):
    settings = make_settings(minimum_free_bytes=0)
    with served(settings) as running, running.tool() as client, OrthancProcess(settings):
        key = Sender(client).send(zipped(brain), "brain.zip")
        upload = checked(settings, key)
        images = f"{len(brain)} images are in the PACS"
        assert (upload.state, upload.reason) == ("done", images)
        # The PACS has the very bytes: whoever stores them again stores the same.
        body = message(brain[0].read_bytes())
        again = client.post("/dicom-web/studies", content=body, headers={"Content-Type": KIND})
        assert again.status_code == 200, again.text


def test_what_came_by_way_of_the_pacs_is_the_same(make_settings, needs_orthanc, brain):
    """Orthanc forwards a data set as DCMTK writes it, with other bytes."""
    settings = make_settings(minimum_free_bytes=0)
    with served(settings) as running, running.tool() as client, OrthancProcess(settings):
        receiver = Receiver(settings)
        receiver.start()
        try:
            body = message(brain[0].read_bytes(), brain[1].read_bytes())
            done = client.post("/dicom-web/studies", content=body, headers={"Content-Type": KIND})
            assert done.status_code == 200, done.text
            wait_until(lambda: Instance.select().count() == 2)
        finally:
            receiver.stop()
        for path in brain[:2]:
            upload = checked(settings, Sender(client).send(path.read_bytes(), path.name))
            assert (upload.state, upload.reason) == ("done", "1 image is in the PACS")
        # Other pixels are other content still.
        other = bytearray(brain[1].read_bytes())
        start = other.rindex(b"OW") + 8
        other[start : start + 2] = b"\x01\x01"
        upload = checked(settings, Sender(client).send(bytes(other)))
        assert "with other content (in quarantine)" in upload.reason
    assert Series.select().count() == 1


def test_what_the_pacs_refuses_for_good_does_not_hold_up_the_others(make_settings, sample_series):
    settings = make_settings(minimum_free_bytes=0)
    with (
        served(settings) as running,
        running.tool() as client,
        bad_pacs(settings.orthanc_http_port) as pacs,
    ):
        pacs.mood, pacs.reason = "half", 0xC000
        upload = checked(settings, Sender(client).send(zipped(sample_series.paths[:4])))
        assert upload.state == "done"
        assert upload.reason == (
            "2 images are in the PACS; 2 not taken: the PACS refused it: 0xC000 (in quarantine)"
        )
        kept = Rejection.select().where(Rejection.reason == "the PACS refused it: 0xC000")
        assert {row.sender for row in kept} == {"admin"}
        names = {
            dcmread(settings.quarantine_dir / row.path, specific_tags=["SOPInstanceUID"])
            .SOPInstanceUID
            for row in kept
        }  # fmt: skip
        assert len(names) == 2
        assert not names & pacs.kept.keys()
        # A PACS that is full is not for good.
        pacs.reason = 0xA700
        upload = checked(settings, Sender(client).send(zipped(sample_series.paths[4:8])))
        assert upload.state == "sending"
        assert "2 of 4 instances taken, first with 0xA700" in upload.reason


def test_orthanc_tells_the_bad_one_and_keeps_the_others(make_settings, needs_orthanc, tmp_path):
    """It answers 400 to all of a request, though it has stored what is good of it."""
    settings = make_settings(minimum_free_bytes=0)
    good = make_study().source[:2]
    junk = in_file_format(b"junk" * 99, MRImageStorage, UID("1.2.3"), ExplicitVRLittleEndian)
    paths = [tmp_path / f"{number}.dcm" for number in range(3)]
    for path, content in zip(paths, (as_file(good[0]), junk, as_file(good[1])), strict=True):
        path.write_bytes(content)
    with OrthancProcess(settings):
        pacs = Pacs(settings)
        assert pacs.stow_files(paths) == {"1.2.3": "the PACS refused it: HTTP 400"}
        there = pacs.instances(good[0].StudyInstanceUID, good[0].SeriesInstanceUID)
    assert there == {image.SOPInstanceUID for image in good}


@pytest.mark.parametrize("status", [400, 409])
def test_an_answer_to_the_request_as_such(make_settings, sample_series, status):
    settings = make_settings(minimum_free_bytes=0)
    with (
        served(settings) as running,
        running.tool() as client,
        bad_pacs(settings.orthanc_http_port) as pacs,
    ):
        pacs.mood = status
        upload = checked(settings, Sender(client).send(zipped(sample_series.paths[:2])))
        assert upload.state == "refused"
        assert f"the PACS refused it: HTTP {status} (in quarantine)" in upload.reason
        assert pacs.requests == ["POST"] * 3


def test_one_that_waits_can_be_given_up(make_settings, sample_series):
    settings = make_settings(minimum_free_bytes=0)
    with served(settings) as running, running.tool() as client:
        key = Sender(client).send(sample_series.paths[0].read_bytes(), "slice.dcm")
        assert client.delete(f"/api/uploads/{key}", headers=TUS).status_code == 409
        assert checked(settings, key).state == "sending"
        told = client.get(f"/api/uploads/{key}").json()
        assert told["reason"].endswith("it will be tried again")
        assert 0 < told["next_try_at"] - time.time() < 60
        # Worked on once more, it is the node's.
        Upload.update(not_before=0.0).execute()
        assert client.delete(f"/api/uploads/{key}", headers=TUS).status_code == 409
        assert checked(settings, key).state == "sending"
        assert client.delete(f"/api/uploads/{key}", headers=TUS).status_code == 204
        assert list(settings.uploads_dir.iterdir()) == []
        assert client.get(f"/api/uploads/{key}").status_code == 404
        uploads = Uploads(settings)
        assert uploads.sweep() == 0
        uploads.close()
