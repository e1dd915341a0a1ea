"""A ZIP file that is made while it is sent: however large, it takes no memory and no disk."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from io import RawIOBase
from pathlib import Path
from typing import Any

from fastapi import HTTPException
from starlette.responses import Response, StreamingResponse

__all__ = ["zipped"]

_CHUNK = 1 << 20


class _Sink(RawIOBase):
    """Takes what an archive writes, to be sent on at once."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def writable(self) -> bool:
        """Tell that it can be written."""
        return True

    def write(self, content: Any) -> int:  # noqa: ANN401 - any buffer
        """Take bytes."""
        self._parts.append(bytes(content))
        return len(content)

    def take(self) -> bytes:
        """Return what was written since the last time."""
        taken, self._parts = b"".join(self._parts), []
        return taken


def zipped(members: Sequence[tuple[str, Path]], texts: Mapping[str, str], name: str) -> Response:
    """Answer with a ZIP file of files that are compressed already.

    Parameters
    ----------
    members
        Name in the archive, and where the file is.
    texts
        More members, by name.
    name
        Of the archive, for whoever saves it.

    Raises
    ------
    HTTPException
        With status 410: a file is gone. Said before the first byte, while it still can be.
    """
    gone = [inside for inside, path in members if not path.is_file()]
    if gone:
        raise HTTPException(410, f"the bytes of {gone[0]} are gone; process its file again")

    def chunks() -> Iterator[bytes]:
        sink = _Sink()
        with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as archive:
            for inside, text in texts.items():
                archive.writestr(inside, text)
            for inside, path in members:
                with archive.open(inside, "w", force_zip64=True) as target, path.open("rb") as file:
                    while chunk := file.read(_CHUNK):
                        target.write(chunk)
                        yield sink.take()
        yield sink.take()

    disposition = {"Content-Disposition": f'attachment; filename="{name}"'}
    return StreamingResponse(chunks(), media_type="application/zip", headers=disposition)
