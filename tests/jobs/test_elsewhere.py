"""An Orthanc that is not the node's own, given by settings."""

import time

from mrisr_node.node.sample import Acquisition, write_sample
from mrisr_node.node.supervisor import Node
from mrisr_node.records import Series, State, open_records


def test_a_node_works_with_an_orthanc_that_runs_elsewhere(orthanc, make_settings, store, tmp_path):
    orthanc.wait_ready()
    there = orthanc.settings
    settings = make_settings(
        orthanc_url=orthanc.url,
        orthanc_password=there.pacs_password(),
        pacs_port=there.pacs_port,
        receiver_port=there.receiver_port,
        minimum_free_bytes=0,
    )
    few = write_sample(tmp_path, Acquisition(slices=4, matrix=64))
    with Node(settings) as node:
        node.wait_ready()
        assert "orthanc" not in node.processes
        open_records(settings.database_path)
        store(few.folder, port=there.pacs_port)
        end = time.monotonic() + 120
        mine = Series.series_instance_uid == few.series_uid
        while not Series.select().where(mine, Series.state == State.SKIPPED.value).exists():
            assert time.monotonic() < end
            time.sleep(0.3)
    assert "4 slices" in Series.get(mine).reason
