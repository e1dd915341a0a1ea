import subprocess
import sys

import numpy as np
import pytest

from mrisr_node.superres.peak_memory import measured_memory


def test_it_sees_what_is_held_at_the_same_time_and_given_back():
    already = np.ones(8 * 2**20)
    with measured_memory() as memory:
        for _ in range(3):
            block = np.ones(16 * 2**20)  # 128 MiB
            del block
    assert memory.mib == pytest.approx(128, rel=0.3)
    assert already.sum() > 0


def test_it_sees_the_processes_that_were_started():
    code = "import time; held = bytearray(b'x' * 100 * 2**20); time.sleep(1)"
    with measured_memory() as memory:
        subprocess.run([sys.executable, "-c", code], check=True)
    assert memory.mib > 90
