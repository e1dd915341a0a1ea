"""Fit a network to simulated acquisitions; stop and resume anywhere with the same outcome."""

from __future__ import annotations

import dataclasses
import json
import math
import time
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Subset
from torch.utils.tensorboard import SummaryWriter

from mrisr_node.errors import SettingsError
from mrisr_node.superres.checkpoints import Card, save_checkpoint
from mrisr_node.superres.networks import NETWORKS, build_network
from mrisr_node.superres.restoration import fold, restore
from mrisr_node.superres.samples import (
    Acquire,
    AcquisitionRanges,
    Sample,
    Samples,
    Source,
    load_sources,
)

__all__ = ["CardFacts", "TrainingConfig", "TrainingState", "export", "train"]


class _Dataclass(Protocol):
    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]


_SMALLEST_ERROR = 0.01  # of the intensity scale: below it, a patch has nothing to learn from

_Built = TypeVar("_Built", bound=_Dataclass)


@dataclass(frozen=True)
class CardFacts:
    """What the card of the checkpoint says beyond what the other settings tell already.

    Parameters
    ----------
    name, version, description, contrasts, in_plane_mm, patch, data
        As in :class:`Card`.
    """

    name: str = "unnamed"
    version: str = "0"
    description: str = ""
    contrasts: tuple[str, ...] = ()
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
    acquisition
        Ranges of the simulated acquisitions.
    patch, slices
        Training patches: in-plane pixels along each axis, and thick slices.
    batch, steps, learning_rate, ema
        Samples per step; number of steps; peak of the cosine schedule; decay of averaged weights.
    seed
        Of the initial weights and of every sample.
    threads
        Of the CPU.
    validate_every
        Steps between validations, each followed by saving the state.
    validation_samples
        Number of fixed simulated acquisitions that validation looks at.
    files_per_source
        Limit, for trials; 0 takes all.
    mixed_precision, compile
        bfloat16 autocast on CUDA, and torch.compile.
    card
        What an exported checkpoint says about itself.
    """

    data: Path
    sources: tuple[Source, ...]
    validation_data: Path
    validation: tuple[Source, ...]
    network: str = "folded-residual"
    arguments: Mapping[str, int] = field(default_factory=dict)
    acquisition: AcquisitionRanges = field(default_factory=AcquisitionRanges)
    patch: int = 40
    slices: int = 8
    batch: int = 4
    steps: int = 12_000
    learning_rate: float = 1e-3
    ema: float = 0.998
    seed: int = 1
    threads: int = 2
    validate_every: int = 500
    validation_samples: int = 64
    files_per_source: int = 0
    mixed_precision: bool = False
    compile: bool = False
    card: CardFacts = field(default_factory=CardFacts)

    def __post_init__(self) -> None:
        if self.network not in NETWORKS:
            raise SettingsError(f"network: {self.network!r} is none of {', '.join(NETWORKS)}")
        for name in ("patch", "slices", "batch", "steps", "threads", "validate_every"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name}: must be at least 1")
        if not 0.0 <= self.ema < 1.0:
            raise SettingsError("ema: must be at least 0 and below 1")

    @classmethod
    def load(cls, path: Path) -> TrainingConfig:
        """Read a TOML file; an unknown or missing name is an error that says which."""
        with path.open("rb") as file:
            table = tomllib.load(file)
        for name in ("data", "validation_data"):
            if name in table:
                table[name] = path.parent / table[name]
        for name in ("sources", "validation"):
            table[name] = tuple(_built(Source, entry, name) for entry in table.get(name, ()))
        if "acquisition" in table:
            table["acquisition"] = _built(AcquisitionRanges, table["acquisition"], "acquisition")
        if "card" in table:
            table["card"] = _built(CardFacts, table["card"], "card")
        return _built(cls, table, "configuration")


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


@dataclass
class TrainingState:
    """All that changes while training: saved and loaded as one.

    Parameters
    ----------
    network
        Being fitted.
    averaged
        Exponential moving average of its parameters: what is exported.
    optimizer
        Adam and its moments.
    step
        Number of steps done.
    """

    network: nn.Module
    averaged: dict[str, Tensor]
    optimizer: torch.optim.Optimizer
    step: int = 0

    @classmethod
    def start(cls, config: TrainingConfig, device: torch.device) -> TrainingState:
        """Make the state before the first step, which the seed decides."""
        torch.manual_seed(config.seed)
        network = build_network(config.network, config.arguments).to(device)
        averaged = {name: p.detach().clone() for name, p in network.named_parameters()}
        return cls(
            network,
            averaged,
            torch.optim.Adam(network.parameters(), config.learning_rate, betas=(0.9, 0.99)),
        )

    def average(self, decay: float) -> None:
        """Move the averaged weights towards the current ones, faster in the first steps."""
        decay = min(decay, (1.0 + self.step) / (10.0 + self.step))
        with torch.no_grad():
            for name, parameter in self.network.named_parameters():
                self.averaged[name].lerp_(parameter, 1.0 - decay)

    def save(self, folder: Path) -> None:
        """Write ``state.pt`` and the averaged ``weights.safetensors``, each whole or not at all."""
        state = {
            "network": self.network.state_dict(),
            "averaged": self.averaged,
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
        }
        torch.save(state, folder / "state.pt.new")
        (folder / "state.pt.new").replace(folder / "state.pt")
        averaged = {name: tensor.contiguous() for name, tensor in self.averaged.items()}
        save_file(averaged, folder / "weights.safetensors.new")
        (folder / "weights.safetensors.new").replace(folder / "weights.safetensors")

    def load(self, folder: Path, device: torch.device) -> None:
        """Continue from ``state.pt``; only tensors and plain values are read from it."""
        state = torch.load(folder / "state.pt", map_location=device, weights_only=True)
        self.network.load_state_dict(state["network"])
        self.averaged = state["averaged"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]


def _learning_rate(config: TrainingConfig, step: int) -> float:
    """Cosine schedule after a short linear start."""
    warm = min(100, config.steps // 10)
    if step < warm:
        return config.learning_rate * (step + 1) / warm
    progress = (step - warm) / max(1, config.steps - warm)
    return config.learning_rate * 0.5 * (1.0 + math.cos(math.pi * progress))


def _restored(network: nn.Module, samples: Sequence[Sample]) -> list[Tensor]:
    """Restore samples, whose numbers of thin slices differ, with one call of the network."""
    device = next(network.parameters()).device
    thick = [sample.thick[None].to(device) for sample in samples]
    operators = [sample.operators.to(device) for sample in samples]
    folded = torch.cat([fold(y, o) for y, o in zip(thick, operators, strict=True)])
    update = network(folded, torch.stack([sample.geometry for sample in samples]).to(device))
    return [
        restore(y, update[index : index + 1].float(), o)[0]
        for index, (y, o) in enumerate(zip(thick, operators, strict=True))
    ]


def _loss(network: nn.Module, samples: Sequence[Sample]) -> Tensor:
    """Mean absolute error relative to the linear estimate's, where the patch's edges do not reach.

    So every sample counts alike, be its slices thick or thin, its contrast strong or weak.
    """
    losses = []
    for thin, sample in zip(_restored(network, samples), samples, strict=True):
        truth = sample.thin[..., sample.inner]
        linear = restore(sample.thick[None], None, sample.operators)[0][..., sample.inner]
        scale = functional.l1_loss(linear, truth).clamp_min(_SMALLEST_ERROR)
        losses.append(functional.l1_loss(thin[..., sample.inner], truth.to(thin.device)) / scale)
    return torch.stack(losses).mean()


def _gain(network: nn.Module, samples: Sequence[Sample]) -> float:
    """Mean gain in dB over the linear estimate."""
    gains = []
    with torch.no_grad():
        for sample in samples:
            truth = sample.thin[..., sample.inner]
            linear = restore(sample.thick[None], None, sample.operators)[0][..., sample.inner]
            ours = _restored(network, [sample])[0].cpu()[..., sample.inner]
            errors = [functional.mse_loss(thin, truth).clamp_min(1e-9) for thin in (linear, ours)]
            gains.append(10.0 * math.log10(float(errors[0] / errors[1])))
    return math.fsum(gains) / len(gains)


def _validation_samples(config: TrainingConfig) -> list[Sample]:
    """Noise-free acquisitions of 4 to 5.5 mm with the contrast as it is, the same in every run."""
    ranges = dataclasses.replace(
        config.acquisition,
        distance_mm=(4.0, 5.5),
        noise=(0.0, 0.0),
        profile_error=0.0,
        spacing_jitter=0.0,
        contrast_change=0.0,
    )
    limit = config.files_per_source or None
    heads = load_sources(config.validation_data, config.validation, limit)
    samples = Samples(heads, Acquire(ranges, 2 * config.patch, config.slices), seed=0)
    return [samples[index] for index in range(config.validation_samples)]


def train(
    config: TrainingConfig, run_dir: Path, *, resume: bool = False, pause_at: int | None = None
) -> TrainingState:
    """Train until the configured step; the run folder gets state, averaged weights and logs.

    Parameters
    ----------
    config
        What to train, and on what.
    run_dir
        Made if missing. ``weights.safetensors`` holds the averaged weights at the last validation,
        ``log.jsonl`` a line per validation, and TensorBoard reads the folder.
    resume
        Continue from the folder's state; every sample, and so the outcome, is the same as without
        the interruption.
    pause_at
        Stop after this step, as if interrupted: for a limited time on a machine.
    """
    torch.set_num_threads(config.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    run_dir.mkdir(parents=True, exist_ok=True)
    state = TrainingState.start(config, device)
    if resume and (run_dir / "state.pt").exists():
        state.load(run_dir, device)
    averaged = build_network(config.network, config.arguments).to(device)
    network = state.network
    if config.compile:
        network = cast(nn.Module, torch.compile(network))
    heads = load_sources(config.data, config.sources, config.files_per_source or None)
    samples = Samples(heads, Acquire(config.acquisition, config.patch, config.slices), config.seed)
    last = min(config.steps, pause_at or config.steps)
    rest = Subset(samples, range(state.step * config.batch, last * config.batch))
    loader = DataLoader(rest, config.batch, collate_fn=list)
    watched = _validation_samples(config)
    precision = torch.autocast(
        device.type, torch.bfloat16, enabled=config.mixed_precision and device.type == "cuda"
    )
    started, losses = time.monotonic(), []
    with SummaryWriter(str(run_dir)) as board:
        for batch in loader:
            for group in state.optimizer.param_groups:
                group["lr"] = _learning_rate(config, state.step)
            with precision:
                loss = _loss(network, batch)
            state.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(state.network.parameters(), 1.0)
            state.optimizer.step()
            state.step += 1
            state.average(config.ema)
            losses.append(float(loss.detach()))
            if state.step % config.validate_every and state.step != last:
                continue
            averaged.load_state_dict(state.averaged)
            entry = {
                "step": state.step,
                "loss": math.fsum(losses) / len(losses),
                "gain_db": _gain(averaged, watched),
                "seconds": time.monotonic() - started,
            }
            losses = []
            state.save(run_dir)
            board.add_scalar("training/relative_l1", entry["loss"], state.step)
            board.add_scalar("validation/gain_over_linear_db", entry["gain_db"], state.step)
            with (run_dir / "log.jsonl").open("a") as log:
                log.write(json.dumps(entry) + "\n")
    return state


def export(config: TrainingConfig, run_dir: Path, folder: Path) -> Card:
    """Make a checkpoint folder of a run's averaged weights; its scores are measured afterwards."""
    weights = load_file(run_dir / "weights.safetensors")
    done = json.loads((run_dir / "log.jsonl").read_text().splitlines()[-1])
    facts, ranges = config.card, config.acquisition
    card = Card(
        name=facts.name,
        version=facts.version,
        description=facts.description,
        network=config.network,
        arguments=dict(config.arguments),
        weights_sha256="",
        contrasts=facts.contrasts,
        distance_mm=ranges.distance_mm,
        thickness_ratio=ranges.thickness_ratio,
        in_plane_mm=facts.in_plane_mm,
        patch=facts.patch,
        intensity="divided by the mean intensity inside the brain",
        data=facts.data,
        training={
            "steps": done["step"],
            "samples": done["step"] * config.batch,
            "seed": config.seed,
            "parameters": sum(tensor.numel() for tensor in weights.values()),
            "validation_gain_over_linear_estimate_db": round(done["gain_db"], 3),
        },
    )
    return save_checkpoint(folder, weights, card)
