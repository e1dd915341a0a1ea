"""What is written of a pair: where it lies, and what it says."""

import gzip
import json
import struct

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from mrisr_node.errors import ConversionError, SettingsError
from mrisr_node.pairs.making import degraded, write_pairs
from mrisr_node.pairs.names import Names
from mrisr_node.pairs.options import TABLE, PairOptions, Slices
from mrisr_node.volumes.degradation import SliceProfile, thicken
from mrisr_node.volumes.geometry import Volume

WIDTH = 3.5
# Voxels from the centre; in no middle of one.
LANDMARKS = np.array([[-19.3, 17.6, -19.2], [18.7, -18.4, 21.9], [-17.1, -19.8, 20.3]])


def landmarks_in_space(spacing=(1.0, 0.9, 0.8), shape=(100, 108, 116), tilt=(11, -7, 16)):
    affine = np.eye(4)
    axes = Rotation.from_euler("xyz", tilt, degrees=True).as_matrix()
    affine[:3, :3] = axes * spacing
    affine[:3, 3] = (-31.7, 12.2, -44.9)
    centre = (np.array(shape) - 1) / 2
    index = np.moveaxis(np.indices(shape), 0, -1).astype(float)
    places = index @ affine[:3, :3].T + affine[:3, 3]
    true = (centre + LANDMARKS) @ affine[:3, :3].T + affine[:3, 3]
    data = sum(
        np.exp(-((places - landmark) ** 2).sum(axis=-1) / (2 * WIDTH**2)) for landmark in true
    )
    return Volume(data.astype(np.float32), affine), true


def read_by_hand(path):
    """Voxels and affine by the bytes of the NIfTI-1 standard: no library that could share an error.

    https://nifti.nimh.nih.gov/pub/dist/src/niftilib/nifti1.h
    """
    content = gzip.decompress(path.read_bytes())
    assert struct.unpack_from("<i", content, 0) == (348,)
    size = struct.unpack_from("<8h", content, 40)[1:4]
    assert struct.unpack_from("<h", content, 70) == (16,)  # float32
    start = int(struct.unpack_from("<f", content, 108)[0])
    rows = np.array(struct.unpack_from("<12f", content, 280)).reshape(3, 4)
    data = np.frombuffer(content, "<f4", np.prod(size), start).reshape(size, order="F")
    return data, rows


def largest_distance(data, rows, landmarks):
    places = np.moveaxis(np.indices(data.shape), 0, -1) @ rows[:, :3].T + rows[:, 3]
    far = []
    for landmark in landmarks:
        near = np.linalg.norm(places - landmark, axis=-1) < 5 * WIDTH
        weights = data[near]
        far.append(np.linalg.norm(weights @ places[near] / weights.sum() - landmark))
    return max(far)


@pytest.mark.parametrize("profile", SliceProfile)
@pytest.mark.parametrize("axis", ["x", "y", "z"])
def test_a_landmark_lies_at_the_same_place_in_both(tmp_path, axis, profile):
    high, true = landmarks_in_space()
    options = PairOptions((*TABLE, Slices(3.7, 0.25)), axis, profile, register=False)
    names = Names("001", 1, "T1w", options)
    mask = high.data > 0.01
    write_pairs(high, mask, "0" * 64, names, tmp_path, dicom=False)
    files = [names.high, *map(names.low, options.slices)]
    for name in files:
        data, rows = read_by_hand(tmp_path / f"{name}.nii.gz")
        assert largest_distance(data, rows, true) < 0.05, name
    shifted = rows + [[0, 0, 0, 0.1]] * 3
    assert largest_distance(data, shifted, true) > 0.1  # the measure can tell


