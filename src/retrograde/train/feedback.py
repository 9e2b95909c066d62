"""Teaching the block that stands for the first half of a transformer, on the full network's own trajectories."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from retrograde.accelerate import every, inner_loop
from retrograde.accelerate import feedback as untaught
from retrograde.accelerate.feedback import Feedback
from retrograde.denoisers import AbstractDenoiser, prepare_condition
from retrograde.denoisers.carried import CARRIED
from retrograde.errors import BadValue
from retrograde.plan import Plan
from retrograde.sampling import steps as stepping
from retrograde.sites import REUSE, Call, Places, opened, places_of


def fit_feedback(
    denoiser: AbstractDenoiser,
    plan: Plan,
    blocks: int,
    *,
    items: int = 128,
    condition: Any = None,
    steps: int = 600,
    batch: int = 32,
    rate: float = 1e-3,
    weight: float = 1.0,
    seed: int = 0,
    places: Places | None = None,
) -> Feedback:
    """Teach the module of `rg.accelerate.inner_loop` what the first blocks would have made; the network stays as it is.

    The teacher is the full network along the plan's own trajectories. For a row j that reuses, and i its last full one,

        |F_s - F|^2 / |F|^2 + weight |h_s - h|^2 / |h|^2     at (x_j, t_j),

    F the network's answer, h the features after `blocks` blocks, F_s and h_s those of the policy that was full at
    (x_i, t_i). AdamW with a rate that falls linearly to zero.

    Args:
        plan: with the column that it will be used with. Its first evaluation is full, as in the run, whatever it says.
        items: trajectories to learn from.
        condition: what `retrograde.sample` takes for them.

    Raises:
        BadType: no chain of blocks was found in the denoiser.
        BadValue: a plan in which no row reuses, or too few blocks, items or steps.

    Reference: Gwilliam et al., 2025, arXiv 2501.13107.
    """
    asking = [row for row in plan.bind(denoiser).rows if row.time is not None]
    pairs = [
        (max(i for i in range(j) if i == 0 or not asking[i].knobs.get(REUSE)), j)
        for j, row in enumerate(asking)
        if j > 0 and row.knobs.get(REUSE)
    ]
    if not pairs or items < 1 or steps < 1 or batch < 1:
        given = f"{len(pairs)} rows that reuse, items={items}, steps={steps}, batch={batch}"
        raise BadValue(given, "1 or more of each", "plan=rg.accelerate.every(plan, 2)")
    places = places_of(denoiser) if places is None else places
    module = untaught(denoiser, blocks, places=places)
    policy, site = inner_loop(denoiser, module, places=places), places.need("chain")[blocks - 1].name
    told = prepare_condition(denoiser, condition, items)
    seen: list[Tensor] = []

    def watch(call: Call) -> Any:
        seen.append(call.compute())
        return seen[-1]

    states, answers = [], []
    with opened(places.network, {site: watch}):
        for state in stepping(every(plan, 1), denoiser, items, seed, condition=told):
            if state.prediction is not None and state.row.time is not None:
                states.append(state.prediction.x_t)
                answers.append(state.prediction.value)
    features = [part.detach() for part in seen]

    learned = list(module.parameters())
    optimizer = torch.optim.AdamW(learned, lr=rate, weight_decay=0.0)
    generator = torch.Generator().manual_seed(seed)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate * (1.0 - step / steps)
        i, j = pairs[int(torch.randint(len(pairs), (), generator=generator))]
        chosen = torch.randint(items, (min(batch, items),), generator=generator)
        few = {name: value[chosen] for name, value in told.items()}
        with torch.no_grad():
            full = policy.predict(states[i][chosen], asking[i].time, few, {}, asking[i].network_time)  # type: ignore[arg-type]
        seen.clear()
        with torch.enable_grad(), opened(places.network, {site: watch}):
            knobs = {REUSE: True, CARRIED: full.carried}
            made = policy.predict(states[j][chosen], asking[j].time, few, knobs, asking[j].network_time)  # type: ignore[arg-type]
            loss = _apart(made.value, answers[j][chosen]) + weight * _apart(seen[0], features[j][chosen])
        for parameter, slope in zip(learned, torch.autograd.grad(loss, learned), strict=True):
            parameter.grad = slope
        optimizer.step()
    return module.requires_grad_(False)


def _apart(one: Tensor, other: Tensor) -> Tensor:
    return (one - other).square().mean() / other.square().mean().clamp(min=1e-12)
