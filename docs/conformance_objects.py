"""What the objects of a result hold, found by making them of two unlike sources.

An attribute that has the same value in both is said to have it always.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

from pydicom import dcmread
from pydicom.datadict import dictionary_description
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from origins import FACTS, MADE_BY
from result_sets import Result, write_all

from mrisr_node import __version__
from mrisr_node.choices import ResultKind
from mrisr_node.node.sample import Acquisition, Plane, Study, write_sample
from mrisr_node.results.attribute_rules import IDENTITY
from mrisr_node.results.attributes import ENHANCED_SERIES
from mrisr_node.results.enhanced_mr import write_enhanced

__all__ = ["object_tables"]

_FRAMES = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
_IDENTITY = frozenset(rule.keyword for rule in IDENTITY)
_MODULES = ", ".join(dict.fromkeys(rule.module.partition(" (")[0] for rule in IDENTITY))


def object_tables() -> Iterator[str]:
    """Return what each object holds, but for the classic MR image, which has a table of its own."""
    objects = {
        "Enhanced MR": (ResultKind.IMAGE, ResultKind.FIDELITY, ResultKind.CHANGE),
        "Segmentation": (ResultKind.MASK,),
        "Comprehensive SR": (ResultKind.REPORT,),
    }
    yield "| object | | attributes |"
    yield "|---|---|---|"
    with TemporaryDirectory() as name:
        pair = (_one(Path(name, "one")), _other(Path(name, "other")))
        for title, kinds in objects.items():
            made = [(dcmread(r.sources[0]), r.first(kind)) for r in pair for kind in kinds]
            for what, words in _described(made):
                yield f"| {title} | {what} | {words} |"


def _one(folder: Path) -> Result:
    sources = write_sample(folder / "source", Acquisition(slices=8, matrix=32))
    return write_all(folder / "result", sources.paths, write_mr=write_enhanced)


def _other(folder: Path) -> Result:
    """Return a result that differs from the first one in all that a source can change."""
    acquisition = Acquisition(
        plane=Plane.SAGITTAL, rotation=(5, 9, -3), slices=9, matrix=30, thickness_mm=4.0
    )
    sources = write_sample(
        folder / "source",
        acquisition,
        study=Study(patient_name="OTHER", patient_id="OTHER-1"),
        series_description="Other",
        series_number=7,
    )
    for path in sources.paths:
        dataset = dcmread(path)
        dataset.BurnedInAnnotation = "YES"
        dataset.LossyImageCompression = "01"
        dataset.RescaleSlope, dataset.RescaleIntercept = "2", "-50"
        dataset.PixelRepresentation = 1
        dataset.WindowCenter, dataset.WindowWidth = "200", "300"
        dataset.PatientPosition, dataset.BodyPartExamined = "FFS", "BRAIN"
        dataset.EchoTime, dataset.ProtocolName = "90", "Other"
        dataset.PositionReferenceIndicator = "OTHER"
        dataset.MagneticFieldStrength = "3"
        dataset.save_as(path)
    facts = dataclasses.replace(FACTS, contrast="T2w", within_range=None, seconds={"brain": 1.0})
    made_by = dataclasses.replace(
        MADE_BY,
        digest="cd" * 32,
        sentence="Made by another test.",
        made_at=MADE_BY.made_at + timedelta(days=400, seconds=4000),
    )
    return write_all(folder / "result", sources.paths, facts, write_enhanced, made_by)


def _described(made: Sequence[tuple[Dataset, Dataset]]) -> Iterator[tuple[str, str]]:
    """Return what becomes of the attributes of an object, and which they are.

    Parameters
    ----------
    made
        Sources, and what was made of each.
    """
    yield "kept, byte for byte", f"all that the table above keeps of {_MODULES}"
    _, first = made[0]
    of_series = ENHANCED_SERIES if first.Modality == "MR" else ()
    rest = [
        e
        for e in first
        if e.keyword not in {*_IDENTITY, *of_series, *_FRAMES} and not e.tag.is_private
    ]
    kept = [e for e in rest if all(d.get(e.keyword) == s.get(e.keyword) for s, d in made)]
    # What is alike in all of them may be so by chance, and by ours, too.
    kept = [e for e in kept if len({str(s[e.keyword].value) for s, _ in made}) > 1]
    names = [dictionary_description(keyword) for keyword in of_series] + [e.name for e in kept]
    if names:
        yield "kept, where the source has them", ", ".join(names)
    fixed = [
        e
        for e in rest
        if e.VR != "SQ" and all(e.keyword in d and d[e.keyword] == e for _, d in made)
    ]
    yield "always", ", ".join(f"{e.name} `{_value(e)}`" for e in fixed)
    yield "made anew", ", ".join(e.name for e in rest if e not in fixed and e not in kept)
    for title, keyword in zip(("shared by all frames", "of each frame"), _FRAMES, strict=True):
        if keyword in first:
            groups = (e.name.removesuffix(" Sequence") for e in first[keyword].value[0])
            yield title, ", ".join(groups)
    if first.Modality == "SR":
        yield "content tree", "; ".join(dict.fromkeys(_items(first)))


def _value(element: DataElement) -> str:
    value = element.value
    words = "\\".join(map(str, value)) if isinstance(value, MultiValue) else str(value)
    return "its version" if words == __version__ else words


def _items(container: Dataset, depth: int = 1) -> Iterator[str]:
    """Return what a content tree holds, deeper items after `>` (PS3.3 C.17.3)."""
    for item in container.get("ContentSequence") or []:
        concept = item.ConceptNameCodeSequence[0].CodeMeaning
        yield f"{'>' * depth} {item.ValueType} {concept}"
        yield from _items(item, depth + 1)
