"""What was tried around the network and is not used, beside what is.

    python bench/tried.py [HEAD.nii.gz…] [--checkpoint FOLDER] [--slices 4/0] [--axis y]

HEAD is a sharp volume (NIfTI, or a ``.tar.xz`` archive of one DICOM series); it is acquired in
thick slices. Without one, it is the average head that comes with nilearn, which is too smooth to
say much.

A second move: the result is moved by what it lacks of the acquired slices twice instead of once.
Prints PSNR inside the foreground, and the median of what is still missing, without noise and with
2 % of it.

The end slices: a part of their profile sees tissue outside of the field of view. Of the middle half
of the slices, whose truth goes on beyond both ends, the first and the last are scored: as the node
restores them, with the outermost thin slice standing for all beyond it; with that part counted for
tissue inside; and with a line through the outermost two. Prints PSNR, and how far inwards the
centre of the first slice is taken on the grid that the node would choose.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from measuring import SAMPLE
from torch import Tensor

from mrisr_node.superres.checkpoints import Checkpoint
from mrisr_node.superres.methods import Method, build_methods
from mrisr_node.superres.metrics import psnr
from mrisr_node.superres.operators import build_operators
from mrisr_node.superres.restoration import TorchOperators, consistent, restore
from mrisr_node.superres.simulation import Protocol, Simulated, crop_to_head, foreground, simulate
from mrisr_node.superres.sources import load_ras
from mrisr_node.volumes.degradation import (
    Positions,
    SliceStack,
    along_last_axis,
    degradation_matrix,
    slice_profile,
)
from mrisr_node.volumes.geometry import FloatArray, Volume

CHECKPOINTS = Path(__file__).parent.parent / "checkpoints"
OPERATORS = "mrisr_node.superres.operators.degradation_matrix"
RESTORE = "mrisr_node.superres.folded.restore"


def moved_twice(thick: Tensor, update: Tensor | None, operators: TorchOperators) -> Tensor:
    """Return what :func:`restore` does, moved once more by what it lacks."""
    return consistent(restore(thick, update, operators), thick, operators)


def inside_only(stack: SliceStack, positions: Positions) -> Positions:
    """Return A of a stack whose end slices see nothing beyond the ends."""
    weights = slice_profile(positions[None, :] - stack.centres[:, None], stack.thickness_mm)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def line_beyond(stack: SliceStack, positions: Positions) -> Positions:
    """Return A of a stack beyond whose ends the line through the outermost two slices goes on."""
    step = float(positions[1] - positions[0])
    count = int(np.ceil(2.0 * stack.thickness_mm / step))
    wide = np.arange(-count, len(positions) + count) * step + positions[0]
    near = np.eye(len(positions))
    far = np.arange(1, count + 1)[:, None]
    before = near[0] + far[::-1] * (near[0] - near[1])
    after = near[-1] + far * (near[-1] - near[-2])
    return degradation_matrix(stack, wide) @ np.concatenate([before, near, after])


def middle(made: Simulated) -> Simulated:
    """Return the middle half of the slices, as if no more had been acquired."""
    thick = made.thick
    first, count = thick.stack.count // 4, thick.stack.count // 2
    stack = dataclasses.replace(thick.stack, count=count)
    positions = thick.positions - first * stack.distance_mm
    low, high = -0.5 * stack.distance_mm, (count - 0.5) * stack.distance_mm
    inside = (positions > low) & (positions < high)
    slices = np.ascontiguousarray(thick.slices[..., first : first + count])
    part = dataclasses.replace(thick, slices=slices, stack=stack, positions=positions[inside])
    return Simulated(part, made.truth[..., inside], made.first + int(np.argmax(inside)))


def linear(made: Simulated) -> FloatArray:
    """Return the linear estimate, moved by what it lacks, too."""
    thick = made.thick
    operators = TorchOperators.of(build_operators(thick.stack, thick.positions))
    return restore(torch.from_numpy(thick.slices)[None], None, operators)[0].numpy()


def second_move(head: Volume, protocol: Protocol, ours: Method) -> None:
    """Print what a second move changes."""
    for noise in (0.0, 0.02):
        made = simulate(head, dataclasses.replace(protocol, noise=noise))
        mask, acquired = foreground(made.truth), foreground(made.thick.slices)
        peak = float(np.percentile(made.truth[mask], 99.5))
        degrade = degradation_matrix(made.thick.stack, made.thick.positions)
        words = []
        for moves, how in (("one move", restore), ("two", moved_twice)):
            with patch(RESTORE, how):
                found = ours(made.thick)
            missing = np.abs(made.thick.slices - along_last_axis(degrade, found))[acquired]
            share = 100.0 * float(np.median(missing)) / made.thick.intensity_scale
            words.append(f"{moves} {psnr(made.truth, found, mask, peak):.3f} dB, {share:.4f} %")
        print(f"  {100 * noise:g} % noise: {'; '.join(words)} missing", flush=True)


def end_slices(head: Volume, protocol: Protocol, ours: Method) -> None:
    """Print how close the first and the last slice come to the truth."""
    whole = simulate(head, protocol)
    made = middle(whole)
    # Of the whole head: at a volume's ends the foreground is not known.
    start = made.first - whole.first
    mask = foreground(whole.truth)[..., start : start + made.truth.shape[-1]]
    peak = float(np.percentile(made.truth[mask], 99.5))
    half = 0.5 * made.thick.stack.distance_mm
    places = made.thick.positions
    mask[..., (places > half) & (places < made.thick.stack.centres[-1] - half)] = False
    grid = made.thick.stack.divided(made.thick.stack.thin_count(made.thick.in_plane_mm))
    for words, degrade in (
        ("the outermost thin slice beyond", degradation_matrix),
        ("nothing beyond", inside_only),
        ("a line through the outermost two beyond", line_beyond),
    ):
        with patch(OPERATORS, degrade):
            by_lines, by_network = linear(made), ours(made.thick)
        print(
            f"  end slices, {words}: linear {psnr(made.truth, by_lines, mask, peak):.2f} dB, "
            f"network {psnr(made.truth, by_network, mask, peak):.2f} dB; the first slice's centre "
            f"{(degrade(made.thick.stack, grid) @ grid)[0]:.2f} mm too far inwards",
            flush=True,
        )


def main() -> None:
    """Run the experiments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("heads", nargs="*", type=Path, default=[SAMPLE])
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINTS / "thin-quick")
    parser.add_argument("--slices", default="4/0", help="thickness/gap in mm")
    parser.add_argument("--axis", default="y", choices="xyz")
    arguments = parser.parse_args()
    thickness, gap = map(float, arguments.slices.split("/"))
    protocol = Protocol(thickness, gap, arguments.axis)
    ours = build_methods(("ours",), Checkpoint.load(arguments.checkpoint))["ours"]
    for path in arguments.heads:
        head = crop_to_head(load_ras(path))
        print(f"{path.name.split('.')[0]}, {thickness:g}/{gap:g} mm along {arguments.axis}")
        second_move(head, protocol, ours)
        end_slices(head, protocol, ours)


if __name__ == "__main__":
    main()
