"""An MR series as Enhanced MR Image Storage: a frame per slice (PS3.3 A.36, C.8.13)."""

from __future__ import annotations

from pathlib import Path

import highdicom
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.tag import Tag
from pydicom.uid import EnhancedMRImageStorage

from mrisr_node import __version__
from mrisr_node.choices import ResultKind
from mrisr_node.identity import derive_uid
from mrisr_node.results.attributes import carry_enhanced, carry_over
from mrisr_node.results.facts import write_private
from mrisr_node.results.mr_content import Content, source_images
from mrisr_node.results.origin import (
    Origin,
    WrittenSeries,
    code_item,
    file_meta,
    only_instance_of,
)
from mrisr_node.results.values import burned_in, decimal, lossy_compression

__all__ = ["write_enhanced"]

_STACK = "1"
# Of AcquisitionContrast (C.8.13.3.1.2).
_CONTRASTS = {"T1w": "T1", "T2w": "T2", "FLAIR": "FLUID_ATTENUATED", "PDw": "PROTON_DENSITY",
              "T2starw": "T2_STAR"}  # fmt: skip


def write_enhanced(folder: Path, origin: Origin, content: Content) -> WrittenSeries:
    """Write one Enhanced MR Image instance.

    Parameters
    ----------
    folder
        Empty; gets ``0001.dcm``.
    """
    ds = _instance(origin, content)
    order = content.order()
    ds.NumberOfFrames = len(order)
    ds.SharedFunctionalGroupsSequence = [_shared(origin, content)]
    ds.PerFrameFunctionalGroupsSequence = [
        _frame(origin, content, index, number) for number, index in enumerate(order, start=1)
    ]
    ds.PixelData = b"".join(content.pixels(index).tobytes() for index in order)
    ds["PixelData"].VR = "OW"
    path = folder / "0001.dcm"
    ds.save_as(path, enforce_file_format=True)
    return WrittenSeries(
        kind=content.kind,
        study_instance_uid=str(ds.StudyInstanceUID),
        series_instance_uid=str(ds.SeriesInstanceUID),
        paths=(path,),
    )


def _instance(origin: Origin, content: Content) -> Dataset:
    """Return the instance without its frames."""
    made = origin.provenance
    ds = carry_enhanced(origin.first)
    ds.SOPClassUID = EnhancedMRImageStorage
    ds.Modality = "MR"
    ds.SeriesInstanceUID = origin.series_uid(content.kind)
    ds.SOPInstanceUID = only_instance_of(str(ds.SeriesInstanceUID))
    ds.file_meta = file_meta(EnhancedMRImageStorage)
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.SeriesNumber = origin.series_number(content.kind)
    ds.SeriesDescription = origin.describe(
        content.kind,
        origin.facts.spacing_mm if content.in_source_space else content.volume.spacing[2],
        "" if content.in_source_space else " MNI",
    )
    ds.InstanceNumber = 1
    origin.stamp(ds)
    ds.DeviceSerialNumber = made.digest[:16]  # type 1 here; there is no other serial number
    ds.SoftwareVersions = __version__
    if content.in_source_space:
        ds.FrameOfReferenceUID = origin.first.FrameOfReferenceUID
    else:
        ds.FrameOfReferenceUID = derive_uid("frame", str(ds.SeriesInstanceUID))
    if "PositionReferenceIndicator" not in ds or not content.in_source_space:
        ds.PositionReferenceIndicator = ""
    for keyword, value in _frame_type(origin, content, "ImageType").items():
        setattr(ds, keyword, value)
    ds.PresentationLUTShape = "IDENTITY"
    ds.ContentQualification = "RESEARCH"
    # A standard for scanners; validators ask for it in computed images too.
    ds.ApplicableSafetyStandardAgency = "NONE"
    ds.BurnedInAnnotation = burned_in(origin.sources)
    ds.update(lossy_compression(origin.sources))
    ds.AcquisitionContextSequence = []
    ds.SourceImageEvidenceSequence = [_evidence(origin)]
    write_private(ds, origin.facts, made.recipe, made.checkpoint, made.digest)
    columns, rows, _ = content.volume.data.shape
    ds.Rows, ds.Columns = rows, columns
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.BitsAllocated = ds.BitsStored = 16
    ds.HighBit = 15
    ds.PixelRepresentation = int(content.encoding.signed)
    _dimensions(ds)
    return ds


def _evidence(origin: Origin) -> Dataset:
    """Name all source instances with study and series (Table 10-4, C.8.13.2)."""
    series: dict[str, list[Dataset]] = {}
    for source in origin.sources:
        reference = Dataset()
        reference.ReferencedSOPClassUID = source.SOPClassUID
        reference.ReferencedSOPInstanceUID = source.SOPInstanceUID
        series.setdefault(str(source.SeriesInstanceUID), []).append(reference)
    study = Dataset()
    study.StudyInstanceUID = origin.first.StudyInstanceUID
    study.ReferencedSeriesSequence = []
    for uid, references in series.items():
        item = Dataset()
        item.SeriesInstanceUID = uid
        item.ReferencedSOPSequence = references
        study.ReferencedSeriesSequence.append(item)
    return study


