"""All series of one result: conformant, about the same slices, and saying the same of them."""

import dataclasses
from datetime import UTC, datetime

import numpy as np
import pytest
from dicom_checks import dciodvfy
from dicom_standard import dicom_validator, mr_image_attributes
from highdicom.sr import srread
from origins import FACTS, MADE_BY
from pydicom import dcmread
from pydicom.datadict import tag_for_keyword
from result_sets import write_all

from mrisr_node.choices import ResultKind
from mrisr_node.identity import is_own_result
from mrisr_node.node.sample import Acquisition, write_sample
from mrisr_node.results.attribute_rules import RULES, Action
from mrisr_node.results.enhanced_mr import write_enhanced
from mrisr_node.results.facts import PRIVATE_CREATOR, PRIVATE_ELEMENTS, Predecessor
from mrisr_node.results.origin import only_instance_of
from mrisr_node.results.report import CODES, SCHEME
from mrisr_node.volumes.acquisition import read_acquisition
from mrisr_node.volumes.geometry import ras_to_lps

PREDECESSOR = Predecessor("2.25.7", "2.25.8", str(only_instance_of("2.25.8")))


# 50 columns of 50 rows: no whole number of bytes for a frame of one bit a pixel.
@pytest.fixture(scope="module", params=[48, 50])
def result(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("result")
    sources = write_sample(
        folder / "source", Acquisition(slices=8, matrix=request.param, rotation=(15, 8, -20))
    )
    facts = dataclasses.replace(FACTS, predecessor=PREDECESSOR)
    return write_all(folder / "result", sources.paths, facts)


@pytest.mark.parametrize("kind", list(ResultKind))
def test_two_validators_find_no_error(result, kind):
    paths = result.written[kind].paths
    for path in {paths[0], paths[-1]}:
        assert dciodvfy(path) == []
        assert dicom_validator(path) == []


@pytest.mark.parametrize("kind", list(ResultKind))
def test_each_series_belongs_to_the_study_and_says_who_made_it(result, kind):
    source, made = dcmread(result.sources[0]), result.first(kind)
    for keyword in ("StudyInstanceUID", "PatientID", "PatientName", "PatientBirthDate", "StudyID"):
        assert made[keyword].value == source[keyword].value
    assert is_own_result(made)
    assert made.SeriesNumber % 1000 == source.SeriesNumber
    assert "SR 1.0mm" in made.SeriesDescription
    ours, scanner = made.ContributingEquipmentSequence
    assert ours.PurposeOfReferenceCodeSequence[0].CodeValue == "109102"
    assert MADE_BY.digest in ours.ContributionDescription
    assert scanner.Manufacturer == source.Manufacturer


def test_no_two_series_share_number_uid_or_description(result):
    for keyword in ("SeriesNumber", "SeriesInstanceUID", "SeriesDescription", "SOPInstanceUID"):
        values = [str(result.first(kind)[keyword].value) for kind in ResultKind]
        assert len(set(values)) == len(values)


def _values(paths) -> np.ndarray:
    """Real values, (slice, row, column), in the order of the volume's third axis."""
    found = sorted(map(dcmread, paths), key=_along)
    return np.stack(
        [d.pixel_array * float(d.RescaleSlope) + float(d.RescaleIntercept) for d in found]
    )


def _along(dataset) -> float:
    row, column = np.reshape([float(v) for v in dataset.ImageOrientationPatient], (2, 3))
    return float(np.cross(row, column) @ [float(v) for v in dataset.ImagePositionPatient])


def test_the_fidelity_map_is_the_residual_of_each_acquired_slice(result):
    written = result.written[ResultKind.FIDELITY]
    wanted = np.abs(result.residual.data).transpose(2, 1, 0)
    step = float(result.first(ResultKind.FIDELITY).RescaleSlope)
    assert np.abs(_values(written.paths) - wanted).max() <= 0.51 * step
    assert step < 0.001
    named = set()
    for path in written.paths:
        [source] = dcmread(path).SourceImageSequence
        named.add(source.ReferencedSOPInstanceUID)
    assert named == {dcmread(path).SOPInstanceUID for path in result.sources}
    assert "in the source's intensities" in result.first(ResultKind.FIDELITY).DerivationDescription


def test_the_change_map_has_a_sign_and_lies_on_the_thin_slices(result):
    written = result.written[ResultKind.CHANGE]
    step = float(result.first(ResultKind.CHANGE).RescaleSlope)
    wanted = result.change.data.transpose(2, 1, 0)
    assert np.abs(_values(written.paths) - wanted).max() <= 0.51 * step
    thin = [dcmread(path) for path in result.written[ResultKind.IMAGE].paths]
    change = [dcmread(path) for path in written.paths]
    assert [d.ImagePositionPatient for d in thin] == [d.ImagePositionPatient for d in change]
    assert change[0].WindowCenter == pytest.approx(0, abs=1e-6)


def test_the_mask_lies_on_the_thin_slices_and_names_them(result):
    mask = result.first(ResultKind.MASK)
    # A bit a pixel only where frames are a whole number of bytes long.
    whole = mask.Rows * mask.Columns % 8 == 0
    assert mask.SegmentationType == ("BINARY" if whole else "FRACTIONAL")
    thin = {
        str(d.SOPInstanceUID): d
        for d in (dcmread(path) for path in result.written[ResultKind.IMAGE].paths)
    }
    lps = ras_to_lps(result.thin.affine)
    frames = result.mask.data > 0.5
    seen = 0
    for pixels, groups in zip(mask.pixel_array, mask.PerFrameFunctionalGroupsSequence, strict=True):
        position = [float(v) for v in groups.PlanePositionSequence[0].ImagePositionPatient]
        index = np.linalg.solve(lps, [*position, 1])[:3]
        assert np.allclose(index, np.rint(index), atol=1e-3)
        assert np.array_equal(np.rint(index[:2]), [0, 0])
        wanted = frames[:, :, round(index[2])].T
        assert np.array_equal(pixels, wanted * (1 if whole else mask.MaximumFractionalValue))
        [source] = groups.DerivationImageSequence[0].SourceImageSequence
        there = thin[source.ReferencedSOPInstanceUID]
        assert np.allclose([float(v) for v in there.ImagePositionPatient], position, atol=1e-3)
        seen += int(np.count_nonzero(pixels))
    assert seen == frames.sum()
    [segment] = mask.SegmentSequence
    assert segment.SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Brain"
    [algorithm] = segment.SegmentationAlgorithmIdentificationSequence
    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("HD-BET", FACTS.brain_method)


def _numbers(content, found):
    """Every measurement of a report by its code."""
    for item in content.get("ContentSequence") or []:
        if item.ValueType == "NUM":
            name = item.ConceptNameCodeSequence[0].CodeValue
            found.setdefault(name, []).append(float(item.MeasuredValueSequence[0].NumericValue))
        _numbers(item, found)
    return found


def _texts(content):
    for item in content.get("ContentSequence") or []:
        if item.ValueType == "TEXT":
            yield item.TextValue
        yield from _texts(item)


def test_the_report_holds_the_figures(result):
    [path] = result.written[ResultKind.REPORT].paths
    report = dcmread(path)
    numbers = _numbers(report, {})
    # Spacing between slices: acquired, then thin.
    assert numbers["112226"] == [5.0, 1.0]
    assert numbers["RESIDUAL50"] == [1.25]
    assert numbers["RELATIVE99"] == [1.3]
    assert numbers["CUBIC99"] == [13.0]
    assert numbers["SECONDS"] == [26.5]
    acquired, thin = srread(path).content.get_image_measurement_groups()
    assert [str(e.value.meaning) for e in acquired.get_qualitative_evaluations()] == [
        "T1-weighted",
        "Yes",
    ]
    assert len(thin.get_measurements()) == 8
    text = "\n".join(_texts(report))
    for words in (FACTS.profile, MADE_BY.digest, FACTS.range, "brain 10.0"):
        assert words in text
    [study] = report.CurrentRequestedProcedureEvidenceSequence
    assert len(study.ReferencedSeriesSequence) == 2
    assert set(CODES) >= {code for code in numbers if not code.isdigit()}, (
        f"codes of {SCHEME} are listed"
    )


def test_a_later_result_names_the_one_whose_place_it_takes(result):
    report = result.first(ResultKind.REPORT)
    [study] = report.PredecessorDocumentsSequence
    [series] = study.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == PREDECESSOR.report_series_uid
    [document] = series.ReferencedSOPSequence
    assert document.ReferencedSOPInstanceUID == PREDECESSOR.report_instance_uid
    block = result.first(ResultKind.IMAGE).private_block(0x0071, PRIVATE_CREATOR)
    assert block[0x11].value == PREDECESSOR.series_instance_uid


def test_programs_read_the_figures_from_private_attributes(result):
    block = result.first(ResultKind.IMAGE).private_block(0x0071, PRIVATE_CREATOR)
    named = {e.name: block[e.element].value for e in PRIVATE_ELEMENTS}
    assert named["Checkpoint Digest"] == MADE_BY.digest
    assert named["Acquired Spacing"] == FACTS.acquired_spacing_mm
    assert named["Relative Residual P99"] == FACTS.residuals.relative_p99
    assert named["Within Range"] == "YES"
    for element in PRIVATE_ELEMENTS:
        assert element.vr == block[element.element].VR


def test_a_rule_says_of_every_attribute_of_the_standard_what_becomes_of_it():
    named = [rule.keyword for rule in RULES]
    assert len(set(named)) == len(named)
    without = {"device", "specimen", "enhanced-patient-orientation", "overlay-plane",
               "common-instance-reference"}  # fmt: skip
    assert mr_image_attributes(without) <= set(named)
    assert all(tag_for_keyword(keyword) for keyword in named)
    assert all(rule.how for rule in RULES if rule.action in (Action.ANEW, Action.LEFT_OUT))


# A name in kanji and kana as a Japanese scanner writes it, one in Cyrillic, one in GB 18030.
NAMES = [
    (
        ["", "ISO 2022 IR 87"],
        b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B",
    ),
    (["ISO_IR 144"], "Люкceмбypг".encode("iso8859_5")),
    (["GB18030"], "Wang^XiaoDong=王^小东".encode("gb18030")),
    (["ISO_IR 192"], "Grüße^Äöü".encode()),
    # Latin-1 bytes that call themselves UTF-8.
    (["ISO_IR 192"], "Müller^Jürgen".encode("latin-1")),
    # Latin-1 bytes under no character set: wrong, and still the patient's name.
    ([], "Müller^Jürgen".encode("latin-1")),
]


@pytest.mark.parametrize(("charset", "name"), NAMES, ids=lambda v: str(v[0]) if v else "none")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_names_of_every_kind_survive_byte_for_byte(tmp_path, charset, name):
    sources = write_sample(tmp_path / "source", Acquisition(slices=8, matrix=32))
    tag = tag_for_keyword("PatientName")
    for path in sources.paths:
        dataset = dcmread(path)
        if charset:
            dataset.SpecificCharacterSet = charset
        else:
            del dataset.SpecificCharacterSet
        dataset.PatientName = dataset.SeriesDescription = "X" * len(name)
        dataset.save_as(path)
        content = path.read_bytes()
        assert content.count(b"X" * len(name)) == 2
        path.write_bytes(content.replace(b"X" * len(name), name))
    result = write_all(tmp_path / "result", sources.paths)
    before = dcmread(sources.paths[0]).get_item(tag).value
    assert before.rstrip() == name
    for kind in ResultKind:
        made = result.first(kind)
        assert made.get_item(tag).value.rstrip() == name
        assert made.get("SpecificCharacterSet") == dcmread(sources.paths[0]).get(
            "SpecificCharacterSet"
        )


def test_what_no_rule_keeps_is_not_carried_over(tmp_path):
    sources = write_sample(tmp_path / "source", Acquisition(slices=8, matrix=32))
    for path in sources.paths:
        dataset = dcmread(path)
        dataset.private_block(0x0019, "SCANNER", create=True).add_new(1, "LO", "private")
        dataset.OperatorsName = "Operator"
        dataset.TriggerTime = "12"
        dataset.ImageComments = "a comment"
        dataset.InPlanePhaseEncodingDirection = "ROW"
        dataset.ClinicalTrialSponsorName = "Sponsor"
        dataset.save_as(path)
    result = write_all(tmp_path / "result", sources.paths)
    for kind in ResultKind:
        made = result.first(kind)
        assert not any("SCANNER" in str(e.value) for e in made if e.tag.is_private_creator)
        for keyword in ("OperatorsName", "TriggerTime", "ImageComments"):
            assert keyword not in made
        assert made.ClinicalTrialSponsorName == "Sponsor"
    assert result.first(ResultKind.IMAGE).InPlanePhaseEncodingDirection == "ROW"


def test_the_moment_is_the_job_s(result):
    for kind in ResultKind:
        made = result.first(kind)
        at = datetime.strptime(
            f"{made.SeriesDate}{str(made.SeriesTime)[:6]}", "%Y%m%d%H%M%S"
        ).replace(tzinfo=UTC)
        assert at == MADE_BY.made_at


@pytest.fixture(scope="module")
def enhanced(tmp_path_factory):
    folder = tmp_path_factory.mktemp("enhanced")
    sources = write_sample(folder / "source", Acquisition(slices=8, matrix=48))
    return write_all(folder / "result", sources.paths, write_mr=write_enhanced)


@pytest.mark.parametrize("kind", list(ResultKind))
def test_enhanced_objects_are_conformant_too(enhanced, kind):
    [path] = enhanced.written[kind].paths
    assert dciodvfy(path) == []
    assert dicom_validator(path) == []


def test_the_frames_of_an_enhanced_result_are_its_slices(enhanced):
    image = enhanced.first(ResultKind.IMAGE)
    acquisition = read_acquisition([image])
    assert np.allclose(acquisition.affine, enhanced.thin.affine, atol=1e-4)
    frames = [s.frame - 1 for s in acquisition.slices]
    assert np.array_equal(image.pixel_array[frames].transpose(2, 1, 0), enhanced.thin.data)
    acquired = {dcmread(path).SOPInstanceUID for path in enhanced.sources}
    for groups in image.PerFrameFunctionalGroupsSequence:
        [derivation] = groups.DerivationImageSequence
        assert {s.ReferencedSOPInstanceUID for s in derivation.SourceImageSequence} <= acquired


def test_the_mask_of_an_enhanced_result_names_its_frames(enhanced):
    mask = enhanced.first(ResultKind.MASK)
    image = enhanced.first(ResultKind.IMAGE)
    for groups in mask.PerFrameFunctionalGroupsSequence:
        [source] = groups.DerivationImageSequence[0].SourceImageSequence
        assert source.ReferencedSOPInstanceUID == image.SOPInstanceUID
        frame = image.PerFrameFunctionalGroupsSequence[int(source.ReferencedFrameNumber) - 1]
        assert (
            groups.PlanePositionSequence[0].ImagePositionPatient
            == frame.PlanePositionSequence[0].ImagePositionPatient
        )
