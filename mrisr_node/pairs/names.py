"""Names of files by the entities of BIDS; nothing of a source's own name is ever in them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

from mrisr_node.pairs.options import PairOptions, Slices

__all__ = ["Names", "resolution_of"]

# BIDS's identifier of the template that registration goes to.
_SPACE = "MNI152NLin2009aSym"
_HIGH = "hr"


def resolution_of(slices: Slices | None, options: PairOptions) -> str:
    """Return the ``res`` entity: ``hr``, or such as ``axial4gap0p4``. Labels have no point."""
    if slices is None:
        return _HIGH
    thickness, gap = (f"{v:g}".replace(".", "p") for v in (slices.thickness_mm, slices.gap_mm))
    return f"{options.plane}{thickness}gap{gap}"


@dataclass(frozen=True)
class Names:
    """What the files of one scan are called, without their endings.

    Parameters
    ----------
    subject
        Label of ``sub``.
    run
        Which scan of that contrast of the subject, from 1.
    contrast
        The suffix.
    options
        What is made.
    """

    subject: str
    run: int
    contrast: str
    options: PairOptions

    @property
    def space(self) -> str | None:
        """The template, or None for the scan's own space."""
        return _SPACE if self.options.register else None

    @property
    def high(self) -> str:
        """The high resolution."""
        return self._path(None, "preproc", self.contrast)

    @property
    def mask(self) -> str:
        """The brain, on its grid."""
        # Without the contrast, two scans of a subject would share it.
        return self._path(None, f"brain{self.contrast}", "mask")

    def low(self, slices: Slices) -> str:
        """Return a low resolution."""
        return self._path(slices, "simulated", self.contrast)

    def figure(self, slices: Slices) -> str:
        """Return the picture of a pair."""
        return f"figures/{PurePosixPath(self.low(slices)).name}"

    def _path(self, slices: Slices | None, description: str, suffix: str) -> str:
        entities = [f"sub-{self.subject}"]
        entities += [f"run-{self.run}"] if self.run > 1 else []
        entities += [f"space-{self.space}"] if self.space else []
        entities += [f"res-{resolution_of(slices, self.options)}", f"desc-{description}", suffix]
        return f"sub-{self.subject}/anat/{'_'.join(entities)}"
