"""The front door: sign-in, the list of series, the API, OHIF, and the way to the PACS."""
