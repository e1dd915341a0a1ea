"""What a power cut or a bad disk leaves in a job's folder: seen, and computed anew by itself."""

import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from mrisr_node.choices import Recipe
from mrisr_node.errors import ResultGone
from mrisr_node.intake.assembly import Assembly
from mrisr_node.jobs import pipeline
from mrisr_node.jobs.dead_letters import NoDeadLetter, dead_letters, send_again
from mrisr_node.jobs.queues import Queues
from mrisr_node.jobs.recovery import retry
from mrisr_node.jobs.result_files import has_whole_result
from mrisr_node.jobs.stages import Queue, Stage
from mrisr_node.jobs.work import Worker
from mrisr_node.jobs.workspace import Workspace
from mrisr_node.node.sample import Acquisition, write_sample
from mrisr_node.records import Failure, Job, Series, State, open_records
from mrisr_node.volumes.geometry import Volume
from mrisr_node.volumes.registration import is_transform
from tests.spooling import put


@pytest.fixture
def settings(make_settings):
    made = make_settings(
        minimum_free_bytes=0, minimum_slices=4, quiet_seconds=0.01, delivery_attempts=2,
        storage_commitment="off",
    )  # fmt: skip
    open_records(made.database_path)
    return made


def _damage(path, kind):
    content = bytearray(path.read_bytes())
    if kind == "empty":
        content = b""
    elif kind == "cut":
        content = content[: len(content) // 2]
    else:
        content[-64:] = bytes(range(64))
    path.unlink()  # it may be a link to what other tests use
    path.write_bytes(content)


def _result(settings, job):
    return sorted((settings.work_dir / str(job.id) / "result").glob("*.dcm"))


DAMAGES = [
    ("empty", True), ("cut", True), ("altered", True),
    # As a version wrote it that noted no digests.
    ("empty", False), ("cut", False),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "digests"), DAMAGES)
def test_a_damaged_result_is_computed_anew_once_by_itself(
    settings, pacs, deliverable, kind, digests
):
    job = deliverable(settings)
    folder = settings.work_dir / str(job.id)
    if not digests:
        (folder / "digests.json").unlink()
    assert has_whole_result(folder)
    _damage(_result(settings, job)[3], kind)
    worker = Worker(settings)
    worker.advance(Queue.DELIVERY, job.id)
    series, job = Series.get(), Job.get()
    assert (series.state, job.stage, job.attempts) == (State.QUEUED, "", 0)
    assert series.reason == (
        "store: the files of the result are gone or damaged; it is computed anew"
    )
    assert Queues(settings).waiting(Queue.CPU) == {job.id}
    assert pacs.requests == []
    # A disk that does it again is no disk to rely on.
    for state in (State.PREPARING, State.RESOLVING, State.DELIVERING):
        series.move(state)
    Job.update(stage=Stage.STORE.value).execute()
    worker.advance(Queue.DELIVERY, job.id)
    assert Series.get().state == State.FAILED
    assert Series.get().reason.endswith("damaged; try again, and it is computed anew")
    assert dead_letters() == []
    retry(series.id)
    assert Job.get().stage == ""


def test_a_damaged_dead_letter_is_not_sent(settings, pacs, deliverable, deliver):
    job = deliverable(settings)
    pacs.mood = 503
    deliver(settings, job)
    _damage(_result(settings, job)[0], "empty")
    with pytest.raises(NoDeadLetter, match="or damaged"):
        send_again(settings, job.series_id)
    retry(job.series_id)
    assert Job.get().stage == ""


@pytest.mark.parametrize(
    ("name", "kind"),
    [("source.nii.gz", "cut"), ("source.nii.gz", "empty"), ("brain.nii.gz", "cut"),
     ("brain.json", "cut"), ("source.json", "empty"), ("stacks.json", "cut")],
)  # fmt: skip
def test_a_damaged_intermediate_is_computed_anew(settings, tmp_path, monkeypatch, name, kind):
    seen = []

    def brain(workspace):
        source = workspace.load("source")
        workspace.save("brain", Volume(np.ones_like(source.data), source.affine))
        workspace.note("brain", {"method": "a stand-in"})
        seen.append(workspace.read("source")["made_at"])
        if len(seen) == 1:
            time.sleep(1.1)  # so that another made_at would be another
            _damage(workspace.folder / name, kind)

    monkeypatch.setitem(pipeline._STAGES, Stage.BRAIN, brain)
    for path in write_sample(tmp_path / "s", Acquisition(slices=6, matrix=32)).paths:
        put(settings, path)
    time.sleep(0.05)
    [job] = Assembly(settings).sweep()
    worker = Worker(settings)
    worker.advance(Queue.CPU, job.id)
    assert (Series.get().state, Job.get().stage) == (State.QUEUED, "")
    assert f"{name} is gone or damaged; it is computed anew" in Series.get().reason
    worker.advance(Queue.CPU, job.id)
    assert Job.get().stage == Stage.SUPERRESOLVE
    assert [failure.kind for failure in Failure.select()] == ["ResultGone"]
    # The same bytes again, unless that note itself was damaged.
    assert (seen[0] == seen[1]) is (name != "stacks.json")


def test_a_damaged_transform_is_seen_before_the_work(settings, tmp_path):
    workspace = Workspace(tmp_path, (), settings, Recipe.MNI)
    workspace.note("source", {})
    workspace.note("intensity", {"mean": 1.0, "deviation": 1.0, "low": 0.0, "high": 2.0})
    (tmp_path / "to_mni.mat").write_bytes(b"")
    assert not is_transform(tmp_path / "to_mni.mat")
    with pytest.raises(ResultGone, match=r"to_mni\.mat"):
        pipeline.run_stage(Stage.SUPERRESOLVE, workspace)


def test_files_are_on_the_disk_before_they_get_their_names(settings, tmp_path, monkeypatch):
    happened, sync = [], os.fsync

    def noting(descriptor):
        happened.append(("sync", Path(f"/proc/self/fd/{descriptor}").readlink()))
        sync(descriptor)

    def audit(event, arguments):
        if event == "os.rename" and Path(arguments[0]).parent == tmp_path:
            happened.append(("rename", Path(arguments[0]), Path(arguments[1])))

    monkeypatch.setattr(os, "fsync", noting)
    sys.addaudithook(audit)
    workspace = Workspace(tmp_path, (), settings, Recipe.NATIVE)
    workspace.save("thin", Volume(np.ones((2, 2, 2), np.float32), np.eye(4)))
    workspace.note("thin", {})
    volume, note = (tmp_path / f".{os.getpid()}.thin{end}" for end in (".nii.gz", ".json"))
    assert happened == [
        ("sync", volume), ("rename", volume, tmp_path / "thin.nii.gz"), ("sync", tmp_path),
        ("sync", note), ("rename", note, tmp_path / "thin.json"), ("sync", tmp_path),
    ]  # fmt: skip
