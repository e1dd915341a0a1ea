import json
import tarfile

import numpy as np
import pytest

from mrisr_node.errors import ConversionError
from mrisr_node.superres.evaluation import METHODS, evaluate, hfen, psnr, ssim
from mrisr_node.superres.sources import load_ras


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


@pytest.fixture
def files(head, tmp_path):
    head.save(tmp_path / "first.nii.gz")
    head.save(tmp_path / "second.nii.gz")
    return [tmp_path / "first.nii.gz", tmp_path / "second.nii.gz"]


def test_every_method_is_scored_on_every_subject(files, tiny):
    seen = []
    evaluation = evaluate(
        files, thickness_mm=4.0, gap_mm=0.5, axis="x", checkpoint=tiny, progress=seen.append
    )
    assert list(evaluation.scores) == seen
    assert {(s.subject, s.method) for s in seen} == {
        (subject, method) for subject in ("first", "second") for method in METHODS
    }
    means = {summary.method: summary for summary in evaluation.summaries()}
    assert means["linear"].psnr_db[0] < means["cubic"].psnr_db[0] < means["cubic-bp"].psnr_db[0]
    mean, low, high = means["cubic"].psnr_db
    assert low == pytest.approx(mean) == pytest.approx(high)  # the two are the same head
    assert json.loads(json.dumps(evaluation.as_json()))["gap_mm"] == 0.5
    assert "cubic-bp" in evaluation.table()


def test_noise_costs_and_is_the_same_each_time(files):
    settings = {"thickness_mm": 4.0, "gap_mm": 0.0, "methods": ("cubic",)}
    clean = evaluate(files[:1], **settings).scores[0]
    noisy, again = (evaluate(files[:1], noise=0.05, **settings).scores[0] for _ in range(2))
    assert noisy.psnr_db == again.psnr_db < clean.psnr_db


@pytest.mark.parametrize(
    ("methods", "reason"), [(("magic",), "unknown method 'magic'"), (("ours",), "checkpoint")]
)
def test_impossible_requests_are_errors(files, methods, reason):
    with pytest.raises(ValueError, match=reason):
        evaluate(files, thickness_mm=4.0, gap_mm=0.0, methods=methods)


def test_an_archive_without_a_series_is_refused(tmp_path):
    (tmp_path / "note.txt").write_text("no DICOM here")
    with tarfile.open(tmp_path / "empty.tar.xz", "w:xz") as archive:
        archive.add(tmp_path / "note.txt", "note.txt")
    with pytest.raises(ConversionError, match="0 volumes instead of one"):
        load_ras(tmp_path / "empty.tar.xz")
