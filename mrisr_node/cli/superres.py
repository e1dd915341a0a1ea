"""Commands for networks: train them and measure them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mrisr_node.cli.console import command, err, progress_bar, start_logging
from mrisr_node.errors import SettingsError
from mrisr_node.settings import load_settings

if TYPE_CHECKING:
    from mrisr_node.superres.checkpoints import Checkpoint
    from mrisr_node.superres.peers import Eclare


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
    from mrisr_node.superres.training import export, require_unscored
    from mrisr_node.superres.training import train as run_training
    from mrisr_node.superres.training_config import TrainingConfig

    start_logging()
    parsed = TrainingConfig.load(config)
    if export_to is not None:
        require_unscored(export_to)  # now, and not after hours
    with progress_bar() as bar:
        task = bar.add_task("training", total=parsed.steps)
        run_training(
            parsed, run, resume=resume, progress=lambda step: bar.update(task, completed=step)
        )
    if export_to is not None and is_first_process():
        export(parsed, run, export_to)


_Volumes = Annotated[list[Path], typer.Argument(exists=True, help="sharp NIfTI volumes")]
_Thickness = Annotated[float, typer.Option(min=0.1, help="slice thickness in mm")]
_Gap = Annotated[float, typer.Option(help="gap between slices in mm")]
_Axis = Annotated[str, typer.Option(help="axis across the slices: x, y or z")]
_Profile = Annotated[str, typer.Option(help="slice profile: gaussian or sinc")]
_Method = Annotated[list[str] | None, typer.Option(help="only these methods")]
_Noise = Annotated[float, typer.Option(min=0, help="Rician noise, part of the mean")]
_PartialFourier = Annotated[
    float, typer.Option(help="part of k-space that is acquired, such as 0.75")
]
_Checkpoint = Annotated[Path | None, typer.Option(exists=True, file_okay=False)]
_Eclare = Annotated[
    Path | None, typer.Option("--eclare", exists=True, help="environment with ECLARE in it")
]
_EclarePatches = Annotated[int, typer.Option(min=1, help="patches that ECLARE trains on")]
_EclareBatch = Annotated[int, typer.Option(min=1, help="how many of them at once")]
_Json = Annotated[bool, typer.Option("--json", help="for programs")]


@command
def evaluate(
    volumes: _Volumes,
    thickness: _Thickness,
    gap: _Gap = 0.0,
    axis: _Axis = "y",
    profile: _Profile = "gaussian",
    method: _Method = None,
    noise: _Noise = 0.0,
    partial_fourier: _PartialFourier = 1.0,
    checkpoint: _Checkpoint = None,
    eclare: _Eclare = None,
    eclare_patches: _EclarePatches = 1_000_000,
    eclare_batch: _EclareBatch = 128,
    as_json: _Json = False,
) -> None:
    """Degrade sharp volumes, restore them by several methods, and score those."""
    from mrisr_node.superres.evaluation import evaluate as run_evaluation
    from mrisr_node.superres.methods import DEFAULT_METHODS
    from mrisr_node.volumes.degradation import SliceProfile

    methods = tuple(method or DEFAULT_METHODS)
    with _refusals():
        result = run_evaluation(
            volumes,
            thickness_mm=thickness,
            gap_mm=gap,
            axis=axis,
            methods=methods,
            checkpoint=_network(checkpoint, methods),
            noise=noise,
            profile=SliceProfile(profile),
            partial_fourier=partial_fourier,
            eclare=_peer(eclare, eclare_patches, eclare_batch),
            progress=lambda s: err.print(
                f"{s.subject} {s.method} {s.psnr_db:.2f} dB", markup=False, highlight=False
            ),
        )
    sys.stdout.write((json.dumps(result.as_json()) if as_json else result.table()) + "\n")


@command
def evaluate_lesions(
    volumes: _Volumes,
    thickness: _Thickness,
    gap: _Gap = 0.0,
    axis: _Axis = "y",
    profile: _Profile = "gaussian",
    method: _Method = None,
    noise: _Noise = 0.0,
    partial_fourier: _PartialFourier = 1.0,
    diameter: Annotated[list[float] | None, typer.Option(min=0.5, help="of spheres, in mm")] = None,
    contrast: Annotated[float, typer.Option(min=0.01, help="part of the tissue's mean")] = 0.3,
    each: Annotated[int, typer.Option(min=1, help="spheres of each kind in a head")] = 10,
    seed: Annotated[int, typer.Option(help="of their places")] = 0,
    checkpoint: _Checkpoint = None,
    eclare: _Eclare = None,
    eclare_patches: _EclarePatches = 1_000_000,
    eclare_batch: _EclareBatch = 128,
    as_json: _Json = False,
) -> None:
    """Plant small spheres in sharp volumes, degrade and restore these, and look for the spheres."""
    from mrisr_node.superres.lesions import LESION_METHODS
    from mrisr_node.superres.lesions import evaluate_lesions as run_evaluation
    from mrisr_node.superres.simulation import Protocol
    from mrisr_node.superres.spheres import Lesions
    from mrisr_node.volumes.degradation import SliceProfile

    methods = tuple(method or LESION_METHODS)
    with _refusals():
        lesions = Lesions(contrast=contrast, each=each, seed=seed)
        result = run_evaluation(
            volumes,
            Protocol(thickness, gap, axis, SliceProfile(profile), noise, partial_fourier),
            lesions=replace(lesions, diameters_mm=tuple(diameter)) if diameter else lesions,
            methods=methods,
            checkpoint=_network(checkpoint, methods),
            eclare=_peer(eclare, eclare_patches, eclare_batch),
            progress=lambda subject, name: err.print(
                f"{subject} {name}", markup=False, highlight=False
            ),
        )
    sys.stdout.write((json.dumps(result.as_json()) if as_json else result.table()) + "\n")


def _network(folder: Path | None, methods: Sequence[str]) -> Checkpoint | None:
    """Load the checkpoint, by default the first of the settings, if a method needs one."""
    from mrisr_node.superres.checkpoints import Checkpoint

    if not any(name.startswith("ours") for name in methods):
        return None
    return Checkpoint.load(folder or load_settings().checkpoint_folders[0])


def _peer(environment: Path | None, patches: int, batch: int) -> Eclare | None:
    """Return ECLARE as it is installed in an environment, if one is named."""
    from mrisr_node.superres.peers import Eclare

    return Eclare(environment, patches, batch) if environment else None


@contextmanager
def _refusals() -> Iterator[None]:
    """Turn what a library refuses into an error with a message for the terminal."""
    try:
        yield
    except ValueError as error:
        raise SettingsError(str(error)) from error
