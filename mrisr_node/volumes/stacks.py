"""The stacks of slices in one DICOM series, told apart by what distinguishes their images.

Scanners put several volumes under one Series Instance UID: the echoes of one acquisition, magnitude
and phase, sagittal and coronal slices. What tells them apart stands in their headers (PS3.3 C.8.3.1
MR Image Module, C.7.6.2 Image Plane Module); repetitions of one image at one place, as in a time
series, differ in nothing of it and stay together.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from mrisr_node.volumes.acquisition import Slice, same_plane, slices_of

__all__ = ["CONTRAST_TAGS", "Image", "image_of", "labels_of", "split"]

# What an image's contrast comes from, by its unit and short name in a label (PS3.3 C.8.3.1).
_CONTRAST = (
    ("EchoTime", "TE", " ms"),
    ("InversionTime", "TI", " ms"),
    ("RepetitionTime", "TR", " ms"),
    ("FlipAngle", "flip angle", " deg"),
)
CONTRAST_TAGS = tuple(keyword for keyword, _, _ in _CONTRAST)
_PLANES = ("sagittal", "coronal", "axial")
# Code String (PS3.5 6.2): what is none may be anything that somebody typed.
_CODE = re.compile("[A-Z0-9 _]{1,16}")


@dataclass(frozen=True)
class Image:
    """An instance, by what tells which stack of its series it belongs to.

    Parameters
    ----------
    slices
        One, or those of its frames; none where the image is not placed in space.
    image_type
        The values of ImageType.
    contrast
        EchoTime, InversionTime, RepetitionTime and FlipAngle; None: not told.
    """

    slices: tuple[Slice, ...]
    image_type: tuple[str, ...]
    contrast: tuple[float | None, ...]


def image_of(dataset: Dataset, image_type: Sequence[str], *, placed: bool = True) -> Image:
    """Return what is looked at of an instance.

    Parameters
    ----------
    placed
        Read where its slices lie.

    Raises
    ------
    NotEligible
        It does not say where they lie.
    """
    return Image(
        slices=tuple(slices_of(dataset)) if placed else (),
        image_type=tuple(image_type),
        contrast=tuple(_number(dataset.get(keyword)) for keyword in CONTRAST_TAGS),
    )


def split(images: Sequence[Image]) -> list[list[Image]]:
    """Return the images of each stack, in the order in which the stacks begin."""
    groups: dict[tuple[object, ...], list[list[Image]]] = {}
    for image in images:
        # Numbers that are written with rounding are compared; what is equal or not is looked up.
        alike = groups.setdefault((image.image_type, image.contrast), [])
        for group in alike:
            if _same_plane(group[0], image):
                group.append(image)
                break
        else:
            alike.append([image])
    order = {id(image): index for index, image in enumerate(images)}
    found = [group for alike in groups.values() for group in alike]
    return sorted(found, key=lambda group: order[id(group[0])])


def labels_of(stacks: Sequence[Sequence[Image]]) -> list[str]:
    """Return a name for each stack, all different: what distinguishes it from the others."""
    firsts = [stack[0] for stack in stacks]
    found: list[list[str]] = [[] for _ in firsts]
    for describe in (_plane, _size, *map(_contrast, range(len(_CONTRAST))), _kind(firsts)):
        words = [describe(image) for image in firsts]
        if len(set(words)) > 1:
            for label, word in zip(found, words, strict=True):
                label.extend([word] if word else [])
    labels = [", ".join(label) for label in found]
    return [
        label if label and labels.count(label) == 1 else f"{label} stack {number}".strip()
        for number, label in enumerate(labels, start=1)
    ]


def _same_plane(one: Image, other: Image) -> bool:
    if not one.slices or not other.slices:
        return not one.slices and not other.slices
    return not same_plane(one.slices[0], other.slices[0])


def _plane(image: Image) -> str:
    if not image.slices:
        return ""
    first = image.slices[0]
    return _PLANES[int(np.abs(np.cross(first.row_cosine, first.column_cosine)).argmax())]


def _size(image: Image) -> str:
    return f"{image.slices[0].columns} x {image.slices[0].rows}" if image.slices else ""


def _contrast(index: int) -> Callable[[Image], str]:
    _, name, unit = _CONTRAST[index]

    def describe(image: Image) -> str:
        value = image.contrast[index]
        return "" if value is None else f"{name} {value:g}{unit}"

    return describe


def _kind(images: Sequence[Image]) -> Callable[[Image], str]:
    """Return what names the values of ImageType that not all of some images have."""
    common = set.intersection(*(set(image.image_type) for image in images))

    def describe(image: Image) -> str:
        return " ".join(v for v in image.image_type if v not in common and _CODE.fullmatch(v))

    return describe


def _number(stated: Any) -> float | None:  # noqa: ANN401 - a DICOM value
    try:
        value = float(stated)
    except (TypeError, ValueError):
        return None
    return value if np.isfinite(value) else None
