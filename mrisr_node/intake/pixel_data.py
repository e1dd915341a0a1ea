"""Whether an object's pixel data are what its header says."""

from __future__ import annotations

import os
import struct
from collections import deque
from typing import BinaryIO

from pydicom.dataset import FileDataset
from pydicom.encaps import generate_fragments
from pydicom.pixels.utils import iter_pixels
from pydicom.uid import UID

from mrisr_node.counts import counted

__all__ = ["PixelDataError", "check_pixel_data"]

_MAXIMUM_BYTES = 4 * 1024**3
"""Of all frames of one object, decoded."""
_NUMBERS = ("Rows", "Columns", "BitsAllocated")
_UNDEFINED = 0xFFFFFFFF


class PixelDataError(ValueError):
    """The pixel data is missing, or is not what the header says."""


def check_pixel_data(file: BinaryIO, header: FileDataset, decode: bool = True) -> int:
    """Compare pixel data with the header: the length where it is native, every frame where not.

    Parameters
    ----------
    file
        At the place where reading stopped before the pixel data.
    header
        The data set before them, with its file meta information.
    decode
        Decode what is not native; else only its extent is looked at.

    Returns
    -------
    int
        Where in the file the pixel data end.

    Raises
    ------
    PixelDataError
        They differ; the message says how.
    """
    rows, columns, bits = (int(header.get(name) or 0) for name in _NUMBERS)
    samples = int(header.get("SamplesPerPixel") or 1)
    if header.get("PhotometricInterpretation") == "YBR_FULL_422":
        samples = 2  # every other colour is left out (PS3.3 C.7.6.3.1.2)
    frames = int(header.get("NumberOfFrames") or 1)
    if min(rows, columns, bits, samples, frames) < 1:
        raise PixelDataError("rows, columns, bits or frames are missing or below one")
    size = frames * rows * columns * samples * bits // 8
    if size > _MAXIMUM_BYTES:
        raise PixelDataError(f"the header describes {size} bytes of pixels")
    syntax = UID(header.file_meta.TransferSyntaxUID)
    length = _stated_length(file, syntax)
    if length is None:
        raise PixelDataError("there is no pixel data")
    start = file.tell()
    end = _end(file, length)
    if not syntax.is_encapsulated:
        if end - start < size:
            raise PixelDataError(
                f"{counted(end - start, 'byte')} of pixel data where the header describes {size}"
            )
        return end
    if not decode:
        return end
    # A codestream has a size of its own, which decoders believe; one frame at a time is in memory.
    file.seek(0)
    decoded = 0
    for frame in iter_pixels(file, raw=True):
        decoded += 1
        if frame.shape[:2] != (rows, columns):
            raise PixelDataError(
                f"frame {decoded} decodes to {frame.shape[:2]} pixels instead of {(rows, columns)}"
            )
    if decoded != frames:
        raise PixelDataError(f"{counted(decoded, 'frame')} where the header says {frames}")
    return end


def _stated_length(file: BinaryIO, syntax: UID) -> int | None:
    """Return the length of the pixel data element (PS3.5 7.1) at the place of the file, if any."""
    order = "<" if syntax.is_little_endian else ">"
    head = file.read(8)
    if len(head) < 8:
        return None
    if not syntax.is_implicit_VR and head[4:6].isalpha():
        rest = file.read(4)
        return struct.unpack(f"{order}L", rest)[0] if len(rest) == 4 else None
    length: int = struct.unpack(f"{order}L", head[4:])[0]
    return length


def _end(file: BinaryIO, length: int) -> int:
    """Return where a value ends that begins at the place of the file."""
    start = file.tell()
    if length == _UNDEFINED:  # fragments and a delimiter, whose own length is zero (PS3.5 A.4)
        deque(generate_fragments(file), maxlen=0)
        file.read(4)
        return file.tell()
    return min(start + length, file.seek(0, os.SEEK_END))
