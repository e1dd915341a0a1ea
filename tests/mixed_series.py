"""Series that hold more than one volume, as scanners make them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pydicom import dcmread

from mrisr_node.node.sample import Acquisition, Study, write_sample

SMALL = Acquisition(slices=8, matrix=32)
ECHOES = ({"EchoTime": 13, "EchoNumbers": 1}, {"EchoTime": 98, "EchoNumbers": 2})
WITH_PHASE = (
    {"ImageType": ["ORIGINAL", "PRIMARY", "M", "ND"]},
    {"ImageType": ["ORIGINAL", "PRIMARY", "P", "ND"]},
)


def write_mixed(
    folder: Path,
    changes: Sequence[Mapping[str, object]] = ECHOES,
    acquisitions: Sequence[Acquisition] = (),
) -> list[tuple[Path, ...]]:
    """Write one series of several volumes; return the files of each.

    Parameters
    ----------
    changes
        What the headers of each volume say otherwise.
    acquisitions
        How each is cut; all alike unless given.
    """
    study, uid, found = Study(), None, []
    for number, change in enumerate(changes):
        cut = acquisitions[number] if acquisitions else SMALL
        made = write_sample(folder / str(number), cut, study=study, series_uid=uid)
        uid = made.series_uid
        for place, path in enumerate(made.paths, start=1):
            dataset = dcmread(path)
            dataset.InstanceNumber = 100 * number + place
            dataset.SOPInstanceUID = f"{dataset.SOPInstanceUID}.{number}"
            dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
            for keyword, value in change.items():
                setattr(dataset, keyword, value)
            dataset.save_as(path)
        found.append(made.paths)
    return found
