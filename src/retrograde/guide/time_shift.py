"""Shifted time steps: the network is told the level whose noise the state has, not the one it should have."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor

from retrograde import grids, systems
from retrograde.denoisers import AbstractDenoiser, Prediction
from retrograde.denoisers.denoiser import NOTHING
from retrograde.errors import BadValue
from retrograde.guide.transform import Transform

systems.register(
    systems.System(
        title="Alleviating Exposure Bias in Diffusion Models through Sampling with Shifted Time Steps",
        authors=("Mingxiao Li", "Tingyu Qu", "Ruicong Yao", "Wei Sun", "Marie-Francine Moens"),
        year=2023,
        arxiv="2305.15583",
        home="solvers",
        number=18,
        call="rg.guide.shift_time(denoiser, window=20, cutoff=0.3)",
        test="tests/guide/test_time_shift.py::test_a_scaled_state_is_told_the_level_of_its_variance",
    )
)


@final
@dataclasses.dataclass(frozen=True, eq=False)
class TimeShifted(Transform):
    """A denoiser that reads the noise level off each state (see `shift_time`)."""

    window: int
    cutoff: float
    times: Tensor
    variances: Tensor

    def told(self, x_t: Tensor, t: float | Tensor) -> Tensor:
        """Return the path time of each item that the network is told, [batch] float64."""
        nominal = torch.as_tensor(t, dtype=torch.float64, device=x_t.device).expand(len(x_t))
        times, expected = self.times.to(x_t.device), self.variances.to(x_t.device)
        reach = self.window // 2
        # nearest first, so that of equally good levels the nominal one is kept
        steps = torch.tensor(sorted(range(-reach, reach + 1), key=abs), device=x_t.device)
        places = (times - nominal[:, None]).abs().argmin(1)[:, None] + steps
        inside = (places >= 0) & (places < len(times))
        places = places.clamp(0, len(times) - 1)
        found = x_t.flatten(1).double().var(1)
        misfit = torch.where(inside, (expected[places] - found[:, None]).square(), math.inf)
        best = misfit.argmin(1, keepdim=True)
        shifted = times[places.gather(1, best)[:, 0]]
        return torch.where((best[:, 0] == 0) | (nominal <= self.cutoff), nominal, shifted)

    def predict(
        self,
        x_t: Tensor,
        t: float | Tensor,
        condition: Mapping[str, Any] = NOTHING,
        knobs: Mapping[str, Any] = NOTHING,
        network_time: float | None = None,
    ) -> Prediction:
        if self.window < 2 or (not isinstance(t, Tensor) and t <= self.cutoff):
            return self.inner.predict(x_t, t, condition, knobs, network_time)
        # the state is where it is: only the question changes, and its answer is read at the level of the state
        return dataclasses.replace(self.inner.predict(x_t, self.told(x_t, t), condition, knobs), t=t)


def shift_time(
    denoiser: AbstractDenoiser,
    window: int,
    cutoff: float,
    *,
    data_variance: float = 0.0,
    levels: int = 1000,
    grid: str = "uniform",
) -> TimeShifted:
    """Return the denoiser whose network is told, for each item, the level that explains the variance of its state.

    A sampler's states have drifted from those the network was trained on. Of the levels tau within `window` around t the
    one with the least |a(tau)^2 data_variance + s(tau)^2 - Var(x_t)|^2 is told instead of t, the variance over all
    elements of an item; steps go on as if it were t. Any plan can use it, at no cost in evaluations. Every item has
    its own level, and a run depends on the items alone, not on their batch.

    Args:
        window: how many levels around t are looked at; 1 is the denoiser itself. The authors search 2 to 100 of 1000,
            more for fewer steps.
        cutoff: path time at and below which nothing is shifted, because there the data has the variance; the authors
            search 0.2 to 0.4 of the range.
        data_variance: of the elements of an item; 0, the choice of the authors' code, compares with the noise alone.
        levels: how many levels the window is counted in, those of the network where it has its own.
        grid: how they are spread over the path.

    The paper tells the network another time; its code does so for DPM-Solver and DEIS, while for DDIM and PNDM it moves
    the level that the next step leads to. This is the paper's.

    Raises:
        BadValue: a window below 1, or a negative variance.

    Reference: Li, Qu, Yao, Sun, Moens, 2023, arXiv 2305.15583.
    """
    if window < 1 or data_variance < 0.0:
        raise BadValue(f"window={window}, data_variance={data_variance}", "window >= 1, data_variance >= 0", "window=20")
    path = denoiser.path
    own = sorted({denoiser.snap(t) for t in grids.make(path, levels, grid)})
    expected = [path.a(t) ** 2 * data_variance + path.s(t) ** 2 for t in own]
    tables = (torch.tensor(v, dtype=torch.float64) for v in (own, expected))
    return TimeShifted(denoiser, window, cutoff, *tables)
