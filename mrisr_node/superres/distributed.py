"""Several processes that train one network together, as torchrun starts them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import distributed

from mrisr_node.errors import SettingsError

__all__ = ["World", "is_first_process"]


@dataclass(frozen=True)
class World:
    """Place of a process among those that train.

    Parameters
    ----------
    rank, size
        Number of this process, and how many there are; 0 of 1 without torchrun.
    device
        Its GPU, or the CPU.
    """

    rank: int
    size: int
    device: torch.device

    @classmethod
    @contextmanager
    def joined(cls) -> Iterator[World]:
        """Join the other processes for as long as the context lasts."""
        cuda = torch.cuda.is_available()
        if not distributed.is_torchelastic_launched():
            yield cls(0, 1, torch.device("cuda" if cuda else "cpu"))
            return
        device = torch.device("cpu")
        if cuda:
            device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
            torch.cuda.set_device(device)
        distributed.init_process_group("nccl" if cuda else "gloo")
        try:
            yield cls(distributed.get_rank(), distributed.get_world_size(), device)
        finally:
            distributed.destroy_process_group()

    def share(self, first: int, last: int, batch: int) -> range | list[int]:
        """Return this process's part of the samples ``first`` to ``last``.

        Every ``batch`` samples are one step; each process takes an equal part of it.

        Raises
        ------
        SettingsError
            If the batch cannot be divided so.
        """
        if batch % self.size:
            raise SettingsError(
                f"batch: {batch} samples cannot be shared evenly by {self.size} processes"
            )
        if self.size == 1:
            return range(first, last)
        part = batch // self.size
        return [
            step + self.rank * part + index
            for step in range(first, last, batch)
            for index in range(part)
        ]


def is_first_process() -> bool:
    """Tell whether this is the one process, or the one of torchrun's that writes the outcome."""
    return int(os.environ.get("RANK", "0")) == 0
