"""A worker killed in every stage, and a PACS that sends every result back: one result, once."""

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mrisr_node.choices import Recipe
from mrisr_node.jobs.history import result_series_of
from mrisr_node.jobs.stages import Queue, Stage, stages_of
from mrisr_node.node.orthanc import OrthancProcess
from mrisr_node.records import Job, Series, StageRun, State, Transition, open_records
from mrisr_node.results.delivery import Pacs
from mrisr_node.settings import Settings

FORWARD_EVERYTHING = """
function OnStableSeries(seriesId, tags, metadata)
  local body = {}
  body['Resources'] = { seriesId }
  body['Asynchronous'] = true
  RestApiPost('/modalities/mrisr/store', DumpJson(body, true), true)
end
"""


@pytest.fixture
def careless_orthanc(make_settings, needs_orthanc, tmp_path):
    """An Orthanc that forwards whatever is stored in it, results too."""
    config = tmp_path / "orthanc"
    shutil.copytree(Settings.model_fields["orthanc_config"].default, config)
    (config / "forward.lua").write_text(FORWARD_EVERYTHING)
    settings = make_settings(orthanc_config=config, recipe=Recipe.MNI)
    with OrthancProcess(settings) as process:
        process.wait_ready()
        yield process


class Processes:
    """Starts commands again when they die, as the supervisor does."""

    def __init__(self, settings, commands):
        self._environment = settings.environment()
        self._commands = commands
        self._running = {}

    def keep_up(self):
        for name, command in self._commands.items():
            process = self._running.get(name)
            if process is None or process.poll() is not None:
                self._running[name] = subprocess.Popen(command, env=self._environment)

    def stop(self):
        for process in self._running.values():
            process.kill()
            process.wait()


def _any(state):
    return Series.select().where(Series.state == state.value).exists()


def _wait(condition, processes, seconds=600):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, [(s.state, s.reason) for s in Series.select()]
        processes.keep_up()
        time.sleep(0.3)


def test_killed_in_every_stage_and_sent_back_by_the_pacs(
    careless_orthanc, sample_series, store, tmp_path
):
    settings = careless_orthanc.settings
    open_records(settings.database_path)
    marks = tmp_path / "killed"
    marks.mkdir()
    worker = str(Path(__file__).with_name("dying_worker.py"))
    commands = {q.value: [sys.executable, worker, q.value, str(marks)] for q in Queue}
    commands["receive"] = [sys.executable, "-m", "mrisr_node.cli", "receive"]
    processes = Processes(settings, commands)
    processes.keep_up()
    try:
        store(sample_series.folder, port=settings.pacs_port)
        _wait(lambda: _any(State.DONE), processes)
        _wait(
            lambda: Series.select().where(Series.state == State.SKIPPED.value).exists(), processes
        )
        # Whoever wanted to process the result again would have begun by now.
        time.sleep(2 * settings.quiet_seconds + settings.stable_age)
        processes.keep_up()
    finally:
        processes.stop()

    stages = stages_of(Recipe.MNI)
    assert {mark.name for mark in marks.iterdir()} == {stage.value for stage in stages}
    job = Job.get()
    assert Job.select().count() == 1
    for stage in stages:
        runs = list(StageRun.select().where(StageRun.job == job, StageRun.stage == stage.value))
        assert sum(run.finished for run in runs) == 1
        # A promise that is waited for is one run.
        assert len(runs) >= 2 or stage is Stage.COMMIT
    done = Transition.select().where(Transition.target == State.DONE.value)
    assert done.count() == 1

    returned = Series.get(Series.state == State.SKIPPED.value)
    assert returned.series_instance_uid == job.result_series_uid
    assert "result of this node" in returned.reason
    pacs = Pacs(settings)
    written = result_series_of(job)
    for result, instances in written.items():
        assert pacs.count(sample_series.study_uid, result) == instances
    with pacs._client() as client:
        assert len(client.search_for_series(sample_series.study_uid)) == 1 + len(written)
