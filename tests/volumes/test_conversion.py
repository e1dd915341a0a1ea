"""One series, one volume, exactly where its slices say."""

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless

from mrisr_node.errors import ConversionError, NotEligible
from mrisr_node.node.sample import Acquisition, Plane, write_sample
from mrisr_node.volumes.acquisition import read_acquisition
from mrisr_node.volumes.conversion import convert
from mrisr_node.volumes.geometry import ras_to_lps


def _files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _check_geometry(conversion, datasets):
    """Compare with every slice's own position, not with the affine's making."""
    lps = ras_to_lps(conversion.volume.affine)
    for dataset in datasets:
        position = np.array([float(v) for v in dataset.ImagePositionPatient])
        index = np.linalg.solve(lps, np.append(position, 1))
        assert np.allclose(index[:3], np.rint(index[:3]), atol=0.002)
        i, j, k = np.rint(index[:3]).astype(int)
        assert (i, j) == (0, 0)
        assert np.array_equal(conversion.volume.data[:, :, k].T, dataset.pixel_array)


@pytest.mark.parametrize("plane", list(Plane))
def test_any_plane_and_tilt_converts_to_where_its_slices_lie(tmp_path, plane):
    sample = write_sample(
        tmp_path, Acquisition(plane=plane, rotation=(12, -7, 5), slices=8, matrix=64)
    )
    conversion = convert(sample.paths)
    _check_geometry(conversion, [dcmread(path) for path in sample.paths])
    assert conversion.remark == ""
    assert conversion.acquisition.thickness == 5


def test_distance_comes_from_positions_and_not_from_tags(tmp_path):
    sample = write_sample(tmp_path, Acquisition(slices=8, matrix=64, gap_mm=1.5))
    for path in sample.paths:
        dataset = dcmread(path)
        dataset.SpacingBetweenSlices = 1.5
        dataset.save_as(path)
    conversion = convert(sample.paths)
    assert conversion.acquisition.distance == pytest.approx(6.5)
    _check_geometry(conversion, [dcmread(path) for path in sample.paths])


def test_rescaled_values_are_real_values(tmp_path):
    sample = write_sample(tmp_path, Acquisition(slices=8, matrix=64))
    for path in sample.paths:
        dataset = dcmread(path)
        dataset.RescaleSlope, dataset.RescaleIntercept = "0.5", "-10"
        dataset.save_as(path)
    first = np.array([float(v) for v in dcmread(sample.paths[0]).ImagePositionPatient])
    stored = dcmread(sample.paths[0]).pixel_array
    volume = convert(sample.paths).volume
    index = np.linalg.solve(ras_to_lps(volume.affine), np.append(first, 1))
    assert np.array_equal(volume.data[:, :, round(index[2])].T, stored * 0.5 - 10)


def test_slices_scaled_each_by_itself_are_real_values(tmp_path):
    sample = write_sample(tmp_path, Acquisition(slices=8, matrix=64))
    for index, path in enumerate(sample.paths):
        dataset = dcmread(path)
        dataset.RescaleSlope, dataset.RescaleIntercept = f"0.0{index + 1}", f"{-index}"
        dataset.save_as(path)
    volume = convert(sample.paths).volume
    for dataset in map(dcmread, sample.paths):
        position = np.array([float(v) for v in dataset.ImagePositionPatient])
        index = np.linalg.solve(ras_to_lps(volume.affine), np.append(position, 1))
        real = dataset.pixel_array * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
        assert np.allclose(volume.data[:, :, round(index[2])].T, real, atol=1e-4)


def _twelve_bits(dataset):
    dataset.BitsAllocated = dataset.BitsStored = 12
    dataset.HighBit = 11


def _cut_off(dataset):
    dataset.PixelData = dataset.PixelData[:100]


def _junk(dataset):
    dataset.file_meta.TransferSyntaxUID = JPEG2000Lossless
    dataset.PixelData = encapsulate([b"junkjunk"])
    dataset["PixelData"].VR = "OB"


@pytest.mark.parametrize("spoil", [_twelve_bits, _cut_off, _junk])
def test_pixel_data_that_cannot_be_read_are_a_reason(tmp_path, spoil):
    sample = write_sample(tmp_path, Acquisition(slices=8, matrix=32))
    for path in sample.paths:
        dataset = dcmread(path)
        spoil(dataset)
        dataset.save_as(path)
    with pytest.raises(ConversionError, match="pixel data"):
        convert(sample.paths)


