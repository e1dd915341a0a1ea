import numpy as np
import pytest

from mrisr_node.superres.metrics import bootstrap, hfen, psnr, ssim


@pytest.fixture
def images():
    random = np.random.default_rng(0)
    truth = random.uniform(0, 100, (24, 25, 26)).astype(np.float32)
    return truth, np.ones(truth.shape, bool)


def test_a_perfect_result_scores_perfectly(images):
    truth, mask = images
    assert psnr(truth, truth, mask, 100.0) == pytest.approx(120.0)
    assert ssim(truth, truth, mask, 100.0) == pytest.approx(1.0)
    assert hfen(truth, truth, mask) == 0.0


def test_psnr_is_that_of_the_definition_and_sees_only_the_mask(images):
    truth, mask = images
    result = truth + np.float32(10.0)
    assert psnr(truth, result, mask, 100.0) == pytest.approx(20.0, abs=1e-4)
    mask = mask.copy()
    mask[:12] = False
    result[:12] += 500.0
    assert psnr(truth, result, mask, 100.0) == pytest.approx(20.0, abs=1e-4)


def test_ssim_agrees_with_scikit_image(images):
    """The same window and constants, away from the borders that scikit-image pads otherwise."""
    metrics = pytest.importorskip("skimage.metrics")
    truth, _ = images
    result = truth + np.random.default_rng(1).normal(0, 20, truth.shape).astype(np.float32)
    _, similarity = metrics.structural_similarity(
        truth,
        result,
        data_range=100.0,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )
    inner = np.zeros(truth.shape, bool)
    inner[8:-8, 8:-8, 8:-8] = True
    assert ssim(truth, result, inner, 100.0) == pytest.approx(similarity[inner].mean(), abs=1e-3)


def test_hfen_of_nothing_is_one(images):
    truth, mask = images
    assert hfen(truth, np.zeros_like(truth), mask) == pytest.approx(1.0)


def test_the_bootstrap_interval_holds_the_mean_and_shrinks_with_subjects():
    values = np.random.default_rng(0).normal(30.0, 2.0, 64)
    mean, low, high = bootstrap(values[:8])
    assert low < mean < high
    _, lower, upper = bootstrap(values)
    assert upper - lower == pytest.approx(4 * 2.0 / 8, rel=0.3)  # ±1.96 standard errors
    assert upper - lower < high - low
