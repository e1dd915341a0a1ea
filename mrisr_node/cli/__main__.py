"""``python -m mrisr_node.cli``: how the supervisor starts its processes."""

from mrisr_node.cli import app

app()
