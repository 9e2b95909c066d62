"""The training loop."""

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path as FilePath

import torch
from torch import nn

from retrograde.denoisers import Denoiser
from retrograde.errors import BadType, BadValue
from retrograde.noise import heavy_tailed
from retrograde.train.average import PowerAverage
from retrograde.train.checkpoint import Checkpoint, checkpoint_file, read_checkpoint, write_checkpoint
from retrograde.train.config import TrainConfig
from retrograde.train.journal import Journal
from retrograde.train.levels import LevelLaw, level_law, standard_law
from retrograde.train.objective import loss


@dataclasses.dataclass(frozen=True)
class Trained:
    """What a training made: the averaged network, how far it came, how long it took, and its last smoothed loss."""

    denoiser: Denoiser
    step: int
    seconds: float
    loss: float


@dataclasses.dataclass(frozen=True, eq=False)
class _Items:
    """What there is to learn from: images [n, *shape], and for each its label, its anchor and further conditions."""

    images: torch.Tensor
    labels: torch.Tensor | None
    anchors: torch.Tensor | None
    conditions: Mapping[str, torch.Tensor]


def learning_rate(step: int, config: TrainConfig) -> float:
    """lr * min(1, (step + 1)/warmup) * (1 + cos(pi step/steps))/2: a ramp, then half a cosine down to zero."""
    ramp = min(1.0, (step + 1) / config.warmup) if config.warmup else 1.0
    return config.lr * ramp * 0.5 * (1.0 + math.cos(math.pi * min(1.0, step / config.steps)))


def fit(
    denoiser: Denoiser,
    images: torch.Tensor,
    labels: torch.Tensor | None,
    config: TrainConfig,
    test: Callable[[Denoiser], dict[str, float]] | None = None,
    *,
    anchors: torch.Tensor | None = None,
    conditions: Mapping[str, torch.Tensor] | None = None,
) -> Trained:
    """Train the denoiser's network in place and return its running average.

    Every step draws from its own generator, seeded by (config.seed, step), so that a resumed training is the same
    to the last bit as an uninterrupted one. A checkpoint is written every `config.save_every` seconds and at the end.

    Shapes: images [n, *shape], labels int64 [n] (None trains without them), anchors [n, *shape] on an anchored path,
    further conditions name -> [n, ...], which are never dropped.

    Raises BadValue where `config.out` holds a checkpoint and `resume` is false, and where the loss is not finite.
    """
    items = _Items(images, labels, anchors, conditions or {})
    network = module_of(denoiser)
    out = FilePath(config.out)
    out.mkdir(parents=True, exist_ok=True)
    file = checkpoint_file(out, config.resume)
    law = level_law(config.levels) if config.levels else standard_law(config.predicts)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=config.lr, betas=(0.9, 0.99), weight_decay=config.weight_decay, foreach=True
    )
    average = PowerAverage(network, config.average_std)
    seen = Checkpoint(step=0, seconds=0.0, loss=float("nan"))
    if file.exists():
        seen = read_checkpoint(file, network, optimizer, average)
    mean = dataclasses.replace(denoiser, network=average.network)
    step, smooth, started, saved = seen.step, seen.loss, time.monotonic(), time.monotonic()

    with Journal(out / "log.jsonl", config.steps, step, config.progress) as journal:
        while step < config.steps:
            now = seen.seconds + time.monotonic() - started
            if config.seconds is not None and now >= config.seconds:
                break
            value = _step(denoiser, network, optimizer, items, law, step, config)
            average.update(network)
            step += 1
            if not math.isfinite(value):
                raise BadValue(f"loss {value} at step {step}", "a finite loss", f"lower lr={config.lr:g} and resume")
            smooth = value if math.isnan(smooth) else smooth + max(0.01, 1.0 / step) * (value - smooth)
            journal.advance(step, smooth)
            if step % config.log_every == 0:
                journal.write(step=step, loss=smooth, lr=learning_rate(step - 1, config), seconds=now)
            if test is not None and (step % config.test_every == 0 or step == config.steps):
                journal.write(step=step, test=test(mean))
            if time.monotonic() - saved >= config.save_every:
                write_checkpoint(file, Checkpoint(step, now, smooth), network, optimizer, average)
                saved = time.monotonic()
    seconds = seen.seconds + time.monotonic() - started
    write_checkpoint(file, Checkpoint(step, seconds, smooth), network, optimizer, average)
    return Trained(mean, step, seconds, smooth)


def module_of(denoiser: Denoiser) -> nn.Module:
    """Return the denoiser's network; raise BadType unless it is a module, which alone has weights."""
    network = denoiser.network
    if not isinstance(network, nn.Module):
        raise BadType(f"a network of type {type(network).__name__}", "a torch.nn.Module", "wrap it in a module")
    return network


def _step(
    denoiser: Denoiser,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    items: _Items,
    law: LevelLaw,
    step: int,
    config: TrainConfig,
) -> float:
    generator = torch.Generator().manual_seed(_seed(config.seed, step))
    chosen = _batch(step, config.batch, len(items.images), config.seed)
    x_0 = items.images[chosen]
    t = law.sample(denoiser.path, len(x_0), generator)
    if denoiser.discrete is not None:
        t = torch.tensor([denoiser.snap(one) for one in t.tolist()], dtype=t.dtype)
    eps = torch.randn(x_0.shape, generator=generator, dtype=x_0.dtype)
    eps = heavy_tailed(eps, denoiser.path.degrees, generator)
    conditions = {name: value[chosen] for name, value in items.conditions.items()}
    anchor = None if items.anchors is None else items.anchors[chosen]
    if items.labels is not None:
        conditions["label"] = drop(items.labels[chosen], config.classes, config.label_dropout, generator)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(step, config)
    network.train()
    # Dropout layers draw from the global generator: give them the step's seed and hand the user's state back.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_seed(config.seed, step))
        with torch.autocast("cpu", torch.bfloat16, enabled=config.precision == "bfloat16"):
            value = loss(denoiser, x_0, t, eps, conditions, config.measure, anchor).mean()
    optimizer.zero_grad(set_to_none=True)
    value.backward()
    nn.utils.clip_grad_norm_(network.parameters(), config.clip)
    optimizer.step()
    return float(value.detach())


def drop(labels: torch.Tensor, null: int, share: float, generator: torch.Generator) -> torch.Tensor:
    """Replace each label by `null` with probability `share`, so that one network also learns the unconditional mean.

    Shapes: int64 [n] -> int64 [n].

    Reference: Ho, Salimans 2022, "Classifier-Free Diffusion Guidance", arXiv:2207.12598.
    """
    dropped = torch.rand(labels.shape, generator=generator) < share
    return labels.masked_fill(dropped, null)


def _seed(seed: int, step: int) -> int:
    return (seed * 1_000_003 + step) * 2 + 1


def _batch(step: int, batch: int, n: int, seed: int) -> torch.Tensor:
    """Indices of a step's items: the data in a new order every epoch, without end."""
    places = torch.arange(step * batch, (step + 1) * batch)
    orders = {int(e): _order(seed, int(e), n) for e in torch.unique(places // n)}
    return torch.stack([orders[int(p) // n][int(p) % n] for p in places])


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, n: int) -> torch.Tensor:
    return torch.randperm(n, generator=torch.Generator().manual_seed(_seed(seed, epoch) + 1))
