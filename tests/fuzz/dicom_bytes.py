"""DICOM files as nobody should write them: good ones bitten, and elements of any kind."""

import struct

from hypothesis import strategies as st
from pydicom.datadict import tag_for_keyword
from pydicom.uid import MRImageStorage
from small_dicom import encoded_slice, instance_uid

SERIES = "2.25.77"
SOP_CLASS, SOP_INSTANCE = str(MRImageStorage), instance_uid(SERIES, 0)
GOOD = encoded_slice(SERIES, 0)

# What the node reads of a header, and what holds others.
_KEYWORDS: str = """
SpecificCharacterSet SOPClassUID SOPInstanceUID SeriesInstanceUID StudyInstanceUID Modality
SeriesDescription ImageType PhotometricInterpretation BodyPartExamined Rows Columns PixelSpacing
SliceThickness ImageOrientationPatient ImagePositionPatient NumberOfFrames RescaleSlope
RescaleIntercept ContributingEquipmentSequence ManufacturerModelName AcquisitionContrast
ScanningSequence SequenceVariant RepetitionTime EchoTime EffectiveEchoTime InversionTime
InversionTimes FlipAngle EchoPulseSequence InversionRecovery Spoiling AngioFlag
EchoPlanarPulseSequence PerFrameFunctionalGroupsSequence SharedFunctionalGroupsSequence
PlanePositionSequence PlaneOrientationSequence PixelMeasuresSequence
PixelValueTransformationSequence MRTimingAndRelatedParametersSequence MREchoSequence
MRModifierSequence BitsAllocated BitsStored HighBit PixelRepresentation SamplesPerPixel
"""
TAGS = sorted(tag_for_keyword(word) for word in _KEYWORDS.split())
_LONG = {"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"}
_SHORT = {"AE", "AS", "AT", "CS", "DA", "DS", "DT", "FD", "FL", "IS", "LO", "LT", "PN", "SH", "SL",
          "SS", "ST", "TM", "UI", "UL", "US", "ZZ", "\0\0"}  # fmt: skip
_WORDS = st.sampled_from(
    [b"", b" ", b"0", b"1", b"-1", b"1\\1", b"0\\0\\0", b"0\\0\\5", b"1\\0\\0\\0\\1\\0", b"nan",
     b"inf", b"1e308", b"1e999", b"9" * 400, b"1.5", b"1,5", b"MR", b"CT", b"MONOCHROME2", b"SE",
     b"T1", b"YES", b"ISO_IR 100", b"ISO 2022 IR 87", b"\\ISO 2022 IR 149", b"GB18030", b"\\\\\\",
     b"1.2.840.10008.5.1.4.1.1.4", b"2.25.77.1", b"../../etc", b"\xff\xfe\x80", b"mrisr_node"]
)  # fmt: skip


def element(tag: int, vr: str, value: bytes, length: int | None = None) -> bytes:
    """Encode an element (explicit VR, little endian), if need be with a length that lies."""
    length = len(value) if length is None else length
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr.encode()
    if vr in _LONG:
        return head + b"\0\0" + struct.pack("<I", length) + value
    return head + struct.pack("<H", length & 0xFFFF) + value


def item(content: bytes, *, defined: bool = True) -> bytes:
    """Encode an item of a sequence."""
    if defined:
        return struct.pack("<HHI", 0xFFFE, 0xE000, len(content)) + content
    end = struct.pack("<HHI", 0xFFFE, 0xE00D, 0)
    return struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF) + content + end


def file_of(content: bytes, syntax: bytes = b"1.2.840.10008.1.2.1\0") -> bytes:
    """Put a preamble and file meta information before an encoded dataset."""
    meta = element(0x00020002, "UI", SOP_CLASS.encode() + b"\0")
    meta += element(0x00020003, "UI", SOP_INSTANCE.encode())
    meta += element(0x00020010, "UI", syntax)
    length = element(0x00020000, "UL", struct.pack("<I", len(meta)))
    return bytes(128) + b"DICM" + length + meta + content


_PLAIN = st.builds(
    element,
    st.sampled_from(TAGS),
    st.sampled_from(sorted((_LONG | _SHORT) - {"SQ"})),
    _WORDS | st.binary(max_size=24),
    st.none() | st.none() | st.integers(0, 2**32 - 1),
)


def _sequence(content: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    items = st.lists(st.builds(item, content, defined=st.booleans()), max_size=2).map(b"".join)
    return st.builds(element, st.sampled_from(TAGS), st.just("SQ"), items)


ELEMENTS = st.lists(
    st.recursive(
        _PLAIN, lambda inner: _sequence(st.lists(inner, max_size=3).map(b"".join)), max_leaves=8
    ),
    max_size=12,
).map(b"".join)
"""Elements of any tag, representation, value, length, order and nesting."""


@st.composite
def bitten(draw: st.DrawFn, good: bytes) -> bytes:
    """Return a good file with some bytes changed, put in, taken out or cut off."""
    content = bytearray(good)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(content) - 1)))
        kind = draw(st.sampled_from(["change", "ones", "insert", "remove", "cut", "repeat"]))
        if kind == "change":
            content[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
        elif kind == "ones":
            content[at : at + 4] = b"\xff" * 4
        elif kind == "insert":
            content[at:at] = draw(st.binary(min_size=1, max_size=8))
        elif kind == "remove":
            del content[at : at + draw(st.integers(1, 16))]
        elif kind == "cut":
            del content[at:]
        else:
            content[at:at] = content[at : at + draw(st.integers(1, 64))]
    return bytes(content)


@st.composite
def amended(draw: st.DrawFn, good: bytes) -> bytes:
    """Return a good file in which odd elements stand before the good ones, or after them."""
    extra = draw(ELEMENTS)
    start = good.index(b"\x08\0\x08\0CS")  # ImageType, the first of the dataset
    end = good.index(b"\xe0\x7f\x10\0")  # PixelData
    if draw(st.booleans()):
        return good[:start] + extra + good[start:]
    return good[:end] + extra + good[end:]


FILES = st.one_of(
    bitten(GOOD),
    amended(GOOD),
    ELEMENTS.map(file_of),
    st.binary(max_size=400),
    st.binary(max_size=200).map(lambda junk: bytes(128) + b"DICM" + junk),
)
"""Files of every kind of wrong."""
