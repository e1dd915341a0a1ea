"""How far landmarks lie from where they were, in every orientation, as dcm2niix reads a result.

    python bench/geometry.py

Series whose landmarks have known patient coordinates (``tests/landmarks.py``) pass the stages of
the node, but for the finding of the brain, which has a stand-in: landmarks are no head. dcm2niix
reads the acquired slices and the result. Prints the table of docs/conformance-statement.md.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from dicom_checks import read_by_dcm2niix
from landmarks import SCANS, largest_distance
from result_sets import resolved

from mrisr_node.choices import ResultKind
from mrisr_node.settings import load_settings


def main() -> None:
    """Print a row for each scan."""
    logging.getLogger("highdicom").setLevel(logging.ERROR)
    sys.stdout.write("| series | acquired slices, mm | result, mm |\n|---|---|---|\n")
    for scan in SCANS:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            settings = load_settings(
                data_dir=folder / "node", mr_object=scan.result, result_series=[ResultKind.IMAGE]
            )
            paths = scan.write(folder / "source")
            made = resolved(folder / "job", paths, settings)
            images = [
                read_by_dcm2niix(paths, folder / "acquired"),
                read_by_dcm2niix(made[ResultKind.IMAGE], folder / "result"),
            ]
            distances = [f"{largest_distance(scan, image):.3f}" for image in images]
        sys.stdout.write("| " + " | ".join((scan.name, *distances)) + " |\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
