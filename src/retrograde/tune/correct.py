"""Fits the correction of a row: what least squares leaves of a step, learned by a small network.

The residual of a linear row is a function of the history: the map from a blurred mean to a sharp sample is not linear. It is
learned on policy, row by row, from many trajectories: a network soon knows a few by heart.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from retrograde.correction import Correction, is_layer
from retrograde.denoisers import AbstractDenoiser
from retrograde.tune.muon import Muon

CHUNK = 256
"""Items corrected at once."""

MAX_DENSE = 4096
"""Largest items, in numbers, that a correction of dense layers is fitted to; images have convolutions and no limit."""


@dataclasses.dataclass(frozen=True)
class Lesson:
    """How corrections are learned.

    Attributes:
        width, depth: channels and residual blocks inside.
        epochs: passes over the trajectories.
        rate: largest step size of Muon, which moves the layers; it rises over the first tenth and falls along a cosine.
        rest: that of AdamW, which moves biases and what conditions add.
        decay: weight decay of both.
        batch: items in a step.
        seed: of the initial weights and the order of the items.
        dense: dense layers on images too.
    """

    width: int = 32
    depth: int = 2
    epochs: int = 12
    rate: float = 2e-2
    rest: float = 4e-3
    decay: float = 1e-3
    batch: int = 64
    seed: int = 0
    dense: bool = False


WIDTHS = (96, 64, 48, 32, 24, 16, 8)
"""Widths of corrections, the widest that is cheap enough is taken."""

DENSE_WIDTHS = (256, 192, 128, *WIDTHS)
"""Those of dense layers."""

NARROW = 8
"""Convolutions this narrow are left for dense layers. Beside a guided perceptron of 14x14 images these cost less too, and
brought the error from 0.073 to 0.035."""


def affordable(
    denoiser: AbstractDenoiser, outputs: int, share: float, condition: Mapping[str, Tensor]
) -> dict[str, Any] | None:
    """Return `width` and `dense` of the correction to learn: the widest that costs at most a share of an evaluation.

    Cost is counted in multiply-accumulates. Images get convolutions, and dense layers where only narrow ones are cheap
    enough: beside a perceptron. None where nothing is, or where items are too large for dense layers. A denoiser without any
    matrix product, whose cost cannot be counted, is taken to be worth the narrowest.

    Args:
        outputs: how many predictions it sees.
        condition: prepared conditions, for one item or more.
    """
    budget, shape = share * multiplications(denoiser, condition), denoiser.shape
    image, small = len(shape) == 3, torch.Size(shape).numel() <= MAX_DENSE
    if not budget:
        return {"width": NARROW, "dense": not image} if image or small else None
    forms = [(width, False) for width in WIDTHS if image and width > NARROW]
    forms += [(width, True) for width in DENSE_WIDTHS if small]
    forms += [(NARROW, False)] if image else []
    for width, dense in forms:
        if correction_of(shape, 1 + outputs, width, dense).multiplications <= budget:
            return {"width": width, "dense": dense}
    return None


def correction_of(shape: Sequence[int], inputs: int, width: int, dense: bool = False) -> Correction:
    """Return an unlearned correction, to count what it costs."""
    made = {"width": width, "depth": Lesson.depth, "generator": torch.Generator().manual_seed(0), "dense": dense}
    return Correction.initial(shape, inputs, {}, **made)


def _attention(query: Any, key: Any, value: Any, *rest: Any, **options: Any) -> int:
    """Operations of the CPU's fused attention, of which the counter knows nothing; whether it runs hangs on strides."""
    return sdpa_flop_count(query, key, value)


_FUSED = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention}


def multiplications(denoiser: AbstractDenoiser, condition: Mapping[str, Tensor]) -> float:
    """Multiply-accumulates of one evaluation on one item, all branches of guidance included."""
    one = {name: value[:1] for name, value in condition.items()}
    device = next(iter(one.values())).device if one else torch.device("cpu")
    x, t = torch.zeros(1, *denoiser.shape, device=device), denoiser.path.t_max
    with FlopCounterMode(display=False, custom_mapping=_FUSED) as counter, torch.no_grad():
        denoiser.predict(x, t, one, {}, denoiser.network_time(t))
    return counter.get_total_flops() / 2


