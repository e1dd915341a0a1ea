import dataclasses
import json

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from mrisr_node.errors import OutOfRange
from mrisr_node.settings import load_settings
from mrisr_node.superres.checkpoints import Card, Checkpoint
from mrisr_node.superres.inference import change_over_cubic, pick_precision, super_resolve
from mrisr_node.superres.networks import FoldedResidual
from mrisr_node.superres.precision import computes_in_bfloat16
from mrisr_node.superres.tiles import reach
from mrisr_node.volumes.degradation import (
    SliceStack,
    along_last_axis,
    degradation_matrix,
    thicken,
)
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


def test_the_residual_of_the_end_slices_counts_on_tissue_beyond_them(head, tiny):
    thick = thick_head(head, gap=0.0)
    result = resolve(thick, tiny)
    longer = np.pad(result.volume.data, [(0, 0), (0, 0), (20, 20)], mode="edge")
    positions = (np.arange(-20, longer.shape[2] - 20) + 0.5) * result.spacing_out_mm - 2.0
    degrade = degradation_matrix(SliceStack(thick.data.shape[2], 4.0, 4.0), positions)
    missing = thick.data - along_last_axis(degrade, longer)
    assert result.residual.data == pytest.approx(missing, abs=0.05)


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


# Where bfloat16 is emulated it takes minutes, and nothing runs in it.
PRECISIONS = ["float32"] + ["bfloat16"] * computes_in_bfloat16(torch.device("cpu"))


def with_patch(checkpoint, patch):
    return Checkpoint(dataclasses.replace(checkpoint.card, patch=patch), checkpoint.network)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("thickness", [2.0, 4.0])
def test_tiles_leave_no_seams(head, tiny, precision, thickness):
    """Many tiles, through many slices too, give the same image as one."""
    thick = thick_head(head, thickness=thickness, gap=0.0)
    seen = []
    watch = tiny.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    tiled, whole = (
        resolve(
            thick, with_patch(tiny, patch), thickness_mm=thickness, precision=precision
        ).volume.data
        for patch in (33, 512)
    )
    watch.remove()
    assert len(seen) >= 4 + 4 + 4 + 1  # four probes and several tiles, four probes and one tile
    assert seen[4][-1] < thick.data.shape[2] or thickness == 4.0
    assert np.abs(tiled - whole).max() < (1e-4 if precision == "float32" else 2e-2) * 550.0
    assert np.abs(tiled - whole).mean() < (1e-6 if precision == "float32" else 1e-3) * 550.0


def test_tiles_of_the_default_network_leave_no_seams(head):
    """The default's blocks, some of which reach further in-plane, on fewer channels."""
    card = Card.load(load_settings().checkpoint_folders[0] / "card.json")
    arguments = card.arguments | {"width": 8}
    assert arguments["planar_blocks"] > 0
    torch.manual_seed(4)
    network = FoldedResidual(**arguments).eval().requires_grad_(False)
    torch.nn.init.normal_(network.tail.weight, std=0.02)
    checkpoint = Checkpoint(dataclasses.replace(card, arguments=arguments), network)
    with torch.inference_mode():
        across, _, along = reach(network, torch.zeros(1, 3))
    assert across == along + 2 * arguments["planar_blocks"]
    thick = thick_head(head, thickness=2.0, gap=0.0)
    runs, images = [], []
    for patch in (36, 512):
        seen = []
        watch = network.register_forward_pre_hook(lambda _, inputs, seen=seen: seen.append(inputs))
        small = with_patch(checkpoint, patch)
        images.append(resolve(thick, small, thickness_mm=2.0, precision="float32").volume.data)
        watch.remove()
        runs.append(len(seen))
    assert runs[0] > runs[1] + 2  # beside the probes, several tiles and one
    network.tail.weight.zero_()
    linear = resolve(thick, checkpoint, thickness_mm=2.0, precision="float32").volume.data
    assert np.abs(images[1] - linear).max() > 5.0  # the network does change the image
    assert np.abs(images[0] - images[1]).max() < 1e-4 * 550.0


