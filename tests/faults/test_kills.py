"""Killed at every point where something becomes durable or known: nothing is lost or done twice."""

import kill_harness
import pytest

from mrisr_node.node.orthanc import OrthancProcess
from mrisr_node.settings import Delivery


@pytest.fixture
def settings(make_settings, needs_orthanc):
    made = make_settings(
        minimum_free_bytes=0,
        quiet_seconds=3.0,
        # By C-STORE each delivered instance is a step of its own.
        delivery=Delivery.CSTORE,
        # As often as it takes: what is counted is what is left.
        maximum_attempts=1000,
        delivery_attempts=1000,
        delivery_first_delay=0.2,
        # A report that went to a killed receiver is not waited for long.
        commitment_wait=10.0,
        network_timeout=10.0,
    )
    with OrthancProcess(made):
        yield made


def test_killed_at_every_point(settings, tmp_path):
    figures = kill_harness.run(
        settings, kill_harness.in_turns(kill_harness.every_point()), tmp_path, load=2
    )
    print("\n".join(figures.lines()))
    assert not figures.not_reached
    assert set(figures.kills) == {
        f"{kill.role}.{kill.point}" for kill in kill_harness.every_point()
    }
    assert figures.acknowledged == figures.series * kill_harness.SLICES
    assert figures.lost == 0
    assert not figures.unfinished
    assert figures.done_once + figures.reopened >= figures.series
    assert figures.duplicates == 0
    assert figures.orphans == []
