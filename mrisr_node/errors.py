"""Every error the node raises on purpose.

The tree, so that a caller can catch as much as it means to::

    NodeError
    ├── SettingsError         the configuration cannot work
    ├── NotEligible           the series is no candidate: state ``skipped``
    ├── SeriesError           the series is a candidate, and cannot be processed: state ``failed``
    │   ├── ConversionError   no single trustworthy 3D volume comes out of it
    │   └── OutOfRange        outside what a checkpoint was trained for
    ├── StageError            a stage could not do its work
    │   ├── CheckpointError   weights or card are missing, damaged or do not fit
    │   ├── BrainError        brain extraction gave nothing usable
    │   ├── ResultError       the result would not be a conformant object
    │   └── ResultGone        what a stage has made is gone or damaged: the job begins anew
    ├── DeliveryError         the PACS did not take, or does not show, the result: tried again
    └── NotYet                nothing went wrong, and somebody else has to answer first

A message says what happened and what to do about it. It is shown to radiographers and written to
logs, so it never carries a patient's name, id or birth date.
"""

__all__ = [
    "BrainError",
    "CheckpointError",
    "ConversionError",
    "DeliveryError",
    "NodeError",
    "NotEligible",
    "NotYet",
    "OutOfRange",
    "ResultError",
    "ResultGone",
    "SeriesError",
    "SettingsError",
    "StageError",
]


class NodeError(Exception):
    """Base of every error the node raises on purpose."""


class SettingsError(NodeError):
    """The configuration cannot work; the message names the setting."""


class NotEligible(NodeError):
    """The series is not one that super-resolution is made for."""


class SeriesError(NodeError):
    """The series should be processed and cannot be; repeating will not help."""


class ConversionError(SeriesError):
    """The series does not give exactly one 3D volume of trustworthy geometry."""


class OutOfRange(SeriesError):
    """The series is outside the range that the checkpoint was trained for."""


class StageError(NodeError):
    """A processing stage could not do its work."""


class CheckpointError(StageError):
    """A checkpoint folder is missing, damaged, or does not fit its network."""


class BrainError(StageError):
    """Brain extraction gave no usable mask."""


class ResultError(StageError):
    """The result object would not conform to the DICOM standard."""


class ResultGone(StageError):
    """What a stage has made is no longer there, or damaged: it has to be computed anew."""


class DeliveryError(NodeError):
    """The PACS did not accept, or does not show, the result; delivery is tried again."""


class NotYet(NodeError):
    """Somebody else has to answer first; asked again after `delay` seconds, as often as needed."""

    def __init__(self, message: str, delay: float) -> None:
        super().__init__(message)
        self.delay = delay
