"""The file that a received instance becomes (PS3.10 7.1): our file meta information, and its bytes.

What stands in the file meta information is the writer's matter, and another version may write
another: two files hold the same instance where what follows it is the same. So they do where a PACS
has encoded its data set anew on the way, which is asked where only a lost upload is at stake.
"""

from __future__ import annotations

import warnings
from pathlib import Path

from pydicom import Dataset, dcmread
from pydicom.filereader import read_file_meta_info
from pydicom.uid import UID
from pynetdicom.dsutils import create_file_meta, encode_file_meta

from mrisr_node.identity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

__all__ = ["as_received", "hold_the_same", "in_file_format", "say_the_same"]

# Preamble, prefix, and the element that says how long the rest of the group is.
_BEFORE_GROUP = 128 + 4 + 12
_PIECE = 1024**2
_PADDING = 0xFFFCFFFC  # Data Set Trailing Padding (PS3.10 7.2)


def in_file_format(
    data_set: bytes, sop_class_uid: UID, sop_instance_uid: UID, transfer_syntax: UID
) -> bytes:
    """Return an encoded data set as a DICOM file: for the same one, always the same bytes."""
    meta = create_file_meta(
        sop_class_uid=sop_class_uid,
        sop_instance_uid=sop_instance_uid,
        transfer_syntax=transfer_syntax,
        implementation_uid=IMPLEMENTATION_CLASS_UID,
        implementation_version=IMPLEMENTATION_VERSION_NAME,
    )
    return b"".join((bytes(128), b"DICM", encode_file_meta(meta), data_set))


def as_received(path: Path) -> tuple[bytes, UID, UID]:
    """Return a DICOM file as it would be here if it had come by C-STORE: the same instance, always.

    Returns
    -------
    tuple
        The file, and what the command would have said: SOP Class and SOP Instance UID. On a damaged
        file it raises whatever pydicom does.
    """
    meta = read_file_meta_info(path)
    start = _BEFORE_GROUP + int(meta.FileMetaInformationGroupLength)
    names = UID(meta.MediaStorageSOPClassUID), UID(meta.MediaStorageSOPInstanceUID)
    with path.open("rb") as file:
        file.seek(start)
        return in_file_format(file.read(), *names, UID(meta.TransferSyntaxUID)), *names


def hold_the_same(one: Path, other: Path) -> bool:
    """Tell whether two DICOM files hold the same bytes in the same transfer syntax.

    Raises
    ------
    OSError
        One of them cannot be read.
    """
    try:
        (syntax, start), (other_syntax, other_start) = _begin(one), _begin(other)
    except OSError:
        raise
    except Exception:  # noqa: BLE001 - pydicom raises anything on a damaged file
        return False
    if syntax != other_syntax or one.stat().st_size - start != other.stat().st_size - other_start:
        return False
    with one.open("rb") as file, other.open("rb") as other_file:
        file.seek(start)
        other_file.seek(other_start)
        while piece := file.read(_PIECE):
            if piece != other_file.read(_PIECE):
                return False
    return True


def say_the_same(one: Path, other: Path) -> bool:
    """Tell whether two DICOM files, both screened, hold the same values.

    They do in one transfer syntax only. Orthanc forwards a data set as DCMTK writes it: without the
    blanks of a value that is nothing else, for example.

    Raises
    ------
    OSError
        One of them cannot be read.
    """
    try:
        if _begin(one)[0] != _begin(other)[0]:
            return False
        # Zeros come back from DCMTK as an element of group 0, at which pydicom wonders.
        with warnings.catch_warnings(action="ignore"):
            return bool(_content(one) == _content(other))
    except OSError:
        raise
    except Exception:  # noqa: BLE001 - pydicom raises anything on an odd value
        return False


def _content(path: Path) -> Dataset:
    """Return a data set without what is no part of it: group 0, group lengths, and padding."""
    found = dcmread(path)
    for tag in list(found.keys()):
        if tag.group == 0 or tag.element == 0 or tag == _PADDING:
            del found[tag]
    return found


def _begin(path: Path) -> tuple[str, int]:
    """Return a file's transfer syntax, and where its data set begins."""
    meta = read_file_meta_info(path)
    return str(meta.TransferSyntaxUID), _BEFORE_GROUP + int(meta.FileMetaInformationGroupLength)
