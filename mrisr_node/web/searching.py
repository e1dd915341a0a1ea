"""Search (QIDO-RS, PS3.18 10.6) put as Orthanc understands it."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl

from fastapi import HTTPException, Request
from pydicom.datadict import tag_for_keyword

__all__ = ["parameters", "search_query", "warnings_of"]

# In the standard's words (PS3.18 8.3.4.2).
_NO_FUZZY_MATCHING = (
    "The fuzzymatching parameter is not supported. Only literal matching has been performed."
)
_CONTROLS = frozenset({"limit", "offset", "includefield", "fuzzymatching", "accept", "charset"})
_MOST_PARAMETERS = 200
# What Orthanc is asked for in the place of "all", which it does not know: what it can tell of each
# level (PS3.18 10.6.3.3 and PS3.4 C.6.2.1), besides what it always tells.
_ALL = {
    "studies": "00081030,00081032,00081048,00081060,00081080,00101010,00101020,00101030,00102160,"
    "00102180,001021B0,00104000,00321032,00321060,00080061,00080062,00201206,00201208",
    "series": "0008103E,00080021,00080031,00080070,00080080,00081010,00081050,00081070,00081090,"
    "00180010,00180015,00180020,00180021,00180023,00180024,00180050,00181030,00185100,00200060,"
    "00400254,00201209",
    "instances": "00080008,00080012,00080013,00080022,00080023,00080032,00080033,00180050,00180080,"
    "00180081,00180088,00200012,00200013,00200032,00200037,00200052,00200100,00201041,00204000,"
    "00280004,00280008,00280010,00280011,00280030,00280100,00281050,00281051",
}
_NAME = re.compile(r"[A-Za-z0-9_.]{1,200}")
_TAG = re.compile(r"[0-9A-Fa-f]{8}")
_NUMBER = re.compile(r"[0-9]{1,9}")


def parameters(request: Request) -> list[tuple[str, str]]:
    """Return the parameters of a request's query.

    Raises
    ------
    HTTPException
        400: there are too many.
    """
    query = request.scope["query_string"].decode("latin-1")
    try:
        pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=_MOST_PARAMETERS)
    except ValueError as error:
        raise HTTPException(400, f"at most {_MOST_PARAMETERS} parameters are taken") from error
    return [(name, value) for name, value in pairs if _NAME.fullmatch(name)]


def warnings_of(pairs: list[tuple[str, str]]) -> str:
    """Return what a search did not heed, as a Warning header (RFC 7234); empty: it heeded all.

    What is no attribute restricts nothing, so a filter that is misspelt finds everybody.
    """
    said = [_NO_FUZZY_MATCHING] if ("fuzzymatching", "true") in pairs else []
    if unknown := list(dict.fromkeys(name for name, _ in pairs if not _is_known(name))):
        said.append(f"Not known, and ignored: {', '.join(unknown)[:500]}")
    return ", ".join(f'299 mrisr_node "{words}"' for words in said)


def _is_known(name: str) -> bool:
    return name in _CONTROLS or all(
        _TAG.fullmatch(part) or tag_for_keyword(part) is not None for part in name.split(".")
    )


def search_query(pairs: list[tuple[str, str]], level: str) -> bytes:
    """Return the query in the only way that Orthanc 1.10 understands: without percent signs.

    It decodes nothing: neither the comma of ``includefield=a%2Cb`` nor a name's ``%5E``. What
    cannot stand bare in an address becomes one of DICOM's wildcards (PS3.4 C.2.2.2.4), which finds
    what was asked for, and seldom more: ``?`` for one character, and ``*`` for others than ASCII,
    for which ``?`` does not stand in Orthanc.

    Parameters
    ----------
    level
        ``studies``, ``series`` or ``instances``.

    Raises
    ------
    HTTPException
        400: `limit` or `offset` is no number.
    """
    for name, value in pairs:
        if name in ("limit", "offset") and not _NUMBER.fullmatch(value):
            raise HTTPException(400, f"{name} is a whole number")
    every = ("includefield", "all")
    pairs = [(name, _ALL[level] if (name, value) == every else value) for name, value in pairs]
    return "&".join(f"{name}={_bare(value)}" for name, value in pairs).encode()


def _bare(value: str) -> str:
    # Lists of UIDs are split at a comma only, though the standard allows the backslash too.
    value = value.replace("\\", ",")
    return re.sub(r"[^A-Za-z0-9\-._~!$'()*,;:@/?=^]", "?", re.sub(r"[^\x00-\x7f]+", "*", value))
