"""``python -m mrisr_node.cli``: how the supervisor starts its processes."""

from mrisr_node.cli import app

if __name__ == "__main__":
    app()
