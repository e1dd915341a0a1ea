"""The small pictures of a result: what is left in them is where radiologists look for it."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from mrisr_node.results.previews import PLANES, SIDES, write_previews
from mrisr_node.results.values import Window
from mrisr_node.volumes.geometry import Volume

SHAPE = (30, 40, 20)  # voxels from left to right, back to front, foot to head


def _head() -> Volume:
    """Bright at the right, in front and on top; RAS+ axes."""
    data = np.zeros(SHAPE, np.float32)
    data[24:28, 34:38, 16:19] = 100
    data[12:18, 17:23, 8:12] = 20  # the brain
    return Volume(data, np.diag([1.0, 1.0, 2.0, 1.0]))


def _pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


@pytest.mark.parametrize("axes", ["RAS", "LPS", "PSR", "ASL", "RIA", "LIP"])
def test_the_same_pictures_however_it_was_acquired(tmp_path, axes):
    head = _head()
    turn = nib.orientations.axcodes2ornt(axes)
    image = nib.Nifti1Image(head.data, head.affine).as_reoriented(
        nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), turn)
    )
    volume = Volume(np.ascontiguousarray(image.dataobj), image.affine)
    mask = volume.data == 20
    # Of the brain alone a picture goes through the middle, which the bright place does not.
    bright = Volume(np.where(mask, 0, volume.data).astype(np.float32), volume.affine)
    for plane, across in {"axial": 2, "coronal": 1, "sagittal": 0}.items():
        # Spread along the axis that the picture is across, so that the middle shows it.
        ras = nib.orientations.io_orientation(volume.affine)[:, 0].tolist().index(across)
        spread = Volume(
            np.broadcast_to(bright.data.max(axis=ras, keepdims=True), bright.data.shape).copy(),
            volume.affine,
        )
        write_previews(tmp_path, spread, spread, mask, Window(50, 100))
        for side in SIDES:
            pixels = _pixels(tmp_path / f"{plane}-{side}.png")
            rows, columns = np.nonzero(pixels > 200)
            middle = np.array([columns.mean() / pixels.shape[1], rows.mean() / pixels.shape[0]])
            assert (middle < 0.3).all(), (plane, middle)
    rows, columns = _pixels(tmp_path / "axial-result.png").shape
    assert columns / rows == pytest.approx(30 / 40, abs=0.01)
    assert _pixels(tmp_path / "coronal-result.png").shape == (320, 240)
    assert len(list(tmp_path.glob("*.png"))) == len(PLANES) * len(SIDES)
