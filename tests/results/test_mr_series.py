"""The result series: conformant, in place, and the same when made again."""

from pathlib import Path

import numpy as np
import pytest
from dicom_checks import dciodvfy
from origins import MADE_BY, origin_of
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset

from mrisr_node.errors import ResultError
from mrisr_node.identity import is_own_result
from mrisr_node.node.sample import Acquisition, Plane, write_sample
from mrisr_node.results.classic_mr import write_classic
from mrisr_node.results.mr_content import thin_slices
from mrisr_node.results.values import NORMALISED, encoding_of, lossy_compression
from mrisr_node.volumes.conversion import convert
from mrisr_node.volumes.geometry import Volume, ras_to_lps


def _thinned(volume: Volume, factor: int) -> Volume:
    """Every slice `factor` times: the grid of a result, with values that tell their origin."""
    affine = volume.affine.copy()
    affine[:3, 2] /= factor
    affine[:3, 3] -= (factor - 1) / 2 * affine[:3, 2]
    return Volume(np.repeat(volume.data, factor, axis=2), affine)


def _make(folder: Path, sources, **changes):
    folder.mkdir()
    conversion = convert(sources.paths)
    origin = origin_of(map(dcmread, sources.paths), conversion.acquisition, **changes)
    return write_classic(folder, origin, thin_slices(origin, _thinned(conversion.volume, 5)))


