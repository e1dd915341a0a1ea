"""The stage that writes a result: from what the other stages noted to DICOM series on the disk."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrisr_node.choices import MRObject, Recipe, ResultKind
from mrisr_node.durable import sync
from mrisr_node.intake.selection import SelectionRules, select
from mrisr_node.jobs.result_files import DIGESTS, digests_of, make_durable
from mrisr_node.jobs.workspace import Workspace
from mrisr_node.results.classic_mr import write_classic
from mrisr_node.results.enhanced_mr import write_enhanced
from mrisr_node.results.facts import Facts, Predecessor, Residuals
from mrisr_node.results.mr_content import change_map, fidelity_map, thin_slices
from mrisr_node.results.origin import Origin, Provenance, WrittenSeries
from mrisr_node.results.previews import write_previews
from mrisr_node.results.report import write_report
from mrisr_node.results.segmentation import write_brain_mask
from mrisr_node.superres.inference import change_over_cubic
from mrisr_node.volumes.conversion import SLICE_AXIS
from mrisr_node.volumes.geometry import Volume, resampled
from mrisr_node.volumes.registration import TEMPLATE_NAME

__all__ = ["write"]

_MR_WRITERS = {MRObject.CLASSIC: write_classic, MRObject.ENHANCED: write_enhanced}
# In the template's space nothing corresponds to an acquired slice, and the brain is all there is.
_IN_SOURCE_SPACE = frozenset({ResultKind.FIDELITY, ResultKind.CHANGE, ResultKind.MASK})


def write(workspace: Workspace, rules: SelectionRules) -> None:
    """Write every series of the result, whole or not at all.

    Parameters
    ----------
    workspace
        Gets a folder for each series in ``result_dir``, and the notes ``result`` and ``digests``.
    rules
        What the sources were selected by.
    """
    origin = _origin(workspace, rules)
    draft = workspace.folder / f".result.{os.getpid()}"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    written = _write_series(workspace, origin, draft)
    for series in written:
        make_durable(series.paths, draft / series.kind)
    sync(draft)
    shutil.rmtree(workspace.result_dir, ignore_errors=True)
    draft.rename(workspace.result_dir)
    sync(workspace.folder)
    workspace.note(DIGESTS, digests_of(workspace.result_dir))
    image = written[0]
    workspace.note(
        "result",
        {
            "study_instance_uid": image.study_instance_uid,
            "series_instance_uid": image.series_instance_uid,
            "instances": sum(len(series.paths) for series in written),
            "series": {
                series.kind.value: {
                    "series_instance_uid": series.series_instance_uid,
                    "instances": len(series.paths),
                }
                for series in written
            },
            "description": origin.provenance.sentence,
        },
    )


def _origin(workspace: Workspace, rules: SelectionRules) -> Origin:
    """Return what the result comes from."""
    [stack] = select(workspace.headers(), rules).stacks
    # Read again: what has been looked at is decoded, and would be written as we encode it.
    sources = tuple(workspace.headers())
    own = {"", *(str(source.SOPInstanceUID) for source in sources)}
    earlier = next((e for uid, e in workspace.predecessors.items() if uid in own), None)
    origin = Origin(
        sources=sources,
        acquisition=stack.acquisition,
        provenance=_provenance(workspace, earlier),
        facts=_facts(workspace, earlier),
        mr_object=workspace.settings.mr_object,
        stack=workspace.stack,
        stack_number=workspace.stack_number,
    )
    if earlier and earlier.series_instance_uid == str(origin.series_uid(ResultKind.IMAGE)):
        # The same result made again takes the place of nothing.
        return replace(
            origin, provenance=_provenance(workspace, None), facts=_facts(workspace, None)
        )
    return origin


def _write_series(workspace: Workspace, origin: Origin, draft: Path) -> list[WrittenSeries]:
    native = workspace.recipe is Recipe.NATIVE

    def folder(kind: ResultKind) -> Path:
        (draft / kind).mkdir()
        return draft / kind

    thin = workspace.load("thin")
    write_mr = _MR_WRITERS[workspace.settings.mr_object]
    content = thin_slices(origin, thin, in_source_space=native)
    image = write_mr(folder(ResultKind.IMAGE), origin, content)
    if native and workspace.previews is not None:
        workspace.previews.mkdir(parents=True, exist_ok=True, mode=0o700)
        source, brain = workspace.load("source"), workspace.load("brain")
        write_previews(workspace.previews, source, thin, brain.data > 0.5, content.window)
    makers: dict[ResultKind, Callable[[Path], WrittenSeries]] = {
        ResultKind.FIDELITY: lambda place: write_mr(
            place, origin, fidelity_map(origin, workspace.load("residual"))
        ),
        ResultKind.CHANGE: lambda place: write_mr(
            place,
            origin,
            change_map(origin, change_over_cubic(workspace.load("source"), thin, SLICE_AXIS)),
        ),
        ResultKind.MASK: lambda place: write_brain_mask(
            place, origin, image, content, _brain_on(thin, workspace)
        ),
        ResultKind.REPORT: lambda place: write_report(place, origin, image),
    }
    wanted = [
        kind
        for kind in makers
        if kind in workspace.settings.result_series and (native or kind not in _IN_SOURCE_SPACE)
    ]
    return [image, *(makers[kind](folder(kind)) for kind in wanted)]


def _brain_on(thin: Volume, workspace: Workspace) -> NDArray[np.bool_]:
    """Return the brain mask, found on the acquired slices, on the thin ones."""
    brain = resampled(workspace.load("brain"), thin.affine, thin.data.shape)
    return np.asarray(brain.data > 0.5)


def _provenance(workspace: Workspace, earlier: Predecessor | None) -> Provenance:
    made = workspace.read("superresolve")
    return Provenance(
        recipe=workspace.recipe.value,
        checkpoint=made["checkpoint"],
        digest=made["digest"],
        sentence=_sentence(workspace, earlier),
        parameters=(
            workspace.read("brain")["method"],
            made["profile"],
            made["network"],
            made.get("precision", "float32"),  # missing where an older version computed
        ),
        made_at=datetime.fromisoformat(workspace.read("source")["made_at"]),
    )


def _facts(workspace: Workspace, earlier: Predecessor | None) -> Facts:
    source, made = workspace.read("source"), workspace.read("superresolve")
    return Facts(
        acquired_spacing_mm=made["spacing_in_mm"],
        acquired_thickness_mm=source["thickness_mm"],
        # Of the template where it was moved there; missing where an older version computed.
        spacing_mm=made.get("thin_spacing_mm", made["spacing_out_mm"]),
        profile=made["profile"],
        residuals=_residuals(made["fidelity"]["inside"]),
        interpolated=_residuals(made["fidelity"]["cubic_inside"]),
        # Outside of it a series is refused; only a contrast that nobody told is let through.
        within_range=True if source.get("contrast") else None,
        range=made.get("range", ""),  # missing where an older version computed
        contrast=source.get("contrast"),
        field_strength=source.get("field_strength"),
        brain_method=workspace.read("brain")["method"],
        precision=made.get("precision", "float32"),
        device=made["device"],
        seconds=workspace.seconds,
        remarks=tuple(_remarks(workspace)),
        predecessor=earlier,
    )


def _residuals(noted: Mapping[str, Any]) -> Residuals:
    return Residuals(**{name: float(noted[name]) for name in Residuals.__dataclass_fields__})


def _remarks(workspace: Workspace) -> Iterator[str]:
    if workspace.stack:
        yield f"Made of one stack of several in its series: {workspace.stack}"
    if remark := workspace.read("source")["remark"]:
        yield remark
    made = workspace.read("superresolve")
    if made.get("unmeasured"):  # missing where an older version computed
        contrast = workspace.read("source")["contrast"]
        yield f"No {contrast} image was among those that the checkpoint was trained and measured on"
    yield from workspace.remarks


def _sentence(workspace: Workspace, earlier: Predecessor | None) -> str:
    """Say what the result is; it becomes its DerivationDescription (at most 1024 characters)."""
    source, made = workspace.read("source"), workspace.read("superresolve")
    inside = made["fidelity"]["inside"]
    mni = workspace.recipe is Recipe.MNI
    compared = "bias-corrected" if mni else "acquired"
    sentences = [
        "Computed, not acquired; not for diagnosis on its own.",
        f"Super-resolved through-plane from slices of {source['thickness_mm']:.2f} mm,"
        f" {made['spacing_in_mm']:.2f} mm apart, to slices of {made['spacing_out_mm']:.2f} mm"
        f" by mrisr_node {made['software']},"
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
    sentences += [f"Note: {remark}." for remark in _remarks(workspace)]
    if earlier:
        sentences.append(f"Takes the place of the earlier result {earlier.series_instance_uid}.")
    return " ".join(sentences)
