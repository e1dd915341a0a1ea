"""Designs of the network, trained for equal times and compared on the validation heads.

    python bench/designs.py CONFIG.toml [--minutes 5] [--width 64] [--design residual]

Trains each design from nothing with what CONFIG says of data and acquisitions, for the same
processor time on the same machine, so that other work beside it favours none, and prints the gain
over the linear estimate on the validation samples every minute. The widths are chosen for about
equal work in a step; the blocks within a slice of "planar", the default's design, add a third. What
checkpoints do not use was tried and found to be worse, and lives here only.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from mrisr_node.superres.batches import Batch, gather
from mrisr_node.superres.fitting import gain_db, relative_error, restored
from mrisr_node.superres.networks import (
    ContrastConv3d,
    FoldedResidual,
    ResidualBlock,
    geometry_biases,
)
from mrisr_node.superres.operators import SUB_SLICES
from mrisr_node.superres.optimisers import pick_optimisers
from mrisr_node.superres.precision import computes_in_bfloat16
from mrisr_node.superres.restoration import TorchOperators, fold
from mrisr_node.superres.samples import Acquire, Samples, load_sources
from mrisr_node.superres.training import TrainingState, validation_batches
from mrisr_node.superres.training_config import TrainingConfig


def zeroed(layer: nn.Conv3d) -> nn.Conv3d:
    """Return a last layer that starts with no update."""
    nn.init.zeros_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


class Pyramid(nn.Module):
    """Residual blocks at full and at half in-plane resolution: a small U-Net."""

    def __init__(self, width: int = 64, wide: int = 96, outer: int = 2, inner: int = 4) -> None:
        super().__init__()
        self.head = ContrastConv3d(SUB_SLICES, width, 3, padding=1)
        self.before = nn.ModuleList(ResidualBlock(width) for _ in range(outer))
        self.down = nn.Conv3d(width, wide, (2, 2, 1), stride=(2, 2, 1))
        self.middle = nn.ModuleList(ResidualBlock(wide) for _ in range(inner))
        self.up = nn.ConvTranspose3d(wide, width, (2, 2, 1), stride=(2, 2, 1))
        self.after = nn.ModuleList(ResidualBlock(width) for _ in range(outer))
        self.tail = zeroed(nn.Conv3d(width, SUB_SLICES, 3, padding=1))
        self.sizes = [width] * outer + [wide] * inner + [width] * outer
        self.geometry = geometry_biases(sum(self.sizes))

    def forward(self, folded: Tensor, geometry: Tensor) -> Tensor:
        """Return the update."""
        biases = iter(self.geometry(geometry).split(self.sizes, 1))
        start = features = self.head(folded)
        for block in self.before:
            features = block(features, next(biases))
        small = self.down(features)
        for block in self.middle:
            small = block(small, next(biases))
        features = features + self.up(small)
        for block in self.after:
            features = block(features, next(biases))
        return 0.1 * self.tail(features + start)


class Unrolled(nn.Module):
    """Two networks, and between them a step that insists on the acquired slices."""

    def __init__(self, width: int = 64, blocks: int = 2) -> None:
        super().__init__()
        self.heads = nn.ModuleList(
            [
                ContrastConv3d(SUB_SLICES, width, 3, padding=1),
                ContrastConv3d(2 * SUB_SLICES, width, 3, padding=1),
            ]
        )
        self.bodies = nn.ModuleList(
            nn.ModuleList(ResidualBlock(width) for _ in range(blocks)) for _ in range(2)
        )
        self.tails = nn.ModuleList(
            zeroed(nn.Conv3d(width, SUB_SLICES, 3, padding=1)) for _ in range(2)
        )
        self.geometry = geometry_biases(2 * blocks * width)
        self.blocks = blocks
        self.operators: TorchOperators | None = None

    def contradiction(self, update: Tensor) -> Tensor:
        """Return the part of an update that changes the acquired slices."""
        assert self.operators is not None
        thin = update.float().movedim(1, -1).flatten(-2) @ self.operators.unfold
        again = fold(thin @ self.operators.degrade, self.operators)
        return again.contiguous(memory_format=torch.channels_last_3d)

    def forward(self, folded: Tensor, geometry: Tensor) -> Tensor:
        """Return the update; ``operators`` must be those of the batch."""
        biases = iter(self.geometry(geometry).chunk(2 * self.blocks, 1))
        features = self.heads[0](folded)
        for block in self.bodies[0]:
            features = block(features, next(biases))
        update = 0.1 * self.tails[0](features)
        wrong = self.contradiction(update)
        update = update - wrong
        features = features + self.heads[1](torch.cat([folded + update, wrong], 1))
        for block in self.bodies[1]:
            features = block(features, next(biases))
        return update + 0.1 * self.tails[1](features)


class Planes(nn.Module):
    """2.5D: 2D convolutions in sagittal and in coronal planes, fused voxel by voxel."""

    def __init__(self, width: int = 64, blocks: int = 5) -> None:
        super().__init__()
        kernels = ((1, 3, 3), (3, 1, 3))
        self.heads = nn.ModuleList(
            ContrastConv3d(SUB_SLICES, width, kernel, padding=tuple(k // 2 for k in kernel))
            for kernel in kernels
        )
        self.bodies = nn.ModuleList(
            nn.ModuleList(ResidualBlock(width, kernel) for _ in range(blocks)) for kernel in kernels
        )
        self.fuse = nn.Conv3d(2 * width, width, 1)
        self.tail = zeroed(nn.Conv3d(width, SUB_SLICES, 1))
        self.geometry = geometry_biases(2 * blocks * width)
        self.blocks = blocks

    def forward(self, folded: Tensor, geometry: Tensor) -> Tensor:
        """Return the update."""
        biases = iter(self.geometry(geometry).chunk(2 * self.blocks, 1))
        seen = []
        for head, body in zip(self.heads, self.bodies, strict=True):
            start = features = head(folded)
            for block in body:
                features = block(features, next(biases))
            seen.append(features + start)
        return 0.1 * self.tail(functional.relu(self.fuse(torch.cat(seen, 1))))


DESIGNS = {
    "residual": lambda width: FoldedResidual(width, blocks=4, in_plane_fold=1),
    "planar": lambda width: FoldedResidual(width, blocks=4, in_plane_fold=1, planar_blocks=4),
    "pyramid": lambda width: Pyramid(width, width * 3 // 2),
    "unrolled": Unrolled,
    "planes": Planes,
}


def results(network: nn.Module, batch: Batch) -> Tensor:
    """Restore a batch on the CPU."""
    if isinstance(network, Unrolled):
        network.operators = batch.operators
    return restored(network, batch, computes_in_bfloat16(torch.device("cpu")))


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--design", choices=DESIGNS, action="append")
    arguments = parser.parse_args()
    config = TrainingConfig.load(arguments.config)
    torch.set_num_threads(config.threads)
    heads = load_sources(config.data, config.sources)
    watched = validation_batches(config)
    samples = Samples(heads, Acquire(config.acquisition, config.patch, config.slices), config.seed)
    for name in arguments.design or DESIGNS:
        torch.manual_seed(config.seed)
        network = DESIGNS[name](arguments.width).to(memory_format=torch.channels_last_3d)
        averaged = {key: p.detach().clone() for key, p in network.named_parameters()}
        state = TrainingState(network, averaged, pick_optimisers(network, config.learning_rate))
        parameters = sum(p.numel() for p in network.parameters())
        spent, minute = 0.0, 1
        while spent < 60.0 * arguments.minutes:
            started = time.process_time()
            first = state.step * config.batch
            batch = gather([samples[first + index] for index in range(config.batch)])
            share = spent / (60.0 * arguments.minutes)
            rate = min(1.0, 0.01 + 10.0 * share) * 0.5 * (1.0 + math.cos(math.pi * share))
            state.descend(
                relative_error(results(network, batch), batch), rate * config.learning_rate
            )
            state.average(config.ema)
            spent += (time.process_time() - started) / config.threads
            if spent >= 60.0 * minute or spent >= 60.0 * arguments.minutes:
                minute += 1
                best = copy.deepcopy(network)
                best.load_state_dict(state.averaged)
                with torch.no_grad():
                    gains = torch.cat([gain_db(results(best, batch), batch) for batch in watched])
                print(
                    f"{name}: {parameters / 1e6:.2f} M weights, {spent:.0f} s, {state.step} steps, "
                    f"{float(gains.mean()):+.3f} dB over the linear estimate",
                    flush=True,
                )


if __name__ == "__main__":
    main()
