"""Pixels and space: volumes, their geometry, and what is done to them before super-resolution.

Knows no DICOM networking, no database and no web; usable as a library.
"""
