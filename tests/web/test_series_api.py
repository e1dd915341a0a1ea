"""The series over HTTP: one row each, with what people want to know."""

from __future__ import annotations

import time
from urllib.parse import parse_qs, urlsplit

import pytest
from pydicom.uid import generate_uid
from web_door import Door, served

from mrisr_node.choices import Recipe
from mrisr_node.jobs.stages import Stage
from mrisr_node.records import Instance, Job, Series, StageRun, State, Transition
from mrisr_node.web.viewer import comparison_path, comparison_url


def add(uid: str, state: State, **values) -> Series:
    names = {
        "sender", "description", "reason", "received_at", "expected_instances", "patient_id",
        "patient_name", "accession_number",
    }  # fmt: skip
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
    page = tool.get("/api/series", params={"limit": 4, "offset": 1}).json()
    assert (page["total"], page["limit"], page["offset"]) == (10, 4, 1)
    states = list(State)[::-1]
    assert [one["state"] for one in page["items"]] == [s.value for s in states[1:5]]
    assert tool.get("/api/series", params={"offset": 100}).json()["items"] == []


def test_list_one_state(tool):
    page = tool.get("/api/series", params={"state": "failed"}).json()
    assert page["total"] == 1
    assert [one["description"] for one in page["items"]] == ["T2 failed"]


@pytest.mark.parametrize("query", ["state=lost", "limit=0", "limit=9999", "offset=-1", "limit=x"])
def test_what_cannot_be_asked(tool, query):
    answer = tool.get(f"/api/series?{query}")
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert query.partition("=")[0] in str(answer.json()["errors"])
    assert query.partition("=")[2] not in answer.json()["detail"]


def test_one_series(tool):
    series = Series.get(Series.state == "receiving")
    Instance.create(series=series, sop_instance_uid="1.1", path="x", sha256="", size=1)
    row = tool.get(f"/api/series/{series.id}").json()
    assert row["series_instance_uid"] == series.series_instance_uid
    assert row["instances"] == 1
    assert row["stage"] is row["time_left"] is row["viewer_url"] is None
    assert tool.get("/api/series/4711").status_code == 404
    assert tool.get("/api/series/0x1").status_code == 422


def test_progress_and_time_left(tool):
    series = add("2.1", State.PREPARING, stage=Stage.BRAIN.value, progress=0.5, voxels=1000)
    row = tool.get(f"/api/series/{series.id}").json()
    assert (row["stage"], row["stage_name"]) == ("brain", "Finding the brain")
    assert row["overall"] == pytest.approx(1.5 / 8)
    assert row["time_left"] == {"seconds": None, "low": None, "high": None, "runs": 0}
    for stage in Stage:
        job = Job.get(Job.series == series)
        StageRun.create(
            job=job, stage=stage.value, started_at=time.time(), seconds=2.0, voxels=1000,
            finished=True,
        )  # fmt: skip
    row = tool.get(f"/api/series/{series.id}").json()
    left = row["time_left"]
    assert (left["runs"], left["seconds"]) == (1, pytest.approx(2.0 * 6.5))
    assert left["low"] < left["seconds"] < left["high"]


@pytest.mark.parametrize(
    ("state", "job", "waiting_for"),
    [
        (State.QUEUED, {}, "cpu"),
        (State.QUEUED, {"stage": "store"}, "delivery"),
        (State.PREPARING, {"stage": "brain", "lease_owner": "x"}, None),
        (State.PREPARING, {"stage": "superresolve"}, "gpu"),
        (State.RESOLVING, {"stage": "write"}, "delivery"),
        (State.DELIVERING, {"stage": "store", "not_before": time.time() + 600}, None),
        (State.FAILED, {"stage": "brain"}, None),
    ],
)
def test_it_says_what_a_job_waits_for(tool, state, job, waiting_for):
    series = add(generate_uid(), state, **({"progress": 0.0} | job))
    assert tool.get(f"/api/series/{series.id}").json()["waiting_for"] == waiting_for


def test_it_says_when_a_job_is_tried_again_and_gives_no_shorter_time(tool):
    series = add(generate_uid(), State.DELIVERING, stage=Stage.STORE.value)
    [job] = series.jobs
    for stage in Stage:
        StageRun.create(job=job, stage=stage.value, started_at=1.0, seconds=2.0, finished=True)
    at = time.time() + 1800
    Job.update(not_before=at).where(Job.id == job.id).execute()
    row = tool.get(f"/api/series/{series.id}").json()
    assert (row["next_try_at"], row["waiting_for"]) == (at, None)
    assert [row["time_left"][name] for name in ("seconds", "low", "high")] == [None] * 3
    of_job = tool.get(f"/api/jobs/{job.id}").json()
    assert (of_job["next_try_at"], of_job["time_left"]) == (at, row["time_left"])
    Job.update(not_before=time.time() - 1).where(Job.id == job.id).execute()
    row = tool.get(f"/api/series/{series.id}").json()
    assert (row["next_try_at"], row["waiting_for"]) == (None, "delivery")
    assert row["time_left"]["seconds"] is not None
    assert tool.get(f"/api/jobs/{job.id}").json()["next_try_at"] is None


