"""A receiver on the settings of the test that asks for it."""

import pytest

from mrisr_node.intake.receiver import Receiver


@pytest.fixture
def receiver(settings):
    running = Receiver(settings)
    running.start()
    yield running
    running.stop()
