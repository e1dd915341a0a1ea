"""Time left, and how many scans at once."""

import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import psutil
import pytest

from mrisr_node.pairs import memory, run
from mrisr_node.pairs.dataset import Dataset
from mrisr_node.pairs.making import PairStage
from mrisr_node.pairs.memory import available_memory, resident_memory
from mrisr_node.pairs.options import PairOptions
from mrisr_node.pairs.scans import Scan
from mrisr_node.pairs.standing import Clock, Running

SECONDS = {
    PairStage.READ: 1.0,
    PairStage.BRAIN: 20.0,
    PairStage.BIAS: 10.0,
    PairStage.REGISTER: 60.0,
    PairStage.WRITE: 9.0,
}


def test_time_left_is_unknown_until_a_scan_is_done():
    clock = Clock()
    standing = clock.standing(3, 0, (Running(1, PairStage.REGISTER, 0.0),))
    assert standing.seconds_left is None
    assert 0 < standing.part < 1 / 3


def test_time_left_comes_from_the_stages_of_scans_that_are_done():
    clock = Clock()
    clock.learn(SECONDS)
    half_a_brain = Running(2, PairStage.BRAIN, 0.5)
    assert clock.standing(2, 1, (half_a_brain,)).seconds_left == pytest.approx(89)
    assert clock.standing(2, 1, (half_a_brain,)).part == pytest.approx((1 + 0.11) / 2)
    # One more waits behind two that run: the work is shared, but none is halved.
    two = (Running(2, PairStage.WRITE), Running(3, PairStage.WRITE))
    assert clock.standing(4, 1, two).seconds_left == pytest.approx((9 + 9 + 100) / 2)
    alone = (Running(2, PairStage.WRITE), Running(3, PairStage.READ))
    assert clock.standing(3, 1, alone).seconds_left == pytest.approx(100)
    clock.learn(dict.fromkeys(SECONDS, 0.0))
    assert clock.standing(4, 2, (half_a_brain,)).seconds_left == pytest.approx(89 / 2 + 50)
    assert clock.standing(2, 2, ()).part == 1.0
    assert clock.standing(2, 2, ()).seconds_left == 0


def test_a_stage_that_was_left_out_takes_no_time():
    clock = Clock()
    clock.learn({s: v for s, v in SECONDS.items() if s is not PairStage.REGISTER})
    assert clock.standing(2, 1, (Running(2),)).seconds_left == pytest.approx(40)


def test_memory_is_what_the_machine_and_its_group_allow(tmp_path, monkeypatch):
    machine = available_memory()
    assert machine > 2**20
    (tmp_path / "memory.max").write_text("5000000\n")
    (tmp_path / "memory.current").write_text("2000000\n")
    monkeypatch.setattr(memory, "_GROUP", tmp_path)
    assert available_memory() == 3_000_000
    (tmp_path / "memory.max").write_text("max\n")
    assert available_memory() > 2**20
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert resident_memory(ended.pid) == 0


@pytest.mark.parametrize(("total", "most", "expected"), [(10, 4, 1), (2500, 4, 2), (9999, 3, 3)])
def test_as_many_scans_run_as_memory_and_the_user_allow(
    tmp_path, monkeypatch, total, most, expected
):
    monkeypatch.setattr(run, "FIRST_GUESS", 1000)
    monkeypatch.setattr(run, "available_memory", lambda: total)
    monkeypatch.setattr(run, "resident_memory", lambda _: 0)
    program = "import sys, time; sys.stdin.read(); time.sleep(0.5)"
    monkeypatch.setattr(run, "_CHILD", (sys.executable, "-c", program))
    monkeypatch.setattr(
        run,
        "find_scans",
        lambda _: [Scan((tmp_path / f"{n}.nii",), str(n), None, "T1w", True) for n in range(5)],
    )
    at_once = []
    outcomes = run.make_pairs(
        [], tmp_path / "out", PairOptions(), jobs=most,
        watch=lambda standing: at_once.append(len(standing.running)),
    )  # fmt: skip
    assert max(at_once) == expected
    # A process that ends without a word is a failure of its scan alone.
    assert [outcome.state for outcome in outcomes] == ["failed"] * 5
    assert "its process ended with 0" in outcomes[0].reason
    assert not list((tmp_path / "out").glob(".drafts-*"))


def children():
    return set(psutil.Process().children())


def test_who_stops_watching_leaves_no_process_and_no_drafts(tmp_path, monkeypatch):
    program = "import os, sys, time; sys.stdin.read(); time.sleep(600)"
    monkeypatch.setattr(run, "_CHILD", (sys.executable, "-c", program))
    before = children()

    class Stop(Exception):
        pass

    def watch(standing):
        if standing.running:
            raise Stop

    scan = Scan((tmp_path / "a.nii",), "0", None, "T1w", True)
    monkeypatch.setattr(run, "find_scans", lambda _: [scan])
    with pytest.raises(Stop):
        run.make_pairs([], tmp_path / "out", PairOptions(), watch=watch)
    assert children() == before
    assert not list((tmp_path / "out").glob(".drafts-*"))
    # The folder is free again.
    monkeypatch.setattr(run, "find_scans", lambda _: [])
    assert run.make_pairs([], tmp_path / "out", PairOptions()) == []


def test_a_command_that_is_killed_takes_its_processes_along(tmp_path):
    data = np.random.default_rng(0).normal(100, 10, (96, 96, 96)).astype(np.float32)
    nib.Nifti1Image(data, np.eye(4)).to_filename(tmp_path / "noise_T1w.nii")
    command = [Path(sys.executable).with_name("mrisr-node"), "pairs", tmp_path / "noise_T1w.nii"]
    process = psutil.Popen([*command, "--out", tmp_path / "out"])
    while not (started := process.children(recursive=True)):
        assert process.poll() is None
        time.sleep(0.1)
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(started, timeout=60)
    assert alive == []
    # Nobody holds the folder any more.
    Dataset(tmp_path / "out").close()
