"""What a client accepts (RFC 9110 12.5.1) against what there is (PS3.18 8.7)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from fastapi import HTTPException

__all__ = ["AS_STORED", "Representation", "representations"]

AS_STORED = "*"
"""The transfer syntax that leaves pixels as they are (PS3.18 8.7.3.5.2)."""

_MOST_RANGES = 50
# Commas and semicolons within quotes separate nothing.
_ELEMENT = re.compile(r'(?:[^,"]|"[^"]*")+')
_PARAMETER = re.compile(r';\s*([A-Za-z-]{1,40})\s*=\s*("[^"]*"|[^;\s"]*)')
_TRANSFER_SYNTAX = re.compile(r"\*|[0-9.]{1,64}")


@dataclass(frozen=True)
class Representation:
    """A form in which a resource can be had.

    Parameters
    ----------
    media_type
        Of the parts, or of the only thing there is.
    multipart
        Whether it comes as ``multipart/related`` (PS3.18 8.6.1.2).
    transfer_syntax
        Empty: the one that the standard takes where none is named.
    """

    media_type: str
    multipart: bool = False
    transfer_syntax: str = ""

    @property
    def accept(self) -> str:
        """The one media range that asks for it."""
        range_ = (
            f'multipart/related; type="{self.media_type}"' if self.multipart else self.media_type
        )
        syntax = self.transfer_syntax
        return f"{range_}; transfer-syntax={syntax}" if syntax else range_


@dataclass(frozen=True)
class _Range:
    media_type: str
    parameters: dict[str, str] = field(default_factory=dict)

    @property
    def quality(self) -> float:
        text = self.parameters.get("q", "1")
        return float(text) if re.fullmatch(r"[01](\.[0-9]{0,3})?", text) else 0.0

    @property
    def specific(self) -> tuple[int, int, bool]:
        """Sorts ranges: the one that names more decides on what it names."""
        inner = self.parameters.get("type", "*/*")
        open_ = -self.media_type.count("*"), -inner.count("*")
        return *open_, "transfer-syntax" in self.parameters

    def takes(self, offer: Representation) -> bool:
        """Tell whether an offer is within the range."""
        if not offer.multipart:
            return fnmatchcase(offer.media_type, self.media_type)
        inner = self.parameters.get("type", "*/*").lower()
        return fnmatchcase("multipart/related", self.media_type) and fnmatchcase(
            offer.media_type, inner
        )


def representations(accept: str, offers: Sequence[Representation]) -> list[Representation]:
    """Return the offers that a client takes, the one that it likes most first.

    Of what it likes as much, the order of its own list decides, then that of `offers`. The transfer
    syntax of pixels is the one that the client names, and the stored one where it leaves that open.

    Raises
    ------
    HTTPException
        400, the list is too long; 406, it takes none of them.
    """
    ranges = _ranges(accept)
    found: list[tuple[float, int, int, Representation]] = []
    for place, offer in enumerate(offers):
        taking = [one for one in ranges if one.takes(offer)]
        if not taking:
            continue
        most = max(one.specific for one in taking)
        for one in taking:
            if one.specific == most and one.quality > 0:
                form = _with_syntax(offer, one)
                found.append((-one.quality, ranges.index(one), place, form))
    if not found:
        kinds = ", ".join(offer.accept for offer in offers)
        raise HTTPException(406, f"this can be had as {kinds}")
    found.sort(key=lambda one: one[:3])
    return list(dict.fromkeys(form for *_, form in found))


def _ranges(accept: str) -> list[_Range]:
    elements = [element.strip() for element in _ELEMENT.findall(accept)]
    if len(elements) > _MOST_RANGES:
        raise HTTPException(400, f"Accept has at most {_MOST_RANGES} media ranges")
    ranges = []
    for element in filter(None, elements):
        found = {k.lower(): v.strip('"') for k, v in _PARAMETER.findall(element)}
        ranges.append(_Range(element.partition(";")[0].strip().lower(), found))
    return ranges or [_Range("*/*")]


def _with_syntax(offer: Representation, range_: _Range) -> Representation:
    if not offer.transfer_syntax:
        return offer
    named = range_.parameters.get("type", "*") if offer.multipart else range_.media_type
    syntax = range_.parameters.get("transfer-syntax", AS_STORED if "*" in named else "")
    if syntax and not _TRANSFER_SYNTAX.fullmatch(syntax):
        raise HTTPException(400, "a transfer syntax is a UID, or *")
    return Representation(offer.media_type, offer.multipart, syntax)
