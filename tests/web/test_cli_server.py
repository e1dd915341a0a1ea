"""The commands against a server: a real front door, with a real PACS behind it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
from given_samples import given
from pydicom import dcmread
from test_results_page import known
from web_samples import as_file, make_study

from mrisr_node import records
from mrisr_node.choices import ResultKind
from mrisr_node.cli.remote import Server
from mrisr_node.people.tokens import create_token
from mrisr_node.records import ApiToken, Instance, Job, Series, StageRun, State
from mrisr_node.results.delivery import Pacs

TOOL = Path(sys.executable).with_name("mrisr-node")
ROOT = Path(__file__).resolve().parents[2]


def run(door, *arguments, **environment):
    given = {"MRISR_TOKEN": door.token, "PYTHONPATH": str(ROOT)} | environment
    return subprocess.run(
        [TOOL, "--server", door.url, *map(str, arguments)],
        env=os.environ | {name: value for name, value in given.items() if value},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip


@pytest.fixture(autouse=True)
def no_series(door):
    Series.delete().execute()


@pytest.fixture
def folder(tmp_path):
    """A series that nobody has sent yet, in files."""
    study = make_study("T1 by hand")
    place = tmp_path / "in"
    place.mkdir()
    for number, image in enumerate(study.source):
        (place / f"{number}.dcm").write_bytes(as_file(image))
    return study, place


def test_jobs(door):
    failed = Series.create(series_instance_uid="1.1", study_instance_uid="1", description="T1 tra",
                           state=State.FAILED.value, reason="out of tea")  # fmt: skip
    Series.create(series_instance_uid="1.2", study_instance_uid="1", state=State.DONE.value)
    table = run(door, "jobs")
    assert table.returncode == 0, table.stderr
    assert "T1 tra" in table.stdout
    rows = json.loads(run(door, "jobs", "--json", "--state", "failed", "--limit", 1).stdout)
    assert [row["reason"] for row in rows] == ["out of tea"]
    assert run(door, "jobs", "--retry", failed.id).returncode == 0
    assert Series.get_by_id(failed.id).state == State.RECEIVING
    again = run(door, "jobs", "--retry", failed.id)
    assert (again.returncode, "can be tried again" in again.stderr) == (1, True)


def test_jobs_names_files_and_counts_no_images_of_them(door):
    given(door.settings)
    Series.create(series_instance_uid="1.1", study_instance_uid="1", description="T1 cor")
    environment = os.environ | {
        "MRISR_DATA_DIR": str(door.settings.data_dir), "PYTHONPATH": str(ROOT)
    }  # fmt: skip
    here = subprocess.run(
        [TOOL, "jobs"], env=environment, capture_output=True, text=True, timeout=300
    )
    for told in (run(door, "jobs"), here):
        lines = told.stdout.splitlines()
        [file] = [line for line in lines if "head.nii.gz: NIfTI, 64" in line]
        assert "images" not in file
        [series] = [line for line in lines if "T1 cor" in line]
        assert "0 images" in series


def test_send_stores_the_very_files(door, folder, tmp_path):
    study, place = folder
    (place / "notes.txt").write_text("no DICOM")
    done = run(door, "send", place)
    assert done.returncode == 0, done.stderr
    assert f"{len(study.source)} of {len(study.source)} stored" in done.stdout
    pacs = Pacs(door.settings)
    assert pacs.count(study.study, study.source_uid) == len(study.source)


def test_the_token_comes_from_the_environment_or_a_file(door, tmp_path):
    secret = tmp_path / "token"
    secret.write_text(door.token + "\n")
    assert run(door, "jobs", MRISR_TOKEN="", MRISR_TOKEN_FILE=str(secret)).returncode == 0
    none = run(door, "jobs", MRISR_TOKEN="")
    assert (none.returncode, "MRISR_TOKEN" in none.stderr) == (2, True)
    gone = run(door, "jobs", MRISR_TOKEN="", MRISR_TOKEN_FILE=str(tmp_path / "gone"))
    assert gone.returncode == 2
    wrong = run(door, "jobs", MRISR_TOKEN="mrisr_wrong")
    assert (wrong.returncode, "401" in wrong.stderr) == (1, True)
    assert "MRISR_TOKEN_FILE" in wrong.stderr
    assert "sign-in" not in wrong.stderr
    token = create_token("admin", "reading")
    ApiToken.update(scopes="read").where(ApiToken.name == "reading").execute()
    narrow = run(door, "jobs", "--retry", 1, MRISR_TOKEN=token)
    assert (narrow.returncode, "permission 'operate'" in narrow.stderr) == (1, True)


def test_where_a_server_cannot_be(door):
    def tried(*arguments):
        return subprocess.run(
            [TOOL, *arguments], capture_output=True, text=True, timeout=120,
            env=os.environ | {"MRISR_TOKEN": "mrisr_x", "PYTHONPATH": str(ROOT)},
        )  # fmt: skip

    assert "for here" in " ".join(tried("--server", door.url, "doctor").stderr.split())
    assert "https://" in tried("--server", "http://node.example", "jobs").stderr
    assert "wants an address" in tried("--server", "node", "jobs").stderr
    assert "cannot be reached" in tried("--server", "http://127.0.0.1:1", "jobs").stderr


def test_resolve_sends_waits_and_fetches(door, results, tmp_path):
    """The workers' part is played here; all else is real."""
    place = tmp_path / "in"
    place.mkdir()
    for number, image in enumerate(results.study.source):
        (place / f"{number}.dcm").write_bytes(as_file(image))
    (place / "again.dcm").write_bytes((place / "0.dcm").read_bytes())
    image = results.series[ResultKind.IMAGE]

    def work() -> None:
        with records.connection():
            time.sleep(3)
            series = Series.create(
                series_instance_uid=results.study.source_uid,
                study_instance_uid=image.study_instance_uid, state=State.DELIVERING.value,
            )  # fmt: skip
            for number, one in enumerate(results.study.source):
                Instance.create(series=series, sop_instance_uid=one.SOPInstanceUID, size=1,
                                path=str(number), sha256="")  # fmt: skip
            job = Job.create(series=series, recipe="native", stage="store")
            StageRun.create(job=job, stage="brain", started_at=1.0, seconds=2.5, voxels=1,
                            finished=True)  # fmt: skip
            time.sleep(3)
            job.outcome = json.dumps(known(results))
            job.result_series_uid, job.delivered_at = image.series_instance_uid, time.time()
            job.save()
            series.move(State.DONE, "the result is in the PACS")

    thread = threading.Thread(target=work)
    thread.start()
    done = run(door, "resolve", place, tmp_path / "out", "--json")
    thread.join()
    assert done.returncode == 0, done.stderr
    [one] = json.loads(done.stdout)
    assert (one["state"], one["folder"]) == ("done", str(tmp_path / "out" / "series-001"))
    assert one["seconds"] == {"brain": 2.5}
    found = Path(one["folder"])
    assert {path.name for path in found.iterdir()} == {kind.value for kind in results.series}
    assert len(list((found / "image").iterdir())) == len(image.paths)
    header = dcmread(next((found / "image").iterdir()))
    assert header.SeriesInstanceUID == image.series_instance_uid
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["series-001"]
    again = run(door, "resolve", place, tmp_path / "out")
    assert (again.returncode, "exists already" in again.stderr) == (2, True)


