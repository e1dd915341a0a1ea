"""A node that has received something, and where to bring it."""

import pytest

from mrisr_node.intake.receiver import Receiver
from mrisr_node.intake.sending import Destination, send_files
from mrisr_node.jobs.queues import Queues
from mrisr_node.jobs.stages import Queue
from mrisr_node.node.sample import Acquisition, write_sample
from mrisr_node.records import open_records
from tests.spooling import refuse


@pytest.fixture(scope="session")
def few_slices(tmp_path_factory):
    return write_sample(tmp_path_factory.mktemp("backup"), Acquisition(slices=5, matrix=32))


@pytest.fixture
def received(make_settings, tmp_path, few_slices):
    """A node with one series, received by the real receiver, and one object in quarantine."""
    made = make_settings(
        data_dir=tmp_path / "node", minimum_free_bytes=0, minimum_slices=4, quiet_seconds=1.0
    )
    open_records(made.database_path)
    receiver = Receiver(made)
    receiver.start()
    try:
        where = Destination("127.0.0.1", made.receiver_port, "MRISR", "ORTHANC")
        assert send_files(list(few_slices.paths), where, lambda _: None) == []
    finally:
        receiver.stop()
    refuse(made, b"junk", "cannot be read", "SCANNER")
    Queues(made).send(Queue.CPU, 1)
    made.secret("orthanc-password")
    return made


@pytest.fixture
def elsewhere(make_settings, tmp_path):
    """A node that is not there yet."""
    return make_settings(
        data_dir=tmp_path / "other", minimum_free_bytes=0, minimum_slices=4, quiet_seconds=1.0
    )
