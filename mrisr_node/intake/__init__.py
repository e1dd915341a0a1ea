"""DICOM in: receiving, screening, spooling, assembling series, choosing those worth the work."""
