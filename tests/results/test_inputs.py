"""What hospitals send, from the files of a scanner to the files of a result."""

import dataclasses
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from dicom_checks import dciodvfy, read_by_dcm2niix
from landmarks import SCANS, Scan, largest_distance
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import (
    EnhancedMRImageStorage,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)
from result_sets import resolved

from mrisr_node.choices import ResultKind
from mrisr_node.errors import ConversionError, NotEligible
from mrisr_node.jobs.pipeline import run_stage
from mrisr_node.jobs.stages import Stage
from mrisr_node.jobs.workspace import Workspace
from mrisr_node.volumes.acquisition import slices_of

STATEMENT = Path(__file__).parents[2] / "docs" / "conformance-statement.md"

HEAD = Scan("a head", rotation=(15, 8, -20))


@pytest.mark.parametrize("scan", SCANS, ids=lambda scan: scan.name)
def test_dcm2niix_finds_every_landmark_where_it_is(tmp_path, make_settings, scan):
    # With the checkpoint that the statement names: networks move the centre of a landmark, too.
    settings = make_settings(
        checkpoint="thin-quick", mr_object=scan.result, result_series=[ResultKind.IMAGE]
    )
    paths = scan.write(tmp_path / "source")
    made = resolved(tmp_path / "job", paths, settings)[ResultKind.IMAGE]
    assert largest_distance(scan, read_by_dcm2niix(paths, tmp_path / "acquired")) < 0.02
    assert largest_distance(scan, read_by_dcm2niix(made, tmp_path / "result")) < 0.05
    for path in {made[0], made[-1]}:
        assert dciodvfy(path) == []
    image = dcmread(made[0])
    assert (image.Columns, image.Rows) == scan.matrix
    assert image.FrameOfReferenceUID == dcmread(paths[0]).FrameOfReferenceUID
    assert _direction(made) == pytest.approx(_direction(paths), abs=1e-4)


def _direction(paths):
    """From the first slice that is numbered to the last one."""
    first, *_, last = (s.position for path in paths for s in slices_of(dcmread(path)))
    return (last - first) / np.linalg.norm(last - first)


def test_the_table_of_the_conformance_statement_has_every_scan():
    rows = re.findall(
        r"^\| (.*) \| (0\.\d{3}) \| (0\.\d{3}) \|$", STATEMENT.read_text(), re.MULTILINE
    )
    assert [name for name, *_ in rows] == [scan.name for scan in SCANS]
    assert max(float(value) for _, *values in rows for value in values) < 0.05


@dataclass(frozen=True)
class Original:
    """A series and its result, by kind."""

    paths: list[Path]
    made: dict[ResultKind, list[Path]]


@pytest.fixture(scope="module")
def original(tmp_path_factory, make_settings):
    folder = tmp_path_factory.mktemp("original")
    paths = HEAD.write(folder / "source")
    return Original(paths, resolved(folder / "job", paths, make_settings()))


def _by_dcmtk(option):
    def compress(source, target):
        subprocess.run(["dcmcjpeg", option, source, target], check=True, timeout=60)

    return compress


def _by_pydicom(syntax):
    def compress(source, target):
        dataset = dcmread(source)
        dataset.compress(syntax, generate_instance_uid=False)
        dataset.save_as(target)

    return compress


