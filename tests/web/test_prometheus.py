"""What Prometheus is told, read by its own parsers; and the example of alerts."""

from __future__ import annotations

import re
import time
from pathlib import Path

import promql_parser
import pytest
import yaml
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as read_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families
from web_door import Door, served

from mrisr_node.beats import write_beat
from mrisr_node.choices import Recipe
from mrisr_node.jobs.stages import Stage
from mrisr_node.records import DIED, Failure, Job, Rejection, Series, StageRun, State

ALERTS = Path(__file__).resolve().parents[2] / "docs" / "alerts.yml"

Samples = dict[str, dict[tuple[str, ...], float]]
"""By metric, then by the values of the labels in the order of the labels' names."""


def add(state: State, stage: Stage, **job) -> Job:
    series = Series.create(
        series_instance_uid=f"1.2.3.4.5.{Series.select().count()}",
        study_instance_uid="1.2.3.4",
        description="T1 secret",
        sender="SCANNER",
        state=state.value,
        state_at=time.time() - 900,
    )
    values = {"recipe": Recipe.NATIVE.value, "created_at": time.time() - 900} | job
    return Job.create(series=series, stage=stage.value, **values)


@pytest.fixture(scope="module")
def door(make_settings):
    """A front door of its own, with work in every queue and no PACS behind it."""
    with served(make_settings()) as running:
        now = time.time()
        add(State.QUEUED, Stage.CONVERT)
        add(State.PREPARING, Stage.BRAIN, lease_owner="here:1:a", lease_until=now + 600)
        add(State.PREPARING, Stage.SUPERRESOLVE, lease_owner="dead:1:a", lease_until=now - 1)
        add(State.DELIVERING, Stage.STORE, not_before=now + 600)
        add(State.FAILED, Stage.CONVERT)
        done = add(State.DONE, Stage.CONFIRM)
        for seconds in (0.4, 4.0, 40.0):
            StageRun.create(job=done, stage=Stage.BRAIN.value, started_at=now - 2000,
                            seconds=seconds, finished=True)  # fmt: skip
        StageRun.create(job=done, stage=Stage.BRAIN.value, started_at=now)  # runs, or died
        for kind in ("OutOfRange", "OutOfRange", DIED):
            Failure.create(series=done.series_id, stage=Stage.CONVERT.value, kind=kind)
        Rejection.create(path="x.dcm", reason="cannot be read", sender="SCANNER", at=now - 60)
        write_beat("receiver/1", "here:1:a", {"associations": 3})
        write_beat("receiver/2", "here:2:a", {"associations": 4})
        write_beat("cpu-worker", "here:3:a")
        yield running


def scrape(door: Door) -> Samples:
    with door.tool() as client:
        answer = client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    samples: Samples = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            samples.setdefault(sample.name, {})[tuple(sample.labels.values())] = sample.value
    return samples


@pytest.fixture(scope="module")
def exported(door: Door) -> Samples:
    return scrape(door)


def test_credentials_are_needed(door):
    with door.client() as client:
        assert client.get("/metrics").status_code == 401
    with door.browser() as client:
        assert client.get("/metrics").status_code == 200


def test_figures(door, exported):
    found = exported
    assert found["mrisr_series"][("failed",)] == 1
    assert found["mrisr_series"][("preparing",)] == 2
    assert found["mrisr_series"][("skipped",)] == 0
    assert set(found["mrisr_series"]) == {(state.value,) for state in State}
    jobs = {labels: n for labels, n in found["mrisr_queue_jobs"].items() if n}
    assert jobs == {
        ("cpu", "waiting"): 1,
        ("cpu", "running"): 1,
        ("gpu", "waiting"): 1,  # whoever held it is gone
        ("delivery", "delayed"): 1,
    }
    waits = found["mrisr_queue_oldest_wait_seconds"]
    assert 900 <= waits[("cpu",)] < 2000
    assert waits[("delivery",)] == 0
    buckets = found["mrisr_stage_duration_seconds_bucket"]
    assert [buckets[(le, "brain")] for le in ("0.5", "5.0", "60.0", "+Inf")] == [1, 2, 3, 3]
    assert found["mrisr_stage_duration_seconds_sum"][("brain",)] == pytest.approx(44.4)
    failures = found["mrisr_failures_total"]
    assert failures[("OutOfRange", "convert")] == 2
    assert (failures[(DIED, "convert")], failures[(DIED, "write")]) == (1, 0)
    assert found["mrisr_quarantine_objects"][()] == 1
    assert found["mrisr_last_rejection_timestamp_seconds"][()] < time.time() - 30
    assert sum(found["mrisr_associations"].values()) == 7
    alive = found["mrisr_last_sign_of_life_timestamp_seconds"]
    assert alive[("cpu-worker",)] > time.time() - 600
    assert alive[("gpu-worker",)] == 0
    assert ("receiver",) not in alive
    assert found["mrisr_disk_watermark_bytes"][()] == door.settings.minimum_free_bytes
    assert 0 < found["mrisr_disk_free_bytes"][()] < found["mrisr_disk_size_bytes"][()]
    assert found["mrisr_check_ok"][("orthanc",)] == 0
    assert found["mrisr_check_ok"][("database",)] == 1


def test_a_job_waits_from_the_end_of_its_last_stage(door):
    job = add(State.PREPARING, Stage.SUPERRESOLVE, created_at=time.time() - 99_999)
    StageRun.create(job=job, stage=Stage.NORMALISE.value, started_at=time.time() - 2000,
                    seconds=1000.0, finished=True)  # fmt: skip
    wait = scrape(door)["mrisr_queue_oldest_wait_seconds"][("gpu",)]
    assert 900 <= wait < 2000


def test_openmetrics_and_nothing_that_came_from_outside(door):
    with door.tool() as client:
        answer = client.get("/metrics", headers={"Accept": "application/openmetrics-text"})
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert len(list(read_openmetrics(answer.text))) > 10
    for secret in ("1.2.3.4", "secret", "SCANNER", "cannot be read"):
        assert secret not in answer.text


def rules() -> list[dict[str, object]]:
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_each_alert_is_a_rule_about_a_metric_that_is_exported(exported, rule):
    assert set(rule) <= {"alert", "expr", "for", "keep_firing_for", "labels", "annotations"}
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    assert rule["annotations"]["summary"]
    document, _, section = rule["annotations"]["action"].partition(", ")
    assert f"\n### {section}\n" in (ALERTS.parent / document).read_text()
    promql_parser.parse(rule["expr"])
    names = set(re.findall(r"\bmrisr_\w+", rule["expr"]))
    assert names <= set(exported)
    assert names or rule["expr"].startswith("up{")
    # A value that is asked for must be one that there is.
    for name, label in re.findall(r'(mrisr_\w+)\{\w+="([^"]+)"', rule["expr"]):
        assert any(label in labels for labels in exported[name]), (name, label)
