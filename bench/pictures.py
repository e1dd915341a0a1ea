"""Pictures for the README of a checkpoint: how it was trained, what it does, and where it fails.

    python bench/pictures.py HEAD.nii.gz --checkpoint FOLDER [--axis y] [--thickness 5] [--gap 0.5]

HEAD is a sharp volume that the checkpoint was not trained on. Writes into FOLDER:

curves.png
    loss and gain of its ``log.jsonl``, the training run's own record;
slices.png
    a slice across the thick slices: acquired, interpolated, back-projected, restored, true;
failures.png
    the places where the restored head is most wrong, beside the truth and back-projection.

Heads with a face are not for public documents.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from mrisr_node.superres.checkpoints import Checkpoint
from mrisr_node.superres.methods import build_methods
from mrisr_node.superres.simulation import Protocol, crop_to_head, foreground, simulate
from mrisr_node.superres.sources import load_ras

WORDS = {
    "cubic": "cubic B-spline",
    "cubic-bp": "cubic + 5 back-projections",
    "ours": "this network",
}
PLACE = 32  # voxels along each side of a failure's picture
FAILURES = 4

Image = NDArray[np.float32]


def curves(log: Path, target: Path) -> None:
    """Draw what the training run wrote down at every validation."""
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    steps = [entry["step"] for entry in entries]
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    left.plot(steps, [entry["loss"] for entry in entries], color="#555")
    left.set(xlabel="step", ylabel="mean absolute error / linear estimate's", title="training")
    right.plot(steps, [entry["gain_db"] for entry in entries], color="#06c")
    right.set(xlabel="step", ylabel="dB over the linear estimate", title="validation heads")
    for axes in (left, right):
        axes.locator_params(axis="x", nbins=6)
        axes.grid(alpha=0.3)
    figure.savefig(target, dpi=110)


def shown(axes: plt.Axes, image: Image, title: str, peak: float) -> None:
    """Show a plane whose first axis points right and whose second points up."""
    axes.imshow(image.T, origin="lower", cmap="gray", vmin=0, vmax=peak, interpolation="nearest")
    axes.set_title(title, fontsize=9)
    axes.set_axis_off()


def main() -> None:
    """Draw all pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("head", type=Path)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--axis", default="y", choices="xyz")
    parser.add_argument("--thickness", default=5.0, type=float)
    parser.add_argument("--gap", default=0.5, type=float)
    arguments = parser.parse_args()
    folder = arguments.checkpoint
    if (folder / "log.jsonl").is_file():
        curves(folder / "log.jsonl", folder / "curves.png")

    protocol = Protocol(arguments.thickness, arguments.gap, arguments.axis)
    simulated = simulate(crop_to_head(load_ras(arguments.head)), protocol)
    thick, truth = simulated.thick, simulated.truth
    methods = build_methods(list(WORDS), Checkpoint.load(folder))
    found = {WORDS[name]: method(thick) for name, method in methods.items()}
    nearest = np.abs(thick.positions[:, None] - thick.stack.centres).argmin(axis=1)
    mask = foreground(truth)
    peak = float(np.percentile(truth[mask], 99.5))

    # The last axis is the one across the slices: a plane with it shows what was gained.
    # Beside the middle of the head, where there is cortex.
    plane = max(0, int(mask.sum(axis=(1, 2)).argmax()) - 12)
    images = {"acquired": thick.slices[plane][:, nearest]}
    images |= {name: volume[plane] for name, volume in found.items()}
    images["truth"] = truth[plane]
    figure, row = plt.subplots(1, len(images), figsize=(3 * len(images), 2.5), layout="constrained")
    for axes, (name, image) in zip(row, images.items(), strict=True):
        shown(axes, image if arguments.axis == "z" else image.T, name, peak)
    figure.savefig(folder / "slices.png", dpi=110)

    ours = found[WORDS["ours"]]
    wrong = uniform_filter(np.where(mask, np.abs(ours - truth), 0), 9)
    figure, grid = plt.subplots(
        FAILURES, 4, figsize=(8, 2 * FAILURES), layout="constrained", squeeze=False
    )
    for row in grid:
        centre = np.unravel_index(int(wrong.argmax()), wrong.shape)
        x, y, z = (
            slice(max(0, int(c) - PLACE // 2), max(0, int(c) - PLACE // 2) + PLACE) for c in centre
        )
        around = (int(centre[0]), y, z)
        parts = {
            "truth": truth[around],
            "this network": ours[around],
            "back-projection": found[WORDS["cubic-bp"]][around],
            "error × 2": 2 * np.abs(ours[around] - truth[around]),
        }
        for axes, (name, image) in zip(row, parts.items(), strict=True):
            shown(axes, image, name, peak)
        wrong[x, y, z] = 0
    figure.savefig(folder / "failures.png", dpi=110)


if __name__ == "__main__":
    main()
