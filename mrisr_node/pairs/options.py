"""What kind of pairs are wanted."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any, Self

from mrisr_node.errors import SettingsError
from mrisr_node.volumes.contrast import CONTRASTS
from mrisr_node.volumes.degradation import SliceProfile

__all__ = ["PLANES", "TABLE", "PairOptions", "Slices"]

PLANES = {"x": "sagittal", "y": "coronal", "z": "axial"}
"""The plane of slices across an axis of RAS."""

_SLICES = re.compile(r"(\d+(?:\.\d+)?)/(\d+(?:\.\d+)?)")
_THICKEST_MM = 20.0


@dataclass(frozen=True)
class Slices:
    """Thick slices: their thickness, and the gap between neighbours."""

    thickness_mm: float
    gap_mm: float

    def __post_init__(self) -> None:
        if not 0 < self.thickness_mm <= _THICKEST_MM or not 0 <= self.gap_mm <= _THICKEST_MM:
            raise SettingsError(
                f"slices: thickness and gap go up to {_THICKEST_MM:g} mm, the gap from 0"
            )

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``thickness/gap`` in mm, such as ``4/0.4``."""
        found = _SLICES.fullmatch(text.strip())
        if found is None:
            raise SettingsError(f"slices: {text!r} is not thickness/gap in mm, such as 4/0.4")
        return cls(float(found[1]), float(found[2]))

    def __str__(self) -> str:
        return f"{self.thickness_mm:g}/{self.gap_mm:g}"

    @property
    def distance_mm(self) -> float:
        """From centre to centre."""
        return self.thickness_mm + self.gap_mm


TABLE = (Slices(3, 0), Slices(4, 0.4), Slices(5, 0.5), Slices(5, 1))
"""Usual clinical protocols."""


@dataclass(frozen=True)
class PairOptions:
    """What is made of each scan.

    Parameters
    ----------
    slices
        The low resolutions; each makes a pair with the high one.
    axis
        x, y or z of RAS: the axis across the slices.
    profile
        Of the slices; its full width at half maximum is the thickness.
    register
        To MNI space; without it a scan stays on its own grid.
    contrast
        Of scans that do not tell theirs: a suffix of BIDS.
    """

    slices: tuple[Slices, ...] = TABLE
    axis: str = "z"
    profile: SliceProfile = SliceProfile.GAUSSIAN
    register: bool = True
    contrast: str | None = None

    def __post_init__(self) -> None:
        if not self.slices or len(set(self.slices)) < len(self.slices):
            raise SettingsError("slices: at least one thickness/gap, and none twice")
        if self.axis not in PLANES:
            raise SettingsError(f"axis: {self.axis!r} is none of {', '.join(PLANES)}")
        if self.contrast is not None and self.contrast not in CONTRASTS:
            raise SettingsError(f"contrast: {self.contrast!r} is none of {', '.join(CONTRASTS)}")

    @property
    def plane(self) -> str:
        """Of the thick slices."""
        return PLANES[self.axis]

    def as_json(self) -> dict[str, Any]:
        """Return them as plain values."""
        return asdict(self) | {"slices": [str(slices) for slices in self.slices]}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Return what `as_json` gave."""
        return cls(
            **values
            | {
                "slices": tuple(Slices.parse(text) for text in values["slices"]),
                "profile": SliceProfile(values["profile"]),
            }
        )
