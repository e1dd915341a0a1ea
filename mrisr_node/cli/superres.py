"""Commands for networks: train them and measure them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from mrisr_node.cli.console import command, err, progress_bar, start_logging
from mrisr_node.errors import SettingsError
from mrisr_node.settings import load_settings


@command
def train(
    config: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="TOML file")],
    run: Annotated[Path, typer.Option(help="folder of the run")],
    resume: Annotated[bool, typer.Option(help="go on from the folder's state")] = False,
    export_to: Annotated[
        Path | None, typer.Option("--export", help="write a checkpoint folder when done")
    ] = None,
) -> None:
    """Train a network."""
    from mrisr_node.superres.distributed import is_first_process
    from mrisr_node.superres.training import export
    from mrisr_node.superres.training import train as run_training
    from mrisr_node.superres.training_config import TrainingConfig

    start_logging()
    parsed = TrainingConfig.load(config)
    with progress_bar() as bar:
        task = bar.add_task("training", total=parsed.steps)
        run_training(
            parsed, run, resume=resume, progress=lambda step: bar.update(task, completed=step)
        )
    if export_to is not None and is_first_process():
        export(parsed, run, export_to)


@command
def evaluate(
    volumes: Annotated[list[Path], typer.Argument(exists=True, help="sharp NIfTI volumes")],
    thickness: Annotated[float, typer.Option(min=0.1, help="slice thickness in mm")],
    gap: Annotated[float, typer.Option(help="gap between slices in mm")] = 0.0,
    axis: Annotated[str, typer.Option(help="axis across the slices: x, y or z")] = "y",
    method: Annotated[list[str] | None, typer.Option(help="only these methods")] = None,
    noise: Annotated[float, typer.Option(min=0, help="Rician noise, part of the mean")] = 0.0,
    checkpoint: Annotated[Path | None, typer.Option(exists=True, file_okay=False)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="for programs")] = False,
) -> None:
    """Degrade sharp volumes, restore them by several methods, and score those."""
    from mrisr_node.superres.checkpoints import Checkpoint
    from mrisr_node.superres.evaluation import METHODS
    from mrisr_node.superres.evaluation import evaluate as run_evaluation

    methods = tuple(method or METHODS)
    unknown = sorted(set(methods) - set(METHODS))
    if unknown or axis not in ("x", "y", "z"):
        raise SettingsError(f"methods are {', '.join(METHODS)}; axes are x, y and z")
    folder = checkpoint or load_settings().checkpoint_folders[0]
    scores = run_evaluation(
        volumes,
        thickness_mm=thickness,
        gap_mm=gap,
        axis=axis,
        methods=methods,
        checkpoint=Checkpoint.load(folder) if "ours" in methods else None,
        noise=noise,
        progress=lambda s: err.print(
            f"{s.subject} {s.method} {s.psnr_db:.2f} dB", markup=False, highlight=False
        ),
    )
    sys.stdout.write((json.dumps(scores.as_json()) if as_json else scores.table()) + "\n")
