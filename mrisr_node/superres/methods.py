"""What is compared: every way from thick slices to thin ones, by name."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from mrisr_node.superres.adaptation import adapted
from mrisr_node.superres.checkpoints import Checkpoint
from mrisr_node.superres.inference import restore_slices
from mrisr_node.superres.interpolation import (
    back_projection_matrix,
    cubic_matrix,
    lanczos_matrix,
    linear_matrix,
)
from mrisr_node.superres.networks import INTERPOLATED
from mrisr_node.superres.peers import Eclare
from mrisr_node.superres.simulation import Protocol, ThickSlices
from mrisr_node.volumes.degradation import Positions, SliceStack, along_last_axis
from mrisr_node.volumes.geometry import FloatArray, Volume

__all__ = ["DEFAULT_METHODS", "METHODS", "Method", "build_methods", "check_range"]

Method = Callable[[ThickSlices], FloatArray]
"""From thick slices, (x, y, n), to thin ones at the positions that are asked for, (x, y, m)."""

METHODS: Mapping[str, str] = {
    "linear": "linear interpolation",
    "cubic": "cubic B-spline interpolation",
    "lanczos": "Lanczos-3 interpolation",
    "cubic-bp": "cubic and five back-projections with the known profile",
    "cubic-bp-wide": "the same, the profile assumed 20 % too wide",
    "cubic-bp-narrow": "the same, the profile assumed 20 % too narrow",
    "cubic-bp-N": "cubic and N back-projections with the known profile",
    "ours": "the network",
    "ours-wide": "the network, told a thickness 20 % too large",
    "ours-narrow": "the network, told a thickness 20 % too small",
    "ours-flips": "the network, averaged over all eight flips of the slices",
    "ours-adapted": "the network after steps of training on the scan itself",
    "eclare": "ECLARE, as a separate process in its own environment",
}
"""Every method, and what it is."""

DEFAULT_METHODS = ("linear", "cubic", "lanczos", "cubic-bp", "ours")

_STEPS = 5  # of back-projection
_ERROR = {"wide": 1.2, "narrow": 0.8}  # assumed over true thickness


def _assumed(thick: ThickSlices, factor: float) -> ThickSlices:
    """Return the same slices with another thickness stated."""
    stack = replace(thick.stack, thickness_mm=factor * thick.stack.thickness_mm)
    return replace(thick, stack=stack)


def _interpolated(matrix: Callable[[SliceStack, Positions], Positions]) -> Method:
    return lambda thick: along_last_axis(matrix(thick.stack, thick.positions), thick.slices)


def _back_projected(steps: int) -> Method:
    def method(thick: ThickSlices) -> FloatArray:
        matrix = back_projection_matrix(thick.stack, thick.positions, steps, thick.profile)
        return along_last_axis(matrix, thick.slices)

    return method


def _wrong(method: Method, factor: float) -> Method:
    return lambda thick: method(_assumed(thick, factor))


def _network(checkpoint: Checkpoint) -> Method:
    return lambda thick: restore_slices(
        thick.slices,
        thick.stack,
        thick.positions,
        in_plane_mm=thick.in_plane_mm,
        intensity_scale=thick.intensity_scale,
        checkpoint=checkpoint,
    )


def _adapted(checkpoint: Checkpoint) -> Method:
    def method(thick: ThickSlices) -> FloatArray:
        first = _network(checkpoint)(thick)
        spacing = float(np.mean(np.diff(thick.positions)))
        own = adapted(
            checkpoint,
            first,
            (thick.in_plane_mm, thick.in_plane_mm, spacing),
            thick.stack,
            intensity_scale=thick.intensity_scale,
        )
        return _network(own)(thick)

    return method


def _flipped_all_ways(method: Method) -> Method:
    """Average a method over the flips of all three axes.

    Reversed slices are acquired at mirrored positions, so that any positions will do.
    """

    def averaged(thick: ThickSlices) -> FloatArray:
        last = thick.stack.centres[-1]
        total = np.zeros((*thick.slices.shape[:2], len(thick.positions)), dtype=np.float32)
        choices = list(itertools.product((False, True), repeat=3))
        for flips in choices:
            axes = [axis for axis, flipped in enumerate(flips) if flipped]
            mirrored = np.ascontiguousarray(np.flip(thick.slices, axes))
            positions = (last - thick.positions)[::-1] if flips[2] else thick.positions
            total += np.flip(method(replace(thick, slices=mirrored, positions=positions)), axes)
        return np.asarray(total / np.float32(len(choices)))

    return averaged


def check_range(
    names: Sequence[str], checkpoint: Checkpoint | None, protocol: Protocol, head: Volume
) -> None:
    """Refuse slices that the node would refuse, if any of these methods is the network.

    Their true geometry counts: what a variant is told on purpose may lie outside of the range.

    Raises
    ------
    OutOfRange
        With the reason of the checkpoint's card.
    """
    if checkpoint is not None and any(name.startswith("ours") for name in names):
        checkpoint.card.check_range(
            distance_mm=protocol.thickness_mm + protocol.gap_mm,
            thickness_mm=protocol.thickness_mm,
            pixel_mm=protocol.pixel_mm(head),
        )


def build_methods(
    names: Sequence[str], checkpoint: Checkpoint | None = None, eclare: Eclare | None = None
) -> dict[str, Method]:
    """Return the methods of these names, in their order.

    Parameters
    ----------
    names
        Keys of METHODS; ``cubic-bp-8``, say, for eight back-projections.
    checkpoint
        Needed for ``ours`` and its variants.
    eclare
        Needed for ``eclare``. Its key tells when its training is shortened.

    Raises
    ------
    ValueError
        If a name is unknown, or lacks what it needs.
    """
    known: dict[str, Method] = {
        "linear": _interpolated(linear_matrix),
        "cubic": _interpolated(cubic_matrix),
        "lanczos": _interpolated(lanczos_matrix),
        "cubic-bp": _back_projected(_STEPS),
    }
    if checkpoint is not None:
        ours = _network(checkpoint)
        known["ours"] = ours
        known["ours-flips"] = _flipped_all_ways(ours)
        if checkpoint.card.network not in INTERPOLATED:
            known["ours-adapted"] = _adapted(checkpoint)
    for name in ("cubic-bp", "ours"):
        for way, factor in _ERROR.items():
            if name in known:
                known[f"{name}-{way}"] = _wrong(known[name], factor)
    found: dict[str, Method] = {}
    for name in names:
        steps = re.fullmatch(r"cubic-bp-(\d+)", name)
        if steps is not None:
            found[name] = _back_projected(int(steps[1]))
        elif name in known:
            found[name] = known[name]
        elif name == "eclare" and eclare is not None:
            found[eclare.name] = eclare.restore
        elif name == "eclare":
            raise ValueError("the method 'eclare' needs the path of its environment")
        elif name == "ours-adapted" and checkpoint is not None:
            raise ValueError(f"a {checkpoint.card.network} cannot be trained on the scan itself")
        elif name in METHODS and name != "cubic-bp-N":
            raise ValueError(f"the method {name!r} needs a checkpoint")
        else:
            raise ValueError(f"unknown method {name!r}; there are {', '.join(METHODS)}")
    return found
