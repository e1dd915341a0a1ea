"""Images for the eye (PS3.18 8.3.5 and 10.4.1.1.4): what may be asked, checked before the PACS is.

Orthanc 1.10 with its DICOMweb 1.7 divides by the sides of a viewport: one of zero ends it.
"""

from __future__ import annotations

import re

from fastapi import HTTPException

__all__ = ["THUMBNAIL_SIDE", "rendered_query"]

THUMBNAIL_SIDE = 128
"""Pixels of a thumbnail's longer side, where the client does not say."""

_LARGEST_SIDE = 4096
_NUMBER = r"[+-]?[0-9]{1,9}(?:\.[0-9]{1,9})?"
_WINDOW = re.compile(rf"({_NUMBER}),({_NUMBER}),(linear|linear-exact|sigmoid)", re.IGNORECASE)


def rendered_query(pairs: list[tuple[str, str]], *, thumbnail: bool) -> bytes:
    """Return the query for ``/rendered`` that a client's parameters make.

    Parameters
    ----------
    thumbnail
        A small image is asked for, of which only the size can be chosen.

    Raises
    ------
    HTTPException
        400: one of them is not what the standard says.
    """
    wanted = dict(pairs)
    query = []
    if viewport := wanted.get("viewport") or (
        f"{THUMBNAIL_SIDE},{THUMBNAIL_SIDE}" if thumbnail else ""
    ):
        query.append(f"viewport={_viewport(viewport, thumbnail)}")
    if (window := wanted.get("window")) and not thumbnail:
        found = _WINDOW.fullmatch(window)
        if not found or float(found[2]) <= 0:
            raise HTTPException(
                400, "window is centre,width,function; linear, linear-exact or sigmoid"
            )
        query.append(f"window={window.lower()}")
    if (quality := wanted.get("quality")) and not thumbnail:
        if not re.fullmatch(r"[0-9]{1,3}", quality) or not 1 <= int(quality) <= 100:
            raise HTTPException(400, "quality is a number from 1 to 100")
        query.append(f"quality={int(quality)}")
    return "&".join(query).encode()


def _viewport(text: str, thumbnail: bool) -> str:
    numbers = text.split(",")
    if len(numbers) not in ((2,) if thumbnail else (2, 6)):
        raise HTTPException(400, "viewport is width,height, and of a rendered image a region, too")
    if not all(re.fullmatch(r"-?[0-9]{1,6}", number) for number in numbers):
        raise HTTPException(400, "viewport has whole numbers")
    width, height, *region = (int(number) for number in numbers)
    if not (1 <= width <= _LARGEST_SIDE and 1 <= height <= _LARGEST_SIDE):
        raise HTTPException(400, f"the sides of a viewport are from 1 to {_LARGEST_SIDE}")
    if region and (min(region[:2]) < 0 or 0 in region[2:]):
        raise HTTPException(400, "the region of a viewport begins at 0,0 or later and is not empty")
    return ",".join(str(number) for number in (width, height, *region))