def test_what_the_network_sees_at_once_does_not_grow_with_the_volume(head, tiny):
    thick = thick_head(head)
    large = Volume(np.tile(thick.data, (2, 2, 2)), thick.affine)
    seen = []
    hooks = [
        layer.register_forward_hook(lambda _, inputs, output: seen.append(output.numel()))
        for layer in tiny.network.modules()
    ]
    small = with_patch(tiny, 33)
    resolve(large, small)
    for hook in hooks:
        hook.remove()
    assert max(seen) <= 33**2 * 32 * 8  # channels of the folded grid; the width counts in fours
    assert max(seen) < large.data.size * 8 / 4


def test_air_around_the_head_changes_nothing_and_is_not_filled(head, tiny):
    thick = thick_head(head)
    thick.data[thick.data < 40.0] = 0.0
    widths = ((20, 20), (28, 12), (0, 0))
    wide = Volume(np.pad(thick.data, widths), thick.affine)
    again = Volume(np.pad(wide.data, widths), thick.affine)
    first, second = (resolve(volume, tiny).volume.data for volume in (wide, again))
    assert np.array_equal(first, second[20:-20, 28:-12])
    assert np.all(first[:8] == 0.0)
    assert np.all(first[:, :16] == 0.0)
    empty = Volume(np.full_like(thick.data, 0.5), thick.affine)
    assert np.abs(resolve(empty, tiny).volume.data - 0.5).max() < 0.01


@pytest.mark.parametrize(("generation", "precision"), [((9, 0), "tf32"), ((7, 5), "float32")])
def test_a_gpu_multiplies_in_tf32_where_it_can_and_says_so(monkeypatch, generation, precision):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: generation)
    assert pick_precision(torch.device("cuda"), "folded-residual") == precision


def test_the_precision_is_chosen_by_what_the_processor_can_and_told(head, tiny):
    cpu = torch.device("cpu")
    assert pick_precision(cpu, "folded-residual", {"amx_bf16": True}) == "bfloat16"
    assert pick_precision(cpu, "folded-residual", {"avx512_bf16": True}) == "float32"
    assert pick_precision(cpu, "swin-unetr", {"amx_bf16": True}) == "float32"
    thick = thick_head(head)
    assert resolve(thick, tiny, precision="float32").precision == "float32"
    assert resolve(thick, tiny).precision == pick_precision(cpu, "folded-residual")


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


def test_the_first_layer_sees_no_edge_of_a_flat_image(tiny):
    head = tiny.network.head
    seen = head(torch.full((1, head.in_channels, 10, 8, 4), 1.3))
    assert torch.allclose(seen, head.bias[None, :, None, None, None].expand_as(seen), atol=1e-4)


def test_a_volume_that_holds_no_numbers_is_an_error(head, tiny):
    thick = thick_head(head)
    thick.data[3, 4, 5] = np.nan
    with pytest.raises(ValueError, match="no numbers"):
        resolve(thick, tiny)


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


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_change_is_what_interpolation_lacks(axis):
    """Any axis; beside SciPy's own interpolation at the places of the thin slices."""
    random = np.random.default_rng(3)
    shape = [6, 7, 8]
    thick = random.normal(100, 20, shape).astype(np.float32)
    spacing = [1.0, 1.0, 1.0]
    spacing[axis] = 5.0
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = (-10, 20, 30)
    fine = affine.copy()
    fine[axis, axis] = 1.0
    fine[axis, 3] -= 2.0
    shape[axis] *= 5
    thin = random.normal(100, 20, shape).astype(np.float32)
    change = change_over_cubic(Volume(thick, affine), Volume(thin, fine), axis)
    grid = np.indices(shape).astype(float)
    grid[axis] = (grid[axis] - 2) / 5
    wanted = thin - map_coordinates(thick, grid, order=3, mode="mirror")
    assert np.abs(change.data - wanted).max() < 1e-3
    assert np.array_equal(change.affine, fine)
