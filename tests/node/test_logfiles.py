"""Logs stay small while their processes go on writing."""

import subprocess
import sys
import time

import pytest

from mrisr_node.node import logfiles
from mrisr_node.node.logfiles import open_log, rotate

# Prints numbered lines until its input ends.
TALKER = """
import itertools, os, sys, threading
threading.Thread(target=lambda: (sys.stdin.read(), ends.append(True)), daemon=True).start()
ends = []
for number in itertools.count():
    os.write(1, b"%09d\\n" % number)
    if ends:
        break
"""


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(logfiles, "_MOST", 100_000)


def _lines(path):
    return path.read_bytes().splitlines()


def test_a_log_that_is_written_becomes_old_and_begins_anew(tmp_path):
    path, old = tmp_path / "talker.log", tmp_path / "talker.old.log"
    rotate([path])  # not there yet
    with open_log(path) as log:
        talker = subprocess.Popen([sys.executable, "-c", TALKER], stdin=subprocess.PIPE, stdout=log)
    with talker:
        deadline = time.monotonic() + 60
        for _ in range(2):
            while path.stat().st_size <= 100_000:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            rotate([path])
        while path.stat().st_size < 1000:
            time.sleep(0.01)
        talker.stdin.close()
        assert talker.wait(60) == 0
    # The first and the last line that were copied may be cut.
    before = [int(line) for line in _lines(old)[1:-1]]
    after = [int(line) for line in _lines(path)]
    # In order and without a hole of zeros; a few lines may have come in between.
    assert before == list(range(before[0], before[0] + len(before)))
    assert after == list(range(after[0], after[0] + len(after)))
    assert before[-1] < after[0] < before[-1] + 1000
    assert {file.name for file in tmp_path.iterdir()} == {path.name, old.name}


def test_of_a_log_that_is_far_too_large_the_end_is_kept(tmp_path):
    path = tmp_path / "orthanc.log"
    path.write_bytes(b"a" * 900_000 + b"b" * 100_000)
    rotate([path])
    assert path.stat().st_size == 0
    assert path.with_suffix(".old.log").read_bytes() == b"b" * 100_000


def test_a_log_is_renamed_at_the_start_of_its_process(tmp_path):
    path = tmp_path / "logs" / "web.log"
    open_log(path).close()
    path.write_bytes(b"x" * 100_001)
    open_log(path).close()
    assert path.stat().st_size == 0
    assert path.with_suffix(".old.log").stat().st_size == 100_001


def test_where_there_is_no_room_the_log_stays(tmp_path, caplog):
    path = tmp_path / "web.log"
    path.write_bytes(b"x" * 100_001)
    (tmp_path / ".web.old.log").symlink_to("/dev/full")
    rotate([path])
    assert path.stat().st_size == 100_001
    assert "web.log cannot be rotated: No space left on device" in caplog.text
