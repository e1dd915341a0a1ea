"""Super-resolution of one head on the GPU and on the CPU, side by side.

    python bench/devices.py HEAD.nii.gz [--checkpoint FOLDER]… [--other-precision]

Takes the mean of every six slices along y, restores thin ones on either device as the node would,
and prints seconds (the GPU's first call also loads its libraries, so it is called twice), memory,
and how far the results differ from the CPU's. Where there is no GPU, it says so. On the CPU the
node computes in bfloat16 where there is AMX and in float32 elsewhere; ``--other-precision`` adds
the one that it does not choose; networks on the interpolated grid have only float32.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from mrisr_node.superres.card import CARD, Card
from mrisr_node.superres.checkpoints import Checkpoint
from mrisr_node.superres.inference import pick_precision, super_resolve
from mrisr_node.superres.sources import load_ras
from mrisr_node.volumes.geometry import Volume

CHECKPOINTS = Path(__file__).parent.parent / "checkpoints"
TOGETHER = 6


def thickened(head: Volume) -> Volume:
    """Return the mean of every six slices along y."""
    x, y, z = head.data.shape
    count = y // TOGETHER
    slices = head.data[:, : count * TOGETHER].reshape(x, count, TOGETHER, z).mean(2)
    affine = head.affine.copy()
    affine[:3, 3] += affine[:3, 1] * (TOGETHER - 1) / 2.0
    affine[:3, 1] *= TOGETHER
    return Volume(np.ascontiguousarray(slices, dtype=np.float32), affine)


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("head", type=Path)
    parser.add_argument("--checkpoint", type=Path, action="append")
    parser.add_argument("--other-precision", action="store_true")
    arguments = parser.parse_args()
    thick = thickened(load_ras(arguments.head))
    scale = float(thick.data[thick.data > 0.5 * thick.data.mean()].mean())
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    devices = [gpu, gpu, cpu] if torch.cuda.is_available() else [cpu]
    if gpu not in devices:
        print("no GPU here")
    print(f"{thick.data.shape} voxels, {torch.get_num_threads()} threads")
    for folder in arguments.checkpoint or [CHECKPOINTS / "thin-quick", CHECKPOINTS / "thin-fine"]:
        network = Card.load(folder / CARD).network
        chosen = pick_precision(cpu, network)
        ways = [(device, pick_precision(device, network)) for device in devices]
        if arguments.other_precision:
            ways.append((cpu, "float32" if chosen == "bfloat16" else "bfloat16"))
        results = {}
        for device, precision in ways:
            checkpoint = Checkpoint.load(folder)
            if device == gpu:
                torch.cuda.reset_peak_memory_stats()
            started = time.perf_counter()
            done = super_resolve(
                thick,
                slice_axis=1,
                thickness_mm=thick.spacing[1],
                intensity_scale=scale,
                checkpoint=checkpoint,
                device=device,
                precision=precision,
            )
            seconds = time.perf_counter() - started
            way = f"{device.type} {precision}"
            results[way] = done.volume.data
            memory = torch.cuda.max_memory_allocated() / 2**20 if device == gpu else 0
            where = f", {memory:.0f} MiB of the GPU" if memory else ""
            print(f"{folder.name} {way}: {seconds:.2f} s{where}", flush=True)
        reference = results.pop(f"{cpu.type} {chosen}")
        for way, result in results.items():
            difference = np.abs(result - reference) / scale * 100.0
            print(
                f"{folder.name} {way}: differs from the CPU's {chosen} by "
                f"{np.percentile(difference, 99):.3f} % of the intensity scale at the 99th "
                f"percentile, {difference.max():.2f} % at most"
            )


if __name__ == "__main__":
    main()
