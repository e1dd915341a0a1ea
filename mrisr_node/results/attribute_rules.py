"""The table of attributes: what of the source a result carries on, one by one.

Who the patient is and what the study is stays the same to the byte. Of the acquisition stays what
is true of a volume computed from it. All about the plane, the pixels, the equipment and the moment
is made anew. What is not named here, private attributes too, is not carried over. The conformance
statement is made from this table.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["ACQUIRED", "IDENTITY", "PLACED", "RULES", "Action", "Rule"]


class Action(StrEnum):
    """What becomes of an attribute of the source."""

    KEPT = "kept"
    IN_PLACE = "kept where the result lies in the source's space"
    ANEW = "made anew"
    LEFT_OUT = "left out"


@dataclass(frozen=True)
class Rule:
    """What becomes of one attribute, and why or how where the action does not say it."""

    module: str
    keyword: str
    action: Action
    how: str = ""


def _rules(module: str, action: Action, keywords: str, how: str = "") -> tuple[Rule, ...]:
    return tuple(Rule(module, keyword, action, how) for keyword in keywords.split())


_PATIENT = "Patient (C.7.1.1)"
_SUBJECT = "Clinical Trial Subject (C.7.1.3)"
_STUDY = "General Study (C.7.2.1)"
_PATIENT_STUDY = "Patient Study (C.7.2.2)"
_TRIAL_STUDY = "Clinical Trial Study (C.7.2.3)"
_SERIES = "General Series (C.7.3.1)"
_TRIAL_SERIES = "Clinical Trial Series (C.7.3.2)"
_FRAME = "Frame of Reference (C.7.4.1)"
_EQUIPMENT = "General Equipment (C.7.5.1)"
_ACQUISITION = "General Acquisition (C.7.10.1)"
_IMAGE = "General Image (C.7.6.1)"
_REFERENCE = "General Reference (C.12.4)"
_PLANE = "Image Plane (C.7.6.2)"
_PIXEL = "Image Pixel (C.7.6.3)"
_BOLUS = "Contrast/Bolus (C.7.6.4)"
_MR = "MR Image (C.8.3.1)"
_VOI = "VOI LUT (C.11.2)"
_MODALITY_LUT = "Modality LUT (C.11.1)"
_COMMON = "SOP Common (C.12.1)"

IDENTITY = (
    *_rules(
        _PATIENT,
        Action.KEPT,
        "ReferencedPatientSequence PatientName PatientID IssuerOfPatientID TypeOfPatientID"
        " IssuerOfPatientIDQualifiersSequence SourcePatientGroupIdentificationSequence"
        " GroupOfPatientsIdentificationSequence PatientBirthDate PatientBirthTime"
        " PatientBirthDateInAlternativeCalendar PatientDeathDateInAlternativeCalendar"
        " PatientAlternativeCalendar PatientSex QualityControlSubject StrainDescription"
        " StrainNomenclature StrainStockSequence StrainAdditionalInformation StrainCodeSequence"
        " GeneticModificationsSequence OtherPatientIDs OtherPatientNames OtherPatientIDsSequence"
        " ReferencedPatientPhotoSequence EthnicGroup EthnicGroupCodeSequence"
        " PatientSpeciesDescription"
        " PatientSpeciesCodeSequence PatientBreedDescription PatientBreedCodeSequence"
        " BreedRegistrationSequence ResponsiblePerson ResponsiblePersonRole ResponsibleOrganization"
        " PatientComments PatientIdentityRemoved DeidentificationMethod"
        " DeidentificationMethodCodeSequence",
    ),
    *_rules(
        _SUBJECT,
        Action.KEPT,
        "ClinicalTrialSponsorName ClinicalTrialProtocolID ClinicalTrialProtocolName"
        " IssuerOfClinicalTrialProtocolID OtherClinicalTrialProtocolIDsSequence ClinicalTrialSiteID"
        " ClinicalTrialSiteName IssuerOfClinicalTrialSiteID ClinicalTrialSubjectID"
        " IssuerOfClinicalTrialSubjectID ClinicalTrialSubjectReadingID"
        " IssuerOfClinicalTrialSubjectReadingID ClinicalTrialProtocolEthicsCommitteeName"
        " ClinicalTrialProtocolEthicsCommitteeApprovalNumber",
    ),
    *_rules(
        _STUDY,
        Action.KEPT,
        "StudyInstanceUID StudyDate StudyTime StudyID StudyDescription AccessionNumber"
        " IssuerOfAccessionNumberSequence ReferringPhysicianName"
        " ReferringPhysicianIdentificationSequence ConsultingPhysicianName"
        " ConsultingPhysicianIdentificationSequence ProcedureCodeSequence PhysiciansOfRecord"
        " PhysiciansOfRecordIdentificationSequence NameOfPhysiciansReadingStudy"
        " PhysiciansReadingStudyIdentificationSequence ReferencedStudySequence RequestingService"
        " RequestingServiceCodeSequence ReasonForPerformedProcedureCodeSequence",
    ),
    *_rules(
        _PATIENT_STUDY,
        Action.KEPT,
        "AdmittingDiagnosesDescription AdmittingDiagnosesCodeSequence PatientAge PatientSize"
        " PatientSizeCodeSequence PatientBodyMassIndex MeasuredAPDimension MeasuredLateralDimension"
        " PatientWeight MedicalAlerts Allergies Occupation SmokingStatus AdditionalPatientHistory"
        " PregnancyStatus LastMenstrualDate PatientSexNeutered ReasonForVisit"
        " ReasonForVisitCodeSequence AdmissionID IssuerOfAdmissionIDSequence ServiceEpisodeID"
        " ServiceEpisodeDescription IssuerOfServiceEpisodeIDSequence PatientState",
    ),
    *_rules(
        _TRIAL_STUDY,
        Action.KEPT,
        "ClinicalTrialTimePointID ClinicalTrialTimePointDescription"
        " LongitudinalTemporalOffsetFromEvent LongitudinalTemporalEventType"
        " ClinicalTrialTimePointTypeCodeSequence IssuerOfClinicalTrialTimePointID"
        " ConsentForClinicalTrialUseSequence",
    ),
    *_rules(
        _TRIAL_SERIES,
        Action.KEPT,
        "ClinicalTrialCoordinatingCenterName ClinicalTrialSeriesID ClinicalTrialSeriesDescription"
        " IssuerOfClinicalTrialSeriesID",
    ),
    *_rules(
        _COMMON,
        Action.KEPT,
        "SpecificCharacterSet TimezoneOffsetFromUTC LongitudinalTemporalInformationModified",
    ),
)

ACQUIRED = (
    *_rules(
        _SERIES,
        Action.KEPT,
        "Laterality ProtocolName AnatomicalOrientationType PatientPosition"
        " RequestAttributesSequence",
    ),
    Rule(_SERIES, "BodyPartExamined", Action.KEPT, "HEAD where the source names none"),
    *_rules(
        _ACQUISITION,
        Action.KEPT,
        "AcquisitionNumber AcquisitionDate AcquisitionTime AcquisitionDuration",
        "of the first slice",
    ),
    *_rules(_IMAGE, Action.KEPT, "AnatomicRegionSequence PrimaryAnatomicStructureSequence"),
    *_rules(
        _BOLUS,
        Action.KEPT,
        "ContrastBolusAgent ContrastBolusAgentSequence ContrastBolusAdministrationRouteSequence"
        " ContrastBolusRoute ContrastBolusVolume ContrastBolusStartTime ContrastBolusStopTime"
        " ContrastBolusTotalDose ContrastFlowRate ContrastFlowDuration ContrastBolusIngredient"
        " ContrastBolusIngredientConcentration",
    ),
    Rule(_MR, "ScanningSequence", Action.KEPT, "RM (research mode) where the source names none"),
    Rule(_MR, "SequenceVariant", Action.KEPT, "NONE where the source names none"),
    *_rules(
        _MR,
        Action.KEPT,
        "ScanOptions MRAcquisitionType SequenceName AngioFlag RepetitionTime EchoTime InversionTime"
        " NumberOfAverages ImagingFrequency ImagedNucleus EchoNumbers MagneticFieldStrength"
        " NumberOfPhaseEncodingSteps EchoTrainLength PercentSampling PercentPhaseFieldOfView"
        " PixelBandwidth ReceiveCoilName TransmitCoilName FlipAngle VariableFlipAngleFlag SAR dBdt"
        " B1rms",
    ),
)

PLACED = (
    *_rules(_MR, Action.IN_PLACE, "ReconstructionDiameter AcquisitionMatrix"),
    Rule(_MR, "InPlanePhaseEncodingDirection", Action.IN_PLACE),
    Rule(_FRAME, "FrameOfReferenceUID", Action.IN_PLACE, "else one of its own"),
    Rule(_FRAME, "PositionReferenceIndicator", Action.IN_PLACE, "else empty"),
)

_MADE_ANEW = (
    Rule(_SERIES, "SeriesInstanceUID", Action.ANEW, "follows from sources, checkpoint, parameters"),
    Rule(_SERIES, "SeriesNumber", Action.ANEW, "the source's and 1000 or a multiple of it"),
    *_rules(_SERIES, Action.ANEW, "SeriesDate SeriesTime", "when the job was made"),
    Rule(_SERIES, "Modality", Action.ANEW, "MR, SEG or SR"),
    Rule(_SERIES, "SeriesDescription", Action.ANEW, "what it is, spacing, the source's own"),
    *_rules(_IMAGE, Action.ANEW, "ContentDate ContentTime", "when the job was made"),
    Rule(_IMAGE, "ImageType", Action.ANEW, r"DERIVED\SECONDARY\OTHER and what it is"),
    Rule(_IMAGE, "InstanceNumber", Action.ANEW, "in the order of the source's"),
    Rule(_IMAGE, "BurnedInAnnotation", Action.ANEW, "NO, where no source says YES"),
    *_rules(
        _IMAGE,
        Action.ANEW,
        "LossyImageCompression LossyImageCompressionRatio LossyImageCompressionMethod",
        "of any of the sources",
    ),
    *_rules(
        _EQUIPMENT,
        Action.ANEW,
        "Manufacturer ManufacturerModelName SoftwareVersions",
        "ours; the scanner's in ContributingEquipmentSequence",
    ),
    Rule(_REFERENCE, "DerivationDescription", Action.ANEW, "method, profile, fidelity, remarks"),
    Rule(_REFERENCE, "DerivationCodeSequence", Action.ANEW, "(113085, DCM), (123110, DCM)"),
    Rule(
        _REFERENCE, "SourceImageSequence", Action.ANEW, "the slices that contribute (121322, DCM)"
    ),
    *_rules(_PLANE, Action.ANEW, "SliceThickness SpacingBetweenSlices", "distance of its slices"),
    *_rules(
        _PLANE,
        Action.ANEW,
        "ImagePositionPatient ImageOrientationPatient SliceLocation PixelSpacing",
        "from the grid of the result",
    ),
    *_rules(
        _PIXEL,
        Action.ANEW,
        "SamplesPerPixel PhotometricInterpretation Rows Columns BitsAllocated BitsStored HighBit"
        " PixelRepresentation SmallestImagePixelValue LargestImagePixelValue PixelData",
        "of 16 bits, the source's photometric interpretation",
    ),
    *_rules(
        _MODALITY_LUT,
        Action.ANEW,
        "RescaleSlope RescaleIntercept RescaleType",
        "the source's where all its slices have one and the values fit",
    ),
    *_rules(
        _VOI,
        Action.ANEW,
        "WindowCenter WindowWidth VOILUTFunction",
        "those of the source's middle slice; else the 1st to 99.5th percentile",
    ),
    *_rules(_COMMON, Action.ANEW, "SOPClassUID SOPInstanceUID", "follow from the series"),
    *_rules(
        _COMMON, Action.ANEW, "InstanceCreationDate InstanceCreationTime", "when the job was made"
    ),
    Rule(
        _COMMON,
        "ContributingEquipmentSequence",
        Action.ANEW,
        "(109102, DCM) with version and checkpoint, (109101, DCM) the scanner",
    ),
)

_OTHER_STEP = "another procedure step made the result"
_NOT_OURS = "the scanner's, not of the equipment that made the result"
_DIFFERS = "differs from slice to slice"
_NO_SUCH = "nothing of a result is of that kind"

_LEFT_OUT = (
    *_rules(
        _SERIES,
        Action.LEFT_OUT,
        "SeriesDescriptionCodeSequence PerformingPhysicianName"
        " PerformingPhysicianIdentificationSequence OperatorsName OperatorIdentificationSequence"
        " ReferencedPerformedProcedureStepSequence PerformedProcedureStepStartDate"
        " PerformedProcedureStepStartTime PerformedProcedureStepEndDate"
        " PerformedProcedureStepEndTime PerformedProcedureStepID PerformedProcedureStepDescription"
        " PerformedProtocolCodeSequence CommentsOnThePerformedProcedureStep TreatmentSessionUID"
        " RelatedSeriesSequence",
        _OTHER_STEP,
    ),
    *_rules(
        _SERIES,
        Action.LEFT_OUT,
        "SmallestPixelValueInSeries LargestPixelValueInSeries",
        "each instance has its own",
    ),
    *_rules(
        _EQUIPMENT,
        Action.LEFT_OUT,
        "InstitutionName InstitutionAddress StationName InstitutionalDepartmentName"
        " InstitutionalDepartmentTypeCodeSequence DeviceSerialNumber DeviceUID GantryID UDISequence"
        " ManufacturerDeviceClassUID SpatialResolution DateOfLastCalibration TimeOfLastCalibration"
        " DateOfManufacture DateOfInstallation PixelPaddingValue",
        _NOT_OURS,
    ),
    *_rules(
        _ACQUISITION,
        Action.LEFT_OUT,
        "AcquisitionUID AcquisitionDateTime IrradiationEventUID ImagesInAcquisition",
        "of the acquired instances only",
    ),
    *_rules(
        _IMAGE,
        Action.LEFT_OUT,
        "PatientOrientation ImageLaterality ImageComments QualityControlImage"
        " RecognizableVisualFeatures RealWorldValueMappingSequence IconImageSequence"
        " PresentationLUTShape",
        "said of other pixels",
    ),
    *_rules(
        _REFERENCE,
        Action.LEFT_OUT,
        "ReferencedImageSequence ReferencedInstanceSequence SourceInstanceSequence",
        "SourceImageSequence says it",
    ),
    *_rules(
        _PIXEL,
        Action.LEFT_OUT,
        "PlanarConfiguration PixelAspectRatio PixelPaddingRangeLimit"
        " RedPaletteColorLookupTableDescriptor GreenPaletteColorLookupTableDescriptor"
        " BluePaletteColorLookupTableDescriptor RedPaletteColorLookupTableData"
        " GreenPaletteColorLookupTableData BluePaletteColorLookupTableData ICCProfile ColorSpace"
        " PixelDataProviderURL ExtendedOffsetTable ExtendedOffsetTableLengths",
        _NO_SUCH,
    ),
    *_rules(
        _MR,
        Action.LEFT_OUT,
        "TriggerTime NominalInterval BeatRejectionFlag LowRRValue HighRRValue IntervalsAcquired"
        " IntervalsRejected PVCRejection SkipBeats HeartRate CardiacNumberOfImages TriggerWindow"
        " TemporalPositionIdentifier NumberOfTemporalPositions TemporalResolution",
        _DIFFERS,
    ),
    *_rules(
        _MR,
        Action.LEFT_OUT,
        "ViewCodeSequence SliceProgressionDirection IsocenterPosition EquipmentFrameOfReferenceUID"
        " PatientTreatmentPreparationSequence PatientToEquipmentRelationshipSequence"
        " ImagingEquipmentToTreatmentDeliveryDeviceRelationshipSequence ReferencedRTPlanSequence",
        _NO_SUCH,
    ),
    *_rules(
        _VOI,
        Action.LEFT_OUT,
        "WindowCenterWidthExplanation VOILUTSequence",
        "tables are made for other values",
    ),
    Rule(_MODALITY_LUT, "ModalityLUTSequence", Action.LEFT_OUT, "tables are made for other values"),
    *_rules(
        _COMMON,
        Action.LEFT_OUT,
        "InstanceCreatorUID InstanceCoercionDateTime RelatedGeneralSOPClassUID"
        " OriginalSpecializedSOPClassUID SyntheticData QueryRetrieveView"
        " CodingSchemeIdentificationSequence ContextGroupIdentificationSequence"
        " MappingResourceIdentificationSequence PrivateDataElementCharacteristicsSequence"
        " ContentQualification ReferencedDefinedProtocolSequence"
        " ReferencedPerformedProtocolSequence ConversionSourceAttributesSequence"
        " HL7StructuredDocumentReferenceSequence"
        " SOPInstanceStatus SOPAuthorizationDateTime SOPAuthorizationComment"
        " AuthorizationEquipmentCertificationNumber EncryptedAttributesSequence"
        " OriginalAttributesSequence InstanceOriginStatus BarcodeValue MACParametersSequence"
        " DigitalSignaturesSequence",
        "of the acquired instances only",
    ),
)

RULES: tuple[Rule, ...] = (*IDENTITY, *ACQUIRED, *PLACED, *_MADE_ANEW, *_LEFT_OUT)
"""What becomes of every attribute of the modules of the MR Image IOD (PS3.3 Table A.4-1).

Without the modules that no result has: Device, Specimen, Enhanced Patient Orientation, Overlay
Plane and Common Instance Reference.
"""
