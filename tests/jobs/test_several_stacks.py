"""One series of two echoes: two results, each whole and of its own slices, in one job."""

import dataclasses
import json
import shutil

import pytest
from dicom_checks import dciodvfy
from dicom_standard import dicom_validator
from mixed_series import SMALL, WITH_PHASE, write_mixed
from pydicom import dcmread

from mrisr_node.choices import ResultKind
from mrisr_node.errors import ResultGone
from mrisr_node.intake.assembly import Assembly
from mrisr_node.jobs import pipeline
from mrisr_node.jobs.findings import findings
from mrisr_node.jobs.history import predecessors_of, result_series_of, stacks_of
from mrisr_node.jobs.pipeline import outcome, run_stage
from mrisr_node.jobs.resolve import resolve_folder
from mrisr_node.jobs.result_files import has_whole_result
from mrisr_node.jobs.stages import Queue, Stage
from mrisr_node.jobs.work import Worker
from mrisr_node.jobs.workspace import Workspace
from mrisr_node.node.sample import Plane
from mrisr_node.records import Job, Series, StageRun, State, open_records
from tests.faults.stand_ins import STAGES
from tests.spooling import put

LABELS = ["TE 13 ms", "TE 98 ms"]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    for stage, stand_in in STAGES.items():
        monkeypatch.setitem(pipeline._STAGES, stage, stand_in)


@pytest.fixture
def settings(make_settings):
    made = make_settings(minimum_free_bytes=0, quiet_seconds=0.01)
    open_records(made.database_path)
    return made


def _read(folder):
    return [dcmread(path, stop_before_pixels=True) for path in sorted(folder.glob("*.dcm"))]


def _uids(paths):
    return {str(dcmread(path, stop_before_pixels=True).SOPInstanceUID) for path in paths}


def test_each_echo_has_a_result_of_its_own_slices(tmp_path, make_settings):
    volumes = write_mixed(tmp_path / "in")
    [done] = resolve_folder(tmp_path / "in", tmp_path / "out", make_settings())
    assert (done.state, done.reason) == ("done", "")
    assert [stack["label"] for stack in done.outcome["stacks"]] == LABELS
    seen, numbers = set(), set()
    for number, (paths, label) in enumerate(zip(volumes, LABELS, strict=True), start=1):
        folder = done.folder / f"stack-{number}"
        assert {path.name for path in folder.iterdir()} == {kind.value for kind in ResultKind}
        for kind in ResultKind:
            images = _read(folder / kind.value)
            [uid] = {image.SeriesInstanceUID for image in images}
            seen.add(uid)
            numbers.add(int(images[0].SeriesNumber))
            assert images[0].SeriesDescription.endswith(label)
        sources = {
            str(source.ReferencedSOPInstanceUID)
            for image in _read(folder / ResultKind.IMAGE.value)
            for source in image.SourceImageSequence
        }
        assert sources == _uids(paths)
        for path in (folder / kind.value / "0001.dcm" for kind in ResultKind):
            assert dciodvfy(path) == []
            assert dicom_validator(path) == []
        image = _read(folder / ResultKind.IMAGE.value)[0]
        assert float(image.EchoTime) == (13, 98)[number - 1]
        assert f"one stack of several in its series: {label}" in image.DerivationDescription
    assert len(seen) == len(numbers) == 2 * len(ResultKind)


def test_what_is_left_out_is_said_in_the_result(tmp_path, make_settings):
    write_mixed(tmp_path / "in", WITH_PHASE)
    [done] = resolve_folder(tmp_path / "in", tmp_path / "out", make_settings())
    assert done.state == "done"
    said = "P left out: a phase image (ImageType P)"
    assert done.outcome["left_out"] == [said]
    [image, *_] = _read(done.folder / ResultKind.IMAGE.value)
    assert said in image.DerivationDescription


def _job(settings, volumes):
    for path in (path for paths in volumes for path in paths):
        put(settings, path)
    return _swept(settings)


def _swept(settings):
    assembly = Assembly(settings)
    while not (jobs := assembly.sweep()):
        pass
    return jobs[0]


def _work(settings, job, stages):
    """Run stages as a worker does."""
    worker = Worker(settings)
    Job.update(lease_owner=worker._owner, lease_until=2e10).where(Job.id == job.id).execute()
    for stage in stages:
        worker._run_stage(stage, Job.get_by_id(job.id))


BEFORE = (Stage.CONVERT, Stage.BRAIN, Stage.NORMALISE, Stage.SUPERRESOLVE, Stage.WRITE)


