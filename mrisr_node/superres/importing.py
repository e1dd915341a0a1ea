"""Install weights that PyTorch has saved (``.pth``), without running code that is in them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pickle
import re
import tempfile
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mrisr_node.errors import CheckpointError
from mrisr_node.superres.acceptance import verify
from mrisr_node.superres.card import INTENSITY, Card
from mrisr_node.superres.checkpoints import Checkpoint, fitted, save_checkpoint

__all__ = ["card_from", "import_checkpoint", "read_pth"]

_USUAL = {
    "version": "1",
    "description": "",
    "arguments": {},
    "thickness_ratio": (0.6, 1.1),
    "in_plane_mm": (0.4, 1.3),
    "patch": 96,
    "intensity": INTENSITY,
    "data": (),
    "weights_sha256": "0" * 64,  # until the weights are written
}


def card_from(name: str, file: Path | None = None, **fields: Any) -> Card:  # noqa: ANN401
    """Return a card for weights that have none.

    Parameters
    ----------
    name
        Of the checkpoint: letters, digits, dots, dashes and underscores.
    file
        Fields as a TOML or JSON file.
    fields
        Fields by name, stronger than the file; None is passed over.

    Raises
    ------
    CheckpointError
        The file cannot be read, or a field is missing, unknown or wrong.
    """
    try:
        table: Any = {}
        if file is not None:
            text = file.read_text(encoding="utf-8")
            table = tomllib.loads(text) if file.suffix == ".toml" else json.loads(text)
        given = {field: value for field, value in fields.items() if value is not None}
        values = {**_USUAL, **table, **given, "name": name}
        return Card.parse(json.dumps(values, default=str), name)
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{file}: the card cannot be read: {error}") from error


def read_pth(path: Path) -> dict[str, Tensor]:
    """Return the weights of a ``.pth`` file: a state dict, or one under ``model_state_dict``.

    Only tensors and plain values are unpickled (``weights_only``), so no code of the file runs. The
    prefix ``module.`` that DataParallel puts before every name is taken off.

    Raises
    ------
    CheckpointError
        The file is damaged, holds anything else, or no weights.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        wanted = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise CheckpointError(
            f"{path.name}: refused, for it is no file of weights, or holds pickled code besides"
            f"{f' ({wanted[1]})' if wanted else ''}; nothing of it was run"
        ) from error
    except Exception as error:  # whatever a damaged archive makes torch raise
        words = str(error).partition("\n")[0]
        raise CheckpointError(f"{path.name}: cannot be read as a .pth file: {words}") from error
    if isinstance(content, Mapping):
        content = content.get("model_state_dict", content)
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(f"{path.name}: there are no weights in it")
    odd = [str(name) for name, value in content.items() if not isinstance(value, Tensor)]
    if odd:
        raise CheckpointError(
            f"{path.name}: it is no state dict, nor has it one under model_state_dict;"
            f" no tensors are {', '.join(odd[:5])}"
        )
    weights = {str(name): tensor for name, tensor in content.items()}
    if all(name.startswith("module.") for name in weights):
        weights = {name.removeprefix("module."): tensor for name, tensor in weights.items()}
    return weights


def import_checkpoint(path: Path, root: Path, card: Card) -> Checkpoint:
    """Convert a ``.pth`` file to a checkpoint folder below ``root``, named as its card says.

    The folder appears whole and verified, or not at all.

    Raises
    ------
    CheckpointError
        It exists already, the file is refused, or its weights do not fit the card's network.
    """
    card.text()  # a name that is no path, before it becomes one
    target = root / card.name
    if target.exists():
        raise CheckpointError(f"{card.name} is installed already; choose another name")
    network = fitted(card, read_pth(path))
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    origin = {"imported_from": path.name, "imported_sha256": digest}
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".import-", dir=root) as place:
        folder = Path(place) / card.name
        card = dataclasses.replace(card, training=card.training | origin)
        save_checkpoint(folder, network.state_dict(), card)
        checkpoint = verify(folder)
        folder.rename(target)
    return checkpoint
