"""Training samples: sharp patches, their contrast varied, acquired again in thick slices."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data.dataset import CacheDataset
from monai.data.meta_tensor import MetaTensor
from monai.transforms.compose import Compose
from monai.transforms.croppad.dictionary import CropForegroundd
from monai.transforms.spatial.dictionary import Spacingd
from monai.transforms.transform import MapTransform, Randomizable
from monai.transforms.utility.dictionary import EnsureTyped
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from mrisr_node.errors import SettingsError
from mrisr_node.superres.networks import conditions
from mrisr_node.superres.operators import build_operators
from mrisr_node.superres.restoration import TorchOperators
from mrisr_node.superres.sources import load_ras
from mrisr_node.volumes.degradation import (
    Positions,
    SliceProfile,
    SliceStack,
    along_last_axis,
    degradation_matrix,
    profile_sigma,
)
from mrisr_node.volumes.geometry import FloatArray
from mrisr_node.volumes.scanner import rician

__all__ = [
    "AcquisitionRanges",
    "Head",
    "Sample",
    "Samples",
    "Source",
    "load_sources",
    "vary_contrast",
]

_AXES = "xyz"


@dataclass(frozen=True)
class Source:
    """Files that are sharp along the same axes.

    Parameters
    ----------
    pattern
        Glob in the data folder.
    axes
        Axes (of RAS) along which they may be thickened, such as ``"xy"``: those where they are
        really sharp.
    weight
        How often they are drawn, all its files together, relative to other sources.
    z_spacing_mm
        Thick original slices are interpolated to this; 0 leaves them.
    """

    pattern: str
    axes: str
    weight: float
    z_spacing_mm: float = 0.0

    def __post_init__(self) -> None:
        if not self.axes or set(self.axes) - set(_AXES):
            raise ValueError(f"axes must be some of x, y, z, not {self.axes!r}")
        if self.weight <= 0:
            raise ValueError("a source's weight must be above zero")


@dataclass(frozen=True)
class AcquisitionRanges:
    """What simulated acquisitions are drawn from, each uniformly unless said otherwise.

    Parameters
    ----------
    distance_mm
        Slice distance.
    usual_distance_mm
        The likeliest of them; less and more are ever less likely (triangular in the logarithm).
    thickness_ratio
        Thickness over distance. Every third sample has exactly 1 if that is in the range: it is the
        commonest protocol.
    noise
        Standard deviation of Rician noise over the intensity scale; every second sample has none.
    profile_error
        Largest relative error of the thickness that the network is told.
    spacing_jitter
        Largest relative change of the stated voxel size.
    scale_jitter
        Largest factor between the true and the given intensity scale.
    contrast_change
        Share of samples whose contrast is remapped.
    sinc_profile
        Share of samples whose slices have the profile of a sinc pulse, while the network is told of
        a Gaussian one, as with any scanner.
    """

    distance_mm: tuple[float, float] = (2.0, 8.0)
    usual_distance_mm: float = 4.5
    thickness_ratio: tuple[float, float] = (0.6, 1.1)
    noise: tuple[float, float] = (0.0, 0.03)
    profile_error: float = 0.1
    spacing_jitter: float = 0.15
    scale_jitter: float = 1.4
    contrast_change: float = 0.5
    sinc_profile: float = 0.2


@dataclass(frozen=True)
class Sample:
    """One simulated acquisition.

    Parameters
    ----------
    thick
        Acquired slices, (x, y, n), in units of the intensity scale.
    thin
        The truth at the operators' positions, (x, y, m).
    geometry
        The network's conditions.
    operators
        For the geometry as it is stated, which need not be the true one.
    inner
        (m,): thin slices whose acquired neighbours lie within the patch.
    """

    thick: Tensor
    thin: Tensor
    geometry: Tensor
    operators: TorchOperators
    inner: Tensor


class _Load(MapTransform):
    """Read a file or an archive, its axes to right, anterior and superior."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key in self.key_iterator(result):
            volume = load_ras(result[key])
            result[key] = MetaTensor(volume.data[None], affine=torch.from_numpy(volume.affine))
        return result


