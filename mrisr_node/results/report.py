"""What is known of a result as a Structured Report (PS3.16 TID 1500, in Comprehensive SR)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from highdicom.sr import (
    AlgorithmIdentification,
    ComprehensiveSR,
    DeviceObserverIdentifyingAttributes,
    Measurement,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    ObservationContext,
    ObserverContext,
    QualitativeEvaluation,
    SourceImageForMeasurementGroup,
    TrackingIdentifier,
)
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import UID, ComprehensiveSRStorage

from mrisr_node import __version__
from mrisr_node.choices import ResultKind
from mrisr_node.identity import MANUFACTURER_MODEL_NAME, derive_uid
from mrisr_node.results.attributes import carry_identity, without_identity
from mrisr_node.results.facts import Facts
from mrisr_node.results.origin import (
    MANUFACTURER,
    Origin,
    WrittenSeries,
    file_meta,
    only_instance_of,
)

__all__ = ["CODES", "SCHEME", "write_report"]

SCHEME = "99MRISR"
"""Our own coding scheme, for what no other one names."""

CODES = {
    "RESIDUAL50": "Median residual inside the brain",
    "RESIDUAL99": "99th percentile of the residual inside the brain",
    "RELATIVE50": "Median residual over the mean of the brain",
    "RELATIVE99": "99th percentile of the residual over the mean of the brain",
    "CUBIC50": "The same median for cubic interpolation",
    "CUBIC99": "The same 99th percentile for cubic interpolation",
    "SECONDS": "Seconds of processing",
    "CONTRAST": "Contrast seen",
    "INRANGE": "Within the limits that the checkpoint accepts",
    "T1W": "T1-weighted",
    "T2W": "T2-weighted",
    "FLAIR": "FLAIR",
    "PDW": "Proton-density-weighted",
    "T2STARW": "T2*-weighted",
    "UNKNOWN": "Not told by the source",
    "REPORT": "Report on super-resolution",
    "REFUSAL": "No super-resolution made",
    "BYGEOMETRY": "By its geometry; the contrast is not told",
}
"""Its code values and meanings."""

_MRI = Code("113091006", "SCT", "Magnetic resonance imaging")
_TESLA = Code("T", "UCUM", "tesla")


def write_report(folder: Path, origin: Origin, image: WrittenSeries) -> WrittenSeries:
    """Write one Comprehensive SR instance about a written result.

    Parameters
    ----------
    folder
        Empty; gets ``0001.dcm``.
    image
        The thin slices.
    """
    facts = origin.facts
    series_uid = origin.series_uid(ResultKind.REPORT)
    thin = [dcmread(path, stop_before_pixels=True) for path in image.paths]
    report = ComprehensiveSR(
        evidence=[without_identity(d) for d in (*thin, *origin.sources)],
        content=_content(origin, thin, str(series_uid)),
        series_instance_uid=series_uid,
        series_number=origin.series_number(ResultKind.REPORT),
        sop_instance_uid=only_instance_of(str(series_uid)),
        instance_number=1,
        manufacturer=MANUFACTURER,
        is_complete=True,
        is_final=True,
        series_description=origin.describe(ResultKind.REPORT, facts.spacing_mm),
    )
    earlier = facts.predecessor
    if earlier and earlier.report_series_uid and earlier.report_instance_uid:
        report.PredecessorDocumentsSequence = [
            _document(
                image.study_instance_uid, earlier.report_series_uid, earlier.report_instance_uid
            )
        ]
    _separate(report)
    carry_identity(report, origin.first)
    origin.stamp(report)
    report.file_meta = file_meta(ComprehensiveSRStorage)
    report.file_meta.MediaStorageSOPInstanceUID = UID(report.SOPInstanceUID)
    path = folder / "0001.dcm"
    report.save_as(path, enforce_file_format=True)
    return WrittenSeries(
        kind=ResultKind.REPORT,
        study_instance_uid=image.study_instance_uid,
        series_instance_uid=str(series_uid),
        paths=(path,),
    )


def _separate(container: Dataset) -> None:
    """Say that what a container holds is a list and no running text (PS3.3 C.18.8).

    highdicom says the opposite, and OHIF then leaves out the names of the values.
    """
    container.ContinuityOfContent = "SEPARATE"
    for item in container.get("ContentSequence") or []:
        if item.ValueType == "CONTAINER":
            _separate(item)


def _document(study: str, series: str, instance: str) -> Dataset:
    """Return a reference to a report (PS3.3 C.17.2.1, Hierarchical SOP Instance Reference)."""
    sop, within, item = Dataset(), Dataset(), Dataset()
    sop.ReferencedSOPClassUID = ComprehensiveSRStorage
    sop.ReferencedSOPInstanceUID = instance
    within.SeriesInstanceUID = series
    within.ReferencedSOPSequence = [sop]
    item.StudyInstanceUID = study
    item.ReferencedSeriesSequence = [within]
    return item


def _content(origin: Origin, thin: Sequence[Dataset], series_uid: str) -> MeasurementReport:
    facts = origin.facts
    device = DeviceObserverIdentifyingAttributes(
        uid=derive_uid("device"),
        name=MANUFACTURER_MODEL_NAME,
        manufacturer_name=MANUFACTURER,
        model_name=MANUFACTURER_MODEL_NAME,
        serial_number=__version__,
    )
    context = ObservationContext(
        observer_device_context=ObserverContext(codes.DCM.Device, device),
    )
    algorithm = AlgorithmIdentification(
        name=MANUFACTURER_MODEL_NAME,
        version=__version__,
        parameters=list(_parameters(origin, facts)),
        family=codes.DCM.ArtificialIntelligence,
        manufacturer=MANUFACTURER,
    )
    acquired = MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(
            derive_uid("tracking", series_uid, "acquired"), "Acquired slices"
        ),
        measurements=list(_acquired(facts)),
        qualitative_evaluations=[
            QualitativeEvaluation(_code("CONTRAST"), _code(_contrast(facts.contrast))),
            QualitativeEvaluation(_code("INRANGE"), _within_range(facts)),
        ],
        source_images=[_reference(origin.sources[0])],
    )
    made_of_it = MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(
            derive_uid("tracking", series_uid, "thin"), "Super-resolved slices"
        ),
        algorithm_id=algorithm,
        measurements=list(_thin(facts)),
        source_images=[_reference(thin[len(thin) // 2])],
    )
    return MeasurementReport(
        observation_context=context,
        procedure_reported=_MRI,
        imaging_measurements=[acquired, made_of_it],
        # Of an Imaging Measurement Report OHIF shows what is drawn on images, and fails on one in
        # which nothing is; any other title (CID 7021 is extensible) it shows as text.
        title=_code("REPORT"),
    )


def _parameters(origin: Origin, facts: Facts) -> Iterator[str]:
    made = origin.provenance
    yield "Computed, not acquired; not for diagnosis on its own"
    yield f"Checkpoint: {made.checkpoint}, sha256 {made.digest}"
    yield f"Made for: {facts.range}"
    yield f"Slice profile assumed: {facts.profile}"
    yield f"Recipe: {made.recipe}"
    for name, value in (
        ("Brain mask", facts.brain_method),
        ("Precision", facts.precision),
        ("Device", facts.device),
    ):
        if value:
            yield f"{name}: {value}"
    if facts.seconds:
        stages = (f"{stage} {seconds:.1f}" for stage, seconds in facts.seconds.items())
        yield f"Seconds: {', '.join(stages)}"
    for remark in facts.remarks:
        yield f"Note: {remark}"


def _acquired(facts: Facts) -> Iterator[Measurement]:
    yield _millimetres(codes.DCM.SpacingBetweenSlices, facts.acquired_spacing_mm)
    yield _millimetres(codes.DCM.SliceThickness, facts.acquired_thickness_mm)
    if facts.field_strength is not None:
        yield Measurement(codes.DCM.MagneticFieldStrength, facts.field_strength, _TESLA)


def _thin(facts: Facts) -> Iterator[Measurement]:
    yield _millimetres(codes.DCM.SpacingBetweenSlices, facts.spacing_mm)
    own, other = facts.residuals, facts.interpolated
    for name, value in (("RESIDUAL50", own.median), ("RESIDUAL99", own.p99)):
        yield Measurement(_code(name), _rounded(value), codes.UCUM.NoUnits)
    for name, share in (
        ("RELATIVE50", own.relative_median),
        ("RELATIVE99", own.relative_p99),
        ("CUBIC50", other.relative_median),
        ("CUBIC99", other.relative_p99),
    ):
        yield Measurement(_code(name), _rounded(100 * share), codes.UCUM.Percent)
    if facts.seconds:
        total = sum(facts.seconds.values())
        yield Measurement(_code("SECONDS"), _rounded(total), codes.UCUM.Second)


def _millimetres(name: Code, value: float) -> Measurement:
    return Measurement(name, _rounded(value), codes.UCUM.Millimeter)


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def _contrast(seen: str | None) -> str:
    return (seen or "unknown").upper() if (seen or "unknown").upper() in CODES else "UNKNOWN"


def _within_range(facts: Facts) -> Code:
    if facts.within_range is None:
        return _code("BYGEOMETRY")
    yes_or_no: Code = codes.SCT.Yes if facts.within_range else codes.SCT.No
    return yes_or_no


def _code(value: str) -> Code:
    return Code(value, SCHEME, CODES[value])


def _reference(dataset: Dataset) -> SourceImageForMeasurementGroup:
    frames = [1] if "NumberOfFrames" in dataset else None
    return SourceImageForMeasurementGroup(
        str(dataset.SOPClassUID), str(dataset.SOPInstanceUID), frames
    )
