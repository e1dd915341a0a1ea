"""Which parts of a volume a network runs on: not the air, and as much at once as memory allows.

A tile is a core, which is kept, in a window that reaches beyond it as far as the network looks. So
each voxel of a core is computed from the same neighbours as without tiles, and nothing is blended.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from math import ceil, prod

import torch
from torch import Tensor, nn
from torch.nn import functional

from mrisr_node.superres.operators import SUB_SLICES

__all__ = ["Box", "Tile", "divide", "head_box", "reach"]

Box = tuple[slice, slice, slice]
"""A part of a volume, (x, y, slices)."""

_AIR = 0.1  # of the intensity scale: whatever is darker on average over a cell is air
_CELL = 4  # pixels: so small that no skin is averaged away, so large that noise is
_MARGIN = 2  # cells of air that are kept around the head, and slices
_SMALLEST = 8  # pixels or slices of a core
_STEP = (2, 2, 1)  # windows start at even pixels: networks may fold pairs of pixels into channels


@dataclass(frozen=True)
class Tile:
    """What a network sees at once, and what is kept of its output.

    Parameters
    ----------
    window
        The part of the volume that is put into the network.
    core
        The part that is kept; the cores of all tiles share no voxel and leave out none.
    """

    window: Box
    core: Box

    @property
    def inner(self) -> Box:
        """The core's place in the window."""
        x, y, n = (
            slice(core.start - window.start, core.stop - window.start)
            for core, window in zip(self.core, self.window, strict=True)
        )
        return x, y, n


def head_box(thick: Tensor) -> Box | None:
    """Return the box of what is not air, with a margin; None if all is air.

    ``thick``, (x, y, n), is in units of the intensity scale.
    """
    cells = functional.avg_pool3d(thick[None], (_CELL, _CELL, 1), ceil_mode=True)[0]
    bright = cells > _AIR
    bounds = []
    for axis, scale in enumerate((_CELL, _CELL, 1)):
        found = bright.any(dim=(axis + 1) % 3, keepdim=True).any(dim=(axis + 2) % 3, keepdim=True)
        places = found.flatten().nonzero()
        if len(places) == 0:
            return None
        first, last = int(places[0]) - _MARGIN, int(places[-1]) + 1 + _MARGIN
        bounds.append(slice(max(0, first * scale), min(thick.shape[axis], last * scale)))
    return bounds[0], bounds[1], bounds[2]


def reach(network: nn.Module, geometry: Tensor) -> tuple[int, int, int]:
    """Return how far away (x, y, slices) an input can change a network's output.

    Measured, for any network: a value that is no number spoils all that depends on it.

    Parameters
    ----------
    network
        Takes (1, SUB_SLICES, x, y, n) and ``geometry``, and returns the same shape.
    geometry
        Shape (1, CONDITIONS).

    Raises
    ------
    ValueError
        If it looks too far for tiles, or spoils even what is spotless.
    """
    blank = torch.zeros(1, SUB_SLICES, 2, 2, 2, device=geometry.device)
    if not bool(network(blank, geometry).isfinite().all()):
        raise ValueError("the network's results are no numbers")
    found = []
    for axis in range(3):
        for length in (64, 256):
            shape = [2, 2, 1]
            shape[axis] = length
            probe = torch.zeros(1, SUB_SLICES, *shape, device=geometry.device)
            probe.select(axis + 2, length // 2).fill_(torch.nan)
            spoilt = network(probe, geometry).isnan().any(1)[0].movedim(axis, 0).flatten(1).any(1)
            places = spoilt.nonzero()
            first, last = int(places[0]), int(places[-1])
            if first > 0 and last < length - 1:
                found.append(max(length // 2 - first, last - length // 2))
                break
        else:
            raise ValueError("the network looks too far for tiles")
    return found[0], found[1], found[2]


def _parts(bounds: slice, count: int, halo: int, step: int) -> list[tuple[slice, slice]]:
    """Divide an axis into cores of equal length, each in a window that stays within ``bounds``."""
    length = step * ceil((bounds.stop - bounds.start) / (count * step))
    halo = step * ceil(halo / step)
    cores = [
        slice(start, min(start + length, bounds.stop))
        for start in range(bounds.start, bounds.stop, length)
    ]
    return [
        (slice(max(bounds.start, core.start - halo), min(bounds.stop, core.stop + halo)), core)
        for core in cores
    ]


def divide(box: Box, halo: tuple[int, int, int], voxels: int) -> list[Tile]:
    """Divide a box into tiles with least work.

    Parameters
    ----------
    box
        Nothing outside of it is seen.
    halo
        How far windows reach beyond their cores: x, y, slices.
    voxels
        Largest window; exceeded only where the smallest cores need it.

    Returns
    -------
    list[Tile]
        In order of x, then y, then slices.
    """
    choices = []
    for bounds, far, step in zip(box, halo, _STEP, strict=True):
        most = max(1, (bounds.stop - bounds.start) // _SMALLEST)
        choices.append([_parts(bounds, count, far, step) for count in range(1, most + 1)])
    sizes = [
        [[window.stop - window.start for window, _ in parts] for parts in axis] for axis in choices
    ]
    costs = [[(max(lengths), sum(lengths)) for lengths in axis] for axis in sizes]

    def cost(places: tuple[int, ...]) -> tuple[int, int]:
        chosen = [axis[place] for axis, place in zip(costs, places, strict=True)]
        largest, work = prod(c[0] for c in chosen), prod(c[1] for c in chosen)
        return max(largest, voxels), work

    best = min(product(*(range(len(axis)) for axis in choices)), key=cost)
    return [
        Tile((x[0], y[0], n[0]), (x[1], y[1], n[1]))
        for x, y, n in product(*(axis[place] for axis, place in zip(choices, best, strict=True)))
    ]
