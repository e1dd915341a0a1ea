"""Speed and memory of super-resolution, side by side with other ways to the same thin slices.

    python bench/superres.py HEAD.nii.gz [--axis y] [--thickness 5] [--gap 0] [--threads N]
        [--checkpoint FOLDER] [--random WIDTH BLOCKS] [--precision float32] [--size PIXELS]
        [--enlarge FACTOR]

HEAD is a sharp volume (NIfTI, or a ``.tar.xz`` archive of one DICOM series); it is acquired in
thick slices first. Without one, it is the average head that comes with nilearn. ``--size`` takes
the middle of it only, to be quick; ``--enlarge`` gives its slices so many times the pixels in both
directions; ``--random`` puts a network of another size into the checkpoint, with weights that mean
nothing and cost the same.

Prints seconds and the memory that each way adds to the process at its peak, and how fast the
network computes beside a plain convolution of its width and a product of matrices, in the same run
with the same threads and precision. SwinUNETR is timed for one window, times their number.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import resource
import time
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch
from measuring import SAMPLE, measured
from monai.inferers.utils import sliding_window_inference
from scipy.ndimage import gaussian_filter1d, zoom
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mrisr_node.superres.checkpoints import Checkpoint
from mrisr_node.superres.inference import pick_precision, super_resolve
from mrisr_node.superres.interpolated import window_count
from mrisr_node.superres.networks import FoldedResidual, build_network, conditions
from mrisr_node.superres.operators import SUB_SLICES, build_operators
from mrisr_node.superres.restoration import TorchOperators, fold, restore
from mrisr_node.superres.sources import load_ras
from mrisr_node.volumes.degradation import SliceStack, profile_sigma, thicken
from mrisr_node.volumes.geometry import Volume

CHECKPOINTS = Path(__file__).parent.parent / "checkpoints"
SEED_WINDOW = 96
NAIVE_WINDOW = 48


class Watched:
    """A network's time and the shapes it was given."""

    def __init__(self, network: nn.Module) -> None:
        self.seconds = 0.0
        self.shapes: list[tuple[int, ...]] = []
        network.register_forward_pre_hook(self._before)
        network.register_forward_hook(self._after)

    def _before(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.shapes.append(tuple(inputs[0].shape[2:]))
        self._started = time.perf_counter()

    def _after(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self._started


def convolution_gflop(network: nn.Module, shapes: Sequence[tuple[int, ...]]) -> float:
    """Count the operations of all convolutions exactly, without computing anything."""
    network = copy.deepcopy(network).to("meta")
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        for shape in shapes:
            network(
                torch.empty(1, SUB_SLICES, *shape, device="meta"),
                conditions(5, 5, 1)[None].to("meta"),
            )
    counts = counter.get_flop_counts()["Global"]
    return 1e-9 * float(sum(count for kind, count in counts.items() if "conv" in str(kind)))


def convolution_rate(width: int, shape: tuple[int, ...], dtype: torch.dtype) -> float:
    """Return GFLOP/s of one 3×3×3 convolution between ``width`` channels."""
    layer = nn.Conv3d(width, width, 3, padding=1).to(dtype).to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    features = torch.randn(1, width, *shape, dtype=dtype)
    features = features.contiguous(memory_format=torch.channels_last_3d)
    layer(features)
    _, seconds, _ = measured(lambda: layer(features), 3)
    return 2e-9 * 27 * width * features.numel() / seconds


def product_rate(dtype: torch.dtype, size: int = 2048) -> float:
    """Return GFLOP/s of a product of square matrices."""
    a = torch.randn(size, size).to(dtype)
    a @ a
    return 2e-9 * size**3 / measured(lambda: a @ a, 3)[1]


def swin_unetr_window(size: int) -> tuple[float, float]:
    """Time one window of the seed project's network, in float32 as it ran it."""
    network = build_network("swin-unetr", {"feature_size": 48}).eval()
    window = torch.rand(1, 1, size, size, size)
    _, seconds, mib = measured(lambda: network(window), 2)
    return seconds, mib


def naive(thick: Tensor, operators: TorchOperators, network: nn.Module, geometry: Tensor) -> Tensor:
    """Run the network in small blended windows all over the volume, and unfold the whole update."""
    folded = fold(thick, operators)
    window = (NAIVE_WINDOW, NAIVE_WINDOW, min(NAIVE_WINDOW, thick.shape[-1]))
    update = sliding_window_inference(folded, window, 1, lambda part: network(part, geometry))
    return restore(thick, cast(Tensor, update), operators)


def scipy_back_projection(thick: np.ndarray, count: int, stack: SliceStack) -> np.ndarray:
    """Interpolate, then blur, take thick slices, and interpolate what is missing, five times."""
    up = (1.0, 1.0, count / stack.count)
    down = (1.0, 1.0, stack.count / count)
    sigma = profile_sigma(stack.thickness_mm) * count / (stack.count * stack.distance_mm)
    thin = zoom(thick, up, order=3, mode="mirror", grid_mode=True)
    for _ in range(5):
        again = zoom(
            gaussian_filter1d(thin, sigma, axis=2), down, order=3, mode="mirror", grid_mode=True
        )
        thin += zoom(thick - again, up, order=3, mode="mirror", grid_mode=True)
    return np.asarray(thin)


def acquired(arguments: argparse.Namespace) -> Volume:
    """Return the thick slices, slice axis last."""
    sharp = load_ras(arguments.head)
    if arguments.size:
        starts = [max(0, (length - arguments.size) // 2) for length in sharp.data.shape]
        middle = tuple(slice(start, start + arguments.size) for start in starts)
        sharp = Volume(np.ascontiguousarray(sharp.data[middle]), sharp.affine)
    axis = "xyz".index(arguments.axis)
    thick = thicken(sharp, axis, arguments.thickness, arguments.gap).volume
    columns = [column for column in range(3) if column != axis] + [axis, 3]
    data, affine = np.moveaxis(thick.data, axis, 2), thick.affine[:, columns]
    larger = (arguments.enlarge, arguments.enlarge, 1.0)
    if larger != (1.0, 1.0, 1.0):
        # For time and memory alone: where its voxels lie does not matter here.
        data, affine = zoom(data, larger, order=1), affine / np.array([*larger, 1.0])
    return Volume(np.ascontiguousarray(data), affine)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("head", nargs="?", type=Path, default=SAMPLE)
    parser.add_argument("--axis", default="y", choices="xyz")
    parser.add_argument("--thickness", default=5.0, type=float)
    parser.add_argument("--gap", default=0.0, type=float)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINTS / "thin-quick")
    parser.add_argument("--random", type=int, nargs=2, metavar=("WIDTH", "BLOCKS"))
    parser.add_argument("--precision", choices=("float32", "bfloat16"))
    parser.add_argument("--size", type=int)
    parser.add_argument("--enlarge", default=1.0, type=float)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    checkpoint = Checkpoint.load(arguments.checkpoint)
    if arguments.random:
        width, blocks = arguments.random
        other = FoldedResidual(width, blocks, in_plane_fold=1).eval().requires_grad_(False)
        checkpoint = dataclasses.replace(checkpoint, network=other)
    network = copy.deepcopy(checkpoint.network)
    precision = arguments.precision or pick_precision(torch.device("cpu"), checkpoint.card.network)
    thick = acquired(arguments)
    scale = float(thick.data[thick.data > thick.data.mean()].mean())

    watched, results = Watched(checkpoint.network), []
    _, seconds, mib = measured(
        lambda: results.append(
            super_resolve(
                thick,
                slice_axis=2,
                thickness_mm=arguments.thickness,
                intensity_scale=scale,
                checkpoint=checkpoint,
                device=torch.device("cpu"),
                precision=precision,
            )
        )
    )
    total = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    shape = results[0].volume.data.shape
    gflop = convolution_gflop(network, watched.shapes)
    largest = max(watched.shapes, key=lambda window: window[0] * window[1] * window[2])
    width = max(m.out_channels for m in network.modules() if isinstance(m, nn.Conv3d))
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    rate = gflop / watched.seconds
    print(
        f"{arguments.head.name.split('.')[0]}: {thick.data.shape} to {shape}, "
        f"{torch.get_num_threads()} threads, {precision}\n"
        f"ours: {seconds:.1f} s, + {mib:.0f} MiB ({total:.0f} MiB with Python and libraries)\n"
        f"  network: {watched.seconds:.1f} s, {gflop:.0f} GFLOP in windows of at most {largest}, "
        f"{rate:.0f} GFLOP/s; the rest takes {seconds - watched.seconds:.1f} s",
        flush=True,
    )
    with torch.inference_mode():
        for words, found in (
            (
                f"convolution, {width} channels, such a window",
                convolution_rate(width, largest, dtype),
            ),
            (
                f"convolution, {width} channels, 48×48×16",
                convolution_rate(width, (48, 48, 16), dtype),
            ),
            ("product of 2048² matrices", product_rate(dtype)),
        ):
            print(
                f"  {words}: {found:.0f} GFLOP/s; the network reaches {rate / found:.0%}",
                flush=True,
            )

        def compare(words: str, others: float, memory: float) -> None:
            ratio = others / seconds
            print(f"{words}: {others:.1f} s, + {memory:.0f} MiB: {ratio:.1f} × ours", flush=True)

        stack = SliceStack(thick.data.shape[2], thick.spacing[2], arguments.thickness)
        operators = TorchOperators.of(build_operators(stack, stack.divided(shape[2])))
        geometry = conditions(stack.distance_mm, stack.thickness_mm, thick.spacing[0])[None]
        scaled = torch.from_numpy(thick.data / np.float32(scale))[None]
        compare(
            f"small windows, same weights (MONAI, {NAIVE_WINDOW} pixels, overlap 0.25, float32)",
            *measured(lambda: naive(scaled, operators, network, geometry))[1:],
        )
        compare(
            "cubic and five back-projections (SciPy)",
            *measured(lambda: scipy_back_projection(thick.data, shape[2], stack))[1:],
        )
        windows = window_count(shape, SEED_WINDOW)
        one, memory = swin_unetr_window(SEED_WINDOW)
        compare(
            f"SwinUNETR-48 on the interpolated grid (one window of {SEED_WINDOW}³, {one:.1f} s, "
            f"times {windows} windows, overlap 0.25, float32)",
            one * windows,
            memory,
        )


if __name__ == "__main__":
    main()
