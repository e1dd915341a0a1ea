"""Fit a network to simulated acquisitions; stop and resume anywhere with the same outcome."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Subset

from mrisr_node.durable import placed
from mrisr_node.errors import SettingsError
from mrisr_node.superres.batches import Batch, gather
from mrisr_node.superres.card import CARD, WEIGHTS, Card
from mrisr_node.superres.checkpoints import Checkpoint, save_checkpoint
from mrisr_node.superres.distributed import World
from mrisr_node.superres.fitting import gain_db, relative_error, restored
from mrisr_node.superres.networks import FoldedResidual, build_network
from mrisr_node.superres.optimisers import descend, pick_optimisers
from mrisr_node.superres.precision import computes_in_bfloat16
from mrisr_node.superres.samples import Acquire, Samples, load_sources
from mrisr_node.superres.training_config import TrainingConfig

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

__all__ = ["TrainingState", "export", "require_unscored", "train", "validation_batches"]


@dataclass
class TrainingState:
    """All that changes while training: saved and loaded as one.

    Parameters
    ----------
    network
        Being fitted.
    averaged
        Exponential moving average of its parameters: what is exported.
    optimisers
        With what they remember of gradients.
    step
        Number of steps done.
    """

    network: nn.Module
    averaged: dict[str, Tensor]
    optimisers: tuple[torch.optim.Optimizer, ...]
    step: int = 0

    @classmethod
    def start(cls, config: TrainingConfig, device: torch.device) -> TrainingState:
        """Make the state before the first step, which the seed decides."""
        torch.manual_seed(config.seed)
        network = build_network(config.network, config.arguments)
        if config.start is not None:
            start = Checkpoint.load(config.start).network
            try:
                if isinstance(network, FoldedResidual) and isinstance(start, FoldedResidual):
                    network.grow_from(start)
                else:
                    network.load_state_dict(start.state_dict())
            except (RuntimeError, ValueError) as error:
                raise SettingsError(f"start: {config.start.name} does not fit: {error}") from error
        network = network.to(device).to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        averaged = {name: p.detach().clone() for name, p in network.named_parameters()}
        return cls(network, averaged, pick_optimisers(network, config.learning_rate))

    def descend(self, loss: Tensor, learning_rate: float) -> None:
        """Take one step down the gradient of ``loss``."""
        descend(loss, self.optimisers, learning_rate)
        self.step += 1

    def average(self, decay: float) -> None:
        """Move the averaged weights towards the current ones, faster in the first steps."""
        decay = min(decay, (1.0 + self.step) / (10.0 + self.step))
        names, current = zip(*self.network.named_parameters(), strict=True)
        averaged = [self.averaged[name] for name in names]
        with torch.no_grad():
            torch._foreach_lerp_(averaged, current, 1.0 - decay)

    def save(self, folder: Path, config: TrainingConfig) -> None:
        """Write ``state.pt`` and the averaged ``weights.safetensors``, each whole or not at all."""
        state = {
            "settings": _decisive(config),
            "network": self.network.state_dict(),
            "averaged": self.averaged,
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "step": self.step,
        }
        with placed(folder / "state.pt") as draft:
            torch.save(state, draft)
        averaged = {name: tensor.contiguous() for name, tensor in self.averaged.items()}
        with placed(folder / WEIGHTS) as draft:
            save_file(averaged, draft, {"step": str(self.step)})

    def load(self, folder: Path, config: TrainingConfig, device: torch.device) -> None:
        """Continue from ``state.pt``; only tensors and plain values are read from it.

        Raises
        ------
        SettingsError
            The run was begun with other settings, which are named.
        """
        state = torch.load(folder / "state.pt", map_location=device, weights_only=True)
        now = _decisive(config)
        begun = state.get("settings", now)  # states of before 2026-11-26 do not tell
        if other := [name for name, value in now.items() if begun.get(name) != value]:
            raise SettingsError(
                f"{folder.name} was begun with another {', '.join(other)}: name another folder"
            )
        self.network.load_state_dict(state["network"])
        self.averaged = state["averaged"]
        for optimiser, kept in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(kept)
        self.step = state["step"]


def _decisive(config: TrainingConfig) -> dict[str, Any]:
    """Return the settings that a run cannot change on its way and still be the same one."""
    free = {"data", "validation_data", "start", "threads", "workers", "compile", "card"}
    values = {name: v for name, v in dataclasses.asdict(config).items() if name not in free}
    plain: dict[str, Any] = json.loads(json.dumps(values))
    return plain


def _learning_rate(config: TrainingConfig, step: int) -> float:
    """Cosine schedule after a short linear start."""
    warm = min(100, config.steps // 10)
    if step < warm:
        return config.learning_rate * (step + 1) / warm
    progress = (step - warm) / max(1, config.steps - warm)
    return config.learning_rate * 0.5 * (1.0 + math.cos(math.pi * progress))


def validation_batches(config: TrainingConfig) -> list[Batch]:
    """Return noise-free acquisitions of 4 to 5.5 mm, contrast as it is: the same in every run.

    Each is a batch of its own, for they are larger than the patches of training.
    """
    ranges = dataclasses.replace(
        config.acquisition,
        distance_mm=(4.0, 5.5),
        noise=(0.0, 0.0),
        profile_error=0.0,
        sinc_profile=0.0,
        spacing_jitter=0.0,
        contrast_change=0.0,
    )
    limit = config.files_per_source or None
    heads = load_sources(config.validation_data, config.validation, limit)
    samples = Samples(heads, Acquire(ranges, 2 * config.patch, config.slices), seed=0)
    return [gather([samples[index]]) for index in range(config.validation_samples)]


def train(
    config: TrainingConfig,
    run_dir: Path,
    *,
    resume: bool = False,
    pause_at: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> TrainingState:
    """Train until the configured step; the run folder gets state, averaged weights and logs.

    Started by torchrun, all its processes share each step's samples.

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
    progress
        Called with the number of steps done.
    """
    torch.set_num_threads(config.threads)
    run_dir.mkdir(parents=True, exist_ok=True)
    with World.joined() as world:
        return _train(config, run_dir, world, resume, pause_at or config.steps, progress)


def _train(
    config: TrainingConfig,
    run_dir: Path,
    world: World,
    resume: bool,
    pause_at: int,
    progress: Callable[[int], None] | None,
) -> TrainingState:
    if not resume and (run_dir / "state.pt").exists():
        raise SettingsError(
            f"{run_dir.name} holds a run already: go on with --resume, or name another folder"
        )
    writer = _tensorboard()
    device = world.device
    mixed = config.mixed_precision and computes_in_bfloat16(device)
    torch.backends.cudnn.benchmark = True  # every step's shapes are the same, so it pays
    state = TrainingState.start(config, device)
    if resume and (run_dir / "state.pt").exists():
        state.load(run_dir, config, device)
    averaged = copy.deepcopy(state.network)
    network = state.network
    if config.compile:
        network = cast(nn.Module, torch.compile(network))
    if world.size > 1:
        network = DistributedDataParallel(network)
    heads = load_sources(config.data, config.sources, config.files_per_source or None)
    samples = Samples(heads, Acquire(config.acquisition, config.patch, config.slices), config.seed)
    last = min(config.steps, pause_at)
    rest = world.share(state.step * config.batch, last * config.batch, config.batch)
    loader = DataLoader(
        Subset(samples, rest),
        config.batch // world.size,
        collate_fn=gather,
        num_workers=config.workers,
        pin_memory=device.type == "cuda",
    )
    first = world.rank == 0
    watched = [batch.to(device) for batch in validation_batches(config)] if first else []
    history = _resumed_log(run_dir, state.step) if first else []
    started = time.monotonic() - (history[-1]["seconds"] if history else 0.0)
    losses: list[Tensor] = []
    for made in loader:
        batch = made.to(device)
        loss = relative_error(restored(network, batch, mixed), batch)
        state.descend(loss, _learning_rate(config, state.step))
        state.average(config.ema)
        losses.append(loss.detach())  # read later: waiting for it here would idle a GPU
        if progress is not None:
            progress(state.step)
        if not first or (state.step % config.validate_every and state.step != last):
            continue
        averaged.load_state_dict(state.averaged)
        with torch.no_grad():
            gains = torch.cat([gain_db(restored(averaged, it, mixed), it) for it in watched])
        entry = {
            "step": state.step,
            "loss": float(torch.stack(losses).mean()),
            "gain_db": float(gains.mean()),
            "seconds": time.monotonic() - started,
        }
        losses = []
        if not math.isfinite(entry["loss"]):
            raise SettingsError(
                f"{run_dir.name}: the loss is {entry['loss']} at step {state.step}; what was saved"
                " before is kept: try a lower learning_rate in another folder"
            )
        with (run_dir / "log.jsonl").open("a") as log, writer(str(run_dir)) as board:
            log.write(json.dumps(entry) + "\n")
            board.add_scalar("training/relative_l1", entry["loss"], state.step)
            board.add_scalar("validation/gain_over_linear_db", entry["gain_db"], state.step)
        state.save(run_dir, config)  # last, so that what is saved is also logged
    return state


def _tensorboard() -> type[SummaryWriter]:
    """Return what writes TensorBoard's events; only training needs it, so it may be missing."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise SettingsError(
            "training needs TensorBoard, which is not installed: pip install 'mrisr-node[train]'"
        ) from error
    return SummaryWriter


