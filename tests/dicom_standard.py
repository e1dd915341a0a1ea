"""`dicom-validator` with the tables of the standard that highdicom carries.

The tool would fetch the standard from its publisher; these tables are of the same text (PS3.3),
read by somebody else. They say which attributes a module has and which are required, not under
which conditions, nor which macro a content item or a functional group takes: that is left to
dciodvfy.
"""

import json
from functools import cache
from pathlib import Path

import highdicom
import pydicom.datadict as dictionary
from dicom_validator.validator.dicom_file_validator import DicomFileValidator
from dicom_validator.validator.dicom_info import DicomInfo
from dicom_validator.validator.error_handler import NullValidationResultHandler

_TABLES = Path(highdicom.__file__).parent / "_standard"
_OPTIONAL = {"type": "U"}
_CONTENT = "sr-document-content"
_GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
# Scanners write these into MR images too: a Standard Extended SOP Class (PS3.2 7.3).
_EXTENDED = {"mr-image": ["modality-lut"]}


def _table(name: str) -> dict:
    return json.loads((_TABLES / f"{name}.json").read_text())


def mr_image_attributes(without: set[str]) -> set[str]:
    """Return the keywords at the top level of the MR Image IOD but for some of its modules."""
    modules = _table("module_attribute_map")
    return {
        attribute["keyword"]
        for module in _table("iod_module_map")["mr-image"]
        if module["key"] not in without
        for attribute in modules[module["key"]]
        if not attribute["path"]
    }


@cache
def _standard() -> DicomInfo:
    modules = {key: _module(key, rows) for key, rows in _table("module_attribute_map").items()}
    iods = _table("iod_module_map")
    return DicomInfo(
        dictionary={},
        iods={
            uid: {
                "title": key,
                "modules": {
                    row["key"]: {"ref": row["key"], "use": row["usage"], "cond": _OPTIONAL}
                    for row in [*iods[key], *map(_extension, _EXTENDED.get(key, []))]
                },
                "group_macros": {},
            }
            for uid, key in _table("sop_class_iod_map").items()
            if key in iods
        },
        modules=modules,
    )


def _extension(key: str) -> dict:
    return {"key": key, "usage": "U"}


def _module(key: str, rows: list[dict]) -> dict:
    module: dict = {}
    for row in sorted(rows, key=lambda row: len(row["path"])):
        level = module
        for keyword in row["path"]:
            level = level.setdefault(_tag(keyword), {"name": keyword, "type": "3"})
            level = level.setdefault("items", {})
        entry = level.setdefault(_tag(row["keyword"]), {"name": row["keyword"]})
        # What a macro asks for is asked of those alone that take it.
        by_macro = key == _CONTENT or row["path"][-1:] in [[group] for group in _GROUPS]
        entry["type"] = "3" if by_macro else row["type"]
        if row["type"].endswith("C"):
            entry["cond"] = _OPTIONAL
    if key == _CONTENT:
        # Content items hold content items.
        module[_tag("ContentSequence")]["items"]["include"] = [{"ref": _CONTENT}]
    return module


def _tag(keyword: str) -> str:
    tag = dictionary.tag_for_keyword(keyword)
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X})" if tag else "(0000,0000)"


def dicom_validator(path: Path) -> list[str]:
    """Return what dicom-validator finds wrong."""
    validator = DicomFileValidator(_standard(), error_handler=NullValidationResultHandler())
    [result] = validator.validate(path).values()
    found = [] if result.status.name in ("Passed", "Failed") else [result.status.name]
    for module, errors in result.module_errors.items():
        for tag, error in errors.items():
            name = dictionary.keyword_for_tag(tag.tag) or f"{tag.tag:08X}"
            found.append(f"{module}: {name}: {error.code.name} {error.context or ''}".strip())
    return found
