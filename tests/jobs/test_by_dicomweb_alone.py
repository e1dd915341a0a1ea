"""A tool that speaks DICOMweb sends a series and gets its result, and needs no other way."""

import os
import signal
import time
from collections.abc import Callable

import httpx
import numpy as np
import pytest
import requests
from dicomweb_client.api import DICOMwebClient
from pydicom import dcmread
from pydicom.uid import generate_uid

from mrisr_node.node.supervisor import Node
from mrisr_node.people.tokens import create_token
from mrisr_node.records import Instance, Series, open_records
from mrisr_node.settings import Settings


@pytest.fixture
def images(sample_series):
    """The sample series under UIDs of its own: others send it, too."""
    images = [dcmread(path) for path in sample_series.paths]
    study, series = generate_uid(), generate_uid()
    for image in images:
        image.StudyInstanceUID, image.SeriesInstanceUID = study, series
        image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    return images


def until(found: Callable[[], object], seconds: float) -> object:
    end = time.monotonic() + seconds
    while not (answer := found()):
        assert time.monotonic() < end
        time.sleep(0.5)
    return answer


def client_of(settings: Settings, token: str) -> DICOMwebClient:
    session = requests.Session()
    session.trust_env = False
    session.headers["Authorization"] = f"Bearer {token}"
    return DICOMwebClient(f"{settings.viewer_url}/dicom-web", session=session)


@pytest.mark.timeout(1500)
def test_a_series_and_its_result(node, images):
    node.wait_ready()
    settings = node.settings
    open_records(settings.database_path)
    token = create_token("admin", "tool")
    dicomweb = client_of(settings, token)
    headers = {"Authorization": f"Bearer {token}"}
    first = images[0]
    answer = dicomweb.store_instances(images)
    assert len(answer.ReferencedSOPSequence) == len(images)
    with httpx.Client(base_url=settings.viewer_url, headers=headers, trust_env=False) as api:

        def ended() -> dict | None:
            jobs = api.get("/api/jobs", params={"limit": 200}).raise_for_status().json()["items"]
            ours = (job for job in jobs if job["series_instance_uid"] == first.SeriesInstanceUID)
            job = next(ours, None)
            return job if job and job["state"] in ("done", "failed", "skipped") else None

        job = until(ended, 1200)
    assert job["state"] == "done", job
    study, result = first.StudyInstanceUID, job["result_series_uid"]
    series = {s["0020000E"]["Value"][0] for s in dicomweb.search_for_series(study)}
    assert {result, first.SeriesInstanceUID} < series
    thin = dicomweb.retrieve_series(study, result)
    assert len(thin) > 2 * len(images)
    assert {image.FrameOfReferenceUID for image in thin} == {first.FrameOfReferenceUID}
    pixels = np.stack([image.pixel_array for image in thin])
    assert pixels.max() > 0.5 * max(image.pixel_array.max() for image in images)
    uids = (study, result, thin[0].SOPInstanceUID)
    [frame] = dicomweb.retrieve_instance_frames(*uids, frame_numbers=[1])
    assert frame == thin[0].PixelData
    assert dicomweb.retrieve_instance_metadata(*uids)["00080018"]["Value"] == [uids[-1]]


def test_nothing_is_lost_where_everything_dies_after_the_answer(
    needs_orthanc, make_settings, images
):
    settings = make_settings(stable_age=5, reconcile_seconds=2.0)
    with Node(settings) as node:
        node.wait_ready()
        token = create_token("admin", "tool")
        client_of(settings, token).store_instances(images)
        # Before the series is stable: Orthanc will never say that it is.
        for pid in node.processes.values():
            os.kill(pid, signal.SIGKILL)
    with Node(settings) as node:
        node.wait_ready()
        open_records(settings.database_path)

        def arrived() -> bool:
            rows = Instance.select().join(Series)
            uid = images[0].SeriesInstanceUID
            return rows.where(Series.series_instance_uid == uid).count() == len(images)

        until(arrived, 180)