def test_resolve_of_what_is_no_mr_says_so_at_once(door, folder, tmp_path):
    """The part of the node that looks through the PACS is played here."""
    study, place = folder
    reason = "modality 'CT': only MR images are processed"

    def note(there: int) -> Series:
        series = Series.create(
            series_instance_uid=study.source_uid, study_instance_uid=study.study, modality="CT",
            expected_instances=there,
        )  # fmt: skip
        series.move(State.COMPLETE, "in the PACS, not sent to the node")
        series.move(State.SKIPPED, reason)
        return series

    # What was looked at before all of it was there, may be sent to the node still.
    note(1)

    def look_again() -> None:
        with records.connection():
            time.sleep(8)
            Series.delete().execute()
            note(len(study.source))

    thread = threading.Thread(target=look_again)
    thread.start()
    done = run(door, "resolve", place, tmp_path / "out", "--json")
    thread.join()
    assert done.returncode == 1, done.stderr
    [one] = json.loads(done.stdout)
    assert (one["state"], one["reason"]) == ("skipped", reason)
    assert not (tmp_path / "out").exists()


def test_resolve_waits_as_long_as_images_arrive(door, monkeypatch):
    """The PACS's part is played here: it forwards one series after another, slowly."""
    monkeypatch.setenv("MRISR_TOKEN", door.token)
    sent = {"1.1": 3, "1.2": 3, "1.3": 2}
    images = [(uid, number) for uid in sent for number in range(sent[uid])][:-1]
    now, slept = 0.0, 0

    def sleep(seconds: float) -> None:
        """Forward an image every minute and a half, and none of the last one's two."""
        nonlocal now, slept
        now, slept = now + seconds, slept + 1
        if slept % 45 or not images:
            return
        uid, number = images.pop(0)
        series, _ = Series.get_or_create(series_instance_uid=uid, study_instance_uid="1")
        Instance.create(series=series, sop_instance_uid=f"{uid}.{number}", size=1,
                        path=f"{uid}.{number}", sha256="")  # fmt: skip
        if number + 1 == sent[uid]:
            series.move(State.COMPLETE)
            series.move(State.SKIPPED, "a localizer")

    told: list[str] = []
    with closing(Server(door.url)) as server:
        ended = server.wait(
            sent, lambda row: told.append(row["series_instance_uid"]), lambda: now, sleep
        )
    assert {uid: one.state for uid, one in ended.items()} == {
        "1.1": "skipped", "1.2": "skipped", "1.3": "failed",
    }  # fmt: skip
    assert ended["1.3"].reason.startswith("1 of 2 images reached the node from its PACS")
    assert set(told) == {"1.1", "1.2"}
    # Seven images a minute and a half apart, and three minutes of nothing.
    assert now == pytest.approx(7 * 90 + 180, abs=5)
