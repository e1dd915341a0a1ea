"""What moves the weights in training: Muon for residual blocks, Adam for all else."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import sqrt
from typing import cast

import torch
from torch import Tensor, nn

from mrisr_node.superres.networks import ResidualBlock

__all__ = ["Muon", "descend", "orthogonalised", "pick_optimisers"]

_ADAM_SIZE = 0.2  # root mean square of a typical step of Adam, relative to its learning rate


def orthogonalised(matrices: Tensor) -> Tensor:
    """Return nearly U Vᵀ of matrices U S Vᵀ, (…, rows, columns).

    So every direction in them becomes about equally long. Five steps of the Newton-Schulz iteration
    with the coefficients of Jordan et al. (Muon, 2024), which bring singular values to 0.7 … 1.2
    quickly instead of to 1 slowly. In float32: torch's own Muon takes single matrices only, and
    computes in bfloat16, which many CPUs merely emulate.
    """
    flat = matrices.shape[-2] <= matrices.shape[-1]
    x: Tensor = matrices if flat else matrices.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        square = x @ x.mT
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x if flat else x.mT


class Muon(torch.optim.Optimizer):
    """Momentum whose step is orthogonalised, so that rare directions learn as fast as common ones.

    Weights of more than two dimensions are matrices of output channels × all else. Steps are as
    large as Adam's would be, so that one learning rate serves both (Liu et al., arXiv:2502.16982).

    Parameters
    ----------
    params
        Weights of at least two dimensions.
    lr
        Learning rate.
    momentum
        Decay of the averaged gradient (Nesterov's variant).
    """

    def __init__(self, params: Iterable[nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Move every weight that has a gradient; a closure is not supported."""
        if closure is not None:
            raise ValueError("Muon takes no closure")
        for group in self.param_groups:
            shapes: dict[torch.Size, list[Tensor]] = {}
            for weight in group["params"]:
                if weight.grad is not None:
                    shapes.setdefault(weight.shape, []).append(weight)
            for weights in shapes.values():  # together: a GPU idles between many small products
                self._move(weights, group["lr"], group["momentum"])

    def _move(self, weights: list[Tensor], rate: float, momentum: float) -> None:
        """Move weights of the same shape."""
        for weight in weights:
            if not self.state[weight]:
                self.state[weight]["average"] = torch.zeros_like(weight)
        gradients = torch.stack([cast(Tensor, weight.grad) for weight in weights])
        averages = [self.state[weight]["average"] for weight in weights]
        torch._foreach_lerp_(averages, list(gradients), 1.0 - momentum)
        directions = gradients.lerp(torch.stack(averages), momentum).flatten(2)
        size = _ADAM_SIZE * sqrt(max(directions.shape[1:]))
        steps = orthogonalised(directions).reshape(gradients.shape)
        torch._foreach_sub_(weights, list(steps), alpha=rate * size)


def pick_optimisers(network: nn.Module, learning_rate: float) -> tuple[torch.optim.Optimizer, ...]:
    """Return Muon for the convolutions of residual blocks, and Adam for all other weights.

    First and last layers are Adam's: what they see or return has a scale of its own.
    """
    blocks = [module for module in network.modules() if isinstance(module, ResidualBlock)]
    hidden = [w for block in blocks for w in block.parameters() if w.dim() > 2]
    chosen = {id(weight) for weight in hidden}
    others = [weight for weight in network.parameters() if id(weight) not in chosen]
    adam = torch.optim.Adam(others, learning_rate, betas=(0.9, 0.99))
    return (Muon(hidden, learning_rate), adam) if hidden else (adam,)


def descend(
    loss: Tensor, optimisers: Iterable[torch.optim.Optimizer], learning_rate: float
) -> None:
    """Take one step down the gradient of ``loss``, its norm limited to one."""
    optimisers = tuple(optimisers)
    for optimiser in optimisers:
        optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    groups = [group for optimiser in optimisers for group in optimiser.param_groups]
    nn.utils.clip_grad_norm_([weight for group in groups for weight in group["params"]], 1.0)
    for group in groups:
        group["lr"] = learning_rate
    for optimiser in optimisers:
        optimiser.step()
