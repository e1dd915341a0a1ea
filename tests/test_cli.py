"""The command line, as a user types it."""

import json
import os
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from dicom_checks import dciodvfy
from odd_files import odd_group_length
from pydicom import dcmread

from mrisr_node.intake.receiver import Receiver
from mrisr_node.jobs.stages import Stage
from mrisr_node.node.sample import Acquisition, write_sample
from mrisr_node.node.verification import compare_mni
from mrisr_node.records import Instance, Job, Series, StageRun, State, open_records
from mrisr_node.volumes.registration import load_template

TOOL = Path(sys.executable).with_name("mrisr-node")


def _run(*arguments, timeout=900, **environment):
    return subprocess.run(
        [TOOL, *map(str, arguments)],
        env=os.environ | {name: str(value) for name, value in environment.items()},
        capture_output=True, text=True, timeout=timeout,
    )  # fmt: skip


def test_help_names_every_command():
    text = _run("--help").stdout
    for command in ("up", "receive", "work", "serve", "send", "jobs", "resolve", "train",
                    "evaluate", "doctor", "demo"):  # fmt: skip
        assert f"│ {command} " in text


def test_resolve_makes_the_research_volume_and_says_what_it_skipped(tmp_path):
    source = tmp_path / "in"
    whole = write_sample(source / "head", Acquisition())
    few = write_sample(source / "few", Acquisition(slices=3, matrix=32))
    done = _run("resolve", source, tmp_path / "out", "--recipe", "mni", "--json")
    assert done.returncode == 0, done.stderr
    results = {r["series_instance_uid"]: r for r in json.loads(done.stdout)}
    assert results[few.series_uid]["state"] == "skipped"
    assert "3 slices" in results[few.series_uid]["reason"]
    result = results[whole.series_uid]
    assert result["state"] == "done"
    assert set(result["seconds"]) == {
        "convert", "brain", "bias", "normalise", "register", "superresolve", "write",
    }  # fmt: skip
    folder = Path(result["folder"])
    assert {path.name for path in folder.iterdir()} == {"image", "report"}
    slices = sorted((folder / "image").glob("*.dcm"))
    template = load_template()
    assert len(slices) == template.data.shape[2]
    datasets = [dcmread(path) for path in slices]
    for path in (slices[0], slices[90]):
        assert dciodvfy(path) == []
    assert compare_mni([dcmread(path) for path in whole.paths], datasets) == []
    assert datasets[0].FrameOfReferenceUID != dcmread(whole.paths[0]).FrameOfReferenceUID
    volume = np.stack([d.pixel_array.T for d in datasets], axis=-1) / 1000
    brain = template.data > 0
    # In MNI space the brain lies where the template's does, with a mean of about 1.
    overlap = 2 * (brain & (volume > 0.2)).sum() / (brain.sum() + (volume > 0.2).sum())
    assert overlap > 0.9
    assert volume[brain].mean() == pytest.approx(1, abs=0.25)
    inside = result["outcome"]["superresolve"]["fidelity"]
    assert inside["inside"]["relative_p99"] < inside["cubic_inside"]["relative_p99"]


def test_it_tells_its_version():
    assert _run("--version").stdout.strip() == version("mrisr-node")


@pytest.mark.parametrize(
    "command",
    [["jobs"], ["quarantine", "list"], ["send-again", "--all"], ["password", "admin"],
     ["token", "x"], ["backup", "b.tar"]],
)  # fmt: skip
def test_a_folder_without_a_node_stays_one(tmp_path, command):
    done = _run(*command, MRISR_DATA_DIR=tmp_path)
    assert done.returncode == 2
    assert "there is no node in" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_misspelt_variable_is_an_error(tmp_path):
    done = _run("jobs", MRISR_DATA_DIR=tmp_path, MRISR_ACCEPTED_ADRESSES="[]")
    assert done.returncode == 2
    assert "there is no setting MRISR_ACCEPTED_ADRESSES" in done.stderr


@pytest.mark.parametrize("command", [["jobs"], ["send-again", "--all"]])
def test_a_token_for_a_node_elsewhere_is_no_obstacle_here(make_settings, command):
    settings = make_settings()
    open_records(settings.database_path)
    done = _run(*command, MRISR_DATA_DIR=settings.data_dir, MRISR_TOKEN="mrisr_x",
                MRISR_TOKEN_FILE="/nowhere")  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_a_node_without_its_checkpoint_does_not_start(tmp_path):
    done = _run("up", MRISR_DATA_DIR=tmp_path, MRISR_CHECKPOINT="nope", timeout=120)
    assert done.returncode == 1
    assert "nope: card.json cannot be read" in done.stderr


