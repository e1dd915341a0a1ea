"""A series that holds several volumes is split by what distinguishes them, and nothing else is."""

import dataclasses

import pytest
from mixed_series import ECHOES, SMALL, WITH_PHASE, write_mixed
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import EnhancedMRImageStorage

from mrisr_node.errors import ConversionError, NotEligible
from mrisr_node.intake.selection import SelectionRules, select
from mrisr_node.node.sample import Plane

RULES = SelectionRules(minimum_slices=8, minimum_distance=2.0)
SAGITTAL = dataclasses.replace(SMALL, plane=Plane.SAGITTAL)


def _headers(volumes):
    return [dcmread(path, stop_before_pixels=True) for paths in volumes for path in paths]


def _of(stack):
    return {s.sop_instance_uid for s in stack.acquisition.slices}


@pytest.mark.parametrize(
    ("changes", "acquisitions", "labels"),
    [
        (ECHOES, (), ["TE 13 ms", "TE 98 ms"]),
        (ECHOES, (SMALL, SAGITTAL), ["axial, TE 13 ms", "sagittal, TE 98 ms"]),
        (({}, {}), (SMALL, dataclasses.replace(SMALL, matrix=48)), ["32 x 32", "48 x 48"]),
        (({"FlipAngle": 5}, {"FlipAngle": 20}), (), ["flip angle 5 deg", "flip angle 20 deg"]),
        (
            [{"ImageType": ["ORIGINAL", "PRIMARY", "M", n]} for n in ("ND", "NORM")],
            (),
            ["ND", "NORM"],
        ),
    ],
)
def test_each_volume_is_a_stack_by_what_distinguishes_it(tmp_path, changes, acquisitions, labels):
    volumes = write_mixed(tmp_path, changes, acquisitions)
    headers = _headers(volumes)
    # In whatever order they arrive.
    for arrived in (headers[::2] + headers[1::2], headers[::-1]):
        selection = select(arrived, RULES)
        assert [stack.label for stack in selection.stacks] == labels
        assert selection.left_out == ()
        for stack, paths in zip(selection.stacks, volumes, strict=True):
            assert _of(stack) == {str(dcmread(path).SOPInstanceUID) for path in paths}


def test_each_echo_may_be_an_enhanced_object():
    found = select([_enhanced(number, echo) for number, echo in enumerate((13.0, 98.0))], RULES)
    assert [stack.label for stack in found.stacks] == ["TE 13 ms", "TE 98 ms"]
    assert [_of(stack) for stack in found.stacks] == [{"2.25.10"}, {"2.25.11"}]


def _enhanced(number: int, echo_time: float) -> Dataset:
    def item(**values: object) -> list[Dataset]:
        made = Dataset()
        for keyword, value in values.items():
            setattr(made, keyword, value)
        return [made]

    d = Dataset()
    d.SOPClassUID, d.SOPInstanceUID = EnhancedMRImageStorage, f"2.25.1{number}"
    d.StudyInstanceUID, d.FrameOfReferenceUID, d.PatientID = "2.25.1", "2.25.2", "1"
    d.Modality, d.ImageType = "MR", ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    d.PhotometricInterpretation, d.Rows, d.Columns = "MONOCHROME2", 4, 4
    d.SharedFunctionalGroupsSequence = item(
        PlaneOrientationSequence=item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0]),
        PixelMeasuresSequence=item(PixelSpacing=[1, 1], SliceThickness=5),
        MREchoSequence=item(EffectiveEchoTime=echo_time),
    )
    d.PerFrameFunctionalGroupsSequence = [
        frame
        for k in range(8)
        for frame in item(PlanePositionSequence=item(ImagePositionPatient=[0, 0, 5 * k]))
    ]
    return d


def test_what_is_none_for_super_resolution_is_left_out_with_its_reason(tmp_path):
    volumes = write_mixed(tmp_path, WITH_PHASE)
    selection = select(_headers(volumes), RULES)
    [stack] = selection.stacks
    assert stack.label == "M"
    assert _of(stack) == {str(dcmread(path).SOPInstanceUID) for path in volumes[0]}
    assert selection.left_out == ("P left out: a phase image (ImageType P)",)


