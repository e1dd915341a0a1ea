"""The series over HTTP: one row each, with what people want to know."""

from __future__ import annotations

import json
import time
from urllib.parse import parse_qs, urlsplit

import pytest
from web_door import Door, served

from mrisr_node.choices import Recipe
from mrisr_node.jobs.result_files import digests_of
from mrisr_node.jobs.stages import Stage
from mrisr_node.records import Instance, Job, Series, StageRun, State, StateError, Transition
from mrisr_node.web import jobs
from mrisr_node.web.viewer import comparison_path, comparison_url


def add(uid: str, state: State, **values) -> Series:
    names = {"sender", "description", "reason", "received_at", "expected_instances"}
    series = Series.create(
        series_instance_uid=uid,
        study_instance_uid="1.2.3",
        modality="MR",
        state=state.value,
        **{k: v for k, v in values.items() if k in names},
    )
    job = {k: v for k, v in values.items() if k not in names}
    if job:
        Job.create(series=series, recipe=Recipe.NATIVE.value, **job)
        if state is State.FAILED:
            Transition.create(
                series=series, source=State.PREPARING.value, target=state.value, at=1.0
            )
    return series


@pytest.fixture(scope="module")
def door(make_settings):
    """A front door of its own, with a series in every state and no PACS behind it."""
    with served(make_settings()) as running:
        for number, state in enumerate(State):
            add(f"1.2.3.{number}", state, description=f"T2 {state}", received_at=1e9 + number)
        yield running


@pytest.fixture
def tool(door: Door):
    with door.tool() as client:
        yield client


def test_list_newest_first_in_pages(tool):
    page = tool.get("/api/jobs", params={"limit": 4, "offset": 1}).json()
    assert (page["total"], page["limit"], page["offset"]) == (9, 4, 1)
    states = list(State)[::-1]
    assert [one["state"] for one in page["items"]] == [s.value for s in states[1:5]]
    assert tool.get("/api/jobs", params={"offset": 100}).json()["items"] == []


def test_list_one_state(tool):
    page = tool.get("/api/jobs", params={"state": "failed"}).json()
    assert page["total"] == 1
    assert [one["description"] for one in page["items"]] == ["T2 failed"]


@pytest.mark.parametrize("query", ["state=lost", "limit=0", "limit=9999", "offset=-1", "limit=x"])
def test_what_cannot_be_asked(tool, query):
    answer = tool.get(f"/api/jobs?{query}")
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert query.partition("=")[0] in str(answer.json()["errors"])
    assert query.partition("=")[2] not in answer.json()["detail"]


def test_one_series(tool):
    series = Series.get(Series.state == "receiving")
    Instance.create(series=series, sop_instance_uid="1.1", path="x", sha256="", size=1)
    row = tool.get(f"/api/jobs/{series.id}").json()
    assert row["series_instance_uid"] == series.series_instance_uid
    assert row["instances"] == 1
    assert row["stage"] is row["time_left"] is row["viewer_url"] is None
    assert tool.get("/api/jobs/4711").status_code == 404
    assert tool.get("/api/jobs/0x1").status_code == 422


def test_progress_and_time_left(tool):
    series = add("2.1", State.PREPARING, stage=Stage.BRAIN.value, progress=0.5, voxels=1000)
    row = tool.get(f"/api/jobs/{series.id}").json()
    assert (row["stage"], row["stage_name"]) == ("brain", "Finding the brain")
    assert row["overall"] == pytest.approx(1.5 / 8)
    assert row["time_left"]["basis"] == "reference"
    assert row["time_left"]["low"] < row["time_left"]["seconds"] < row["time_left"]["high"]
    for stage in Stage:
        job = Job.get(Job.series == series)
        StageRun.create(
            job=job, stage=stage.value, started_at=time.time(), seconds=2.0, voxels=1000,
            finished=True,
        )  # fmt: skip
    row = tool.get(f"/api/jobs/{series.id}").json()
    assert row["time_left"]["basis"] == "history"
    assert row["time_left"]["seconds"] == pytest.approx(2.0 * 6.5)