@pytest.mark.parametrize(
    ("syntax", "compress"),
    [
        (RLELossless, _by_pydicom(RLELossless)),
        (JPEGLossless, _by_dcmtk("+el")),
        (JPEGLosslessSV1, _by_dcmtk("+e1")),
        (JPEGLSLossless, _by_pydicom(JPEGLSLossless)),
        (JPEG2000Lossless, _by_pydicom(JPEG2000Lossless)),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_a_compressed_series_gives_the_same_pixels(
    tmp_path, make_settings, original, syntax, compress
):
    packed = [tmp_path / path.name for path in original.paths]
    for source, target in zip(original.paths, packed, strict=True):
        compress(source, target)
    assert {dcmread(path).file_meta.TransferSyntaxUID for path in packed} == {syntax}
    settings = make_settings(result_series=[ResultKind.IMAGE])
    made = resolved(tmp_path / "job", packed, settings)[ResultKind.IMAGE]
    for path, plain in zip(made, original.made[ResultKind.IMAGE], strict=True):
        image = dcmread(path)
        assert image.LossyImageCompression == "00"
        assert image.PixelData == dcmread(plain).PixelData


def _typed(*image_type):
    def change(datasets):
        for dataset in datasets:
            dataset.ImageType = list(image_type)
        return datasets

    return change


def _without(*numbers):
    return lambda datasets: [d for d in datasets if d.InstanceNumber not in numbers]


def _moved(number, along):
    def change(datasets):
        normal = np.cross(*np.reshape(datasets[0].ImageOrientationPatient, (2, 3)))
        moved = datasets[number - 1]
        moved.ImagePositionPatient = list(moved.ImagePositionPatient + along * normal)
        return datasets

    return change


def _sheared(datasets):
    """A stack of a tilted gantry: each slice lies 1 mm further along its columns."""
    for number, dataset in enumerate(datasets):
        column = np.array(dataset.ImageOrientationPatient[3:])
        dataset.ImagePositionPatient = list(dataset.ImagePositionPatient + number * column)
    return datasets


REFUSED = {
    "mosaic": (_typed("ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"), NotEligible, "a mosaic"),
    "phase": (_typed("ORIGINAL", "PRIMARY", "P", "ND"), NotEligible, "a phase image"),
    "derived": (_typed("DERIVED", "PRIMARY", "MPR"), NotEligible, "a derived image"),
    "one missing": (_without(5), ConversionError, "10.00 mm between slices 4 and 5 where 5.00"),
    "two missing": (_without(7, 8), ConversionError, "15.00 mm between slices 6 and 7"),
    "one elsewhere": (_moved(6, 3.0), ConversionError, "8.00 mm between slices 5 and 6"),
    "one askew": (
        _moved(6, 0.4),
        ConversionError,
        r"slice 6 lies 0.[34]. mm away .* not processed",
    ),
    "tilted gantry": (_sheared, ConversionError, "sheared"),
}


def test_phase_is_refused_though_only_the_frames_say_so(tmp_path, make_settings):
    scan = dataclasses.replace(HEAD, sop_class=EnhancedMRImageStorage)
    [path] = scan.write(tmp_path / "source")
    dataset = dcmread(path)
    for group in dataset.PerFrameFunctionalGroupsSequence:
        frame = Dataset()
        frame.FrameType = ["ORIGINAL", "PRIMARY", "M", "NONE"]
        frame.ComplexImageComponent = "PHASE"
        group.MRImageFrameTypeSequence = [frame]
    dataset.save_as(path)
    settings = make_settings()
    workspace = Workspace(tmp_path / "job", (path,), settings, settings.recipe)
    with pytest.raises(NotEligible, match="a phase image"):
        run_stage(Stage.CONVERT, workspace)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_refused_before_the_work_with_its_reason(tmp_path, make_settings, name):
    change, kind, reason = REFUSED[name]
    paths = HEAD.write(tmp_path / "source")
    datasets = change([dcmread(path) for path in paths])
    for path, dataset in zip(paths, datasets, strict=False):
        dataset.save_as(path)
    settings = make_settings()
    workspace = Workspace(
        tmp_path / "job", tuple(paths[: len(datasets)]), settings, settings.recipe
    )
    with pytest.raises(kind, match=reason):
        run_stage(Stage.CONVERT, workspace)
    assert not [*workspace.folder.rglob("*.nii.gz")]


def _again(paths, folder, **changes):
    """The series once more, as another acquisition of the same study."""
    folder.mkdir()
    series, again = generate_uid(), []
    for path in paths:
        dataset = dcmread(path)
        dataset.SeriesInstanceUID = series
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        for keyword, value in changes.items():
            setattr(dataset, keyword, value)
        again.append(folder / path.name)
        dataset.save_as(again[-1])
    return again


def _referenced(dataset):
    """Every instance that is named anywhere in a dataset."""
    return {e.value for e in dataset.iterall() if e.keyword == "ReferencedSOPInstanceUID"}


@pytest.mark.parametrize(
    "changes",
    [
        {"SeriesNumber": 4, "SeriesDescription": "T1 again"},
        # Scanners that count their series anew, or give a repetition the number of the first.
        {"SeriesDescription": "T1 again"},
        {},
    ],
    ids=["another number", "the same number", "the same number and description"],
)
def test_each_original_of_a_study_has_its_own_result(tmp_path, make_settings, original, changes):
    paths = _again(original.paths, tmp_path / "again", **changes)
    pair = (original, Original(paths, resolved(tmp_path / "job", paths, make_settings())))
    made = [[dcmread(path) for paths in one.made.values() for path in paths] for one in pair]
    assert len({d.StudyInstanceUID for one in made for d in one}) == 1
    assert len({d.SeriesInstanceUID for one in made for d in one}) == 2 * len(ResultKind)
    assert len({d.SOPInstanceUID for one in made for d in one}) == sum(map(len, made))
    for source, one in zip(pair, made, strict=True):
        acquired = [dcmread(path) for path in source.paths]
        known = {d.SOPInstanceUID for d in (*acquired, *one)}
        for dataset in one:
            assert dataset.SeriesNumber % 1000 == acquired[0].SeriesNumber
            assert dataset.SeriesDescription.endswith(acquired[0].SeriesDescription)
            assert set() < _referenced(dataset) <= known