def test_what_is_written_is_what_a_slice_profile_sees(tmp_path):
    high, _ = landmarks_in_space()
    options = PairOptions((Slices(4, 0.4),), "y", register=False)
    names = Names("001", 1, "T1w", options)
    write_pairs(high, high.data > 0.01, "0" * 64, names, tmp_path, dicom=False)
    data, rows = read_by_hand(tmp_path / f"{names.low(Slices(4, 0.4))}.nii.gz")
    made = thicken(high, 1, 4, 0.4)
    assert data.shape == (100, made.stack.count, 116)
    assert np.array_equal(data, made.volume.data)
    assert np.linalg.norm(rows[:, 1]) == pytest.approx(4.4, abs=1e-5)
    # Whole slices, centred in the field of view.
    ends = [(rows[:, :3] @ [0, k, 0] + rows[:, 3]) for k in (-0.5, made.stack.count - 0.5)]
    to_high = np.linalg.inv(high.affine)
    low_end, high_end = (to_high[:3, :3] @ end + to_high[:3, 3] for end in ends)
    assert low_end[1] + 0.5 == pytest.approx(107.5 - high_end[1], abs=1e-4)
    assert 0 <= low_end[1] + 0.5 < 4.4 / 0.9
    said = json.loads((tmp_path / f"{names.low(Slices(4, 0.4))}.json").read_text())
    assert said["SliceThickness"] == 4
    assert said["SliceGap"] == 0.4
    assert said["SpacingBetweenSlices"] == 4.4
    assert said["NumberOfSlices"] == made.stack.count
    assert said["SliceEncodingDirection"] == "j"
    assert said["SlicePlane"] == "coronal"
    assert said["SliceProfile"].startswith("Gaussian")
    assert said["Noise"] == "none added"
    assert said["SourceSHA256"] == "0" * 64
    assert said["Sources"] == [f"bids::{names.high}.nii.gz"]


def test_the_same_volume_gives_the_same_bytes(tmp_path):
    high, _ = landmarks_in_space()
    names = Names("001", 1, "T1w", PairOptions(register=False))
    written = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        write_pairs(high, high.data > 0.01, "0" * 64, names, folder, dicom=False)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        written.append({p.relative_to(folder): p.read_bytes() for p in files})
    assert written[0] == written[1]
    assert len(written[0]) == 2 * 2 + 4 * 3


def test_names_have_the_entities_of_bids_and_no_point():
    options = PairOptions()
    names = Names("001", 2, "FLAIR", options)
    assert names.low(Slices(4, 0.4)) == (
        "sub-001/anat/sub-001_run-2_space-MNI152NLin2009aSym_res-axial4gap0p4_desc-simulated_FLAIR"
    )
    native = Names("001", 1, "T1w", PairOptions(axis="x", register=False))
    assert native.low(Slices(3, 0)) == "sub-001/anat/sub-001_res-sagittal3gap0_desc-simulated_T1w"
    assert native.mask == "sub-001/anat/sub-001_res-hr_desc-brainT1w_mask"


@pytest.mark.parametrize(
    "text", ["", "4", "4/", "/1", "0/1", "-3/0", "3/-1", "3/0/0", "1e3/0", "nan/0"]
)
def test_slices_that_are_none_are_refused(text):
    with pytest.raises(SettingsError, match="slices"):
        Slices.parse(text)


@pytest.mark.parametrize(
    "wrong",
    [{"axis": "w"}, {"contrast": "CT"}, {"slices": ()}, {"slices": (Slices(3, 0), Slices(3, 0))}],
)
def test_options_that_cannot_be_are_refused(wrong):
    with pytest.raises(SettingsError):
        PairOptions(**wrong)


def test_options_survive_as_json():
    options = PairOptions((Slices(3.5, 0.25),), "x", SliceProfile.SINC, False, "T2w")
    assert PairOptions.from_json(json.loads(json.dumps(options.as_json()))) == options


def test_slices_thicker_than_the_head_are_refused():
    small = Volume(np.ones((8, 8, 8), np.float32), np.eye(4))
    with pytest.raises(ConversionError, match="thinner than one thick slice"):
        degraded(small, PairOptions((Slices(9, 0),)))
