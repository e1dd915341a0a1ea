"""How the browser reads NIfTI files and subtracts them, beside what nibabel and NumPy say."""

from __future__ import annotations

import base64
import itertools

import nibabel
import numpy as np
import pytest
from playwright.sync_api import Page
from web_door import Door


@pytest.fixture
def page(signed_in: Page, door: Door) -> Page:
    signed_in.goto(f"{door.url}/pages/nifti.js")
    return signed_in


READ = """async data => {
  const { readNifti } = await import('/pages/nifti.js');
  const bytes = Uint8Array.from(atob(data), letter => letter.charCodeAt(0));
  const { dims, spacing, frames, affine, values } = await readNifti(new Blob([bytes]));
  return { dims, spacing, frames, affine, values: [...values] };
}"""


def test_files_are_read_as_nibabel_reads_them(page):
    affine = nibabel.affines.from_matvec(
        nibabel.eulerangles.euler2mat(0.3, -0.2, 0.1) @ np.diag([-0.9, 1.1, 4.0]), [12, -30, 7]
    )
    for kind, end in itertools.product(("u1", "i1", "i2", "u2", "i4", "u4", "f4", "f8"), "<>"):
        data = np.arange(2 * 3 * 4 * 2).reshape(2, 3, 4, 2).astype(kind)
        image = nibabel.Nifti1Image(data, affine, nibabel.Nifti1Header(endianness=end))
        image.set_data_dtype(np.dtype(kind))
        image.header.set_slope_inter(0.5, -3)
        image.set_qform(affine, 1)
        image.set_sform(None, 0)
        encoded = image.to_bytes()
        expected = nibabel.Nifti1Image.from_bytes(encoded)
        found = page.evaluate(READ, base64.b64encode(encoded).decode())
        assert found["dims"] == [2, 3, 4]
        assert found["frames"] == 2
        assert found["spacing"] == pytest.approx([0.9, 1.1, 4.0], abs=1e-4)
        assert np.array(found["affine"]) == pytest.approx(expected.affine[:3], abs=1e-3)
        assert found["values"] == pytest.approx(expected.get_fdata()[..., 0].ravel(order="F"))


SUBTRACT = """async ([one, other]) => {
  const { difference, overlap, readNifti } = await import('/pages/nifti.js');
  const read = data =>
    readNifti(new Blob([Uint8Array.from(atob(data), letter => letter.charCodeAt(0))]));
  const [first, second] = [await read(one), await read(other)];
  return [[...difference(first, second).volume.values], overlap(first, second)];
}"""


def test_two_grids_are_compared_at_the_same_place_in_space(page):
    """A ramp in space is the same on every grid; what is planted in one is found."""

    def ramp(shape, affine, more=0.0) -> str:
        voxels = np.moveaxis(np.indices(shape), 0, -1)
        x, y, z = np.moveaxis(nibabel.affines.apply_affine(affine, voxels), -1, 0)
        data = (100 + 3 * x - 2 * y + z + more).astype(np.float32)
        return base64.b64encode(nibabel.Nifti1Image(data, affine).to_bytes()).decode()

    tilted = nibabel.affines.from_matvec(
        nibabel.eulerangles.euler2mat(0.4, 0.2, -0.3) @ np.diag([1.0, 1.0, 3.0]), [-8, -8, -6]
    )
    straight = nibabel.affines.from_matvec(np.diag([-1.5, 1.5, 1.2]), [30, -30, -30])
    small, large = (12, 14, 5), (40, 40, 50)
    for more in (0.0, 7.0):
        values, overlaps = page.evaluate(
            SUBTRACT, [ramp(small, tilted), ramp(large, straight, more)]
        )
        assert overlaps
        assert values == pytest.approx(np.full(np.prod(small), more), abs=1e-3)
    # Where the second is not, there is nothing to subtract; a voxel reaches as far as its faces.
    values, _ = page.evaluate(SUBTRACT, [ramp(large, straight), ramp(small, tilted, 20.0)])
    found = np.reshape(values, large, order="F") > 0
    to_small = np.linalg.inv(tilted) @ straight
    at = nibabel.affines.apply_affine(to_small, np.moveaxis(np.indices(large), 0, -1))
    beyond = np.maximum(-0.5 - at, at - (np.array(small) - 0.5)).max(axis=-1)
    assert found[beyond < 0].all()
    assert not found[beyond > 0.001].any()
