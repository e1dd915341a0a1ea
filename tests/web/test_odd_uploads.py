"""Uploads of DICOM that no library writes like this: taken as they are, refused one by one."""

from __future__ import annotations

import time
import zipfile
from copy import deepcopy
from io import BytesIO

import httpx
import pytest
from bad_pacs import bad_pacs
from pydicom import Dataset, dcmread
from pydicom.uid import UID, ExplicitVRLittleEndian, MRImageStorage
from test_storing import KIND, message
from tus_client import TUS, Sender
from web_door import served
from web_samples import as_file, make_study

from mrisr_node.counts import counted
from mrisr_node.delays import LONGEST_DELAY
from mrisr_node.intake.part_10 import hold_the_same, in_file_format
from mrisr_node.intake.receiver import Receiver
from mrisr_node.jobs.uploads import Uploads
from mrisr_node.node.orthanc import OrthancProcess
from mrisr_node.records import Instance, Rejection, Series, Upload
from mrisr_node.results.delivery import Pacs
from mrisr_node.results.originals import NotKept


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
        pacs.mood = "half"
        upload = checked(settings, Sender(client).send(zipped(sample_series.paths[:4])))
        assert upload.state == "done"
        assert upload.reason == (
            "2 images are in the PACS; 2 not taken: the PACS refused it: HTTP 400 (in quarantine)"
        )
        kept = Rejection.select().where(Rejection.reason == "the PACS refused it: HTTP 400")
        assert {row.sender for row in kept} == {"admin"}
        names = {
            dcmread(settings.quarantine_dir / row.path, specific_tags=["SOPInstanceUID"])
            .SOPInstanceUID
            for row in kept
        }  # fmt: skip
        assert len(names) == 2
        assert not names & pacs.kept.keys()
        # A PACS that is full is not for good.
        pacs.status = 507
        upload = checked(settings, Sender(client).send(zipped(sample_series.paths[4:8])))
        assert upload.state == "sending"
        assert "the PACS cannot be asked: HTTP 507" in upload.reason


@pytest.mark.parametrize("status", [400, 409])
def test_what_the_pacs_refuses_altogether(make_settings, sample_series, status):
    settings = make_settings(minimum_free_bytes=0)
    with (
        served(settings) as running,
        running.tool() as client,
        bad_pacs(settings.orthanc_http_port) as pacs,
    ):
        pacs.mood, pacs.status = "refusing", status
        upload = checked(settings, Sender(client).send(zipped(sample_series.paths[:2])))
        assert upload.state == "refused"
        assert f"2 not taken: the PACS refused it: HTTP {status} (in quarantine)" in upload.reason
        assert pacs.given == 2


@pytest.mark.parametrize("mood", ["hangs up", "nonsense", 401, 503])
def test_a_pacs_that_gives_no_answer_is_asked_again(make_settings, sample_series, mood):
    settings = make_settings(minimum_free_bytes=0)
    with (
        served(settings) as running,
        running.tool() as client,
        bad_pacs(settings.orthanc_http_port) as pacs,
    ):
        pacs.mood = mood
        key = Sender(client).send(sample_series.paths[0].read_bytes())
        upload = checked(settings, key)
        assert upload.state == "sending"
        assert upload.reason.startswith("the PACS cannot be asked: ")
        # A connection that ended in that moment is no outage.
        pacs.mood = "tired"
        Upload.update(not_before=0.0).execute()
        assert checked(settings, key).state == "done"


def test_orthanc_refuses_what_is_no_instance(make_settings, needs_orthanc, tmp_path):
    settings = make_settings(minimum_free_bytes=0)
    path = tmp_path / "junk.dcm"
    junk = in_file_format(b"junk" * 99, MRImageStorage, UID("1.2.3"), ExplicitVRLittleEndian)
    path.write_bytes(junk)
    with (
        OrthancProcess(settings),
        Pacs(settings).originals(hold_the_same) as originals,
        pytest.raises(NotKept, match="HTTP 400"),
    ):
        originals.keep(path, "1.2.3")


def changed(image: Dataset, **values: object) -> Dataset:
    """The same instance, by its name, with other content."""
    other = deepcopy(image)
    for name, value in values.items():
        setattr(other, name, value)
    return other


