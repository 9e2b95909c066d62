"""Empirical model statistics: what DPM-Solver-v3 knows of a denoiser, per element and noise level.

With lam = log(a/s), y = x/a and f = ((1 - l) y - D), the part of the noise prediction that is left when l of the state is
taken off it, the probability flow obeys df/dlam = s f + b as well as three functions of lam, fitted once, allow.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from os import PathLike
from pathlib import Path as File
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from retrograde import grids
from retrograde.denoisers import AbstractDenoiser, prepare_condition
from retrograde.errors import BadValue, ShapeError
from retrograde.noise import Noise
from retrograde.plan_file import write_atomically

_UNIT, _WEIGHTS = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(6))
_UNIT, _WEIGHTS = 0.5 * (_UNIT + 1.0), 0.5 * _WEIGHTS
_POWERS = torch.arange(6.0, dtype=torch.float64)
# integrals from 0 to each node of the polynomial through the nodes
_RUNNING = torch.linalg.solve(_UNIT[:, None] ** _POWERS, torch.eye(6, dtype=torch.float64))
_RUNNING = (_UNIT[:, None] ** (_POWERS + 1.0) / (_POWERS + 1.0)) @ _RUNNING
_CELL = 0.25
"""Longest cell of the quadrature in log-SNR; with six Gauss points its error is that of rounding."""
_STREAM = (-33.0, -33.0)  # of its own: data sampled with the same seed must not be correlated with these draws


@dataclasses.dataclass(frozen=True, eq=False)
class Integrals:
    """Integrals over lam from one level to another, each [*shape] float64.

    Attributes:
        L, S: of l and of s.
        B: of e^-S b, S counted from the start.
        E: of e^(L + S) (lam - start)^k / k! for k = 0, 1, 2.
        C: of e^(L + S) B.
    """

    L: Tensor
    S: Tensor
    B: Tensor
    E: tuple[Tensor, ...]
    C: Tensor


@dataclasses.dataclass(frozen=True, eq=False)
class Statistics:
    """The functions l, s, b of lam = log(a/s), cubic splines through a table.

    Attributes:
        lams: rising levels, [levels] float64.
        l, s, b: values there, [levels, *shape] float64; the shape () means one number for all elements.

    Raises:
        ShapeError: tables of another length than `lams`.
        BadValue: levels that do not rise.
    """

    lams: Tensor
    l: Tensor  # noqa: E741
    s: Tensor
    b: Tensor

    def __post_init__(self) -> None:
        for name in ("lams", "l", "s", "b"):
            object.__setattr__(self, name, torch.as_tensor(getattr(self, name)).double())
        lengths = [len(v) for v in (self.lams, self.l, self.s, self.b)]
        if len(set(lengths)) > 1 or not self.l.shape == self.s.shape == self.b.shape:
            raise ShapeError(f"tables of lengths {lengths}", "one value of l, s and b per level", "cut them to one length")
        if lengths[0] < 2 or not bool((self.lams.diff() > 0).all()):
            raise BadValue(f"levels {self.lams.tolist()[:4]}", "two or more, rising in log(a/s)", "sort them")

    @classmethod
    def constant(cls, l: float, s: float, b: float = 0.0) -> Statistics:  # noqa: E741
        """Return the same l, s, b everywhere: (1, 0, 0) is DPM-Solver++, (0, -1, 0) DPM-Solver."""
        return cls(torch.tensor([-50.0, 50.0]), *(torch.full((2,), v) for v in (l, s, b)))

    @functools.cached_property
    def _bends(self) -> Mapping[str, Tensor]:
        """Second derivatives of the splines at the levels; the third one does not jump at the first and last inner level."""
        n, h = len(self.lams), self.lams.diff()
        system = torch.eye(n, dtype=torch.float64)
        for i in range(1, n - 1):
            system[i, i - 1 : i + 2] = torch.stack([h[i - 1], 2.0 * (h[i - 1] + h[i]), h[i]])
        if n > 3:
            system[0, :3] = torch.stack([h[1], -(h[0] + h[1]), h[0]])
            system[-1, -3:] = torch.stack([h[-1], -(h[-2] + h[-1]), h[-2]])
        bends = {}
        for name in ("l", "s", "b"):
            values = getattr(self, name).flatten(1) if getattr(self, name).ndim > 1 else getattr(self, name)[:, None]
            slopes = values.diff(dim=0) / h[:, None]
            right = torch.zeros_like(values)
            right[1:-1] = 6.0 * slopes.diff(dim=0)
            bends[name] = torch.linalg.solve(system, right).reshape(getattr(self, name).shape)
        return bends

    def at(self, name: str, lam: float | Tensor) -> Tensor:
        """Return l, s or b at levels lam [...], as [..., *shape].

        Raises:
            BadValue: a level outside the table.
        """
        lam = torch.as_tensor(lam, dtype=torch.float64)
        low, high = float(self.lams[0]), float(self.lams[-1])
        if float(lam.min()) < low - 1e-6 or float(lam.max()) > high + 1e-6:
            given = f"levels from sigma={math.exp(-float(lam.min())):.6g} to {math.exp(-float(lam.max())):.6g}"
            allowed = f"those of the statistics: sigma from {math.exp(-high):.6g} to {math.exp(-low):.6g}"
            raise BadValue(given, allowed, "a grid within them, or statistics(denoiser, sigma_min=..., sigma_max=...)")
        values, bends = getattr(self, name), self._bends[name]
        i = (torch.searchsorted(self.lams, lam) - 1).clamp(0, len(self.lams) - 2)
        h = self.lams[i + 1] - self.lams[i]
        u = ((lam - self.lams[i]) / h).reshape((*lam.shape, *(1,) * (values.ndim - 1)))
        h = h.reshape(u.shape)
        line = (1.0 - u) * values[i] + u * values[i + 1]
        curve = ((1.0 - u) ** 3 - (1.0 - u)) * bends[i] + (u**3 - u) * bends[i + 1]
        return line + h * h / 6.0 * curve

    def integrals(self, start: float, end: float) -> Integrals:
        """Integrate from lam = start to lam = end, which may lie on either side."""
        inner = self.lams[(self.lams > min(start, end)) & (self.lams < max(start, end))].tolist()
        knots = [start, *(inner if end > start else inner[::-1]), end]
        edges = [start]
        for one, other in zip(knots, knots[1:], strict=False):
            count = max(1, math.ceil(abs(other - one) / _CELL))
            edges += [one + (other - one) * k / count for k in range(1, count + 1)]
        edge = torch.tensor(edges, dtype=torch.float64)
        width = edge.diff()
        nodes = edge[:-1, None] + width[:, None] * _UNIT
        tail = self.l.shape[1:]

        def running(values: Tensor) -> tuple[Tensor, Tensor]:
            flat = values.reshape(*nodes.shape, -1)
            cells = width[:, None] * torch.einsum("q,cqd->cd", _WEIGHTS, flat)
            within = width[:, None, None] * torch.einsum("pq,cqd->cpd", _RUNNING, flat)
            before = cells.cumsum(0) - cells
            return (within + before[:, None]).reshape(values.shape), cells.sum(0).reshape(tail)

        L, L_end = running(self.at("l", nodes))
        S, S_end = running(self.at("s", nodes))
        B, B_end = running(torch.exp(-S) * self.at("b", nodes))
        weight = torch.exp(L + S)
        distance = (nodes - start).reshape(*nodes.shape, *(1,) * len(tail))
        E = tuple(running(weight * distance**k / math.factorial(k))[1] for k in range(3))
        return Integrals(L_end, S_end, B_end, E, running(weight * B)[1])

    def save(self, file: str | PathLike[str]) -> None:
        """Write the tables as safetensors, atomically."""
        tensors = {f.name: getattr(self, f.name).contiguous() for f in dataclasses.fields(self)}
        write_atomically(file, safetensors.torch.save(tensors))

    @classmethod
    def load(cls, file: str | PathLike[str]) -> Statistics:
        """Read tables written by `save`."""
        return cls(**safetensors.torch.load(File(file).read_bytes()))


def statistics(
    denoiser: AbstractDenoiser,
    data: Tensor,
    *,
    levels: int = 120,
    probes: int = 1,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    condition: Any = None,
    seed: int = 0,
    batch_size: int = 256,
) -> Statistics:
    """Estimate the statistics of a denoiser on noised data, element by element.

    At each level, over x = a x_0 + s eps:

        l = E[diag(d(s E)/dx)],                 by probes v = +-1: v (1 - a J^T v), J the Jacobian of the data mean
        s = Cov(f, f')/Var(f),  b = E[f'] - s E[f],   f' the derivative of f along the probability flow,

    s = 0 where f does not vary. f' is a divided difference over two levels next to it, along the tangent of the flow; a
    network of discrete times is asked at its own times only. Cost: (3 + probes) evaluations of every item at every
    level, of which `probes` are differentiated. The authors use 1024 to 4096 items and 120 to 250 levels.

    Args:
        data: clean items [n, *shape], real or sampled; its type is the type of the computation.
        levels: number of levels, even in log-SNR.
        condition: one value for all items, or one per item.
        seed: of the noise and of the probes.

    Raises:
        ShapeError: data of another shape than the denoiser's.
        BadValue: fewer than two items.

    Reference: Zheng, Lu, Chen, Zhu, DPM-Solver-v3: Improved Diffusion ODE Solver with Empirical Model Statistics, 2023,
    arXiv 2310.13268.
    """
    if tuple(data.shape[1:]) != denoiser.shape:
        raise ShapeError(f"data of shape {list(data.shape)}", f"[n, {', '.join(map(str, denoiser.shape))}]", "reshape it")
    if len(data) < 2:
        raise BadValue(f"{len(data)} items", "as many as there are: at least 2, better 1024", "sample some first")
    path = denoiser.path
    low, high = grids.levels(path, sigma_min, sigma_max)
    wanted = torch.linspace(-math.log(high), -math.log(low), levels, dtype=torch.float64).tolist()
    times = tuple(dict.fromkeys(denoiser.snap(path.time_of_log_snr(2.0 * lam)) for lam in wanted))
    lams = torch.tensor([0.5 * path.log_snr(t) for t in times], dtype=torch.float64)
    model = _Model(
        denoiser, data, prepare_condition(denoiser, condition, len(data)), Noise.first(len(data), seed), batch_size
    )
    l = torch.stack([model.linear_part(t, probes, seed) for t in times])  # noqa: E741
    table = Statistics(lams, l, torch.zeros_like(l), torch.zeros_like(l))
    fitted = [model.fit(t, table) for t in times]
    return dataclasses.replace(table, s=torch.stack([s for s, _ in fitted]), b=torch.stack([b for _, b in fitted]))


@dataclasses.dataclass(frozen=True, eq=False)
class _Model:
    """A denoiser with the items it is asked about."""

    denoiser: AbstractDenoiser
    data: Tensor
    condition: Mapping[str, Tensor]
    noise: Noise
    batch_size: int

    def _batches(self) -> list[slice]:
        return [slice(low, low + self.batch_size) for low in range(0, len(self.data), self.batch_size)]

    def _state(self, t: float, part: slice) -> Tensor:
        path, items = self.denoiser.path, self.data[part]
        # the same draw at every level: what chance adds to the tables is smooth in lam
        eps = Noise(self.noise.seed, self.noise.items[part]).draw(items.shape[1:], _STREAM, 0, items.dtype, items.device)
        return path.a(t) * items + path.s(t) * eps

    def _mean(self, x: Tensor, t: float, part: slice) -> Tensor:
        condition = {name: value[part] for name, value in self.condition.items()}
        return self.denoiser.predict(x, t, condition, {}, self.denoiser.network_time(t)).data

    def linear_part(self, t: float, probes: int, seed: int) -> Tensor:
        """Return l at time t, [*shape]."""
        generator = torch.Generator().manual_seed(seed)
        total = torch.zeros(self.data.shape[1:], dtype=torch.float64)
        for part in self._batches():
            for _ in range(probes):
                x = self._state(t, part).requires_grad_()
                v = torch.randint(0, 2, x.shape, generator=generator).to(x) * 2.0 - 1.0
                with torch.enable_grad():
                    (pulled,) = torch.autograd.grad(self._mean(x, t, part), x, v)
                total += (v * pulled).double().cpu().sum(0)
        return 1.0 - self.denoiser.path.a(t) * total / (len(self.data) * probes)

    def fit(self, t: float, table: Statistics) -> tuple[Tensor, Tensor]:
        """Return s and b at time t, each [*shape]."""
        path = self.denoiser.path
        lam = 0.5 * path.log_snr(t)
        tiny = float(torch.finfo(self.data.dtype).eps)
        neighbours = self._neighbours(t, lam, tiny ** (1.0 / 3.0), table)
        f, slope, energy = [], [], 0.0
        with torch.no_grad():
            for part in self._batches():
                x = self._state(t, part)
                mean = self._mean(x, t, part).double().cpu()
                y = x.double().cpu() / path.a(t)
                here = {0.0: (1.0 - table.at("l", lam)) * y - mean}
                for t_near in neighbours:
                    step = 0.5 * path.log_snr(t_near) - lam
                    y_near = y + step * (mean - y)  # the tangent of the flow: dy/dlam = D - y
                    near = self._mean((path.a(t_near) * y_near).to(x), t_near, part).double().cpu()
                    here[step] = (1.0 - table.at("l", lam + step)) * y_near - near
                f.append(here[0.0])
                slope.append(_derivative(here))
                energy += float(y.square().sum())
        one, other = torch.cat(f), torch.cat(slope)
        variance = one.var(0, correction=0)
        covariance = ((one - one.mean(0)) * (other - other.mean(0))).mean(0)
        varies = variance > tiny**1.5 * energy / self.data.numel()
        s = torch.where(varies, covariance / torch.where(varies, variance, 1.0), 0.0)
        return s, other.mean(0) - s * one.mean(0)

    def _neighbours(self, t: float, lam: float, step: float, table: Statistics) -> list[float]:
        """Times of two levels as near to lam as the network's own times allow, on both sides of it or within the table."""
        low, high = float(table.lams[0]), float(table.lams[-1])
        found: list[float] = []
        for k in range(1, 64):
            for sign in (-1.0, 1.0):
                beside = lam + sign * step * 2.0 ** (k // 2)
                if low <= beside <= high:
                    near = self.denoiser.snap(self.denoiser.path.time_of_log_snr(2.0 * beside))
                    if near != t and near not in found and low <= 0.5 * self.denoiser.path.log_snr(near) <= high:
                        found.append(near)
            if len(found) >= 2:
                break
        return found[:2]


def _derivative(values: Mapping[float, Tensor]) -> Tensor:
    """Return the derivative at 0 of the polynomial through values at two or three places, 0 among them."""
    places = list(values)
    total = torch.zeros_like(values[0.0])
    for place, value in values.items():
        others = [p for p in places if p != place]
        if place == 0.0:
            weight = -math.fsum(1.0 / p for p in others)
        else:
            weight = math.prod(-p for p in others if p != 0.0) / math.prod(place - p for p in others)
        total += weight * value
    return total
