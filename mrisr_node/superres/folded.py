"""Run a network that refines the linear estimate on the small grid of the acquisition."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import groupby

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from mrisr_node.superres.operators import SUB_SLICES
from mrisr_node.superres.restoration import TorchOperators, fold, restore
from mrisr_node.superres.tiles import Tile, divide, head_box, reach
from mrisr_node.volumes.geometry import FloatArray

__all__ = ["restore_folded"]

_ROWS = 16  # image rows whose linear estimate is made at once


@contextmanager
def _counted(network: nn.Module, runs: int, progress: Callable[[float], None]) -> Iterator[None]:
    """Report the share of convolutions done, of as many runs of a network as stated."""
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv3d)]
    done = 0

    def count(*_: object) -> None:
        nonlocal done
        done += 1
        progress(min(1.0, done / max(1, runs * len(layers))))

    hooks = [layer.register_forward_hook(count) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _even(folded: Tensor) -> Tensor:
    """Repeat the last pixels where a size is odd, for networks that fold pairs of pixels."""
    x, y = folded.shape[-3:-1]
    return functional.pad(folded, (0, 0, 0, y % 2, 0, x % 2), mode="replicate")


def restore_folded(
    thick: Tensor,
    operators: TorchOperators,
    network: nn.Module,
    geometry: Tensor,
    *,
    tile_voxels: int,
    bfloat16: bool,
    progress: Callable[[float], None],
) -> FloatArray:
    """Return thin slices, (x, y, m), for thick ones.

    Air gets the linear estimate; the network runs on the rest, tile by tile. Besides ``thick`` and
    the result, memory is needed for one tile, and for one column of tiles along the slice axis.

    Parameters
    ----------
    thick
        Acquired slices over the intensity scale, (x, y, n), on the CPU.
    operators
        Matrices of this geometry, on the device where the network shall run.
    network
        Returns an update of (1, SUB_SLICES, x, y, n); on the same device.
    geometry
        What it is told, (1, CONDITIONS), on the same device.
    tile_voxels
        Largest window that it sees at once.
    bfloat16
        Whether it computes in bfloat16; everything else is float32.
    progress
        Called with the share done.
    """
    device = geometry.device
    thin = np.empty((*thick.shape[:2], operators.restore.shape[1]), dtype=np.float32)
    for start in range(0, thick.shape[0], _ROWS):
        rows = slice(start, start + _ROWS)
        thin[rows] = restore(thick[None, rows].to(device), None, operators)[0].cpu().numpy()
    box = head_box(thick)
    if box is None:
        return thin
    tiles = divide(box, reach(network, geometry), tile_voxels)

    def update(tile: Tile) -> Tensor:
        x, y, n = tile.window
        folded = _even(fold(thick[None, x, y].to(device), operators)[..., n])
        folded = folded.contiguous(memory_format=torch.channels_last_3d)
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            found: Tensor = network(folded, geometry)
        return found[(..., *tile.inner)]

    with _counted(network, len(tiles), progress):
        for (x, y), parts in groupby(tiles, key=lambda tile: tile.core[:2]):
            column = thick[None, x, y].to(device)
            found = torch.zeros(1, SUB_SLICES, *column.shape[1:], device=device)
            for tile in parts:
                found[..., tile.core[2]] = update(tile)
            thin[x, y] = restore(column, found, operators)[0].cpu().numpy()
    return thin
