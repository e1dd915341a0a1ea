"""From thick slices to thin ones: linear estimate, network, and what the acquisition insists on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mrisr_node.superres.operators import SUB_SLICES, Operators

__all__ = ["TorchOperators", "consistent", "fold", "restore"]


@dataclass(frozen=True)
class TorchOperators:
    """The transposes of :class:`Operators` as float32 tensors, to be applied from the right."""

    degrade: Tensor
    restore: Tensor
    restore_folded: Tensor
    unfold: Tensor

    @classmethod
    def of(cls, operators: Operators) -> TorchOperators:
        """Turn NumPy's double precision into tensors on the CPU."""
        return cls(
            *(
                torch.tensor(matrix.T, dtype=torch.float32)
                for matrix in (
                    operators.degrade,
                    operators.restore,
                    operators.restore_folded,
                    operators.unfold,
                )
            )
        )

    def to(self, device: torch.device) -> TorchOperators:
        """Return the same matrices on a device."""
        return TorchOperators(
            self.degrade.to(device, non_blocking=True),
            self.restore.to(device, non_blocking=True),
            self.restore_folded.to(device, non_blocking=True),
            self.unfold.to(device, non_blocking=True),
        )

    def pin_memory(self) -> TorchOperators:
        """Return the same matrices where a GPU can fetch them by itself."""
        return TorchOperators(
            self.degrade.pin_memory(),
            self.restore.pin_memory(),
            self.restore_folded.pin_memory(),
            self.unfold.pin_memory(),
        )


def fold(thick: Tensor, operators: TorchOperators) -> Tensor:
    """Return the linear estimate of the sub-slices, (b, SUB_SLICES, x, y, n), of (b, x, y, n)."""
    sub_slices = thick @ operators.restore_folded
    return sub_slices.reshape(*thick.shape, SUB_SLICES).movedim(-1, 1)


def consistent(thin: Tensor, thick: Tensor, operators: TorchOperators) -> Tensor:
    """Move thin slices, (b, x, y, m), by the linear estimate of what they lack of (b, x, y, n).

    So a network can only fill in what the acquisition left open, up to noise.
    """
    return thin + (thick - thin @ operators.degrade) @ operators.restore


def restore(thick: Tensor, update: Tensor | None, operators: TorchOperators) -> Tensor:
    """Return thin slices, (b, x, y, m), that are consistent with the thick ones.

    Parameters
    ----------
    thick
        Acquired slices, (b, x, y, n).
    update
        What the network adds to the folded estimate, (b, SUB_SLICES, x, y, n), in the intensity
        scale of ``thick``; None gives the linear estimate alone.
    operators
        Matrices of this geometry.
    """
    thin = thick @ operators.restore
    if update is not None:
        thin = thin + update.movedim(1, -1).flatten(-2) @ operators.unfold
    return consistent(thin, thick, operators)
