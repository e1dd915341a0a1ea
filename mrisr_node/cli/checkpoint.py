"""Commands for checkpoints: what is installed, whether it is sound, and what is to be added."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from mrisr_node.cli.console import app, command, err, out, plain
from mrisr_node.errors import CheckpointError, SettingsError
from mrisr_node.settings import Settings, load_settings

checkpoints = typer.Typer(no_args_is_help=True)
app.add_typer(checkpoints, name="checkpoint", help="List, show, verify and import networks.")
_command = partial(command, to=checkpoints)

_Name = Annotated[str, typer.Argument(help="a name that `list` shows, or a path with a slash")]
_Json = Annotated[bool, typer.Option("--json", help="for programs")]


def _folders(settings: Settings) -> list[Path]:
    """Return those in use, in their order, and then the others that are installed."""
    from mrisr_node.superres.checkpoints import installed

    in_use = list(settings.checkpoint_folders)
    known = {folder.resolve() for folder in in_use}
    return in_use + [f for f in installed(settings.checkpoints) if f.resolve() not in known]


@partial(_command, name="list")
def list_checkpoints(as_json: _Json = False) -> None:
    """List the checkpoints in use, in order of preference, and the others that are installed."""
    from mrisr_node.superres.card import CARD, Card
    from mrisr_node.superres.checkpoints import WEIGHTS

    settings = load_settings()
    rows: list[dict[str, Any]] = []
    for position, folder in enumerate(_folders(settings), start=1):
        order = position if position <= len(settings.checkpoint) else None
        row: dict[str, Any] = {"name": folder.name, "folder": str(folder), "in_use": order}
        rows.append(row)
        try:
            card = Card.load(folder / CARD)
            row["bytes"] = (folder / WEIGHTS).stat().st_size
        except (CheckpointError, OSError) as error:
            row["problem"] = str(error)
            continue
        row |= {
            "version": card.version,
            "network": card.network,
            "contrasts": card.contrasts,
            "distance_mm": card.distance_mm,
            "score": card.headline,
        }
    if as_json:
        sys.stdout.write(json.dumps(rows, indent=1) + "\n")
        return
    lines = [("use", "name", "version", "network", "MB", "contrasts", "mm apart", "score")]
    for row in rows:
        start = str(row["in_use"] or "-"), row["name"]
        if "problem" in row:
            lines.append((*start, "?", "?", "?", "?", "?", row["problem"]))
            continue
        low, high = row["distance_mm"]
        lines.append(
            (
                *start, row["version"], row["network"], f"{row['bytes'] / 1e6:.1f}",
                ",".join(row["contrasts"]), f"{low:g}–{high:g}", row["score"] or "not measured",
            )
        )  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        text = "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        out.print(plain(text.rstrip()), soft_wrap=True)


@_command
def show(name: _Name, as_json: _Json = False) -> None:
    """Show what a checkpoint says about itself."""
    from mrisr_node.superres.card import CARD, Card

    card = Card.load(load_settings().checkpoint_folder(name) / CARD)
    if as_json:
        sys.stdout.write(card.text())
        return
    table = Table("field", "value", show_header=False, box=None)
    table.columns[1].overflow = "fold"
    for field, value in asdict(card).items():
        if field in ("data", "scores"):
            continue
        table.add_row(field, plain(_words(value)))
    for entry in card.data:
        table.add_row("data", plain(", ".join(entry.values())))
    for score in card.scores:
        facts = {k: v for k, v in score.items() if isinstance(v, str | float | int)}
        table.add_row("score", plain(_words(facts)))
        for method, figures in dict(score.get("methods", {})).items():
            means = {k: v for k, v in dict(figures).items() if isinstance(v, float | int)}
            table.add_row("", plain(f"{method}: {_words(means)}"))
    out.print(table)


def _words(value: Any) -> str:  # noqa: ANN401 - whatever a card holds
    if isinstance(value, dict):
        return ", ".join(f"{k} {_words(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return "; ".join(map(_words, value))
    return str(value)


@_command
def verify(
    names: Annotated[list[str] | None, typer.Argument(help="those only; none: all")] = None,
) -> None:
    """Check digest, card and weights of checkpoints, and run each on a few voxels."""
    from mrisr_node.superres.acceptance import verify as run

    settings = load_settings()
    folders = [settings.checkpoint_folder(name) for name in names or ()] or _folders(settings)
    failed = False
    for folder in folders:
        try:
            found = run(folder)
        except CheckpointError as error:
            failed = True
            err.print(f"✗ {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        else:
            out.print("✓", plain(f"{folder.name} ({found.digest[:12]})"), highlight=False)
    raise typer.Exit(1 if failed else 0)


_Pair = tuple[float, float] | None


@partial(_command, name="import")
def import_weights(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="a .pth of PyTorch")],
    name: Annotated[str, typer.Option(help="of the new checkpoint")],
    card: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="its card: TOML or JSON")
    ] = None,
    network: Annotated[str | None, typer.Option(help="of our registry")] = None,
    argument: Annotated[list[str] | None, typer.Option(help="of the network: NAME=NUMBER")] = None,
    contrast: Annotated[list[str] | None, typer.Option(help="T1w, T2w, FLAIR or PDw")] = None,
    distance: Annotated[_Pair, typer.Option(help="mm between slices, from and to")] = None,
    thickness_ratio: Annotated[_Pair, typer.Option(help="thickness over distance")] = None,
    in_plane: Annotated[_Pair, typer.Option(help="pixel size in mm, from and to")] = None,
    patch: Annotated[int | None, typer.Option(help="largest tile in pixels")] = None,
    version: Annotated[str | None, typer.Option(help="of the checkpoint")] = None,
    description: Annotated[str | None, typer.Option(help="one sentence for people")] = None,
) -> None:
    """Make a checkpoint of weights that PyTorch has saved; options are stronger than the card."""
    from mrisr_node.superres.importing import card_from, import_checkpoint

    made = import_checkpoint(
        file,
        load_settings().checkpoints,
        card_from(
            name,
            card,
            network=network,
            arguments=_arguments(argument),
            contrasts=contrast or None,
            distance_mm=distance,
            thickness_ratio=thickness_ratio,
            in_plane_mm=in_plane,
            patch=patch,
            version=version,
            description=description,
        ),
    )
    out.print(plain(f"{made.card.name} is installed ({made.digest[:12]})"), highlight=False)
    out.print("`mrisr-node checkpoint show` tells of it; MRISR_CHECKPOINT says which are used")


def _arguments(pairs: list[str] | None) -> dict[str, int] | None:
    values: dict[str, int] = {}
    for pair in pairs or ():
        name, _, number = pair.partition("=")
        try:
            values[name] = int(number)
        except ValueError as error:
            raise SettingsError(f"--argument {pair}: NAME=NUMBER is expected") from error
    return values or None
