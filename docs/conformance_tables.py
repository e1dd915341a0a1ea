"""Write the tables of the conformance statement from the code that they are about.

``python docs/conformance_tables.py`` writes them into their places in conformance-statement.md;
a test compares.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path

from pydicom.datadict import dictionary_description
from pydicom.uid import ComprehensiveSRStorage, MRImageStorage, SegmentationStorage

from mrisr_node.choices import ResultKind
from mrisr_node.intake.screening import SOP_CLASSES, TRANSFER_SYNTAXES
from mrisr_node.results.attribute_rules import RULES
from mrisr_node.results.facts import PRIVATE_CREATOR, PRIVATE_ELEMENTS, PRIVATE_GROUP
from mrisr_node.results.origin import SERIES_NUMBER_STEP, TITLES
from mrisr_node.results.report import CODES, SCHEME

STATEMENT = Path(__file__).with_name("conformance-statement.md")
_PLACE = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end of table -->)", re.DOTALL)

_CLASSES = {ResultKind.MASK: SegmentationStorage, ResultKind.REPORT: ComprehensiveSRStorage}
_MEANINGS = {
    ResultKind.IMAGE: "the thin slices",
    ResultKind.FIDELITY: "how far they, degraded again, depart from each acquired slice",
    ResultKind.CHANGE: "the thin slices minus cubic B-spline interpolation",
    ResultKind.MASK: "the brain on the thin slices",
    ResultKind.REPORT: "TID 1500 with the figures, language en-US",
}


def _rows(head: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield "| " + " | ".join(row) + " |"


def _sop_classes() -> Iterator[str]:
    return _rows(("SOP class", "UID"), ((uid.name, str(uid)) for uid in SOP_CLASSES))


def _transfer_syntaxes() -> Iterator[str]:
    return _rows(("transfer syntax", "UID"), ((uid.name, str(uid)) for uid in TRANSFER_SYNTAXES))


def _series() -> Iterator[str]:
    def rows() -> Iterator[tuple[str, ...]]:
        for number, kind in enumerate(ResultKind, start=1):
            yield (
                f"`{kind.value}`",
                _CLASSES.get(kind, MRImageStorage).name,
                f"+ {number * SERIES_NUMBER_STEP}",
                f"`{TITLES[kind]} …`",
                _MEANINGS[kind],
            )

    head = ("`result_series`", "SOP class", "Series Number", "Series Description", "what it shows")
    return _rows(head, rows())


def _attributes() -> Iterator[str]:
    def rows() -> Iterator[tuple[str, ...]]:
        for module, rules in groupby(sorted(RULES, key=lambda r: r.module), lambda r: r.module):
            alike = groupby(rules, key=lambda rule: (rule.action, rule.how))
            for (action, how), those in alike:
                names = ", ".join(dictionary_description(rule.keyword) for rule in those)
                yield module, names, str(action.value), how

    return _rows(("module", "attributes", "what becomes of them", "how, or why"), rows())


def _private() -> Iterator[str]:
    rows = (
        (f"({PRIVATE_GROUP:04X},xx{e.element:02X})", e.vr, e.name, e.meaning)
        for e in PRIVATE_ELEMENTS
    )
    yield f"Private creator `{PRIVATE_CREATOR}`."
    yield ""
    yield from _rows(("tag", "VR", "name", "meaning"), rows)


def _codes() -> Iterator[str]:
    yield f"Coding scheme designator `{SCHEME}`."
    yield ""
    yield from _rows(("code value", "meaning"), iter(CODES.items()))


_TABLES: dict[str, Callable[[], Iterator[str]]] = {
    "sop_classes": _sop_classes,
    "transfer_syntaxes": _transfer_syntaxes,
    "series": _series,
    "attributes": _attributes,
    "private": _private,
    "codes": _codes,
}


def with_tables(text: str) -> str:
    """Return the statement with every table as the code has it now."""

    def filled(place: re.Match[str]) -> str:
        return place[1] + "\n" + "\n".join(_TABLES[place[2]]()) + "\n\n" + place[3]

    return _PLACE.sub(filled, text)


if __name__ == "__main__":
    STATEMENT.write_text(with_tables(STATEMENT.read_text()))
    sys.stdout.write(f"{STATEMENT.name} is up to date\n")
