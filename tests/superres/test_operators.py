import numpy as np
import pytest
import torch

from mrisr_node.superres.interpolation import (
    back_projection_matrix,
    cubic_matrix,
    linear_matrix,
)
from mrisr_node.superres.operators import SUB_SLICES, build_operators
from mrisr_node.superres.restoration import TorchOperators, fold, restore
from mrisr_node.volumes.degradation import SliceStack

GEOMETRIES = [(4.0, 4.0, 1.0), (5.5, 5.0, 0.868), (7.0, 5.0, 0.8), (2.0, 2.2, 0.9)]


@pytest.fixture(params=GEOMETRIES)
def geometry(request):
    distance, thickness, spacing = request.param
    stack = SliceStack(14, distance, thickness)
    return stack, stack.divided(stack.thin_count(spacing))


def test_a_constant_stays_constant(geometry):
    operators = build_operators(*geometry)
    for matrix in (operators.restore, operators.restore_folded, operators.unfold):
        assert matrix.sum(axis=1) == pytest.approx(np.ones(len(matrix)), abs=1e-3)
    for build in (linear_matrix, cubic_matrix, back_projection_matrix):
        assert build(*geometry).sum(axis=1) == pytest.approx(1.0)


def test_the_linear_estimate_explains_what_was_acquired(geometry):
    operators = build_operators(*geometry)
    random = np.random.default_rng(0)
    thick = operators.degrade @ random.normal(size=len(geometry[1])).cumsum()
    again = operators.degrade @ operators.restore @ thick
    plain = operators.degrade @ cubic_matrix(*geometry) @ thick
    assert np.linalg.norm(again - thick) < 0.2 * np.linalg.norm(plain - thick)


def test_the_linear_estimate_finds_a_blob_better_than_cubic(geometry):
    stack, positions = geometry
    operators = build_operators(*geometry)
    truth = np.exp(-0.5 * ((positions - 5.3 * stack.distance_mm) / stack.distance_mm) ** 2)
    thick = operators.degrade @ truth
    ours = np.linalg.norm(operators.restore @ thick - truth)
    assert ours < 0.6 * np.linalg.norm(cubic_matrix(*geometry) @ thick - truth)


def test_cubic_and_linear_pass_through_the_samples():
    stack = SliceStack(9, 4.0, 4.0)
    assert cubic_matrix(stack, stack.centres) == pytest.approx(np.eye(9), abs=1e-9)
    assert linear_matrix(stack, stack.centres) == pytest.approx(np.eye(9))


def test_whatever_a_network_adds_the_acquired_slices_remain(geometry):
    """The last step takes out of an update what the acquisition contradicts."""
    stack, _ = geometry
    operators = TorchOperators.of(build_operators(*geometry))
    random = torch.Generator().manual_seed(0)
    thick = torch.randn(1, 2, 2, stack.count, generator=random).cumsum(-1)
    update = torch.randn(1, SUB_SLICES, 2, 2, stack.count, generator=random)
    thin = restore(thick, update, operators)
    unchecked = (update.movedim(1, -1).flatten(-2) @ operators.unfold) @ operators.degrade
    missed = thick - thin @ operators.degrade
    assert missed.norm() < 0.15 * unchecked.norm()


def test_sub_slices_are_folded_in_order():
    stack = SliceStack(6, 4.0, 4.0)
    operators = TorchOperators.of(build_operators(stack, stack.divided(24)))
    ramp = torch.arange(6.0).reshape(1, 1, 1, 6)
    folded = fold(ramp, operators)
    assert folded.shape == (1, SUB_SLICES, 1, 1, 6)
    inner = folded[0, :, 0, 0, 1:-1].T.flatten()
    assert torch.all(inner.diff() > 0)
    assert folded[0, :, 0, 0, 2].mean() == pytest.approx(2.0, abs=0.05)
