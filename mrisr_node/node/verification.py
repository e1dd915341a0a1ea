"""Is the result what it should be? Asked of the PACS, from outside, as any viewer would."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from dicomweb_client import DICOMwebClient
from pydicom.dataset import Dataset
from requests.exceptions import RequestException

from mrisr_node.errors import NodeError
from mrisr_node.volumes.acquisition import Acquisition, read_acquisition

__all__ = ["compare_mni", "compare_native", "fetch_headers", "verify"]

Compare = Callable[[Sequence[Dataset], Sequence[Dataset]], list[str]]

_TOLERANCE_MM = 0.01
_FINEST_MM = 0.8
"""Slices of a result are never closer than this."""


def verify(
    url: str, token: str, source: Sequence[Dataset], result_series: str, compare: Compare
) -> list[str]:
    """Fetch a result's headers over DICOMweb and compare them with the source's.

    Parameters
    ----------
    url
        Of the node's gateway, ending in ``/dicom-web``.
    token
        A bearer token for it.
    source
        Headers of the series that was sent.
    result_series
        Series Instance UID of the result.
    compare
        What the headers are held against: `compare_native` or `compare_mni`.

    Returns
    -------
    list of str
        What is wrong; nothing, when the result is as it should be.
    """
    study = str(source[0].StudyInstanceUID)
    try:
        result = fetch_headers(url, token, study, result_series)
    except RequestException as error:
        return [f"the result cannot be read over DICOMweb: {error}"]
    return compare(source, result)


def fetch_headers(url: str, token: str, study: str, series: str) -> list[Dataset]:
    """Return the headers of a series (PS3.18 10.4, RetrieveMetadata)."""
    client: Any = DICOMwebClient(url, headers={"Authorization": f"Bearer {token}"}, timeout=120)
    headers = client.retrieve_series_metadata(study, series)
    # Pixels stay where they are: only their address is in the answer.
    return [Dataset.from_json(header, bulk_data_uri_handler=lambda _: b"") for header in headers]


def compare_native(source: Sequence[Dataset], result: Sequence[Dataset]) -> list[str]:
    """Return in what a result differs from what its source asks for."""
    if not result:
        return ["the result has no instances"]
    problems = []
    for name in ("StudyInstanceUID", "FrameOfReferenceUID"):
        if {str(d.get(name)) for d in result} != {str(source[0].get(name))}:
            problems.append(f"{name} is not that of the source")
    try:
        thick, thin = read_acquisition(source), read_acquisition(result)
    except NodeError as error:
        return [*problems, f"the geometry cannot be read: {error}"]
    return problems + _compare_geometry(thick, thin)


def compare_mni(source: Sequence[Dataset], result: Sequence[Dataset]) -> list[str]:
    """Return in what a result of recipe ``mni`` differs from the template's grid."""
    if not result:
        return ["the result has no instances"]
    problems = []
    if {str(d.get("StudyInstanceUID")) for d in result} != {str(source[0].get("StudyInstanceUID"))}:
        problems.append("StudyInstanceUID is not that of the source")
    frames = {str(d.get("FrameOfReferenceUID") or "") for d in result}
    if len(frames) != 1 or "" in frames:
        problems.append("the images do not share one FrameOfReferenceUID")
    elif frames == {str(source[0].get("FrameOfReferenceUID"))}:
        problems.append("FrameOfReferenceUID is the source's, but MNI space is another")
    try:
        found = read_acquisition(result)
    except NodeError as error:
        return [*problems, f"the geometry cannot be read: {error}"]
    # Imported here: it brings ANTs and nilearn, seconds that the other recipe need not wait for.
    from mrisr_node.volumes.registration import load_template

    template = load_template()
    columns, rows, slices = template.data.shape
    if len(found.slices) != slices:
        problems.append(f"there are {len(found.slices)} slices instead of {slices}")
    elif found.shape != (columns, rows, slices):
        problems.append("the images have another size than the template's")
    elif not np.allclose(found.affine, template.affine, atol=1e-4):
        problems.append("the images do not lie on the template's grid")
    if found.unevenness > _TOLERANCE_MM:
        problems.append("the slices are not evenly spaced")
    return problems


def _compare_geometry(thick: Acquisition, thin: Acquisition) -> list[str]:
    problems = []
    first, other = thick.slices[0], thin.slices[0]
    if (other.rows, other.columns) != (first.rows, first.columns):
        problems.append("the images have another size")
    if not np.allclose(other.pixel_spacing, first.pixel_spacing, atol=1e-4):
        problems.append("the pixels have another size")
    turned = max(
        float(np.abs(other.row_cosine - first.row_cosine).max()),
        float(np.abs(other.column_cosine - first.column_cosine).max()),
    )
    if turned > 1e-4:
        problems.append("the images have another orientation")

    extent = len(thick.slices) * thick.distance
    wanted = max(float(np.mean(first.pixel_spacing)), _FINEST_MM)
    count = max(len(thick.slices), round(extent / wanted))
    if len(thin.slices) != count:
        problems.append(f"there are {len(thin.slices)} slices instead of {count}")
    # Exactly the field of view that was acquired: half a slice beyond the outer slices' centres.
    normal = np.cross(first.row_cosine, first.column_cosine)
    for end, side in ((0, -1.0), (-1, 1.0)):
        acquired = thick.slices[end].position + side * normal * thick.distance / 2
        covered = thin.slices[end].position + side * normal * thin.distance / 2
        away = float(np.linalg.norm(acquired - covered))
        if away > _TOLERANCE_MM:
            problems.append(f"an end of the field of view is {away:.3f} mm away from where it was")
    return problems
