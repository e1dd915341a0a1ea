"""The one command of the node: ``mrisr-node``."""

from mrisr_node.cli import checkpoint, keeping, node, pairs, people, series, superres
from mrisr_node.cli.console import app

__all__ = ["app", "checkpoint", "keeping", "node", "pairs", "people", "series", "superres"]
