"""Quality of the shipped super-resolution, side by side with what one could have instead.

    python bench/quality.py HR.nii.gz… [--axis y] [--noise 0.02] [--record]

For 4 mm slices without gap and 5 mm slices with 0.5 mm between them, prints what ``mrisr-node
evaluate`` does. ``--record`` puts the means on the checkpoint's card. Files are sharp volumes:
NIfTI, or ``.tar.xz`` archives of one DICOM series. Without any, it is the average head that comes
with nilearn, which is too smooth to say much.
"""

from __future__ import annotations

import argparse
import dataclasses
from importlib.resources import files
from pathlib import Path

from mrisr_node.superres.checkpoints import Card, Checkpoint
from mrisr_node.superres.evaluation import Evaluation, evaluate

PROTOCOLS = ((4.0, 0.0), (5.0, 0.5))  # thickness and gap in mm
SAMPLE = Path(
    str(files("nilearn") / "datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz")
)
CHECKPOINTS = Path(__file__).parent.parent / "checkpoints"


def entry(evaluation: Evaluation) -> dict[str, object]:
    """Return what the card says of one evaluation."""
    options = f"--thickness {evaluation.thickness_mm:g} --gap {evaluation.gap_mm:g}"
    options += f" --axis {evaluation.axis}"
    options += f" --noise {evaluation.noise:g}" if evaluation.noise else ""
    subjects = list(dict.fromkeys(score.subject for score in evaluation.scores))
    return {
        "command": f"mrisr-node evaluate {' '.join(subjects)} {options}",
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


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path, default=[SAMPLE])
    parser.add_argument("--axis", default="y", choices="xyz")
    parser.add_argument("--noise", default=0.0, type=float)
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINTS / "thin-small")
    parser.add_argument("--record", action="store_true", help="write the means to the card")
    arguments = parser.parse_args()
    checkpoint = Checkpoint.load(arguments.checkpoint)
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
