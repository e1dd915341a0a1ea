"""The reaper: ends what was named and not taken back, children of children included."""

import subprocess
import sys
import time

import pytest

from mrisr_node.node.reaper import group_lives

# A shell that ignores requests to end, with a child of its own.
STUBBORN = ["sh", "-c", "trap '' TERM; sleep 60 & wait; sleep 60"]


@pytest.fixture
def groups():
    processes = [
        subprocess.Popen(command, start_new_session=True)
        for command in (["sleep", "60"], ["sleep", "60"], STUBBORN)
    ]
    time.sleep(0.2)
    yield processes
    for process in processes:
        process.kill()
        process.wait()


def test_groups_end_with_the_input(groups):
    kept, ended, stubborn = groups
    reaper = subprocess.Popen(
        [sys.executable, "-c",
         "from mrisr_node.node import reaper; reaper._GRACE_SECONDS = 1; reaper.main()"],
        stdin=subprocess.PIPE, text=True,
    )  # fmt: skip
    reaper.communicate(f"+{kept.pid}\n+{ended.pid}\n+{stubborn.pid}\n-{kept.pid}\n", timeout=30)
    assert kept.poll() is None
    assert ended.wait(5) != 0
    assert stubborn.wait(5) != 0
    deadline = time.monotonic() + 5
    while group_lives(stubborn.pid) and time.monotonic() < deadline:
        time.sleep(0.05)  # until init has taken note
    assert not group_lives(stubborn.pid)
