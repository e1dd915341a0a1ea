"""Our volumes as ANTsPy images, and back."""

from __future__ import annotations

from typing import Any

import ants
import numpy as np

from mrisr_node.volumes.geometry import Affine, FloatArray, Volume, lps_to_ras, ras_to_lps

__all__ = ["from_ants", "to_ants"]


def to_ants(data: FloatArray, affine: Affine) -> Any:  # noqa: ANN401 - ANTsPy has no types
    """Return an ANTs image; ITK, like DICOM, counts in LPS+."""
    lps = ras_to_lps(affine)
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    return ants.from_numpy(
        np.ascontiguousarray(data, dtype=np.float32),
        origin=lps[:3, 3].tolist(),
        spacing=spacing.tolist(),
        direction=lps[:3, :3] / spacing,
    )


def from_ants(image: Any) -> Volume:  # noqa: ANN401 - ANTsPy has no types
    """Return the volume that an ANTs image holds."""
    lps = np.eye(4)
    lps[:3, :3] = np.asarray(image.direction) * np.asarray(image.spacing)
    lps[:3, 3] = image.origin
    return Volume(np.asarray(image.numpy(), dtype=np.float32), lps_to_ras(lps))
