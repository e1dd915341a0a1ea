import numpy as np
import pytest

from mrisr_node.volumes.scanner import partial_fourier, rician


def test_rician_noise_has_the_moments_of_its_distribution():
    """Rayleigh where there is no signal, nearly Gaussian where there is much."""
    random = np.random.default_rng(0)
    air = rician(np.zeros((64, 64, 16), np.float32), 5.0, random)
    assert air.dtype == np.float32
    assert air.mean() == pytest.approx(5.0 * np.sqrt(np.pi / 2), rel=0.01)
    tissue = rician(np.full((64, 64, 16), 500.0, np.float32), 5.0, random)
    assert tissue.std() == pytest.approx(5.0, rel=0.02)
    assert tissue.mean() == pytest.approx(500.0 + 5.0**2 / (2 * 500.0), abs=0.1)


@pytest.mark.parametrize("make", [np.random.default_rng, np.random.RandomState])
def test_noise_is_a_function_of_the_random_state(make):
    slices = np.ones((4, 5, 6), np.float32)
    once, again, other = (rician(slices, 0.1, make(seed)) for seed in (1, 1, 2))
    assert np.array_equal(once, again)
    assert not np.array_equal(once, other)


def blob(shape=(64, 64, 3), centre=(30.3, 33.8), width=1.2):
    x, y, _ = np.indices(shape)
    squared = (x - centre[0]) ** 2 + (y - centre[1]) ** 2
    return np.exp(-0.5 * squared / width**2).astype(np.float32)


@pytest.mark.parametrize("axis", [0, 1])
def test_partial_fourier_blurs_along_its_axis_only_and_shifts_nothing(axis):
    image = blob()
    blurred = partial_fourier(image, axis, 5 / 8)
    assert blurred.max() < 0.95 * image.max()
    for along in (0, 1):
        profile = (blurred**2).sum(axis=tuple({0, 1, 2} - {along}))
        before = (image**2).sum(axis=tuple({0, 1, 2} - {along}))
        places = np.arange(64)
        centre, centre_before = ((places * p).sum() / p.sum() for p in (profile, before))
        assert centre == pytest.approx(centre_before, abs=0.02)
        spread, spread_before = (
            ((places - centre) ** 2 * p).sum() / p.sum() for p in (profile, before)
        )
        if along == axis:
            assert spread > 1.05 * spread_before
        else:
            assert spread == pytest.approx(spread_before, rel=0.01)


def test_partial_fourier_leaves_out_exactly_what_was_not_sampled():
    """A wave beyond the limit keeps the half of it that has a negative frequency."""
    places = np.arange(64)
    for cycles, gain in ((8, 1.0), (24, 0.5)):
        wave = np.cos(2 * np.pi * cycles * places / 64)
        slices = np.broadcast_to(10 + wave[:, None, None], (64, 2, 2)).astype(np.float32)
        assert np.abs(partial_fourier(slices, 0, 1.0) - slices).max() < 1e-5
        seen = np.fft.fft(partial_fourier(slices, 0, 6 / 8)[:, 0, 0])[cycles]
        assert abs(seen) / 32 == pytest.approx(gain, abs=0.02)


def test_all_lines_change_nothing_and_impossible_ones_are_refused():
    image = blob()
    assert partial_fourier(image, 0, 1.0) == pytest.approx(image, abs=1e-6)
    with pytest.raises(ValueError, match="half"):
        partial_fourier(image, 0, 0.5)
    with pytest.raises(ValueError, match="in-plane"):
        partial_fourier(image, 2, 0.75)
