"""Super-resolution of one head on the GPU and on the CPU, side by side.

    python bench/devices.py HEAD.nii.gz [--checkpoint FOLDER]…

Takes the mean of every six slices along y, restores thin ones on either device as the node would,
and prints seconds (the GPU's first call also loads its libraries, so it is called twice), memory,
and how far the two results differ. Where there is no GPU, it says so.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from mrisr_node.superres.checkpoints import Checkpoint
from mrisr_node.superres.inference import super_resolve
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
    arguments = parser.parse_args()
    thick = thickened(load_ras(arguments.head))
    scale = float(thick.data[thick.data > 0.5 * thick.data.mean()].mean())
    devices = ["cuda", "cuda", "cpu"] if torch.cuda.is_available() else ["cpu"]
    if devices == ["cpu"]:
        print("no GPU here")
    print(f"{thick.data.shape} voxels, {torch.get_num_threads()} threads")
    for folder in arguments.checkpoint or [CHECKPOINTS / "thin-quick", CHECKPOINTS / "thin-fine"]:
        results = {}
        for name in devices:
            checkpoint = Checkpoint.load(folder)
            started = time.perf_counter()
            done = super_resolve(
                thick,
                slice_axis=1,
                thickness_mm=thick.spacing[1],
                intensity_scale=scale,
                checkpoint=checkpoint,
                device=torch.device(name),
            )
            seconds = time.perf_counter() - started
            results[name] = done.volume.data
            memory = torch.cuda.max_memory_allocated() / 2**20 if name == "cuda" else 0
            where = f", {memory:.0f} MiB of the GPU" if memory else ""
            print(f"{folder.name} {name} {done.precision}: {seconds:.2f} s{where}", flush=True)
        if len(results) == 2:
            difference = np.abs(results["cuda"] - results["cpu"]) / scale * 100.0
            print(
                f"{folder.name}: they differ by {np.percentile(difference, 99):.3f} % of the "
                f"intensity scale at the 99th percentile, {difference.max():.2f} % at most"
            )


if __name__ == "__main__":
    main()
