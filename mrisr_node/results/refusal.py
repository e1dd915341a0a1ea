"""A small report in the study of a series that was to be super-resolved and was not."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import highdicom
from highdicom.sr import (
    CodedConcept,
    ComprehensiveSR,
    ContainerContentItem,
    ContentSequence,
    RelationshipTypeValues,
    TextContentItem,
)
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import UID, ComprehensiveSRStorage

from mrisr_node import __version__
from mrisr_node.identity import MANUFACTURER_MODEL_NAME, derive_uid
from mrisr_node.results.attributes import carry_identity, without_identity
from mrisr_node.results.origin import MANUFACTURER, at_the_scanner, file_meta, only_instance_of
from mrisr_node.results.report import CODES, SCHEME

__all__ = ["refusal_series_uid", "write_refusal"]

_SERIES_NUMBER = 50_000  # beyond those of results, which reach 40,000


def refusal_series_uid(series_instance_uid: str, reason: str) -> str:
    """Return the Series Instance UID of the report that tells a reason: for the same, the same."""
    return str(derive_uid("refusal", series_instance_uid, reason))


def write_refusal(path: Path, sources: Sequence[Dataset], reason: str, at: datetime) -> str:
    """Write one Comprehensive SR instance that says why nothing was made of a series.

    Parameters
    ----------
    path
        Where it goes.
    sources
        The instances of the series; their pixels are not needed.
    reason
        In words, without anything of the patient.
    at
        When it was found out.

    Returns
    -------
    str
        Its Series Instance UID.
    """
    first = sources[0]
    at = at_the_scanner(at, first)
    series_uid = UID(refusal_series_uid(str(first.SeriesInstanceUID), reason))
    content = ContainerContentItem(
        name=CodedConcept("REFUSAL", SCHEME, CODES["REFUSAL"]),
        is_content_continuous=False,
    )
    content.ContentSequence = ContentSequence(
        [
            TextContentItem(
                name=codes.DCM.Comment,
                value=f"No super-resolution made: {reason}",
                relationship_type=RelationshipTypeValues.CONTAINS,
            )
        ]
    )
    name = str(first.get("SeriesDescription") or "MR")
    ds = ComprehensiveSR(
        evidence=[without_identity(d) for d in sources],
        content=content,
        series_instance_uid=series_uid,
        series_number=int(first.get("SeriesNumber") or 0) + _SERIES_NUMBER,
        sop_instance_uid=only_instance_of(series_uid),
        instance_number=1,
        manufacturer=MANUFACTURER,
        is_complete=True,
        is_final=True,
        series_description=f"No SR of {name}"[:64],
    )
    carry_identity(ds, first)
    for what in ("Series", "Content", "InstanceCreation"):
        setattr(ds, f"{what}Date", at.strftime("%Y%m%d"))
        setattr(ds, f"{what}Time", at.strftime("%H%M%S"))
    ds.ManufacturerModelName = MANUFACTURER_MODEL_NAME
    ds.SoftwareVersions = __version__
    ds.ContributingEquipmentSequence = [
        highdicom.ContributingEquipment(
            manufacturer=MANUFACTURER,
            purpose_of_reference=codes.DCM.ProcessingEquipment,
            manufacturer_model_name=MANUFACTURER_MODEL_NAME,
            software_versions=__version__,
            contribution_datetime=at,
        )
    ]
    ds.file_meta = file_meta(ComprehensiveSRStorage)
    ds.file_meta.MediaStorageSOPInstanceUID = UID(ds.SOPInstanceUID)
    ds.save_as(path, enforce_file_format=True)
    return str(series_uid)
