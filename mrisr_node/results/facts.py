"""What is known of a result, in figures: for its report, its private attributes and its page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pydicom.dataset import Dataset

__all__ = [
    "PRIVATE_CREATOR",
    "PRIVATE_ELEMENTS",
    "PRIVATE_GROUP",
    "Facts",
    "Predecessor",
    "PrivateElement",
    "Residuals",
    "write_private",
]


@dataclass(frozen=True)
class Residuals:
    """How far something, degraded again, departs from the acquired slices inside the brain.

    Parameters
    ----------
    median, p99
        Median and 99th percentile of the magnitude, in the source's intensities.
    relative_median, relative_p99
        The same over the mean of the brain.
    """

    median: float
    p99: float
    relative_median: float
    relative_p99: float


@dataclass(frozen=True)
class Predecessor:
    """The earlier result of a series that a later one takes the place of.

    Parameters
    ----------
    series_instance_uid
        Of its thin slices.
    report_series_uid, report_instance_uid
        Of its report; None where it has none.
    """

    series_instance_uid: str
    report_series_uid: str | None = None
    report_instance_uid: str | None = None


@dataclass(frozen=True)
class Facts:
    """What is known of a result.

    Parameters
    ----------
    acquired_spacing_mm, acquired_thickness_mm
        Distance and thickness of the acquired slices.
    spacing_mm
        Distance of the thin slices.
    profile
        The slice profile that was assumed, in words.
    residuals, interpolated
        Of the result, and of cubic interpolation in its place.
    within_range
        Whether the input was like what the checkpoint was trained for; None: its contrast is not
        told.
    range
        That range, in words.
    contrast
        Seen in the source: ``T1w``, ``T2w``, ``FLAIR``, ``PDw``, ``T2starw``; None: not told.
    field_strength
        MagneticFieldStrength in tesla; None: not told.
    brain_method, precision, device
        What computed it.
    seconds
        By stage.
    remarks
        What else a reader has to know.
    predecessor
        The result that this one takes the place of.
    """

    acquired_spacing_mm: float
    acquired_thickness_mm: float
    spacing_mm: float
    profile: str
    residuals: Residuals
    interpolated: Residuals
    within_range: bool | None
    range: str
    contrast: str | None = None
    field_strength: float | None = None
    brain_method: str = ""
    precision: str = ""
    device: str = ""
    seconds: Mapping[str, float] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    predecessor: Predecessor | None = None


PRIVATE_CREATOR = "MRISR_NODE 1"
PRIVATE_GROUP = 0x0071
_YES_NO = {True: "YES", False: "NO", None: "UNKNOWN"}


@dataclass(frozen=True)
class PrivateElement:
    """One private data element of ours (PS3.5 7.8), in group 0071."""

    element: int
    vr: str
    name: str
    meaning: str


PRIVATE_ELEMENTS = (
    PrivateElement(0x01, "LO", "Recipe", "native or mni"),
    PrivateElement(0x02, "LO", "Checkpoint", "its name"),
    PrivateElement(0x03, "LO", "Checkpoint Digest", "SHA-256 of its weights"),
    PrivateElement(0x04, "LO", "Slice Profile", "that was assumed"),
    PrivateElement(0x05, "FD", "Acquired Spacing", "mm between acquired slices"),
    PrivateElement(0x06, "FD", "Acquired Thickness", "mm"),
    PrivateElement(0x07, "FD", "Spacing", "mm between thin slices"),
    PrivateElement(0x08, "FD", "Residual Median", "inside the brain, in the source's intensities"),
    PrivateElement(0x09, "FD", "Residual P99", "99th percentile of the same"),
    PrivateElement(0x0A, "FD", "Relative Residual Median", "over the mean of the brain"),
    PrivateElement(0x0B, "FD", "Relative Residual P99", "99th percentile of the same"),
    PrivateElement(0x0C, "FD", "Interpolated Relative Median", "of cubic interpolation instead"),
    PrivateElement(0x0D, "FD", "Interpolated Relative P99", "99th percentile of the same"),
    PrivateElement(0x0E, "CS", "Within Range", "YES, NO, or UNKNOWN: contrast not told"),
    PrivateElement(0x0F, "LO", "Brain Method", "what found the brain"),
    PrivateElement(0x10, "LO", "Precision", "float32, tf32 or bfloat16"),
    PrivateElement(0x11, "UI", "Predecessor Series", "the result that this one takes the place of"),
)


def write_private(ds: Dataset, facts: Facts, recipe: str, checkpoint: str, digest: str) -> None:
    """Write what is known into a dataset, for programs."""
    block = ds.private_block(PRIVATE_GROUP, PRIVATE_CREATOR, create=True)
    own, other = facts.residuals, facts.interpolated
    values = (
        recipe,
        checkpoint[:64],
        digest,
        facts.profile[:64],
        facts.acquired_spacing_mm,
        facts.acquired_thickness_mm,
        facts.spacing_mm,
        own.median,
        own.p99,
        own.relative_median,
        own.relative_p99,
        other.relative_median,
        other.relative_p99,
        _YES_NO[facts.within_range],
        facts.brain_method[:64],
        facts.precision,
        facts.predecessor.series_instance_uid if facts.predecessor else None,
    )
    for element, value in zip(PRIVATE_ELEMENTS, values, strict=True):
        if value is not None:
            block.add_new(element.element, element.vr, value)
