"""Which of several checkpoints a series gets is settled before its preprocessing, and stays so."""

import numpy as np
import pytest

from mrisr_node.errors import OutOfRange
from mrisr_node.jobs.pipeline import run_stage
from mrisr_node.jobs.stages import Stage
from mrisr_node.jobs.workspace import Workspace
from mrisr_node.superres.card import INTENSITY, Card
from mrisr_node.superres.checkpoints import save_checkpoint
from mrisr_node.superres.networks import FoldedResidual
from mrisr_node.volumes.geometry import Volume


@pytest.fixture
def converted(tmp_path, make_settings, sample_series):
    """Return a function: convert the T1w sample where checkpoints for these contrasts are."""

    def convert(**kinds):
        network = FoldedResidual(width=8, blocks=1, in_plane_fold=1)
        for name, contrasts in kinds.items():
            card = Card(
                name=name, version="1", description="", network="folded-residual",
                arguments={"width": 8, "blocks": 1, "in_plane_fold": 1}, weights_sha256="",
                contrasts=contrasts, distance_mm=(2.0, 8.0), thickness_ratio=(0.6, 1.1),
                in_plane_mm=(0.4, 2.0), patch=96, intensity=INTENSITY, data=(),
            )  # fmt: skip
            save_checkpoint(tmp_path / name, network.state_dict(), card)
        settings = make_settings(checkpoints=tmp_path, checkpoint=tuple(kinds))
        workspace = Workspace(
            tmp_path / "job", tuple(sample_series.paths), settings, settings.recipe
        )
        run_stage(Stage.CONVERT, workspace)
        return workspace

    return convert


def test_the_contrast_decides_and_is_kept(converted):
    workspace = converted(flair=("FLAIR",), t1=("T1w", "T2w"), rest=("T1w", "T2w", "FLAIR", "PDw"))
    source = workspace.read("source")
    run_stage(Stage.CONVERT, workspace)
    assert workspace.read("source") == source
    head = workspace.load("source")
    workspace.save("brain", Volume((head.data > head.data.mean()).astype(np.float32), head.affine))
    for stage in (Stage.NORMALISE, Stage.SUPERRESOLVE):
        run_stage(stage, workspace)
    assert workspace.read("superresolve")["checkpoint"] == "t1"
    assert source["contrast"] == "T1w"


def test_a_series_that_no_checkpoint_is_made_for_is_refused_before_any_work(converted, tmp_path):
    with pytest.raises(OutOfRange, match=r"is T1w, and checkpoint flair .*; .*checkpoint t2 is"):
        converted(flair=("FLAIR",), t2=("T2w",))
    assert list((tmp_path / "job").iterdir()) == []