def test_the_comparison_is_linked_once_the_result_is_in_the_pacs(tool, door):
    early = add("3.1", State.DELIVERING, stage=Stage.STORE.value, result_series_uid="3.2")
    done = add(
        "3.3", State.DONE, stage=Stage.CONFIRM.value, result_series_uid="3.4", delivered_at=1.0
    )
    assert tool.get(f"/api/series/{early.id}").json()["viewer_url"] is None
    row = tool.get(f"/api/series/{done.id}").json()
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
    answer = tool.post(f"/api/series/{series.id}/retry")
    assert answer.status_code == 200
    assert answer.json()["state"] == "queued"
    again = tool.post(f"/api/series/{series.id}/retry")
    assert again.status_code == 409
    assert "failed" in again.json()["detail"]


def test_a_series_is_found_by_any_part_of_what_is_known_of_it(tool):
    mine = add(
        "6.1", State.DONE, description="T1 tra Schädel", patient_id="P-77",
        patient_name="Müller^Anna=山田^太郎", accession_number="ACC_9",
    )  # fmt: skip
    other = add("6.2", State.DONE, patient_id="P-78", patient_name="Muller^Bert")

    def found(q: str, **more) -> list[int]:
        answer = tool.post("/api/series/search", json={"q": q, **more})
        assert answer.status_code == 200, answer.text
        assert answer.json()["total"] == len(answer.json()["items"])
        return [one["id"] for one in answer.json()["items"]]

    for words in ("anna müller", "MULLER, Anna", "Müller^Anna", "山田", "太郎 p-77", "acc_9",
                  "schadel mull", "6.1", " P-77 "):  # fmt: skip
        assert found(words) == [mine.id], words
    assert found("muller") == [other.id, mine.id]
    # What means something to the database means nothing here.
    for words in ("%", "acc%9", "a_n", "' OR 1=1 --", "p-7_", "bert anna"):
        assert found(words) == [], words
    assert found("muller", state="failed") == []
    assert len(found("")) == len(found("   ")) > 2


def test_what_cannot_be_searched(tool):
    for body in ({"q": "x" * 201}, {"q": 1}, {"query": "x"}, {"limit": 501}, {"state": "lost"}):
        answer = tool.post("/api/series/search", json=body)
        assert answer.status_code == 422
        assert "x" * 201 not in answer.text


def test_no_name_stands_in_an_address(tool):
    document = tool.get("/api/openapi.json").json()
    names = {
        parameter["name"]
        for path, methods in document["paths"].items()
        if path.startswith(("/api/series", "/api/jobs"))
        for method in methods.values()
        for parameter in method.get("parameters", [])
    }
    assert names == {
        "state", "limit", "offset", "series", "series_id", "job_id", "study_instance_uid",
        "series_instance_uid", "Idempotency-Key",
    }  # fmt: skip


def test_filter_by_uid(tool):
    series = add("6.3", State.DONE)
    page = tool.get("/api/series", params={"series_instance_uid": "6.3"}).json()
    assert [one["id"] for one in page["items"]] == [series.id]
    page = tool.get("/api/series", params={"study_instance_uid": "9.9"}).json()
    assert page["total"] == 0
    assert tool.get("/api/series", params={"study_instance_uid": "Müller"}).status_code == 422


def test_what_happened_to_a_series(tool):
    series = add("6.4", State.RECEIVING)
    series.move(State.COMPLETE, "all 3 are here")
    series.move(State.SKIPPED, "a scout")
    items = tool.get(f"/api/series/{series.id}/transitions").json()["items"]
    assert [(one["source"], one["target"], one["reason"]) for one in items] == [
        ("receiving", "complete", "all 3 are here"), ("complete", "skipped", "a scout"),
    ]  # fmt: skip
    assert items[0]["at"] <= items[1]["at"]
    assert tool.get("/api/series/4711/transitions").status_code == 404


@pytest.mark.parametrize(
    ("state", "job", "actions"),
    [
        (State.RECEIVING, {}, []),
        (State.QUEUED, {"stage": ""}, ["cancel"]),
        (State.RESOLVING, {"stage": "superresolve"}, ["cancel"]),
        (State.DELIVERING, {"stage": "write"}, ["cancel"]),
        (State.DELIVERING, {"stage": "store"}, []),
        (State.DONE, {"stage": "confirm"}, ["again", "delete"]),
        (State.SKIPPED, {}, ["again"]),
        (State.FAILED, {}, ["retry"]),
        (State.FAILED, {"stage": "brain"}, ["retry", "delete"]),
        (State.FAILED, {"stage": "store"}, ["send-again", "delete"]),
        (State.CANCELLED, {"stage": "brain"}, ["retry", "delete"]),
    ],
)
def test_what_can_be_done(tool, state, job, actions):
    series = add(f"7.{Series.select().count()}", state, **job)
    assert tool.get(f"/api/series/{series.id}").json()["actions"] == actions


def test_the_api_document_names_every_field(tool):
    document = tool.get("/api/openapi.json").json()
    ours = ("/api/series", "/api/jobs")
    assert {path for path in document["paths"] if path.startswith(ours)} == {
        "/api/series", "/api/series/search", "/api/series/{series_id}",
        "/api/series/{series_id}/transitions", "/api/series/{series_id}/retry",
        "/api/jobs", "/api/jobs/send-again", "/api/jobs/{job_id}", "/api/jobs/{job_id}/cancel",
        "/api/jobs/{job_id}/retry", "/api/jobs/{job_id}/send-again",
    }  # fmt: skip
    row = tool.get("/api/series?limit=1").json()["items"][0]
    assert set(row) == set(document["components"]["schemas"]["SeriesView"]["properties"])
