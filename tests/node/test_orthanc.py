"""Our own Orthanc: unprivileged, behind a password, forwarding what it should, never left."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, DeflatedExplicitVRLittleEndian, MRImageStorage
from pynetdicom import AE, evt
from pynetdicom.events import Event
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind

from mrisr_node.errors import SettingsError
from mrisr_node.node import orthanc as module
from mrisr_node.node.orthanc import OrthancProcess, storage_of
from mrisr_node.node.sample import Acquisition, SampleSeries, Study, write_sample
from mrisr_node.settings import Settings

TINY = Acquisition(slices=3, matrix=32)


@pytest.fixture
def forwarded(orthanc: OrthancProcess) -> Iterator[list[str]]:
    """The Series Instance UIDs that arrive at the receiver's port."""
    arrived: list[str] = []

    def store(event: Event) -> int:
        arrived.append(str(event.dataset.SeriesInstanceUID))
        return 0x0000

    settings = orthanc.settings
    entity = AE(ae_title=settings.ae_title)
    entity.add_supported_context(MRImageStorage)
    entity.add_supported_context(CTImageStorage)
    server = entity.start_server(
        ("127.0.0.1", settings.receiver_port), block=False, evt_handlers=[(evt.EVT_C_STORE, store)]
    )
    yield arrived
    server.shutdown()


def changed(folder: Path, change: Callable[[Dataset], None]) -> SampleSeries:
    """Write a tiny series and change each of its instances."""
    series = write_sample(folder, TINY)
    for path in series.paths:
        change_file(path, change)
    return series


def change_file(path: Path, change: Callable[[Dataset], None]) -> None:
    dataset = pydicom.dcmread(path)
    change(dataset)
    dataset.save_as(path)


def derive(dataset: Dataset) -> None:
    dataset.ImageType = ["DERIVED", "SECONDARY", "MPR"]


def make_ct(dataset: Dataset) -> None:
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
    dataset.Modality = "CT"


def sign(dataset: Dataset) -> None:
    equipment = Dataset()
    equipment.Manufacturer = "mrisr_node"
    equipment.ManufacturerModelName = "mrisr_node"
    dataset.ContributingEquipmentSequence = [equipment]


def test_original_mr_is_forwarded_and_nothing_else(
    orthanc: OrthancProcess, forwarded: list[str], store: Callable[..., None], tmp_path: Path
) -> None:
    port = orthanc.settings.pacs_port
    for name, change in {"derived": derive, "ct": make_ct, "ours": sign}.items():
        changed(tmp_path / name, change)
        store(tmp_path / name, port=port)
    returned = write_sample(tmp_path / "returned", TINY)
    store(returned.folder, port=port, calling=orthanc.settings.ae_title)
    # One original among three, wherever Orthanc lists it.
    mixed = [write_sample(tmp_path / f"mixed-{k}", TINY) for k in range(3)]
    for k, series in enumerate(mixed):
        for path in series.paths[:k] + series.paths[k + 1 :]:
            change_file(path, derive)
        store(series.folder, port=port)
    # Sent last, so the others were judged before it.
    study = Study()
    first = write_sample(tmp_path / "first", TINY, study=study)
    second = write_sample(tmp_path / "second", TINY, study=study, series_number=2)
    store(first.folder, second.folder, port=port)

    deadline = time.monotonic() + 30
    while len(forwarded) < 15 and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(1.0)
    sent = [series.series_uid for series in (*mixed, first, second)]
    assert sorted(forwarded) == sorted(sent * 3)


def test_it_runs_without_privileges(orthanc: OrthancProcess) -> None:
    status = Path(f"/proc/{orthanc.pid}/status").read_text()
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert "0" not in fields["Uid"].split()
    assert fields["NoNewPrivs"] == "1"
    assert int(fields["CapEff"], 16) == 0


def test_its_configuration_is_readable_to_itself_alone(orthanc: OrthancProcess) -> None:
    config = storage_of(orthanc.settings) / "orthanc.json"
    assert config.stat().st_mode & 0o777 == 0o600
    assert config.stat().st_uid == Path(f"/proc/{orthanc.pid}").stat().st_uid


def test_http_asks_for_the_password(orthanc: OrthancProcess) -> None:
    settings = orthanc.settings
    right = (settings.orthanc_username, settings.pacs_password())
    for auth, status in ((None, 401), (("mrisr", "wrong"), 401), (right, 200)):
        for path in ("/system", "/dicom-web/studies"):
            assert httpx.get(orthanc.url + path, auth=auth).status_code == status


def test_deflated_is_refused(orthanc: OrthancProcess) -> None:
    scanner = AE(ae_title="SCANNER")
    scanner.add_requested_context(MRImageStorage, DeflatedExplicitVRLittleEndian)
    association = scanner.associate("127.0.0.1", orthanc.settings.pacs_port)
    try:
        assert not association.accepted_contexts
    finally:
        if association.is_established:
            association.release()


def test_nobody_may_query_by_dimse(orthanc: OrthancProcess) -> None:
    stranger = AE(ae_title="STRANGER")
    stranger.add_requested_context(StudyRootQueryRetrieveInformationModelFind)
    association = stranger.associate("127.0.0.1", orthanc.settings.pacs_port)
    query = Dataset()
    query.QueryRetrieveLevel = "STUDY"
    query.StudyInstanceUID = ""
    answers = list(association.send_c_find(query, StudyRootQueryRetrieveInformationModelFind))
    assert [hex(status.get("Status", 0xC000)) for status, _ in answers] == ["0xc000"]
    if association.is_established:
        association.release()


def test_stop_ends_it(needs_orthanc: None, make_settings: Callable[..., Settings]) -> None:
    process = OrthancProcess(make_settings())
    with process:
        pid = process.pid
        assert pid is not None
    assert process.pid is None
    assert not Path(f"/proc/{pid}").exists()


def test_it_dies_with_its_parent(
    needs_orthanc: None, make_settings: Callable[..., Settings]
) -> None:
    settings = make_settings()
    program = (
        "import time\n"
        "from mrisr_node.node.orthanc import OrthancProcess\n"
        "from mrisr_node.settings import load_settings\n"
        "with OrthancProcess(load_settings()) as orthanc:\n"
        "    print(orthanc.pid, flush=True)\n"
        "    time.sleep(60)\n"
    )
    environment = dict(os.environ)
    for name in ("data_dir", "orthanc_http_port", "pacs_port"):
        environment[f"MRISR_{name.upper()}"] = str(getattr(settings, name))
    with subprocess.Popen(
        [sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 5
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize("name", ["orthanc_http_port", "pacs_port"])
def test_a_taken_port_is_named(make_settings: Callable[..., Settings], name: str) -> None:
    settings = make_settings()
    with (
        socket.create_server(("", getattr(settings, name))),
        pytest.raises(SettingsError, match=name),
    ):
        OrthancProcess(settings).start()


def test_a_missing_orthanc_is_said(
    make_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "find_orthanc", lambda: None)
    with pytest.raises(SettingsError, match="make setup"):
        OrthancProcess(make_settings()).start()


def test_a_configuration_it_refuses_is_said(
    needs_orthanc: None, make_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    settings = make_settings(orthanc_config=tmp_path)
    (tmp_path / "forward.lua").write_text("")
    (tmp_path / "orthanc.json").write_text('{"HttpPort": "not a number"}')
    process = OrthancProcess(settings)
    process.start()
    with pytest.raises(SettingsError, match="ended at start"):
        process.wait_ready()
