import subprocess
import sys

import numpy as np
import pytest

from mrisr_node.superres.peak_memory import measured_memory


def test_it_sees_what_is_held_at_the_same_time_and_given_back():
    already = np.ones(8 * 2**20)
    # One that runs all the time, and takes more, hides nothing.
    code = "import sys; held = bytearray(b'x' * 200 * 2**20); print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        other.stdout.readline()
        with measured_memory() as memory:
            for _ in range(3):
                block = np.ones(16 * 2**20)  # 128 MiB
                del block
        other.stdin.close()
    assert memory.mib == pytest.approx(128, rel=0.3)
    assert already.sum() > 0


def test_it_sees_the_processes_that_were_started():
    code = "import time; held = bytearray(b'x' * 100 * 2**20); time.sleep(1)"
    with measured_memory() as memory:
        subprocess.run([sys.executable, "-c", code], check=True)
    assert memory.mib > 90
