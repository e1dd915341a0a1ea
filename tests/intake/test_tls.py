"""DICOM TLS, with DCMTK's clients: who has no good certificate stays outside."""

import contextlib
import datetime
import json
import socket
import ssl
import subprocess
import time

import pytest
import trustme
from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid
from pynetdicom import AE, build_context, evt
from pynetdicom.sop_class import StorageCommitmentPushModel

from mrisr_node.choices import Delivery
from mrisr_node.errors import DeliveryError, SettingsError
from mrisr_node.intake.association import Destination, association
from mrisr_node.intake.commitment_reports import CommitmentReports
from mrisr_node.intake.receiver import Receiver
from mrisr_node.intake.tls import client_context, server_context
from mrisr_node.node.sample import Acquisition, write_sample
from mrisr_node.records import CommitmentReport, Instance, open_records
from mrisr_node.results.delivery import Pacs

pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.usefixtures("lost_sockets"),
]


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    return write_sample(tmp_path_factory.mktemp("tls"), Acquisition(slices=2, matrix=32))


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


def _files(folder, name, authority, **options):
    """Write a certificate and its key; return both paths."""
    issued = authority.issue_cert("localhost", "127.0.0.1", common_name=name, **options)
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    issued.private_key_pem.write_to_path(key)
    for blob in issued.cert_chain_pems:
        blob.write_to_path(certificate, append=True)
    return certificate, key


@pytest.fixture(scope="module")
def settings(make_settings, free_port, tmp_path_factory, authority):
    folder = tmp_path_factory.mktemp("certificates")
    certificate, key = _files(folder, "node", authority)
    authority.cert_pem.write_to_path(folder / "ca.pem")
    made = make_settings(
        minimum_free_bytes=0, tls_port=free_port(),
        tls_certificate=certificate, tls_key=key, tls_ca=folder / "ca.pem",
    )  # fmt: skip
    open_records(made.database_path)
    return made


@pytest.fixture(scope="module")
def receiver(settings):
    running = Receiver(settings)
    running.start()
    yield running
    running.stop()


