"""Write the tables of the conformance statement from the code that they are about.

``python docs/conformance_tables.py`` writes them into their places in conformance-statement.md;
a test compares.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from pathlib import Path

from pydicom.datadict import dictionary_description
from pydicom.uid import (
    UID,
    ComprehensiveSRStorage,
    EnhancedMRImageStorage,
    MRImageStorage,
    SegmentationStorage,
)
from pynetdicom.sop_class import StorageCommitmentPushModel, Verification

from mrisr_node.choices import Delivery, ResultKind
from mrisr_node.identity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from mrisr_node.intake import door, guard, pixel_data, screening, sending
from mrisr_node.intake.statuses import StoreStatus
from mrisr_node.results import delivery
from mrisr_node.results.attribute_rules import RULES
from mrisr_node.results.facts import PRIVATE_CREATOR, PRIVATE_ELEMENTS, PRIVATE_GROUP
from mrisr_node.results.origin import SERIES_NUMBER_STEP, TITLES
from mrisr_node.results.report import CODES, SCHEME
from mrisr_node.settings import Settings
from mrisr_node.web import dicomweb, parts, storing

sys.path.insert(0, str(Path(__file__).parent))

from conformance_objects import object_tables

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


def _rows(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield "| " + " | ".join(row) + " |"


def _setting(name: str) -> str:
    """Return a setting with its default."""
    default = Settings.model_fields[name].default
    if name.endswith("_bytes"):
        words = _size(default)
    elif isinstance(default, tuple):
        words = ", ".join(f"`{one}`" for one in default)
    elif isinstance(default, str):
        words = f"`{default}`"
    elif isinstance(default, float):
        words = f"{default:g} s"
    else:
        words = str(default)
    return f"`{name}` (default {words})"


def _size(count: int) -> str:
    unit = next(
        (u for u in ((1024**3, "GiB"), (1024**2, "MiB"), (1024, "KiB")) if count % u[0] == 0),
        (1, "bytes"),
    )
    return f"{count // unit[0]} {unit[1]}"


def _overview() -> Iterator[str]:
    received = [UID(uid) for uid in screening.SOP_CLASSES]
    sent = [MRImageStorage, EnhancedMRImageStorage, *_CLASSES.values()]

    def rows() -> Iterator[tuple[str, ...]]:
        yield f"{Verification.name}", str(Verification), "–", "yes"
        for uid in dict.fromkeys([*received, *sent]):
            scu = "results, by setting" if uid in sent else "–"
            yield uid.name, str(uid), scu, "yes" if uid in received else "–"
        commitment = UID(StorageCommitmentPushModel)
        yield commitment.name, str(commitment), "by setting", "yes"

    return _rows(("SOP class", "UID", "SCU", "SCP"), rows())


def _scp() -> Iterator[str]:
    rows = {
        "AE title": f"{_setting('ae_title')}; the called AE title must match",
        "Calling AE titles": "association and C-ECHO: any. C-STORE: those in"
        f" {_setting('accepted_ae_titles')}; others get status"
        f" 0x{StoreStatus.NOT_AUTHORISED:04X}",
        "Addresses": f"those in {_setting('accepted_addresses')}; the connections of others are"
        " closed",
        "Port": f"{_setting('receiver_port')} of {_setting('receiver_host')}; `tls_port` for DICOM"
        " TLS, by default none",
        "DICOM TLS": "BCP 195 profile (PS3.15 B.9): TLS 1.2 and 1.3, forward secrecy and AEAD only,"
        " certificates on both sides",
        "Maximum PDU": f"{guard.MAXIMUM_PDU} bytes, longer ones end the association",
        "Largest message": f"C-STORE: {_setting('maximum_instance_bytes')}, together with messages"
        " before it that are not answered. Others, and all of those who may not store:"
        f" {_size(guard._OTHER_MESSAGE)}. What is larger ends the association",
        "Unanswered messages": f"{guard._MOST_UNANSWERED}; with one more the association ends. No"
        " asynchronous operations window is negotiated",
        "Largest instance": f"{_size(screening._MOST_BYTES)} and {screening._MOST_ITEMS:,} items of"
        " sequences before the pixel data, and as much after them;"
        f" {_size(pixel_data._MAXIMUM_BYTES)} of pixels once decoded. What is larger gets status"
        f" 0x{StoreStatus.CANNOT_UNDERSTAND:04X}",
        "Associations at one time": f"{_setting('maximum_associations')}, shared evenly by"
        f" {_setting('receiver_processes')}, then A-ASSOCIATE-RJ (local limit exceeded);"
        f" {_setting('maximum_associations_per_address')}, then the connection is closed",
        "A-ASSOCIATE-RQ": f"at most {door._LONGEST_REQUEST:,} bytes; one that cannot be read closes"
        " the connection without an answer",
        "Deadlines": f"A-ASSOCIATE-RQ: {door._SECONDS:g} s; TLS handshake and A-ASSOCIATE-RQ after"
        f" it: {guard._FIRST_SECONDS:g} s. A PDU: {guard._PDU_SECONDS:g} s. A message:"
        f" {guard._MESSAGE_SECONDS:g} s and one more for every {_size(guard._SLOWEST)}. Silence:"
        f" {_setting('network_timeout')}. What is overdue loses its connection",
        "Presentation contexts": "the storage classes and transfer syntaxes below; Verification and"
        " Storage Commitment in Implicit and Explicit VR Little Endian",
        "Implementation Class UID, Version Name": f"{IMPLEMENTATION_CLASS_UID},"
        f" `{IMPLEMENTATION_VERSION_NAME}`; in associations, and in the file meta information of"
        " what is received",
    }
    return _rows(("", ""), rows.items())


def _store_statuses() -> Iterator[str]:
    rows = ((f"0x{s:04X}", s.name.lower().replace("_", " "), s.meaning) for s in StoreStatus)
    return _rows(("status", "in short", "when"), rows)


def _scu() -> Iterator[str]:
    stored = ", ".join(f"0x{status:04X}" for status in sorted(delivery._STORED))
    rows = {
        "Used": f"with `delivery` = `{Delivery.CSTORE}`, in the place of STOW-RS; and by"
        " `mrisr-node send`",
        "Address": f"{_setting('pacs_host')}, {_setting('pacs_port')}, called"
        f" {_setting('pacs_ae_title')}, calling as {_setting('ae_title')}; TLS with `pacs_tls`",
        "Presentation contexts": "the SOP classes of the result, each in Explicit VR Little Endian."
        " `mrisr-node send` proposes what its files are",
        "Associations": "one for a result",
        "Deadlines": "connection, negotiation, an answer, silence, each:"
        f" {_setting('network_timeout')}; {sending._TIMEOUT} s for `mrisr-node send`."
        f" {delivery._BATCH} instances: {_setting('delivery_timeout')}",
        "Statuses": f"{stored}: stored. Any other, and a class that is not accepted, fails the try",
        "Repeats": f"{_setting('delivery_attempts')} tries in all, the second after"
        f" {_setting('delivery_first_delay')}, then after twice as long, an hour at most. Stored"
        " instances are sent again: they are the same",
        "Confirmation": "a result is delivered when QIDO-RS shows each of its instances by its UID,"
        " and, where the PACS offers it, storage commitment promises to keep them",
    }
    return _rows(("", ""), rows.items())


def _dicomweb() -> Iterator[str]:
    names = {
        "study": "studies/{study}",
        "series": "studies/{study}/series/{series}",
        "instance": "studies/{study}/series/{series}/instances/{instance}",
        "frames": "frames/{list}",
        "bulk": "bulk/…",
    }

    def rows() -> Iterator[tuple[str, ...]]:
        for transaction, templates in dicomweb._RESOURCES.items():
            method = "POST" if transaction.startswith("Store") else "GET, HEAD"
            for template in templates:
                yield transaction, method, f"`{dicomweb.ROOT}{template.format(**names)}`"

    yield from _rows(("transaction", "method", "resource"), rows())
    yield ""
    yield from _rows(
        ("resource", "media types, the first where the client leaves the choice"), _forms()
    )
    yield ""
    yield (
        f"A store request has at most {_size(storing.LARGEST_STORE)} and {parts._MOST_PARTS:,}"
        f" instances, of at most {_setting('maximum_instance_bytes')} each;"
        f" {storing._MOST_STORES} requests are taken at one time."
    )


def _forms() -> Iterator[tuple[str, str]]:
    for resource, offers in (
        ("searches", dicomweb._DOCUMENTS),
        ("`metadata`", dicomweb._DOCUMENTS),
        ("study, series", (dicomweb._DICOM,)),
        ("instance", dicomweb._OBJECT),
        ("one frame", dicomweb._ONE_FRAME),
        ("several frames", dicomweb._FRAMES_TOGETHER),
        ("`bulk`", dicomweb._BULK),
        ("`rendered`, `thumbnail`", dicomweb._IMAGES),
    ):
        yield resource, ", ".join(f"`{offer.accept}`" for offer in offers)


def _sop_classes() -> Iterator[str]:
    return _rows(("SOP class", "UID"), ((uid.name, str(uid)) for uid in screening.SOP_CLASSES))


def _transfer_syntaxes() -> Iterator[str]:
    rows = ((uid.name, str(uid)) for uid in screening.TRANSFER_SYNTAXES)
    return _rows(("transfer syntax", "UID"), rows)


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
    "overview": _overview,
    "scp": _scp,
    "sop_classes": _sop_classes,
    "transfer_syntaxes": _transfer_syntaxes,
    "store_statuses": _store_statuses,
    "scu": _scu,
    "dicomweb": _dicomweb,
    "series": _series,
    "attributes": _attributes,
    "private": _private,
    "objects": object_tables,
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
