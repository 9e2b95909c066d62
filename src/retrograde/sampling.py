"""What a user calls: samples, steps and recordings of a plan."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from retrograde import devices
from retrograde.denoisers import AbstractDenoiser, checked_denoiser, on_path, prepare_condition
from retrograde.denoisers.anchor import ANCHOR, given_anchor, prepare_anchor
from retrograde.denoisers.prediction import selected
from retrograde.errors import BadType, BadValue, ShapeError, described
from retrograde.noise import Noise, Source
from retrograde.plan import Plan
from retrograde.run import Controller, ControllerPerRun, Gradient, Ledger, NonFinite, Particles, State, run


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
    anchor: Tensor | None = None,
    items: Sequence[int] | None = None,
    state: State | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    controllers: Sequence[Controller | ControllerPerRun] = (),
    particles: Particles | None = None,
    gradient: Gradient = "none",
    noise: Callable[[int, Sequence[int]], Source] = Noise,
) -> Generator[State, None, Plan]:
    """Run a plan for n items and yield the state after every row.

    Args:
        condition: one value for all items, n values, or a mapping by name (see `prepare_condition`).
        x: the initial state [n, *shape], instead of s(start) times keyed noise.
        signal: clean data [n, *shape] to start from: the initial state is a x_0 + b y + s eps at the plan's start. Without
            it, on an anchored path x_0 is taken for the path's guess: y where y is degraded data, else 0.
        anchor: y of an anchored path, [n, *shape] or one for all items [*shape]; the network is given it too.
        items: numbers of the items, 0..n-1 by default; the noise of an item depends on (seed, item) alone.
        state: continue from this state of an earlier run of the uncut plan.
        noise: what a stochastic plan draws from, made of seed and items: `Noise`, or `Brownian` for one path of noise that
            all step lengths share. The initial state is the same.

    Raises:
        ShapeError: x, signal or anchor does not have the denoiser's shape.
        PlanError, NonFinite: see `run`.
    """
    plan, denoiser = _order(plan, denoiser)
    _check_parts(controllers, particles, noise)
    n, numbers = _items(n, items, x, signal, state, anchor, denoiser.shape)
    x = _initial(plan, denoiser, Noise(seed, numbers), x, signal, anchor, condition, state, dtype, device)
    return run(
        plan,
        on_path(denoiser, plan.path),
        x,
        noise=noise(seed, numbers),
        condition=prepare_condition(denoiser, condition, n, x.device),
        anchor=anchor,
        controllers=controllers,
        particles=particles,
        gradient=gradient,
        memory=None if state is None else state.memory,
        prediction=None if state is None else state.prediction,
    )


def _items(
    n: int,
    items: Sequence[int] | None,
    x: Tensor | None,
    signal: Tensor | None,
    state: State | None,
    anchor: Tensor | None,
    shape: tuple[int, ...],
) -> tuple[int, Sequence[int]]:
    """Return how many items there are, and their numbers."""
    many = anchor if anchor is not None and anchor.ndim > len(shape) and anchor.shape[0] > 1 and n == 1 else None
    given = next((g for g in (x, signal, None if state is None else state.x_t, many) if g is not None), None)
    n = given.shape[0] if given is not None and given.ndim else n
    n = len(items) if given is None and items is not None and n == 1 else n
    if not isinstance(n, int) or n < 1:
        raise BadValue(f"n={n}", "a whole number, n >= 1", "n=1")
    if items is not None and len(items) != n:
        raise BadValue(f"{len(items)} items for n={n}", "one number for each", f"n={len(items)}")
    return n, range(n) if items is None else items


def _check_parts(controllers: Any, particles: Any, noise: Any) -> None:
    """Refuse a part of a run that is of another kind, or the class of a part where one of it is meant.

    Raises:
        BadType: with the line that makes or passes it rightly.
    """
    if not isinstance(controllers, Sequence):
        raise BadType(f"controllers={described(controllers)}", "a list of controllers", "controllers=[controller]")
    for one in controllers:
        if isinstance(one, type) or not (hasattr(one, "begin") or (hasattr(one, "rewrite") and hasattr(one, "correct"))):
            raise BadType(
                f"{described(one)}, as a controller", "what has rewrite and correct", "controllers=[Controller(...)]"
            )
    if particles is not None and (isinstance(particles, type) or not hasattr(particles, "resample")):
        raise BadType(f"{described(particles)}, as particles", "what has resample", "particles=Particles(...)")
    if not callable(noise):
        mend = "noise=Brownian, or noise=lambda seed, items: source, for a source of your own"
        raise BadType(f"noise={described(noise)}", "what makes a source of noise of seed and items", mend)


def _check_start(x: Any, signal: Any, dtype: Any, device: Any) -> tuple[torch.dtype, torch.device]:
    """Return type and device; refuse those that are not there, and a start that is no tensor of floating point.

    Raises:
        BadType, BadValue: with the line that makes it right.
    """
    if x is not None and signal is not None:
        raise BadValue("x and signal", "one of them: x is the state itself, signal is data to noise", "signal=data")
    for name, given in (("x", x), ("signal", signal)):
        if given is not None and not isinstance(given, Tensor):
            raise BadType(f"{name}={described(given)}", "a tensor [n, *shape]", f"{name}=torch.as_tensor({name})")
    if x is not None and not x.is_floating_point():
        raise BadType(f"x of type {x.dtype}", "a tensor of floating point", "x=x.float()")
    return devices.checked_type(dtype), devices.checked(device)


def _initial(
    plan: Plan,
    denoiser: AbstractDenoiser,
    noise: Noise,
    x: Tensor | None,
    signal: Tensor | None,
    anchor: Tensor | None,
    condition: Any,
    state: State | None,
    dtype: torch.dtype,
    device: torch.device | str,
) -> Tensor:
    """Return the initial state, [n, *shape]."""
    dtype, device = _check_start(x, signal, dtype, device)
    given = x if x is not None else signal if signal is not None else None if state is None else state.x_t
    if given is not None and tuple(given.shape[1:]) != denoiser.shape:
        raise ShapeError(
            f"a start of shape {list(given.shape)}", f"[n, {', '.join(map(str, denoiser.shape))}]", "add the batch axis"
        )
    if given is not None and signal is not given:
        return given
    if signal is not None:
        dtype, device = signal.dtype if signal.is_floating_point() else dtype, signal.device
    a, s = plan.path.a(_start(plan)), plan.path.s(_start(plan))
    start = noise.prior(denoiser.shape, dtype, device, plan.path.degrees).mul_(s)
    if signal is not None:
        start.add_(signal.to(dtype), alpha=a)
    if plan.path.anchored:
        anchor = condition.get(ANCHOR) if anchor is None and isinstance(condition, Mapping) else anchor
        y = prepare_anchor(denoiser.shape, given_anchor(plan.path, anchor), len(start), start.device).to(dtype)
        start.add_(y, alpha=plan.path.b(_start(plan)) + (a * plan.path.guess if signal is None else 0.0))
    return start


def _start(plan: Plan) -> float:
    if plan.start is None:
        raise BadValue("a plan that starts at the data", "a plan that starts at a noise level", "cut it earlier")
    return plan.start


def record(
    denoiser: Any,
    plan: Any,
    n: int = 1,
    seed: int = 0,
    *,
    x: Tensor | None = None,
    signal: Tensor | None = None,
    anchor: Tensor | None = None,
    items: Sequence[int] | None = None,
    state: State | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    **options: Any,
) -> Recording:
    """Run a plan for n items and keep everything; takes what `steps` takes."""
    plan, denoiser = _order(plan, denoiser)
    n, numbers = _items(n, items, x, signal, state, anchor, denoiser.shape)
    x = _initial(plan, denoiser, Noise(seed, numbers), x, signal, anchor, options.get("condition"), state, dtype, device)
    trajectory = [x]
    means: list[Tensor] = []
    loop = steps(plan, denoiser, n, seed, x=x, anchor=anchor, items=numbers, state=state, **options)
    state = None
    try:
        while True:
            state = next(loop)
            del trajectory[state.index + 1 :], means[state.index :]  # rows that a controller took back
            trajectory.append(state.x_t)
            means.append(state.mean)
    except StopIteration as stop:
        ran = stop.value
    if state is None:
        raise BadValue("a run that a controller ended before its first row", "at least one row", "check its rewrite")
    return Recording(state.x_t, tuple(trajectory), tuple(means), state.ledger, ran)


def sample(
    denoiser: Any,
    plan: Any,
    n: int = 1,
    seed: int = 0,
    *,
    batch_size: int | None = None,
    items: Sequence[int] | None = None,
    **options: Any,
) -> Tensor:
    """Return n samples [n, *shape] of a denoiser by a plan.

    Args:
        batch_size: run at most so many items at once, whole groups of particles. The samples do not depend on it.
        items: numbers of the items, 0..n-1 by default.
        **options: what `steps` takes (condition, x, signal, anchor, dtype, device, gradient, ...).

    Raises:
        NonFinite: after all other items are finished; they are in the error's `samples`, their numbers in `finished`.
    """
    plan, denoiser = _order(plan, denoiser)
    x, signal, state, anchor = (options.get(name) for name in ("x", "signal", "state", "anchor"))
    n, numbers = _items(n, items, x, signal, state, anchor, denoiser.shape)
    if batch_size is not None and batch_size < 1:
        raise BadValue(f"batch_size={batch_size}", "batch_size >= 1, or None for all at once", "batch_size=16")
    whole = getattr(options.get("particles"), "count", 1)
    size = n if batch_size is None else max(1, batch_size // whole) * whole
    options["condition"] = prepare_condition(denoiser, options.get("condition"), n)
    if options.get("anchor") is not None:
        options["anchor"] = prepare_anchor(denoiser.shape, options["anchor"], n)
    failed: NonFinite | None = None
    done: dict[int, Tensor] = {}
    todo = [list(range(i, min(i + size, n))) for i in range(0, n, size)]
    while todo:
        places = todo.pop(0)
        part = options if len(places) == n else {k: _part(v, places, n) for k, v in options.items()}
        try:
            last = None
            for state in steps(plan, denoiser, len(places), seed, items=[numbers[i] for i in places], **part):
                last = state.x_t
        except NonFinite as error:
            failed = failed or error
            bad = {item // whole for item in error.items}
            if rest := [place for i, place in enumerate(places) if i // whole not in bad]:
                todo.insert(0, rest)  # items (groups of particles) are independent: the others come out as they would have
            continue
        if last is not None:
            if len(places) == n:
                return last
            done.update(zip(places, last, strict=True))
    finished = sorted(done)
    samples = torch.stack([done[place] for place in finished]) if finished else None
    if failed is not None:
        failed.samples, failed.finished = samples, [numbers[place] for place in finished]
        raise failed
    if samples is None:
        raise BadValue("a run that a controller ended before its first row", "at least one row", "check its rewrite")
    return samples


def _part(value: Any, places: list[int], n: int) -> Any:
    """Return an option of `steps` for some of the items: what has one entry per item is indexed."""
    if isinstance(value, Tensor):
        return value[places] if value.ndim and value.shape[0] == n else value
    if isinstance(value, dict):
        return {name: _part(entry, places, n) for name, entry in value.items()}
    if isinstance(value, State):
        prediction = None if value.prediction is None else selected(value.prediction, torch.tensor(places))
        return dataclasses.replace(value, x_t=value.x_t[places], memory=value.memory.of(places), prediction=prediction)
    return value


def _order(plan: Any, denoiser: Any) -> tuple[Plan, AbstractDenoiser]:
    """Accept plan and denoiser in either order: they cannot be confused, people confuse them."""
    if isinstance(denoiser, Plan) and isinstance(plan, AbstractDenoiser):
        plan, denoiser = denoiser, plan
    if not isinstance(plan, Plan) and isinstance(denoiser, AbstractDenoiser):
        mend = "plan=retrograde.plan('dpmpp_2m', denoiser, nfe=10), or retrograde.Plan.load(file)"
        raise BadType(f"{described(plan)}, as the plan", "a plan", mend)
    return plan, checked_denoiser(denoiser)
