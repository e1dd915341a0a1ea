"""A checkpoint is a folder: ``weights.safetensors``, ``card.json`` and a README for people."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from mrisr_node.errors import CheckpointError, OutOfRange
from mrisr_node.superres.card import CARD, WEIGHTS, Card, described_weights
from mrisr_node.superres.networks import NETWORKS, build_network

__all__ = ["WEIGHTS", "Card", "Checkpoint", "choose", "fitted", "installed", "save_checkpoint"]


def save_checkpoint(folder: Path, weights: Mapping[str, Tensor], card: Card) -> Card:
    """Write weights and card; the card is returned with the weights' digest in it."""
    folder.mkdir(parents=True, exist_ok=True)
    content = save({name: tensor.contiguous().cpu() for name, tensor in weights.items()})
    (folder / WEIGHTS).write_bytes(content)
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
        card, content = described_weights(folder)
        try:
            weights = load(content)
        except SafetensorError as error:
            raise CheckpointError(f"{folder.name}: {WEIGHTS} is damaged: {error}") from error
        except Exception as error:  # kinds of numbers and shapes that torch does not have
            raise CheckpointError(
                f"{folder.name}: {WEIGHTS} cannot be used: {type(error).__name__}: {error}"
            ) from error
        return cls(card, fitted(card, weights))


def fitted(card: Card, weights: Mapping[str, Tensor]) -> nn.Module:
    """Return the card's network with these weights, in evaluation mode, without gradients.

    Raises
    ------
    CheckpointError
        The registry has no such network, its arguments are wrong, or tensors differ from what it
        needs; the first few are named.
    """
    if card.network not in NETWORKS:
        raise CheckpointError(
            f"{card.name}: network: {card.network!r} is none of {', '.join(NETWORKS)}"
        )
    try:
        network = build_network(card.network, card.arguments)
    except Exception as error:  # networks of other packages raise anything
        raise CheckpointError(
            f"{card.name}: arguments: the network {card.network!r} cannot be built: {error}"
        ) from error
    odd = _differences(network.state_dict(), weights)
    if odd:
        more = f"; and {len(odd) - 5} more" if len(odd) > 5 else ""
        raise CheckpointError(
            f"{card.name}: the weights do not fit the network {card.network!r}: "
            + "; ".join(odd[:5])
            + more
        )
    network.load_state_dict(weights)
    return network.eval().requires_grad_(False)


def _differences(needed: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> list[str]:
    lines = [f"{name} is missing" for name in needed if name not in found]
    lines += [f"{name} is not in the network" for name in found if name not in needed]
    lines += [
        f"{name} holds no plain numbers of its kind"
        for name, tensor in found.items()
        if tensor.is_meta
        or tensor.layout is not torch.strided
        or (name in needed and tensor.is_floating_point() != needed[name].is_floating_point())
    ]
    for name in needed:
        if name in found and needed[name].shape != found[name].shape:
            lines.append(
                f"{name} has shape {tuple(found[name].shape)}, not {tuple(needed[name].shape)}"
            )
    return lines


def installed(root: Path) -> list[Path]:
    """Return the checkpoint folders below ``root``, by name."""
    return sorted(path.parent for path in root.glob(f"[!.]*/{CARD}"))


def choose(
    folders: Sequence[Path],
    *,
    distance_mm: float,
    thickness_mm: float,
    pixel_mm: tuple[float, float],
    contrast: str | None = None,
) -> Path:
    """Return the first checkpoint whose card admits a series.

    It depends on the cards and on the series alone, so that asking again gives the same answer.

    Parameters
    ----------
    folders
        Checkpoints in order of preference.
    distance_mm, thickness_mm, pixel_mm
        Of the series.
    contrast
        Of the series; None, where it is not known, refuses nothing.

    Raises
    ------
    OutOfRange
        None admits it; says why not, one by one.
    CheckpointError
        A card that was asked cannot be used.
    """
    reasons = []
    for folder in folders:
        try:
            Card.load(folder / CARD).check_range(
                distance_mm=distance_mm,
                thickness_mm=thickness_mm,
                pixel_mm=pixel_mm,
                contrast=contrast,
            )
        except OutOfRange as reason:
            reasons.append(str(reason))
        else:
            return folder
    raise OutOfRange("; ".join(reasons) or "no checkpoint is in use")
