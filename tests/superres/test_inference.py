import dataclasses
import json

import numpy as np
import pytest
import torch

from mrisr_node.errors import OutOfRange
from mrisr_node.superres.checkpoints import Checkpoint
from mrisr_node.superres.inference import super_resolve
from mrisr_node.volumes.degradation import thicken
from mrisr_node.volumes.geometry import Volume


def thick_head(head, axis=2, thickness=4.0, gap=0.4):
    return thicken(head, axis, thickness, gap).volume


def resolve(volume, checkpoint, axis=2, **more):
    settings = {"slice_axis": axis, "thickness_mm": 4.0, "intensity_scale": 550.0}
    return super_resolve(volume, checkpoint=checkpoint, **(settings | more))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_result_covers_exactly_the_acquired_field_of_view(head, tiny, axis):
    thick = thick_head(head, axis)
    result = resolve(thick, tiny, axis)
    thin = result.volume
    count = thin.data.shape[axis]
    assert count == round(thick.data.shape[axis] * 4.4)
    for end, sign in ((0, -1), (-1, 1)):
        edges = []
        for volume in (thick, thin):
            index = [0.0, 0.0, 0.0]
            index[axis] = (volume.data.shape[axis] - 1 if end else 0) + 0.5 * sign
            edges.append(volume.position(tuple(index)))
        assert edges[0] == pytest.approx(edges[1], abs=1e-9)
    for other in {0, 1, 2} - {axis}:
        assert thin.data.shape[other] == thick.data.shape[other]
        assert thin.affine[:, other] == pytest.approx(thick.affine[:, other])
    assert result.spacing_in_mm == pytest.approx(4.4)
    assert result.spacing_out_mm == pytest.approx(thin.spacing[axis])


def test_every_axis_gives_the_same_image(head, tiny):
    thick = thick_head(head)
    turned = Volume(np.ascontiguousarray(np.moveaxis(thick.data, 2, 0)), np.eye(4))
    turned.affine[:3, :3] = np.roll(thick.affine[:3, :3], 1, axis=1)
    straight = resolve(thick, tiny).volume.data
    assert np.array_equal(np.moveaxis(resolve(turned, tiny, 0).volume.data, 0, 2), straight)


def test_the_same_input_gives_the_same_bits(head, tiny):
    thick = thick_head(head)
    first, second = (resolve(thick, tiny) for _ in range(2))
    assert first.volume.data.tobytes() == second.volume.data.tobytes()
    assert first.fidelity == second.fidelity


def test_it_scales_with_the_intensities(head, tiny):
    thick = thick_head(head)
    larger = Volume(thick.data * np.float32(4), thick.affine)
    ours = resolve(thick, tiny).volume.data
    scaled = resolve(larger, tiny, intensity_scale=4 * 550.0).volume.data
    assert scaled == pytest.approx(4 * ours, rel=1e-4, abs=0.05)


def test_fidelity_is_measured_and_better_than_cubic(head, tiny):
    thick = thick_head(head)
    mask = thick.data > 300
    result = resolve(thick, tiny, mask=mask)
    fidelity = result.fidelity
    assert fidelity.inside.p99 < 0.3 * fidelity.cubic_inside.p99
    assert fidelity.overall.median < fidelity.cubic_overall.median
    assert fidelity.inside.relative_p99 == pytest.approx(fidelity.inside.p99 / 550.0)
    assert fidelity.inside.p99 == pytest.approx(
        np.percentile(np.abs(result.residual.data[mask]), 99), rel=1e-5
    )
    assert result.residual.data.shape == thick.data.shape
    json.dumps(dataclasses.asdict(fidelity))
    assert "4 mm" in result.profile


def test_an_empty_mask_does_not_stop_it(head, tiny):
    thick = thick_head(head)
    fidelity = resolve(thick, tiny, mask=np.zeros(thick.data.shape, bool)).fidelity
    assert fidelity.inside == fidelity.overall


def test_intensities_stay_in_the_source_range_plus_noise(head, tiny):
    thick = thick_head(head)
    thin = resolve(thick, tiny).volume.data
    assert thin.min() >= thick.data.min()
    assert thin.max() <= thick.data.max() + 0.03 * 550.0


def test_progress_rises_from_nothing_to_all(head, tiny):
    seen = []
    resolve(thick_head(head), tiny, progress=seen.append)
    assert seen[0] == 0.0
    assert seen[-1] == 1.0
    assert seen == sorted(seen)
    assert len(seen) > 4


def test_tiles_leave_no_seams(head, tiny):
    """One tile and four give the same image, except for what the blending averages."""
    thick = thick_head(head)
    large = Checkpoint(dataclasses.replace(tiny.card, patch=512), tiny.network)
    tiled, whole = (resolve(thick, checkpoint).volume.data for checkpoint in (tiny, large))
    difference = np.abs(tiled - whole)
    assert difference.mean() < 1e-3 * 550.0
    assert difference.max() < 0.05 * 550.0


@pytest.mark.parametrize("shape", [(31, 47, 6), (12, 9, 3), (70, 33, 1)])
def test_odd_and_small_volumes_come_out_whole(tiny, shape):
    data = np.random.default_rng(0).uniform(0, 900, shape).astype(np.float32)
    thick = Volume(data, np.diag([1.0, 1.0, 4.0, 1.0]))
    thin = resolve(thick, tiny).volume.data
    assert thin.shape == (*shape[:2], shape[2] * 4)
    assert np.isfinite(thin).all()


def test_a_flat_image_stays_flat(tiny):
    with torch.no_grad():
        tiny.network.tail.weight.zero_()
        tiny.network.tail.bias.zero_()
    thick = Volume(np.full((20, 20, 8), 500, np.float32), np.diag([1.0, 1.0, 5.0, 1.0]))
    assert resolve(thick, tiny, thickness_mm=5.0).volume.data == pytest.approx(500.0, abs=1.0)


def test_thin_slices_are_refused_with_a_reason(head, tiny):
    with pytest.raises(OutOfRange, match=r"1\.0 mm apart"):
        resolve(head, tiny, thickness_mm=1.0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"intensity_scale": 0.0},
        {"intensity_scale": float("nan")},
        {"mask": np.ones((2, 2, 2), bool)},
    ],
)
def test_impossible_arguments_are_errors(head, tiny, wrong):
    with pytest.raises(ValueError, match="must be"):
        resolve(thick_head(head), tiny, **wrong)
