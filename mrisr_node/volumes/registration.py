"""Registration of a brain to MNI space: ICBM 152 2009a, T1w, 1 mm, as nilearn carries it."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import ants
import numpy as np

from mrisr_node.errors import StageError
from mrisr_node.volumes.antspy import from_ants, to_ants
from mrisr_node.volumes.geometry import Volume

__all__ = ["TEMPLATE_NAME", "is_transform", "load_template", "register_to_mni", "to_mni"]

TEMPLATE_NAME = "ICBM 152 2009a nonlinear symmetric, 1 mm"

# ANTs' own schedule ends at full resolution: five times the time on a 1 mm head, for the same
# correlation with the template (0.63).
_ITERATIONS = (1000, 500, 100)
_SHRINK_FACTORS = (6, 4, 2)
_SMOOTHING_SIGMAS = (3, 2, 1)


def load_template() -> Volume:
    """Return the brain of the template, in RAS+ mm."""
    from nilearn.datasets import load_mni152_brain_mask, load_mni152_template

    head, mask = load_mni152_template(resolution=1), load_mni152_brain_mask(resolution=1)
    inside = np.asarray(mask.dataobj) > 0
    data = np.where(inside, np.asarray(head.dataobj, dtype=np.float32), np.float32(0))
    return Volume(data, np.asarray(head.affine, dtype=np.float64))


def register_to_mni(brain: Volume, transform: Path) -> None:
    """Find the affine transform of an extracted brain to the template and write it (ITK ``.mat``).

    Affine, since a non-linear one would bend what a reader looks for.
    """
    template = load_template()
    # The only way to a seed: `registration` takes a keyword of that name and does not heed it.
    # Switched on, it would also keep all of ITK in this process to one thread.
    ants.config.set_ants_deterministic(on=False, seed_value=1)
    with tempfile.TemporaryDirectory(prefix="mrisr-register-") as folder:
        found = ants.registration(
            fixed=to_ants(template.data, template.affine),
            moving=to_ants(brain.data, brain.affine),
            type_of_transform="Affine",
            aff_iterations=_ITERATIONS,
            aff_shrink_factors=_SHRINK_FACTORS,
            aff_smoothing_sigmas=_SMOOTHING_SIGMAS,
            outprefix=str(Path(folder, "to_mni_")),
        )
        written = Path(found["fwdtransforms"][0])
        if not written.is_file():
            raise StageError("registration to MNI gave no transform")
        shutil.copyfile(written, transform)


def is_transform(path: Path) -> bool:
    """Tell whether a file is there and holds a transform."""
    try:
        ants.read_transform(str(path))
    except (RuntimeError, ValueError):
        return False
    return True


def to_mni(volume: Volume, transform: Path) -> Volume:
    """Resample a volume once, by a transform of `register_to_mni`, onto the template's grid."""
    template = load_template()
    moved = ants.apply_transforms(
        fixed=to_ants(template.data, template.affine),
        moving=to_ants(volume.data, volume.affine),
        transformlist=[str(transform)],
        interpolator="lanczosWindowedSinc",
    )
    return Volume(from_ants(moved).data, template.affine)
