"""A whole node: a series of the PACS is asked for, cancelled while HD-BET runs, and tried again."""

from __future__ import annotations

import time

import httpx
import pytest

from mrisr_node.intake.sending import Destination, send_files
from mrisr_node.node.sample import Acquisition, write_sample
from mrisr_node.node.supervisor import Node
from mrisr_node.people.tokens import create_token
from mrisr_node.records import Failure, Job, Series, StageRun, State, Transition, open_records
from mrisr_node.results.delivery import Pacs

PATIENCE = 840.0


@pytest.fixture
def node(make_settings, needs_orthanc):
    settings = make_settings(
        checkpoint=("thin-small",), quiet_seconds=2.0, minimum_free_bytes=0,
        stable_age=86_400,  # nothing is forwarded by itself
    )  # fmt: skip
    open_records(settings.database_path)
    with Node(settings, lambda _: None) as running:
        yield running


def until(condition, seconds=PATIENCE):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, [(s.state, s.reason) for s in Series.select()]
        time.sleep(0.1)
    return found


@pytest.mark.timeout(1800)
def test_asked_for_cancelled_and_tried_again(node, tmp_path):
    settings = node.settings
    sample = write_sample(tmp_path / "head", Acquisition(slices=12, matrix=160))
    pacs_address = (settings.pacs_host, settings.pacs_port, settings.pacs_ae_title, "SCANNER")
    assert send_files(sample.paths, Destination(*pacs_address), lambda _: None) == []
    pacs = Pacs(settings)
    headers = {"Authorization": f"Bearer {create_token('admin', 'tests')}"}
    with httpx.Client(base_url=settings.viewer_url, headers=headers, trust_env=False,
                      timeout=60) as tool:  # fmt: skip
        body = {"study_instance_uid": sample.study_uid, "series_instance_uid": sample.series_uid}
        begun = tool.post("/api/jobs", json=body)
        assert begun.status_code == 202, begun.text
        assert begun.json()["items"][0]["answer"] == "asked for"
        where = begun.headers["location"]
        until(lambda: StageRun.select().where(StageRun.stage == "brain").exists())
        [row] = tool.get(where).json()["items"]
        assert (row["instances"], row["actions"]) == (len(sample.paths), ["cancel"])
        cancelled = tool.post(f"/api/jobs/{row['job']}/cancel")
        assert cancelled.json()["state"] == "cancelled"
        # The worker lets go, whatever it was at.
        until(lambda: Job.get().lease_owner is None, 120)
        job = Job.get()
        assert (job.attempts, job.finished_at is not None) == (0, True)
        assert not Failure.select().exists()
        assert pacs.count(sample.study_uid, sample.series_uid) == len(sample.paths)
        with pacs._client() as client:
            assert len(client.search_for_series(sample.study_uid)) == 1
        assert tool.get(where).json()["items"][0]["reason"] == "cancelled by admin"

        assert tool.post(f"/api/jobs/{row['job']}/retry").json()["state"] == "waiting"
        until(lambda: Series.get().state in (State.DONE, State.FAILED))
        [row] = tool.get(where).json()["items"]
        assert row["state"] == "done", row["reason"]
        assert pacs.count(sample.study_uid, row["result_series_uid"]) > len(sample.paths)
        assert Job.select().count() == 1
        said = [step.reason for step in Transition.select().order_by(Transition.id)]
        assert "cancelled by admin" in said
        assert "tried again by admin" in said
        assert tool.post("/api/jobs", json=body).status_code == 409
        assert tool.delete(f"/api/jobs/{row['job']}").status_code == 204
        assert not any(settings.spool_dir.rglob("*.dcm"))
        assert pacs.count(sample.study_uid, sample.series_uid) == len(sample.paths)
