"""The stacks of slices in one DICOM series, told apart by what distinguishes their images.

Scanners put several volumes under one Series Instance UID: the echoes of one acquisition, magnitude
and phase. What tells them apart stands in their headers (PS3.3 C.8.3.1 MR Image Module, C.7.6.2
Image Plane Module). A stack is never cut in two: images are told apart by contrast and kind only
where several of them lie at one place.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from pydicom.dataset import Dataset

from mrisr_node.errors import NotEligible
from mrisr_node.volumes.acquisition import Slice, readable_header, same_plane, slices_of
from mrisr_node.volumes.contrast import holders_of, stated_number

__all__ = ["CODE_STRING", "CONTRAST_TAGS", "Image", "image_of", "labels_of", "split"]

# What an image's contrast comes from, in the order in which it tells images apart: its names in
# classic and in Enhanced objects (PS3.3 C.8.3.1, C.8.13.5), and its short name and unit in a label.
_CONTRAST = (
    (("EchoTime", "EffectiveEchoTime"), "TE", " ms"),
    (("InversionTime", "InversionTimes"), "TI", " ms"),
    (("FlipAngle",), "flip angle", " deg"),
    (("RepetitionTime",), "TR", " ms"),
)
CONTRAST_TAGS = tuple(name for names, _, _ in _CONTRAST for name in names)
_PLANES = ("sagittal", "coronal", "axial")
CODE_STRING = re.compile("[A-Z0-9 _]{1,16}")
"""A Code String (PS3.5 6.2): what is none may be anything that somebody typed."""
# A radial stack has a plane for each image.
_MOST_PLANES = 16
_SAME_PLACE = 0.01  # mm


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
        Echo, inversion, flip angle and repetition; None: not told.
    """

    slices: tuple[Slice, ...]
    image_type: tuple[str, ...]
    contrast: tuple[float | None, ...]

    @property
    def kind(self) -> tuple[object, ...]:
        """All that tells images of one plane apart, what tells most first."""
        return (self.image_type, *self.contrast)


def image_of(dataset: Dataset, image_type: Sequence[str], *, required: bool = True) -> Image:
    """Return what is looked at of an instance.

    Parameters
    ----------
    required
        Whether it has to say where its slices lie.

    Raises
    ------
    NotEligible
        It has to, and does not.
    ConversionError
        Its header cannot be read.
    """
    with readable_header():
        holders = holders_of(dataset)
        contrast = tuple(stated_number(holders, *names) for names, _, _ in _CONTRAST)
    try:
        slices = tuple(slices_of(dataset))
    except NotEligible:
        if required:
            raise
        slices = ()
    return Image(slices=slices, image_type=tuple(image_type), contrast=contrast)


def split(images: Sequence[Image]) -> list[list[Image]]:
    """Return the images of each stack of a series, in an order that does not hang on theirs.

    Nothing where they are one scan in several planes, as a localizer or a radial stack is.
    """
    planes = _planes(images)
    if _is_localizer(planes):
        return []
    stacks = [stack for plane in planes for stack in _separated(plane, 0)]
    return sorted(stacks, key=lambda stack: _order(stack[0]))


def _is_localizer(planes: Sequence[Sequence[Image]]) -> bool:
    """Tell whether planes lie otherwise and differ in nothing else, or are too many."""
    if len(planes) > _MOST_PLANES:
        return True
    placed = [plane for plane in planes if plane[0].slices]
    return any(
        _differ(one[0], other[0]) == "orientations"
        and not {image.kind for image in one}.isdisjoint(image.kind for image in other)
        for one, other in combinations(placed, 2)
    )


def _planes(images: Sequence[Image]) -> list[list[Image]]:
    """Group images by orientation, size and pixel spacing; those without a place together."""
    planes: list[list[Image]] = []
    for image in images:
        for plane in planes:
            if not _differ(plane[0], image):
                plane.append(image)
                break
        else:
            planes.append([image])
            if len(planes) > _MOST_PLANES:
                break
    return planes


def _differ(one: Image, other: Image) -> str:
    if one.slices and other.slices:
        return same_plane(one.slices[0], other.slices[0])
    return "" if not one.slices and not other.slices else "places"


def _separated(images: list[Image], level: int) -> list[list[Image]]:
    """Tell apart images of one plane, as long as several lie at one place and something differs."""
    if level > len(_CONTRAST) or not _share_places(images):
        return [images]
    groups: dict[object, list[Image]] = {}
    for image in images:
        groups.setdefault(image.kind[level], []).append(image)
    return [stack for group in groups.values() for stack in _separated(group, level + 1)]


def _share_places(images: Sequence[Image]) -> bool:
    slices = [s for image in images for s in image.slices]
    if not slices:
        return len(images) > 1  # nobody knows
    normal = np.cross(slices[0].row_cosine, slices[0].column_cosine)
    along = np.sort(np.array([s.position for s in slices]) @ normal)
    return bool((np.diff(along) < _SAME_PLACE).any())


def _order(image: Image) -> tuple[object, ...]:
    contrast = tuple(-1.0 if value is None else value for value in image.contrast)
    return (_plane(image), _size(image), contrast, image.image_type)


def labels_of(stacks: Sequence[Sequence[Image]]) -> list[str]:
    """Return a name for each stack, all different: what distinguishes it from the others."""
    firsts = [stack[0] for stack in stacks]
    found: list[list[str]] = [[] for _ in firsts]
    placed = [image for image in firsts if image.slices]
    for describe in (_plane, _size, *map(_contrast, range(len(_CONTRAST))), _kind(firsts)):
        words = [describe(image) for image in firsts]
        # Images without a place differ from no others by it.
        compared = placed if describe in (_plane, _size) else firsts
        if len({describe(image) for image in compared}) > 1:
            for label, word in zip(found, words, strict=True):
                label.extend([word] if word else [])
    labels = [", ".join(label) for label in found]
    return [
        label if label and labels.count(label) == 1 else f"{label} stack {number}".strip()
        for number, label in enumerate(labels, start=1)
    ]


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
        return " ".join(v for v in image.image_type if v not in common and CODE_STRING.fullmatch(v))

    return describe
