"""Which numbers a result stores, and how they are to be shown (PS3.3 C.11.1, C.11.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import (
    JPEG2000,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLSNearLossless,
)
from pydicom.valuerep import DSfloat

from mrisr_node.errors import ResultError
from mrisr_node.volumes.acquisition import Acquisition, rescales_of

__all__ = [
    "NORMALISED",
    "Encoding",
    "Window",
    "burned_in",
    "decimal",
    "encoding_by_range",
    "encoding_of",
    "lossy_compression",
    "window_of",
]

# Methods by the syntaxes that lose something (C.7.6.1.1.5.1).
_LOSSY = {
    JPEGBaseline8Bit: "ISO_10918_1",
    JPEGExtended12Bit: "ISO_10918_1",
    JPEGLSNearLossless: "ISO_14495_1",
    JPEG2000: "ISO_15444_1",
}
_LOSSY_KEYWORDS = ("LossyImageCompressionRatio", "LossyImageCompressionMethod")


@dataclass(frozen=True)
class Encoding:
    """How real values become stored pixel values of 16 bits."""

    slope: float
    intercept: float
    signed: bool
    declared: bool
    """Whether the result says so; where not, its stored values are its values."""

    def fits(self, data: NDArray[np.float32]) -> bool:
        """Tell whether all values can be stored with no other loss than rounding."""
        limits = np.iinfo(self._kind)
        ends = np.array([data.min(), data.max()], dtype=np.float64)
        stored = np.rint((ends - self.intercept) / self.slope)
        return bool(((stored >= limits.min) & (stored <= limits.max)).all())

    def encode(self, data: NDArray[np.float32]) -> NDArray[np.integer]:
        """Return stored values.

        Raises
        ------
        ResultError
            They do not fit; nothing is cut off silently.
        """
        if not self.fits(data):
            raise ResultError(
                f"values from {data.min():g} to {data.max():g} do not fit into 16 bits of"
                f" {self.slope:g} each"
            )
        stored = np.rint((data.astype(np.float64) - self.intercept) / self.slope)
        return stored.astype(self._kind)

    @property
    def _kind(self) -> type[np.int16] | type[np.uint16]:
        return np.int16 if self.signed else np.uint16


NORMALISED = Encoding(1 / 1000, 0.0, signed=False, declared=False)
"""Where a result has no intensities of its source: 1000 is the mean of the brain."""


@dataclass(frozen=True)
class Window:
    """Window of a VOI LUT."""

    center: float
    width: float
    function: str = "LINEAR"


def encoding_of(sources: Sequence[Dataset], data: NDArray[np.float32]) -> Encoding:
    """Store values as the source does, so that its numbers stay true; else by a scale of its own.

    Raises
    ------
    ResultError
        Some values are no numbers.
    """
    if not np.isfinite(data).all():
        raise ResultError("some values of the volume are no numbers")
    pairs = {pair for d in sources for pair in rescales_of(d)}
    signed = any(int(d.get("PixelRepresentation") or 0) for d in sources)
    if len(pairs) == 1:
        slope, intercept = pairs.pop()
        declared = (slope, intercept) != (1.0, 0.0)
        for sign in (signed, not signed):
            encoding = Encoding(slope, intercept, sign, declared)
            if encoding.fits(data):
                return encoding
    # Scanners that scale each slice by itself leave no common one; a result needs one.
    return encoding_by_range(data)


def encoding_by_range(data: NDArray[np.float32]) -> Encoding:
    """Store values as finely as 16 bits allow."""
    low, high = float(data.min()), float(data.max())
    steps = np.iinfo(np.uint16).max
    intercept = float(decimal(low))
    # Half a step on each side is left for what the decimal strings round away.
    slope = float(decimal((high - low) / (steps - 1))) if high > low else 1.0
    return Encoding(slope, intercept, signed=False, declared=True)


def window_of(sources: Sequence[Dataset], acquisition: Acquisition) -> Window | None:
    """Return the window of the middle slice, with its function; None where it has none."""
    middle = acquisition.slices[len(acquisition.slices) // 2]
    dataset = next(d for d in sources if str(d.SOPInstanceUID) == middle.sop_instance_uid)
    frames = dataset.get("PerFrameFunctionalGroupsSequence") or []
    shared = dataset.get("SharedFunctionalGroupsSequence") or []
    own = frames[middle.frame - 1 : middle.frame]
    for holder in (*_items([*own, *shared], "FrameVOILUTSequence"), dataset):
        window = _window(holder)
        if window is not None:
            return window
    return None


def _window(holder: Dataset) -> Window | None:
    center, width = (_first(holder.get(k)) for k in ("WindowCenter", "WindowWidth"))
    if center is None or width is None:
        return None
    function = str(holder.get("VOILUTFunction") or "LINEAR")
    # A linear window has a width of 1 at least, the others of more than nothing (C.11.2.1).
    possible = width >= 1 if function == "LINEAR" else width > 0
    finite = np.isfinite([center, width]).all()
    return Window(center, width, function) if possible and finite else None


def _first(value: object) -> float | None:
    """Return the first of what may be several windows."""
    if value is None or value == "":
        return None
    if isinstance(value, int | float | str):
        return float(value)
    values = list(value)  # type: ignore[call-overload]
    return float(values[0]) if values else None


def _items(groups: Sequence[Dataset], name: str) -> list[Dataset]:
    return [item for group in groups for item in group.get(name) or []]


def lossy_compression(sources: Sequence[Dataset]) -> Dataset:
    """Return what a result must say about losses before it: those of any source are its own."""
    said = Dataset()
    lossy = [d for d in sources if d.get("LossyImageCompression") == "01" or _method(d)]
    said.LossyImageCompression = "01" if lossy else "00"
    for keyword in _LOSSY_KEYWORDS:
        holder = next((d for d in lossy if d.get(keyword)), None)
        if holder is not None:
            said[keyword] = holder[keyword]
    method = next((m for d in lossy if (m := _method(d))), None)
    if method and not any(keyword in said for keyword in _LOSSY_KEYWORDS):
        said.LossyImageCompressionMethod = method
    return said


def burned_in(sources: Sequence[Dataset]) -> str:
    """Return BurnedInAnnotation: what is burned into one source is burned into the result."""
    return "YES" if any(d.get("BurnedInAnnotation") == "YES" for d in sources) else "NO"


def _method(dataset: Dataset) -> str | None:
    meta = getattr(dataset, "file_meta", None)
    return _LOSSY.get(meta.get("TransferSyntaxUID")) if meta is not None else None


def decimal(value: float) -> DSfloat:
    """Return a decimal string of at most 16 characters (PS3.5 6.2)."""
    return DSfloat(0.0 if abs(value) < 1e-12 else value, auto_format=True)
