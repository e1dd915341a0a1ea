"""MRI super-resolution node: thick MR slices in from the PACS, thin ones back beside them."""

from importlib.metadata import version

__version__ = version("mrisr-node")
