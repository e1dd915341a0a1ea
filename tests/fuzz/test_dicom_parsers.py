"""Whatever bytes come in: what reads them answers or refuses in its own words."""

import contextlib
import resource
import tempfile
import time
from io import BytesIO
from pathlib import Path

import dicom_bytes
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.dataset import Dataset
from small_dicom import encoded, encoded_slice, small_slice

from mrisr_node.errors import NotEligible, SeriesError
from mrisr_node.intake.screening import Header, Rejected, screen
from mrisr_node.intake.selection import SelectionRules, select
from mrisr_node.volumes.acquisition import Acquisition, read_acquisition
from mrisr_node.volumes.contrast import CONTRASTS, contrast_of

# What pydicom thinks of such files is not the question.
pytestmark = pytest.mark.filterwarnings("ignore")

RULES = SelectionRules(2, 2.0)
CORPUS = sorted((Path(__file__).parent.parent / "corpus").glob("*.dcm"))


def screened(content: bytes) -> Header | Rejected:
    """Screen a file as the receiver does; the one place that knows how."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        try:
            return screen(Path(file.name), dicom_bytes.SOP_CLASS, dicom_bytes.SOP_INSTANCE)
        except Rejected as rejected:
            return rejected


def check_screening(content: bytes) -> None:
    answer = screened(content)
    assert isinstance(answer, Header | Rejected)
    if isinstance(answer, Rejected):
        assert answer.status in (0xA900, 0xC000)
        assert len(str(answer)) < 200
    else:
        assert answer.sop_instance_uid == dicom_bytes.SOP_INSTANCE
        for uid in (answer.series_instance_uid, answer.study_instance_uid):
            assert set(uid) <= set("0123456789.")
            assert 0 < len(uid) <= 64
        assert (answer.modality + answer.description).isprintable() or not answer.modality


def check_reading(datasets: list[Dataset]) -> None:
    """Read a series that got through the door."""
    with contextlib.suppress(NotEligible, SeriesError):
        for stack in select(datasets, RULES).stacks:
            check_acquisition(stack.acquisition)
    with contextlib.suppress(NotEligible, SeriesError):
        check_acquisition(read_acquisition(datasets))
    assert contrast_of(datasets) in (None, *CONTRASTS)


def check_acquisition(acquisition: Acquisition) -> None:
    assert np.isfinite(acquisition.affine).all()
    assert abs(np.linalg.det(acquisition.affine[:3, :3])) > 0
    assert 0 < acquisition.thickness < np.inf
    assert 0 < acquisition.distance < np.inf
    assert min(acquisition.shape) > 0


def headers_of(*files: bytes) -> list[Dataset]:
    """Read what can be read of them."""
    found = []
    for content in files:
        with contextlib.suppress(Exception):  # what the door would have refused
            found.append(dcmread(BytesIO(content), stop_before_pixels=True))
    return found


@given(dicom_bytes.FILES)
def test_screening_answers_or_rejects(content):
    check_screening(content)


@given(
    st.lists(
        st.one_of(
            *[dicom_bytes.amended(encoded_slice(dicom_bytes.SERIES, n)) for n in range(4)],
            *[dicom_bytes.bitten(encoded_slice(dicom_bytes.SERIES, n)) for n in range(4)],
        ),
        min_size=1,
        max_size=2,
    )
)
def test_a_series_with_odd_headers_is_read_or_refused(odd):
    good = [encoded_slice(dicom_bytes.SERIES, number) for number in range(4)]
    check_reading(headers_of(*odd, *good[len(odd) :]))


@given(dicom_bytes.ELEMENTS)
def test_an_object_of_odd_elements_is_read_or_refused(elements):
    check_reading(headers_of(dicom_bytes.file_of(elements)))


_NUMBERS = st.floats(width=32) | st.sampled_from([0.0, 1.0, -1.0, 1e-9, 1e9, 1e30, 1e300, -1e308])


AXIAL = [1, 0, 0, 0, 1, 0]


def _decimal(value: float) -> str:
    return f"{value:.9g}"


@given(
    position=st.lists(st.lists(_NUMBERS, min_size=3, max_size=3), min_size=2, max_size=5),
    cosines=st.sampled_from([AXIAL, [0, 1, 0, 0, 0, -1]])
    | st.lists(_NUMBERS, min_size=6, max_size=6),
    spacing=st.sampled_from([[1, 1], [0.5, 0.5]]) | st.lists(_NUMBERS, min_size=2, max_size=2),
    step=_NUMBERS | st.just(5.0),
    thickness=_NUMBERS,
)
@example([[0, 0, -1e308], [0, 0, 1e308]], AXIAL, [1, 1], 5, 5)
@example([[0, 0, 0], [0, 0, 5]], AXIAL, [1e-300, 1e-300], 5, 5)
def test_any_numbers_give_a_possible_volume_or_a_reason(
    position, cosines, spacing, step, thickness
):
    datasets = []
    for number, place in enumerate(position):
        dataset = small_slice(dicom_bytes.SERIES, number)
        # Read from bytes, so that nothing is checked on the way in.
        del dataset.PixelSpacing, dataset.ImageOrientationPatient, dataset.SliceThickness
        regular = [0.0, 0.0, step * number] if len(position) % 2 else place
        extra = b"".join(
            dicom_bytes.element(tag, "DS", "\\".join(map(_decimal, values)).encode())
            for tag, values in (
                (0x00180050, [thickness]),
                (0x00200032, regular),
                (0x00200037, cosines),
                (0x00280030, spacing),
            )
        )
        del dataset.ImagePositionPatient
        content = encoded(dataset)
        pixels = content.index(b"\xe0\x7f\x10\0")
        datasets += headers_of(content[:pixels] + extra + content[pixels:])
    check_reading(datasets)


def test_images_without_rows_are_refused():
    datasets = [small_slice(dicom_bytes.SERIES, number) for number in range(4)]
    for dataset in datasets:
        dataset.Rows = 0
    with pytest.raises(SeriesError, match="size"):
        select(datasets, RULES)


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_what_was_found_before(path):
    content = path.read_bytes()
    check_screening(content)
    good = [encoded_slice(dicom_bytes.SERIES, number) for number in range(1, 4)]
    for headers in (headers_of(content), headers_of(content, *good)):
        check_reading(headers)


@pytest.mark.parametrize(
    "archive",
    ["cornerstone", "dicom-fuzzing-corpus", "highdicom", "nibabel_nicom", "pydicom-data",
     "pydicom_charset"],
)  # fmt: skip
def test_malformed_files_of_others(shared_data, archive):
    files = [p for p in sorted(shared_data(f"malformed/{archive}").rglob("*")) if p.is_file()]
    assert files
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for path in files:
        content = path.read_bytes()
        began = time.process_time()
        answer = screened(content)
        assert isinstance(answer, Header | Rejected)
        check_reading(headers_of(content))
        # A header is read in milliseconds; this is about what never ends.
        assert time.process_time() - began < 30, path.name
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 1024 * 1024, "more than a gigabyte for files of a few megabytes"
