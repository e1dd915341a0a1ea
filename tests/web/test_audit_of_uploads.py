"""Whose images somebody uploaded, taken and refused: a row for each series, and none twice."""

from __future__ import annotations

import zipfile
from copy import deepcopy
from io import BytesIO

import pytest
from bad_pacs import bad_pacs
from pydicom.uid import generate_uid
from test_odd_uploads import checked
from tus_client import Sender
from web_door import served
from web_samples import as_file, make_study

from mrisr_node.people import audit
from mrisr_node.people.audit import Action, AuditRow, Filter, search
from mrisr_node.records import Upload


@pytest.fixture
def door(web_settings, orthanc):
    with served(web_settings.model_copy(update={"minimum_free_bytes": 0})) as running:
        yield running


def upload(door, *images, odd: bytes = b"") -> str:
    """Upload images, and something else that calls itself one, in a ZIP file."""
    file = BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for number, content in enumerate([*map(as_file, images), *filter(None, [odd])]):
            archive.writestr(f"{number}.dcm", content)
    with door.tool() as client:
        return Sender(client).send(file.getvalue(), "study.zip")


def rows(key: str) -> list[tuple[str, str, str, int]]:
    """Return what is told of the images of an upload."""
    found = AuditRow.select().where(
        AuditRow.resource == f"/api/uploads/{key}", AuditRow.method == ""
    )
    for row in found:
        assert (row.action, row.username, row.role) == (Action.IMPORT, "admin", "admin")
    return sorted((row.patient_id, row.study_uid, row.series_uid, row.status) for row in found)


def named(patient_id: str, count: int = 2):
    images = make_study().source[:count]
    for image in images:
        image.PatientID = patient_id
    return images


def key_of(image, status: int) -> tuple[str, str, str, int]:
    return str(image.PatientID), str(image.StudyInstanceUID), str(image.SeriesInstanceUID), status


def test_everybody_whose_images_were_uploaded(door):
    one, other = named("UPLOADED-1"), named("UPLOADED-2", 3)
    elsewhere = deepcopy(other[2])
    elsewhere.SeriesInstanceUID = generate_uid()
    key = upload(door, *one, *other[:2], elsewhere)
    done = checked(door.settings, key)
    assert (done.state, done.reason) == ("done", "5 images are in the PACS")
    assert rows(key) == [
        key_of(one[0], 200),
        *sorted([key_of(other[0], 200), key_of(elsewhere, 200)]),
    ]
    total, [found] = search(Filter(patient_id="UPLOADED-1"), 10)
    assert (total, found.resource) == (1, f"/api/uploads/{key}")


def test_whose_images_were_refused(door):
    there = named("REFUSED-1")
    checked(door.settings, upload(door, *there))
    differing = deepcopy(there[0])
    differing.ImageComments = "other content"
    broken = named("REFUSED-2", 1)[0]
    broken.PixelData = broken.PixelData[:100]
    key = upload(door, differing, there[1], broken, odd=bytes(128) + b"DICM" + b"junk" * 50)
    done = checked(door.settings, key)
    assert done.state == "done"
    assert done.reason.startswith("1 image is in the PACS; ")
    # Of what cannot be read nobody knows whose it is.
    assert rows(key) == [
        ("", "", "", 409), key_of(there[1], 200), key_of(differing, 409), key_of(broken, 409)
    ]  # fmt: skip


def test_what_is_tried_again_is_told_once(make_settings):
    images = named("AGAIN-1")
    settings = make_settings(minimum_free_bytes=0)
    with served(settings) as running, bad_pacs(settings.orthanc_http_port) as pacs:
        key = upload(running, *images)
        pacs.mood = "liar"  # it says that it has them, and does not show them
        for _ in range(2):
            assert checked(settings, key).state == "sending"
            Upload.update(not_before=0.0).execute()
            assert rows(key) == [key_of(images[0], 200)]
        pacs.mood = "good"
        assert checked(settings, key).state == "done"
        assert rows(key) == [key_of(images[0], 200)]


def test_it_is_not_over_before_it_is_written_down(door):
    images = named("UNWRITTEN-1")
    key = upload(door, *images)
    # Read-only, really: by SQLite.
    audit._database.pragma("query_only", 1)
    try:
        waiting = checked(door.settings, key)
    finally:
        audit._database.pragma("query_only", 0)
    assert waiting.state == "sending"
    assert waiting.reason.startswith("the audit trail cannot be written")
    assert (door.settings.uploads_dir / key).stat().st_size == waiting.size
    Upload.update(not_before=0.0).execute()
    assert checked(door.settings, key).state == "done"
    assert rows(key) == [key_of(images[0], 200)]
