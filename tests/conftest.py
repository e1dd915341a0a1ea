"""What tests of several rooms share: settings of their own, a real Orthanc, a whole node, data."""

import gc
import logging
import os
import shutil
import socket
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from mrisr_node.node.orthanc import OrthancProcess, find_orthanc, storage_of
from mrisr_node.node.sample import Acquisition, SampleSeries, write_sample
from mrisr_node.node.supervisor import Node
from mrisr_node.settings import Settings, load_settings

SHARED = Path(__file__).resolve().parent.parent.parent / "shared" / "data"

# The same examples on every machine; `make fuzz` looks further, and differently each time.
_CALM = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
hypothesis_settings.register_profile(
    "tests", derandomize=True, database=None, max_examples=40, **_CALM
)
hypothesis_settings.register_profile("fuzz", max_examples=5000, print_blob=True, **_CALM)
hypothesis_settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "tests"))

# The settings of whoever runs the tests must not reach them.
for name in [name for name in os.environ if name.startswith("MRISR_")]:
    del os.environ[name]


@pytest.fixture(autouse=True)
def no_log_to_what_is_closed() -> Iterator[None]:
    """Commands that run in this process log to the standard error that they had."""
    yield
    for handler in list(logging.root.handlers):
        if type(handler) is logging.StreamHandler and handler.stream.closed:
            logging.root.removeHandler(handler)


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    """Return a function that gives a TCP port on which nothing listens, a new one each time."""
    given: set[int] = set()

    def choose() -> int:
        while True:
            with socket.socket() as probe:
                probe.bind(("", 0))
                port: int = probe.getsockname()[1]
            if port not in given:
                given.add(port)
                return port

    return choose


@pytest.fixture
def lost_sockets() -> Iterator[None]:
    """Collect, within the test that let go of them, what pynetdicom leaves to the collector.

    It does not close the socket of a connection that was refused. The test ignores
    ``PytestUnraisableExceptionWarning``, which would otherwise come up in a later one.
    """
    yield
    gc.collect()


@pytest.fixture(scope="session")
def make_settings(
    tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int]
) -> Iterator[Callable[..., Settings]]:
    """Return a function that makes settings with a data directory and ports of their own."""
    made: list[Settings] = []

    def make(**values: object) -> Settings:
        defaults: dict[str, object] = {
            name: free_port()
            for name in ("receiver_port", "orthanc_http_port", "pacs_port", "web_port")
        }
        # The small network is quick; the default one is met by the demo and by tests of its own.
        defaults |= {"stable_age": 1, "quiet_seconds": 2.0, "checkpoint": ("thin-small",)}
        if "data_dir" not in values:
            defaults["data_dir"] = tmp_path_factory.mktemp("data")
        settings = load_settings(**(defaults | values))
        made.append(settings)
        return settings

    yield make
    for settings in made:
        # Root's Orthanc keeps its objects outside of pytest's private folders.
        shutil.rmtree(storage_of(settings), ignore_errors=True)


@pytest.fixture(scope="session")
def needs_orthanc() -> None:
    """Skip where Orthanc is not installed."""
    if find_orthanc() is None:
        pytest.skip("Orthanc is not installed: run `make setup`")


@pytest.fixture(scope="session")
def orthanc(
    needs_orthanc: None, make_settings: Callable[..., Settings]
) -> Iterator[OrthancProcess]:
    """Return a running Orthanc, shared by the whole session; its settings are `.settings`."""
    with OrthancProcess(make_settings()) as process:
        yield process


@pytest.fixture(scope="session")
def node(needs_orthanc: None, make_settings: Callable[..., Settings]) -> Iterator[Node]:
    """Return a whole running node, shared by the whole session; its settings are `.settings`."""
    with Node(make_settings(reconcile_seconds=5.0)) as running:
        yield running


@pytest.fixture(scope="session")
def sample_series(tmp_path_factory: pytest.TempPathFactory) -> SampleSeries:
    """Return a small, real, axial series: 12 slices of 5 mm from the middle of a head."""
    return write_sample(tmp_path_factory.mktemp("sample"), Acquisition(slices=12, matrix=160))


@pytest.fixture(scope="session")
def store() -> Callable[..., None]:
    """Return a function that sends DICOM folders or files with DCMTK's storescu, as a scanner."""

    def send(*paths: Path, port: int, called: str = "ORTHANC", calling: str = "SCANNER") -> None:
        subprocess.run(
            ["storescu", "-R", "+sd", "+r", "-aet", calling, "-aec", called, "127.0.0.1",
             str(port), *map(str, paths)],
            check=True, timeout=120, capture_output=True,
        )  # fmt: skip

    return send


@pytest.fixture(scope="session")
def shared_data(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that gives a file of the shared data, or the folder of an archive.

    ``shared_data("series/papaya_brain")`` unpacks ``series/papaya_brain.tar.xz``, once a session.
    """
    unpacked: dict[str, Path] = {}

    def find(name: str) -> Path:
        archive = SHARED / f"{name}.tar.xz"
        if (SHARED / name).exists():
            return SHARED / name
        if not archive.is_file():
            pytest.skip(f"the shared data are not beside this checkout: {name}")
        if name not in unpacked:
            folder = tmp_path_factory.mktemp(archive.name.partition(".")[0])
            with tarfile.open(archive) as tar:
                if hasattr(tarfile, "data_filter"):
                    tar.extractall(folder, filter="data")
                else:
                    tar.extractall(folder)
            unpacked[name] = folder
        return unpacked[name]

    return find