def test_results_do_not_go_among_the_sources(tmp_path):
    write_sample(tmp_path / "in", Acquisition(slices=8, matrix=32))
    for target in (tmp_path / "in", tmp_path / "in" / "out"):
        done = _run("resolve", tmp_path / "in", target)
        assert done.returncode == 2
        assert "OUT must not lie in IN" in done.stderr


def test_resolve_offers_what_a_series_can_become(tmp_path):
    assert "native|mni>" in _run("resolve", "--help", COLUMNS=200).stdout
    done = _run("resolve", tmp_path, tmp_path / "out", "--recipe", "pairs", COLUMNS=200)
    assert done.returncode == 2
    assert "'pairs' is not one of 'native', 'mni'" in done.stderr
    done = _run("resolve", tmp_path, tmp_path / "out", MRISR_RECIPE="pairs")
    assert done.returncode == 2
    assert "recipe: pairs are made of uploaded scans" in done.stderr.replace("\n", " ")


def test_resolve_of_nothing_fails_with_words(tmp_path):
    (tmp_path / "in").mkdir()
    done = _run("resolve", tmp_path / "in", tmp_path / "out")
    assert done.returncode == 1
    assert "no DICOM series" in done.stderr


def test_jobs_lists_series_with_state_and_reason(make_settings):
    settings = make_settings()
    open_records(settings.database_path)
    series = Series.create(
        series_instance_uid="1.2.3", study_instance_uid="1.2", description="T1 sag"
    )
    series.move(State.COMPLETE)
    series.move(State.SKIPPED, "a localizer (ImageType LOCALIZER)")
    done = _run("jobs", "--json", MRISR_DATA_DIR=settings.data_dir)
    [row] = json.loads(done.stdout)
    Series.create(series_instance_uid="1.2.4", study_instance_uid="1.2", description="T1 cor")
    assert (row["state"], row["reason"]) == ("skipped", "a localizer (ImageType LOCALIZER)")
    table = _run("jobs", MRISR_DATA_DIR=settings.data_dir, COLUMNS=200).stdout
    assert "T1 sag" in table
    assert "a localizer" in table
    assert (
        "1 of 2; --limit shows more"
        in _run("jobs", "--limit", 1, MRISR_DATA_DIR=settings.data_dir).stderr
    )
    again = _run("jobs", "--retry", series.id, MRISR_DATA_DIR=settings.data_dir)
    assert again.returncode == 1
    assert "only a series that failed or was cancelled can be tried again" in again.stderr.replace(
        "\n", " "
    )
    unknown = _run("jobs", "--retry", 99, MRISR_DATA_DIR=settings.data_dir)
    assert (unknown.returncode, unknown.stderr) == (1, "mrisr-node: there is no series 99\n")


def test_jobs_tells_when_what_is_put_off_is_tried_again(make_settings):
    settings = make_settings()
    open_records(settings.database_path)
    series = Series.create(
        series_instance_uid="1.2.3", study_instance_uid="1.2", state=State.DELIVERING.value
    )
    at = time.time() + 3000
    job = Job.create(series=series, recipe="native", stage="store", not_before=at)
    for stage in Stage:
        StageRun.create(job=job, stage=stage.value, started_at=1, seconds=2, finished=True)
    told = _run("jobs", MRISR_DATA_DIR=settings.data_dir).stdout
    assert time.strftime("delivering  store 0%  next try at %H:%M:%S", time.localtime(at)) in told
    assert "0 images" in told
    assert " s (" not in told
    [row] = json.loads(_run("jobs", "--json", MRISR_DATA_DIR=settings.data_dir).stdout)
    assert (row["next_try_at"], row["time_left"]["seconds"]) == (at, None)


