"""The stage that converts: which stacks of a series are processed, and their volumes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from mrisr_node.errors import ConversionError, OutOfRange, ResultGone
from mrisr_node.intake.selection import Selection, SelectionRules, Stack, select
from mrisr_node.jobs.result_files import STACKS
from mrisr_node.jobs.workspace import Workspace
from mrisr_node.settings import Settings
from mrisr_node.superres.checkpoints import Checkpoint, choose
from mrisr_node.volumes.acquisition import Acquisition
from mrisr_node.volumes.contrast import contrast_of
from mrisr_node.volumes.conversion import convert

__all__ = ["checkpoint_for", "convert_stacks"]


def convert_stacks(workspace: Workspace, rules: SelectionRules) -> None:
    """Tell the stacks of a series apart, and convert each.

    Parameters
    ----------
    workspace
        Gets the note `STACKS`, and for each stack the volume and the note ``source``.
    rules
        What series are selected by.

    Raises
    ------
    NotEligible, SeriesError
        Nothing of the series can be processed, or something of it is not as it should be.
    """
    headers = workspace.headers()
    selection = select(headers, rules)
    stacks, left_out = _within_range(workspace.settings, selection, headers)
    # Taken once, so that a repeat gives the same bytes.
    made_at = datetime.now().astimezone().isoformat(timespec="seconds")
    if workspace.has(STACKS):
        with suppress(ResultGone):
            made_at = str(workspace.read(STACKS)["made_at"])
    workspace.clear(keep=f"{STACKS}.json")
    noted = [
        {
            "label": stack.label,
            "sop_instance_uids": sorted({s.sop_instance_uid for s in stack.acquisition.slices}),
        }
        for stack in stacks
    ]
    workspace.note(STACKS, {"made_at": made_at, "stacks": noted, "left_out": left_out})
    for stack in workspace.stacks():
        stack.folder.mkdir(exist_ok=True, mode=0o700)
        try:
            _convert_stack(stack, made_at)
        except ConversionError as error:
            raise ConversionError(
                f"{stack.stack}: {error}" if stack.stack else str(error)
            ) from error


def _within_range(
    settings: Settings, selection: Selection, headers: Sequence[Dataset]
) -> tuple[list[Stack], list[str]]:
    """Return the stacks that a checkpoint is made for, and of the others in words why they are not.

    Asked before the minutes of work that an unsuitable series would cost for nothing.
    """
    within, left_out = [], list(selection.left_out)
    for stack in selection.stacks:
        own = {s.sop_instance_uid for s in stack.acquisition.slices}
        try:
            checkpoint_for(
                settings,
                _facts(stack.acquisition, [d for d in headers if str(d.SOPInstanceUID) in own]),
            )
        except OutOfRange as error:
            if len(selection.stacks) == 1:
                raise
            left_out.append(f"{stack.label} left out: {error}")
        else:
            within.append(stack)
    if not within:
        raise OutOfRange("; ".join(left_out))
    return within, left_out


def _facts(acquisition: Acquisition, headers: Sequence[Dataset]) -> dict[str, Any]:
    return {
        "shape": acquisition.shape,
        "spacing_mm": acquisition.spacing,
        "thickness_mm": acquisition.thickness,
        "contrast": contrast_of(headers),
        "field_strength": _field_strength(headers),
    }


def _convert_stack(workspace: Workspace, made_at: str) -> None:
    conversion = convert(workspace.files())
    facts = _facts(conversion.acquisition, workspace.headers())
    workspace.save("source", conversion.volume)
    workspace.note("source", {**facts, "remark": conversion.remark, "made_at": made_at})


def _field_strength(headers: Sequence[Dataset]) -> float | None:
    stated = headers[0].get("MagneticFieldStrength")
    with suppress(TypeError, ValueError):
        value = float(stated)
        return value if 0 < value < np.inf else None
    return None


def checkpoint_for(settings: Settings, source: Mapping[str, Any]) -> Checkpoint:
    """Return the checkpoint for a converted series: the same whenever it is asked for."""
    i, j, distance = source["spacing_mm"]
    folder = choose(
        settings.checkpoint_folders,
        distance_mm=distance,
        thickness_mm=source["thickness_mm"],
        pixel_mm=(i, j),
        contrast=source.get("contrast"),  # missing where an older version has converted
    )
    return Checkpoint.load(folder)
