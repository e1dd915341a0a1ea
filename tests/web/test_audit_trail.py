"""Each access to patient data, each change and each sign-in is a row that stays."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from secrets import token_hex

import peewee
import pytest
from given_samples import stored, whole_result
from pydicom.uid import generate_uid
from test_annotations import MULTIPART, report_on
from test_annotations import message as reports
from test_storing import message, post
from web_door import PASSWORD, Door, served
from web_samples import SampleStudy, as_file, make_study

from mrisr_node.jobs.stages import Stage
from mrisr_node.people.audit import Action, AuditRow, Filter, record, search
from mrisr_node.people.roles import Role
from mrisr_node.people.tokens import create_token
from mrisr_node.people.users import add_user
from mrisr_node.records import Job, NiftiSeries, Rejection, Series, State, StoredFile
from mrisr_node.web.audit import _quiet
from tests import spooling


@pytest.fixture
def door(web_settings, orthanc) -> Iterator[Door]:
    """A front door whose audit trail has forgotten nothing, as nothing was recorded."""
    with served(web_settings) as running:
        yield running


@pytest.fixture
def rows(door: Door):
    """A function that gives the rows since the last call, oldest first."""
    last = newest()

    def since() -> list[AuditRow]:
        nonlocal last
        found = list(AuditRow.select().where(AuditRow.id > last).order_by(AuditRow.id))
        last = newest()
        return found

    return since


def newest() -> int:
    return AuditRow.select(peewee.fn.MAX(AuditRow.id)).scalar() or 0


@contextmanager
def served_file(door: Door, patient_id: str) -> Iterator[StoredFile]:
    """A file of the administrator that was given to be processed as a patient's."""
    file = StoredFile.create(
        key=token_hex(16), owner="admin", name="x.nii", size=1, sha256="0", media_type="x/y"
    )
    door.settings.files_dir.mkdir(parents=True, exist_ok=True)
    (door.settings.files_dir / file.key).write_bytes(b"x")
    series = Series.create(
        series_instance_uid=generate_uid(), study_instance_uid=generate_uid(), format="nifti"
    )
    study = json.dumps({"PatientID": patient_id})
    NiftiSeries.create(
        series=series, file=file, owner="admin", slice_axis=2, thickness_mm=5, study=study
    )
    yield file
    series.delete_instance()
    file.delete_instance()


def patient_of(study: SampleStudy) -> str:
    return str(study.instances[0].PatientID)


def test_images_through_the_gateway(door, rows, study):
    image = study.instances[0]
    of_study = f"/dicom-web/studies/{image.StudyInstanceUID}"
    of_series = f"{of_study}/series/{image.SeriesInstanceUID}"
    with door.tool() as client:
        assert client.get(f"{of_study}/series").status_code == 200
        assert client.get(f"{of_series}/metadata").status_code == 200
        for one in study.instances[:5]:
            client.get(f"{of_series}/instances/{one.SOPInstanceUID}/frames/1")
    query, *transfers = rows()
    assert query.action == Action.QUERY
    # A viewer asks for each slice by itself: they are one access, as in PS3.15 A.5.3.3.
    assert [row.action for row in transfers] == [Action.TRANSFER]
    for row in (query, *transfers):
        assert (row.username, row.role, row.means) == ("admin", "admin", "token tests")
        assert (row.address, row.status) == ("127.0.0.1", 200)
        assert row.study_uid == image.StudyInstanceUID
        # Only the PACS knows this study.
        assert row.patient_id == patient_of(study)
        assert abs(row.at - time.time()) < 60
    assert transfers[0].series_uid == image.SeriesInstanceUID


def test_a_search_for_a_patient_is_found_by_that_patient(door, rows):
    with door.tool() as client:
        client.get("/dicom-web/studies", params={"PatientID": "AUDIT-7"})
        client.get("/dicom-web/series", params={"00100020": "AUDIT 8/9"})
        client.get("/dicom-web/studies", params={"PatientID": "AUDIT*"})
    row, other, many = rows()
    assert (row.action, row.patient_id) == (Action.QUERY, "AUDIT-7")
    assert (other.patient_id, many.patient_id) == ("AUDIT 8/9", "")
    assert row.query == "PatientID=AUDIT-7"
    total, found = search(Filter(patient_id="AUDIT-7"), 10)
    assert total == 1
    assert found[0].id == row.id


