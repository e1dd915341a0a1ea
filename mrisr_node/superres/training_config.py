"""What a training run is told, read from a TOML file."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

from mrisr_node.errors import SettingsError
from mrisr_node.superres.card import INTENSITY, Card
from mrisr_node.superres.fitting import EDGE
from mrisr_node.superres.networks import INTERPOLATED, NETWORKS, build_network
from mrisr_node.superres.samples import AcquisitionRanges, Source

__all__ = ["CardFacts", "TrainingConfig"]


class _Dataclass(Protocol):
    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]


_Built = TypeVar("_Built", bound=_Dataclass)


@dataclass(frozen=True)
class CardFacts:
    """What the card of the checkpoint says beyond what the other settings tell already.

    Parameters
    ----------
    name, version, description, contrasts, unmeasured, in_plane_mm, patch, data
        As in :class:`Card`.
    """

    name: str = "unnamed"
    version: str = "0"
    description: str = ""
    contrasts: tuple[str, ...] = ()
    unmeasured: tuple[str, ...] = ()
    in_plane_mm: tuple[float, float] = (0.4, 1.3)
    patch: int = 192
    data: tuple[dict[str, str], ...] = ()


@dataclass(frozen=True)
class TrainingConfig:
    """Everything that decides the outcome of a training run, besides the data themselves.

    Parameters
    ----------
    data
        Folder of the training files; relative paths start at the configuration file.
    sources, validation
        What to learn from, and what to watch. Never the evaluation files.
    validation_data
        Folder of the validation files.
    network, arguments
        A name of the registry, and its arguments.
    start
        Checkpoint folder whose weights training goes on from, in a network with as many channels
        and blocks or more; by default it starts from nothing.
    acquisition
        Ranges of the simulated acquisitions.
    patch, slices
        Training patches: in-plane pixels along each axis, and thick slices.
    batch, steps, learning_rate, ema
        Samples per step, of all processes; number of steps; peak of the cosine schedule; decay of
        averaged weights.
    seed
        Of the initial weights and of every sample.
    threads
        Of the CPU.
    workers
        Processes that make the samples while a GPU computes; 0 makes them between steps. The same
        samples either way.
    validate_every
        Steps between validations, each followed by saving the state.
    validation_samples
        Number of fixed simulated acquisitions that validation looks at.
    files_per_source
        Limit, for trials; 0 takes all.
    mixed_precision, compile
        bfloat16 autocast where the device computes in it, and torch.compile.
    card
        What an exported checkpoint says about itself.
    """

    data: Path
    sources: tuple[Source, ...]
    validation_data: Path
    validation: tuple[Source, ...]
    network: str = "folded-residual"
    arguments: Mapping[str, int] = field(default_factory=dict)
    start: Path | None = None
    acquisition: AcquisitionRanges = field(default_factory=AcquisitionRanges)
    patch: int = 40
    slices: int = 8
    batch: int = 4
    steps: int = 12_000
    learning_rate: float = 1e-3
    ema: float = 0.998
    seed: int = 1
    threads: int = 2
    workers: int = 0
    validate_every: int = 500
    validation_samples: int = 64
    files_per_source: int = 0
    mixed_precision: bool = True
    compile: bool = False
    card: CardFacts = field(default_factory=CardFacts)

    def __post_init__(self) -> None:
        if self.network not in NETWORKS:
            raise SettingsError(f"network: {self.network!r} is none of {', '.join(NETWORKS)}")
        if self.network in INTERPOLATED:
            raise SettingsError(f"network: {self.network!r} is imported and not trained here")
        try:
            build_network(self.network, self.arguments)
        except (TypeError, ValueError) as error:
            raise SettingsError(f"arguments: {error}") from error
        # What lies at a patch's edges and beyond its first and last slice does not count.
        least = {"patch": 2 * EDGE + 1, "slices": 2, "batch": 1, "steps": 1, "threads": 1,
                 "validate_every": 1, "validation_samples": 1}  # fmt: skip
        for name, number in least.items():
            if getattr(self, name) < number:
                raise SettingsError(f"{name}: must be at least {number}")
        if not 0.0 <= self.ema < 1.0:
            raise SettingsError("ema: must be at least 0 and below 1")

    @classmethod
    def load(cls, path: Path) -> TrainingConfig:
        """Read a TOML file; an unknown or missing name is an error that says which."""
        try:
            table = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise SettingsError(f"{path.name}: {error}") from error
        for name in ("data", "validation_data", "start"):
            if name in table:
                table[name] = path.parent / table[name]
        for name in ("sources", "validation"):
            table[name] = tuple(_built(Source, entry, name) for entry in table.get(name, ()))
        if "acquisition" in table:
            table["acquisition"] = _built(AcquisitionRanges, table["acquisition"], "acquisition")
        if "card" in table:
            table["card"] = _built(CardFacts, table["card"], "card")
        config = _built(cls, table, "configuration")
        if "card" in table:
            config.untrained_card().text()  # a wrong card, told now and not after hours
        return config

    def untrained_card(self) -> Card:
        """Return the card of a checkpoint that this makes, without weights and training."""
        facts, ranges = self.card, self.acquisition
        return Card(
            name=facts.name,
            version=facts.version,
            description=facts.description,
            network=self.network,
            arguments=dict(self.arguments),
            weights_sha256="0" * 64,
            contrasts=facts.contrasts,
            unmeasured=facts.unmeasured,
            distance_mm=ranges.distance_mm,
            thickness_ratio=ranges.thickness_ratio,
            in_plane_mm=facts.in_plane_mm,
            patch=facts.patch,
            intensity=INTENSITY,
            data=facts.data,
        )


def _built(kind: type[_Built], table: Mapping[str, Any], where: str) -> _Built:
    """Build a dataclass from a TOML table, lists becoming the tuples that it declares."""
    unknown = set(table) - {entry.name for entry in dataclasses.fields(kind)}
    if unknown:
        raise SettingsError(f"{where}: unknown {', '.join(sorted(unknown))}")
    values = {name: tuple(v) if isinstance(v, list) else v for name, v in table.items()}
    try:
        return kind(**values)
    except (TypeError, ValueError) as error:
        raise SettingsError(f"{where}: {error}") from error
