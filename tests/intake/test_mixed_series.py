"""A series that holds several volumes is split by what distinguishes them, and nothing else is."""

import dataclasses

import pytest
from mixed_series import ECHOES, SMALL, WITH_PHASE, write_mixed
from pydicom import dcmread

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
        (({}, {}), (SMALL, SAGITTAL), ["axial", "sagittal"]),
        (({}, {}), (SMALL, dataclasses.replace(SMALL, rotation=(0, 9, 0))), ["stack 1", "stack 2"]),
        (({}, {}), (SMALL, dataclasses.replace(SMALL, matrix=48)), ["32 x 32", "48 x 48"]),
        (
            ({"FlipAngle": 5}, {"FlipAngle": 20, "EchoTime": 4}),
            (),
            ["TE 3 ms, flip angle 5 deg", "TE 4 ms, flip angle 20 deg"],
        ),
        (
            [{"ImageType": ["ORIGINAL", "PRIMARY", "M", n]} for n in ("ND", "NORM")],
            (),
            ["ND", "NORM"],
        ),
    ],
)
def test_each_volume_is_a_stack_by_what_distinguishes_it(tmp_path, changes, acquisitions, labels):
    if "TE 3 ms" in labels[0]:
        changes = ({"EchoTime": 3, **changes[0]}, changes[1])
    volumes = write_mixed(tmp_path, changes, acquisitions)
    # In whatever order they arrive.
    headers = _headers(volumes)
    selection = select(headers[::2] + headers[1::2], RULES)
    assert [stack.label for stack in selection.stacks] == labels
    assert selection.left_out == ()
    for stack, paths in zip(selection.stacks, volumes, strict=True):
        assert _of(stack) == {str(dcmread(path).SOPInstanceUID) for path in paths}


def test_what_is_none_for_super_resolution_is_left_out_with_its_reason(tmp_path):
    volumes = write_mixed(tmp_path, WITH_PHASE)
    selection = select(_headers(volumes), RULES)
    [stack] = selection.stacks
    assert _of(stack) == {str(dcmread(path).SOPInstanceUID) for path in volumes[0]}
    assert selection.left_out == ("8 images (P) left out: a phase image (ImageType P)",)


def test_a_few_images_of_another_kind_are_left_out_however_they_lie(tmp_path):
    volumes = write_mixed(tmp_path, ({}, {}), (SMALL, SAGITTAL))
    few = [volumes[0], volumes[1][:1] + volumes[1][3:5]]
    selection = select(_headers(few), RULES)
    assert len(selection.stacks) == 1
    assert selection.left_out == (
        "3 images (sagittal) left out: 3 slices; at least 8 make a volume",
    )


def test_a_stack_that_lacks_a_slice_fails_the_series_it_may_still_come(tmp_path):
    volumes = write_mixed(tmp_path, acquisitions=[dataclasses.replace(SMALL, slices=12)] * 2)
    lacking = [volumes[0], volumes[1][:5] + volumes[1][6:]]
    with pytest.raises(ConversionError, match=r"^TE 98 ms: the slices are not evenly spaced"):
        select(_headers(lacking), RULES)


def test_images_that_differ_in_nothing_are_a_time_series(tmp_path):
    volumes = write_mixed(tmp_path, ({}, {}))
    with pytest.raises(NotEligible, match="16 images lie at only 8 slice positions"):
        select(_headers(volumes), RULES)


def test_a_series_of_measurements_is_not_split(tmp_path):
    volumes = write_mixed(tmp_path, [{"InversionTime": 100 * (n + 1)} for n in range(9)])
    with pytest.raises(NotEligible, match="9 volumes of different contrast"):
        select(_headers(volumes), RULES)


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
