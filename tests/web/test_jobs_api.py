"""Jobs over HTTP: lists and actions; with a real PACS where it has a part."""

from __future__ import annotations

import time
import uuid

import httpx
import pytest
from given_samples import whole_result
from web_door import served
from web_samples import as_file, make_study

from mrisr_node.jobs import asking
from mrisr_node.jobs.stages import Stage
from mrisr_node.node.orthanc import OrthancProcess
from mrisr_node.people.tokens import create_token
from mrisr_node.records import (
    ApiToken,
    Instance,
    Job,
    ResultSeries,
    Series,
    StageRun,
    State,
    Transition,
)


@pytest.fixture(scope="module")
def pacs(needs_orthanc, make_settings):
    """An Orthanc of its own, whose receiver nobody runs."""
    with OrthancProcess(make_settings(stable_age=86_400)) as process:
        yield process


@pytest.fixture(scope="module")
def door(pacs):
    with served(pacs.settings) as running:
        yield running


@pytest.fixture(scope="module")
def study(pacs):
    made = make_study()
    auth = (pacs.settings.orthanc_username, pacs.settings.pacs_password())
    with httpx.Client(base_url=pacs.url, auth=auth, trust_env=False, timeout=60) as client:
        for image in made.instances:
            client.post("/instances", content=as_file(image)).raise_for_status()
    return made


@pytest.fixture
def tool(door):
    with door.tool() as client:
        yield client
    Series.delete().execute()


def add(uid: str, state: State, *jobs: dict, study: str = "1.2.3") -> Series:
    series = Series.create(
        series_instance_uid=uid, study_instance_uid=study, modality="MR", state=state.value,
        reason=f"it is {state}",
    )  # fmt: skip
    for job in jobs:
        Job.create(series=series, recipe="native", **job)
    if state is State.FAILED:
        Transition.create(series=series, source="preparing", target=state.value, at=1.0)
    return series


def begin(tool, study, series=None, **more):
    body = {"study_instance_uid": study, **more}
    return tool.post("/api/jobs", json=body | ({"series_instance_uid": series} if series else {}))


def keep(door, series: Series, images) -> None:
    """Put images on the spool, as if they had been received."""
    for image in images:
        path = door.settings.spool_dir / f"{image.SOPInstanceUID}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(as_file(image))
        Instance.create(series=series, sop_instance_uid=image.SOPInstanceUID, path=path.name,
                        sha256="", size=1)  # fmt: skip


def test_jobs_with_their_states_newest_first(tool):
    later = time.time() + 3000
    add("1.1", State.QUEUED, {"not_before": later})
    add("1.2", State.RESOLVING, {"stage": "superresolve", "lease_owner": "somebody"})
    twice = add("1.3", State.FAILED, {"delivered_at": 1.0, "result_series_uid": "9"}, {})
    add("1.4", State.CANCELLED, {"stage": "brain"})
    add("1.5", State.DONE, {"delivered_at": 2.0})
    add("1.6", State.RECEIVING, {"stage": "brain"})
    add("1.7", State.SKIPPED)
    add("1.8", State.DONE, {"deleted_at": 1.0, "delivered_at": 1.0})
    page = tool.get("/api/jobs").json()
    states = ["superseded", "done", "cancelled", "failed", "done", "running", "waiting"]
    assert [one["state"] for one in page["items"]] == states
    assert page["total"] == len(states)
    assert [one["reason"] for one in page["items"]][3:5] == ["it is failed", ""]
    assert page["items"][-1]["next_try_at"] == later
    for state in set(states):
        some = tool.get("/api/jobs", params={"state": state, "limit": 1}).json()
        assert (some["total"], some["items"][0]["state"]) == (states.count(state), state)
    mine = tool.get("/api/jobs", params={"series": twice.id}).json()
    assert [one["series"] for one in mine["items"]] == [twice.id] * 2
    assert tool.get("/api/jobs", params={"offset": 5}).json()["items"] == page["items"][5:]


def test_one_job_with_what_ran(tool):
    series = add("1.1", State.PREPARING, {"stage": "brain", "progress": 0.5, "lease_owner": "x"})
    [job] = series.jobs
    StageRun.create(job=job, stage="convert", started_at=5.0, seconds=2.0, finished=True)
    StageRun.create(job=job, stage="brain", started_at=7.0)
    row = tool.get(f"/api/jobs/{job.id}").json()
    assert (row["state"], row["stage_name"]) == ("running", "Finding the brain")
    assert row["overall"] == pytest.approx(1.5 / 8)
    assert [(run["stage"], run["seconds"]) for run in row["stages"]] == [
        ("convert", 2.0), ("brain", None),
    ]  # fmt: skip
    document = tool.get("/api/openapi.json").json()
    assert set(row) == set(document["components"]["schemas"]["JobView"]["properties"])
    for path in ("/api/jobs/4711", "/api/jobs/99999999999999999999"):
        assert tool.get(path).status_code in (404, 422)


