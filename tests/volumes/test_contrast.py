"""The contrast of a series, told from its headers or not at all."""

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from mrisr_node.volumes.contrast import contrast_of


def classic(kinds, variants, repetition, echo, inversion=None, flip=90, **more):
    dataset = Dataset()
    dataset.ScanningSequence, dataset.SequenceVariant = kinds, variants
    dataset.RepetitionTime, dataset.EchoTime = repetition, echo
    dataset.InversionTime, dataset.FlipAngle = inversion, flip
    for name, value in more.items():
        setattr(dataset, name, value)
    return dataset


@pytest.mark.parametrize(
    ("contrast", "header"),
    [
        ("T1w", classic("SE", "NONE", 500, 12)),
        ("T1w", classic(["GR", "IR"], ["SK", "SP", "MP"], 2250, 4.1, 925, 9)),
        ("T1w", classic("GR", "MP", 6.5, 2.9, None, 9)),
        ("T1w", classic("GR", ["SS", "SP"], 8.9, 3.2, 450, None)),
        ("T1w", classic("GR", "SP", 300, 2.5, None, 80)),
        ("T1w", classic(["SE", "IR"], "SK", 2000, 10, 860)),
        ("T2w", classic("SE", "SK", 4500, 95)),
        ("T2w", classic("SE", "SK", 3000, 102, 0)),
        ("FLAIR", classic(["SE", "IR"], "SK", 9000, 120, 2500)),
        ("FLAIR", classic("IR", "SK", 4800, 387, 1650)),
        ("PDw", classic("SE", "SK", 2300, 22)),
        (None, classic("GR", "SP", 20, 3.5, None, 18, AngioFlag="Y")),
        (None, classic("GR", "SP", 30, 3.5, None, 5)),
        (None, classic("GR", "SP", 650, 20, None, 20)),
        (None, classic("GR", "SS", 5, 2.2, None, 50)),
        (None, classic("GR", "MP", 6000, 3, 2700, 5)),
        (None, classic("IR", "SK", 4400, 64, 140)),
        (None, classic(["SE", "IR"], "SK", 9000, 120)),
        (None, classic(["EP", "SE"], "SK", 6600, 93)),
        (None, classic("RM", "NONE", 500, 12)),
        (None, classic("SE", "SK", 1500, 12)),
        (None, classic("SE", "SK", 3000, 60)),
        (None, classic("SE", "SK", 500, None)),
        (None, classic("SE", "SK", None, 12)),
        (None, Dataset()),
    ],
)
def test_times_and_kind_of_sequence_decide(contrast, header):
    assert contrast_of([header, header]) == contrast


def test_a_series_of_several_contrasts_has_none():
    assert contrast_of([classic("SE", "SK", 2300, 22), classic("SE", "SK", 2300, 90)]) is None
    assert contrast_of([]) is None


def enhanced(stated, **modifier):
    dataset, group = Dataset(), Dataset()
    timing, echo, changes = Dataset(), Dataset(), Dataset()
    timing.RepetitionTime, timing.FlipAngle, echo.EffectiveEchoTime = 9000, 90, 120.0
    for name, value in modifier.items():
        setattr(changes, name, value)
    group.MRTimingAndRelatedParametersSequence = Sequence([timing])
    group.MREchoSequence, group.MRModifierSequence = Sequence([echo]), Sequence([changes])
    dataset.SharedFunctionalGroupsSequence = Sequence([group])
    dataset.PerFrameFunctionalGroupsSequence = Sequence([Dataset()])
    dataset.AcquisitionContrast, dataset.EchoPulseSequence = stated, "SPIN"
    return dataset


@pytest.mark.parametrize(
    ("contrast", "header"),
    [
        ("FLAIR", enhanced("FLUID_ATTENUATED")),
        ("PDw", enhanced("PROTON_DENSITY")),
        (None, enhanced("DIFFUSION")),
        ("T2w", enhanced("UNKNOWN")),
        ("FLAIR", enhanced("UNKNOWN", InversionRecovery="YES", InversionTimes=2500.0)),
        (None, enhanced("UNKNOWN", InversionRecovery="YES")),
    ],
)
def test_enhanced_objects_state_it_or_say_how_they_were_made(contrast, header):
    assert contrast_of([header]) == contrast


@pytest.mark.parametrize(
    ("series", "contrast"),
    [("papaya_brain", "PDw"), ("qa_decub_HFDL_t1sag", "T1w"), ("qa_xa30_T1_enh", "T1w")],
)
def test_scanners_headers_tell_it(shared_data, series, contrast):
    files = [p for p in shared_data(f"series/{series}").rglob("*") if p.is_file()][:3]
    assert contrast_of([dcmread(p, stop_before_pixels=True) for p in files]) == contrast
