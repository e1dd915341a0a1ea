"""A network on the interpolated grid, from its folder to thin slices."""

import dataclasses

import numpy as np
import pytest
import torch
from conftest import synthetic_head, tiny_card

from mrisr_node.superres.checkpoints import Checkpoint, save_checkpoint
from mrisr_node.superres.inference import super_resolve
from mrisr_node.superres.interpolated import window_count
from mrisr_node.superres.methods import build_methods
from mrisr_node.superres.networks import build_network
from mrisr_node.volumes.degradation import thicken


@pytest.fixture(scope="module")
def swin(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("checkpoints") / "swin"
    arguments = {"feature_size": 12}
    network = build_network("swin-unetr", arguments)
    card = tiny_card(name="swin", network="swin-unetr", arguments=arguments, patch=70)
    save_checkpoint(folder, network.state_dict(), card)
    return Checkpoint.load(folder)


@pytest.fixture(scope="module")
def thick():
    return thicken(synthetic_head((40, 72, 44)), 0, 5.0, 0.5).volume


def resolve(volume, checkpoint, **more):
    return super_resolve(
        volume, slice_axis=0, thickness_mm=5.0, intensity_scale=550.0, checkpoint=checkpoint, **more
    )


def test_a_swin_unetr_works_from_its_folder_to_thin_slices(swin, thick):
    """Even one that knows nothing is held to the acquired slices and their intensities."""
    seen, windows = [], []
    watch = swin.network.register_forward_pre_hook(
        lambda _, inputs: windows.append(inputs[0].shape)
    )
    result = resolve(thick, swin, progress=seen.append)
    watch.remove()
    thin = result.volume
    assert thin.data.shape == (round(thick.data.shape[0] * 5.5), 72, 44)
    assert thin.spacing == pytest.approx((1.0, 1.0, 1.0), abs=0.02)
    start, before = (volume.position((-0.5, 0, 0)) for volume in (thin, thick))
    assert start == pytest.approx(before, abs=1e-9)
    assert windows == [(1, 1, 64, 64, 64)] * window_count(thin.data.shape, 70)
    assert len(windows) == 2
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    assert result.precision == "float32"
    assert thin.data.min() >= thick.data.min()
    assert thin.data.max() <= thick.data.max() + 0.03 * 550.0


def test_what_the_network_returns_is_the_image(swin, thick):
    """In place of the network, one that returns what it is given: cubic interpolation results."""
    result = resolve(thick, dataclasses.replace(swin, network=torch.nn.Identity()))
    fidelity = result.fidelity
    assert fidelity.inside.p99 < 0.5 * fidelity.cubic_inside.p99
    assert np.corrcoef(result.volume.data[0].ravel(), thick.data[0].ravel())[0, 1] > 0.9


def test_it_is_not_taught_by_a_scan_and_says_so(swin):
    with pytest.raises(ValueError, match="a swin-unetr cannot be trained on the scan itself"):
        build_methods(["ours-adapted"], swin)
