"""A head made of formulas, and a tiny network: nothing here needs data from elsewhere."""

import stat
import sys

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from mrisr_node.superres.checkpoints import Card, Checkpoint, save_checkpoint
from mrisr_node.superres.networks import FoldedResidual
from mrisr_node.volumes.geometry import Volume


def synthetic_head(shape=(56, 60, 64), spacing=1.0, seed=0):
    """Skull, folded grey matter, white matter and ventricles, with smooth texture, in air."""
    random = np.random.default_rng(seed)
    grid = np.stack(
        np.meshgrid(*(np.linspace(-1, 1, size) for size in shape), indexing="ij"), axis=-1
    )
    folds = gaussian_filter(random.normal(size=shape), 2.5)
    folds /= folds.std()
    radius = np.linalg.norm(grid * (1.1, 1.0, 1.15), axis=-1)
    head = np.zeros(shape)
    head[radius < 0.92] = 900.0  # scalp
    head[radius < 0.85] = 80.0  # bone
    head[radius < 0.8] = 150.0  # fluid
    head[radius + 0.05 * folds < 0.74] = 500.0  # grey matter
    head[radius + 0.10 * folds < 0.60] = 700.0  # white matter
    head[np.linalg.norm(grid * (3.0, 2.0, 4.0), axis=-1) + 0.1 * folds < 0.5] = 120.0
    head *= 1.0 + 0.03 * gaussian_filter(random.normal(size=shape), 1.0)
    data = gaussian_filter(head, 0.6).astype(np.float32)
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = (-30.0, -28.0, -25.0)
    return Volume(data, affine)


@pytest.fixture(scope="session")
def head():
    return synthetic_head()


def tiny_card(**changes):
    values = {
        "name": "tiny",
        "version": "0",
        "description": "Random weights.",
        "network": "folded-residual",
        "arguments": {"width": 8, "blocks": 1, "in_plane_fold": 2},
        "weights_sha256": "",
        "contrasts": ("T1w",),
        "distance_mm": (2.0, 8.0),
        "thickness_ratio": (0.6, 1.1),
        "in_plane_mm": (0.4, 1.3),
        "patch": 48,
        "intensity": "divided by the mean intensity inside the brain",
        "data": (),
    }
    return Card(**(values | changes))


@pytest.fixture
def tiny_folder(tmp_path):
    """A checkpoint folder with random weights that do change the image."""
    torch.manual_seed(3)
    network = FoldedResidual(width=8, blocks=1, in_plane_fold=2)
    torch.nn.init.normal_(network.tail.weight, std=0.01)
    folder = tmp_path / "tiny"
    save_checkpoint(folder, network.state_dict(), tiny_card())
    return folder


@pytest.fixture
def tiny(tiny_folder):
    return Checkpoint.load(tiny_folder)


_ECLARE = """#!{python}
import argparse
from pathlib import Path

import nibabel
import numpy

parser = argparse.ArgumentParser()
parser.add_argument("--in-fpath", type=Path, required=True)
parser.add_argument("--out-dir", type=Path, required=True)
parser.add_argument("--relative-slice-thickness", type=float)
parser.add_argument("--relative-slice-profile-type")
parser.add_argument("--n-patches", type=int)
parser.add_argument("--batch-size", type=int)
arguments = parser.parse_args()
if arguments.n_patches == 13:
    raise SystemExit("no luck today")
image = nibabel.load(arguments.in_fpath)
x, y, z = image.header.get_zooms()
size = round(image.shape[2] * z / x)
# A ramp in millimetres, on slices of the pixel size that fill the field of view from its middle.
places = (numpy.arange(size) - (size - 1) / 2) * x + (image.shape[2] - 1) / 2 * z
ramp = numpy.broadcast_to(places, (*image.shape[:2], size)).astype("float32")
arguments.out_dir.mkdir()
affine = numpy.diag([x, y, x, 1.0])
nibabel.save(
    nibabel.Nifti1Image(ramp, affine),
    arguments.out_dir / arguments.in_fpath.name.replace(".nii", "_eclare.nii"),
)
"""


@pytest.fixture
def environment(tmp_path):
    """An environment that holds a stand-in for ECLARE, which keeps to its interface."""
    program = tmp_path / "env" / "bin" / "run-eclare"
    program.parent.mkdir(parents=True)
    program.write_text(_ECLARE.format(python=sys.executable))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    (program.parent / "python").symlink_to(sys.executable)
    return tmp_path / "env"
