"""The node's settings."""

from mrisr_node.settings.loading import Settings, load_settings

__all__ = ["Settings", "load_settings"]
