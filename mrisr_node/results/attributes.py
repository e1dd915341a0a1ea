"""What a result carries over from its source, by the table in ``attribute_rules``."""

from __future__ import annotations

from collections.abc import Iterator

from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.valuerep import PersonName

from mrisr_node.results.attribute_rules import ACQUIRED, IDENTITY, PLACED

__all__ = ["ENHANCED_SERIES", "carry_enhanced", "carry_identity", "carry_over", "without_identity"]

# Enhanced MR keeps these in functional groups (C.8.13.5), some under other names.
_ENHANCED = {
    "RepetitionTime": "RepetitionTime",
    "FlipAngle": "FlipAngle",
    "EchoTrainLength": "EchoTrainLength",
    "EffectiveEchoTime": "EchoTime",
    "NumberOfAverages": "NumberOfAverages",
    "PixelBandwidth": "PixelBandwidth",
    "ReceiveCoilName": "ReceiveCoilName",
    "TransmitCoilName": "TransmitCoilName",
}
# Type 2: present even when nothing is known.
_IDENTITY_TYPE_2 = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
    "StudyID",
    "AccessionNumber",
)
_MR_TYPE_2 = (
    "AcquisitionNumber",
    "ScanOptions",
    "MRAcquisitionType",
    "RepetitionTime",
    "EchoTime",
    "EchoTrainLength",
)


ENHANCED_SERIES = (
    "Laterality",
    "ProtocolName",
    "AnatomicalOrientationType",
    "PatientPosition",
    "RequestAttributesSequence",
    "BodyPartExamined",
    "AcquisitionNumber",
    "AcquisitionDuration",
    "MagneticFieldStrength",
    "PositionReferenceIndicator",
    # Whether an agent was given must not be lost; the Enhanced module has it by code alone.
    "ContrastBolusAgent",
    "ContrastBolusAgentSequence",
    "ContrastBolusRoute",
    "ContrastBolusVolume",
)


def carry_identity(result: Dataset, source: Dataset) -> None:
    """Give a result the patient and study of its source, in the bytes that they came in."""
    for rule in IDENTITY:
        _carry(result, source, rule.keyword)
    for keyword in _IDENTITY_TYPE_2:
        if keyword not in result:
            setattr(result, keyword, None)


def without_identity(dataset: Dataset) -> Dataset:
    """Return a dataset without names, for a library that copies them in its own way.

    What it makes gets them by `carry_identity` afterwards.
    """
    bare = Dataset()
    bare.update(dataset)
    for rule in IDENTITY:
        if rule.keyword in bare and rule.keyword != "StudyInstanceUID":
            del bare[rule.keyword]
    for keyword in _IDENTITY_TYPE_2:
        setattr(bare, keyword, None)
    bare.file_meta = dataset.file_meta
    return bare


def carry_over(source: Dataset, in_source_space: bool = True) -> Dataset:
    """Return a new dataset with what an MR result keeps of its source."""
    result = Dataset()
    carry_identity(result, source)
    for rule in (*ACQUIRED, *(PLACED if in_source_space else ())):
        _carry(result, source, rule.keyword)
    for group in _functional_groups(source):
        for keyword, name in _ENHANCED.items():
            if keyword in group and name not in result:
                setattr(result, name, group[keyword].value)
    for keyword in _MR_TYPE_2:
        if keyword not in result:
            setattr(result, keyword, None)
    # Type 1 in the classic object and absent from Enhanced ones.
    for keyword, value in (("ScanningSequence", "RM"), ("SequenceVariant", "NONE")):
        if not result.get(keyword):
            setattr(result, keyword, value)
    if not result.get("BodyPartExamined"):
        result.BodyPartExamined = "HEAD"
    return result


def carry_enhanced(source: Dataset) -> Dataset:
    """Return a new dataset with what an Enhanced MR result keeps of its source.

    What else the classic object says of the acquisition, an Enhanced one says of each frame, and of
    acquired ones alone.
    """
    result = Dataset()
    carry_identity(result, source)
    for keyword in ENHANCED_SERIES:
        _carry(result, source, keyword)
    if not result.get("BodyPartExamined"):
        result.BodyPartExamined = "HEAD"
    return result


class _PersonName(PersonName):
    """A name that is written in the bytes that it came in."""

    def encode(self, encodings: object = None) -> bytes:
        """Return the bytes as received: decoded and encoded again they may be others."""
        return bytes(self.original_string)


# What SpecificCharacterSet has a say in (PS3.5 6.1.2.2).
_TEXT = frozenset({"LO", "LT", "PN", "SH", "ST", "UC", "UT"})


def _carry(result: Dataset, source: Dataset, keyword: str) -> None:
    tag = tag_for_keyword(keyword)
    if tag is None or tag not in source:
        return
    element = source.get_item(tag)
    vr = dictionary_VR(tag)
    if isinstance(element, RawDataElement) and vr in _TEXT:
        raw = element.value or b""
        value = _PersonName(raw) if vr == "PN" else raw
        result[tag] = DataElement(tag, vr, value, already_converted=True)
    else:
        result[tag] = source[tag]


def _functional_groups(source: Dataset) -> Iterator[Dataset]:
    frames = source.get("PerFrameFunctionalGroupsSequence") or []
    for groups in (*(source.get("SharedFunctionalGroupsSequence") or []), *frames[:1]):
        for element in groups:
            if element.VR == "SQ":
                yield from element.value