def test_cancel_says_who_and_what_is_too_late(tool):
    series = add("1.1", State.PREPARING, {"stage": "brain"})
    [job] = series.jobs
    answer = tool.post(f"/api/jobs/{job.id}/cancel")
    assert (answer.status_code, answer.json()["state"]) == (200, "cancelled")
    assert answer.json()["reason"] == "cancelled by admin"
    again = tool.post(f"/api/jobs/{job.id}/cancel")
    assert (again.status_code, "look again" in again.json()["detail"]) == (409, True)
    retried = tool.post(f"/api/jobs/{job.id}/retry")
    assert (retried.status_code, retried.json()["state"]) == (200, "waiting")
    assert tool.post(f"/api/jobs/{job.id}/retry").status_code == 409
    said = tool.get(f"/api/series/{series.id}/transitions").json()["items"]
    assert [one["reason"] for one in said] == ["cancelled by admin", "tried again by admin"]


def test_only_the_newest_job_of_a_series_is_tried_again(tool):
    series = add("1.1", State.FAILED, {"stage": "brain"}, {"stage": "brain"})
    old, new = series.jobs.order_by(Job.id)
    answer = tool.post(f"/api/jobs/{old.id}/retry")
    assert (answer.status_code, "newer job" in answer.json()["detail"]) == (409, True)
    assert tool.post(f"/api/jobs/{new.id}/retry").status_code == 200


@pytest.mark.parametrize("what", ["", "/1/cancel", "/1/retry", "/1/send-again", "/send-again"])
def test_a_viewer_may_look_and_no_more(door, what):
    token = create_token("admin", f"viewer{what}")
    ApiToken.update(scopes="read").where(ApiToken.name == f"viewer{what}").execute()
    with door.client(Authorization=f"Bearer {token}") as client:
        assert client.get("/api/jobs").status_code == 200
        body = {"study_instance_uid": "1.2"} if not what else None
        assert client.post(f"/api/jobs{what}", json=body).status_code == 403
        assert client.delete("/api/jobs/1").status_code == 403


def test_a_series_of_the_pacs_is_asked_for(tool, study):
    answer = begin(tool, study.study, study.source_uid)
    assert answer.status_code == 202, answer.text
    where = answer.headers["location"]
    assert where == f"/api/series?series_instance_uid={study.source_uid}"
    [one] = answer.json()["items"]
    assert (one["answer"], one["series"], one["href"]) == ("asked for", None, where)
    assert tool.get(where).json()["total"] == 0  # nobody receives here


def test_the_same_creation_comes_once(tool, study):
    key = {"Idempotency-Key": uuid.uuid4().hex}
    body = {"study_instance_uid": study.study, "series_instance_uid": study.source_uid}
    first, again = (tool.post("/api/jobs", json=body, headers=key) for _ in range(2))
    assert again.content == first.content
    assert again.headers["location"] == first.headers["location"]
    assert again.headers["idempotency-replayed"] == "true"


def test_results_are_no_series_to_ask_for(tool, study):
    job = Job.create(series=add("1.1", State.DONE), recipe="native")
    ResultSeries.create(job=job, series_instance_uid=study.result_uid)
    answers = {one["series_instance_uid"]: one["answer"]
               for one in begin(tool, study.study).json()["items"]}  # fmt: skip
    assert answers == {study.source_uid: "asked for", study.result_uid: "unsuitable"}
    alone = begin(tool, study.study, study.result_uid)
    assert (alone.status_code, "results" in alone.json()["detail"]) == (409, True)


def test_what_was_made_of_a_file_is_not_asked_for(tool, study):
    series = add(study.source_uid, State.DONE, {"delivered_at": 1.0}, study=study.study)
    Series.update(format="nifti").where(Series.id == series.id).execute()
    answer = begin(tool, study.study, study.source_uid, again=True)
    assert (answer.status_code, "no MR" in answer.json()["detail"]) == (409, True)
    assert Series.get_by_id(series.id).state == State.DONE


def test_what_was_processed_is_processed_again_only_on_demand(tool, study, door):
    series = add(study.source_uid, State.DONE, {"delivered_at": 1.0}, study=study.study)
    keep(door, series, study.source)
    refused = begin(tool, study.study, study.source_uid)
    assert (refused.status_code, "again: true" in refused.json()["detail"]) == (409, True)
    answer = begin(tool, study.study, study.source_uid, again=True)
    assert (answer.status_code, answer.json()["items"][0]["series"]) == (202, series.id)
    now = Series.get_by_id(series.id)
    assert now.state == State.RECEIVING
    assert time.time() - now.last_instance_at < 60
    assert Transition.get(Transition.series == series).reason == "asked for by admin"
    twice = begin(tool, study.study, study.source_uid, again=True)
    assert twice.json()["items"][0]["answer"] == "under way"


