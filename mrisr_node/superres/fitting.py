"""How well a network does on simulated acquisitions: what training and adaptation make better."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from mrisr_node.superres.restoration import fold, restore
from mrisr_node.superres.samples import Sample

__all__ = ["gain_db", "relative_error", "restored"]

_EDGE = 4  # pixels at a patch's edges, where a network sees too little of the head

_SMALLEST_ERROR = 0.01  # of the intensity scale: below it, a patch has nothing to learn from


def restored(
    network: nn.Module, samples: Sequence[Sample], device: torch.device, mixed: bool
) -> list[Tensor]:
    """Restore samples, whose numbers of thin slices differ, with one call of the network."""
    thick = [sample.thick[None].to(device) for sample in samples]
    operators = [sample.operators.to(device) for sample in samples]
    folded = torch.cat([fold(y, o) for y, o in zip(thick, operators, strict=True)])
    folded = folded.contiguous(memory_format=torch.channels_last_3d)
    geometry = torch.stack([sample.geometry for sample in samples]).to(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=mixed):
        update = network(folded, geometry).float()
    return [
        restore(y, update[index : index + 1], o)[0]
        for index, (y, o) in enumerate(zip(thick, operators, strict=True))
    ]


def _counted(thin: Tensor, sample: Sample) -> Tensor:
    """Return what lies away from the patch's edges and ends."""
    return thin[_EDGE:-_EDGE, _EDGE:-_EDGE, sample.inner.to(thin.device)]


def relative_error(thin: Sequence[Tensor], samples: Sequence[Sample]) -> Tensor:
    """Return the mean absolute error relative to the linear estimate's.

    So every sample counts alike, be its slices thick or thin, its contrast strong or weak. Only
    what lies away from the patch's edges and ends counts.
    """
    losses = []
    for result, sample in zip(thin, samples, strict=True):
        truth = _counted(sample.thin, sample)
        linear = restore(sample.thick[None], None, sample.operators)[0]
        scale = functional.l1_loss(_counted(linear, sample), truth).clamp_min(_SMALLEST_ERROR)
        ours = _counted(result, sample)
        losses.append(functional.l1_loss(ours, truth.to(ours.device)) / scale)
    return torch.stack(losses).mean()


def gain_db(thin: Tensor, sample: Sample) -> float:
    """Return the gain in dB over the linear estimate."""
    truth = _counted(sample.thin, sample)
    linear = restore(sample.thick[None], None, sample.operators)[0]
    errors = [
        functional.mse_loss(_counted(result.cpu(), sample), truth).clamp_min(1e-9)
        for result in (linear, thin)
    ]
    return 10.0 * math.log10(float(errors[0] / errors[1]))