def test_the_comparison_is_linked_once_the_result_is_in_the_pacs(tool, door):
    early = add("3.1", State.DELIVERING, stage=Stage.STORE.value, result_series_uid="3.2")
    done = add(
        "3.3", State.DONE, stage=Stage.CONFIRM.value, result_series_uid="3.4", delivered_at=1.0
    )
    assert tool.get(f"/api/jobs/{early.id}").json()["viewer_url"] is None
    row = tool.get(f"/api/jobs/{done.id}").json()
    assert row["overall"] == 1
    assert row["viewer_url"] == comparison_url(door.settings, "1.2.3", "3.3", "3.4")
    assert row["study_url"] == f"{door.settings.viewer_url}/viewer/viewer?StudyInstanceUIDs=1.2.3"
    parts = urlsplit(comparison_path("1.2.3", "3.3", "3.4"))
    assert parts.path == "/viewer/viewer"
    assert parse_qs(parts.query) == {
        "StudyInstanceUIDs": ["1.2.3"],
        "srcseries": ["3.3"],
        "srseries": ["3.4"],
    }


def test_a_failed_series_can_be_tried_again(tool):
    series = add("4.1", State.FAILED, reason="the GPU was lost", stage="brain")
    answer = tool.post(f"/api/jobs/{series.id}/retry")
    assert answer.status_code == 200
    assert answer.json()["state"] == "queued"
    again = tool.post(f"/api/jobs/{series.id}/retry")
    assert again.status_code == 409
    assert "failed" in again.json()["detail"]


def test_results_that_the_pacs_did_not_take_are_sent_again(tool, door):
    dead = [
        add(f"5.{n}", State.FAILED, reason="the PACS was down", stage=Stage.CONFIRM.value)
        for n in range(4)
    ]
    for series in dead[:3]:
        job = Job.get(Job.series == series)
        folder = door.settings.work_dir / str(job.id) / "result"
        folder.mkdir(parents=True)
        (folder / "1.dcm").touch()
        (folder.parent / "result.json").write_text('{"instances": 1}')
        digests = digests_of(folder)
        (folder.parent / "digests.json").write_text(json.dumps(digests))
    page = tool.get("/api/jobs", params={"state": "failed"}).json()
    assert page["dead_letters"] == 4
    assert [one["dead_letter"] for one in page["items"] if one["id"] == dead[0].id] == [True]

    answer = tool.post(f"/api/jobs/{dead[0].id}/send-again")
    assert (answer.status_code, answer.json()["state"]) == (200, "queued")
    assert (answer.json()["stage"], answer.json()["dead_letter"]) == ("store", False)
    again = tool.post(f"/api/jobs/{dead[0].id}/send-again")
    assert (again.status_code, "has no result" in again.json()["detail"]) == (409, True)
    gone = tool.post(f"/api/jobs/{dead[3].id}/send-again")
    assert (gone.status_code, "no longer there" in gone.json()["detail"]) == (409, True)
    assert tool.post("/api/jobs/4711/send-again").status_code == 404

    assert tool.post("/api/jobs/send-again").json() == {"sent_again": 2}
    assert tool.get("/api/jobs").json()["dead_letters"] == 0


def test_a_series_that_moved_on_cannot_be_tried_again(tool, monkeypatch):
    series = add("4.2", State.FAILED)

    def moved_on(series_id: int) -> None:
        raise StateError("it is receiving again")

    monkeypatch.setattr(jobs, "retry", moved_on)
    answer = tool.post(f"/api/jobs/{series.id}/retry")
    assert answer.status_code == 409
    assert "look again" in answer.json()["detail"]


def test_the_api_document_names_every_field(tool):
    document = tool.get("/api/openapi.json").json()
    assert {path for path in document["paths"] if path.startswith("/api/jobs")} == {
        "/api/jobs", "/api/jobs/send-again", "/api/jobs/{series_id}",
        "/api/jobs/{series_id}/retry", "/api/jobs/{series_id}/send-again",
    }  # fmt: skip
    row = tool.get("/api/jobs?limit=1").json()["items"][0]
    assert set(row) == set(document["components"]["schemas"]["JobView"]["properties"])