@pytest.fixture(scope="module", params=[*Plane, "oblique"])
def pair(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    oblique = request.param == "oblique"
    acquisition = Acquisition(
        plane=Plane.AXIAL if oblique else request.param,
        rotation=(15, 8, -20) if oblique else (0, 0, 0),
        slices=8,
        matrix=48,
    )
    sources = write_sample(folder / "source", acquisition)
    return sources, _make(folder / "result", sources)


def test_dciodvfy_finds_no_error(pair):
    _, written = pair
    assert dciodvfy(written.paths[0]) == []
    assert dciodvfy(written.paths[-1]) == []


def test_it_belongs_to_the_study_and_says_what_it_is(pair):
    sources, written = pair
    source, result = dcmread(sources.paths[0]), dcmread(written.paths[0])
    for keyword in ("StudyInstanceUID", "FrameOfReferenceUID", "PatientID", "PatientName",
                    "EchoTime", "RepetitionTime", "MagneticFieldStrength"):  # fmt: skip
        assert result[keyword].value == source[keyword].value
    assert result.SeriesInstanceUID != source.SeriesInstanceUID
    assert result.ImageType[:2] == ["DERIVED", "SECONDARY"]
    assert result.SeriesDescription.startswith("SR 1.0mm ")
    assert result.DerivationDescription == "Made by a test."
    assert [code.CodeValue for code in result.DerivationCodeSequence] == ["113085", "123110"]
    assert is_own_result(result)
    assert not is_own_result(source)
    ours, scanner = result.ContributingEquipmentSequence
    assert ours.PurposeOfReferenceCodeSequence[0].CodeValue == "109102"
    assert "ab" * 32 in ours.ContributionDescription
    assert scanner.Manufacturer == source.Manufacturer


def test_each_slice_names_the_acquired_slices_around_it(pair):
    sources, written = pair
    known = {d.SOPInstanceUID: d for d in map(dcmread, sources.paths)}
    for path in written.paths[::7]:
        result = dcmread(path)
        here = np.array([float(v) for v in result.ImagePositionPatient])
        assert result.SourceImageSequence
        for item in result.SourceImageSequence:
            assert item.PurposeOfReferenceCodeSequence[0].CodeValue == "121322"
            there = [float(v) for v in known[item.ReferencedSOPInstanceUID].ImagePositionPatient]
            assert np.linalg.norm(here - there) <= 5.01


def test_windows_values_and_reading_order_are_the_source_s(pair):
    sources, written = pair
    ordered = sorted(map(dcmread, sources.paths), key=lambda d: int(d.InstanceNumber))
    results = sorted(map(dcmread, written.paths), key=lambda d: int(d.InstanceNumber))
    assert [d.InstanceNumber for d in results] == list(range(1, 41))
    assert results[0].WindowCenter == ordered[0].WindowCenter
    for number, result in enumerate(results):
        assert np.array_equal(result.pixel_array, ordered[number // 5].pixel_array)
        assert result.SmallestImagePixelValue == result.pixel_array.min()
        assert result.LargestImagePixelValue == result.pixel_array.max()


def test_a_repeat_gives_the_same_bytes_and_other_weights_other_uids(tmp_path):
    from dataclasses import replace

    sources = write_sample(tmp_path / "s", Acquisition(slices=8, matrix=32))
    first, again = (_make(tmp_path / name, sources) for name in ("a", "b"))
    for one, two in zip(first.paths, again.paths, strict=True):
        assert one.read_bytes() == two.read_bytes()
    other = _make(tmp_path / "c", sources, provenance=replace(MADE_BY, digest="cd" * 32))
    assert other.series_instance_uid != first.series_instance_uid


def test_rescale_and_negative_values_survive(tmp_path):
    sources = write_sample(tmp_path / "s", Acquisition(slices=8, matrix=32))
    for path in sources.paths:
        dataset = dcmread(path)
        dataset.RescaleSlope, dataset.RescaleIntercept = "0.5", "-10"
        dataset.save_as(path)
    written = _make(tmp_path / "r", sources)
    result = dcmread(written.paths[0])
    assert (float(result.RescaleSlope), float(result.RescaleIntercept)) == (0.5, -10.0)
    assert result.pixel_array.max() == max(
        dcmread(p).pixel_array.max() for p in sources.paths if _same_place(p, result)
    )


def _same_place(path, result) -> bool:
    position = np.array([float(v) for v in dcmread(path).ImagePositionPatient])
    here = np.array([float(v) for v in result.ImagePositionPatient])
    return bool(np.linalg.norm(position - here) < 2.5)


def _edit(sources, change):
    """Change the source's headers, in the order of its instance numbers."""
    for index, path in enumerate(sources.paths):
        dataset = dcmread(path)
        change(index, dataset)
        dataset.save_as(path)


def test_slices_scaled_each_by_itself_keep_their_values(tmp_path):
    sources = write_sample(tmp_path / "s", Acquisition(slices=8, matrix=32))

    def scale(index, dataset):
        dataset.RescaleSlope, dataset.RescaleIntercept = f"0.00{index + 1}", f"{-index}"

    _edit(sources, scale)
    written = _make(tmp_path / "r", sources)
    wanted = _thinned(convert(sources.paths).volume, 5).data
    step = float(np.ptp(wanted)) / 65534
    results = sorted(map(dcmread, written.paths), key=lambda d: d.ImagePositionPatient[2])
    assert len({(d.RescaleSlope, d.RescaleIntercept) for d in results}) == 1
    for index, result in enumerate(results):
        real = result.pixel_array * float(result.RescaleSlope) + float(result.RescaleIntercept)
        assert np.abs(real.T - wanted[:, :, index]).max() <= 0.51 * step
    assert dciodvfy(written.paths[0]) == []


def test_the_window_of_the_middle_slice_comes_with_its_function(tmp_path):
    sources = write_sample(tmp_path / "s", Acquisition(slices=8, matrix=32))

    def window(index, dataset):
        dataset.WindowCenter, dataset.WindowWidth = [100 + index, 7], [200 + index, 7]
        dataset.VOILUTFunction = "SIGMOID"

    _edit(sources, window)
    written = _make(tmp_path / "r", sources)
    middle = convert(sources.paths).acquisition.slices[4].sop_instance_uid
    source = next(d for d in map(dcmread, sources.paths) if d.SOPInstanceUID == middle)
    result = dcmread(written.paths[0])
    assert result.WindowCenter == source.WindowCenter[0]
    assert result.WindowWidth == source.WindowWidth[0]
    assert result.VOILUTFunction == "SIGMOID"
    assert dciodvfy(written.paths[0]) == []


@pytest.mark.parametrize("odd", [3, 7])
def test_what_one_slice_lost_the_result_has_lost(tmp_path, odd):
    sources = write_sample(tmp_path / "s", Acquisition(slices=8, matrix=32))

    def lose(index, dataset):
        dataset.LossyImageCompression = "01" if index == odd else "00"
        if index == odd:
            dataset.LossyImageCompressionRatio = "12"
            dataset.LossyImageCompressionMethod = "ISO_15444_1"

    _edit(sources, lose)
    written = _make(tmp_path / "r", sources)
    result = dcmread(written.paths[0])
    assert result.LossyImageCompression == "01"
    assert result.LossyImageCompressionRatio == 12
    assert result.LossyImageCompressionMethod == "ISO_15444_1"
    assert dciodvfy(written.paths[0]) == []


@pytest.mark.parametrize(
    ("syntax", "method"),
    [
        ("1.2.840.10008.1.2.4.91", "ISO_15444_1"),
        ("1.2.840.10008.1.2.4.81", "ISO_14495_1"),
        ("1.2.840.10008.1.2.4.50", "ISO_10918_1"),
        ("1.2.840.10008.1.2.4.51", "ISO_10918_1"),
        ("1.2.840.10008.1.2.4.90", None),
        ("1.2.840.10008.1.2.1", None),
    ],
)
def test_a_syntax_that_loses_something_is_told(syntax, method):
    sources = [Dataset(), Dataset()]
    for source in sources:
        source.file_meta = FileMetaDataset()
        source.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    sources[1].file_meta.TransferSyntaxUID = syntax
    said = lossy_compression(sources)
    assert said.LossyImageCompression == ("01" if method else "00")
    assert said.get("LossyImageCompressionMethod") == method


def test_values_beyond_the_source_s_range_are_not_cut_off(tmp_path):
    source = Dataset()
    source.PixelRepresentation = 0
    for low, high, sign in ((0, 65535, False), (-5, 3000, True), (-5, 40000, False)):
        data = np.array([[[low, 7.4, high]]], dtype=np.float32)
        encoding = encoding_of([source], data)
        assert encoding.signed is sign
        assert encoding.declared is (low < 0 and high > 32767)
        real = encoding.encode(data) * encoding.slope + encoding.intercept
        assert np.abs(real - data).max() <= 0.5
    with pytest.raises(ResultError, match="do not fit"):
        NORMALISED.encode(np.array([[[0, 70]]], dtype=np.float32))
    with pytest.raises(ResultError, match="no numbers"):
        encoding_of([source], np.array([[[0, np.nan]]], dtype=np.float32))


def test_another_space_gets_a_frame_of_reference_of_its_own(tmp_path):
    sources = write_sample(tmp_path / "s", Acquisition(slices=8, matrix=32))
    conversion = convert(sources.paths)
    unit = Volume(conversion.volume.data / np.float32(1000), conversion.volume.affine)
    (tmp_path / "r").mkdir()
    origin = origin_of(map(dcmread, sources.paths), conversion.acquisition)
    written = write_classic(
        tmp_path / "r", origin, thin_slices(origin, unit, in_source_space=False)
    )
    result = dcmread(written.paths[0])
    assert result.FrameOfReferenceUID != dcmread(sources.paths[0]).FrameOfReferenceUID
    assert " MNI " in result.SeriesDescription
    assert dciodvfy(written.paths[0]) == []


def test_an_enhanced_source_gives_a_conformant_classic_result(tmp_path, shared_data):
    [path] = [p for p in shared_data("series/qa_xa30_T1_enh").rglob("*") if p.is_file()]
    dataset = dcmread(path)
    conversion = convert([path])
    origin = origin_of([dataset], conversion.acquisition)
    written = write_classic(tmp_path, origin, thin_slices(origin, conversion.volume))
    result = dcmread(written.paths[40])
    assert dciodvfy(written.paths[40]) == []
    assert result.EchoTime is not None
    assert result.SourceImageSequence[0].ReferencedFrameNumber
    lps = ras_to_lps(conversion.volume.affine)
    position = [float(v) for v in result.ImagePositionPatient]
    index = np.linalg.solve(lps, [*position, 1])[:3]
    assert np.allclose(index, np.rint(index), atol=1e-3)
    frame = dataset.pixel_array[conversion.acquisition.slices[round(index[2])].frame - 1]
    assert np.array_equal(result.pixel_array, frame)
    middle = conversion.acquisition.slices[48].frame
    shown = dataset.PerFrameFunctionalGroupsSequence[middle - 1].FrameVOILUTSequence[0]
    assert result.WindowCenter == shown.WindowCenter
    assert result.WindowWidth == shown.WindowWidth


def test_thick_frames_give_a_result_with_the_function_of_their_window(tmp_path, shared_data):
    [path] = [p for p in shared_data("series/qa_xa30_T1_enh").rglob("*") if p.is_file()]
    dataset = dcmread(path)
    # Every third frame of 2 mm: slices of 6 mm.
    pixels = dataset.pixel_array
    order = sorted(range(len(pixels)), key=lambda n: _frame_position(dataset, n))[::3]
    frames = dataset.PerFrameFunctionalGroupsSequence
    dataset.PerFrameFunctionalGroupsSequence = [frames[n] for n in order]
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        frame.FrameVOILUTSequence[0].VOILUTFunction = "LINEAR_EXACT"
    dataset.set_pixel_data(pixels[order], "MONOCHROME2", 16)
    dataset.save_as(tmp_path / "thick.dcm")
    conversion = convert([tmp_path / "thick.dcm"])
    assert conversion.acquisition.distance == pytest.approx(6, abs=0.01)
    origin = origin_of([dcmread(tmp_path / "thick.dcm")], conversion.acquisition)
    written = write_classic(tmp_path, origin, thin_slices(origin, _thinned(conversion.volume, 3)))
    assert len(written.paths) == 96
    result = dcmread(written.paths[40])
    assert result.VOILUTFunction == "LINEAR_EXACT"
    assert dciodvfy(written.paths[40]) == []


def _frame_position(dataset, number):
    frame = dataset.PerFrameFunctionalGroupsSequence[number]
    orientation = np.array(frame.PlaneOrientationSequence[0].ImageOrientationPatient, dtype=float)
    position = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, dtype=float)
    return float(np.cross(orientation[:3], orientation[3:]) @ position)
