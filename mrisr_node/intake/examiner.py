"""What an uploaded file is, found out in a process of its own before anything else reads it.

It may hold anything: whatever it does to a parser or unpacker, it does to
``python -m mrisr_node.intake.examiner``, which has little memory and a limited time. An archive is
unpacked there, under numbers: a name from outside never becomes a path.

A file is called unusable for what it is alone. A disk that is full or fails, and a process that
somebody else has ended, are the node's trouble: it may be looked at again.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import zipfile
import zlib
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from mrisr_node.errors import ConversionError, NodeError
from mrisr_node.settings import Settings
from mrisr_node.volumes.nifti import GZIP, nifti_facts

__all__ = ["Examined", "NotNow", "Unusable", "examine"]

_MEMORY = 1024**3
_SECONDS_PER_GIB = 120
_SECONDS = 60
_PIECE = 1 << 20
_MOST_MEMBERS = 50_000
_DAMAGED = (OSError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError)
_ZIP = b"PK\x03\x04"
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED = 0x1

# How a file ends the process that looks at it; by any other signal somebody else does.
_CRASHES = frozenset({
    signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV, signal.SIGSYS,
    signal.SIGXCPU,
})  # fmt: skip
_GRACE = 5
"""Seconds of the processor from the signal that says which limit it is to the one that does not."""


class Unusable(NodeError):
    """The file is nothing that can be used; the message says why."""


class NotNow(NodeError):
    """The node could not look at the file, which is not the file's fault; the message says why."""


@dataclass(frozen=True)
class Examined:
    """What a file turned out to be.

    Parameters
    ----------
    kind
        ``nifti``, ``dicom``, or ``zip`` of DICOM files.
    sha256
        Of all of its bytes, where it is NIfTI.
    facts
        Of a NIfTI file: ``shape``, ``spacing_mm`` and whether it is ``packed``.
    left_out
        How many members of an archive are no DICOM files.
    """

    kind: str
    sha256: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    left_out: int = 0


def examine(settings: Settings, path: Path, folder: Path) -> Examined:
    """Find out what a file is.

    Parameters
    ----------
    folder
        Made anew for an archive; gets its DICOM files, by number.

    Raises
    ------
    Unusable
        It is of no kind that can be used, damaged, or dangerous.
    NotNow
        The node has no room to unpack it, or could not read, write or work now.
    """
    with path.open("rb") as file:
        if file.read(132)[128:] == b"DICM":
            return Examined("dicom")  # screening is another child's work
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, mode=0o700)
    most = settings.maximum_unpacked_bytes
    gib = (path.stat().st_size + most) / 1024**3
    seconds = int(_SECONDS + gib * _SECONDS_PER_GIB)
    try:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", __name__, path, folder, str(most),
             str(settings.minimum_free_bytes), str(seconds)],
            # Each thread of a library of linear algebra would count as memory.
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=4 * seconds,
            check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        # What keeps the processor busy has ended long before.
        raise NotNow(f"it could not be looked at within {4 * seconds} s") from error
    if done.returncode:
        kind = Unusable if -done.returncode in _CRASHES else NotNow
        raise kind(f"the process that looked at it ended with status {done.returncode}")
    answer: dict[str, Any] = json.loads(done.stdout)
    if "problem" in answer:
        raise (NotNow if answer["later"] else Unusable)(answer["problem"])
    return Examined(**answer)


def _examine(path: Path, folder: Path, most: int, minimum_free: int) -> Examined:
    with path.open("rb") as file:
        start = file.read(352)
    if start.startswith(_ZIP):
        return Examined("zip", left_out=_unpack(path, folder, most, minimum_free))
    packed = start.startswith(GZIP)
    # The magic of a single file stands at another place in each version of the format.
    if packed or start[344:347] == b"n+1" or start[4:7] == b"n+2":
        facts = nifti_facts(path, packed=packed)
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return Examined("nifti", digest, {**asdict(facts), "packed": packed})
    raise Unusable("it is neither NIfTI (.nii, .nii.gz) nor DICOM, nor a ZIP file of DICOM")


