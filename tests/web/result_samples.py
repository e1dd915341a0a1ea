"""A whole result set of the viewer's sample study, written as the node writes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from origins import MADE_BY, origin_of
from pydicom import dcmread
from web_samples import SampleStudy, as_file, make_study

from mrisr_node.choices import ResultKind
from mrisr_node.results.classic_mr import write_classic
from mrisr_node.results.mr_content import Content, change_map, fidelity_map, thin_slices
from mrisr_node.results.origin import Origin, Provenance, WrittenSeries
from mrisr_node.results.report import write_report
from mrisr_node.results.segmentation import write_brain_mask
from mrisr_node.volumes.conversion import convert
from mrisr_node.volumes.geometry import Volume

SENTENCE = (
    "Super-resolved through-plane from slices of 5.00 mm, 5.00 mm apart, to slices of 1.00 mm"
    " by mrisr_node 0.1.0, checkpoint"
    " thin-test (sha256 0123456789abcdef). Degraded again, it departs from the acquired slices"
    " inside the brain by 0.37 % (median) and 2.10 % (99th percentile) of the brain's mean."
)


@dataclass(frozen=True)
class ResultSet:
    study: SampleStudy
    series: dict[ResultKind, WrittenSeries]
    files: list[Path]


def write_result_set(
    folder: Path,
    description: str = "T1 axial",
    write_mr: Callable[[Path, Origin, Content], WrittenSeries] = write_classic,
) -> ResultSet:
    """Write sources and result; map and change are high in one corner of the head alone."""
    sample = make_study(description)
    sources = []
    for number, image in enumerate(sample.source):
        path = folder / f"{number:03d}.dcm"
        path.write_bytes(as_file(image))
        sources.append(path)
    conversion = convert(sources)
    thick = conversion.volume
    affine = thick.affine.copy()
    affine[:3, 2] /= 5
    affine[:3, 3] -= 2 * affine[:3, 2]
    data = np.stack([image.pixel_array.T for image in sample.result], axis=2).astype(np.float32)
    thin = Volume(data, affine)
    mask = Volume((data > 30).astype(np.float32), affine)
    made_by = Provenance(**{**MADE_BY.__dict__, "sentence": SENTENCE})
    origin = origin_of(map(dcmread, sources), conversion.acquisition, provenance=made_by)
    folders = {}
    for kind in ResultKind:
        folders[kind] = folder / kind
        folders[kind].mkdir()
    residual = Volume(_corner(thick), thick.affine)
    change = Volume(_corner(thin), affine)
    content = thin_slices(origin, thin)
    image = write_mr(folders[ResultKind.IMAGE], origin, content)
    series = {
        ResultKind.IMAGE: image,
        ResultKind.FIDELITY: write_mr(
            folders[ResultKind.FIDELITY],
            origin,
            fidelity_map(origin, residual),
        ),
        ResultKind.CHANGE: write_mr(folders[ResultKind.CHANGE], origin, change_map(origin, change)),
        ResultKind.MASK: write_brain_mask(
            folders[ResultKind.MASK], origin, image, content, mask.data > 0.5
        ),
        ResultKind.REPORT: write_report(folders[ResultKind.REPORT], origin, image),
    }
    files = [*sources, *(path for one in series.values() for path in one.paths)]
    return ResultSet(sample, series, files)


def _corner(volume: Volume) -> np.ndarray:
    """Nothing but 50 in the quarter of the image that is left above, on all slices."""
    columns, rows, _ = volume.data.shape
    data = np.zeros_like(volume.data)
    data[columns // 4 : columns // 2, rows // 4 : rows // 2, :] = 50
    return data
