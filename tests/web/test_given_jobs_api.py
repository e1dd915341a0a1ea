"""Jobs on files that were given, over HTTP: the PACS, of which there is none here, has no part."""

from __future__ import annotations

import time
import uuid

import pytest
from given_samples import end, given, given_for_pairs, stored
from web_door import served

from mrisr_node.choices import Recipe
from mrisr_node.jobs.given_files import with_given_files
from mrisr_node.jobs.queues import Queues
from mrisr_node.jobs.recovery import recover
from mrisr_node.jobs.stages import Queue
from mrisr_node.jobs.workspace import Workspace
from mrisr_node.people.roles import Role
from mrisr_node.people.tokens import create_token
from mrisr_node.people.users import add_user
from mrisr_node.records import Job, Series, State, StoredFile


@pytest.fixture(scope="module")
def door(make_settings):
    with served(make_settings()) as running:
        add_user("operator", Role.OPERATOR)
        yield running


@pytest.fixture
def tool(door):
    with door.tool() as client:
        yield client
    Series.delete().execute()
    StoredFile.delete().execute()


@pytest.mark.parametrize("make", [given, given_for_pairs])
def test_what_is_done_without_the_pacs_is_done(tool, door, make):
    job = make(door.settings)
    end(door.settings, job)
    assert tool.get(f"/api/jobs/{job.id}").json()["state"] == "done"
    listed = tool.get("/api/jobs", params={"state": "done"}).json()
    assert [one["id"] for one in listed["items"]] == [job.id]
    assert tool.get("/api/jobs", params={"state": "superseded"}).json()["total"] == 0


@pytest.mark.parametrize(("make", "path"), [(given, "inference"), (given_for_pairs, "pairs")])
def test_what_is_put_off_says_until_when(tool, door, make, path):
    job = make(door.settings)
    assert tool.get(f"/api/{path}/{job.series_id}").json()["next_try_at"] is None
    at = time.time() + 1800
    Job.update(not_before=at).execute()
    row = tool.get(f"/api/{path}/{job.series_id}").json()
    assert (row["next_try_at"], row["waiting_for"]) == (at, None)


@pytest.mark.parametrize("make", [given, given_for_pairs])
@pytest.mark.parametrize("state", [State.DONE, State.FAILED])
def test_a_job_goes_with_the_files_that_it_made(tool, door, make, state):
    job = make(door.settings)
    assert tool.delete(f"/api/jobs/{job.id}").status_code == 409
    made = end(door.settings, job, state)
    [given_file] = StoredFile.select().where(StoredFile.job.is_null())
    row = tool.get(f"/api/series/{job.series_id}").json()
    assert row["actions"] == (["delete"] if state is State.DONE else ["retry", "delete"])
    assert tool.delete(f"/api/jobs/{job.id}").status_code == 204
    assert tool.get(f"/api/jobs/{job.id}").status_code == 404
    assert tool.get(f"/api/files/{made.key}").status_code == 404
    assert not (door.settings.files_dir / made.key).exists()
    assert not (door.settings.work_dir / str(job.id)).exists()
    # Nothing is said to be there that is not.
    row = tool.get(f"/api/series/{job.series_id}").json()
    gone = "its files were deleted"
    assert (row["state"], row["reason"].startswith(gone)) == (state, state is State.DONE)
    # What was uploaded is deleted by itself.
    assert tool.get(f"/api/files/{given_file.key}").status_code == 200


def test_scans_keep_the_names_that_they_were_uploaded_with(tool, door, tmp_path):
    names = ["sub-Doe_T1w.nii.gz", "a.nii", "sub-Doe_T2w.nii.gz"]
    keys = [stored(door.settings, name=name).key for name in names]
    asked = {"files": [keys[2], keys[0], keys[1]], "contrast": "T1w"}
    series = Series.get_by_id(tool.post("/api/pairs", json=asked).json()["id"])
    workspace = Workspace(tmp_path, (), door.settings, Recipe.PAIRS)
    given_scans = with_given_files(workspace, series)
    assert [path.name for path in given_scans.sources] == asked["files"]
    assert given_scans.pairs.names == (names[2], names[0], names[1])


def test_a_range_is_of_get_alone(tool, door):
    path = f"/api/files/{stored(door.settings).key}"
    for wanted, status in (("bytes=1-2", 206), ("bytes=9-", 416)):
        assert tool.get(path, headers={"Range": wanted}).status_code == status
        head = tool.head(path, headers={"Range": wanted})
        assert (head.status_code, head.headers["content-length"]) == (200, "5")


def test_a_job_whose_result_goes_to_the_pacs_stays_until_it_is_there(tool, door):
    job = given(door.settings, {"PatientID": "A-1"})
    end(door.settings, job)
    refused = tool.delete(f"/api/jobs/{job.id}")
    assert (refused.status_code, "not shown" in refused.json()["detail"]) == (409, True)
    Job.update(delivered_at=1.0).where(Job.id == job.id).execute()
    assert tool.delete(f"/api/jobs/{job.id}").status_code == 204