def learn(
    regressors: Sequence[Tensor], residual: Tensor, shape: Sequence[int], condition: Mapping[str, Tensor], lesson: Lesson
) -> Correction:
    """Return the correction that maps the regressors to the residual, in mean square.

    Args:
        regressors: the newest state and predictions, newest first, each [n, d].
        residual: what the row lacks, [n, d].
        shape: shape of an item.
        condition: one entry per item; integers are told as classes, vectors by a matrix.
        lesson: how it is learned.
    """
    generator = torch.Generator().manual_seed(lesson.seed)
    n, tables = len(residual), {name: _rows(value) for name, value in condition.items()}
    form: dict[str, Any] = {"width": lesson.width, "depth": lesson.depth, "dense": lesson.dense}
    initial = Correction.initial(shape, len(regressors), tables, generator=generator, **form)
    device = residual.device
    weights = {name: _laid_out(value.to(device)).requires_grad_() for name, value in initial.weights.items()}
    network = dataclasses.replace(initial, weights=weights)
    # predictions are nearly equal to each other: what tells is their differences, each at its own scale
    told, mixing = _unmixed(regressors)
    size = residual.square().mean().sqrt().clamp(min=1e-12)
    told, target = [z.reshape(n, *shape) for z in told], (residual / size).reshape(n, *shape)
    layers = Muon([value for name, value in weights.items() if is_layer(name)], lesson.decay)
    rest = [value for name, value in weights.items() if not is_layer(name)]
    others = torch.optim.AdamW(rest, lr=lesson.rest, weight_decay=lesson.decay, foreach=True)
    batch = min(lesson.batch, n)
    total, step = lesson.epochs * (n // batch), 0
    for _ in range(lesson.epochs):
        order = torch.randperm(n, generator=generator).to(device)
        for items in order[: n // batch * batch].split(batch):
            course = _course(step / total)
            for group in others.param_groups:
                group["lr"] = lesson.rest * course
            some = {name: value[items] for name, value in condition.items()}
            made = network(told[0][items], [z[items] for z in told[1:]], some)
            loss = (made - target[items]).square().mean()
            others.zero_grad()
            loss.backward()
            others.step()
            layers.step(lesson.rate * course)
            step += 1
    return _restored({name: value.detach().contiguous() for name, value in weights.items()}, initial, mixing, float(size))


def apply(
    correction: Correction, regressors: Sequence[Tensor], shape: Sequence[int], condition: Mapping[str, Tensor]
) -> Tensor:
    """Return what a correction adds to items given flat, [n, d]."""
    made = []
    for low in range(0, len(regressors[0]), CHUNK):
        part = slice(low, low + CHUNK)
        state, *outputs = (z[part].reshape(-1, *shape) for z in regressors)
        with torch.no_grad():
            made.append(correction(state, outputs, {name: value[part] for name, value in condition.items()}).flatten(1))
    return torch.cat(made)


def _laid_out(weight: Tensor) -> Tensor:
    """Return the weight in the order in memory that convolutions are fastest in, a seventh on a CPU."""
    return weight.to(memory_format=torch.channels_last) if weight.ndim == 4 else weight


def _rows(value: Tensor) -> int:
    """Rows of a condition's table: one per class up to the largest seen, or one per number of a vector."""
    return value[0].numel() if value.is_floating_point() else int(value.max()) + 1


def _course(part: float) -> float:
    """Step size over the course of a lesson, relative to the largest."""
    return max(part / 0.1, 0.04) if part < 0.1 else 0.5 * (1 + math.cos(math.pi * (part - 0.1) / 0.9))


def _unmixed(regressors: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
    """Return state, newest prediction and differences to older ones, each at scale one; and the matrix that makes them."""
    p = len(regressors)
    mixing = torch.eye(p, dtype=torch.float64)
    for i in range(2, p):
        mixing[i, i - 1], mixing[i, i] = 1.0, -1.0
    told = [regressors[i] if i < 2 else regressors[i - 1] - regressors[i] for i in range(p)]
    scales = [float(z.square().mean().sqrt().clamp(min=1e-6)) for z in told]
    return [z / scale for z, scale in zip(told, scales, strict=True)], mixing / torch.tensor(scales, dtype=torch.float64)[
        :, None
    ]


def _restored(weights: dict[str, Tensor], initial: Correction, mixing: Tensor, size: float) -> Correction:
    """Return the correction that takes the regressors as they are: mixing and scales go into its entrance and exit."""
    entrance = weights["in"]
    parts = entrance.reshape(entrance.shape[0], initial.inputs, -1, *entrance.shape[2:]).double()
    moved = torch.einsum("oic...,ij->ojc...", parts, mixing.to(parts.device))
    weights |= {"in": moved.reshape(entrance.shape).to(entrance)}
    weights |= {name: weights[name] * size for name in ("out", "out.bias")}
    return dataclasses.replace(initial, weights=weights)