def test_records_know_every_series_of_it(tmp_path, settings):
    volumes = write_mixed(tmp_path)
    job = _job(settings, volumes)
    assert Series.get().reason == (
        "TE 13 ms: 8 slices, 5.00 mm apart; TE 98 ms: 8 slices, 5.00 mm apart"
    )
    assert job.voxels == 2 * 8 * 32 * 32
    _work(settings, job, BEFORE)
    job = Job.get()
    written = result_series_of(job)
    assert len(written) == 2 * len(ResultKind)
    assert sum(written.values()) == job.result_instances
    Job.update(delivered_at=1.0).execute()
    for stack in (1, 2):
        found = findings(settings, job.series_id, stack)
        assert found.stacks == tuple(LABELS)
        assert found.known["label"] == LABELS[stack - 1]
        assert found.result_series_uid == found.series["image"]
        assert len(list(found.previews.glob("*.png"))) == 6
    assert findings(settings, job.series_id, 3) is None


def test_a_later_result_names_the_one_of_the_same_stack(tmp_path, settings):
    volumes = write_mixed(tmp_path)
    job = _job(settings, volumes)
    _work(settings, job, BEFORE)
    before = [s["result"]["series_instance_uid"] for s in stacks_of(Job.get())]
    StageRun.create(job=job, stage=Stage.STORE.value, started_at=1.0)
    earlier = predecessors_of(Job.create(series=job.series_id, recipe=job.recipe))
    assert [one.series_instance_uid for one in earlier.values()] == before
    assert list(earlier) == [min(_uids(paths)) for paths in volumes]


def test_what_becomes_one_stack_of_several_names_what_it_was_as_a_whole(tmp_path, settings):
    volumes = write_mixed(tmp_path)
    job = _job(settings, volumes[:1])
    _work(settings, job, BEFORE)
    [before] = stacks_of(Job.get())
    assert "label" not in before
    for path in volumes[1]:
        put(settings, path)
    later = _swept(settings)
    StageRun.create(job=job, stage=Stage.STORE.value, started_at=1.0)
    _work(settings, later, BEFORE)
    first, second = stacks_of(Job.get_by_id(later.id))
    assert (first["label"], second["label"]) == tuple(LABELS)
    # Another name is another series: the PACS would keep the old one under the same UID.
    uid = before["result"]["series_instance_uid"]
    assert first["result"]["series_instance_uid"] != uid
    assert f"Takes the place of the earlier result {uid}" in first["result"]["description"]
    assert "Takes the place" not in second["result"]["description"]


def test_a_stack_that_no_checkpoint_is_made_for_is_left_out(tmp_path, make_settings):
    coronal = dataclasses.replace(SMALL, plane=Plane.CORONAL, thickness_mm=12.0)
    write_mixed(tmp_path / "in", acquisitions=[SMALL, coronal])
    [done] = resolve_folder(tmp_path / "in", tmp_path / "out", make_settings())
    assert (done.state, done.reason) == ("done", "")
    [said] = done.outcome["left_out"]
    assert said.startswith("coronal, TE 98 ms left out: ")
    assert done.outcome["label"] == "axial, TE 13 ms"


def test_a_stack_that_is_gone_makes_the_result_no_whole_one(tmp_path, settings):
    job = _job(settings, write_mixed(tmp_path))
    _work(settings, job, BEFORE)
    folder = settings.work_dir / str(job.id)
    assert has_whole_result(folder)
    stacks = folder / "stacks.json"
    noted = stacks.read_text()
    stacks.write_text("{")
    assert not has_whole_result(folder)
    stacks.write_text(noted)
    shutil.rmtree(folder / "stack-2")
    assert not has_whole_result(folder)


def test_a_repeat_gives_the_same_and_a_lost_source_is_seen(tmp_path, settings):
    volumes = write_mixed(tmp_path / "in", acquisitions=[dataclasses.replace(SMALL, slices=9)] * 2)
    workspace = Workspace(
        tmp_path / "job", tuple(p for paths in volumes for p in paths), settings, settings.recipe
    )
    found = []
    for _ in range(2):
        for stage in BEFORE:
            run_stage(stage, workspace)
        found.append(json.dumps(outcome(workspace), sort_keys=True))
    assert found[0] == found[1]
    volumes[1][4].unlink()
    without = dataclasses.replace(
        workspace, sources=tuple(path for path in workspace.sources if path.is_file())
    )
    with pytest.raises(ResultGone, match="lost instances"):
        run_stage(Stage.WRITE, without)


def test_the_reason_of_a_mixed_series_says_what_is_left_out(tmp_path, settings, monkeypatch):
    job = _job(settings, write_mixed(tmp_path, WITH_PHASE))
    for stage in (Stage.STORE, Stage.CONFIRM, Stage.COMMIT):
        monkeypatch.setitem(pipeline._STAGES, stage, lambda _: None)
    worker = Worker(settings)
    for queue in (Queue.CPU, Queue.GPU, Queue.DELIVERY):
        worker.advance(queue, job.id)
    series = Series.get()
    assert series.state == State.DONE
    assert series.reason == ("the result is in the PACS. P left out: a phase image (ImageType P)")
