"""The 128 bytes before a DICOM file (PS3.10 7.1), which leave the node as zeros.

What a program of another kind wrote there (``MZ``, ``ELF``, a TIFF directory) makes the file one
of that kind as well. An object that comes by C-STORE has no preamble; the PACS keeps the one that
comes by STOW-RS, and gives it out again.
"""

from __future__ import annotations

import re

__all__ = ["Preambles"]

_BOUNDARY = re.compile(r'multipart/related\b.*\bboundary="?([^";\s]{1,70})', re.IGNORECASE)
# A delimiter, up to eight lines of a part's header, an empty one, the preamble, its prefix.
_HEADER = rb"\r\n(?:[^\r\n]{1,200}\r\n){0,8}\r\n"
_LONGEST = 2 + 70 + 2 + 8 * 202 + 2 + 132


class Preambles:
    """Puts zeros in the place of each preamble of an answer that comes in pieces.

    Parameters
    ----------
    content_type
        Of the answer: multipart, or one file; anything else goes through as it is.
    """

    def __init__(self, content_type: str) -> None:
        boundary = _BOUNDARY.match(content_type)
        start = b"--" + re.escape(boundary[1].encode()) + _HEADER if boundary else rb"\A"
        one_file = content_type.partition(";")[0].strip().lower() == "application/dicom"
        self._before = re.compile(b"(" + start + rb").{128}(?=DICM)", re.DOTALL)
        self._looking = boundary is not None or one_file
        self._to_the_end = boundary is not None
        self._kept = b""

    def passed(self, piece: bytes) -> bytes:
        """Return what can go on: a preamble may be in this piece and the next one."""
        if not self._looking:
            return piece
        data = self._before.sub(rb"\g<1>" + bytes(128), self._kept + piece)
        if not self._to_the_end and len(data) >= _LONGEST:
            self._looking, self._kept = False, b""
            return data
        cut = max(0, len(data) - _LONGEST)
        self._kept = data[cut:]
        return data[:cut]

    def rest(self) -> bytes:
        """Return what was kept back, at the end."""
        return self._kept
