from math import prod

import numpy as np
import pytest
import torch

from mrisr_node.superres.networks import FoldedResidual
from mrisr_node.superres.tiles import divide, head_box, reach


def box(*shape):
    return tuple(slice(0, size) for size in shape)


def voxels(part):
    return prod(axis.stop - axis.start for axis in part)


@pytest.mark.parametrize(
    ("shape", "limit"), [((70, 61, 33), 30_000), ((40, 40, 12), 1_000_000), ((9, 7, 1), 10)]
)
def test_cores_cover_a_box_once_and_windows_reach_as_far_as_asked(shape, limit):
    tiles = divide(box(*shape), (5, 4, 3), limit)
    count = np.zeros(shape, int)
    for tile in tiles:
        count[tile.core] += 1
        sizes = zip(tile.core, tile.window, (5, 4, 3), shape, strict=True)
        for core, window, halo, size in sizes:
            assert window.start <= max(0, core.start - halo)
            assert window.stop >= min(size, core.stop + halo)
        assert tile.window[0].start % 2 == tile.window[1].start % 2 == 0
        assert np.zeros(shape)[tile.window][tile.inner].shape == np.zeros(shape)[tile.core].shape
        assert voxels(tile.window) <= limit or len(tiles) == 1
    assert (count == 1).all()


def test_the_largest_tile_does_not_grow_with_the_volume():
    limit = 96 * 96 * 32
    for shape in ((150, 190, 30), (192, 256, 38), (512, 512, 60), (256, 256, 120)):
        assert (
            max(voxels(tile.window) for tile in divide(box(*shape), (18, 18, 18), limit)) <= limit
        )


def test_what_fits_is_not_divided():
    assert len(divide(box(192, 192, 32), (18, 18, 18), 192 * 192 * 32)) == 1


@pytest.mark.parametrize(("blocks", "fold", "far"), [(1, 1, (4, 4, 4)), (3, 1, (8, 8, 8))])
def test_the_reach_of_a_network_is_measured(blocks, fold, far):
    network = FoldedResidual(width=8, blocks=blocks, in_plane_fold=fold).eval()
    with torch.inference_mode():
        assert reach(network, torch.zeros(1, 3)) == far


def test_a_network_that_sees_everything_is_no_network_for_tiles():
    class Mean(torch.nn.Module):
        def forward(self, folded, geometry):
            return folded - folded.mean()

    with pytest.raises(ValueError, match="too far"):
        reach(Mean(), torch.zeros(1, 3))


def test_the_box_holds_the_head_and_no_more_air_than_a_margin():
    thick = torch.zeros(60, 50, 20)
    thick += torch.rand(thick.shape, generator=torch.Generator().manual_seed(0)) * 0.12  # noise
    thick[21:40, 10:30, 4:17] = 1.0
    found = head_box(thick)
    assert found == (slice(12, 48), slice(0, 40), slice(2, 19))
    assert head_box(torch.zeros(9, 9, 3)) is None