def test_what_only_the_pacs_has_with_other_content(make_settings, needs_orthanc, tmp_path):
    """Orthanc keeps the first of a name, and says that it stored the second."""
    settings = make_settings(minimum_free_bytes=0)
    mine, same, new = make_study().source[:3]
    theirs = [
        changed(mine, ImageComments="from elsewhere"),
        # Orthanc takes this as another instance, and would take ours beside it.
        changed(same, PatientID="SOMEBODY-ELSE"),
    ]
    files = [tmp_path / f"{n}.dcm" for n in range(3)]
    for path, image in zip(files, (mine, same, new), strict=True):
        path.write_bytes(as_file(image))
    with (
        served(settings) as running,
        running.tool() as client,
        OrthancProcess(settings) as orthanc,
    ):
        auth = (settings.orthanc_username, settings.pacs_password())
        for image in theirs:
            httpx.post(
                f"{orthanc.url}/instances", content=as_file(image), auth=auth, trust_env=False
            ).raise_for_status()
        assert not Instance.select().exists()
        upload = checked(settings, Sender(client).send(zipped(files)))
        assert upload.reason == (
            "1 image is in the PACS; 2 not taken: here already, with other content (in quarantine)"
        )
        assert Rejection.select().count() == 2
        # What is there as it is, is taken: it was stored before.
        upload = checked(settings, Sender(client).send(files[2].read_bytes()))
        assert (upload.state, upload.reason) == ("done", "1 image is in the PACS")
        found = httpx.get(f"{orthanc.url}/instances", auth=auth, trust_env=False).json()
        assert len(found) == 3
    assert list(settings.uploads_dir.iterdir()) == []
    assert list((settings.spool_dir / "drafts").iterdir()) == []


def test_two_of_one_name_in_one_upload(make_settings, needs_orthanc, tmp_path):
    settings = make_settings(minimum_free_bytes=0)
    image = make_study().source[0]
    files = [tmp_path / f"{n}.dcm" for n in range(3)]
    for path, one in zip(files, (image, changed(image, ImageComments="x"), image), strict=True):
        path.write_bytes(as_file(one))
    with served(settings) as running, running.tool() as client, OrthancProcess(settings):
        upload = checked(settings, Sender(client).send(zipped(files)))
    assert upload.reason == (
        "1 image is in the PACS; 1 not taken: here already, with other content (in quarantine)"
    )


def test_what_the_pacs_has_encoded_anew_is_the_same(
    make_settings, needs_orthanc, store, brain, tmp_path
):
    """By C-STORE, as a scanner: the node has not received it."""
    settings = make_settings(minimum_free_bytes=0, stable_age=86_400)
    path = tmp_path / "one.dcm"
    path.write_bytes(brain[1].read_bytes())
    with served(settings) as running, running.tool() as client, OrthancProcess(settings):
        store(path, port=settings.pacs_port)
        upload = checked(settings, Sender(client).send(path.read_bytes()))
    assert (upload.state, upload.reason) == ("done", "1 image is in the PACS")


def test_it_is_kept_for_as_long_as_only_the_node_has_it(
    make_settings, needs_orthanc, sample_series
):
    settings = make_settings(minimum_free_bytes=0, delivery_attempts=2, retention_files_days=1)
    with served(settings) as running, running.tool() as client:
        key = Sender(client).send(sample_series.paths[0].read_bytes(), "slice.dcm")
        long_ago = time.time() - 100 * 86_400
        for tries in (1, 2, 500):
            Upload.update(
                attempts=tries - 1, not_before=0.0, created_at=long_ago, touched_at=long_ago
            ).execute()
            assert checked(settings, key).state == "sending"
            told = client.get(f"/api/uploads/{key}").json()
            assert f"(tried {counted(tries, 'time')}); it will be tried again" in told["reason"]
            assert 0 < told["next_try_at"] - time.time() <= LONGEST_DELAY
            assert (settings.uploads_dir / key).stat().st_size == told["size"]
        Upload.update(not_before=0.0).execute()
        with OrthancProcess(settings):
            upload = checked(settings, key)
    assert (upload.state, upload.reason) == ("done", "1 image is in the PACS")


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