def test_a_pacs_that_does_not_send_leaves_all_as_it_was(tool, study, door, monkeypatch):
    series = add(study.source_uid, State.DONE, {"delivered_at": 1.0}, study=study.study)
    keep(door, series, study.source)
    for instance in series.instances:
        (door.settings.spool_dir / instance.path).unlink()
    Series.update(copies_deleted_at=1.0).where(Series.id == series.id).execute()
    before = Series.select().dicts().get()
    # Orthanc knows no such peer.
    monkeypatch.setattr(asking, "MODALITY", "nobody")
    assert begin(tool, study.study, study.source_uid, again=True).status_code == 503
    assert Series.select().dicts().get() == before
    assert series.instances.count() == len(study.source)
    monkeypatch.undo()
    # What arrives before the series is open again stays.
    early = series.instances.get()
    (door.settings.spool_dir / early.path).write_bytes(b"")
    assert begin(tool, study.study, study.source_uid, again=True).status_code == 202
    assert [one.id for one in series.instances] == [early.id]
    assert Series.get_by_id(series.id).state == State.RECEIVING


def test_what_the_pacs_does_not_have(tool, study):
    answer = begin(tool, study.study, "1.2.3.4")
    assert (answer.status_code, "send it there" in answer.json()["detail"]) == (404, True)
    for uid in ("1.*", "", "1.2.3\\4", "1" * 65):
        assert begin(tool, study.study, uid or "x").status_code == 422


def test_a_job_goes_with_its_copies_once_the_pacs_has_the_originals(tool, study, door):
    series = add(study.source_uid, State.DONE, {"delivered_at": 1.0}, study=study.study)
    [job] = series.jobs
    keep(door, series, study.source)
    folder = door.settings.work_dir / str(job.id)
    folder.mkdir(parents=True)
    assert tool.delete(f"/api/jobs/{job.id}").status_code == 204
    assert not folder.exists()
    assert not any((door.settings.spool_dir / i.path).exists() for i in series.instances)
    assert tool.get(f"/api/jobs/{job.id}").status_code == 404
    assert tool.delete(f"/api/jobs/{job.id}").status_code == 404
    # What came and what became of it stays known, and the PACS keeps everything.
    row = tool.get(f"/api/series/{series.id}").json()
    assert (row["state"], row["instances"]) == ("done", len(study.source))
    assert row["copies_deleted_at"] is not None
    assert (row["job"], row["actions"]) == (None, ["again"])
    assert row["job_deleted_at"] >= row["copies_deleted_at"]
    # From there it can come again.
    assert begin(tool, study.study, study.source_uid, again=True).status_code == 202
    assert Instance.select().where(Instance.series == series).count() == 0


def test_a_job_stays_while_it_is_needed(tool, study, door):
    only_copy = add("1.1", State.FAILED, {"stage": "brain"}, study=study.study)
    Instance.create(series=only_copy, sop_instance_uid="1.1.1", path="x", sha256="", size=1)
    not_over = add("1.2", State.RESOLVING, {"stage": "superresolve"})
    held = add("1.3", State.CANCELLED, {"lease_owner": "x", "lease_until": time.time() + 60})
    for series, words in ((only_copy, "send them there"), (not_over, "cancel it first"),
                          (held, "few seconds")):  # fmt: skip
        answer = tool.delete(f"/api/jobs/{series.jobs.get().id}")
        assert (answer.status_code, words in answer.json()["detail"]) == (409, True)
        assert tool.get(f"/api/jobs/{series.jobs.get().id}").status_code == 200


def test_results_that_the_pacs_did_not_take_are_sent_again(tool, door):
    dead = [add(f"5.{n}", State.FAILED, {"stage": Stage.CONFIRM.value}) for n in range(4)]
    jobs = [Job.get(Job.series == series) for series in dead]
    for job in jobs[:3]:
        whole_result(door.settings, job)
    page = tool.get("/api/series", params={"state": "failed"}).json()
    assert page["dead_letters"] == 4
    assert [one["dead_letter"] for one in page["items"] if one["id"] == dead[0].id] == [True]

    answer = tool.post(f"/api/jobs/{jobs[0].id}/send-again")
    assert (answer.status_code, answer.json()["state"]) == (200, "waiting")
    assert answer.json()["stage"] == "store"
    again = tool.post(f"/api/jobs/{jobs[0].id}/send-again")
    assert (again.status_code, "has no result" in again.json()["detail"]) == (409, True)
    gone = tool.post(f"/api/jobs/{jobs[3].id}/send-again")
    assert (gone.status_code, "no longer there" in gone.json()["detail"]) == (409, True)
    assert tool.post("/api/jobs/4711/send-again").status_code == 404

    assert tool.post("/api/jobs/send-again").json() == {"sent_again": 2}
    assert tool.get("/api/series").json()["dead_letters"] == 0


def test_without_the_pacs_nothing_is_asked_for_or_deleted(make_settings):
    with served(make_settings()) as door, door.tool() as client:
        series = add("1.1", State.FAILED, {"stage": "brain"})
        Instance.create(series=series, sop_instance_uid="1.1.1", path="x", sha256="", size=1)
        answer = begin(client, "1.2.3")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "10")
        assert client.delete(f"/api/jobs/{series.jobs.get().id}").status_code == 503
        assert Series.get().copies_deleted_at is None
