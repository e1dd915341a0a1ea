"""May this object enter? Looked at before anything of it is kept."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import (
    JPEG2000,
    UID,
    EnhancedMRImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    LegacyConvertedEnhancedMRImageStorage,
    MRImageStorage,
    RLELossless,
)

from mrisr_node.errors import NodeError
from mrisr_node.intake.pixel_data import PixelDataError, check_pixel_data
from mrisr_node.intake.statuses import StoreStatus

__all__ = [
    "PATIENT_TAGS",
    "SOP_CLASSES",
    "TRANSFER_SYNTAXES",
    "Header",
    "Rejected",
    "count_items",
    "patient_of",
    "screen",
]

SOP_CLASSES = (
    MRImageStorage,
    EnhancedMRImageStorage,
    LegacyConvertedEnhancedMRImageStorage,
)
# Deflated is not offered: a few hundred kilobytes of it can become hundreds of megabytes.
TRANSFER_SYNTAXES = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
    RLELossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    JPEG2000Lossless,
    JPEG2000,
)

# Where no presentation context says so before (PS3.7 C.5.6, PS3.18 10.5.3).
_CLASS_NOT_SUPPORTED, _SYNTAX_NOT_SUPPORTED = 0x0122, 0xC122

# What the PACS takes of other classes, as orthanc.json says it: not Deflated either.
_PACS_SYNTAXES = re.compile(r"1\.2\.840\.10008\.1\.2(\.[125]|\.4\.[0-9.]+)?")

# Of what stands before the pixel data, which others read without a child and its limits, and of
# what stands after them, which comes with a whole file. The functional groups of a few thousand
# frames have less; an item takes two kilobytes in pydicom.
_MOST_BYTES = 32 * 1024**2
_MOST_ITEMS = 250_000
_ITEM_TAGS = (b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00")  # PS3.5 7.5, in both byte orders

PATIENT_TAGS = ("PatientID", "PatientName", "AccessionNumber", "StudyDate")
_PATIENT = dict(
    zip(("patient_id", "patient_name", "accession_number", "study_date"), PATIENT_TAGS, strict=True)
)
_UIDS = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")
# Three groups of 64 characters (PS3.5 6.2, PN).
_LONGEST_NAME = 194

# PS3.5 9.1: components of digits without leading zeros, 64 characters in all.
_UID = re.compile(r"(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*))*")


class Rejected(NodeError):
    """An object is not accepted; carries the C-STORE status that says so (PS3.4 B.2.3).

    Parameters
    ----------
    sop_class_uid, sop_instance_uid, series_instance_uid, study_instance_uid, patient_id
        What it says that it is, and whose, as far as that can be told and these are UIDs.
    """

    def __init__(
        self,
        status: int,
        reason: str,
        sop_class_uid: str = "",
        sop_instance_uid: str = "",
        series_instance_uid: str = "",
        study_instance_uid: str = "",
        patient_id: str = "",
    ) -> None:
        super().__init__(reason)
        self.status = status
        self.sop_class_uid, self.sop_instance_uid = sop_class_uid, sop_instance_uid
        self.series_instance_uid, self.study_instance_uid = series_instance_uid, study_instance_uid
        self.patient_id = patient_id


@dataclass(frozen=True)
class Header:
    """What the node remembers of a received instance."""

    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    study_instance_uid: str
    modality: str
    description: str
    patient_id: str
    patient_name: str
    accession_number: str
    study_date: str


def screen(
    path: Path, sop_class_uid: str | None = None, sop_instance_uid: str | None = None
) -> Header:
    """Check a received object against the command it came with.

    Whatever the file holds, this returns or raises `Rejected`, unless the process runs out of
    memory or crashes: so it is called in a process of its own (`screener`).

    Parameters
    ----------
    path
        The whole DICOM file.
    sop_class_uid, sop_instance_uid
        As the C-STORE command says. Where there is none (STOW-RS), the file meta information takes
        its place, and other storage classes are let in as well: they go to the PACS, and the node
        decodes nothing of them.

    Raises
    ------
    Rejected
        It cannot be read, is not what the command says it is, or its pixel data are not what its
        header says.
    """
    said: dict[str, str] = {}
    try:
        with path.open("rb") as file:
            return _screened(file, (sop_class_uid, sop_instance_uid), said)
    except Rejected as error:
        raise _named(error.status, str(error), said) from error
    except PixelDataError as error:
        raise _named(StoreStatus.CANNOT_UNDERSTAND, str(error), said) from error
    except Exception as error:
        reason = f"cannot be read as DICOM ({type(error).__name__})"
        raise _named(StoreStatus.CANNOT_UNDERSTAND, reason, said) from error


def _named(status: int, reason: str, said: dict[str, str]) -> Rejected:
    uids = [uid if _is_uid(uid := said.get(name, "")) else "" for name in _UIDS]
    return Rejected(status, reason, *[*uids, said.get("PatientID", "")])


def _is_uid(value: str) -> bool:
    return len(value) <= 64 and bool(_UID.fullmatch(value))


def _screened(
    file: BinaryIO, command: tuple[str | None, str | None], said: dict[str, str]
) -> Header:
    dataset = dcmread(file, stop_before_pixels=True)
    said |= {name: str(dataset.get(name) or "") for name in _UIDS}
    patient = patient_of(dataset)
    said["PatientID"] = patient["patient_id"]
    for name in _UIDS:
        if not _is_uid(said[name]):
            raise Rejected(StoreStatus.CANNOT_UNDERSTAND, f"{name} is missing or no valid UID")
    sop_class, meta = said["SOPClassUID"], dataset.file_meta
    foreign = False
    if command == (None, None):
        command = meta.get("MediaStorageSOPClassUID"), meta.get("MediaStorageSOPInstanceUID")
        foreign = _foreign(sop_class)
    if command != (sop_class, said["SOPInstanceUID"]):
        raise Rejected(
            StoreStatus.MISMATCH, "SOP class or instance UID differ between command and dataset"
        )
    syntax = str(meta.TransferSyntaxUID)
    if not (_PACS_SYNTAXES.fullmatch(syntax) if foreign else syntax in TRANSFER_SYNTAXES):
        raise Rejected(_SYNTAX_NOT_SUPPORTED, "a transfer syntax that is not accepted")
    before = file.tell()
    size = file.seek(0, os.SEEK_END)
    most = size if foreign else _MOST_BYTES
    _check_amount(file, 0, before, "before", most)
    file.seek(before)
    # A report, a document or a plan has no pixel data, and ends here.
    after = size if foreign and before == size else check_pixel_data(file, dataset, not foreign)
    _check_amount(file, after, size, "after", most)
    return Header(
        sop_class_uid=sop_class,
        sop_instance_uid=said["SOPInstanceUID"],
        series_instance_uid=said["SeriesInstanceUID"],
        study_instance_uid=said["StudyInstanceUID"],
        modality=_text(dataset, "Modality"),
        description=_text(dataset, "SeriesDescription"),
        **patient,
    )


def _foreign(sop_class_uid: str) -> bool:
    """Tell whether a SOP class is for the PACS alone; one that is for storage at all."""
    if sop_class_uid in SOP_CLASSES:
        return False
    keyword = UID(sop_class_uid).keyword
    if not keyword.endswith("Storage") or keyword == "MediaStorageDirectoryStorage":
        raise Rejected(_CLASS_NOT_SUPPORTED, "a SOP class that is not for storage")
    return True


def patient_of(dataset: Dataset) -> dict[str, str]:
    """Return whose images these are and what they were ordered as, in the records' words.

    Nothing of it is needed to process a series: what cannot be decoded is left out.
    """
    found = {}
    for field, keyword in _PATIENT.items():
        found[field] = ""
        with suppress(Exception):  # pydicom raises anything on a damaged value
            found[field] = _text(dataset, keyword, _LONGEST_NAME)
    return found


def count_items(encoded: bytes) -> int:
    """Return at most how many sequence items a data set has, without decoding it."""
    return max(encoded.count(tag) for tag in _ITEM_TAGS)


def _check_amount(file: BinaryIO, start: int, end: int, where: str, most: int) -> None:
    """Refuse elements before or after the pixel data that would fill memory."""
    size = end - start
    if size > most:
        raise Rejected(
            StoreStatus.CANNOT_UNDERSTAND,
            f"{size} bytes {where} the pixel data; at most {most} are accepted",
        )
    file.seek(start)
    items = count_items(file.read(size))
    if items > _MOST_ITEMS:
        reason = f"{items} items in sequences {where} the pixel data"
        raise Rejected(
            StoreStatus.CANNOT_UNDERSTAND, f"{reason}; at most {_MOST_ITEMS} are accepted"
        )


def _text(dataset: Dataset, name: str, longest: int = 64) -> str:
    value = str(dataset.get(name) or "")
    return "".join(c for c in value if c.isprintable())[:longest]
