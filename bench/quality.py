"""Quality of a checkpoint's super-resolution, side by side with what one could have instead.

    python bench/quality.py HR.nii.gz… [--checkpoint FOLDER] [--slices 4/0] [--noise 0.02]
        [--profile sinc] [--partial-fourier 0.75] [--method NAME]…
        [--eclare ENVIRONMENT --eclare-patches N --eclare-batch B] [--record]

Prints what ``mrisr-node evaluate`` does, for 4 mm slices without gap and for 5 mm slices with
0.5 mm between them, or for those of ``--slices`` only. ``--record`` puts the figures on the
checkpoint's card, instead of those of the same methods on the same volumes and acquisition, and
writes all that the card holds as tables to ``scores.md`` beside it. Files are sharp volumes: NIfTI,
or ``.tar.xz`` archives of one DICOM series. Without any, it is the average head that comes with
nilearn, which is too smooth to say much.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from measuring import SAMPLE

from mrisr_node.superres.checkpoints import Card, Checkpoint
from mrisr_node.superres.evaluation import Evaluation, evaluate
from mrisr_node.superres.methods import METHODS
from mrisr_node.superres.peers import ECLARE_PATCHES, Eclare
from mrisr_node.volumes.degradation import SliceProfile

SLICES = ("4/0", "5/0.5")  # thickness and gap in mm
DEFAULT = (
    "linear", "cubic", "lanczos", "cubic-bp", "cubic-bp-wide", "cubic-bp-narrow",
    "ours", "ours-wide", "ours-narrow",
)  # fmt: skip
CHECKPOINTS = Path(__file__).parent.parent / "checkpoints"
ACQUISITION = ("thickness_mm", "gap_mm", "axis", "noise", "profile", "partial_fourier")
WHAT = (*ACQUISITION, "subjects")

HEAD = """\
Made by `bench/quality.py --record`; the same figures stand on `card.json`. The residual is what the
result lacks of the thick slices when it is degraded again, over the foreground's mean. Seconds are
means over the volumes, with other work on the machine at times; memory is the largest of any
volume, above what was in use before.

`qa_asl_T1` and `niivue_chris_t1` are probably the same person, so intervals over subjects are a
little too narrow. `openms-long_patient09_study2_FLAIR` and `niivue_register_T2w`, the other two
evaluation volumes, are real thick slices without a reference and cannot be scored.
"""


def entry(evaluation: Evaluation, eclare: Eclare | None = None) -> dict[str, Any]:
    """Return what the card says of one evaluation."""
    subjects = list(dict.fromkeys(score.subject for score in evaluation.scores))
    methods: dict[str, dict[str, object]] = {}
    for summary in evaluation.summaries():
        scores = [score for score in evaluation.scores if score.method == summary.method]
        methods[summary.method] = {
            "psnr_db": round(summary.psnr_db[0], 3),
            "psnr_db_95": [round(value, 3) for value in summary.psnr_db[1:]],
            "psnr_db_each": [round(score.psnr_db, 2) for score in scores],
            "ssim": round(summary.ssim[0], 4),
            "ssim_each": [round(score.ssim, 3) for score in scores],
            "hfen": round(summary.hfen[0], 4),
            "seconds": round(summary.seconds, 2),
            "peak_mib": round(summary.peak_mib),
            "residual_median": round(summary.residual_median, 5),
            "residual_p99": round(summary.residual_p99, 5),
        }
        if eclare is not None and summary.method == eclare.name:
            methods[summary.method]["batch"] = eclare.batch
    return {
        **{name: getattr(evaluation, name) for name in ACQUISITION},
        "subjects": subjects,
        "methods": methods,
    }


def commands(score: Mapping[str, Any], checkpoint: str) -> list[str]:
    """Return what makes all rows again: one command, and one more for every further ECLARE."""
    methods = score["methods"]
    further = [name for name in methods if name.startswith("eclare")][1:]
    parts = [{name: mean for name, mean in methods.items() if name not in further}]
    parts += [{name: methods[name]} for name in further]
    return [command({**score, "methods": part}, checkpoint) for part in parts]


def command(score: Mapping[str, Any], checkpoint: str) -> str:
    """Return what makes the figures again, of files that are named as their subjects."""
    words = [
        "mrisr-node evaluate HEADS…",
        f"--thickness {score['thickness_mm']:g} --gap {score['gap_mm']:g} --axis {score['axis']}",
        f"--noise {score['noise']:g}" if score["noise"] else "",
        f"--profile {score['profile']}" if score["profile"] != SliceProfile.GAUSSIAN else "",
        f"--partial-fourier {score['partial_fourier']:g}" if score["partial_fourier"] != 1 else "",
        *(f"--method {name.partition(',')[0]}" for name in score["methods"]),
        f"--checkpoint checkpoints/{checkpoint}",
        *(eclare_words(name, mean) for name, mean in score["methods"].items()),
    ]
    return " ".join(filter(None, words))


def eclare_words(name: str, mean: Mapping[str, Any]) -> str:
    """Return the options of a row of ECLARE's; none for another method."""
    if name.partition(",")[0] != "eclare":
        return ""
    shortened = re.search(r"([\d,]+) patches", name)
    patches = int(shortened[1].replace(",", "")) if shortened else ECLARE_PATCHES
    words = f"--eclare ENVIRONMENT --eclare-patches {patches}"
    return f"{words} --eclare-batch {mean['batch']}" if "batch" in mean else words


