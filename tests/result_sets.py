"""A whole result of a series, written as the node writes it; the thin slices are the thick ones."""

import dataclasses
from pathlib import Path

import numpy as np
from origins import FACTS, MADE_BY, origin_of
from pydicom import dcmread

from mrisr_node.choices import ResultKind
from mrisr_node.jobs.pipeline import run_stage
from mrisr_node.jobs.result_files import files_of
from mrisr_node.jobs.stages import SENDING, Stage, stages_of
from mrisr_node.jobs.workspace import Workspace
from mrisr_node.results.classic_mr import write_classic
from mrisr_node.results.mr_content import change_map, fidelity_map, thin_slices
from mrisr_node.results.report import write_report
from mrisr_node.results.segmentation import write_brain_mask
from mrisr_node.volumes.conversion import convert
from mrisr_node.volumes.geometry import Volume, resampled


@dataclasses.dataclass
class Result:
    """What was written, and from what."""

    sources: list[Path]
    thin: Volume
    residual: Volume
    change: Volume
    mask: Volume
    written: dict

    def first(self, kind):
        return dcmread(self.written[kind].paths[0])


def write_all(
    folder: Path, paths, facts=FACTS, write_mr=write_classic, provenance=MADE_BY
) -> Result:
    conversion = convert(paths)
    thick = conversion.volume
    affine = thick.affine.copy()
    affine[:3, 2] /= 5
    affine[:3, 3] -= 2 * affine[:3, 2]
    thin = Volume(np.repeat(thick.data, 5, axis=2), affine)
    noise = np.random.default_rng(1)
    residual = Volume(noise.normal(0, 3, thick.data.shape).astype(np.float32), thick.affine)
    change = Volume(noise.normal(0, 9, thin.data.shape).astype(np.float32), affine)
    brain = Volume((thick.data > 0.5 * thick.data.max()).astype(np.float32), thick.affine)
    mask = resampled(brain, affine, thin.data.shape)
    origin = origin_of(map(dcmread, paths), conversion.acquisition, provenance, facts)
    for kind in ResultKind:
        (folder / kind).mkdir(parents=True)
    content = thin_slices(origin, thin)
    image = write_mr(folder / ResultKind.IMAGE, origin, content)
    written = {
        ResultKind.IMAGE: image,
        ResultKind.FIDELITY: write_mr(
            folder / ResultKind.FIDELITY, origin, fidelity_map(origin, residual)
        ),
        ResultKind.CHANGE: write_mr(folder / ResultKind.CHANGE, origin, change_map(origin, change)),
        ResultKind.MASK: write_brain_mask(
            folder / ResultKind.MASK, origin, image, content, mask.data > 0.5
        ),
        ResultKind.REPORT: write_report(folder / ResultKind.REPORT, origin, image),
    }
    return Result(list(paths), thin, residual, change, mask, written)


def resolved(folder: Path, paths, settings) -> dict[ResultKind, list[Path]]:
    """Return the files that the node writes; the brain is what is brighter than the mean."""
    workspace = Workspace(folder, tuple(paths), settings, settings.recipe)
    for stage in stages_of(settings.recipe):
        if stage is Stage.BRAIN:
            source = workspace.load("source")
            brain = (source.data > source.data.mean()).astype(np.float32)
            workspace.save("brain", Volume(brain, source.affine))
            workspace.note("brain", {"method": "a threshold"})
        elif stage not in SENDING:
            run_stage(stage, workspace)
    files: dict[ResultKind, list[Path]] = {}
    for path in files_of(workspace.result_dir):
        files.setdefault(ResultKind(path.parent.name), []).append(path)
    return files
