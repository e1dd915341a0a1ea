"""NIfTI files from outside, whichever way their axes run."""

from __future__ import annotations

from itertools import permutations, product

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

from mrisr_node.errors import ConversionError
from mrisr_node.volumes.geometry import ras_to_lps
from mrisr_node.volumes.nifti import nifti_facts, read_slices

# Oblique, as heads lie.
_TILT = np.array([[0.98, -0.17, 0.1], [0.17, 0.985, 0.0], [-0.0985, 0.017, 0.995]])


@pytest.fixture(scope="module")
def image() -> nib.Nifti1Image:
    tilt = np.linalg.qr(_TILT)[0]
    affine = np.eye(4)
    affine[:3, :3] = tilt * np.sign(np.diag(tilt)) @ np.diag([1.0, 1.2, 5.0])
    affine[:3, 3] = -60, 20, 33
    data = np.random.default_rng(0).integers(0, 999, (7, 9, 5)).astype(np.int16)
    made = nib.Nifti1Image(data, affine)
    made.set_sform(affine, 1)
    return made


AXES = ["".join(codes) for axes in permutations(("RL", "AP", "SI")) for codes in product(*axes)]


@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("packed", [False, True])
def test_every_order_of_axes_gives_the_same_slices(image, axes, packed, tmp_path):
    turn = ornt_transform(io_orientation(image.affine), axcodes2ornt(axes))
    turned = image.as_reoriented(turn)
    turned.set_sform(turned.affine, 1)
    path = tmp_path / ("head.nii.gz" if packed else "head.nii")
    turned.to_filename(path)
    path = path.rename(tmp_path / "0123")  # names say nothing
    facts = nifti_facts(path, packed=packed)
    axis = facts.spacing_mm.index(max(facts.spacing_mm))
    assert facts.spacing_mm[axis] == pytest.approx(5)
    volume, told = read_slices(path, axis)
    assert told == axes
    assert volume.data.shape == (7, 9, 5)
    lps = ras_to_lps(volume.affine)[:3, :3]
    # Rows run to the left and columns to the back; slices along their normal.
    assert lps[0, 0] > 0
    assert lps[1, 1] > 0
    assert np.linalg.det(lps) > 0
    # Each voxel is where it was.
    places = np.linalg.inv(image.affine) @ volume.affine
    for index in ((0, 0, 0), (6, 0, 1), (2, 8, 4)):
        at = np.rint(places @ [*index, 1])[:3].astype(int)
        assert volume.data[index] == image.dataobj[tuple(at)]


def test_values_are_scaled_and_must_be_numbers(tmp_path):
    data = np.arange(64, dtype=np.int16).reshape(4, 4, 4)
    image = nib.Nifti1Image(data, np.eye(4))
    image.set_sform(np.eye(4), 1)
    image.header.set_slope_inter(2.0, 1.0)
    path = tmp_path / "scaled.nii"
    image.to_filename(path)
    volume, _ = read_slices(path, 2)
    assert volume.data.max() == 2 * 63 + 1
    bad = nib.Nifti1Image(np.full((4, 4, 4), np.nan, np.float32), np.eye(4))
    bad.set_sform(np.eye(4), 1)
    bad.to_filename(path)
    with pytest.raises(ConversionError, match="no numbers"):
        read_slices(path, 2)


def test_what_is_longer_than_a_scanner_is_refused(tmp_path):
    image = nib.Nifti1Image(np.zeros((4, 4, 130), np.int16), np.diag([1.0, 1.0, 5.0, 1.0]))
    image.set_sform(image.affine, 1)
    path = tmp_path / "long.nii"
    image.to_filename(path)
    with pytest.raises(ConversionError, match="650 mm long; at most 600 mm are processed"):
        nifti_facts(path, packed=False)
