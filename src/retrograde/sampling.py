"""What a user calls: samples, steps and recordings of a plan."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Sequence
from typing import Any

import torch
from torch import Tensor

from retrograde.denoisers import AbstractDenoiser, on_path, prepare_condition
from retrograde.errors import BadType, BadValue, ShapeError
from retrograde.noise import Noise
from retrograde.plan import Plan
from retrograde.run import Controller, Gradient, Ledger, NonFinite, Particles, State, run


@dataclasses.dataclass(frozen=True, eq=False)
class Recording:
    """Everything one run made.

    Attributes:
        samples: [n, *shape].
        trajectory: the states, the initial one first, each [n, *shape].
        means: after each row the mean of the data, [n, *shape].
        ledger: the cost.
        plan: the plan that really ran, with what the network was told; running it again gives the same samples.
    """

    samples: Tensor
    trajectory: tuple[Tensor, ...]
    means: tuple[Tensor, ...]
    ledger: Ledger
    plan: Plan


def steps(
    plan: Any,
    denoiser: Any,
    n: int = 1,
    seed: int = 0,
    *,
    condition: Any = None,
    x: Tensor | None = None,
    signal: Tensor | None = None,
    items: Sequence[int] | None = None,
    state: State | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    controllers: Sequence[Controller] = (),
    particles: Particles | None = None,
    gradient: Gradient = "none",
) -> Generator[State, None, Plan]:
    """Run a plan for n items and yield the state after every row.

    Args:
        condition: one value for all items, n values, or a mapping by name (see `prepare_condition`).
        x: the initial state [n, *shape], instead of s(start) times keyed noise.
        signal: clean data [n, *shape] to start from: the initial state is a x_0 + s eps at the plan's start.
        items: numbers of the items, 0..n-1 by default; the noise of an item depends on (seed, item) alone.
        state: continue from this state of an earlier run of the uncut plan.

    Raises:
        ShapeError: x or signal does not have the denoiser's shape.
        PlanError, NonFinite: see `run`.
    """
    plan, denoiser = _order(plan, denoiser)
    given = next((g for g in (x, signal, None if state is None else state.x_t) if g is not None), None)
    if given is not None:
        if tuple(given.shape[1:]) != denoiser.shape:
            raise ShapeError(
                f"a start of shape {list(given.shape)}", f"[n, {', '.join(map(str, denoiser.shape))}]", "add the batch axis"
            )
        n, device = given.shape[0], given.device
        dtype = given.dtype if given.is_floating_point() else dtype
    if n < 1:
        raise BadValue(f"n={n}", "n >= 1", "n=1")
    noise = Noise(seed, range(n) if items is None else items)
    if x is None and state is None:
        a, s = plan.path.a(_start(plan)), plan.path.s(_start(plan))
        x = noise.prior(denoiser.shape, dtype, device).mul_(s)
        if signal is not None:
            x.add_(signal.to(dtype), alpha=a)
    elif x is None:
        x = given
    return run(
        plan,
        on_path(denoiser, plan.path),
        x,  # type: ignore[arg-type]
        noise=noise,
        condition=prepare_condition(denoiser, condition, n, device),
        controllers=controllers,
        particles=particles,
        gradient=gradient,
        memory=None if state is None else state.memory,
    )


def _start(plan: Plan) -> float:
    if plan.start is None:
        raise BadValue("a plan that starts at the data", "a plan that starts at a noise level", "cut it earlier")
    return plan.start


def record(denoiser: Any, plan: Any, n: int = 1, seed: int = 0, **options: Any) -> Recording:
    """Run a plan for n items and keep everything; takes what `steps` takes."""
    trajectory: list[Tensor] = []
    means: list[Tensor] = []
    state: State | None = None
    loop = steps(plan, denoiser, n, seed, **options)
    try:
        while True:
            state = next(loop)
            if not trajectory and state.prediction is not None:
                trajectory.append(state.prediction.x_t)
            trajectory.append(state.x_t)
            means.append(state.mean)
    except StopIteration as stop:
        ran = stop.value
    if state is None:
        raise BadValue("a run that a controller ended before its first row", "at least one row", "check its rewrite")
    return Recording(state.x_t, tuple(trajectory), tuple(means), state.ledger, ran)


def sample(
    denoiser: Any, plan: Any, n: int = 1, seed: int = 0, *, batch_size: int | None = None, **options: Any
) -> Tensor:
    """Return n samples [n, *shape] of a denoiser by a plan.

    Args:
        batch_size: run at most so many items at once. The samples do not depend on it.
        **options: what `steps` takes (condition, x, signal, dtype, device, gradient, ...).

    Raises:
        NonFinite: after all other items are finished; they are in the error's `samples`, their numbers in `finished`.
    """
    plan, denoiser = _order(plan, denoiser)
    given = next((options[k] for k in ("x", "signal") if options.get(k) is not None), None)
    n = n if given is None else given.shape[0]
    size = n if batch_size is None else max(1, batch_size)
    failed: NonFinite | None = None
    done: dict[int, Tensor] = {}
    todo = [list(range(i, min(i + size, n))) for i in range(0, n, size)]
    if not todo:
        raise BadValue(f"n={n}", "n >= 1", "n=1")
    while todo:
        items = todo.pop(0)
        try:
            last = None
            for state in steps(plan, denoiser, len(items), seed, items=items, **_part(options, items, n)):
                last = state.x_t
        except NonFinite as error:
            failed = failed or error
            bad = set(error.items)
            if rest := [item for place, item in enumerate(items) if place not in bad]:
                todo.insert(0, rest)  # items are independent: the others come out as they would have
            continue
        if last is not None:
            if len(items) == n:
                return last
            done.update(zip(items, last, strict=True))
    finished = sorted(done)
    samples = torch.stack([done[item] for item in finished]) if finished else None
    if failed is not None:
        failed.samples, failed.finished = samples, finished
        raise failed
    if samples is None:
        raise BadValue("a run that a controller ended before its first row", "at least one row", "check its rewrite")
    return samples


def _part(options: dict[str, Any], items: list[int], n: int) -> dict[str, Any]:
    """Options for some of the items: whatever has one entry per item is indexed."""

    def pick(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: pick(entry) for name, entry in value.items()}
        if isinstance(value, Tensor) and value.ndim and value.shape[0] == n:
            return value[items]
        if isinstance(value, list | tuple) and len(value) == n:
            return [value[i] for i in items]
        return value

    if len(items) == n:
        return options
    return {k: pick(v) if k in ("x", "signal", "condition") else v for k, v in options.items()}


def _order(plan: Any, denoiser: Any) -> tuple[Plan, AbstractDenoiser]:
    """Accept plan and denoiser in either order: they cannot be confused, people confuse them."""
    if isinstance(denoiser, Plan) and isinstance(plan, AbstractDenoiser):
        plan, denoiser = denoiser, plan
    if not isinstance(plan, Plan) or not isinstance(denoiser, AbstractDenoiser):
        raise BadType(
            f"{type(denoiser).__name__} and {type(plan).__name__}",
            "a denoiser and a plan",
            "wrap the network: retrograde.Denoiser(network, path, predicts=..., shape=...)",
        )
    return plan, denoiser
