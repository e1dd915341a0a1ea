"""Other people's programs to compare with, each a separate process in its own environment.

Nothing of them is imported or needed here.
"""

from __future__ import annotations

import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mrisr_node.errors import StageError
from mrisr_node.superres.interpolation import cubic_matrix
from mrisr_node.superres.simulation import ThickSlices
from mrisr_node.volumes.degradation import (
    Positions,
    SliceProfile,
    SliceStack,
    along_last_axis,
)
from mrisr_node.volumes.geometry import FloatArray, Volume

__all__ = ["ECLARE_PATCHES", "Eclare"]

ECLARE_PATCHES = 1_000_000
"""What ECLARE trains on unless it is told otherwise."""

_PROFILES = {SliceProfile.GAUSSIAN: "gaussian", SliceProfile.SINC: "rf-pulse-slr"}


@dataclass(frozen=True)
class Eclare:
    """ECLARE (Remedios et al., SASHIMI 2023): a network trained on the one scan that it restores.

    It is GPL-3.0 and no part of this project: ``pip install eclare==1.0.1 radifox-utils==1.0.3``
    into an environment of its own. It is told thickness and kind of profile, which spares it the
    estimation of a profile.

    Parameters
    ----------
    environment
        That environment's folder, its Python, or the program ``run-eclare`` itself.
    patches
        How many patches it trains on.
    batch
        How many of them at once.
    """

    environment: Path
    patches: int = ECLARE_PATCHES
    batch: int = 128

    @property
    def program(self) -> Path:
        """Return the path of ``run-eclare``."""
        path = self.environment
        folder = path / "bin" if path.is_dir() else path.parent
        program = path if path.name.startswith("run-eclare") else folder / "run-eclare"
        if not program.is_file():
            raise StageError(f"ECLARE is not installed at {path}: there is no {program}")
        return program

    @property
    def name(self) -> str:
        """Return the method's name in tables, which tells when training is shortened."""
        if self.patches == ECLARE_PATCHES:
            return "eclare"
        return f"eclare, shortened ({self.patches:,} patches)"

    def command(self, source: Path, target: Path, thick: ThickSlices) -> list[str]:
        """Return the command line that restores the file ``source`` into the folder ``target``."""
        return [
            str(self.program.absolute()),
            "--in-fpath", str(source),
            "--out-dir", str(target),
            "--relative-slice-thickness", f"{thick.stack.thickness_mm / thick.in_plane_mm:.4f}",
            "--relative-slice-profile-type", _PROFILES[thick.profile],
            "--n-patches", str(self.patches),
            "--batch-size", str(self.batch),
        ]  # fmt: skip

    def restore(self, thick: ThickSlices) -> FloatArray:
        """Return thin slices, (x, y, m), at the positions that are asked for.

        ECLARE divides the field of view into slices of the pixel size; cubic interpolation moves
        them to the positions.

        Raises
        ------
        StageError
            If it is not installed, fails, or writes no volume of the expected shape.
        """
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "thick.nii.gz")
            spacing = (thick.in_plane_mm, thick.in_plane_mm, thick.stack.distance_mm, 1.0)
            Volume(thick.slices, np.diag(spacing)).save(source)
            done = subprocess.run(
                self.command(source, Path(folder, "out"), thick),
                check=False,
                capture_output=True,
                text=True,
            )
            made = Path(folder, "out", "thick_eclare.nii.gz")
            if done.returncode != 0 or not made.is_file():
                last = (done.stderr.strip().splitlines() or ["without a message"])[-1]
                raise StageError(f"ECLARE failed with status {done.returncode}: {last}")
            thin = Volume.load(made)
        if thin.data.shape[:2] != thick.slices.shape[:2]:
            raise StageError(f"ECLARE made a volume of shape {thin.data.shape}")
        return _moved(thin, thick.stack, thick.positions)


def _moved(thin: Volume, stack: SliceStack, positions: Positions) -> FloatArray:
    """Interpolate slices that fill the field of view of a stack, from its centre, to positions."""
    count, spacing = thin.data.shape[2], thin.spacing[2]
    own = SliceStack(count, spacing, spacing)
    first = 0.5 * (stack.centres[-1] - own.centres[-1])
    return along_last_axis(cubic_matrix(own, positions - first), thin.data)