def _storescu(settings, path, *options):
    done = subprocess.run(
        ["storescu", *map(str, options), "-aet", "ORTHANC", "-aec", "MRISR", "127.0.0.1",
         str(settings.tls_port), str(path)],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    return done.returncode


def _client(certificate, key, ca):
    return ("+tls", key, certificate, "+cf", ca, "-ic")


def test_a_client_with_a_good_certificate_stores(receiver, settings, sample, tmp_path, authority):
    options = _client(*_files(tmp_path, "scanner", authority), settings.tls_ca)
    assert _storescu(settings, sample.paths[0], *options) == 0
    assert Instance.select().count() == 1


@pytest.mark.parametrize("kind", ["wrong", "expired", "missing", "plain"])
def test_others_stay_outside(receiver, settings, sample, tmp_path, authority, kind):
    before = Instance.select().count()
    if kind == "wrong":
        files = _files(tmp_path, "stranger", trustme.CA())
        options = _client(*files, settings.tls_ca)
    elif kind == "expired":
        past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
        files = _files(tmp_path, "old", authority, not_after=past)
        options = _client(*files, settings.tls_ca)
    elif kind == "missing":
        options = ("+tla", "+cf", settings.tls_ca, "-ic")
    else:
        options = ()
    assert _storescu(settings, sample.paths[1], *options) != 0
    assert Instance.select().count() == before


def test_old_protocols_are_not_spoken(settings):
    context = server_context(settings)
    assert context is not None
    assert context.minimum_version.name == "TLSv1_2"
    names = {cipher["name"] for cipher in context.get_ciphers()}
    assert not any("CBC" in name or "RC4" in name or name.startswith("AES") for name in names)


def test_a_client_that_never_finishes_its_handshake_loses_its_place(
    receiver, settings, sample, tmp_path, authority
):
    silent = [socket.create_connection(("127.0.0.1", settings.tls_port)) for _ in range(3)]
    for connection in silent:
        connection.sendall(b"\x16\x03\x01\x02\x00")
        connection.settimeout(60)
    options = _client(*_files(tmp_path, "scanner", authority), settings.tls_ca)
    assert _storescu(settings, sample.paths[1], *options) == 0
    for connection in silent:
        try:
            while connection.recv(1000):
                continue
        except ConnectionResetError:
            pass
        connection.close()


def test_certificates_that_are_missing_are_named(make_settings, free_port, tmp_path):
    made = make_settings(tls_port=free_port())
    with pytest.raises(SettingsError, match="tls_certificate is needed"):
        Receiver(made).start()
    junk = tmp_path / "junk.pem"
    junk.write_text("no certificate")
    made = make_settings(tls_port=free_port(), tls_certificate=junk, tls_key=junk, tls_ca=junk)
    with pytest.raises(SettingsError, match="cannot be used"):
        Receiver(made).start()


def test_the_sender_speaks_tls_and_looks_at_the_certificate(receiver, settings, sample, authority):
    """The node as its own PACS: it accepts its own certificate, and no other host's."""
    where = Destination("127.0.0.1", settings.tls_port, "MRISR", "ORTHANC")
    contexts = [build_context(MRImageStorage, ExplicitVRLittleEndian)]
    context = client_context(settings)
    with association(where, contexts, 20.0, tls=context) as peer:
        dataset = dcmread(sample.paths[1])
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        assert peer.send_c_store(dataset).Status == 0x0000
    stranger = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    with (
        pytest.raises(DeliveryError, match="no association"),
        association(where, contexts, 20.0, tls=stranger),
    ):
        pass


@contextlib.contextmanager
def _pacs(folder, port, certificate, key, authority, *options):
    """Run DCMTK's storescp as a PACS that speaks TLS; it wants the node's certificate."""
    (folder / "kept").mkdir()
    trusted = folder / "trusted.pem"
    authority.cert_pem.write_to_path(trusted)
    process = subprocess.Popen(
        ["storescp", "+tls", str(key), str(certificate), "+cf", str(trusted), *options,
         "-aet", "ORTHANC", "-od", str(folder / "kept"), str(port)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 30
        while True:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port)).close()
                break
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield folder / "kept"
    finally:
        process.terminate()
        process.wait()


@pytest.mark.parametrize("kind", ["good", "wrong", "expired", "another host", "distrusts us"])
def test_results_go_to_a_pacs_by_tls_and_to_no_other(
    settings, sample, tmp_path, authority, free_port, kind
):
    """As results/delivery sends them, with `pacs_tls`."""
    issuer = trustme.CA() if kind == "wrong" else authority
    options = {}
    if kind == "expired":
        now = datetime.datetime.now(datetime.UTC)
        options["not_after"] = now - datetime.timedelta(days=1)
    if kind == "another host":
        issued = issuer.issue_cert("pacs.example", common_name="pacs")
        certificate, key = tmp_path / "pacs.pem", tmp_path / "pacs.key"
        issued.private_key_pem.write_to_path(key)
        issued.cert_chain_pems[0].write_to_path(certificate)
    else:
        certificate, key = _files(tmp_path, "pacs", issuer, **options)
    theirs = trustme.CA() if kind == "distrusts us" else authority
    chosen = settings.model_copy(
        update={"pacs_tls": True, "pacs_port": free_port(), "delivery": Delivery.CSTORE}
    )
    with _pacs(tmp_path, chosen.pacs_port, certificate, key, theirs) as kept:
        if kind == "good":
            Pacs(chosen).store(sample.paths, lambda _: None)
        else:
            with pytest.raises(DeliveryError):
                Pacs(chosen).store(sample.paths, lambda _: None)
        assert len(list(kept.iterdir())) == (len(sample.paths) if kind == "good" else 0)


@pytest.mark.parametrize("kind", ["good", "wrong"])
def test_promises_go_to_a_scanner_by_tls_and_to_no_other(
    settings, tmp_path, authority, free_port, kind
):
    certificate, key = _files(tmp_path, "scanner", trustme.CA() if kind == "wrong" else authority)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    context.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(context)
    told, port = [], free_port()

    def take(event):
        told.append(str(event.event_information.TransactionUID))
        return 0x0000, None

    ae = AE(ae_title="SCANNER")
    ae.add_supported_context(StorageCommitmentPushModel, scu_role=True, scp_role=True)
    scanner = ae.start_server(
        ("127.0.0.1", port), block=False, ssl_context=context,
        evt_handlers=[(evt.EVT_N_EVENT_REPORT, take)],
    )  # fmt: skip
    asked = CommitmentReport.create(
        peer="SCANNER",
        transaction_uid=generate_uid(),
        instances=json.dumps([[MRImageStorage, "1.2.3"]]),
    )
    chosen = settings.model_copy(
        update={"commitment_peers": {"SCANNER": f"tls://127.0.0.1:{port}"}}
    )
    try:
        CommitmentReports(chosen).round()
    finally:
        scanner.shutdown()
    asked = CommitmentReport.get_by_id(asked.id)
    assert told == ([asked.transaction_uid] if kind == "good" else [])
    assert asked.end == ("0 of 1 instances are kept" if kind == "good" else "")
    assert asked.attempts == (0 if kind == "good" else 1)
    asked.delete_instance()
