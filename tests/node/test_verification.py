"""Verification: what a right result looks like, and that every way of being wrong is seen."""

from collections.abc import Callable
from copy import deepcopy

import numpy as np
import pytest
from pydicom.dataset import Dataset

from mrisr_node.node.verification import compare_mni, compare_native
from mrisr_node.volumes.registration import load_template


def stack(count: int, distance: float, first: float, pixel: float = 1.0) -> list[Dataset]:
    """Return headers of axial slices, centred from `first` mm on."""
    headers = []
    for index in range(count):
        d = Dataset()
        d.SOPInstanceUID = f"1.2.{count}.{index + 1}"
        d.StudyInstanceUID = "1.2.3"
        d.FrameOfReferenceUID = "1.2.4"
        d.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        d.ImagePositionPatient = [0, 0, float(np.round(first + index * distance, 6))]
        d.PixelSpacing = [pixel, pixel]
        d.Rows, d.Columns = 64, 48
        headers.append(d)
    return headers


# 11 slices of 6.5 mm cover 71.5 mm, from -3.25 on: 72 slices at 1 mm pixels, 89 at 0.5 mm.
SOURCE = stack(11, 6.5, 0.0)
RESULT = stack(72, 71.5 / 72, -3.25 + 71.5 / 144)


def test_a_right_result_passes() -> None:
    assert compare_native(SOURCE, RESULT) == []
    assert compare_native(SOURCE, RESULT[::-1]) == []


def test_slices_are_not_finer_than_reason() -> None:
    fine = stack(89, 71.5 / 89, -3.25 + 71.5 / 178, pixel=0.5)
    assert compare_native(stack(11, 6.5, 0.0, pixel=0.5), fine) == []


def shift(header: Dataset) -> None:
    header.ImagePositionPatient[2] += 0.05


def turn(header: Dataset) -> None:
    header.ImageOrientationPatient = [0.999, 0.0447, 0, -0.0447, 0.999, 0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: setattr(d, "StudyInstanceUID", "9"), "StudyInstanceUID"),
        (lambda d: setattr(d, "FrameOfReferenceUID", "9"), "FrameOfReferenceUID"),
        (lambda d: setattr(d, "Rows", 63), "images have another size"),
        (lambda d: setattr(d, "PixelSpacing", [1.0, 1.1]), "pixels have another size"),
        (shift, "end of the field of view"),
        (turn, "orientation"),
    ],
)
def test_what_is_wrong_is_named(change: Callable[[Dataset], None], words: str) -> None:
    result = deepcopy(RESULT)
    for header in result:
        change(header)
    assert words in " ".join(compare_native(SOURCE, result))


def test_a_missing_slice_is_seen() -> None:
    assert "71 slices instead of 72" in " ".join(compare_native(SOURCE, RESULT[:-1]))
    assert "geometry cannot be read" in " ".join(compare_native(SOURCE, RESULT[:20] + RESULT[21:]))
    assert compare_native(SOURCE, []) == ["the result has no instances"]


def mni_stack() -> list[Dataset]:
    """Return headers of a result on the template's grid (RAS+; DICOM is LPS+)."""
    template = load_template()
    headers = stack(template.data.shape[2], 1.0, template.affine[2, 3])
    for d in headers:
        d.FrameOfReferenceUID = "1.2.5"
        d.Columns, d.Rows = template.data.shape[:2]
        d.ImageOrientationPatient = [-1, 0, 0, 0, -1, 0]
        x, y = -template.affine[:2, 3]
        d.ImagePositionPatient = [x, y, d.ImagePositionPatient[2]]
    return headers


def test_a_right_mni_result_passes() -> None:
    assert compare_mni(SOURCE, mni_stack()) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: setattr(d, "StudyInstanceUID", "9"), "StudyInstanceUID"),
        (lambda d: setattr(d, "FrameOfReferenceUID", "1.2.4"), "is the source's"),
        (lambda d: setattr(d, "FrameOfReferenceUID", d.SOPInstanceUID), "do not share one"),
        (lambda d: setattr(d, "Rows", 232), "another size"),
        (lambda d: setattr(d, "PixelSpacing", [1.1, 1.0]), "template's grid"),
        (shift, "template's grid"),
    ],
)
def test_what_is_wrong_in_mni_space_is_named(change: Callable[[Dataset], None], words: str) -> None:
    result = mni_stack()
    for header in result:
        change(header)
    assert words in " ".join(compare_mni(SOURCE, result))


def test_a_missing_slice_in_mni_space_is_seen() -> None:
    assert "188 slices instead of 189" in " ".join(compare_mni(SOURCE, mni_stack()[:-1]))
    assert compare_mni(SOURCE, []) == ["the result has no instances"]
