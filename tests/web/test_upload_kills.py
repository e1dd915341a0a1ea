"""An upload whose client, server and connection are killed ends whole, as ``bench/upload.py``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_an_upload_that_is_killed_three_times_ends_whole():
    done = subprocess.run(
        [sys.executable, ROOT / "bench" / "upload.py", "--megabytes", "80"],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["whole"]
    # Between two kills no more is lost than what was not durable yet.
    assert told["megabytes_sent_twice"] < 80
    # Much less than the file: its bytes pass in pieces.
    assert told["server_megabytes_at_most"] - told["server_megabytes_before"] < 40
