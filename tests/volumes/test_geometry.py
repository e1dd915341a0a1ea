"""LPS, RAS and files."""

import numpy as np
import pytest

from mrisr_node.volumes.geometry import Volume, lps_to_ras, ras_to_lps


def test_lps_and_ras_differ_in_the_signs_of_x_and_y():
    affine = np.array([[1, 0, 0, 10], [0, 2, 0, 20], [0, 0, 3, 30], [0, 0, 0, 1]], dtype=float)
    ras = lps_to_ras(affine)
    assert ras[:3, 3].tolist() == [-10, -20, 30]
    assert np.array_equal(ras_to_lps(ras), affine)


def test_a_volume_survives_its_file(tmp_path):
    affine = np.array([[0, 0, 5, -1], [-0.9, 0, 0, 2], [0, 0.9, 0, 3], [0, 0, 0, 1]], dtype=float)
    volume = Volume(np.random.default_rng(1).normal(size=(4, 5, 6)).astype(np.float32), affine)
    volume.save(tmp_path / "v.nii.gz")
    back = Volume.load(tmp_path / "v.nii.gz")
    assert np.array_equal(back.data, volume.data)
    assert np.allclose(back.affine, affine, atol=1e-5)
    assert np.allclose(back.spacing, (0.9, 0.9, 5))


@pytest.mark.parametrize(
    ("data", "affine"),
    [
        (np.zeros((2, 2), np.float32), np.eye(4)),
        (np.zeros((2, 2, 2)), np.eye(4)),
        (np.zeros((2, 2, 2), np.float32), np.zeros((4, 4))),
    ],
)
def test_what_is_no_volume_cannot_be_built(data, affine):
    with pytest.raises(ValueError, match="volume"):
        Volume(data, affine)
