"""Networks that refine a linear estimate, and the registry that checkpoints name them by.

A network sees ``(batch, SUB_SLICES, x, y, n)``: the sub-slices of each of n thick slices as
channels, divided by the intensity scale, and ``(batch, CONDITIONS)`` numbers about the geometry. It
returns what to add, in the same shape. In-plane nothing is resampled, so all work happens on the
small grid of the acquisition (pixel unshuffling as in Shi et al., arXiv:1609.05158).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from mrisr_node.superres.interpolated import swin_unetr
from mrisr_node.superres.operators import SUB_SLICES

__all__ = [
    "CONDITIONS",
    "INTERPOLATED",
    "NETWORKS",
    "ContrastConv3d",
    "FoldedResidual",
    "ResidualBlock",
    "build_network",
    "conditions",
    "geometry_biases",
]

CONDITIONS = 3


def conditions(distance_mm: float, thickness_mm: float, in_plane_mm: float) -> Tensor:
    """Return the geometry as the network is told of it, shape (CONDITIONS,), each around zero."""
    return torch.tensor(
        [
            distance_mm / in_plane_mm / 4.0 - 1.0,
            thickness_mm / distance_mm * 4.0 - 3.5,
            in_plane_mm * 2.0 - 2.0,
        ]
    )


_SHARPEN = 5.0  # contrasts between neighbours are a fraction of the intensity scale
_UPDATE = 0.1  # the size of an update in units of the intensity scale, about


class ContrastConv3d(nn.Conv3d):
    """A convolution whose kernels sum to zero, so that it sees contrasts and not brightness.

    Brightness is settled by the linear estimate. It is also the same in all sub-slices, and would
    drown what differs between them. Its output starts about as large as one.
    """

    def reset_parameters(self) -> None:
        """Draw the first weights; torch calls this when it builds the layer."""
        super().reset_parameters()
        nn.init.normal_(self.weight, std=_SHARPEN * self.weight[0].numel() ** -0.5)

    def forward(self, features: Tensor) -> Tensor:
        """Convolve; beyond the edges the outermost voxels go on, for zeros would be contrasts."""
        kernels = self.weight - self.weight.mean(dim=(1, 2, 3, 4), keepdim=True)
        around = [size // 2 for size in reversed(self.kernel_size) for _ in range(2)]
        features = functional.pad(features, around, mode="replicate")
        features = features.contiguous(memory_format=torch.channels_last_3d)
        return functional.conv3d(features, kernels, self.bias)


class ResidualBlock(nn.Module):
    """Two convolutions around a bias that depends on the geometry, added to their input."""

    def __init__(self, width: int, kernel: tuple[int, int, int] = (3, 3, 3)) -> None:
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
        self.first = nn.Conv3d(width, width, kernel, padding=padding)
        self.second = nn.Conv3d(width, width, kernel, padding=padding)
        nn.init.kaiming_normal_(self.first.weight, nonlinearity="relu")

    def forward(self, features: Tensor, bias: Tensor) -> Tensor:
        """Return (batch, width, x, y, n) for the same and a bias of (batch, width)."""
        # In place where autograd allows: memory traffic costs as much time as arithmetic here.
        hidden = self.first(features).add_(bias.to(features.dtype)[..., None, None, None]).relu_()
        return torch.add(features, self.second(hidden), alpha=0.2)


def geometry_biases(count: int) -> nn.Sequential:
    """Return what turns the geometry, (batch, CONDITIONS), into as many biases.

    They start at zero. Were they larger than the features, all rectifiers would be either open or
    closed at first, and the network linear: a plateau that costs hundreds of steps to leave.
    """
    last = nn.Linear(32, count)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(CONDITIONS, 32), nn.ReLU(), last)


class FoldedResidual(nn.Module):
    """Residual convolutions on the folded grid.

    Parameters
    ----------
    width
        Channels between convolutions.
    blocks
        Residual blocks of two 3×3×3 convolutions.
    in_plane_fold
        Pixels that are folded into channels along each in-plane axis, 1 or 2: 2 makes the same work
        reach twice as far with more weights.
    planar_blocks
        Further blocks after those, of 3×3 convolutions within a slice: they see further in-plane,
        where the slices are sharp, for a third of the work.
    """

    def __init__(
        self, width: int = 48, blocks: int = 4, in_plane_fold: int = 2, planar_blocks: int = 0
    ) -> None:
        super().__init__()
        # Inference pads to pairs of pixels, and tiles start at them.
        if in_plane_fold not in (1, 2):
            raise ValueError(f"in_plane_fold must be 1 or 2, not {in_plane_fold}")
        self.fold = in_plane_fold
        channels = SUB_SLICES * in_plane_fold**2
        self.head = ContrastConv3d(channels, width, 3, padding=1)
        kernels = [(3, 3, 3)] * blocks + [(3, 3, 1)] * planar_blocks
        self.body = nn.ModuleList(ResidualBlock(width, kernel) for kernel in kernels)
        self.tail = nn.Conv3d(width, channels, 3, padding=1)
        self.geometry = geometry_biases(len(kernels) * width)
        nn.init.zeros_(self.tail.weight)  # so that training starts at the linear estimate
        if self.tail.bias is not None:
            nn.init.zeros_(self.tail.bias)

    def forward(self, folded: Tensor, geometry: Tensor) -> Tensor:
        """Return the update of ``folded``; both in-plane sizes must be multiples of the fold."""
        batch, channels, x, y, n = folded.shape
        f = self.fold
        small = folded.reshape(batch, channels, x // f, f, y // f, f, n)
        small = small.permute(0, 1, 3, 5, 2, 4, 6).reshape(batch, -1, x // f, y // f, n)
        start = self.head(small)
        features = start
        for block, bias in zip(
            self.body, self.geometry(geometry).chunk(len(self.body), 1), strict=True
        ):
            features = block(features, bias)
        update: Tensor = _UPDATE * self.tail(features + start)
        update = update.reshape(batch, channels, f, f, x // f, y // f, n)
        return update.permute(0, 1, 4, 2, 5, 3, 6).reshape(folded.shape)

    @torch.no_grad()
    def grow_from(self, smaller: FoldedResidual) -> None:
        """Take over what a network of no more channels and blocks computes, exactly.

        Channels that it lacks keep their first weights and change nothing yet, since nothing that
        was there listens to them; blocks that it lacks come last and add nothing yet (Chen et al.,
        Net2Net, arXiv:1511.05641).

        Raises
        ------
        ValueError
            If the other network has more channels or blocks, or another fold.
        """
        if len(self.body) < len(smaller.body) or self.fold != smaller.fold:
            raise ValueError("only channels and blocks can be added")
        old = dict(smaller.named_parameters())
        for name, weight in self.named_parameters():
            parts: list[tuple[Tensor, Tensor]] = []
            if name.startswith("geometry.2."):  # one part for each block; the rest is zero
                parts = list(
                    zip(
                        weight.chunk(len(self.body)),
                        old[name].chunk(len(smaller.body)),
                        strict=False,
                    )
                )
            elif name in old:
                parts = [(weight, old[name])]
            elif ".second." in name:
                weight.zero_()
            for new, kept in parts:
                if any(n < k for n, k in zip(new.shape[:2], kept.shape[:2], strict=True)):
                    raise ValueError(f"{name} would have to shrink")
                if new.shape[2:] != kept.shape[2:]:
                    raise ValueError(f"{name} has a kernel of another size")
                if new.dim() > 1:
                    new[: kept.shape[0], kept.shape[1] :] = 0.0
                new[tuple(slice(size) for size in kept.shape)] = kept


NETWORKS: Mapping[str, Callable[..., nn.Module]] = {
    "folded-residual": FoldedResidual,
    "swin-unetr": swin_unetr,
}
"""What a checkpoint card may name; a card never carries an import path."""

INTERPOLATED = frozenset({"swin-unetr"})
"""Those that take the interpolated volume, (1, 1, x, y, m), and return the thin one."""


def build_network(name: str, arguments: Mapping[str, int]) -> nn.Module:
    """Build a network from the registry; KeyError or TypeError if it does not fit."""
    return NETWORKS[name](**arguments)