def test_a_search_by_body_is_a_query_and_not_a_change(door, rows):
    known = Series.create(
        series_instance_uid="1.2.3.9", study_instance_uid="1.2.3", patient_id="AUDIT-9"
    )
    with door.tool() as client:
        for words in ("AUDIT-9", "AUDIT-9", "doe jane", "doe jane", "AUDIT"):
            answer = client.post("/api/series/search", json={"q": words, "state": None})
            assert answer.status_code == 200
    known.delete_instance()
    # A page that asks again and again is one row.
    assert [(row.action, row.query, row.patient_id) for row in rows()] == [
        (Action.QUERY, "q=AUDIT-9", "AUDIT-9"),
        (Action.QUERY, "q=doe+jane", ""),
        (Action.QUERY, "q=AUDIT", ""),
    ]
    assert _quiet({"action": Action.QUERY, "resource": "/api/series/search"}) == 3600
    assert _quiet({"action": Action.QUERY, "resource": "/dicom-web/studies"}) == 60


def test_a_series_of_the_node(door, rows, study):
    image = study.instances[0]
    series = Series.create(
        series_instance_uid=f"{image.SeriesInstanceUID}.1",
        study_instance_uid=image.StudyInstanceUID,
    )
    with door.tool() as client:
        client.get(f"/api/series/{series.id}")
        client.get("/api/jobs", params={"series": series.id})
        client.post(f"/api/series/{series.id}/retry")
    read, jobs, change = rows()
    assert {(row.action, row.status) for row in (read, jobs)} == {(Action.RECORD, 200)}
    assert (change.action, change.status) == (Action.CHANGE, 409)
    for row in (read, jobs, change):
        assert row.study_uid == image.StudyInstanceUID
    assert read.patient_id == jobs.patient_id == patient_of(study)
    series.delete_instance()


def test_everybody_whose_images_were_stored(door, rows, store_study):
    """By one request: a row for each study of each patient."""
    samples = [make_study(), make_study()]
    for number, sample in enumerate(samples):
        for image in sample.instances:
            image.PatientID = f"STORED-{number}"
    files = [as_file(image) for sample in samples for image in sample.instances[:2]]
    with door.tool() as client:
        assert post(client, message(*files)).status_code == 200
        asked = {"study_instance_uid": samples[1].instances[0].StudyInstanceUID}
        client.post("/api/jobs", json=asked)
    *stored, begun = rows()
    assert [(row.action, row.patient_id, row.study_uid) for row in stored] == [
        (Action.IMPORT, f"STORED-{number}", sample.instances[0].StudyInstanceUID)
        for number, sample in enumerate(samples)
    ]
    assert (begun.action, begun.study_uid) == (Action.CHANGE, asked["study_instance_uid"])


def test_what_somebody_does_with_files(door, rows):
    with served_file(door, "FILED-1") as file, door.tool() as client:
        assert client.get(f"/api/files/{file.key}/info").status_code == 200
        assert client.get(f"/api/files/{file.key}").status_code == 200
        [given] = file.niftiseries_set
        for state, answer in ((State.QUEUED, 409), (State.DONE, 204)):
            Series.update(state=state.value).where(Series.id == given.series_id).execute()
            assert client.delete(f"/api/files/{file.key}").status_code == answer
    found = rows()
    assert [(row.action, row.method, row.status) for row in found] == [
        (Action.RECORD, "GET", 200),
        (Action.EXPORT, "GET", 200),
        (Action.CHANGE, "DELETE", 409),
        (Action.CHANGE, "DELETE", 204),
    ]
    assert {row.patient_id for row in found} == {"FILED-1"}


def test_whose_results_are_sent_again(door, rows):
    series = [
        Series.create(
            series_instance_uid=generate_uid(),
            study_instance_uid=generate_uid(),
            patient_id=f"LATE-{number}",
            state=State.FAILED.value,
        )
        for number in range(2)
    ]
    for one in series:
        job = Job.create(series=one, recipe="native", stage=Stage.STORE.value)
        whole_result(door.settings, job)
    with door.tool() as client:
        assert client.post("/api/jobs/send-again").json() == {"sent_again": 2}
        assert client.post("/api/jobs/send-again").json() == {"sent_again": 0}
    assert [(row.action, row.patient_id, row.study_uid) for row in rows()] == [
        *((Action.CHANGE, one.patient_id, one.study_instance_uid) for one in series),
        (Action.CHANGE, "", ""),
    ]
    for one in series:
        one.delete_instance(recursive=True)