def test_files_of_others_stay(door):
    job = given(door.settings)
    made = end(door.settings, job)
    token = create_token("operator", "operator")
    with door.client(Authorization=f"Bearer {token}") as client:
        answer = client.delete(f"/api/jobs/{job.id}")
    assert (answer.status_code, "administrator" in answer.json()["detail"]) == (403, True)
    assert (door.settings.files_dir / made.key).exists()


def test_a_file_that_becomes_a_study_is_found_by_its_patient(tool, door):
    names = {"PatientID": "A-17", "PatientName": "Müller^Anna", "AccessionNumber": "ACC-9",
             "StudyDate": "20261124"}  # fmt: skip
    job = given(door.settings, names)
    given(door.settings)
    for words in ("anna muller", "a-17", "acc-9"):
        [found] = tool.post("/api/series/search", json={"q": words}).json()["items"]
        assert (found["id"], found["study_date"]) == (job.series_id, "20261124")


@pytest.mark.parametrize("path", [
    "/api/inference/{}", "/api/inference/{}/zip", "/api/pairs/{}", "/api/results/{}",
    "/api/results/{}/previews/axial/result", "/api/results/{}/dicom", "/results/{}",
])  # fmt: skip
def test_a_number_that_is_no_id(tool, path):
    for number in (10**20, 2**63, 0, -1):
        assert tool.get(path.format(number)).status_code == 422
    assert tool.get(path.format(2**63 - 1)).status_code == 404


def test_what_the_client_has_is_not_sent_again(tool, door):
    file = stored(door.settings)
    tag = f'"{file.sha256}"'
    for known, status in (
        (tag, 304), (f"W/{tag}", 304), (f'"a", {tag}', 304), ("*", 304), (f'"x{tag[1:]}', 200),
        (f'"a{tag}', 200),
    ):  # fmt: skip
        answer = tool.get(f"/api/files/{file.key}", headers={"If-None-Match": known})
        assert answer.status_code == status, known


def test_a_batch_says_which_item_is_wrong(tool, door):
    good, odd = stored(door.settings), stored(door.settings, facts="{}")
    for bad, status, words in (("0" * 32, 404, "no such file"), (odd.key, 422, "as NIfTI")):
        items = [{"file": good.key}, {"file": bad}]
        answer = tool.post("/api/inference/batch", json={"items": items})
        assert answer.status_code == status
        assert answer.json()["detail"].startswith("items[1]: ")
        assert words in answer.json()["detail"]
    assert not Series.select().exists()
    alone = tool.post("/api/inference", json={"file": "0" * 32})
    for wrong, words in (({"recipe": "pairs"}, "pairs are made"), ({"slice_axis": True}, "a num")):
        answer = tool.post("/api/inference", json={"file": good.key, **wrong})
        assert answer.json()["errors"][0]["why"].startswith(words)
    assert "items" not in alone.json()["detail"]


def test_the_name_of_a_file_is_its_owners(tool, door):
    """It may tell of a patient."""
    mine, theirs = given(door.settings, owner="operator"), given(door.settings)
    study = given(door.settings, {"PatientID": "A-1"}, owner="operator")
    pairs = given_for_pairs(door.settings, owner="operator")
    plain, named = "NIfTI, 64 × 64 × 12 voxels", "head.nii.gz: NIfTI, 64 × 64 × 12 voxels"
    token = create_token("operator", "names")
    with door.client(Authorization=f"Bearer {token}") as operator:
        for client, expected in ((operator, plain), (tool, named)):
            for page in (
                client.get("/api/series").json()["items"],
                client.post("/api/series/search", json={}).json()["items"],
                [client.get(f"/api/series/{j.series_id}").json()
                 for j in (mine, theirs, study, pairs)],
            ):  # fmt: skip
                told = {row["id"]: (row["format"], row["description"]) for row in page}
                assert told[mine.series_id] == ("nifti", named)
                assert told[theirs.series_id] == ("nifti", expected)
                assert told[study.series_id] == ("nifti", plain)
                assert told[pairs.series_id] == ("pairs", "pairs of 1 scan")
    assert "head" not in tool.get(f"/api/series/{mine.series_id}/transitions").text


@pytest.mark.parametrize(
    ("path", "queue"), [("/api/inference", Queue.CPU), ("/api/pairs", Queue.PAIRS)]
)
def test_what_cannot_be_queued_is_made_once_all_the_same(tool, door, path, queue):
    file = stored(door.settings).key
    asked = {"file": file, "contrast": "T1w", "thickness_mm": 5.0}
    if path == "/api/pairs":
        asked = {"files": [file], "contrast": "T1w"}
    key = {"Idempotency-Key": uuid.uuid4().hex}
    queues = door.settings.queue_path
    queues.unlink(missing_ok=True)
    queues.write_bytes(b"no database" * 1000)
    first = tool.post(path, json=asked, headers=key)
    assert first.status_code == 202, first.text
    again = tool.post(path, json=asked, headers=key)
    assert (again.status_code, again.content) == (202, first.content)
    [job] = Job.select()
    queues.unlink()
    recovered = Queues(door.settings)
    assert recover(recovered) == 1
    assert recovered.waiting(queue) == {job.id}
