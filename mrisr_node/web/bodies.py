"""What all JSON bodies of requests have in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

__all__ = ["Body"]


class Body(BaseModel):
    """What a client sends. A misspelt field is refused, and not left out in silence."""

    model_config = ConfigDict(extra="forbid")