def _unpack(path: Path, folder: Path, most: int, minimum_free: int) -> int:
    """Unpack the DICOM files of an archive; return how many members are none."""
    with zipfile.ZipFile(path) as archive:
        members = [m for m in archive.infolist() if not m.is_dir()]
        if len(members) > _MOST_MEMBERS:
            raise Unusable(f"the ZIP file has {len(members)} members; at most {_MOST_MEMBERS}")
        if sum(m.file_size for m in members) > most:
            raise Unusable(_too_large(most))
        for member in members:
            _require_harmless(member)
        left, others = most, 0
        for number, member in enumerate(members):
            if shutil.disk_usage(folder).free - member.file_size < minimum_free:
                raise NotNow("the node has no room to unpack it (minimum_free_bytes)")
            size = _unpack_one(archive, member, folder / f"{number:06d}.dcm", left)
            left -= size or 0
            others += size is None
    if others == len(members):
        raise Unusable("the ZIP file holds no DICOM file")
    return others


def _require_harmless(member: zipfile.ZipInfo) -> None:
    name = PurePosixPath(member.filename.replace("\\", "/"))
    if name.is_absolute() or ".." in name.parts or ":" in name.parts[0]:
        raise Unusable("the ZIP file has members that lead out of it; nothing was unpacked")
    if stat.S_ISLNK(member.external_attr >> 16):
        raise Unusable("the ZIP file holds symbolic links; nothing was unpacked")
    if member.flag_bits & _ENCRYPTED:
        raise Unusable("the ZIP file is encrypted; upload it without a password")
    if member.compress_type not in _METHODS:
        raise Unusable("the ZIP file is compressed in another way than by Deflate")


def _unpack_one(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path, most: int
) -> int | None:
    """Unpack a DICOM file; return its size, or None where it is none."""
    with archive.open(member) as source:
        piece = source.read(_PIECE)
        if piece.startswith(_ZIP):
            raise Unusable("the ZIP file holds ZIP files; unpack it first")
        if piece[128:132] != b"DICM":
            return None
        size = 0
        with target.open("xb") as file:
            while piece:
                size += len(piece)
                if size > min(most, member.file_size):
                    raise Unusable(_too_large(most))
                file.write(piece)
                piece = source.read(_PIECE)
    return size


def _trouble_of_the_node(error: BaseException) -> str:
    """Say what was the matter with the node, where that is what an error was raised for."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, NotNow):
            return str(cause)
        # Unpackers raise it without a number for what they read, and seek where a file is not.
        if isinstance(cause, OSError) and cause.errno not in (None, errno.EINVAL):
            return f"the node could not read or unpack it: {os.strerror(cause.errno)}"
        cause = cause.__cause__
    return ""


def _problem(error: Exception) -> str:
    """Say what is the matter with the file."""
    if isinstance(error, Unusable | ConversionError):
        return str(error)
    if isinstance(error, MemoryError):
        return "it takes more memory to read than any sound file"
    if isinstance(error, _DAMAGED):
        return f"it is damaged ({type(error).__name__}); upload it again"
    return f"it cannot be read ({type(error).__name__})"


def _too_large(most: int) -> str:
    return f"the ZIP file unpacks to more than it may ({most} bytes, maximum_unpacked_bytes)"


def main(path: str, folder: str, most: str, minimum_free: str, seconds: str) -> int:
    """Print what a file is as JSON."""
    logging.disable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    limit = int(seconds)
    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + _GRACE))
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    try:
        answer = asdict(_examine(Path(path), Path(folder), int(most), int(minimum_free)))
    except Exception as error:  # noqa: BLE001 - a file can be broken in any way
        trouble = _trouble_of_the_node(error)
        answer = {"problem": trouble or _problem(error), "later": bool(trouble)}
    sys.stdout.write(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
