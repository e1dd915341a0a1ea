"""What a checkpoint says about itself: its fields, their schema, and what they admit."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError

from mrisr_node.errors import CheckpointError, OutOfRange
from mrisr_node.volumes.contrast import CONTRASTS

__all__ = ["CARD", "INTENSITY", "WEIGHTS", "Card", "card_schema", "described_weights"]

CARD = "card.json"
"""Its file in the folder of a checkpoint."""

WEIGHTS = "weights.safetensors"
"""What it describes, in the same folder."""

INTENSITY: Final = "divided by the mean intensity inside the brain"
"""What every network sees. One that was trained on anything else cannot be used."""


def _rising(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] >= pair[1]:
        raise ValueError("the first number must be below the second")
    return pair


def _licensed(entry: dict[str, str]) -> dict[str, str]:
    if not entry.get("name") or not entry.get("licence"):
        raise ValueError("data need a name and a licence")
    return entry


# A name is a folder's name, so never a path. With 40 digits of the digest it fits into DICOM's
# SoftwareVersions (64 characters).
_Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=23)]
_Words = Annotated[str, Field(min_length=1, max_length=200)]
_Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
_Contrast = Annotated[str, Field(pattern=f"^({'|'.join(CONTRASTS)})$")]
_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Range = Annotated[tuple[_Positive, _Positive], AfterValidator(_rising)]
_Data = Annotated[
    dict[str, str],
    AfterValidator(_licensed),
    Field(json_schema_extra={"required": ["name", "licence"]}),
]


@dataclass(frozen=True)
class Card:
    """What a checkpoint says about itself, as it stands in ``card.json``.

    Checked whenever it is read or written, not when it is built.

    Parameters
    ----------
    name, version
        Of the checkpoint.
    description
        One sentence for people.
    network, arguments
        A name of the registry in ``networks`` and its arguments; never an import path.
    weights_sha256
        Of ``weights.safetensors``, hexadecimal.
    contrasts
        Kinds of image it was trained for: T1w, T2w, FLAIR, PDw.
    unmeasured
        Those of them that no image was of, in training or in the scores; each result of such a
        series says so.
    distance_mm, thickness_ratio, in_plane_mm
        Ranges of slice distance, of thickness over distance, and of the in-plane pixel size.
    patch
        What inference runs at once: windows of at most patch² × 32 voxels, or cubes of this side
        for networks on the interpolated grid.
    intensity
        How intensities are scaled before the network sees them: always ``INTENSITY``.
    data
        Training data: name, licence and use of each.
    training
        How it was trained: configuration, steps, samples.
    scores
        Measured by ``mrisr-node evaluate``, with the command.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)

    name: _Name
    version: Annotated[str, Field(min_length=1, max_length=16)]
    description: str
    network: _Words
    arguments: dict[str, int]
    weights_sha256: _Digest
    contrasts: Annotated[tuple[_Contrast, ...], Field(min_length=1)]
    distance_mm: _Range
    thickness_ratio: _Range
    in_plane_mm: _Range
    patch: Annotated[int, Field(gt=32)]  # less is mostly what windows share with their neighbours
    intensity: Literal["divided by the mean intensity inside the brain"]
    data: tuple[_Data, ...]
    training: dict[str, Any] = field(default_factory=dict)
    scores: tuple[dict[str, Any], ...] = ()
    unmeasured: tuple[_Contrast, ...] = ()

    @classmethod
    def load(cls, path: Path) -> Card:
        """Read ``card.json``; CheckpointError names the field that does not fit."""
        try:
            content = path.read_bytes()
        except OSError as error:
            raise CheckpointError(
                f"{path.parent.name}: {CARD} cannot be read: {error.strerror}"
            ) from error
        return cls.parse(content, path.parent.name)

    @classmethod
    def parse(cls, text: str | bytes, checkpoint: str) -> Card:
        """Return the card that a JSON text holds.

        Parameters
        ----------
        text
            As it stands in ``card.json``.
        checkpoint
            Whose card it is, for the message.

        Raises
        ------
        CheckpointError
            A field is missing, unknown or wrong; all of them are named.
        """
        try:
            return _CARDS.validate_json(text)
        except ValidationError as error:
            reasons = "; ".join(
                ": ".join(filter(None, (".".join(map(str, e["loc"])), e["msg"])))
                for e in error.errors()
            )
            raise CheckpointError(f"{checkpoint}: {CARD} cannot be used: {reasons}") from error

    def text(self) -> str:
        """Return what ``card.json`` holds; CheckpointError where it could not be read again."""
        text = json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False) + "\n"
        self.parse(text, self.name)
        return text

    def save(self, folder: Path) -> None:
        """Write ``card.json``; nothing is written where it could not be read again."""
        (folder / CARD).write_text(self.text(), encoding="utf-8")

    def check_range(
        self,
        *,
        distance_mm: float,
        thickness_mm: float,
        pixel_mm: tuple[float, float],
        contrast: str | None = None,
    ) -> None:
        """Refuse a series that is unlike anything the checkpoint was trained for.

        Parameters
        ----------
        distance_mm, thickness_mm, pixel_mm
            Slice distance, slice thickness, and size of a pixel along columns and rows.
        contrast
            None, where it is not known, refuses nothing.

        Raises
        ------
        OutOfRange
            With a reason that can be shown to a radiographer.
        """
        measures = (
            ("the slices are {:.1f} mm apart", distance_mm, self.distance_mm, "mm"),
            (
                "the slice thickness is {:.2f} times the slice distance",
                thickness_mm / distance_mm,
                self.thickness_ratio,
                "times",
            ),
            *(("the pixels measure {:.2f} mm", p, self.in_plane_mm, "mm") for p in pixel_mm),
        )
        for words, value, (low, high), unit in measures:
            if not low * 0.99 <= value <= high * 1.01:  # a percent for rounded header values
                raise OutOfRange(
                    f"{words.format(value)}, and checkpoint {self.name} is made for "
                    f"{low:g} to {high:g} {unit}"
                )
        if contrast is not None and contrast not in self.contrasts:
            raise OutOfRange(
                f"the image is {contrast}, and checkpoint {self.name} is made for "
                f"{', '.join(self.contrasts)}"
            )

    @property
    def range(self) -> str:
        """What it is made for, in words."""
        distance, ratio, pixels = self.distance_mm, self.thickness_ratio, self.in_plane_mm
        return (
            f"slices {distance[0]:g} to {distance[1]:g} mm apart and {ratio[0]:g} to {ratio[1]:g}"
            f" times as thick, pixels of {pixels[0]:g} to {pixels[1]:g} mm,"
            f" {', '.join(self.contrasts)}"
        )

    @property
    def headline(self) -> str:
        """The first measured score, by its gain over cubic interpolation; empty without one."""
        for score in self.scores:
            try:
                methods = score["methods"]
                gain = methods["ours"]["psnr_db"] - methods["cubic"]["psnr_db"]
                return (
                    f"{gain:+.2f} dB over cubic at {score['thickness_mm']:g}/{score['gap_mm']:g} mm"
                )
            except (KeyError, TypeError, ValueError):
                continue
        return ""


_CARDS = TypeAdapter(Card)


def described_weights(folder: Path) -> tuple[Card, bytes]:
    """Read a checkpoint's card and the weights that it describes.

    Raises
    ------
    CheckpointError
        One of them cannot be read, or the weights are not the card's.
    """
    card = Card.load(folder / CARD)
    try:
        content = (folder / WEIGHTS).read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"{folder.name}: {WEIGHTS} cannot be read: {error.strerror}"
        ) from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != card.weights_sha256:
        raise CheckpointError(
            f"{folder.name}: {WEIGHTS} is not the file that its card describes "
            f"(sha256 {digest[:12]}… instead of {card.weights_sha256[:12]}…); "
            "install the checkpoint again"
        )
    return card, content


def card_schema() -> dict[str, Any]:
    """Return the JSON Schema of ``card.json``, kept in ``checkpoints/card.schema.json``."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **_CARDS.json_schema(),
    }
