"""A multipart message (RFC 2046 5.1) taken apart as it comes, each part into a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from fastapi import HTTPException
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

__all__ = ["PartFile", "Parts"]

_MOST_PARTS = 20_000
_PREAMBLE = 128


@dataclass
class PartFile:
    """A part, and the file that it was written to, if it is DICOM and not too large."""

    path: Path
    size: int = 0
    too_large: bool = False
    is_dicom: bool = False
    """It has the prefix (PS3.10 7.1). What stood before that is zeros in the file (`preambles`)."""


class Parts:
    """The parts of a message of DICOM files.

    Parameters
    ----------
    content_type
        Of the message.
    folder
        Where the files are made; who takes one deletes it.
    largest
        Bytes of one part; of a larger one nothing is kept.

    Raises
    ------
    HTTPException
        400 or 415: it is no multipart message of DICOM files.
    """

    def __init__(self, content_type: str, folder: Path, largest: int) -> None:
        kind, options = parse_options_header(content_type)
        if kind != b"multipart/related" or options.get(b"type", b"application/dicom").lower() != (
            b"application/dicom"
        ):
            raise HTTPException(415, "DICOM is stored as multipart/related; type=application/dicom")
        self._folder, self._largest = folder, largest
        self._count = 0
        self._part: PartFile | None = None
        self._file: BinaryIO | None = None
        self._start = b""
        self._done: list[PartFile] = []
        self._whole = False
        if not options.get(b"boundary"):
            raise HTTPException(400, "the multipart message names no boundary")
        try:
            self._parser = MultipartParser(
                options[b"boundary"],
                {
                    "on_part_begin": self._begin,
                    "on_part_data": self._data,
                    "on_part_end": self._end,
                    "on_end": self._finish,
                },
            )
        except FormParserError as error:
            raise HTTPException(400, "the multipart message's boundary is too long") from error

    def add(self, chunk: bytes) -> list[PartFile]:
        """Take in what came, and return the parts that are complete with it.

        Raises
        ------
        HTTPException
            400, it is no multipart message; 413, it has too many parts.
        """
        self._done = []
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise self._malformed() from error
        return self._done

    def require_whole(self) -> None:
        """Raise `HTTPException` unless the message came to its end."""
        if not self._whole or not self._count:
            raise self._malformed()

    def close(self) -> None:
        """Close the file of a part that did not come to its end."""
        if self._file:
            self._file.close()
            self._file = None

    @staticmethod
    def _malformed() -> HTTPException:
        return HTTPException(
            400,
            "the request is no whole multipart message; send it again, a repeat does no harm",
        )

    def _begin(self) -> None:
        if self._count == _MOST_PARTS:
            raise HTTPException(413, f"at most {_MOST_PARTS} instances are stored in one request")
        self._count += 1
        self._part, self._start = PartFile(self._folder / f"{self._count}.dcm"), b""

    def _data(self, data: bytes, start: int, end: int) -> None:
        part = self._part
        if part is None or part.too_large:
            return
        part.size += end - start
        if part.size > self._largest:
            part.too_large = True
            self.close()
            part.path.unlink(missing_ok=True)
            return
        piece = data[start:end]
        if len(self._start) < _PREAMBLE + 4:
            self._start += piece
            if len(self._start) < _PREAMBLE + 4:
                return
            part.is_dicom = self._start[_PREAMBLE : _PREAMBLE + 4] == b"DICM"
            piece = bytes(_PREAMBLE) + self._start[_PREAMBLE:]
            if part.is_dicom:
                self._file = part.path.open("wb")
        if self._file:
            self._file.write(piece)

    def _end(self) -> None:
        self.close()
        if self._part:
            self._done.append(self._part)
            self._part = None

    def _finish(self) -> None:
        self._whole = True
