"""Who we are in DICOM: the name results carry, how their UIDs come about, and how we know our own.

Result UIDs follow from what the result is made of, so that a repeat gives the same instances and a
PACS that has them already notices (UUID-derived UIDs, PS3.5 B.2).
"""

from __future__ import annotations

import uuid

from pydicom.dataset import Dataset
from pydicom.uid import UID

__all__ = [
    "IMPLEMENTATION_CLASS_UID",
    "IMPLEMENTATION_VERSION_NAME",
    "MANUFACTURER_MODEL_NAME",
    "derive_uid",
    "is_own_result",
]

MANUFACTURER_MODEL_NAME = "mrisr_node"
IMPLEMENTATION_VERSION_NAME = "MRISR_NODE"
"""In associations and received files: without a version, so that an instance that comes again after
an upgrade becomes the same file."""

_NAMESPACE = uuid.UUID("5b0f1d0e-6f0c-5b1e-9c55-0d6f3a1f2c77")


def derive_uid(*parts: str) -> UID:
    """Return the UID that always belongs to these parts, under the root 2.25."""
    # The separator cannot occur in a UID, a digest or a number, so different parts stay different.
    return UID(f"2.25.{uuid.uuid5(_NAMESPACE, '|'.join(parts)).int}")


IMPLEMENTATION_CLASS_UID = derive_uid("implementation")
"""PS3.7 D.3.3.2."""


def is_own_result(dataset: Dataset) -> bool:
    """Tell whether a dataset says that this software contributed to it (PS3.3 C.12.1)."""
    return any(
        str(item.get("ManufacturerModelName", "")) == MANUFACTURER_MODEL_NAME
        for item in dataset.get("ContributingEquipmentSequence") or []
    )
