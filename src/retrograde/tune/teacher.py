"""Reference trajectories: what a fitted plan learns from, and what every plan is judged against."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from retrograde.denoisers import AbstractDenoiser, prepare_condition
from retrograde.recipes import get, level
from retrograde.sampling import steps

Progress = Callable[[str, float], None]
"""Called with what is being done and the part done, 0 to 1."""


@dataclasses.dataclass(frozen=True, eq=False)
class Teacher:
    """Fine trajectories of n items.

    Attributes:
        times: path times of the levels, noisiest first.
        states: x at each level, [levels, n, d] float32.
        outputs: the data mean there, [levels, n, d]; [0, n, d] where it was not kept.
        end: where the trajectories end, [n, d].
        evaluations: network evaluations per item they cost.
    """

    times: tuple[float, ...]
    states: Tensor
    outputs: Tensor
    end: Tensor
    evaluations: int

    @property
    def n(self) -> int:
        """Number of items."""
        return self.end.shape[0]

    def part(self, items: slice) -> Teacher:
        """Return the trajectories of some items."""
        return dataclasses.replace(self, states=self.states[:, items], outputs=self.outputs[:, items], end=self.end[items])

    def tensors(self) -> dict[str, Tensor]:
        """Return everything as tensors by name, to be kept in a file."""
        numbers = {"times": torch.tensor(self.times, dtype=torch.float64), "evaluations": torch.tensor(self.evaluations)}
        return {"states": self.states, "outputs": self.outputs, "end": self.end} | numbers

    @classmethod
    def of(cls, kept: Mapping[str, Tensor], device: torch.device | str = "cpu") -> Teacher:
        """Return the trajectories that `tensors` wrote."""
        states, outputs, end = (kept[name].to(device) for name in ("states", "outputs", "end"))
        return cls(tuple(kept["times"].tolist()), states, outputs, end, int(kept["evaluations"]))


def levels_of(denoiser: AbstractDenoiser, n: int) -> tuple[float, ...]:
    """Return n path times from the noise end: half of the density even in log-SNR, half in the angle atan(sigma).

    Even log-SNR alone spends most points where nothing happens; even angles alone miss the small levels.
    """
    from retrograde import grids

    path = denoiser.path
    low, high = grids.levels(path)
    sigmas = torch.logspace(torch.tensor(high).log10(), torch.tensor(low).log10(), 20_001, dtype=torch.float64)
    share_log = torch.linspace(0.0, 1.0, len(sigmas), dtype=torch.float64)
    angle = torch.atan(sigmas / _scale(denoiser))
    share_angle = (angle[0] - angle) / (angle[0] - angle[-1])
    places = torch.searchsorted(0.5 * (share_log + share_angle), torch.linspace(0.0, 1.0, n, dtype=torch.float64))
    chosen = sigmas[places.clamp(max=len(sigmas) - 1)].tolist()
    times = [path.t_max, *(path.time_of_sigma(s) for s in chosen[1:])]
    return tuple(dict.fromkeys(denoiser.snap(t) for t in times))


def _scale(denoiser: AbstractDenoiser) -> float:
    """Noise level at which structure forms: the standard deviation of data scaled to [-1, 1]."""
    return float(getattr(denoiser, "sigma_data", 0.5))


def teach(
    denoiser: AbstractDenoiser,
    n: int,
    seed: int,
    *,
    levels: int | Sequence[float] = 64,
    keep: Sequence[float] | None = None,
    first_item: int = 0,
    condition: Any = None,
    batch_size: int = 128,
    recipe: str = "dpmpp_3m",
    progress: Progress | None = None,
    device: torch.device | str = "cpu",
    outputs: bool = True,
) -> Teacher:
    """Run a fine published solver and keep its states and predictions at every level.

    Args:
        n: trajectories; item i has the noise of (seed, first_item + i).
        levels: network evaluations per trajectory, or their times.
        keep: times at which states and predictions are kept; None for all.
        condition: what `steps` takes, for n items.
        outputs: keep the predictions too.
    """
    plan = get(recipe).compile(denoiser.path, levels_of(denoiser, levels) if isinstance(levels, int) else levels)
    times = plan.times if keep is None else tuple(keep)
    states: dict[float, list[Tensor]] = {t: [] for t in times}
    means: dict[float, list[Tensor]] = {t: [] for t in times}
    ends: list[Tensor] = []
    prepared = prepare_condition(denoiser, condition, n, device)
    for low in range(0, n, batch_size):
        places = range(low, min(low + batch_size, n))
        part = {name: value[low : places.stop] for name, value in prepared.items()}
        loop = steps(
            plan, denoiser, len(places), seed, condition=part, items=[first_item + i for i in places], device=device
        )
        for k, state in enumerate(loop):
            if state.prediction is not None and state.row.time in states:
                states[state.row.time].append(state.prediction.x_t.flatten(1).float())
                if outputs:
                    means[state.row.time].append(state.mean.flatten(1).float())
            if progress is not None:
                progress("reference trajectories", (low + len(places) * (k + 1) / len(plan)) / n)
            if state.t is None:
                ends.append(state.x_t.flatten(1).float())
    end = torch.cat(ends)
    none = end.new_empty(0, *end.shape)
    kept = [torch.stack([torch.cat(p[t]) for t in times]) if times and p[times[0]] else none for p in (states, means)]
    return Teacher(times, kept[0], kept[1], end, plan.nfe)


def amplification(denoiser: AbstractDenoiser, t: float) -> float:
    """How much an error in the state at time t weighs at the data: that of Gaussian data of the same variance."""
    here, d = level(denoiser.path, t), _scale(denoiser)
    return d / (here.a**2 * d**2 + here.s**2) ** 0.5