@pytest.mark.parametrize(
    ("orientation", "reason"),
    [
        ([float("nan"), 0, 0, 0, 1, 0], "not a possible one"),
        ([1, 0, 0, float("inf"), 1, 0], "not a possible one"),
        # Their cross product has nearly the length 1, as that of a right angle has.
        ([1, 0, 0, 0.03, 0.99955, 0], "right angles"),
        ([2, 0, 0, 0, 0.5, 0], "right angles"),
        ([0, 0, 0, 0, 0, 0], "right angles"),
    ],
)
def test_directions_that_are_none_are_refused(tmp_path, orientation, reason):
    sample = write_sample(tmp_path, Acquisition(slices=8, matrix=32))
    datasets = [dcmread(path) for path in sample.paths]
    for dataset in datasets:
        dataset.ImageOrientationPatient = orientation
    with pytest.raises(ConversionError, match=reason):
        read_acquisition(datasets)


def test_cosines_of_three_decimals_are_directions(tmp_path):
    sample = write_sample(tmp_path, Acquisition(rotation=(15, 8, -20), slices=8, matrix=32))
    datasets = [dcmread(path) for path in sample.paths]
    for dataset in datasets:
        cosines = [f"{v:.3f}" for v in dataset.ImageOrientationPatient]
        dataset.ImageOrientationPatient = cosines
    assert read_acquisition(datasets).shape == (32, 32, 8)


def test_a_missing_slice_is_refused(tmp_path):
    sample = write_sample(tmp_path, Acquisition(slices=10, matrix=64))
    with pytest.raises(ConversionError, match="not evenly spaced"):
        convert([path for n, path in enumerate(sample.paths) if n != 4])


def test_two_images_at_one_place_are_refused(tmp_path):
    sample = write_sample(tmp_path, Acquisition(slices=8, matrix=64))
    twin = dcmread(sample.paths[3])
    twin.SOPInstanceUID = f"{twin.SOPInstanceUID}.1"
    twin.file_meta.MediaStorageSOPInstanceUID = twin.SOPInstanceUID
    twin.save_as(tmp_path / "twin.dcm")
    with pytest.raises(NotEligible, match="9 images lie at only 8"):
        convert([*sample.paths, tmp_path / "twin.dcm"])


def test_an_image_without_position_is_refused(tmp_path):
    sample = write_sample(tmp_path, Acquisition(slices=8, matrix=64))
    dataset = dcmread(sample.paths[0])
    del dataset.ImagePositionPatient
    with pytest.raises(NotEligible, match="do not say where"):
        read_acquisition([dataset])


def test_papaya_brain_is_seven_millimetres_apart(shared_data):
    conversion = convert(_files(shared_data("series/papaya_brain")))
    assert conversion.acquisition.distance == pytest.approx(7.0, abs=0.01)
    assert "dcm2niix" in conversion.remark


@pytest.mark.parametrize("name", ["qa_decub_HFP_t1sag", "qa_decub_HFDL_t1sag"])
def test_patients_on_their_side_and_face_down(shared_data, name):
    paths = _files(shared_data(f"series/{name}"))
    conversion = convert(paths)
    _check_geometry(conversion, [dcmread(path) for path in paths])
    assert conversion.remark == ""


@pytest.mark.parametrize(
    "name",
    [
        "compressed_rle/001",
        "compressed_jpeg/001",
        "compressed_jpegls/001",
        "compressed_j2k/001",
        "anatomical/001_implicit",
    ],
)
def test_compressed_series_convert_to_the_same_voxels(shared_data, name):
    root = shared_data("series/dcm2nifti_tests") / "dcm2nifti_tests" / "generic"
    paths = _files(root / name)
    _check_geometry(convert(paths), [dcmread(path) for path in paths])


def test_enhanced_multi_frame_converts(shared_data):
    conversion = convert(_files(shared_data("series/qa_xa30_T1_enh")))
    assert conversion.volume.data.shape == (128, 128, 96)
    assert conversion.volume.spacing == pytest.approx((2, 2, 2), abs=1e-3)