def test_whose_files_are_processed_and_downloaded(door, rows):
    files = [stored(door.settings) for _ in range(2)]
    items = [
        {"file": file.key, "study": {"patient_id": f"GIVEN-{n}"}} for n, file in enumerate(files)
    ]
    with door.tool() as client:
        alone = client.post("/api/inference", json=items[0])
        batch = client.post("/api/inference/batch", json={"items": items})
        assert (alone.status_code, batch.status_code) == (202, 202)
        for one in batch.json()["items"]:
            stored(door.settings, job=Job.get(Job.series == one["id"]))
        refused = client.post("/api/inference", json={"file": "none"})
        assert client.get(f"/api/inference/batch/{batch.json()['id']}").is_success
        assert client.get(f"/api/inference/batch/{batch.json()['id']}/zip").is_success
        assert refused.status_code == 404
    found = rows()
    assert [(row.action, row.resource, row.patient_id, row.status) for row in found] == [
        (Action.CHANGE, "/api/inference", "GIVEN-0", 202),
        (Action.CHANGE, "/api/inference/batch", "GIVEN-0", 202),
        (Action.CHANGE, "/api/inference/batch", "GIVEN-1", 202),
        (Action.CHANGE, "/api/inference", "", 404),
        *(
            (Action.RECORD, f"/api/inference/batch/{batch.json()['id']}", f"GIVEN-{n}", 200)
            for n in range(2)
        ),
        *(
            (Action.EXPORT, f"/api/inference/batch/{batch.json()['id']}/zip", f"GIVEN-{n}", 200)
            for n in range(2)
        ),
    ]
    # Each is a study of its own; the download names those that were begun.
    assert len({row.study_uid for row in found}) == 4
    for several in (found[4:6], found[6:]):
        assert {row.study_uid for row in found[1:3]} == {row.study_uid for row in several}
    for row in found:
        assert (row.username, row.role, row.means) == ("admin", "admin", "token tests")
        assert (row.address, bool(row.series_uid)) == ("127.0.0.1", row.status != 404)
    for file in files:
        for given in file.niftiseries_set:
            given.series.delete_instance(recursive=True)
        file.delete_instance()


def test_whose_study_measurements_are_saved_on(door, rows, store_study):
    sample = store_study()
    report = report_on(sample)
    own = {"Content-Type": MULTIPART}
    with door.browser() as client:
        saved = client.post("/dicom-web/studies", content=reports(as_file(report)), headers=own)
        again = client.post("/dicom-web/studies", content=reports(as_file(report)), headers=own)
        assert (saved.status_code, again.status_code) == (200, 409)
    _, stored_row, refused = rows()
    for row, status in ((stored_row, 200), (refused, 409)):
        assert (row.action, row.status) == (Action.IMPORT, status)
        assert (row.username, row.role, row.means) == ("admin", "admin", "cookie")
    assert (stored_row.patient_id, stored_row.study_uid, stored_row.series_uid) == (
        "C27", sample.study, report.SeriesInstanceUID
    )  # fmt: skip


def test_whose_objects_in_quarantine_are_looked_at_and_deleted(door, rows, study):
    image = study.instances[0]
    spooling.refuse(door.settings, as_file(image), "no reason", "SCANNER")
    key = Rejection.select().order_by(Rejection.id.desc()).get().path[:16]
    with door.tool() as client:
        for method in ("GET", "DELETE", "DELETE"):
            client.request(method, f"/api/quarantine/{key}")
    found = rows()
    assert [(row.action, row.method, row.status) for row in found] == [
        (Action.RECORD, "GET", 200),
        (Action.CHANGE, "DELETE", 204),
        (Action.CHANGE, "DELETE", 404),
    ]
    for row in found[:2]:
        assert (row.patient_id, row.study_uid) == (image.PatientID, image.StudyInstanceUID)
        assert row.series_uid == image.SeriesInstanceUID
    for row in found:
        assert (row.username, row.means, row.resource) == (
            "admin", "token tests", f"/api/quarantine/{key}"
        )  # fmt: skip


