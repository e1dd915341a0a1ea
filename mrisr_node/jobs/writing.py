"""The stage that writes a result: from what the other stages noted to DICOM series on the disk."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
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
from mrisr_node.jobs.workspace import Workspace, read_headers
from mrisr_node.results.classic_mr import write_classic
from mrisr_node.results.converted import write_converted
from mrisr_node.results.enhanced_mr import write_enhanced
from mrisr_node.results.facts import Facts, Predecessor, Residuals
from mrisr_node.results.mr_content import change_map, fidelity_map, thin_slices
from mrisr_node.results.origin import Origin, Provenance, WrittenSeries
from mrisr_node.results.previews import write_previews
from mrisr_node.results.report import write_report
from mrisr_node.results.segmentation import write_brain_mask
from mrisr_node.superres.inference import change_over_cubic
from mrisr_node.volumes.acquisition import read_acquisition
from mrisr_node.volumes.conversion import SLICE_AXIS
from mrisr_node.volumes.geometry import Volume, resampled
from mrisr_node.volumes.registration import TEMPLATE_NAME

__all__ = ["describe", "replaced", "write"]

_ORIGINAL = "original"
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
    with replaced(workspace.result_dir) as draft:
        original = _write_original(workspace, draft) if workspace.nifti else None
        origin = _origin(workspace, rules, original)
        written = _write_series(workspace, origin, draft)
        for series in written:
            make_durable(series.paths, draft / series.kind)
    workspace.note(DIGESTS, digests_of(workspace.result_dir))
    image, beside = written[0], {}
    if original:
        # Sent along with the result: it came from no PACS.
        uid = str(origin.first.SeriesInstanceUID)
        beside = {_ORIGINAL: {"series_instance_uid": uid, "instances": len(original)}}
    workspace.note(
        "result",
        {
            "study_instance_uid": image.study_instance_uid,
            "series_instance_uid": image.series_instance_uid,
            "instances": sum(len(s.paths) for s in written) + len(original or ()),
            "series": {
                **beside,
                **{
                    series.kind.value: {
                        "series_instance_uid": series.series_instance_uid,
                        "instances": len(series.paths),
                    }
                    for series in written
                },
            },
            "description": origin.provenance.sentence,
        },
    )


@contextmanager
def replaced(folder: Path) -> Iterator[Path]:
    """Give a new folder that takes the place of another one once it is whole."""
    draft = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    yield draft
    sync(draft)
    shutil.rmtree(folder, ignore_errors=True)
    draft.rename(folder)
    sync(folder.parent)


def _write_original(workspace: Workspace, draft: Path) -> list[Path]:
    """Write the slices of a NIfTI file as the DICOM series that its result belongs to."""
    if workspace.nifti is None or workspace.nifti.study is None:
        raise ValueError("this file is to become no study")
    folder = draft / _ORIGINAL
    folder.mkdir()
    source = workspace.read("source")
    paths = write_converted(
        folder,
        workspace.load("source"),
        thickness_mm=float(source["thickness_mm"]),
        study_instance_uid=workspace.nifti.study_instance_uid,
        series_instance_uid=workspace.nifti.series_instance_uid,
        attributes=workspace.nifti.study,
        made_at=datetime.fromisoformat(source["made_at"]),
    )
    make_durable(paths, folder)
    return paths


def _origin(workspace: Workspace, rules: SelectionRules, original: Sequence[Path] | None) -> Origin:
    """Return what the result comes from."""
    if original:
        acquisition = read_acquisition(read_headers(original))
    else:
        [stack] = select(workspace.headers(), rules).stacks
        acquisition = stack.acquisition
    # Read again: what has been looked at is decoded, and would be written as we encode it.
    sources = tuple(read_headers(original or workspace.files()))
    own = {"", *(str(source.SOPInstanceUID) for source in sources)}
    earlier = next((e for uid, e in workspace.predecessors.items() if uid in own), None)
    origin = Origin(
        sources=sources,
        acquisition=acquisition,
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
        sentence=describe(workspace, earlier),
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


def describe(workspace: Workspace, earlier: Predecessor | None = None) -> str:
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
