"""How well a network does on simulated acquisitions: what training and adaptation make better."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mrisr_node.superres.batches import Batch
from mrisr_node.superres.restoration import fold, restore

__all__ = ["EDGE", "gain_db", "relative_error", "restored"]

EDGE = 4
"""Pixels at a patch's edges that do not count: a network sees too little of the head there."""

_SMALLEST_ERROR = 0.01  # of the intensity scale: below it, a patch has nothing to learn from


def restored(network: nn.Module, batch: Batch, mixed: bool) -> Tensor:
    """Restore a batch, (b, x, y, m), where its tensors and the network are."""
    folded = fold(batch.thick, batch.operators)
    folded = folded.contiguous(memory_format=torch.channels_last_3d)
    with torch.autocast(folded.device.type, torch.bfloat16, enabled=mixed):
        update = network(folded, batch.geometry).float()
    return restore(batch.thick, update, batch.operators)


def _mean(error: Tensor, batch: Batch) -> Tensor:
    """Return each sample's mean error, (b,), away from the patch's edges and ends."""
    slices = error[:, EDGE:-EDGE, EDGE:-EDGE].mean((1, 2))
    return (slices * batch.inner).sum(1) / batch.inner.sum(1)


def relative_error(thin: Tensor, batch: Batch) -> Tensor:
    """Return the mean absolute error relative to the linear estimate's.

    So every sample counts alike, be its slices thick or thin, its contrast strong or weak. Only
    what lies away from the patch's edges and ends counts.
    """
    linear = restore(batch.thick, None, batch.operators)
    scale = _mean((linear - batch.thin).abs(), batch).clamp_min(_SMALLEST_ERROR)
    return (_mean((thin - batch.thin).abs(), batch) / scale).mean()


def gain_db(thin: Tensor, batch: Batch) -> Tensor:
    """Return the gain of each sample in dB over the linear estimate, (b,)."""
    linear = restore(batch.thick, None, batch.operators)
    errors = [_mean((x - batch.thin).square(), batch).clamp_min(1e-9) for x in (linear, thin)]
    return 10.0 * torch.log10(errors[0] / errors[1])
