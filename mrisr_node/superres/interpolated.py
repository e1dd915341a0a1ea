"""Run a network that refines an interpolated volume on the grid of its thin slices.

This is how super-resolution networks of general use are applied: the thick slices are interpolated
by cubic B-splines, and a network turns the outcome, window by window, into the thin volume itself.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import cast

from torch import Tensor, nn

from mrisr_node.superres.restoration import TorchOperators, consistent
from mrisr_node.volumes.geometry import FloatArray

__all__ = ["restore_interpolated", "swin_unetr", "window_count"]

_MULTIPLE = 32  # a SwinUNETR halves its window five times
_SMALLEST = 64  # and normalises what is left, for which one voxel is too little
_OVERLAP = 0.25


def swin_unetr(feature_size: int = 48) -> nn.Module:
    """Build MONAI's SwinUNETR, one channel in and out (Hatamizadeh et al., arXiv:2201.01266)."""
    from monai.networks.nets.swin_unetr import SwinUNETR  # two seconds that others need not wait

    return cast(nn.Module, SwinUNETR(in_channels=1, out_channels=1, feature_size=feature_size))


def _window(patch: int) -> int:
    return max(_SMALLEST, patch // _MULTIPLE * _MULTIPLE)


def window_count(shape: tuple[int, ...], patch: int) -> int:
    """Return in how many windows a volume is processed."""
    window = _window(patch)
    step = int(window * (1.0 - _OVERLAP))
    return prod(1 + max(0, -(-(size - window) // step)) for size in shape)


def restore_interpolated(
    thick: Tensor,
    cubic: Tensor,
    operators: TorchOperators,
    network: nn.Module,
    *,
    patch: int,
    progress: Callable[[float], None],
) -> FloatArray:
    """Return thin slices, (x, y, m), for thick ones.

    The result is moved by what is missing when it is degraded again, as with every network: that a
    result explains what was acquired does not depend on the checkpoint. All is float32, for such a
    network returns intensities, which bfloat16 would round to eight bits.

    Parameters
    ----------
    thick
        Acquired slices over the intensity scale, (x, y, n), on the CPU.
    cubic
        Interpolation along the slice axis, (n, m), to be applied from the right.
    operators
        Matrices of this geometry; like ``cubic`` on the device where the network shall run.
    network
        Takes and returns (1, 1, x, y, m).
    patch
        Side of the cubic windows in voxels, rounded down to a multiple of 32, 64 at least. They
        overlap by a quarter and are blended with Gaussian weights; smaller volumes are padded with
        zeros.
    progress
        Called with the share done.
    """
    from monai.inferers.utils import sliding_window_inference  # slow to import, too

    device = cubic.device
    thick = thick.to(device)
    interpolated = thick @ cubic
    windows = window_count(tuple(interpolated.shape), patch)
    done = 0

    def predict(window: Tensor) -> Tensor:
        nonlocal done
        found: Tensor = network(window)
        done += 1
        progress(min(1.0, done / windows))
        return found

    thin = cast(
        Tensor,
        sliding_window_inference(
            interpolated[None, None],
            (_window(patch),) * 3,
            sw_batch_size=1,
            predictor=predict,
            overlap=_OVERLAP,
            mode="gaussian",
        ),
    )[0]
    return cast(FloatArray, consistent(thin, thick[None], operators)[0].cpu().numpy())