def test_sign_ins_and_refusals(door, rows):
    with door.client(Origin=door.url) as client:
        client.post("/sign-in", data={"username": "admin", "password": PASSWORD})
        client.post("/sign-out")
        client.post("/sign-in", data={"username": "admin", "password": "wrong"})
        client.post("/sign-in", data={"username": "my password", "password": "wrong"})
        client.get("/dicom-web/studies")
    found = [(row.username, row.action, row.status) for row in rows()]
    assert found == [
        ("admin", Action.LOGIN, 303),
        ("admin", Action.LOGOUT, 303),
        ("admin", Action.LOGIN, 401),
        # Not what was typed: it may be a password.
        ("", Action.LOGIN, 401),
        ("", Action.QUERY, 401),
    ]


def test_access_tokens(door, rows):
    with door.client() as client:
        right = {"username": "admin", "password": PASSWORD}
        grant = client.post("/api/auth/login", json=right).json()
        fresh = client.post("/api/auth/refresh", json={"refresh_token": grant["refresh_token"]})
        headers = {"Authorization": f"Bearer {fresh.json()['access_token']}"}
        client.get("/api/quarantine/00000000", headers=headers)
        client.post("/api/auth/logout", headers=headers)
    found = rows()
    assert [row.action for row in found] == [
        Action.LOGIN,
        Action.RENEWAL,
        Action.RECORD,
        Action.LOGOUT,
    ]
    assert {row.username for row in found} == {"admin"}
    assert found[2].means == "access token"
    for row in found:
        assert grant["refresh_token"] not in str(row.__data__)


def test_what_a_lower_role_tries(door, rows):
    add_user("eve", Role.VIEWER)
    with door.client(Authorization=f"Bearer {create_token('eve', 'x')}") as client:
        for _ in range(3):
            client.get("/api/audit")
            client.post("/api/users", json={"username": "eva", "role": "admin"})
    found = [(row.username, row.action, row.status) for row in rows()]
    assert found == [("eve", Action.AUDIT, 403), ("eve", Action.USERS, 403)]


def test_nobody_changes_what_was_written(door, study):
    record(Action.QUERY, username="someone")
    last = newest()
    for statement in (
        "UPDATE audit SET username = 'nobody'",
        "DELETE FROM audit",
        f"INSERT OR REPLACE INTO audit SELECT {last}, at, 'nobody', role, means, address, action,"
        " method, resource, query, patient_id, study_uid, series_uid, status FROM audit LIMIT 1",
    ):
        with (
            sqlite3.connect(door.settings.audit_path) as other,
            pytest.raises(sqlite3.IntegrityError, match="append-only"),
        ):
            other.execute(statement)
        other.close()
    assert AuditRow.get_by_id(last).username == "someone"
    assert door.settings.audit_path.stat().st_mode & 0o077 == 0


def test_what_cannot_be_recorded_is_not_shown(door, study, monkeypatch):
    def full(*_args, **_facts):
        raise peewee.OperationalError("database or disk is full")

    monkeypatch.setattr("mrisr_node.web.audit.record_all", full)
    with door.tool() as client:
        answer = client.get("/dicom-web/studies", params={"PatientID": "FULL"})
        assert answer.status_code == 503
        assert "audit trail" in answer.json()["detail"]
        monkeypatch.undo()
        assert client.get("/dicom-web/studies", params={"PatientID": "FULL"}).status_code == 200
    assert search(Filter(patient_id="FULL"), 10)[0] == 1


def test_it_is_searched_by_api(door, rows):
    for number in range(5):
        record(Action.EXPORT, username="grace", patient_id=f"P{number % 2}", at=1000.0 + number)
    with door.tool() as client:
        page = client.get("/api/audit", params={"username": "grace", "limit": 2, "offset": 1})
        assert page.json()["total"] == 5
        assert [row["at"] for row in page.json()["items"]] == [1003.0, 1002.0]
        times = {"username": "grace", "since": 1001, "until": 1003}
        assert client.get("/api/audit", params=times).json()["total"] == 2
        assert client.get("/api/audit", params={"action": "Fly"}).status_code == 422
        found = client.post(
            "/api/audit/search", json={"patient_id": "P1", "username": "grace"}
        ).json()
        assert {row["patient_id"] for row in found["items"]} == {"P1"}
    # Looking is recorded, too, and for whom.
    looked = [row for row in rows() if row.action == Action.AUDIT]
    assert len(looked) == 4
    assert looked[-1].patient_id == "P1"
