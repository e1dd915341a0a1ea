"""Quality and time of the shipped super-resolution, side by side with what one could have instead.

    python bench/superres.py HR.nii.gz… [--axis y] [--record]

For 4 mm slices without gap and 5 mm slices with 0.5 mm between them, prints PSNR, SSIM and HFEN of
each method (the same thick slices for all), and how much longer super-resolution takes than cubic
B-spline interpolation of the same slices by SciPy. ``--record`` puts the means on the checkpoint's
card. Files are sharp volumes: NIfTI, or ``.tar.xz`` archives of one DICOM series.
"""

from __future__ import annotations

import argparse
import dataclasses
import resource
import time
from pathlib import Path

import torch
from scipy.ndimage import zoom

from mrisr_node.superres.checkpoints import Card, Checkpoint
from mrisr_node.superres.evaluation import Evaluation, evaluate
from mrisr_node.superres.inference import super_resolve
from mrisr_node.superres.sources import load_ras
from mrisr_node.volumes.degradation import thicken

PROTOCOLS = ((4.0, 0.0), (5.0, 0.5))  # thickness and gap in mm


def entry(evaluation: Evaluation) -> dict[str, object]:
    """Return what the card says of one evaluation."""
    gap = f"--thickness {evaluation.thickness_mm:g} --gap {evaluation.gap_mm:g}"
    subjects = list(dict.fromkeys(score.subject for score in evaluation.scores))
    return {
        "command": f"mrisr-node evaluate {' '.join(subjects)} {gap} --axis {evaluation.axis}",
        "thickness_mm": evaluation.thickness_mm,
        "gap_mm": evaluation.gap_mm,
        "axis": evaluation.axis,
        "noise": evaluation.noise,
        "subjects": subjects,
        "methods": {
            summary.method: {
                "psnr_db": round(summary.psnr_db[0], 3),
                "psnr_db_95": [round(value, 3) for value in summary.psnr_db[1:]],
                "psnr_db_each": [
                    round(score.psnr_db, 2)
                    for score in evaluation.scores
                    if score.method == summary.method
                ],
                "ssim": round(summary.ssim[0], 4),
                "hfen": round(summary.hfen[0], 4),
            }
            for summary in evaluation.summaries()
        },
    }


def time_ratio(path: Path, axis: str, checkpoint: Checkpoint) -> str:
    """Time one volume, 5 mm slices, end to end without files."""
    index = "xyz".index(axis)
    thick = thicken(load_ras(path), index, 5.0).volume
    started = time.perf_counter()
    result = super_resolve(
        thick,
        slice_axis=index,
        thickness_mm=5.0,
        intensity_scale=float(thick.data[thick.data > thick.data.mean()].mean()),
        checkpoint=checkpoint,
    )
    ours = time.perf_counter() - started
    factors = [1.0, 1.0, 1.0]
    factors[index] = result.volume.data.shape[index] / thick.data.shape[index]
    started = time.perf_counter()
    zoom(thick.data, factors, order=3, mode="mirror", grid_mode=True)
    cubic = time.perf_counter() - started
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return (
        f"{path.name.split('.')[0]}: {thick.data.shape} to {result.volume.data.shape}: "
        f"ours {ours:.1f} s, cubic (SciPy) {cubic:.1f} s, ratio {ours / cubic:.1f}, "
        f"{torch.get_num_threads()} threads, peak {memory:.1f} GiB"
    )


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--axis", default="y", choices="xyz")
    parser.add_argument("--noise", default=0.0, type=float)
    parser.add_argument(
        "--checkpoint",
        type=Path,
        default=Path(__file__).parent.parent / "checkpoints" / "thin-small",
    )
    parser.add_argument("--record", action="store_true", help="write the means to the card")
    arguments = parser.parse_args()
    checkpoint = Checkpoint.load(arguments.checkpoint)
    print(time_ratio(arguments.files[0], arguments.axis, checkpoint), flush=True)
    scores = []
    for thickness, gap in PROTOCOLS:
        evaluation = evaluate(
            arguments.files,
            thickness_mm=thickness,
            gap_mm=gap,
            axis=arguments.axis,
            noise=arguments.noise,
            checkpoint=checkpoint,
        )
        print(evaluation.table(), flush=True)
        scores.append(entry(evaluation))
    if arguments.record:
        card = Card.load(arguments.checkpoint / "card.json")
        dataclasses.replace(card, scores=(*card.scores, *scores)).save(arguments.checkpoint)


if __name__ == "__main__":
    main()
