"""What a result comes from, and what made it: the same for every object of one result."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import cached_property
from pathlib import Path

import highdicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import UID, ExplicitVRLittleEndian

from mrisr_node import __version__
from mrisr_node.choices import MRObject, ResultKind
from mrisr_node.identity import IMPLEMENTATION_CLASS_UID, MANUFACTURER_MODEL_NAME, derive_uid
from mrisr_node.results.facts import Facts
from mrisr_node.volumes.acquisition import Acquisition

__all__ = [
    "MANUFACTURER",
    "SERIES_NUMBER_STEP",
    "TITLES",
    "Origin",
    "Provenance",
    "WrittenSeries",
    "at_the_scanner",
    "code_item",
    "file_meta",
    "only_instance_of",
]

MANUFACTURER = "mrisr_node project"
SERIES_NUMBER_STEP = 1000


TITLES = {
    ResultKind.IMAGE: "SR",
    ResultKind.FIDELITY: "Fidelity of SR",
    ResultKind.CHANGE: "Change by SR",
    ResultKind.MASK: "Brain of SR",
    ResultKind.REPORT: "Report on SR",
}


@dataclass(frozen=True)
class Provenance:
    """What made a result, for its UIDs and for those who read it.

    Parameters
    ----------
    recipe
        ``native`` or ``mni``.
    checkpoint, digest
        Name of the checkpoint and SHA-256 of its weights.
    sentence
        One sentence on method, spacing, slice profile and fidelity.
    parameters
        Everything else that changes the result, in a fixed order.
    made_at
        When processing began; a repeat of the same job keeps it.
    """

    recipe: str
    checkpoint: str
    digest: str
    sentence: str
    parameters: tuple[str, ...]
    made_at: datetime


@dataclass(frozen=True)
class WrittenSeries:
    """A series of a result on disk."""

    kind: ResultKind
    study_instance_uid: str
    series_instance_uid: str
    paths: tuple[Path, ...]


@dataclass(frozen=True)
class Origin:
    """What one result comes from.

    Parameters
    ----------
    sources
        The instances that it is made from; their pixels are not needed.
    acquisition
        Their slices.
    provenance
        What made it of them.
    facts
        What is known of it.
    mr_object
        What its images are written as.
    stack, stack_number
        What distinguishes the sources from the other stacks of their series, and which of several
        they are, from 0; empty and 0 where they are the whole series.
    """

    sources: tuple[Dataset, ...]
    acquisition: Acquisition
    provenance: Provenance
    facts: Facts
    mr_object: MRObject = MRObject.CLASSIC
    stack: str = ""
    stack_number: int = 0

    @cached_property
    def first(self) -> Dataset:
        """The source instance that speaks for all."""
        return min(
            self.sources, key=lambda d: (int(d.get("InstanceNumber") or 0), str(d.SOPInstanceUID))
        )

    def series_uid(self, kind: ResultKind) -> UID:
        """Return the Series Instance UID: the same whenever the same result is made again."""
        of = hashlib.sha256("|".join(sorted(str(d.SOPInstanceUID) for d in self.sources)).encode())
        made = self.provenance
        identity = (made.recipe, of.hexdigest(), made.digest, *made.parameters, __version__)
        if self.mr_object is not MRObject.CLASSIC:
            # One series holds objects of one kind.
            identity += (self.mr_object.value,)
        if self.stack:
            # Its name is told: what was made of the same slices as a whole series tells another.
            identity += (self.stack,)
        if kind is ResultKind.REPORT:
            # Made again it tells other times: another document.
            identity += (made.made_at.isoformat(), repr(sorted(self.facts.seconds.items())))
        return derive_uid("series" if kind is ResultKind.IMAGE else kind.value, *identity)

    def series_number(self, kind: ResultKind) -> int:
        """Return the SeriesNumber."""
        kinds = list(ResultKind)
        ours = SERIES_NUMBER_STEP * (len(kinds) * self.stack_number + kinds.index(kind) + 1)
        return int(self.first.get("SeriesNumber") or 0) + ours

    def describe(self, kind: ResultKind, spacing_mm: float, space: str = "") -> str:
        """Return a SeriesDescription: what it is, its slices, and what it was made of."""
        name = str(self.first.get("SeriesDescription") or self.first.get("ProtocolName") or "MR")
        slices = f"{space} {spacing_mm:.1f}mm "
        # A long name is cut, alike in all series of a result: the viewer knows by it what belongs
        # together, and people by what follows it which stack it is.
        room = 64 - max(map(len, TITLES.values())) - len(slices)
        stack = f" {self.stack}"[:room] if self.stack else ""
        return f"{TITLES[kind]}{slices}{name[: room - len(stack)]}{stack}"

    @cached_property
    def software_versions(self) -> list[str]:
        """Version of the software, name and digest of the checkpoint (64 characters each)."""
        made = self.provenance
        return [__version__, f"{made.checkpoint} {made.digest[:40]}"]

    def equipment(self) -> list[Dataset]:
        """Name ourselves, and the scanner, whose place in the equipment module we take."""
        made = self.provenance
        ours = highdicom.ContributingEquipment(
            manufacturer=MANUFACTURER,
            purpose_of_reference=codes.DCM.ProcessingEquipment,
            manufacturer_model_name=MANUFACTURER_MODEL_NAME,
            software_versions=self.software_versions,
            contribution_datetime=made.made_at,
            contribution_description=f"Super-resolution, checkpoint sha256 {made.digest}",
        )
        scanner = Dataset()
        scanner.PurposeOfReferenceCodeSequence = [code_item(codes.DCM.AcquisitionEquipment)]
        scanner.Manufacturer = str(self.first.get("Manufacturer") or "unknown")
        for keyword in (
            "ManufacturerModelName",
            "InstitutionName",
            "StationName",
            "DeviceSerialNumber",
            "SoftwareVersions",
        ):
            if self.first.get(keyword):
                scanner[keyword] = self.first[keyword]
        return [ours, scanner]

    def stamp(self, ds: Dataset) -> None:
        """Write into an object when it was made, and by what."""
        made = at_the_scanner(self.provenance.made_at, self.first)
        ds.SeriesDate = ds.ContentDate = ds.InstanceCreationDate = made.strftime("%Y%m%d")
        ds.SeriesTime = ds.ContentTime = ds.InstanceCreationTime = made.strftime("%H%M%S")
        ds.Manufacturer = MANUFACTURER
        ds.ManufacturerModelName = MANUFACTURER_MODEL_NAME
        ds.SoftwareVersions = __version__
        ds.ContributingEquipmentSequence = self.equipment()


def at_the_scanner(moment: datetime, source: Dataset) -> datetime:
    """Return a moment in the time zone that the dates and times of a source are in (C.12.1).

    A result carries the source's TimezoneOffsetFromUTC, which then holds for its own times too.
    """
    offset = str(source.get("TimezoneOffsetFromUTC") or "")
    if re.fullmatch(r"[+-]\d{4}", offset):
        ahead = timedelta(hours=int(offset[:3]), minutes=int(offset[0] + offset[3:]))
        return moment.astimezone(timezone(ahead))
    return moment.astimezone()


def only_instance_of(series_instance_uid: str) -> UID:
    """Return the SOP Instance UID of a series of ours that has one instance."""
    return derive_uid("instance", series_instance_uid)


def file_meta(sop_class_uid: str) -> FileMetaDataset:
    """Return the file meta information of an object of ours, but for its UID."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(sop_class_uid)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = IMPLEMENTATION_CLASS_UID
    meta.ImplementationVersionName = f"MRISR_{__version__}"[:16]
    return meta


def code_item(code: Code) -> Dataset:
    """Return an item of a code sequence (PS3.3 8.8)."""
    item = Dataset()
    item.CodeValue = code.value
    item.CodingSchemeDesignator = code.scheme_designator
    item.CodeMeaning = code.meaning
    return item
