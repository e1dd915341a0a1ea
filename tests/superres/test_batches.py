import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from mrisr_node.superres.batches import gather
from mrisr_node.superres.fitting import gain_db, relative_error, restored
from mrisr_node.superres.networks import FoldedResidual
from mrisr_node.superres.optimisers import Muon, orthogonalised
from mrisr_node.superres.samples import Acquire, AcquisitionRanges, Head, Samples, Source
from tests.superres.conftest import synthetic_head


@pytest.fixture(scope="module")
def samples():
    head = synthetic_head((40, 44, 42), seed=3)
    scaled = head.data / head.data[head.data > 0.5 * head.data.mean()].mean()
    source = Source("", "xyz", 1.0)
    return Samples([Head(scaled, head.spacing, source)], Acquire(AcquisitionRanges(), 16, 4), 7)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(2)
    network = FoldedResidual(width=8, blocks=1, in_plane_fold=1)
    nn.init.normal_(network.tail.weight, std=0.1)
    return network


def test_samples_side_by_side_come_to_what_each_comes_to_alone(samples, network):
    several = [samples[index] for index in range(5)]
    assert len({len(sample.inner) for sample in several}) > 1  # some are filled up
    together = gather(several)
    alone = [gather([sample]) for sample in several]
    with torch.no_grad():
        thin = restored(network, together, False)
        for index, batch in enumerate(alone):
            count = batch.thin.shape[-1]
            own = restored(network, batch, False)
            assert torch.allclose(thin[index : index + 1, ..., :count], own, atol=1e-5)
            assert not thin[index, ..., count:].any()
        errors = [relative_error(restored(network, batch, False), batch) for batch in alone]
        gains = torch.cat([gain_db(restored(network, batch, False), batch) for batch in alone])
    assert relative_error(thin, together) == pytest.approx(float(torch.stack(errors).mean()))
    assert torch.allclose(gain_db(thin, together), gains, atol=1e-3)


def test_workers_make_the_same_samples(samples):
    first = [torch.utils.data.Subset(samples, range(6))] * 2
    here, there = (
        list(DataLoader(part, 3, collate_fn=gather, num_workers=workers))
        for part, workers in zip(first, (0, 2), strict=True)
    )
    for one, other in zip(here, there, strict=True):
        assert torch.equal(one.thick, other.thick)
        assert torch.equal(one.thin, other.thin)
        assert torch.equal(one.operators.restore, other.operators.restore)


def test_weights_of_a_shape_move_together_as_each_would_alone():
    torch.manual_seed(4)
    shapes = [(6, 6, 3, 3, 3), (6, 6, 3, 3, 3), (6, 6, 3, 3, 1), (4, 9)]
    together = [nn.Parameter(torch.randn(shape)) for shape in shapes]
    alone = [nn.Parameter(weight.detach().clone()) for weight in together]
    optimisers = [Muon(together, 1e-2), *(Muon([weight], 1e-2) for weight in alone)]
    for _ in range(3):
        for one, other in zip(together, alone, strict=True):
            one.grad = torch.randn(one.shape)
            other.grad = one.grad.clone()
        for optimiser in optimisers:
            optimiser.step()
    for one, other in zip(together, alone, strict=True):
        assert torch.allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("shape", [(5, 12), (12, 5), (2, 5, 12)])
def test_directions_become_about_equally_long(shape):
    torch.manual_seed(5)
    lengths = torch.linalg.svdvals(orthogonalised(torch.randn(shape)))
    assert lengths.min() > 0.5
    assert lengths.max() < 1.3