def test_a_few_images_of_another_kind_are_left_out_however_they_lie(tmp_path):
    volumes = write_mixed(tmp_path, ECHOES, (SMALL, SAGITTAL))
    few = [volumes[0], volumes[1][:1] + volumes[1][3:5]]
    selection = select(_headers(few), RULES)
    assert len(selection.stacks) == 1
    assert selection.left_out == (
        "sagittal, TE 98 ms left out: 3 slices; at least 8 make a volume",
    )


def test_one_scan_in_several_planes_is_a_localizer(tmp_path):
    planes = [dataclasses.replace(SMALL, slices=9, plane=plane) for plane in Plane]
    volumes = write_mixed(tmp_path, [{}, {}, {}], planes)
    with pytest.raises(NotEligible, match="several orientations"):
        select(_headers(volumes), RULES)


def test_no_stack_is_cut_in_two(tmp_path):
    """Slices of one stack may differ: in the packages of an interleaved scan, or in their kind."""
    longer = dataclasses.replace(SMALL, slices=20, matrix=16)
    volumes = write_mixed(tmp_path / "packages", WITH_PHASE, [longer] * 2)
    headers = _headers(volumes)
    for number, header in enumerate(headers):
        header.RepetitionTime = 3000 + number % 2
    [stack] = select(headers, RULES).stacks
    assert (stack.label, len(stack.acquisition.slices)) == ("M", 20)
    for header in headers[10:20]:
        header.ImageType = ["DERIVED", "PRIMARY", "M"]
    with pytest.raises(NotEligible, match="a derived image"):
        select(headers[:20], RULES)


TWELVE = [dataclasses.replace(SMALL, slices=12)] * 2


@pytest.mark.parametrize(
    ("changes", "lacking", "label"),
    [(ECHOES, (1,), "TE 98 ms"), (ECHOES, (0, 1), "TE 13 ms"), (WITH_PHASE, (0,), "M")],
)
def test_a_stack_that_lacks_a_slice_fails_the_series_it_may_still_come(
    tmp_path, changes, lacking, label
):
    volumes = write_mixed(tmp_path, changes, TWELVE)
    for number in lacking:
        volumes[number] = volumes[number][:5] + volumes[number][6:]
    with pytest.raises(ConversionError, match=rf"^{label}: the slices are not evenly spaced"):
        select(_headers(volumes), RULES)


def test_images_that_differ_in_nothing_are_a_time_series(tmp_path):
    volumes = write_mixed(tmp_path, ({}, {}))
    with pytest.raises(NotEligible, match="16 images lie at only 8 slice positions"):
        select(_headers(volumes), RULES)


def test_a_series_of_measurements_is_not_split(tmp_path):
    volumes = write_mixed(tmp_path, [{"InversionTime": 100 * (n + 1)} for n in range(9)])
    with pytest.raises(NotEligible, match="9 volumes of different contrast"):
        select(_headers(volumes), RULES)


def test_what_is_left_out_is_told_within_bounds(tmp_path):
    kinds = [{"ImageType": ["ORIGINAL", "PRIMARY", "M"]}] + [
        {"ImageType": ["DERIVED", "PRIMARY", f"MAP{n}"]} for n in range(12)
    ]
    selection = select(_headers(write_mixed(tmp_path, kinds)), RULES)
    assert len(selection.stacks) == 1
    assert len(selection.left_out) == 9
    assert selection.left_out[-1] == "4 others left out"


@pytest.mark.filterwarnings("ignore:Invalid value for VR")
def test_a_name_typed_where_a_code_belongs_is_not_repeated(tmp_path):
    volumes = write_mixed(
        tmp_path, [{"ImageType": ["ORIGINAL", "PRIMARY", name]} for name in ("M", "Zyxomma")]
    )
    labels = [stack.label for stack in select(_headers(volumes), RULES).stacks]
    assert labels == ["M", "stack 2"]


def test_one_result_of_ours_among_them_keeps_all_back(tmp_path):
    headers = _headers(write_mixed(tmp_path))
    headers[-1].ContributingEquipmentSequence = [dcmread(write_mixed(tmp_path / "x")[0][0])]
    headers[-1].ContributingEquipmentSequence[0].ManufacturerModelName = "mrisr_node"
    with pytest.raises(NotEligible, match="result of this node"):
        select(headers, RULES)
