"""Pairs of high and low resolution for research, as a BIDS derivative dataset.

A library like ``volumes`` and ``superres``: it knows no network, no database and no settings.
"""
