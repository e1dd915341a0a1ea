"""Whose images a series holds, where an older version of the node did not write it down."""

from __future__ import annotations

import logging
from pathlib import Path

from pydicom import dcmread

from mrisr_node.intake.screening import PATIENT_TAGS, patient_of
from mrisr_node.records import Instance, Series

__all__ = ["note_patients"]

_log = logging.getLogger(__name__)

_AT_ONCE = 20


def note_patients(spool: Path) -> bool:
    """Read whose images some series hold from their files, if these are still here.

    Returns
    -------
    bool
        Whether there may be more series to look at.
    """
    series = list(Series.select().where(Series.patient_id.is_null()).limit(_AT_ONCE))
    for one in series:
        one.patient_id = ""  # where nothing can be read of it, it is not looked at again
        instance = Instance.select().where(Instance.series == one).first()
        try:
            if instance is not None:
                tags = [*PATIENT_TAGS, "SpecificCharacterSet"]
                header = dcmread(spool / instance.path, specific_tags=tags, stop_before_pixels=True)
                for name, value in patient_of(header).items():
                    setattr(one, name, value)
        except Exception as error:  # noqa: BLE001 - a file can be gone, or broken in any way
            _log.info("series %d does not tell whose it is (%s)", one.id, type(error).__name__)
        one.save(only=[Series.patient_id, Series.patient_name, Series.accession_number,
                       Series.study_date, Series.words])  # fmt: skip
    return len(series) == _AT_ONCE
