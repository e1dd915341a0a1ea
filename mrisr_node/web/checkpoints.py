"""The installed checkpoints over HTTP: what they are made for, and what they reach."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from fastapi import APIRouter, HTTPException
from pydantic import BaseModel, Field

from mrisr_node.errors import CheckpointError
from mrisr_node.people.roles import Permission
from mrisr_node.settings import Settings
from mrisr_node.superres.card import CARD, Card
from mrisr_node.web.permissions import allow

__all__ = ["CheckpointView", "checkpoints_router"]


class CheckpointView(BaseModel):
    """An installed checkpoint."""

    name: str
    preference: int | None = Field(
        description="which place it has among those in use, from 1; null: it is not in use"
    )
    headline: str = Field(description="its first measured score, by its gain over interpolation")
    card: dict[str, Any] = Field(description="its card.json (checkpoints/card.schema.json)")


def checkpoints_router(settings: Settings) -> APIRouter:
    """Return the routes under ``/api/checkpoints``."""
    router = APIRouter(
        prefix="/api/checkpoints", tags=["checkpoints"], dependencies=[allow(Permission.READ)]
    )

    @router.get("", summary="List the installed checkpoints, those in use first")
    def list_checkpoints() -> list[CheckpointView]:
        return _installed(settings)

    @router.get(
        "/{name}", summary="One checkpoint", responses={404: {"description": "there is none"}}
    )
    def one_checkpoint(name: str) -> CheckpointView:
        for checkpoint in _installed(settings):
            if checkpoint.name == name:
                return checkpoint
        raise HTTPException(404, "there is no such checkpoint; ask /api/checkpoints for all")

    return router


def _installed(settings: Settings) -> list[CheckpointView]:
    used = list(settings.checkpoint_folders)
    others = sorted(path.parent for path in settings.checkpoints.glob(f"*/{CARD}"))
    found = []
    for folder in [*used, *(one for one in others if one not in used)]:
        card = _card(folder)
        if card is not None:
            place = used.index(folder) + 1 if folder in used else None
            found.append(
                CheckpointView(
                    name=card.name, preference=place, headline=card.headline, card=asdict(card)
                )
            )
    return found


def _card(folder: Path) -> Card | None:
    """Return a card; of one that cannot be used `mrisr-node doctor` tells."""
    try:
        return Card.load(folder / CARD)
    except CheckpointError:
        return None
