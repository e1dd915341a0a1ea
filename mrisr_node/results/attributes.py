"""Which attributes of the source a result series carries on.

Patient, study and frame of reference stay the same; acquisition attributes stay true for a volume
computed from the acquisition; all about the plane, the pixels and the equipment is made anew.
What is not named here is not carried over.
"""

from __future__ import annotations

from collections.abc import Iterator

from pydicom.dataset import Dataset

__all__ = ["carry_over"]

_PATIENT_AND_STUDY = (
    "SpecificCharacterSet",
    "TimezoneOffsetFromUTC",
    # Patient (PS3.3 C.7.1.1)
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "PatientBirthDate",
    "PatientSex",
    "OtherPatientIDsSequence",
    "EthnicGroup",
    "PatientComments",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "DeidentificationMethodCodeSequence",
    # General study and patient study (C.7.2.1, C.7.2.2)
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
    "StudyID",
    "AccessionNumber",
    "IssuerOfAccessionNumberSequence",
    "StudyDescription",
    "ProcedureCodeSequence",
    "PatientAge",
    "PatientSize",
    "PatientWeight",
)
_SERIES = (
    # General series (C.7.3.1)
    "Laterality",
    "ProtocolName",
    "BodyPartExamined",
    "PatientPosition",
    # Image (C.7.6.1), contrast (C.7.6.4)
    "AcquisitionNumber",
    "AcquisitionDate",
    "AcquisitionTime",
    "ContrastBolusAgent",
    "ContrastBolusRoute",
    "ContrastBolusVolume",
    # MR image (C.8.3.1), as far as it tells how the signal came about
    "ScanningSequence",
    "SequenceVariant",
    "ScanOptions",
    "MRAcquisitionType",
    "SequenceName",
    "AngioFlag",
    "RepetitionTime",
    "EchoTime",
    "InversionTime",
    "NumberOfAverages",
    "ImagingFrequency",
    "ImagedNucleus",
    "EchoNumbers",
    "MagneticFieldStrength",
    "NumberOfPhaseEncodingSteps",
    "EchoTrainLength",
    "PercentSampling",
    "PercentPhaseFieldOfView",
    "PixelBandwidth",
    "ReceiveCoilName",
    "TransmitCoilName",
    "FlipAngle",
    "VariableFlipAngleFlag",
    "SAR",
    "dBdt",
)
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
# Type 2 of the classic MR image: present even when nothing is known.
_EMPTY_WHEN_UNKNOWN = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
    "StudyID",
    "AccessionNumber",
    "AcquisitionNumber",
    "ScanOptions",
    "MRAcquisitionType",
    "RepetitionTime",
    "EchoTime",
    "EchoTrainLength",
)


def carry_over(source: Dataset) -> Dataset:
    """Return a new dataset with what a result keeps of its source."""
    result = Dataset()
    for keyword in (*_PATIENT_AND_STUDY, *_SERIES):
        if keyword in source:
            result[keyword] = source[keyword]
    for group in _functional_groups(source):
        for keyword, name in _ENHANCED.items():
            if keyword in group and name not in result:
                setattr(result, name, group[keyword].value)
    for keyword in _EMPTY_WHEN_UNKNOWN:
        if keyword not in result:
            setattr(result, keyword, None)
    # Type 1 in the classic object and absent from Enhanced ones: RM, research mode, claims nothing.
    for keyword, value in (("ScanningSequence", "RM"), ("SequenceVariant", "NONE")):
        if not result.get(keyword):
            setattr(result, keyword, value)
    if not result.get("BodyPartExamined"):
        result.BodyPartExamined = "HEAD"
    return result


def _functional_groups(source: Dataset) -> Iterator[Dataset]:
    frames = source.get("PerFrameFunctionalGroupsSequence") or []
    for groups in (*(source.get("SharedFunctionalGroupsSequence") or []), *frames[:1]):
        for element in groups:
            if element.VR == "SQ":
                yield from element.value
