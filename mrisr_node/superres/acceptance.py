"""Is a checkpoint fit for use? Asked of what is imported, and of what is installed."""

from __future__ import annotations

from math import sqrt
from pathlib import Path

import numpy as np
import torch

from mrisr_node.errors import CheckpointError
from mrisr_node.superres.checkpoints import Checkpoint
from mrisr_node.superres.inference import super_resolve
from mrisr_node.volumes.geometry import Volume

__all__ = ["verify"]

_SHAPE = (32, 32, 6)


def verify(folder: Path) -> Checkpoint:
    """Load a checkpoint and super-resolve a few noisy voxels with it.

    Raises
    ------
    CheckpointError
        The card does not keep to its schema, the weights are not the card's or do not fit its
        network, or what comes out are no numbers.
    """
    checkpoint = Checkpoint.load(folder)
    for name, tensor in checkpoint.network.state_dict().items():
        if not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{folder.name}: {name} holds values that are no numbers")
    card = checkpoint.card
    distance, ratio, in_plane = (
        sqrt(low * high) for low, high in (card.distance_mm, card.thickness_ratio, card.in_plane_mm)
    )
    noise = np.random.default_rng(0).uniform(0.5, 1.5, _SHAPE).astype(np.float32)
    try:
        with np.errstate(all="ignore"):
            result = super_resolve(
                Volume(noise, np.diag([in_plane, in_plane, distance, 1.0])),
                slice_axis=2,
                thickness_mm=ratio * distance,
                intensity_scale=1.0,
                checkpoint=checkpoint,
                device=torch.device("cpu"),
            )
    except Exception as error:  # networks of other packages raise anything
        raise CheckpointError(f"{folder.name}: the network does not run: {error}") from error
    if not np.isfinite(result.volume.data).all():
        raise CheckpointError(f"{folder.name}: the network's results are no numbers")
    return checkpoint
