"""Data sets that are broken, hostile or merely odd, each sent by a C-STORE that is in order."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO

from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    MRImageStorage,
    RLELossless,
    generate_uid,
)

from tests.survival.peer import encoded

__all__ = ["ACCEPTED", "OBJECT_CASES", "ObjectCase", "honest"]

ACCEPTED = 0x0000
CANNOT_UNDERSTAND = 0xC000
DOES_NOT_MATCH = 0xA900


@dataclass(frozen=True)
class ObjectCase:
    """One object: how it is made of an honest one, and the status that it has to get.

    ``make`` returns the bytes of the data set, and the SOP Instance UID of the command.
    """

    name: str
    make: Callable[[FileDataset], tuple[bytes, str]]
    status: int
    transfer: str = ExplicitVRLittleEndian
    end: str | None = None
    """What a series of such objects ends with; None: it is converted, voxel by voxel as stored."""


def _changed(**values: object) -> Callable[[FileDataset], tuple[bytes, str]]:
    """Set attributes, without the checks that pydicom makes of values."""

    def make(dataset: FileDataset) -> tuple[bytes, str]:
        instance = str(dataset.SOPInstanceUID)
        for name, value in values.items():
            setattr(dataset, name, value)
        return encoded(dataset), str(values.get("SOPInstanceUID", instance))

    return make


def _without(*names: str) -> Callable[[FileDataset], tuple[bytes, str]]:
    def make(dataset: FileDataset) -> tuple[bytes, str]:
        for name in names:
            delattr(dataset, name)
        return encoded(dataset), str(dataset.SOPInstanceUID)

    return make


def _element(tag: tuple[int, int], vr: bytes, value: bytes, length: int | None = None) -> bytes:
    """Return an element in explicit VR little endian whose length may be a lie."""
    size = len(value) if length is None else length
    if vr in (b"OB", b"OW", b"SQ", b"UN", b"UT"):
        return struct.pack("<HH2sHL", *tag, vr, 0, size) + value
    return struct.pack("<HH2sH", *tag, vr, size) + value


def _with_raw(raw: bytes, *, before: int = 0x7FE0) -> Callable[[FileDataset], tuple[bytes, str]]:
    """Put raw bytes before the pixel data, or at the very end."""

    def make(dataset: FileDataset) -> tuple[bytes, str]:
        whole = encoded(dataset)
        place = whole.rindex(b"\xe0\x7f\x10\x00OW") if before == 0x7FE0 else len(whole)
        return whole[:place] + raw + whole[place:], str(dataset.SOPInstanceUID)

    return make


def _nested(depth: int) -> bytes:
    """Return a sequence in a sequence in a sequence, of undefined lengths."""
    start = struct.pack("<HH2sHL", 0x7FDF, 0x1001, b"SQ", 0, 0xFFFFFFFF)
    start += struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)
    end = struct.pack("<HHL", 0xFFFE, 0xE00D, 0) + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
    return start * depth + end * depth


def _many_items(count: int) -> bytes:
    """Return a private sequence of undefined length, with a tag after that of the pixel data."""
    items = struct.pack("<HHL", 0xFFFE, 0xE000, 0) * count
    end = struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
    return struct.pack("<HH2sHL", 0x7FE1, 0x1010, b"SQ", 0, 0xFFFFFFFF) + items + end


def _cut_off(dataset: FileDataset) -> tuple[bytes, str]:
    whole = encoded(dataset)
    return whole[: len(whole) // 2], str(dataset.SOPInstanceUID)


def _huge(dataset: FileDataset) -> tuple[bytes, str]:
    dataset.Rows = dataset.Columns = 65535
    dataset.NumberOfFrames = 2**31 - 1
    dataset.PixelData = bytes(10)
    return encoded(dataset), str(dataset.SOPInstanceUID)


def _differs(dataset: FileDataset) -> tuple[bytes, str]:
    return encoded(dataset), generate_uid()


def _rle_larger(dataset: FileDataset) -> tuple[bytes, str]:
    """A run-length stream of a gigabyte of zeros in the place of a slice."""
    segment = b"\x81\x00" * 4_000_000
    header = struct.pack("<16L", 1, 64, *([0] * 14))
    dataset.PixelData = encapsulate([header + segment])
    return _encapsulated(dataset, RLELossless)


def _jpeg_larger(dataset: FileDataset) -> tuple[bytes, str]:
    """A JPEG 2000 header that says 60000 x 60000 pixels."""
    size = struct.pack(">HLLLLLLLLH", 0, 60000, 60000, 0, 0, 60000, 60000, 0, 0, 1)
    body = b"\xff\x4f\xff\x51" + struct.pack(">H", len(size) + 5) + size + b"\x0f\x01\x01"
    dataset.PixelData = encapsulate([body + b"\xff\xd9"])
    return _encapsulated(dataset, JPEG2000Lossless)


def _jpeg_frame(start_of_frame: int) -> Callable[[FileDataset], tuple[bytes, str]]:
    """A JPEG or JPEG-LS header that says 65535 x 65535 pixels, and hardly any after it."""
    frame = struct.pack(">BBHBHHB", 0xFF, start_of_frame, 11, 16, 65535, 65535, 1) + b"\x01\x11\x00"
    scan = b"\xff\xda\x00\x08\x01\x01\x00\x01\x00\x00"

    def make(dataset: FileDataset) -> tuple[bytes, str]:
        dataset.PixelData = encapsulate([b"\xff\xd8" + frame + scan + b"\x00" * 64 + b"\xff\xd9"])
        return _encapsulated(dataset, JPEGLosslessSV1)  # the bytes are the same for both

    return make


def _rle_segments(dataset: FileDataset) -> tuple[bytes, str]:
    """An RLE header that says more segments than there can be, at offsets beyond the frame."""
    dataset.PixelData = encapsulate([struct.pack("<16L", 2**31, *([2**31] * 15)) + b"\x81\x00" * 8])
    return _encapsulated(dataset, RLELossless)


def _deflate_bomb(dataset: FileDataset) -> tuple[bytes, str]:
    """A data set, deflated, that becomes 400 MB; sent as if it were not deflated."""
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    packed = packer.compress(encoded(dataset))
    packed += b"".join(packer.compress(bytes(10**7)) for _ in range(40))
    return packed + packer.flush(), str(dataset.SOPInstanceUID)


def _encapsulated(dataset: FileDataset, transfer: str) -> tuple[bytes, str]:
    dataset["PixelData"].is_undefined_length = True
    dataset["PixelData"].VR = "OB"
    return encoded(dataset, transfer), str(dataset.SOPInstanceUID)


def _file_in_the_data_set(start: bytes) -> Callable[[FileDataset], tuple[bytes, str]]:
    """A whole Part 10 file, with a preamble that begins like this, where a data set belongs."""

    def make(dataset: FileDataset) -> tuple[bytes, str]:
        buffer = BytesIO()
        dataset.preamble = start.ljust(128, b"\0")
        dataset.save_as(buffer, enforce_file_format=True)
        return buffer.getvalue(), str(dataset.SOPInstanceUID)

    return make


def _no_image(dataset: FileDataset) -> tuple[bytes, str]:
    foreign = Dataset()
    foreign.SOPClassUID = MRImageStorage
    foreign.SOPInstanceUID = generate_uid()
    foreign.StudyInstanceUID = foreign.SeriesInstanceUID = generate_uid()
    foreign.Modality = "DOC"
    return encoded(foreign), str(foreign.SOPInstanceUID)


def _odd_pixels(dataset: FileDataset) -> tuple[bytes, str]:
    dataset.PixelData = dataset.PixelData[:-3]
    return encoded(dataset), str(dataset.SOPInstanceUID)


def _longer_pixels(dataset: FileDataset) -> tuple[bytes, str]:
    """A byte more than the header describes, so that the length is odd (PS3.5 7.1.1 forbids it)."""
    whole = encoded(dataset)
    place = whole.rindex(b"\xe0\x7f\x10\x00OW")
    pixels = _element((0x7FE0, 0x0010), b"OW", dataset.PixelData + b"\0")
    return whole[:place] + pixels, str(dataset.SOPInstanceUID)


def _signed(dataset: FileDataset) -> tuple[bytes, str]:
    """Values below zero, stored as two's complement."""
    dataset.PixelRepresentation = 1
    dataset.PixelData = (dataset.pixel_array.astype("<i2") - 300).tobytes()
    return encoded(dataset), str(dataset.SOPInstanceUID)


