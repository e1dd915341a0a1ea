"""What an MR series shows bright, told from how it was acquired.

Repetition, echo and inversion times decide, never a description that somebody typed. The limits
are those of the common clinical protocols at 1.5 and 3 T (Bernstein, King and Zhou, Handbook of MRI
Pulse Sequences, 2004): FLAIR waits for the null of the fluid (Hajnal et al., 1992), MPRAGE for the
widest gap between grey and white matter (Mugler and Brookeman, 1990). What lies between the limits
is not told: a wrong contrast does more harm than none.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import acos, degrees, exp

from pydicom.dataset import Dataset

__all__ = ["CONTRASTS", "contrast_of", "holders_of", "stated_number"]

CONTRASTS = ("T1w", "T2w", "FLAIR", "PDw")
"""Every contrast that can be told, by the suffixes of BIDS."""

# AcquisitionContrast (0008,9209) of enhanced objects.
_STATED = {"T1": "T1w", "T2": "T2w", "FLUID_ATTENUATED": "FLAIR", "PROTON_DENSITY": "PDw"}
_NOT_STATED = frozenset({"", "UNKNOWN", "MIXED"})
_T1_OF_THE_BRAIN = 1000.0  # ms


@dataclass(frozen=True)
class _Sequence:
    """The parts of a pulse sequence that make its contrast; times in ms, angle in degrees."""

    kinds: frozenset[str]
    """ScanningSequence: SE, IR, GR, EP, RM."""
    variants: frozenset[str]
    """SequenceVariant: SP for spoiled, MP for magnetisation prepared, SS for steady state …"""
    repetition: float
    echo: float
    inversion: float | None
    flip: float | None


def contrast_of(datasets: Iterable[Dataset]) -> str | None:
    """Return the contrast of a series, one of ``CONTRASTS``, or None where it cannot be told.

    Parameters
    ----------
    datasets
        Its instances, classic or enhanced (the first frame counts); pixel data are not looked at.
    """
    try:
        found = {_contrast(dataset) for dataset in datasets}
    except Exception:  # noqa: BLE001 - pydicom raises anything on a damaged header
        return None
    return found.pop() if len(found) == 1 else None


def _contrast(dataset: Dataset) -> str | None:
    holders = holders_of(dataset)
    stated = next(iter(_words(holders, "AcquisitionContrast")), "")
    if stated not in _NOT_STATED:
        return _STATED.get(stated)
    sequence = _sequence(holders)
    # Echo-planar and research sequences, and angiograms, have contrasts of their own.
    if (
        sequence is None
        or sequence.kinds & {"EP", "RM"}
        or "Y" in _words(holders, "AngioFlag")
        or "YES" in _words(holders, "EchoPlanarPulseSequence")
    ):
        return None
    return _of_gradient_echo(sequence) if "GR" in sequence.kinds else _of_spin_echo(sequence)


def _of_gradient_echo(s: _Sequence) -> str | None:
    if "SE" in s.kinds or s.echo > 10:
        return None
    if s.inversion is not None:
        return "T1w" if 400 <= s.inversion <= 1300 else None
    if "MP" in s.variants:
        return "T1w"
    if "SP" not in s.variants or s.flip is None:
        return None
    # A spoiled sequence is T1-weighted above the angle of most signal (Ernst and Anderson, 1966).
    ernst = degrees(acos(exp(-s.repetition / _T1_OF_THE_BRAIN)))
    return "T1w" if s.flip > ernst else None


def _of_spin_echo(s: _Sequence) -> str | None:
    if s.inversion is not None:
        if s.inversion >= 1400 and s.echo >= 70:
            return "FLAIR"
        return "T1w" if 600 <= s.inversion <= 1300 and s.echo < 30 else None
    if "SE" not in s.kinds or "IR" in s.kinds:
        return None
    if s.repetition < 1000:
        return "T1w" if s.echo < 30 else None
    if s.repetition > 2000:
        return "T2w" if s.echo >= 70 else "PDw" if s.echo < 45 else None
    return None


def _sequence(holders: list[Dataset]) -> _Sequence | None:
    repetition = stated_number(holders, "RepetitionTime")
    echo = stated_number(holders, "EchoTime", "EffectiveEchoTime")
    if repetition is None or echo is None:
        return None
    kinds, variants = _words(holders, "ScanningSequence"), _words(holders, "SequenceVariant")
    # Enhanced objects say the same with other attributes (PS3.3 C.8.13.4, C.8.13.5).
    pulse = _words(holders, "EchoPulseSequence")
    kinds |= {"SE"} if pulse & {"SPIN", "BOTH"} else set()
    kinds |= {"GR"} if pulse & {"GRADIENT", "BOTH"} else set()
    kinds |= {"IR"} if "YES" in _words(holders, "InversionRecovery") else set()
    variants |= {"SP"} if _words(holders, "Spoiling") - {"NONE"} else set()
    return _Sequence(
        kinds=frozenset(kinds),
        variants=frozenset(variants),
        repetition=repetition,
        echo=echo,
        inversion=stated_number(holders, "InversionTime", "InversionTimes"),
        flip=stated_number(holders, "FlipAngle"),
    )


def holders_of(dataset: Dataset) -> list[Dataset]:
    """Return what may hold an attribute: the instance, or what is said of its first frame."""
    found = [dataset]
    for groups in ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"):
        for group in list(dataset.get(groups) or [])[:1]:
            for name in (
                "MRTimingAndRelatedParametersSequence",
                "MREchoSequence",
                "MRModifierSequence",
            ):
                found += list(group.get(name) or [])[:1]
    return found


def _words(holders: list[Dataset], name: str) -> set[str]:
    for holder in holders:
        value = holder.get(name)
        if value:
            values = [value] if isinstance(value, str) else value
            return {str(v).strip().upper() for v in values}
    return set()


def stated_number(holders: list[Dataset], *names: str) -> float | None:
    """Return the first value above zero; scanners write zero for what does not apply."""
    for holder in holders:
        for name in names:
            try:
                value = holder.get(name)
                first = value if isinstance(value, int | float | str) else next(iter(value or ()))
                number = float(first)
            except (TypeError, ValueError, StopIteration):
                continue
            if 0 < number < float("inf"):
                return number
    return None