def tables(score: Mapping[str, Any], checkpoint: str) -> str:
    """Return one evaluation as Markdown: means, and every volume."""
    what = [f"along {score['axis']}"]
    what.append(f"{100 * score['noise']:g} % noise" if score["noise"] else "no noise")
    if score["profile"] != SliceProfile.GAUSSIAN:
        what.append(f"{score['profile']} profile")
    if score["partial_fourier"] != 1:
        what.append(f"partial Fourier {score['partial_fourier']:g}")
    if len(score["subjects"]) == 1:
        what.append(f"{score['subjects'][0]} only")
    lines = [
        f"## {score['thickness_mm']:g} mm slices, {score['gap_mm']:g} mm gap, {', '.join(what)}",
        "",
        "| method | PSNR dB (95 % of the mean) | SSIM | HFEN | residual median / 99th percentile "
        "| seconds | peak MiB |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, mean in score["methods"].items():
        low, high = mean["psnr_db_95"]
        seconds = f"{mean['seconds']:.2f}" if "seconds" in mean else "–"
        lines.append(
            f"| {METHODS.get(name, name)} | {mean['psnr_db']:.2f} ({low:.2f} to {high:.2f}) "
            f"| {mean['ssim']:.4f} | {mean['hfen']:.3f} "
            f"| {100 * mean['residual_median']:.2f} % / {100 * mean['residual_p99']:.1f} % "
            f"| {seconds} | {mean.get('peak_mib', '–')} |"
        )
    names = list(score["methods"])
    lines += [
        "",
        "PSNR in dB / SSIM of every volume:",
        "",
        "| volume | " + " | ".join(names) + " |",
    ]
    lines.append("|---" * (len(names) + 1) + "|")
    for index, subject in enumerate(score["subjects"]):
        cells = [
            f"{mean['psnr_db_each'][index]:.2f} / {mean['ssim_each'][index]:.3f}"
            for mean in score["methods"].values()
        ]
        lines.append(f"| {subject} | " + " | ".join(cells) + " |")
    again = [f"    {line}" for line in commands(score, checkpoint)]
    return "\n".join([*lines, "", "Command:", "", *again, ""])


def record(folder: Path, found: dict[str, Any]) -> None:
    """Put an evaluation on the card, and all that the card holds into tables."""
    card = Card.load(folder / "card.json")
    others = []
    for score in card.scores:
        if [score.get(name) for name in WHAT] == [found[name] for name in WHAT]:
            found = {**found, "methods": {**score["methods"], **found["methods"]}}
        elif "profile" in score:  # of this form: older ones are measured again
            others.append(score)
    scores = sorted(
        [*others, found], key=lambda s: (-len(s["subjects"]), s["noise"], s["thickness_mm"])
    )
    parts = [
        f"# Scores of {card.name}\n",
        HEAD,
        *(tables(score, card.name) for score in scores),
    ]
    dataclasses.replace(card, scores=tuple(scores)).save(folder)
    (folder / "scores.md").write_text("\n".join(parts), encoding="utf-8")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path, default=[SAMPLE])
    parser.add_argument("--axis", default="y", choices="xyz")
    parser.add_argument("--slices", action="append", help="thickness/gap in mm")
    parser.add_argument("--noise", default=0.0, type=float)
    parser.add_argument("--profile", default=SliceProfile.GAUSSIAN, type=SliceProfile)
    parser.add_argument("--partial-fourier", default=1.0, type=float)
    parser.add_argument("--method", action="append")
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINTS / "thin-quick")
    parser.add_argument("--eclare", type=Path)
    parser.add_argument("--eclare-patches", default=ECLARE_PATCHES, type=int)
    parser.add_argument("--eclare-batch", default=16, type=int)
    parser.add_argument("--record", action="store_true", help="write to the checkpoint's folder")
    arguments = parser.parse_args()
    checkpoint = Checkpoint.load(arguments.checkpoint)
    eclare = arguments.eclare and Eclare(
        arguments.eclare, arguments.eclare_patches, arguments.eclare_batch
    )
    for slices in arguments.slices or SLICES:
        thickness, gap = map(float, slices.split("/"))
        evaluation = evaluate(
            arguments.files,
            thickness_mm=thickness,
            gap_mm=gap,
            axis=arguments.axis,
            noise=arguments.noise,
            profile=arguments.profile,
            partial_fourier=arguments.partial_fourier,
            methods=arguments.method or DEFAULT,
            checkpoint=checkpoint,
            eclare=eclare,
        )
        print(evaluation.table(), flush=True)
        if arguments.record:
            record(arguments.checkpoint, entry(evaluation, eclare))


if __name__ == "__main__":
    main()
