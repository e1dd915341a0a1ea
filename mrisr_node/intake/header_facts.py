"""What a file in quarantine says it is, read in a process of its own.

The file was refused at the door and may hold anything: whatever it does to the parser, it does to
``python -m mrisr_node.intake.header_facts``, which has little memory and little time. Unless they
are asked for, no name, id or birth date of a patient is among the facts.
"""

from __future__ import annotations

import json
import logging
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from pydicom import FileDataset, dcmread
from pydicom.filereader import read_partial
from pydicom.tag import BaseTag, Tag
from pydicom.uid import UID

__all__ = ["header_facts"]

_TAGS = (
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Modality",
    "SeriesDescription", "ImageType", "Manufacturer", "NumberOfFrames", "Rows", "Columns",
    "BitsAllocated", "BitsStored", "SamplesPerPixel", "PhotometricInterpretation",
)  # fmt: skip
# Long enough for a UID and its name.
_LONGEST = 128
_MEMORY = 1024**3
_PROCESSOR_SECONDS = 20
_PATIENCE = 120
"""Seconds by the clock, on a machine that has much else to do."""


def header_facts(path: Path, keywords: Sequence[str] = ()) -> dict[str, str]:
    """Return attributes of a DICOM file by keyword; under ``Problem`` why there are no others.

    Parameters
    ----------
    keywords
        Which ones, exactly as they stand in the file, whose tags have to ascend; without any,
        those that say what it is, in few words and with the names of UIDs. The transfer syntax is
        always among them. What is missing or empty is left out.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", __name__, path, *keywords],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_PATIENCE,
            check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"Problem": f"it could not be read within {_PATIENCE} s"}
    if done.returncode:
        return {"Problem": f"the process that read it ended with status {done.returncode}"}
    facts: dict[str, str] = json.loads(done.stdout)
    return facts


def _read(path: Path, keywords: Sequence[str]) -> dict[str, str]:
    facts = {}
    text = _exact if keywords else _words
    try:
        dataset = _in_order(path, keywords) if keywords else _header(path)
        facts["TransferSyntaxUID"] = text(dataset.file_meta.get("TransferSyntaxUID"))
        facts |= {name: text(dataset.get(name)) for name in keywords or _TAGS}
    except Exception as error:  # noqa: BLE001 - a file can be broken in any way
        facts["Problem"] = f"it cannot be read as DICOM ({type(error).__name__})"
    return {name: value for name, value in facts.items() if value}


def _header(path: Path) -> FileDataset:
    return dcmread(path, stop_before_pixels=True, specific_tags=list(_TAGS))


def _in_order(path: Path, keywords: Sequence[str]) -> FileDataset:
    """Read a file whose tags ascend (PS3.5 7.1): of two elements with one tag others take another.

    pydicom takes the last, Orthanc the first.
    """
    last = -1

    def ascends(tag: BaseTag, _vr: str | None, _length: int) -> bool:
        nonlocal last
        if tag <= last:
            raise ValueError
        last = tag
        return False

    with path.open("rb") as file:
        return read_partial(file, ascends, specific_tags=[Tag(name) for name in keywords])


def _exact(value: object) -> str:
    return str(value if value is not None else "")


def _words(value: object) -> str:
    """Return a value in few characters, all of which can be printed."""
    name = value.name if isinstance(value, UID) else ""
    words = _exact(value)
    text = f"{words} ({name})" if name and name != words else words
    return "".join(c if c.isprintable() else " " for c in text)[:_LONGEST]


def main(path: str, *keywords: str) -> int:
    """Print the facts of a file as JSON."""
    logging.disable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (_PROCESSOR_SECONDS, _PROCESSOR_SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    sys.stdout.write(json.dumps(_read(Path(path), keywords)))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
