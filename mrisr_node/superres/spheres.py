"""Small spheres in sharp heads, in place of lesions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from mrisr_node.superres.simulation import foreground
from mrisr_node.volumes.geometry import FloatArray

__all__ = ["Lesions", "Point", "Sphere", "SphereOnGrid", "place_spheres", "plant"]

_RIM_MM = 8.0  # from the edge of the foreground to the centre of a sphere, at least
_APART_MM = 14.0  # from centre to centre, so that none lies in the surroundings of another
_AROUND_MM = (1.0, 4.0)  # surroundings, from the surface of a sphere
_LOCAL_MM = 5.0  # radius around a centre where the tissue's mean is taken
_FINER = 5  # points per voxel and axis that tell how much of it a sphere covers

Point = tuple[float, float, float]
"""A place in voxels, or a voxel size in mm, along three axes."""


@dataclass(frozen=True)
class Lesions:
    """What is planted.

    Parameters
    ----------
    diameters_mm
        Of the spheres.
    contrast
        Difference to the mean of the tissue around, as a share of it; as many spheres are darker
        as are brighter.
    each
        How many of each diameter and sign, in every head.
    seed
        Of their places.
    """

    diameters_mm: tuple[float, ...] = (2.0, 3.0, 4.0, 6.0)
    contrast: float = 0.3
    each: int = 10
    seed: int = 0


@dataclass(frozen=True)
class Sphere:
    """One sphere: its centre in voxels, its diameter, and whether it is brighter than the rest."""

    centre: Point
    diameter_mm: float
    bright: bool

    def on_slices(self, axis: int, first: int) -> Sphere:
        """Return it on a grid with that axis last, cut off before slice ``first``."""
        x, y = (place for index, place in enumerate(self.centre) if index != axis)
        return replace(self, centre=(x, y, self.centre[axis] - first))


@dataclass(frozen=True)
class SphereOnGrid:
    """A sphere on the voxels around it.

    Parameters
    ----------
    window
        Which part of the grid this is.
    covered
        Share of each voxel that the sphere covers.
    around
        The voxels that it is compared with.
    """

    window: tuple[slice, ...]
    covered: FloatArray
    around: NDArray[np.bool_]

    @classmethod
    def of(
        cls, centre: Point, diameter_mm: float, spacing: Point, shape: tuple[int, ...]
    ) -> SphereOnGrid:
        """Put a sphere on a grid of this voxel size (mm) and shape."""
        reach = 0.5 * diameter_mm + _AROUND_MM[1]
        window = tuple(
            slice(max(0, int(np.floor(c - reach / s))), min(n, int(np.ceil(c + reach / s)) + 1))
            for c, s, n in zip(centre, spacing, shape, strict=True)
        )
        inner = (np.arange(_FINER) + 0.5) / _FINER - 0.5
        fine = [
            ((np.arange(w.start, w.stop)[:, None] + inner).ravel() - c) * s
            for w, c, s in zip(window, centre, spacing, strict=True)
        ]
        within = (
            fine[0][:, None, None] ** 2 + fine[1][:, None] ** 2 + fine[2] ** 2
            <= (0.5 * diameter_mm) ** 2
        )
        sizes = [w.stop - w.start for w in window]
        covered = within.reshape(*(n for size in sizes for n in (size, _FINER)))
        x, y, z = (axis.reshape(-1, _FINER).mean(axis=1) for axis in fine)
        beyond = np.sqrt(x[:, None, None] ** 2 + y[:, None] ** 2 + z**2) - 0.5 * diameter_mm
        return cls(
            window,
            covered.mean(axis=(1, 3, 5), dtype=np.float32),
            (beyond > _AROUND_MM[0]) & (beyond <= _AROUND_MM[1]),
        )

    def visibility(self, image: FloatArray) -> float:
        """Return the mean inside minus that around, in standard deviations around."""
        part = image[self.window]
        around = part[self.around]
        inside = float((part * self.covered).sum() / self.covered.sum())
        return (inside - float(around.mean())) / max(float(around.std()), 1e-6)

    def projection(self, difference: FloatArray) -> float:
        """Return how much of the sphere a difference of two images holds: its height."""
        part = difference[self.window]
        return float((part * self.covered).sum() / (self.covered**2).sum())


def place_spheres(image: FloatArray, spacing: Point, lesions: Lesions) -> list[Sphere]:
    """Draw places in the tissue of a head: inside, not at its rim, and far from each other.

    Parameters
    ----------
    image
        Sharp, (x, y, z).
    spacing
        Voxel size in mm.
    lesions
        What is wanted. The same seed gives the same places, anywhere between the voxels.

    Raises
    ------
    ValueError
        If the head has no room for that many.
    """
    inside = np.pad(foreground(image), 1)
    deep = distance_transform_edt(inside, sampling=spacing)[1:-1, 1:-1, 1:-1] > _RIM_MM
    tissue = image > 0.5 * image[inside[1:-1, 1:-1, 1:-1]].mean()
    random = np.random.default_rng(lesions.seed)
    candidates = random.permutation(np.argwhere(deep & tissue))
    kinds = [
        (diameter, bright) for diameter in lesions.diameters_mm for bright in (True, False)
    ] * lesions.each
    places: list[NDArray[np.float64]] = []
    for candidate in candidates:
        if len(places) == len(kinds):
            break
        place = candidate + random.uniform(-0.5, 0.5, 3)
        apart = [float(np.linalg.norm((place - other) * spacing)) for other in places]
        if min(apart, default=np.inf) >= _APART_MM:
            places.append(place)
    if len(places) < len(kinds):
        raise ValueError(f"the head has room for {len(places)} spheres, not for {len(kinds)}")
    return [
        Sphere((float(place[0]), float(place[1]), float(place[2])), diameter, bright)
        for place, (diameter, bright) in zip(places, kinds, strict=True)
    ]


def _local_mean(image: FloatArray, centre: Point, spacing: Point) -> float:
    box = SphereOnGrid.of(centre, 2.0 * _LOCAL_MM, spacing, image.shape)
    return float((image[box.window] * box.covered).sum() / box.covered.sum())


def plant(
    image: FloatArray, spheres: Sequence[Sphere], spacing: Point, contrast: float
) -> tuple[FloatArray, list[float]]:
    """Return the head with spheres, and the height of each above the tissue.

    Voxels that a sphere covers in part change in proportion.
    """
    result = image.copy()
    heights = []
    for sphere in spheres:
        height = contrast * _local_mean(image, sphere.centre, spacing)
        height *= 1.0 if sphere.bright else -1.0
        box = SphereOnGrid.of(sphere.centre, sphere.diameter_mm, spacing, image.shape)
        result[box.window] += np.float32(height) * box.covered
        heights.append(height)
    return result, heights