def test_what_is_piped_is_not_wrapped(make_settings):
    settings = make_settings()
    open_records(settings.database_path)
    reason = "a reason that goes on and on, " * 5
    series = Series.create(
        series_instance_uid="1.2.3", study_instance_uid="1.2", description="FSE PD AXIAL OBL" * 4
    )
    series.move(State.COMPLETE)
    series.move(State.SKIPPED, reason.strip())
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    done = subprocess.run(
        [TOOL, "jobs"], env=environment | {"MRISR_DATA_DIR": str(settings.data_dir)},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    first, second = done.stdout.splitlines()
    assert first.endswith(series.description)
    assert second.strip() == reason.strip()


def test_send_again_of_what_there_is_not(make_settings):
    settings = make_settings()
    open_records(settings.database_path)
    done = _run("send-again", 999, MRISR_DATA_DIR=settings.data_dir)
    assert (done.returncode, done.stderr) == (1, "mrisr-node: there is no series 999\n")


def test_records_that_cannot_be_used_are_named_without_a_traceback(make_settings):
    settings = make_settings()
    settings.database_path.parent.mkdir(parents=True, exist_ok=True)
    settings.database_path.write_bytes(b"no database, but long enough to look like one " * 30)
    done = _run("jobs", MRISR_DATA_DIR=settings.data_dir, COLUMNS=200)
    assert done.returncode == 1
    assert "records.sqlite cannot be used: file is not a database" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "words", ["T1 [/x]", "T1 [tra]", "T1 [bold]b[/bold] [link=x]", "T1 :brain:"]
)
def test_what_a_scanner_writes_is_no_markup(make_settings, words):
    settings = make_settings()
    open_records(settings.database_path)
    series = Series.create(
        series_instance_uid="1.2.3", study_instance_uid="1.2", description=f"{words}\x1b[2J"
    )
    series.move(State.COMPLETE)
    series.move(State.SKIPPED, f"not {words}")
    done = _run("jobs", MRISR_DATA_DIR=settings.data_dir, COLUMNS=200)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(words) == 2
    assert "\x1b" not in done.stdout


def test_doctor_shows_brackets_of_a_path(tmp_path):
    done = _run("doctor", MRISR_DATA_DIR=tmp_path / "a [x] [/y]", COLUMNS=400)
    assert "MarkupError" not in done.stderr
    assert "a [x] [/y]" in done.stdout


def test_send_stores_a_folder_in_the_node(make_settings, tmp_path):
    settings = make_settings(minimum_free_bytes=0)
    open_records(settings.database_path)
    sample = write_sample(tmp_path / "in", Acquisition(slices=3, matrix=32))
    (tmp_path / "in" / "notes.txt").write_text("no DICOM")
    receiver = Receiver(settings)
    receiver.start()
    try:
        odd_group_length(sample.paths[0], tmp_path / "in" / "odd.dcm")
        port = settings.receiver_port
        done = _run("send", tmp_path / "in", "--to", "node", MRISR_RECEIVER_PORT=port)
        nameless = dcmread(sample.paths[1])
        del nameless.file_meta.MediaStorageSOPClassUID
        nameless.save_as(tmp_path / "nameless.dcm", enforce_file_format=False)
        nameless = _run("send", sample.paths[0], tmp_path / "nameless.dcm", "--to", "node",
                        MRISR_RECEIVER_PORT=port)  # fmt: skip
        odd = _run("send", sample.paths[0], tmp_path / "in" / "odd.dcm", "--to", "node",
                   MRISR_RECEIVER_PORT=port)  # fmt: skip
    finally:
        receiver.stop()
    assert done.returncode == 0, done.stderr
    assert "3 of 3 stored" in done.stdout
    assert Instance.select().count() == len(sample.paths)
    # What was named and is not DICOM is told; beside it the rest goes.
    assert odd.returncode == 1, odd.stderr
    assert "1 of 2 stored" in odd.stdout
    assert "1 of 2 stored" in nameless.stdout, nameless.stderr
    assert "nameless.dcm: it does not say" in nameless.stderr
    assert "odd.dcm: it cannot be read as DICOM" in odd.stderr


def test_send_says_what_is_wrong_with_a_file(tmp_path):
    image = dcmread(write_sample(tmp_path / "in", Acquisition(slices=3, matrix=32)).paths[0])
    del image.SeriesInstanceUID
    image.save_as(tmp_path / "a.dcm")
    done = _run("send", tmp_path / "a.dcm", COLUMNS=200)
    assert (done.returncode, done.stdout) == (1, "0 of 1 stored\n")
    assert "a.dcm: it has no Series Instance UID" in done.stderr
    (tmp_path / "b.dcm").write_text("no DICOM")
    done = _run("send", tmp_path / "b.dcm", COLUMNS=200)
    assert "b.dcm: it cannot be read as DICOM" in done.stderr


def test_a_wrong_setting_is_named():
    done = _run("jobs", MRISR_AE_TITLE="A" * 17)
    assert done.returncode == 2
    assert "ae_title" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_queue_that_is_none_is_refused():
    assert _run("work", "coffee").returncode == 2
