"""Files that pydicom cannot read, though they look like DICOM."""

from pathlib import Path


def odd_group_length(good: Path, odd: Path) -> None:
    """Copy a file so that the SOP class in its file meta group turns into an odd group length."""
    whole = good.read_bytes()
    # Preamble, "DICM", and the group length of 12 bytes, which goes.
    whole = whole[:132] + whole[144:]
    # The rest of the file becomes its value, which one byte more makes odd, however long UIDs are.
    odd.write_bytes(whole.replace(b"\x02\0\x02\0UI", b"\x02\0\0\0\0\0", 1) + b"\0")
