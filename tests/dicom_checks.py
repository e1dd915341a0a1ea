"""What a validator that is not ours says about a file."""

import os
import shutil
import subprocess
import sys
from pathlib import Path


def dciodvfy(path: Path) -> list[str]:
    """Return the lines in which dciodvfy finds errors."""
    tool = shutil.which("dciodvfy", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    done = subprocess.run([tool, str(path)], capture_output=True, text=True, timeout=60)
    return [line for line in done.stderr.splitlines() if line.startswith("Error")]