class _ScaleToForeground(MapTransform):
    """Divide by the mean of the head: the intensity scale as far as it is known without a mask."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key in self.key_iterator(result):
            image = result[key]
            scale = image[image > 0.5 * image.mean()].mean()
            result[key] = image / scale
        return result


def _prepared(z_spacing_mm: float) -> Compose:
    steps: list[Any] = [_Load(keys="image")]
    if z_spacing_mm > 0:
        steps.append(Spacingd(keys="image", pixdim=(-1.0, -1.0, z_spacing_mm), mode="bilinear"))
    return Compose(
        [
            *steps,
            CropForegroundd(
                keys="image",
                source_key="image",
                select_fn=lambda image: image > 0.2 * image.mean(),
                margin=4,
                allow_smaller=True,
            ),
            _ScaleToForeground(keys="image"),
            EnsureTyped(keys="image", dtype=torch.float32),
        ]
    )


@dataclass(frozen=True)
class Head:
    """A prepared volume: (x, y, z) in RAS order, voxel size in mm, and its source."""

    data: FloatArray
    spacing: tuple[float, ...]
    source: Source


def load_sources(folder: Path, sources: Sequence[Source], limit: int | None = None) -> list[Head]:
    """Load every file of the sources into memory, cropped to the head and scaled."""
    heads: list[Head] = []
    for source in sources:
        files = sorted(folder.glob(source.pattern))[:limit]
        if not files:
            raise SettingsError(f"no file matches {source.pattern!r} in the folder {folder.name}")
        items = [{"image": file} for file in files]
        cache = CacheDataset(items, _prepared(source.z_spacing_mm), num_workers=1, progress=False)
        for index in range(len(cache)):
            image = cache[index]["image"]
            heads.append(
                Head(
                    np.ascontiguousarray(image[0].numpy()),
                    tuple(float(size) for size in image.pixdim),
                    source,
                )
            )
    return heads


def vary_contrast(image: FloatArray, random: np.random.RandomState) -> FloatArray:
    """Remap intensities by a random smooth curve through zero, so that air stays dark.

    A curve through few random heights serves as any contrast: rising, inverted, or with a tissue in
    the middle brightest. The idea is SynthSR's (Iglesias et al., 2021), on real anatomy.
    """
    knots = np.linspace(0.0, 2.0, 6)
    if random.uniform() < 0.5:
        steps = random.uniform(0.1, 1.0, 5)
        heights = np.concatenate([[0.0], np.cumsum(steps)])
    else:
        heights = np.concatenate([[0.0], random.uniform(0.1, 1.6, 5)])
    fine = np.linspace(0.0, 2.0, 256)
    curve = np.interp(fine, knots, heights)
    kernel = np.hanning(43)
    padded = np.concatenate([np.full(21, 0.0), curve, np.full(21, curve[-1])])
    curve = np.convolve(padded, kernel / kernel.sum(), "valid")
    curve -= curve[0]
    changed = np.interp(np.clip(image, 0.0, 2.0), fine, curve)
    head = image > 0.5
    mean = float(changed[head].mean()) if head.any() else 1.0
    return np.asarray(changed / max(mean, 0.05), dtype=np.float32)


class Acquire(Randomizable):
    """Draw a patch of a head and acquire it again in ``slices`` thick slices."""

    def __init__(self, ranges: AcquisitionRanges, patch: int, slices: int) -> None:
        self.ranges = ranges
        self.patch = patch
        self.slices = slices

    def _stack(self) -> tuple[SliceStack, SliceStack]:
        """Return the stated geometry, and the true one."""
        ranges = self.ranges
        low, high = np.log(ranges.distance_mm)
        usual = np.clip(np.log(ranges.usual_distance_mm), low, high)
        mode = (usual - low) / (high - low) if high > low else 0.5
        distance = float(np.exp(low + (high - low) * self.R.triangular(0.0, mode, 1.0)))
        ratio = float(self.R.uniform(*ranges.thickness_ratio))
        if (
            ranges.thickness_ratio[0] <= 1.0 <= ranges.thickness_ratio[1]
            and self.R.uniform() < 1 / 3
        ):
            ratio = 1.0
        thickness = distance * ratio
        error = self.R.uniform(-ranges.profile_error, ranges.profile_error)
        return (
            SliceStack(self.slices, distance, thickness),
            SliceStack(self.slices, distance, thickness * (1.0 + float(error))),
        )

    def _place(self, data: FloatArray, window: Sequence[int]) -> list[slice]:
        """Choose a window whose centre is in the head, of at most the volume's size."""
        for _ in range(8):
            starts = [
                int(self.R.randint(0, max(1, size - length + 1)))
                for size, length in zip(data.shape, window, strict=True)
            ]
            centre = tuple(
                min(size - 1, start + length // 2)
                for start, length, size in zip(starts, window, data.shape, strict=True)
            )
            if data[centre] > 0.3:
                break
        return [slice(start, start + length) for start, length in zip(starts, window, strict=True)]

    def _noisy(self, thick: FloatArray) -> FloatArray:
        """Add Rician noise to every second sample."""
        if self.R.uniform() < 0.5:
            return thick
        return rician(thick, self.R.uniform(*self.ranges.noise), self.R)

    def __call__(self, head: Head) -> Sample:
        """Return one sample; all that is random comes from the state set before."""
        stated, true = self._stack()
        axis = _AXES.index(head.source.axes[self.R.randint(len(head.source.axes))])
        data = np.moveaxis(head.data, axis, -1)
        jitter = 1.0 + self.R.uniform(-self.ranges.spacing_jitter, self.ranges.spacing_jitter)
        spacing = head.spacing[axis] * jitter
        others = [size for index, size in enumerate(head.spacing) if index != axis]
        in_plane = float(np.mean(others)) * jitter

        tail = 3.0 * profile_sigma(true.thickness_mm)
        extent = (self.slices - 1) * stated.distance_mm + 2.0 * tail
        length = int(np.ceil(extent / spacing)) + 2
        place = self._place(data, (self.patch, self.patch, length))
        patch = data[tuple(place)]
        short = [
            want - have
            for want, have in zip((self.patch, self.patch, length), patch.shape, strict=True)
        ]
        patch = np.pad(patch, [(0, missing) for missing in short])
        if self.R.uniform() < 0.5:
            patch = patch.swapaxes(0, 1)
        for flipped in range(3):
            if self.R.uniform() < 0.5:
                patch = np.flip(patch, flipped)
        patch = np.ascontiguousarray(patch)
        if self.R.uniform() < self.ranges.contrast_change:
            patch = vary_contrast(patch, self.R)

        start = -tail - float(self.R.uniform(0.0, spacing))
        positions: Positions = np.arange(length, dtype=np.float64) * spacing + start
        sinc = self.R.uniform() < self.ranges.sinc_profile
        profile = SliceProfile.SINC if sinc else SliceProfile.GAUSSIAN
        thick = self._noisy(along_last_axis(degradation_matrix(true, positions, profile), patch))
        low, high = -0.5 * stated.distance_mm, (self.slices - 0.5) * stated.distance_mm
        seen = (positions > low) & (positions < high)
        positions = positions[seen]
        jitter = float(np.exp(self.R.uniform(-1.0, 1.0) * np.log(self.ranges.scale_jitter)))
        inner = (positions >= 0.0) & (positions <= (self.slices - 1) * stated.distance_mm)
        return Sample(
            thick=torch.from_numpy(thick * np.float32(jitter)),
            thin=torch.from_numpy(patch[..., seen] * np.float32(jitter)),
            geometry=conditions(stated.distance_mm, stated.thickness_mm, in_plane),
            operators=TorchOperators.of(build_operators(stated, positions)),
            inner=torch.from_numpy(inner),
        )


class Samples(Dataset[Sample]):
    """An endless stream: sample i is a function of the seed and i alone, so training can resume."""

    def __init__(self, heads: Sequence[Head], acquire: Acquire, seed: int) -> None:
        self.heads = heads
        self.acquire = acquire
        self.seed = seed
        counts = {id(head.source): 0 for head in heads}
        for head in heads:
            counts[id(head.source)] += 1
        weights = np.array([head.source.weight / counts[id(head.source)] for head in heads])
        self.chances: NDArray[np.float64] = weights / weights.sum()

    def __getitem__(self, index: int) -> Sample:
        """Make sample ``index``."""
        state = np.random.RandomState(np.random.MT19937(np.random.SeedSequence((self.seed, index))))
        self.acquire.set_random_state(state=state)
        head = self.heads[int(state.choice(len(self.heads), p=self.chances))]
        return self.acquire(head)
