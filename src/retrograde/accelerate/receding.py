"""Control by a receding horizon: each plan of actions begins where the last one ended, a few steps from done."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from retrograde import systems
from retrograde.denoisers import AbstractDenoiser
from retrograde.errors import BadValue
from retrograde.plan import Plan
from retrograde.sampling import sample

systems.register(
    systems.System(
        title="Real-Time Iteration Scheme for Diffusion Policy",
        authors=("Yufei Duan", "Hang Yin", "Danica Kragic"),
        year=2025,
        arxiv="2508.05396",
        home="accelerate",
        call="rg.accelerate.receding(denoiser, plan, observations, sigma=0.5)",
        test="tests/accelerate/test_receding.py::test_slow_drift_is_followed_at_a_fifth_of_the_cost_and_jumps_are_not",
    )
)


def shifted(actions: Tensor, executed: int = 1) -> Tensor:
    """Return plans of actions [n, horizon, ...] without the first `executed` ones, the last one repeated at the end.

    Raises:
        BadValue: more are executed than the horizon holds, or less than none.
    """
    if actions.ndim < 2 or not 0 <= executed <= actions.shape[1]:
        shape = list(actions.shape)
        raise BadValue(f"{executed} executed actions of {shape}", "0..horizon of a plan [n, horizon, ...]", "executed=1")
    last = actions[:, -1:].expand(-1, executed, *(-1,) * (actions.ndim - 2))
    return torch.cat([actions[:, executed:], last], 1)


def receding(
    denoiser: AbstractDenoiser,
    plan: Plan,
    observations: Iterable[Any],
    sigma: float | None,
    *,
    n: int = 1,
    seed: int = 0,
    executed: int = 1,
) -> Iterator[Tensor]:
    """Sample a plan of actions [n, horizon, ...] for each observation, from the second on from the last one.

    The last plan is moved on by the actions that were executed (`shifted`), noised to the level `sigma` and denoised from
    there by the rows of the plan that are left: plan.from_noise(sigma). Where the reverse map contracts by L over these
    rows and observations move the target by at most d in each tick, the mean keeps within d L / (1 - L) of it. What needs
    a larger jump than sigma bridges is missed: a channel of two values, such as a gripper's, does not flip; trained at a
    smaller scale, it does.

    Args:
        observations: conditions, one for each tick, as in `rg.sample`.
        sigma: level at which later ticks begin; None runs the whole plan from noise in each.
        n: plans sampled side by side.

    Raises:
        BadValue: no row of the plan at or below sigma.

    Reference: Duan, Yin, Kragic, 2025, arXiv 2508.05396.
    """
    later = plan if sigma is None else plan.from_noise(sigma)
    actions: Tensor | None = None
    for tick, observation in enumerate(observations):
        items = range(tick * n, (tick + 1) * n)
        if actions is None or sigma is None:
            actions = sample(denoiser, plan, seed=seed, items=items, condition=observation)
        else:
            actions = sample(
                denoiser, later, seed=seed, items=items, condition=observation, signal=shifted(actions, executed)
            )
        yield actions
