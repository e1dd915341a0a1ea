"""The DICOM series that lie in a folder."""

from __future__ import annotations

import logging
from pathlib import Path

from pydicom import dcmread

__all__ = ["find_series"]

_log = logging.getLogger(__name__)


def find_series(path: Path) -> dict[str, list[Path]]:
    """Return the DICOM files below a folder, or the one named, by their SeriesInstanceUID.

    What is no DICOM, or so odd that not even that can be read of it, is passed over.
    """
    found: dict[str, list[Path]] = {}
    for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
        try:
            header = dcmread(file, stop_before_pixels=True, specific_tags=["SeriesInstanceUID"])
            uid = str(header.get("SeriesInstanceUID") or "")
        except Exception as error:  # noqa: BLE001 - pydicom raises anything on a damaged header
            _log.debug("%s is passed over: %s", file.name, type(error).__name__)
            continue
        if uid:
            found.setdefault(uid, []).append(file)
    return found
