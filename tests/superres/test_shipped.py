"""The checkpoints in this repository, on heads that they were not trained on."""

from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from mrisr_node.superres.checkpoints import Card, Checkpoint, installed
from mrisr_node.superres.evaluation import evaluate
from mrisr_node.superres.inference import super_resolve
from mrisr_node.superres.training_config import TrainingConfig
from mrisr_node.volumes.degradation import profile_sigma, thicken
from mrisr_node.volumes.geometry import Volume

REPOSITORY = Path(__file__).parent.parent.parent
CHECKPOINTS = REPOSITORY / "checkpoints"
SHARED = REPOSITORY.parent / "shared" / "data" / "evaluate"

PROTOCOLS = [(4.0, 0.0), (5.0, 0.5)]


# What each has to gain over back-projection on the crops below, in dB: less means a mistake.
GAIN = {"thin-small": 0.3, "thin-longer": 1.2, "thin-quick": 1.6, "thin-fine": 1.8}


@pytest.fixture(scope="module", params=GAIN)
def checkpoint(request):
    return Checkpoint.load(CHECKPOINTS / request.param)


def crop(path, folder, size=80):
    """Write the middle of a head, to be quick."""
    volume = Volume.load(path)
    starts = [(length - size) // 2 for length in volume.data.shape]
    middle = tuple(slice(start, start + size) for start in starts)
    affine = volume.affine.copy()
    affine[:3, 3] = volume.position(tuple(starts))
    target = folder / "crop.nii.gz"
    Volume(np.ascontiguousarray(volume.data[middle]), affine).save(target)
    return target


def scores(path, checkpoint, thickness, gap):
    evaluation = evaluate([path], thickness_mm=thickness, gap_mm=gap, checkpoint=checkpoint)
    return {score.method: score for score in evaluation.scores}


def test_each_has_a_model_card():
    assert {folder.name for folder in installed(CHECKPOINTS)} >= set(GAIN)
    for name in GAIN:
        assert (CHECKPOINTS / name / "README.md").read_text().startswith(f"# {name}")


@pytest.mark.parametrize("name", GAIN)
def test_its_card_says_what_its_training_configuration_says(name):
    card = Card.load(CHECKPOINTS / name / "card.json")
    told = TrainingConfig.load(CHECKPOINTS / name / "training.toml").untrained_card()
    found = {"weights_sha256": card.weights_sha256, "training": card.training}
    assert card == replace(told, **found, scores=card.scores)
    assert "default" not in card.description  # settings choose: mrisr-node checkpoint list


def test_its_card_tells_what_it_was_trained_on_and_how_well_it_does(checkpoint):
    assert all(entry["licence"] for entry in checkpoint.card.data)
    assert {entry["thickness_mm"] for entry in checkpoint.card.scores} >= {4.0, 5.0}


@pytest.mark.parametrize(("thickness", "gap"), PROTOCOLS)
def test_it_beats_cubic_on_a_head_from_a_package(checkpoint, tmp_path, thickness, gap):
    data = files("nilearn") / "datasets" / "data"
    path = crop(data / "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz", tmp_path)
    found = scores(path, checkpoint, thickness, gap)
    assert found["ours"].psnr_db > found["cubic"].psnr_db + 0.5
    assert found["ours"].ssim > found["cubic"].ssim


@pytest.mark.parametrize(("thickness", "gap"), PROTOCOLS)
def test_it_beats_back_projection_on_a_real_head(checkpoint, tmp_path, thickness, gap):
    path = SHARED / "ds002748_sub-37_T1w.nii.gz"
    if not path.exists():
        pytest.skip("the evaluation heads are not beside this checkout (../shared/data/evaluate)")
    found = scores(crop(path, tmp_path, size=110), checkpoint, thickness, gap)
    assert found["ours"].psnr_db > found["cubic-bp"].psnr_db + GAIN[checkpoint.card.name]
    assert found["ours"].ssim > found["cubic-bp"].ssim
    assert found["ours"].hfen < found["cubic-bp"].hfen


def test_it_invents_nothing_where_nothing_is(checkpoint):
    """A flat image with a little noise stays flat with a little noise."""
    random = np.random.default_rng(0)
    noisy = random.normal(500, 5, (48, 48, 12)).astype(np.float32)
    thick = Volume(noisy, np.diag([1.0, 1.0, 5.0, 1.0]))
    result = super_resolve(
        thick, slice_axis=2, thickness_mm=5.0, intensity_scale=500.0, checkpoint=checkpoint
    )
    inner = result.volume.data[8:-8, 8:-8, 8:-8]
    assert inner.std() < 12.0
    assert inner.mean() == pytest.approx(500.0, abs=2.0)


def test_it_agrees_with_what_was_acquired(checkpoint, head):
    thick = thicken(head, 2, 5.0, 0.5).volume
    result = super_resolve(
        thick, slice_axis=2, thickness_mm=5.0, intensity_scale=550.0, checkpoint=checkpoint
    )
    assert result.fidelity.inside.relative_median < 0.003
    assert (
        result.fidelity.inside.relative_median < 0.3 * result.fidelity.cubic_inside.relative_median
    )


def blob(axis, rotation, centre, sigma=5.0):
    """A Gaussian blob on a bright ground in 5 mm slices 0.5 mm apart, known in closed form.

    Its thick slices are exact: the profile is a Gaussian, too, so that along the slice axis the
    variances add up.
    """
    shape, spacing, variance = np.array([44, 44, 44]), np.ones(3), np.full(3, sigma**2)
    shape[axis], spacing[axis] = 9, 5.5
    variance[axis] += profile_sigma(5.0) ** 2
    affine = np.eye(4)
    affine[:3, :3] = rotation * spacing
    affine[:3, 3] = -affine[:3, :3] @ (shape - 1) / 2
    places = np.moveaxis(np.indices(shape), 0, -1) @ affine[:3, :3].T + affine[:3, 3]
    distances = (places - centre) @ rotation  # along the axes of the image
    height = 1000.0 * sigma / np.sqrt(variance[axis])
    data = 200.0 + height * np.exp(-0.5 * (distances**2 / variance).sum(axis=-1))
    return Volume(data.astype(np.float32), affine)


@pytest.mark.parametrize(("axis", "angles"), [(2, (0, 0, 0)), (0, (20, 0, 10)), (1, (-35, 8, 17))])
def test_it_moves_nothing(checkpoint, axis, angles):
    """The centre of mass stays where it is in the patient, to a twentieth of a millimetre."""
    centre = np.array([1.37, -2.21, 0.84])
    thick = blob(axis, Rotation.from_euler("zxy", angles, degrees=True).as_matrix(), centre)
    thin = super_resolve(
        thick, slice_axis=axis, thickness_mm=5.0, intensity_scale=600.0, checkpoint=checkpoint
    ).volume
    weights = np.where(thin.data > 220.0, thin.data - 200.0, 0.0).astype(float)
    inside = [np.average(index, weights=weights) for index in np.indices(weights.shape)]
    assert thin.position(tuple(inside)) == pytest.approx(centre, abs=0.05)