def _all_zero(dataset: FileDataset) -> tuple[bytes, str]:
    dataset.PixelData = bytes(len(dataset.PixelData))
    return encoded(dataset), str(dataset.SOPInstanceUID)


_TRAVERSAL = "../../../../etc/passwd"
_FORMULA = "=1+1\r\n2026 INFO all is well"
_NAN = float("nan")
_IMPOSSIBLE = "is not a possible one"
_SLOPE = "RescaleSlope"
_LONG = "1." + "2" * 70

OBJECT_CASES = [
    ObjectCase("an honest one", lambda d: (encoded(d), str(d.SOPInstanceUID)), ACCEPTED),
    ObjectCase("nothing at all", lambda d: (b"", str(d.SOPInstanceUID)), CANNOT_UNDERSTAND),
    ObjectCase("noise", lambda d: (bytes(range(256)) * 40, d.SOPInstanceUID), CANNOT_UNDERSTAND),
    ObjectCase("cut off in the middle", _cut_off, CANNOT_UNDERSTAND),
    ObjectCase(
        "traversal in the instance UID", _changed(SOPInstanceUID=_TRAVERSAL), CANNOT_UNDERSTAND
    ),
    ObjectCase(
        "traversal in the series UID", _changed(SeriesInstanceUID=_TRAVERSAL), CANNOT_UNDERSTAND
    ),
    ObjectCase(
        "an absolute path as study UID", _changed(StudyInstanceUID="/etc/passwd"), CANNOT_UNDERSTAND
    ),
    ObjectCase("a UID of 72 characters", _changed(SeriesInstanceUID=_LONG), CANNOT_UNDERSTAND),
    ObjectCase("an empty series UID", _changed(SeriesInstanceUID=""), CANNOT_UNDERSTAND),
    ObjectCase("a NUL in the series UID", _changed(SeriesInstanceUID="1.2\0.3"), CANNOT_UNDERSTAND),
    ObjectCase("UIDs that differ from the command", _differs, DOES_NOT_MATCH),
    ObjectCase("Rows and Columns 65535, 2^31 frames, 10 bytes", _huge, CANNOT_UNDERSTAND),
    ObjectCase("no pixel data", _without("PixelData"), CANNOT_UNDERSTAND),
    ObjectCase("short pixel data of odd length", _odd_pixels, CANNOT_UNDERSTAND),
    ObjectCase("no Rows", _without("Rows"), CANNOT_UNDERSTAND),
    ObjectCase("no image", _no_image, CANNOT_UNDERSTAND),
    ObjectCase("RLE frames larger than they say", _rle_larger, CANNOT_UNDERSTAND, RLELossless),
    ObjectCase(
        "JPEG 2000 frames larger than they say", _jpeg_larger, CANNOT_UNDERSTAND, JPEG2000Lossless
    ),
    ObjectCase(
        "JPEG frames larger than they say", _jpeg_frame(0xC3), CANNOT_UNDERSTAND, JPEGLosslessSV1
    ),
    ObjectCase(
        "JPEG-LS frames larger than they say", _jpeg_frame(0xF7), CANNOT_UNDERSTAND, JPEGLSLossless
    ),
    ObjectCase("RLE segments beyond the frame", _rle_segments, CANNOT_UNDERSTAND, RLELossless),
    ObjectCase("sequences nested 10,000 deep", _with_raw(_nested(10_000)), CANNOT_UNDERSTAND),
    ObjectCase("sequences nested 50 deep", _with_raw(_nested(50)), ACCEPTED),
    ObjectCase(
        "250,001 items after the pixel data",
        _with_raw(_many_items(250_001), before=0xFFFF),
        CANNOT_UNDERSTAND,
    ),
    ObjectCase(
        "40 MB after the pixel data",
        _with_raw(_many_items(5_000_000), before=0xFFFF),
        CANNOT_UNDERSTAND,
    ),
    ObjectCase(
        "10,000 items after the pixel data", _with_raw(_many_items(10_000), before=0xFFFF), ACCEPTED
    ),
    ObjectCase(
        "a length beyond the end",
        _with_raw(_element((0x7FDF, 0x1010), b"UN", b"ab", 2**31), before=0xFFFF),
        ACCEPTED,
    ),
    ObjectCase(
        "a length beyond the pixel data",
        _with_raw(_element((0x7FDF, 0x1010), b"OB", b"ab", 2**31)),
        CANNOT_UNDERSTAND,
    ),
    ObjectCase("an unknown VR", _with_raw(_element((0x7FDF, 0x1010), b"ZZ", b"ab")), ACCEPTED),
    *[
        ObjectCase(
            f"a file with {name} preamble as data set",
            _file_in_the_data_set(start),
            CANNOT_UNDERSTAND,
        )
        for name, start in (("an MZ", b"MZ"), ("an ELF", b"\x7fELF"), ("a TIFF", b"II*\0"))
    ],
    ObjectCase("a deflate bomb", _deflate_bomb, CANNOT_UNDERSTAND),
    ObjectCase(
        "an unknown character set", _changed(SpecificCharacterSet="ISO 9999 IR 1"), ACCEPTED
    ),
    ObjectCase("a name with script", _changed(PatientName="<script>alert(1)</script>"), ACCEPTED),
    ObjectCase(
        "a description with CRLF and a formula", _changed(SeriesDescription=_FORMULA), ACCEPTED
    ),
    ObjectCase("a name with CRLF and a formula", _changed(PatientName=_FORMULA), ACCEPTED),
    ObjectCase("a name of 64 KiB", _changed(PatientName="N" * 65_000), ACCEPTED),
    ObjectCase(
        "pixel spacing that is no number",
        _changed(PixelSpacing=[_NAN, 0.0]),
        ACCEPTED,
        end=_IMPOSSIBLE,
    ),
    ObjectCase(
        "pixel spacing of zero",
        _changed(PixelSpacing=[0, 0], SliceThickness=0),
        ACCEPTED,
        end=_IMPOSSIBLE,
    ),
    ObjectCase(
        "positions all alike",
        _changed(ImagePositionPatient=[0, 0, 0]),
        ACCEPTED,
        end="images lie at only 1 slice position",
    ),
    ObjectCase(
        "a position of two numbers",
        _changed(ImagePositionPatient=["1", "2"]),
        ACCEPTED,
        end="do not say where in the patient they lie",
    ),
    ObjectCase(
        "a position that is no number",
        _changed(ImagePositionPatient=[0, _NAN, 0]),
        ACCEPTED,
        end=_IMPOSSIBLE,
    ),
    ObjectCase(
        "an orientation that is no number",
        _changed(ImageOrientationPatient=[1, 0, 0, 0, _NAN, 0]),
        ACCEPTED,
        end=_IMPOSSIBLE,
    ),
    ObjectCase(
        "orientation of zeros",
        _changed(ImageOrientationPatient=[0] * 6),
        ACCEPTED,
        end="are no directions at all",
    ),
    ObjectCase(
        "a slope that is no number",
        _changed(RescaleSlope=_NAN, RescaleIntercept=0),
        ACCEPTED,
        end=_SLOPE,
    ),
    ObjectCase("zero slope", _changed(RescaleSlope=0, RescaleIntercept=0), ACCEPTED, end=_SLOPE),
    ObjectCase("all pixels zero", _all_zero, ACCEPTED, end="every voxel is 0"),
    ObjectCase("pixel data of odd length, a byte too many", _longer_pixels, ACCEPTED),
    ObjectCase("signed pixels", _signed, ACCEPTED),
    ObjectCase(
        "MONOCHROME1",
        _changed(PhotometricInterpretation="MONOCHROME1"),
        ACCEPTED,
        end="MONOCHROME1",
    ),
    ObjectCase("12 bits in 16", _changed(BitsStored=12, HighBit=11), ACCEPTED),
    ObjectCase(
        "implicit VR",
        lambda d: (encoded(d, ImplicitVRLittleEndian), d.SOPInstanceUID),
        ACCEPTED,
        ImplicitVRLittleEndian,
    ),
]


def honest(path: str, series_uid: str | None = None) -> FileDataset:
    """Return the sample's data set under a UID of its own, in another series if one is given."""
    dataset = dcmread(path)
    dataset.SeriesInstanceUID = series_uid or dataset.SeriesInstanceUID
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    return dataset
