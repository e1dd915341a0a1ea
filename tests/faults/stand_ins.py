"""Quick stand-ins for the two stages that compute for long; they write what the real ones write."""

import numpy as np

from mrisr_node import __version__
from mrisr_node.jobs.stages import Stage
from mrisr_node.volumes.geometry import Volume

_FACTOR = 3


def _brain(workspace) -> None:
    source = workspace.load("source")
    mask = source.data > source.data.mean()
    workspace.save("brain", Volume(mask.astype(np.float32), source.affine))
    workspace.note("brain", {"method": "a threshold", "millilitres": float(mask.sum())})


def _superresolve(workspace) -> None:
    source = workspace.load("source")
    affine = source.affine.copy()
    affine[:3, 2] /= _FACTOR
    affine[:3, 3] -= affine[:3, 2] * (_FACTOR - 1) / 2
    thin = np.repeat(source.data, _FACTOR, axis=2)
    workspace.save("thin", Volume(thin, affine))
    workspace.save("residual", Volume(np.zeros_like(source.data), source.affine))
    residual = dict.fromkeys(("median", "p99", "relative_median", "relative_p99"), 0.0)
    workspace.note(
        "superresolve",
        {
            "checkpoint": "none",
            "digest": "0" * 64,
            "network": "[]",
            "profile": "none",
            "precision": "float32",
            "spacing_in_mm": source.spacing[2],
            "spacing_out_mm": source.spacing[2] / _FACTOR,
            "fidelity": dict.fromkeys(("inside", "cubic_inside"), residual),
            "device": "cpu",
            "software": __version__,
        },
    )


STAGES = {Stage.BRAIN: _brain, Stage.SUPERRESOLVE: _superresolve}
