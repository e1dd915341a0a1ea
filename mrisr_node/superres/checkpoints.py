"""A checkpoint is a folder: ``weights.safetensors``, ``card.json`` and a README for people."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from mrisr_node.errors import CheckpointError, OutOfRange
from mrisr_node.superres.networks import build_network

__all__ = ["Card", "Checkpoint", "save_checkpoint"]

_CARD = "card.json"
_WEIGHTS = "weights.safetensors"


@dataclass(frozen=True)
class Card:
    """What a checkpoint says about itself, as it stands in ``card.json``.

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
        Kinds of image it was trained for.
    distance_mm, thickness_ratio, in_plane_mm
        Ranges of slice distance, of thickness over distance, and of the in-plane pixel size.
    patch
        Largest in-plane tile (pixels) that inference runs at once.
    intensity
        How intensities are scaled before the network sees them.
    data
        Training data: name, licence and use of each.
    training
        How it was trained: configuration, steps, samples.
    scores
        Measured by ``mrisr-node evaluate``, with the command.
    """

    name: str
    version: str
    description: str
    network: str
    arguments: dict[str, int]
    weights_sha256: str
    contrasts: tuple[str, ...]
    distance_mm: tuple[float, float]
    thickness_ratio: tuple[float, float]
    in_plane_mm: tuple[float, float]
    patch: int
    intensity: str
    data: tuple[dict[str, str], ...]
    training: dict[str, Any] = field(default_factory=dict)
    scores: tuple[dict[str, Any], ...] = ()

    @classmethod
    def load(cls, path: Path) -> Card:
        """Read ``card.json``; CheckpointError says what does not fit."""
        try:
            table = json.loads(path.read_text(encoding="utf-8"))
            values: dict[str, Any] = {
                name: tuple(value) if isinstance(value, list) else value
                for name, value in table.items()
            }
            card = cls(**values)
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{path.parent.name}: {_CARD} cannot be used: {error}") from error
        for name in ("distance_mm", "thickness_ratio", "in_plane_mm"):
            if len(getattr(card, name)) != 2:
                raise CheckpointError(f"{path.parent.name}: {_CARD}: {name} must be a pair")
        return card

    def save(self, folder: Path) -> None:
        """Write ``card.json``."""
        text = json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False)
        (folder / _CARD).write_text(text + "\n", encoding="utf-8")


def save_checkpoint(folder: Path, weights: Mapping[str, Tensor], card: Card) -> Card:
    """Write weights and card; the card is returned with the weights' digest in it."""
    folder.mkdir(parents=True, exist_ok=True)
    content = save({name: tensor.contiguous().cpu() for name, tensor in weights.items()})
    (folder / _WEIGHTS).write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    card = dataclasses.replace(card, weights_sha256=digest)
    card.save(folder)
    return card


@dataclass(frozen=True)
class Checkpoint:
    """A network with its verified weights, ready to run on the CPU.

    Parameters
    ----------
    card
        What it says about itself.
    network
        In evaluation mode, without gradients.
    """

    card: Card
    network: nn.Module

    @property
    def digest(self) -> str:
        """SHA-256 of the weights, hexadecimal: part of every result's identity."""
        return self.card.weights_sha256

    @classmethod
    def load(cls, folder: Path) -> Checkpoint:
        """Load and verify a checkpoint folder.

        Raises
        ------
        CheckpointError
            If a file is missing or damaged, or the weights are not the card's or do not fit.
        """
        card = Card.load(folder / _CARD)
        path = folder / _WEIGHTS
        try:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise CheckpointError(f"{folder.name}: {_WEIGHTS} cannot be read: {error}") from error
        if digest != card.weights_sha256:
            raise CheckpointError(
                f"{folder.name}: {_WEIGHTS} is not the file that its card describes "
                f"(sha256 {digest[:12]}… instead of {card.weights_sha256[:12]}…); "
                "install the checkpoint again"
            )
        try:
            network = build_network(card.network, card.arguments)
            network.load_state_dict(load_file(path))
        except (KeyError, TypeError, RuntimeError, SafetensorError) as error:
            raise CheckpointError(
                f"{folder.name}: the weights do not fit the network {card.network!r}: {error}"
            ) from error
        return cls(card, network.eval().requires_grad_(False))

    def check_range(
        self,
        *,
        distance_mm: float,
        thickness_mm: float,
        in_plane_mm: float,
        contrast: str | None = None,
    ) -> None:
        """Refuse a series that is unlike anything the checkpoint was trained for.

        Raises
        ------
        OutOfRange
            With a reason that can be shown to a radiographer.
        """
        card = self.card
        measures = (
            ("the slices are {:.1f} mm apart", distance_mm, card.distance_mm, "mm"),
            (
                "the slice thickness is {:.2f} times the slice distance",
                thickness_mm / distance_mm,
                card.thickness_ratio,
                "times",
            ),
            ("the pixels measure {:.2f} mm", in_plane_mm, card.in_plane_mm, "mm"),
        )
        for words, value, (low, high), unit in measures:
            if not low * 0.99 <= value <= high * 1.01:  # a percent for rounded header values
                raise OutOfRange(
                    f"{words.format(value)}; checkpoint {card.name} is made for "
                    f"{low:g} to {high:g} {unit}"
                )
        if contrast is not None and contrast not in card.contrasts:
            raise OutOfRange(
                f"the image is {contrast}; checkpoint {card.name} is made for "
                f"{', '.join(card.contrasts)}"
            )
