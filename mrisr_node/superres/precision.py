"""In what a device computes convolutions, whatever it could."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

__all__ = ["computes_in_bfloat16", "multiplies_in_tf32"]


def computes_in_bfloat16(
    device: torch.device, capabilities: Mapping[str, Any] | None = None
) -> bool:
    """Tell whether bfloat16 convolutions are faster here than float32 ones.

    A CPU needs AMX for this (six times faster measured); where bfloat16 is emulated, it was three
    hundred times slower. ``capabilities`` are the CPU's, as torch tells them by default.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)  # older ones emulate it
    if device.type != "cpu":
        return False
    found = torch.cpu.get_capabilities() if capabilities is None else capabilities
    return bool(found.get("amx_bf16"))


def multiplies_in_tf32(device: torch.device) -> bool:
    """Tell whether float32 convolutions round what they multiply to TF32: GPUs since Ampere.

    torch allows this to cuDNN unless told otherwise; products of matrices stay float32.
    """
    return (
        device.type == "cuda"
        and torch.backends.cudnn.allow_tf32
        and torch.cuda.get_device_capability(device) >= (8, 0)
    )
