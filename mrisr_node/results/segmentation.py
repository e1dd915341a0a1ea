"""The brain mask as a Segmentation (PS3.3 A.51) over the thin slices."""

from __future__ import annotations

from pathlib import Path

import highdicom
import numpy as np
from highdicom.seg import (
    SegmentAlgorithmTypeValues,
    Segmentation,
    SegmentationFractionalTypeValues,
    SegmentationTypeValues,
    SegmentDescription,
)
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.sr.codedict import codes
from pydicom.uid import UID, SegmentationStorage

from mrisr_node import __version__
from mrisr_node.choices import ResultKind
from mrisr_node.identity import MANUFACTURER_MODEL_NAME, derive_uid
from mrisr_node.results.attributes import carry_identity, without_identity
from mrisr_node.results.mr_content import Content
from mrisr_node.results.origin import (
    MANUFACTURER,
    Origin,
    WrittenSeries,
    file_meta,
    only_instance_of,
)

__all__ = ["write_brain_mask"]

# Shown in colour by viewers that ask (CIELab as PS3.3 C.10.7.1.1 scales it): a calm blue-green.
_COLOUR = highdicom.color.CIELabColor(70.0, -35.0, -15.0)


def write_brain_mask(
    folder: Path,
    origin: Origin,
    image: WrittenSeries,
    content: Content,
    mask: NDArray[np.bool_],
) -> WrittenSeries:
    """Write one Segmentation instance, on the grid of the written thin slices.

    Parameters
    ----------
    folder
        Empty; gets ``0001.dcm``.
    image, content
        The thin slices, and what they were written from.
    mask
        Brain, axes (column, row, slice) of the volume of ``content``.
    """
    thin = [without_identity(dcmread(path, stop_before_pixels=True)) for path in image.paths]
    series_uid = origin.series_uid(ResultKind.MASK)
    segment = SegmentDescription(
        segment_number=1,
        segment_label="Brain",
        segmented_property_category=codes.SCT.AnatomicalStructure,
        segmented_property_type=codes.SCT.Brain,
        algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name="HD-BET",
            family=codes.DCM.ArtificialIntelligence,
            version=origin.facts.brain_method,
        ),
        tracking_uid=derive_uid("segment", str(series_uid)),
        tracking_id="Brain",
        display_color=_COLOUR,
    )
    ds = Segmentation(
        source_images=thin,
        # One frame for each of them, in their order.
        pixel_array=np.stack([mask[:, :, index].T for index in content.order()]),
        segmentation_type=_type(mask.shape),
        fractional_type=SegmentationFractionalTypeValues.OCCUPANCY,
        segment_descriptions=[segment],
        series_instance_uid=series_uid,
        series_number=origin.series_number(ResultKind.MASK),
        sop_instance_uid=only_instance_of(str(series_uid)),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=MANUFACTURER_MODEL_NAME,
        software_versions=__version__,
        device_serial_number=origin.provenance.digest[:16],
        content_label="BRAIN",
        content_description="Brain that fidelity was measured in",
        series_description=origin.describe(ResultKind.MASK, content.volume.spacing[2]),
    )
    carry_identity(ds, origin.first)
    origin.stamp(ds)
    ds.file_meta = file_meta(SegmentationStorage)
    ds.file_meta.MediaStorageSOPInstanceUID = UID(ds.SOPInstanceUID)
    path = folder / "0001.dcm"
    ds.save_as(path, enforce_file_format=True)
    return WrittenSeries(
        kind=ResultKind.MASK,
        study_instance_uid=image.study_instance_uid,
        series_instance_uid=str(series_uid),
        paths=(path,),
    )


def _type(shape: tuple[int, ...]) -> SegmentationTypeValues:
    """Return how the mask is stored: a bit a pixel, where frames are a whole number of bytes long.

    Frames of one bit a pixel follow each other without a gap (PS3.5 8.1.1), and PACS and viewers
    that take them apart at whole bytes shift all but the first. A byte a pixel has no such gap.
    """
    columns, rows, _ = shape
    whole = columns * rows % 8 == 0
    return SegmentationTypeValues.BINARY if whole else SegmentationTypeValues.FRACTIONAL
