"""Steering by any loss of the data mean, with rows run again: steered diffusion."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from retrograde import laws, systems
from retrograde.denoisers import AbstractDenoiser, Prediction
from retrograde.denoisers.denoiser import NOTHING
from retrograde.errors import BadValue, ShapeError, UnknownName
from retrograde.guide import Transform
from retrograde.inverse.guided import KNOB, conditioned, level, with_backward
from retrograde.inverse.method import Posed, Task, method
from retrograde.operators import Measurement
from retrograde.plan import Row
from retrograde.recipes import plan

GRADIENTS = ("x0", "xt")

Loss = Callable[[Tensor], Tensor]
"""From data means [n, *shape] to how far each is from what is wanted, [n], zero where it is met."""


@final
@dataclasses.dataclass(frozen=True, eq=False)
class Steered(Transform):
    """A denoiser led down losses of its data mean, D' = D - knob sum_i k_i step_i (see `steered`).

    A step has the length 2 l/|dl/dD|, at which half a squared distance is zero, whatever its units; its direction is that of
    dl/dD ("x0", without a gradient through the network), or of dl/dx_t ("xt").
    """

    losses: tuple[tuple[Loss, float], ...]
    gradient: str
    obeys: ClassVar[frozenset[str]] = frozenset({KNOB})
    makes: ClassVar[frozenset[str]] = frozenset({"free"})

    def predict(
        self,
        x_t: Tensor,
        t: float | Tensor,
        condition: Mapping[str, Any] = NOTHING,
        knobs: Mapping[str, Any] = NOTHING,
        network_time: float | None = None,
    ) -> Prediction:
        share, passed = knobs.get(KNOB, 0.0), {key: value for key, value in knobs.items() if key != KNOB}
        terms = [(loss, k) for loss, k in self.losses if k != 0.0]
        if share == 0.0 or not terms:
            return self.inner.predict(x_t, t, condition, passed, network_time)
        t, _, _ = level(self.path, t)
        through = self.gradient == "xt"
        if through:
            free, data, counted, backward = with_backward(self.inner, x_t, t, condition, passed, network_time)
        else:
            free = self.inner.predict(x_t, t, condition, passed, network_time)
            data, counted, backward = free.data.detach(), [], None
        shift = torch.zeros_like(data)
        for loss, k in terms:
            value, slope = self._slope(loss, data)
            size = _norm(slope).clamp(min=1e-30)
            way = slope if backward is None else backward(slope)
            shift = shift + k * (2.0 * value / size) * way / _norm(way).clamp(min=1e-30)
        return conditioned(free, x_t, data - share * shift, data, counted)

    def _slope(self, loss: Loss, data: Tensor) -> tuple[Tensor, Tensor]:
        """Return l, shaped to broadcast, and dl/dD."""
        with torch.enable_grad():
            at = data.detach().requires_grad_(True)
            value = loss(at)
            if value.shape != data.shape[:1]:
                allowed = "one number for each item, [n]"
                raise ShapeError(f"a loss of shape {list(value.shape)}", allowed, "sum over the axes of an item")
            (slope,) = torch.autograd.grad(value.sum(), at)
        return value.detach().reshape(-1, *(1,) * (data.ndim - 1)), slope


def _norm(x: Tensor) -> Tensor:
    return x.flatten(1).norm(dim=1).reshape(-1, *(1,) * (x.ndim - 1))


def misfit(measurement: Measurement) -> Loss:
    """Return the loss |y - A(D)|^2/2 of a measurement."""
    return lambda data: 0.5 * measurement.residual(data).flatten(1).square().sum(1)


def steer(
    denoiser: AbstractDenoiser,
    losses: Sequence[tuple[Loss, float]],
    task: Task,
    loops: int = 4,
    gradient: str = "x0",
) -> Posed:
    """Return what runs steered diffusion: rows of DDPM led down several losses of the data mean, each row `loops` times.

        x' = row(x_t) - a' sum_i k_i (2 l_i/|dl_i/dD|) direction_i,   back: x_t = (a/a') x' + noise

    and on from there; the last time of a row is not taken back. With k = 0 it is DDPM, with rows run again.

    Args:
        losses: pairs of a function of data means [n, *shape] to [n], zero where what is wanted is met (a classifier's
            cross-entropy, a segmenter's, a distance to y), and its weight k, about one or less.
        gradient: "x0" takes no gradient through the network, "xt" does.
        loops: how often a row runs, each time an evaluation.

    Raises:
        BadValue: no loop; UnknownName: another gradient; when it runs ShapeError: a loss not of one number for each item.

    Reference: see `steered`.
    """
    if gradient not in GRADIENTS:
        raise UnknownName("gradient", gradient, GRADIENTS)
    if loops < 1 or any(not math.isfinite(k) for _, k in losses):
        raise BadValue(f"loops={loops}, weights {[k for _, k in losses]}", "loops >= 1, finite weights", "loops=4")
    free = plan("ddpm", denoiser, nfe=1 + max(1, (task.nfe - 1) // loops), grid=task.grid)
    path, rows = free.path, list[Row]()
    for row in free.rows[:-1]:
        t, to = float(row.time or 0.0), float(row.next_time or 0.0)
        a = path.a(to)
        led = dataclasses.replace(row, knobs={**row.knobs, KNOB: a / float(row.outputs[0])})  # type: ignore[arg-type]
        r = path.a(t) / a
        back = Row(None, t, (r,), (), (math.sqrt(max(0.0, path.s(t) ** 2 - (r * path.s(to)) ** 2)),), renoise=True)
        rows += [led, back] * (loops - 1) + [led]
    options = {"loops": loops, "gradient": gradient}
    table = dataclasses.replace(
        free, rows=(*rows, free.rows[-1]), recipe="steered@1", misses=(laws.POINT_MASS,), report=None
    )
    table = dataclasses.replace(table, provenance={"recipe": "steered", "options": options})
    return Posed(Steered(denoiser, tuple(losses), gradient), table)


@method("steered", "rows led down the misfit of the data mean by steps in its units, and run again; any operator")
def steered(
    denoiser: AbstractDenoiser,
    measurement: Measurement,
    task: Task,
    scale: float = 1.0,
    loops: int = 4,
    gradient: str = "x0",
) -> Posed:
    """Steered diffusion: after a row the state is led down a loss of the data mean, here |y - A(D)|^2/2, rows run again.

    See `steer`, which takes several losses of any kind. Rows that run again let the state agree with what it was led to. The
    step does not know the noise of y, nor the spread of x_0 given x_t: y is met however loud it is, and the samples are no
    draws of the posterior.

    Args:
        scale: k; 1 leads the data mean all the way to y, where the singular values of A are of one size.
        loops: how often a row runs. More of them at the same number of evaluations are fewer levels.
        gradient: "x0" or "xt".

    Reference: Nair, Cherian, Lohit, Wang, Koike-Akino, Patel and Marks, Steered Diffusion: A Generalized Framework for
    Plug-and-Play Conditional Image Synthesis, 2023, arXiv 2310.00224.
    """
    return steer(denoiser, [(misfit(measurement), scale)], task, loops, gradient)


systems.register(
    systems.System(
        title="Steered Diffusion: A Generalized Framework for Plug-and-Play Conditional Image Synthesis",
        authors=(
            "Nithin Gopalakrishnan Nair",
            "Anoop Cherian",
            "Suhas Lohit",
            "Ye Wang",
            "Toshiaki Koike-Akino",
            "Vishal M. Patel",
            "Tim K. Marks",
        ),
        year=2023,
        arxiv="2310.00224",
        home="inverse",
        call="rg.inverse.solve(denoiser, measurement, method='steered', n=16, nfe=100)",
        test="tests/inverse/test_steered.py::test_the_error_falls_with_the_loops",
    )
)
