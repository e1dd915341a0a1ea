"""Several samples side by side, as a network is trained on them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from mrisr_node.superres.restoration import TorchOperators
from mrisr_node.superres.samples import Sample

__all__ = ["Batch", "gather"]


@dataclass(frozen=True)
class Batch:
    """Samples of equally many thick slices, b of them.

    Those with fewer thin slices than others are filled up with zeros, which count nowhere.

    Parameters
    ----------
    thick
        Acquired slices, (b, x, y, n), in units of the intensity scale.
    thin
        The truth, (b, x, y, m).
    geometry
        The network's conditions, (b, CONDITIONS).
    operators
        Matrices of (b, 1, …, …), to be applied to volumes of (b, x, y, …).
    inner
        (b, m): thin slices that count.
    """

    thick: Tensor
    thin: Tensor
    geometry: Tensor
    operators: TorchOperators
    inner: Tensor

    def to(self, device: torch.device) -> Batch:
        """Return the same on a device."""
        return Batch(
            self.thick.to(device, non_blocking=True),
            self.thin.to(device, non_blocking=True),
            self.geometry.to(device, non_blocking=True),
            self.operators.to(device),
            self.inner.to(device, non_blocking=True),
        )

    def pin_memory(self) -> Batch:
        """Return the same where a GPU can fetch it by itself; the data loader calls this."""
        return Batch(
            self.thick.pin_memory(),
            self.thin.pin_memory(),
            self.geometry.pin_memory(),
            self.operators.pin_memory(),
            self.inner.pin_memory(),
        )


def gather(samples: Sequence[Sample]) -> Batch:
    """Put samples side by side."""
    length = max(len(sample.inner) for sample in samples)
    missing = [length - len(sample.inner) for sample in samples]
    operators = [sample.operators for sample in samples]

    def filled(parts: Iterable[Tensor], axis: int = -1) -> Tensor:
        """Fill each up with zeros, along the axis of the thin slices."""
        inner_axes = (0, 0) * (-1 - axis)
        return torch.stack(
            [
                functional.pad(part, (*inner_axes, 0, rest))
                for part, rest in zip(parts, missing, strict=True)
            ]
        )

    return Batch(
        thick=torch.stack([sample.thick for sample in samples]),
        thin=filled(sample.thin for sample in samples),
        geometry=torch.stack([sample.geometry for sample in samples]),
        operators=TorchOperators(
            degrade=filled((o.degrade for o in operators), axis=-2)[:, None],
            restore=filled(o.restore for o in operators)[:, None],
            restore_folded=torch.stack([o.restore_folded for o in operators])[:, None],
            unfold=filled(o.unfold for o in operators)[:, None],
        ),
        inner=filled(sample.inner for sample in samples),
    )
