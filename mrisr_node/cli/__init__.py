"""The one command of the node: ``mrisr-node``."""

from mrisr_node.cli import checkpoint, node, series, superres
from mrisr_node.cli.console import app

__all__ = ["app", "checkpoint", "node", "series", "superres"]
