"""Teach a network the one scan that it is about to restore."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable

import numpy as np

from mrisr_node.superres.batches import gather
from mrisr_node.superres.checkpoints import Checkpoint
from mrisr_node.superres.fitting import relative_error, restored
from mrisr_node.superres.optimisers import descend, pick_optimisers
from mrisr_node.superres.precision import computes_in_bfloat16
from mrisr_node.superres.samples import Acquire, AcquisitionRanges, Head, Samples, Source
from mrisr_node.volumes.degradation import SliceStack
from mrisr_node.volumes.geometry import FloatArray

__all__ = ["ADAPTATION_STEPS", "adapted"]

ADAPTATION_STEPS = 150

_LEARNING_RATE = 2e-4
_PATCH = 40  # pixels
_SLICES = 8
_BATCH = 4


def adapted(
    checkpoint: Checkpoint,
    thin: FloatArray,
    spacing: tuple[float, float, float],
    stack: SliceStack,
    *,
    intensity_scale: float,
    steps: int = ADAPTATION_STEPS,
    progress: Callable[[float], None] | None = None,
) -> Checkpoint:
    """Return the checkpoint after some steps of training on one scan alone.

    The scan is sharp within its slices. So it is acquired again with the same thickness and gap
    along its in-plane axes, where the truth is known: SMORE's idea (Zhao et al., IEEE TMI 40(3),
    2021), from trained weights.

    Parameters
    ----------
    checkpoint
        Where to start; it is left as it is.
    thin
        What it makes of the scan, (x, y, m), slice axis last.
    spacing
        Voxel size of ``thin`` in mm.
    stack
        Geometry of the acquired slices.
    intensity_scale
        Mean intensity of the brain.
    steps
        How long to train; the same number gives the same weights.
    progress
        Called with the share done.
    """
    ratio = stack.thickness_mm / stack.distance_mm
    acquire = Acquire(
        AcquisitionRanges(
            distance_mm=(stack.distance_mm, stack.distance_mm),
            thickness_ratio=(ratio, ratio),
            noise=(0.0, 0.0),
            profile_error=0.0,
            sinc_profile=0.0,
            spacing_jitter=0.0,
            scale_jitter=1.0,
            contrast_change=0.0,
        ),
        _PATCH,
        _SLICES,
    )
    scaled = np.ascontiguousarray(thin / np.float32(intensity_scale))
    samples = Samples([Head(scaled, spacing, Source("", "xy", 1.0))], acquire, seed=0)
    network = copy.deepcopy(checkpoint.network).requires_grad_(True).train()
    device = next(network.parameters()).device
    mixed = computes_in_bfloat16(device)
    optimisers = pick_optimisers(network, _LEARNING_RATE)
    for step in range(steps):
        batch = gather([samples[step * _BATCH + index] for index in range(_BATCH)]).to(device)
        loss = relative_error(restored(network, batch, mixed), batch)
        descend(loss, optimisers, _LEARNING_RATE * (1.0 - step / steps))
        if progress is not None:
            progress((step + 1) / steps)
    return dataclasses.replace(checkpoint, network=network.eval().requires_grad_(False))
