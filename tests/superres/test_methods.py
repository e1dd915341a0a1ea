from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from mrisr_node.superres.adaptation import adapted
from mrisr_node.superres.checkpoints import Checkpoint
from mrisr_node.superres.interpolation import lanczos_matrix
from mrisr_node.superres.methods import METHODS, build_methods
from mrisr_node.superres.metrics import psnr
from mrisr_node.superres.simulation import Protocol, crop_to_head, foreground, simulate
from mrisr_node.superres.sources import load_ras
from mrisr_node.volumes.degradation import SliceProfile, SliceStack
from mrisr_node.volumes.geometry import Volume

SHIPPED = Path(__file__).parent.parent.parent / "checkpoints" / "thin-small"
SHARED = SHIPPED.parent.parent.parent / "shared" / "data" / "validate"

IN_PROCESS = [
    "cubic-bp-9" if name == "cubic-bp-N" else name
    for name in METHODS
    if name not in ("eclare", "ours-adapted")
]


@pytest.fixture(scope="module")
def shipped():
    return Checkpoint.load(SHIPPED)


def score(simulated, method):
    mask = foreground(simulated.truth)
    return psnr(simulated.truth, method(simulated.thick), mask, float(simulated.truth.max()))


def test_lanczos_passes_through_the_samples_and_keeps_a_constant():
    stack = SliceStack(9, 4.0, 4.0)
    assert lanczos_matrix(stack, stack.centres) == pytest.approx(np.eye(9), abs=1e-12)
    matrix = lanczos_matrix(stack, stack.divided(40))
    assert matrix.sum(axis=1) == pytest.approx(np.ones(40))
    assert matrix == pytest.approx(matrix[::-1, ::-1])  # both ends are mirrored alike
    assert lanczos_matrix(SliceStack(1, 4.0, 4.0), np.array([-1.0, 1.0])) == pytest.approx(1.0)


def test_lanczos_restores_a_slow_wave():
    stack = SliceStack(20, 4.0, 4.0)
    positions = stack.divided(97)
    wave = np.cos(2 * np.pi * stack.centres / 40.0) @ lanczos_matrix(stack, positions).T
    inner = slice(20, -20)
    assert wave[inner] == pytest.approx(np.cos(2 * np.pi * positions / 40.0)[inner], abs=0.01)


@pytest.mark.parametrize("name", IN_PROCESS)
def test_every_method_leaves_a_flat_region_flat(shipped, name):
    """A block with soft edges; in its middle there is nothing to find."""
    block = np.zeros((40, 40, 60))
    block[6:-6, 6:-6, 6:-6] = 500.0
    volume = Volume(gaussian_filter(block, 1.0).astype(np.float32), np.eye(4))
    thick = simulate(volume, Protocol(4.0, 0.5, "z")).thick
    result = build_methods([name], shipped)[name](thick)
    assert result.shape == (40, 40, len(thick.positions))
    middle = result[12:-12, 12:-12, 22:-22]
    assert np.abs(middle - 500.0).max() < 5.0


def test_more_back_projections_explain_more(head):
    simulated = simulate(head, Protocol(4.0, 0.5, "z"))
    built = build_methods(["cubic-bp-1", "cubic-bp", "cubic-bp-20"])
    first, usual, many = (score(simulated, method) for method in built.values())
    assert first < usual < many


@pytest.mark.parametrize("profile", SliceProfile)
def test_a_wrong_profile_costs_back_projection(head, profile):
    simulated = simulate(head, Protocol(5.0, 0.0, "x", profile))
    built = build_methods(["cubic-bp", "cubic-bp-wide", "cubic-bp-narrow"])
    results = [method(simulated.thick) for method in built.values()]
    assert not np.allclose(results[0], results[1])
    right, _, narrow = (score(simulated, method) for method in built.values())
    assert narrow < right


def test_averaging_over_flips_makes_a_method_symmetric(tiny, head):
    """The mirrored slices, at mirrored positions that are at no special place, give the mirror."""
    thick = simulate(head, Protocol(4.0, 0.3, "y")).thick
    method = build_methods(["ours-flips"], tiny)["ours-flips"]
    positions = thick.positions[1:] + 0.3
    mirrored = replace(
        thick,
        slices=np.ascontiguousarray(thick.slices[::-1, ::-1, ::-1]),
        positions=(thick.stack.centres[-1] - positions)[::-1],
    )
    result = method(replace(thick, positions=positions))
    assert method(mirrored)[::-1, ::-1, ::-1] == pytest.approx(result, abs=0.05)
    plain = build_methods(["ours"], tiny)["ours"](replace(thick, positions=positions))
    assert np.abs(plain - result).max() > 1.0


@pytest.mark.parametrize("protocol", [Protocol(4.0, 0.0, "y"), Protocol(5.0, 0.5, "x")])
def test_the_network_is_ahead_on_a_real_head_also_when_told_a_wrong_thickness(shipped, protocol):
    path = SHARED / "ds002748_sub-33_T1w.nii.gz"
    if not path.exists():
        pytest.skip("the validation heads are not beside this checkout (../shared/data/validate)")
    whole = crop_to_head(load_ras(path))
    middle = tuple(slice(size // 2 - 36, size // 2 + 36) for size in whole.data.shape)
    simulated = simulate(Volume(np.ascontiguousarray(whole.data[middle]), whole.affine), protocol)
    names = ["cubic", "ours", "ours-wide", "ours-narrow", "ours-flips"]
    found = {
        name: score(simulated, method) for name, method in build_methods(names, shipped).items()
    }
    assert min(found, key=found.__getitem__) == "cubic"
    assert found["ours"] > max(found["ours-wide"], found["ours-narrow"])
    assert found["ours-flips"] > found["ours"] - 0.02


def test_a_scan_can_teach_the_network(tiny, head, monkeypatch):
    monkeypatch.setattr("mrisr_node.superres.methods.adapted", _first_step)
    thick = simulate(head, Protocol(4.0, 0.0, "y")).thick
    built = build_methods(["ours", "ours-adapted"], tiny)
    plain, own = (method(thick) for method in built.values())
    assert plain.shape == own.shape
    assert not np.array_equal(plain, own)


def test_a_scan_teaches_the_same_each_time(tiny, head):
    thick = simulate(head, Protocol(4.0, 0.0, "y")).thick
    thin = build_methods(["ours"], tiny)["ours"](thick)
    settings = {"intensity_scale": thick.intensity_scale, "steps": 2}
    first, second = (
        adapted(tiny, thin, (1.0, 1.0, 1.0), thick.stack, **settings).network.state_dict()
        for _ in range(2)
    )
    before = tiny.network.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not any(
        torch.equal(first[name], before[name]) for name in ("head.weight", "tail.weight")
    )


def _first_step(*arguments, **keywords):
    return adapted(*arguments, **keywords, steps=2)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("magic", "unknown method 'magic'"),
        ("cubic-bp-N", "unknown method"),
        ("ours-wide", "needs a checkpoint"),
        ("eclare", "needs the path"),
    ],
)
def test_impossible_methods_are_refused(name, reason):
    with pytest.raises(ValueError, match=reason):
        build_methods(["linear", name])
