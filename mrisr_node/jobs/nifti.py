"""The stages that differ where a series is a NIfTI file: its slices, and a result that is files."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import datetime
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

from mrisr_node import __version__
from mrisr_node.choices import Recipe
from mrisr_node.durable import sync
from mrisr_node.errors import ConversionError, ResultGone
from mrisr_node.jobs.converting import checkpoint_for
from mrisr_node.jobs.workspace import NiftiInput, Workspace
from mrisr_node.jobs.writing import describe, replaced
from mrisr_node.results.previews import write_previews
from mrisr_node.results.values import Window
from mrisr_node.superres.inference import change_over_cubic
from mrisr_node.volumes.conversion import SLICE_AXIS
from mrisr_node.volumes.geometry import Volume, resampled
from mrisr_node.volumes.nifti import read_slices

__all__ = ["convert_nifti", "write_files"]


def convert_nifti(workspace: Workspace, nifti: NiftiInput) -> None:
    """Read the slices of the file.

    Parameters
    ----------
    workspace
        Gets the volume and the note ``source``.

    Raises
    ------
    ConversionError
        The file is gone, or cannot be used.
    OutOfRange
        No checkpoint is made for such slices.
    """
    made_at = datetime.now().astimezone().isoformat(timespec="seconds")
    if workspace.has("source"):
        with suppress(ResultGone):
            made_at = str(workspace.read("source")["made_at"])
    workspace.clear(keep="source.json")
    [path] = workspace.sources
    if not path.is_file():
        raise ConversionError("the uploaded file is deleted; upload it again")
    volume, axes = read_slices(path, nifti.slice_axis)
    facts = {
        "shape": volume.data.shape,
        "spacing_mm": volume.spacing,
        "thickness_mm": nifti.thickness_mm,
        "contrast": nifti.contrast,
        "field_strength": None,
        "axes": axes,
        "remark": "Made from a NIfTI file, which tells no more than its geometry",
        "made_at": made_at,
    }
    checkpoint_for(workspace.settings, facts)
    workspace.save("source", volume)
    workspace.note("source", facts)


def write_files(workspace: Workspace, nifti: NiftiInput) -> None:
    """Write the result as files, whole or not at all.

    Parameters
    ----------
    workspace
        Gets ``files_dir``, and the note ``result`` unless the file becomes a study, too.
    """
    native = workspace.recipe is Recipe.NATIVE
    source, thin = workspace.read("source"), workspace.load("thin")
    volumes = {"thin": thin}
    if native:
        brain = workspace.load("brain")
        mask = resampled(brain, thin.affine, thin.data.shape).data > 0.5
        acquired = workspace.load("source")
        volumes["brain"] = Volume(mask.astype(np.float32), thin.affine)
        volumes["fidelity"] = workspace.load("residual")
        volumes["change"] = change_over_cubic(acquired, thin, SLICE_AXIS)
    with replaced(workspace.files_dir) as draft:
        for name, volume in volumes.items():
            # As the file that was uploaded has them; of a template they are its own.
            as_asked = _with_axes(volume, source["axes"]) if native else volume
            as_asked.save(draft / f"{name}.nii.gz", in_template_space=not native)
        (draft / "thin.json").write_text(json.dumps(_sidecar(workspace, nifti), indent=1))
        if native:
            low, high = (float(v) for v in np.percentile(acquired.data, (1, 99.5)))
            window = Window((low + high) / 2, max(1.0, high - low))
            write_previews(draft, acquired, thin, brain.data > 0.5, window)
        for path in draft.iterdir():
            sync(path)
    workspace.note(
        "result",
        {
            "study_instance_uid": None,
            "series_instance_uid": None,
            "instances": 0,
            "series": {},
            "description": describe(workspace),
        },
    )


def _sidecar(workspace: Workspace, nifti: NiftiInput) -> dict[str, Any]:
    """Return what made the result, of what, and how faithful it is."""
    source, made = workspace.read("source"), workspace.read("superresolve")
    return {
        "Description": describe(workspace),
        "GeneratedBy": {
            "Name": "mrisr_node",
            "Version": __version__,
            "Recipe": workspace.recipe.value,
            "Checkpoint": made["checkpoint"],
            "CheckpointSHA256": made["digest"],
            "Precision": made["precision"],
            "BrainMethod": workspace.read("brain")["method"],
        },
        "Source": {
            "SHA256": nifti.sha256,
            "SliceAxis": nifti.slice_axis,
            "Shape": source["shape"],
            "SpacingMm": source["spacing_mm"],
            "SliceThicknessMm": source["thickness_mm"],
            "Contrast": source["contrast"],
        },
        "SliceSpacingMm": made["thin_spacing_mm"],
        "SliceProfile": made["profile"],
        "CheckpointRange": made["range"],
        "Fidelity": made["fidelity"],
        "Remarks": [source["remark"], *workspace.remarks],
        "Seconds": dict(workspace.seconds),
        "MadeAt": source["made_at"],
    }


def _with_axes(volume: Volume, axes: str) -> Volume:
    """Return a volume with its axes in another order and direction, such as ``RAS``."""
    turn = ornt_transform(io_orientation(volume.affine), axcodes2ornt(axes))  # type: ignore[no-untyped-call]
    image = nib.nifti1.Nifti1Image(volume.data, volume.affine).as_reoriented(turn)  # type: ignore[no-untyped-call]
    return Volume(np.ascontiguousarray(image.dataobj), np.asarray(image.affine))