def _history(run_dir: Path) -> list[dict[str, Any]]:
    """Return what a run has logged, an entry for each validation; nothing before the first.

    A last line without its end, of a run that was killed while it wrote, does not count.
    """
    log = run_dir / "log.jsonl"
    text = log.read_text() if log.exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def _write_log(path: Path, entries: Sequence[Mapping[str, Any]]) -> None:
    """Write a line for each entry; the file is replaced whole."""
    with placed(path) as draft:
        draft.write_text("".join(json.dumps(entry) + "\n" for entry in entries))


def _resumed_log(run_dir: Path, step: int) -> list[dict[str, Any]]:
    """Return what was logged up to the saved step, and leave only this in the file."""
    history = [entry for entry in _history(run_dir) if entry["step"] <= step]
    _write_log(run_dir / "log.jsonl", history)
    return history


def require_unscored(folder: Path) -> None:
    """Refuse to export into the folder of a checkpoint that was scored: scores are of weights.

    Raises
    ------
    SettingsError
        It is one.
    """
    if (folder / CARD).exists() and Card.load(folder / CARD).scores:
        raise SettingsError(
            f"{folder.name} holds a checkpoint that was scored: name another folder to export to"
        )


def export(config: TrainingConfig, run_dir: Path, folder: Path) -> Card:
    """Make a checkpoint folder of a run's averaged weights and its log.

    Its scores are measured afterwards; a folder whose card has scores is left as it is. Weights are
    rounded to half precision, which is finer than what bfloat16 computes with and half the size; a
    network that loads them has single precision.
    """
    require_unscored(folder)
    with safe_open(run_dir / WEIGHTS, "pt") as file:
        weights = {name: file.get_tensor(name).half() for name in file.keys()}  # noqa: SIM118
        step = int(file.metadata()["step"])
    # A validation is logged before its weights are saved.
    history = [entry for entry in _history(run_dir) if entry["step"] <= step]
    done = history[-1]
    training = {
        "steps": done["step"],
        "samples": done["step"] * config.batch,
        "seed": config.seed,
        "seconds": round(done["seconds"]),
        "parameters": sum(tensor.numel() for tensor in weights.values()),
        "validation_gain_over_linear_estimate_db": round(done["gain_db"], 3),
    }
    card = save_checkpoint(
        folder, weights, dataclasses.replace(config.untrained_card(), training=training)
    )
    _write_log(folder / "log.jsonl", history)
    return card
