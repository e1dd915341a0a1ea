"""DICOM out: result objects that conform or are not built, and their delivery to the PACS."""
