"""Which series are worth the work, on what hospitals really send."""

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from mrisr_node.errors import ConversionError, NotEligible, SeriesError
from mrisr_node.identity import MANUFACTURER_MODEL_NAME
from mrisr_node.intake.selection import SelectionRules, select
from mrisr_node.node.sample import Acquisition, write_sample
from mrisr_node.volumes.folders import find_series

RULES = SelectionRules(minimum_slices=8, minimum_distance=2.0)

REFUSED = {
    "heudiconv": "slices|only MR|derived|phase|mosaic|one slice|functional",
    "qa_canon61_enh": "a diffusion series",
    "qa_ct_ge": "modality CT",
    "qa_fmap_philips_enh": "a real-part image",
    "qa_mosaic_ep2d_Asc": "mosaic",
    "qa_philips_enh_cl_fmap": "phase",
    "qa_philips_enh_enh": "Raw Data",
    "qa_physio_spec_svs": "Spectroscopy",
    "qa_table_ge_localizer": "several orientations",
    "qa_xa30i_scout_mpr": "derived",
    "torchio_dicom": "modality CT",
}


def _headers(paths):
    return [dcmread(path, stop_before_pixels=True) for path in paths]


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    return write_sample(tmp_path_factory.mktemp("sel"), Acquisition(slices=8, matrix=32))


def test_thick_slices_are_selected(sample):
    [stack] = select(_headers(sample.paths), RULES).stacks
    assert stack.acquisition.distance == pytest.approx(5)


def test_what_is_longer_than_a_scanner_is_refused(sample):
    headers = _headers(sample.paths)
    for header in headers:
        header.ImagePositionPatient = [20 * float(x) for x in header.ImagePositionPatient]
    with pytest.raises(ConversionError, match="800 mm long; at most 600 mm are processed"):
        select(headers, RULES)


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.filterwarnings("ignore")
def test_what_is_no_volume_of_a_head_is_refused_with_a_reason(shared_data, name):
    series = find_series(shared_data(f"refuse/{name}"))
    assert series
    for paths in series.values():
        with pytest.raises((NotEligible, SeriesError), match=REFUSED[name]):
            select(_headers(paths), RULES)


@pytest.mark.parametrize(
    ("name", "chosen"),
    [
        ("papaya_brain", True),
        ("qa_decub_HFP_t1sag", True),
        ("qa_decub_HFDL_t1sag", True),
        ("qa_xa30_T1_enh", False),
        ("qa_ts", False),
        ("wg04_MR", False),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_the_shared_series_are_told_apart(shared_data, name, chosen):
    for paths in find_series(shared_data(f"series/{name}")).values():
        if chosen:
            [stack] = select(_headers(paths), RULES).stacks
            assert stack.acquisition.distance > 4
        else:
            with pytest.raises((NotEligible, SeriesError)):
                select(_headers(paths), RULES)


@pytest.mark.filterwarnings("ignore")
def test_small_stacks_of_every_vendor_are_refused_each_with_its_reason(shared_data):
    found = {}
    for paths in find_series(shared_data("series/dcm2nifti_tests")).values():
        with pytest.raises((NotEligible, SeriesError)) as refused:
            select(_headers(paths), RULES)
        found[paths[0].parent.parent.parent.name] = str(refused.value)
    # A volume, but for its place.
    assert "name no FrameOfReferenceUID" in found["hyperfine"]


def test_thin_slices_are_thin_already(tmp_path):
    thin = write_sample(tmp_path, Acquisition(slices=8, matrix=32, thickness_mm=1.0))
    with pytest.raises(NotEligible, match="thin already"):
        select(_headers(thin.paths), RULES)


def test_a_knee_is_no_head(sample):
    headers = _headers(sample.paths)
    for header in headers:
        header.BodyPartExamined = "KNEE"
    with pytest.raises(NotEligible, match="KNEE"):
        select(headers, RULES)


@pytest.mark.parametrize(
    ("keyword", "typed", "said"),
    [
        ("BodyPartExamined", "Zyxomma^Petiolatum", "another body part: only heads are processed"),
        ("BodyPartExamined", "Zyxomma", "another body part: only heads are processed"),
        ("BodyPartExamined", "KNEE\nKNEE", "another body part: only heads are processed"),
        ("BodyPartExamined", "K" * 17, "another body part: only heads are processed"),
        ("BodyPartExamined", "UPPER_LEG 2", "body part UPPER_LEG 2: only heads are processed"),
        ("Modality", "Zyxomma", "another modality: only MR images are processed"),
        # Measurements that somebody saved in the viewer.
        ("Modality", "SR", "modality SR: only MR images are processed"),
        ("SOPClassUID", "2.25.4711", "another SOP class: no MR image that can be processed"),
        ("ImageType", ["ORIGINAL", " phase\n"], "a phase image (ImageType PHASE)"),
    ],
)
@pytest.mark.filterwarnings("ignore:Invalid value for VR")
@pytest.mark.filterwarnings("ignore:The value length")
def test_a_reason_repeats_codes_and_nothing_that_was_typed(sample, keyword, typed, said):
    headers = _headers(sample.paths)
    setattr(headers[0], keyword, typed)
    with pytest.raises(NotEligible) as refused:
        select(headers, RULES)
    assert str(refused.value) == said


def test_our_own_results_are_never_selected(sample):
    headers = _headers(sample.paths)
    ours = Dataset()
    ours.ManufacturerModelName = MANUFACTURER_MODEL_NAME
    headers[3].ContributingEquipmentSequence = [ours]
    with pytest.raises(NotEligible, match="result of this node"):
        select(headers, RULES)