def _dimensions(ds: Dataset) -> None:
    """Say that frames are counted within one stack (C.7.6.17)."""
    organization = derive_uid("dimensions", str(ds.SeriesInstanceUID))
    item = Dataset()
    item.DimensionOrganizationUID = organization
    ds.DimensionOrganizationSequence = [item]
    ds.DimensionIndexSequence = []
    for keyword, description in (
        ("StackID", "Stack"),
        ("InStackPositionNumber", "Position in the stack"),
    ):
        index = Dataset()
        index.DimensionOrganizationUID = organization
        index.DimensionIndexPointer = Tag(keyword)
        index.FunctionalGroupPointer = Tag("FrameContentSequence")
        index.DimensionDescriptionLabel = description
        ds.DimensionIndexSequence.append(index)


def _frame_type(origin: Origin, content: Content, keyword: str) -> dict[str, object]:
    """Return what image and frame say alike of their kind (C.8.13.3.1)."""
    return {
        keyword: [
            "DERIVED",
            "PRIMARY",
            "VOLUME",
            "RESAMPLED" if content.kind is ResultKind.IMAGE else "SUBTRACTION",
        ],
        "PixelPresentation": "MONOCHROME",
        "VolumetricProperties": "VOLUME",
        "VolumeBasedCalculationTechnique": "NONE",
        "ComplexImageComponent": "MAGNITUDE",
        "AcquisitionContrast": _CONTRASTS.get(origin.facts.contrast or "", "UNKNOWN"),
    }


def _shared(origin: Origin, content: Content) -> Dataset:
    """Return the functional groups that all frames share."""
    column_spacing, row_spacing, slice_spacing = content.volume.spacing
    row, column = content.directions()
    groups, anatomy, values, window, kind = (Dataset() for _ in range(5))
    groups.PixelMeasuresSequence = highdicom.PixelMeasuresSequence(
        pixel_spacing=(decimal(row_spacing), decimal(column_spacing)),
        slice_thickness=decimal(content.thickness_mm),
        spacing_between_slices=decimal(slice_spacing),
    )
    groups.PlaneOrientationSequence = highdicom.PlaneOrientationSequence(
        coordinate_system="PATIENT",
        image_orientation=tuple(decimal(v) for v in (*row, *column)),
    )
    anatomy.FrameLaterality = "U"
    anatomy.AnatomicRegionSequence = [code_item(codes.SCT.Head)]
    groups.FrameAnatomySequence = [anatomy]
    values.RescaleSlope = decimal(content.encoding.slope if content.encoding.declared else 1.0)
    values.RescaleIntercept = decimal(
        content.encoding.intercept if content.encoding.declared else 0.0
    )
    values.RescaleType = "US"
    groups.PixelValueTransformationSequence = [values]
    window.WindowCenter = decimal(content.window.center)
    window.WindowWidth = decimal(content.window.width)
    if content.window.function != "LINEAR":
        window.VOILUTFunction = content.window.function
    groups.FrameVOILUTSequence = [window]
    acquired = carry_over(origin.first)
    if acquired.EchoTime is not None:
        echo = Dataset()
        echo.EffectiveEchoTime = float(acquired.EchoTime)
        groups.MREchoSequence = [echo]
    # Whole or not at all (C.8.13.5.2): a classic source knows neither its energy nor its gradients.
    of_source = (origin.first.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    if timing := of_source.get("MRTimingAndRelatedParametersSequence"):
        groups.MRTimingAndRelatedParametersSequence = timing
    for keyword, value in _frame_type(origin, content, "FrameType").items():
        setattr(kind, keyword, value)
    groups.MRImageFrameTypeSequence = [kind]
    return groups


def _frame(origin: Origin, content: Content, index: int, number: int) -> Dataset:
    """Return the functional groups of one frame."""
    position = content.position(index)
    groups, place, derivation = Dataset(), Dataset(), Dataset()
    place.StackID = _STACK
    place.InStackPositionNumber = number
    place.DimensionIndexValues = [1, number]
    groups.FrameContentSequence = [place]
    groups.PlanePositionSequence = highdicom.PlanePositionSequence(
        coordinate_system="PATIENT",
        image_position=tuple(decimal(v) for v in position),
    )
    derivation.DerivationDescription = content.sentence[:1024]
    derivation.DerivationCodeSequence = [code_item(code) for code in content.derivation]
    derivation.SourceImageSequence = source_images(origin.sources, content.references(position))
    groups.DerivationImageSequence = [derivation]
    return groups
