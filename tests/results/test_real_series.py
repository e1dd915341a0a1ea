"""Results of real series of several scanners, in every orientation that they came in."""

from pathlib import Path

import numpy as np
import pytest
from dicom_checks import dciodvfy, read_by_dcm2niix
from dicom_standard import dicom_validator
from pydicom import dcmread
from result_sets import write_all

from mrisr_node.choices import ResultKind
from mrisr_node.volumes.folders import find_series

# GE axial, its slices a little askew; Siemens sagittal, on the side and face down; and Enhanced
# multi-frame. The other archives hold what is refused: mosaics, single images, thin slices.
ARCHIVES = ("papaya_brain", "qa_decub_HFDL_t1sag", "qa_decub_HFP_t1sag", "qa_xa30_T1_enh")


def _brightest(paths, folder: Path):
    """Return where the brightest voxel of a series lies (RAS), and its value."""
    if len(paths) == 1:
        volume = read_by_dcm2niix(paths, folder)
        data = volume.get_fdata()
        index = np.unravel_index(np.argmax(data), data.shape)
        return (volume.affine @ [*index, 1])[:3], data[index]
    # Slice by slice: on a stack of unevenly rounded positions, dcm2niix is more than 1 mm off.
    d = max((dcmread(path) for path in paths), key=lambda d: _values(d).max())
    values = _values(d)
    row, column = np.unravel_index(np.argmax(values), values.shape)
    directions = np.reshape(np.array(d.ImageOrientationPatient, float), (2, 3))
    steps = column * d.PixelSpacing[1], row * d.PixelSpacing[0]  # PS3.3 C.7.6.2.1.1
    place = np.array(d.ImagePositionPatient, float) + np.array(steps, float) @ directions
    return place * (-1, -1, 1), values.max()


def _values(dataset):
    slope, intercept = (
        dataset.get(k, v) for k, v in (("RescaleSlope", 1), ("RescaleIntercept", 0))
    )
    return dataset.pixel_array * float(slope) + float(intercept)


@pytest.mark.parametrize("name", ARCHIVES)
def test_every_object_is_conformant_and_lies_where_its_source_lies(shared_data, tmp_path, name):
    folder = shared_data(f"series/{name}")
    for number, paths in enumerate(find_series(folder).values()):
        result = write_all(tmp_path / str(number), paths)
        for kind in ResultKind:
            for path in {result.written[kind].paths[0], result.written[kind].paths[-1]}:
                # Its own UIDs and those of its source's study: what the scanner wrote stays.
                found = [line for line in dciodvfy(path) if "Illegal root for UID" not in line]
                assert found == [], (name, kind)
                assert dicom_validator(path) == [], (name, kind)
        place, value = _brightest(paths, tmp_path / f"{number}-source")
        made = read_by_dcm2niix(result.written[ResultKind.IMAGE].paths, tmp_path / f"{number}-made")
        index = np.linalg.solve(made.affine, [*place, 1])[:3]
        nearest = np.rint(index).astype(int)
        assert np.linalg.norm((made.affine @ [*nearest, 1])[:3] - place) < 0.05
        assert made.get_fdata()[tuple(nearest)] == pytest.approx(value, rel=1e-3)
