"""Ready or not: each part broken in turn, and who is told what about it."""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing

import pytest
from web_door import Door

from mrisr_node.beats import STALE_SECONDS, alive, signs, write_beat
from mrisr_node.records import Beat
from mrisr_node.settings import Settings
from mrisr_node.web.health import PROCESSES, Check, Health


@pytest.fixture(autouse=True)
def processes(door: Door) -> None:
    """Every process of the node has just said that it lives."""
    for process in PROCESSES:
        write_beat(process, "here:1:a")


@pytest.fixture
def look(door: Door) -> Callable[..., dict[str, Check]]:
    """Look anew, with settings that differ from the door's."""

    def report(**changes: object) -> dict[str, Check]:
        return Health(door.settings.model_copy(update=changes), kept=0).report()

    return report


def broken(report: dict[str, Check]) -> dict[str, Check]:
    found = {name: check for name, check in report.items() if not check.ok}
    assert all(check.mend for check in found.values())
    return found


def answer_when(door: Door, status: int) -> object:
    """Ask until the answer that is kept for a moment has gone."""
    deadline = time.monotonic() + 30
    with door.tool() as client:
        while (answer := client.get("/readyz")).status_code != status:
            assert time.monotonic() < deadline, answer.json()
            time.sleep(0.2)
    return answer.json()


def test_all_is_well(door, look):
    assert broken(look()) == {}
    told = answer_when(door, 200)
    assert told["status"] == "ok"
    assert set(told["checks"]) == {"database", "disk", "orthanc", "workers", "checkpoint"}
    assert door.settings.pacs_url in told["checks"]["orthanc"]["what"]


def test_a_stranger_is_told_which_check_failed_and_no_more(door):
    Beat.delete().where(Beat.process == "gpu-worker").execute()
    known = answer_when(door, 503)["checks"]
    assert "gpu-worker (not started yet)" in known["workers"]["what"]
    assert "logs/" in known["workers"]["mend"]
    for headers in ({}, {"Authorization": "Bearer mrisr_wrong"}):
        with door.client(**headers) as client:
            answer = client.get("/readyz")
        assert answer.status_code == 503
        assert answer.json() == {
            "status": "not ready",
            "checks": {name: {"ok": name != "workers"} for name in known},
        }


def test_a_locked_database(door, look):
    with closing(sqlite3.connect(door.settings.database_path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        found = broken(look())
        assert list(found) == ["database"]
        assert "database is locked" in found["database"].what
        other.execute("ROLLBACK")
    assert broken(look()) == {}
    # The question leaves nothing behind.
    assert {sign.process for sign in signs()} == set(PROCESSES)


def test_a_full_disk(look):
    found = broken(look(minimum_free_bytes=10**18))
    assert list(found) == ["disk"]
    assert "0xA700" in found["disk"].what


def test_a_pacs_that_is_down_and_one_that_refuses_us(look, free_port):
    assert "no answer" in broken(look(orthanc_http_port=free_port()))["orthanc"].what
    assert "refuses our user" in broken(look(orthanc_password="wrong"))["orthanc"].what


@pytest.mark.parametrize("process", PROCESSES)
def test_a_process_that_fell_silent(look, process):
    Beat.update(at=time.time() - STALE_SECONDS - 5).where(Beat.process == process).execute()
    assert f"{process} (silent for 6" in broken(look())["workers"].what


def test_one_of_several_receivers_is_enough(look):
    Beat.delete().where(Beat.process == "receiver").execute()
    write_beat("receiver/1", "here:2:b", {"associations": 3})
    write_beat("receiver/2", "here:3:c")
    Beat.update(at=0).where(Beat.process == "receiver/2").execute()
    try:
        assert broken(look()) == {}
    finally:
        Beat.delete().where(Beat.process.startswith("receiver/")).execute()


def test_a_damaged_checkpoint_until_it_is_mended(door: Door, tmp_path):
    good: Settings = door.settings
    folder = tmp_path / "net"
    shutil.copytree(good.checkpoint_folders[0], folder)
    health = Health(good.model_copy(update={"checkpoint": (str(folder),)}), kept=0)
    assert broken(health.report()) == {}
    weights = folder / "weights.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + b"x")
    found = broken(health.report())
    assert list(found) == ["checkpoint"]
    assert "is not the file that its card describes" in found["checkpoint"].what
    weights.unlink()
    assert "cannot be read" in broken(health.report())["checkpoint"].what
    weights.write_bytes(content)
    assert broken(health.report()) == {}


def test_a_process_says_that_it_lives_and_what_it_does(door):
    Beat.delete().where(Beat.process == "receiver").execute()
    with alive("receiver", lambda: {"associations": 2}):
        deadline = time.monotonic() + 30
        while not (found := [s for s in signs() if s.process == "receiver"]):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert found[0].fresh
    assert found[0].details == {"associations": 2}
