"""Particles that see y at every level, pulled to it row by row: MCGDiff and filtering posterior sampling."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor

from retrograde import laws, systems
from retrograde.denoisers import AbstractDenoiser, Prediction
from retrograde.denoisers.denoiser import NOTHING
from retrograde.errors import BadValue
from retrograde.guide import Transform
from retrograde.guide.branches import alone
from retrograde.inverse.guided import level
from retrograde.inverse.method import Posed, Task, method
from retrograde.inverse.spectral import seen_of
from retrograde.linear import LinearMap
from retrograde.noise import Noise
from retrograde.operators import Measurement
from retrograde.particles import Weighted, log_evidence
from retrograde.particles.split import ask_first
from retrograde.paths import Path
from retrograde.plan import Plan, Row
from retrograde.recipes import plan
from retrograde.state import State

_STREAM = -51.0  # of its own: the noise that y is put under is not that of the rows


@final
@dataclasses.dataclass(frozen=True, eq=False)
class Sight:
    """What is seen of a state at one level: V^T x ~ N(target, variance), along each column of V; [r] both.

    An infinite variance is a column that is not looked at.
    """

    target: Tensor
    variance: Tensor

    @property
    def seen(self) -> Tensor:
        """Which columns are looked at, [r] bool."""
        return self.variance.isfinite()

    def log_density(self, z: Tensor, more: float = 0.0) -> Tensor:
        """Return the sum over columns of log N(z; target, variance + more), [n], for z [n, r]."""
        variance = torch.where(self.seen, self.variance + more, 1.0).clamp(min=1e-300)
        each = (z.double() - self.target).square() / variance + variance.log() + math.log(2.0 * math.pi)
        return -0.5 * torch.where(self.seen, each, 0.0).sum(1)

    def gain(self, spread: float) -> Tensor:
        """Return K = s^2/(s^2 + variance), [r], the share by which what has the variance s^2 is pulled to the target."""
        return spread**2 / (spread**2 + self.variance)


@final
@dataclasses.dataclass(frozen=True, eq=False)
class Ahead:
    """A row as weights see it: V^T x' ~ N(c_x V^T x + c_D V^T D, kappa^2) before y, and what is then seen of x'."""

    c_x: float
    c_data: float
    kappa: float
    sight: Sight


@final
@dataclasses.dataclass(frozen=True, eq=False)
class Filtered(Transform):
    """A denoiser that weighs: log p(what is seen next | x_t), less what x_t was given for its own sight (see `mcgdiff`)."""

    basis: Tensor
    ahead: Mapping[float, Ahead]
    given: Mapping[float, Sight]

    def predict(
        self,
        x_t: Tensor,
        t: float | Tensor,
        condition: Mapping[str, Any] = NOTHING,
        knobs: Mapping[str, Any] = NOTHING,
        network_time: float | None = None,
    ) -> Prediction:
        t, _, _ = level(self.path, t)
        free = alone(self.inner.predict(x_t, t, condition, knobs, network_time), "particles that see y")
        basis = self.basis.to(x_t)
        z = x_t.flatten(1) @ basis
        gained = torch.zeros(len(x_t), dtype=torch.float64, device=x_t.device)
        if t in self.ahead:
            row = self.ahead[t]
            mean = row.c_x * z + row.c_data * (free.data.flatten(1) @ basis)
            gained = gained + row.sight.log_density(mean, row.kappa**2)
        if t in self.given:
            gained = gained - self.given[t].log_density(z)
        return dataclasses.replace(free, log_weight=gained, parts={}, exponents={})


def _pulled(row: Row, basis: Tensor, ahead: Ahead, shape: Sequence[int]) -> Row:
    """Return the row that draws from N(x'; row) N(V^T x'; what is seen), normalized."""
    K = ahead.sight.gain(ahead.kappa)
    left = 1.0 - K
    return dataclasses.replace(
        row,
        states=(LinearMap(basis, left * ahead.c_x, ahead.c_x),),
        outputs=(LinearMap(basis, left * ahead.c_data, ahead.c_data),),
        noises=(LinearMap(basis, ahead.kappa * left.sqrt(), ahead.kappa),),
        shift=(basis @ torch.where(K > 0.0, K * ahead.sight.target, 0.0)).reshape(*shape),
    )


def _start(denoiser: AbstractDenoiser, basis: Tensor, sight: Sight, spread: float, task: Task) -> Tensor:
    """Return draws of N(0, spread^2) times what is seen."""
    eps = task.prior(denoiser.shape).flatten(1)
    K = sight.gain(spread)
    pulled = torch.where(K > 0.0, K * sight.target, 0.0) + spread * ((1.0 - K).sqrt() - 1.0) * (eps @ basis)
    begun = spread * eps + pulled @ basis.T
    return begun.reshape(-1, *denoiser.shape).to(device=task.device, dtype=task.dtype)


def _table(free: Plan, basis: Tensor, sights: Sequence[Sight], shape: Sequence[int]) -> tuple[Plan, dict[float, Ahead]]:
    ahead: dict[float, Ahead] = {}
    rows: list[Row] = []
    for row, sight in zip(free.rows[:-1], sights[1:], strict=True):
        c_x, c_data, kappa = (float(part[0]) for part in (row.states, row.outputs, row.noises))  # type: ignore[arg-type]
        ahead[float(row.time or 0.0)] = Ahead(c_x, c_data, kappa, sight)
        rows.append(_pulled(row, basis, ahead[float(row.time or 0.0)], shape))
    made = dataclasses.replace(free, rows=(*rows, free.rows[-1]), misses=(laws.POINT_MASS,), report=None)
    return made, ahead


def _levels(denoiser: AbstractDenoiser, spread: Tensor, task: Task) -> tuple[Plan, Tensor]:
    """Return DDPM's plan whose grid goes through the levels at which y was seen, and for each column its level [r].

    Of each group of columns that are nearest to one level of the grid, that level is moved to their mean; what lies outside
    the grid stays as it is.
    """
    free = plan("ddpm", denoiser, nfe=task.nfe, grid=task.grid)
    path, logs = denoiser.path, torch.tensor([denoiser.path.sigma(t) for t in free.times], dtype=torch.float64).log()
    inside = (spread.log() <= logs[0]) & (spread.log() >= logs[-1])
    nearest = (spread.log()[:, None] - logs).abs().argmin(1)
    for k in set(nearest[inside].tolist()):
        logs[k] = spread[inside & (nearest == k)].log().mean()
    times = [path.time_of_sigma(float(sigma)) for sigma in logs.exp()]
    kept = [t if bool((inside & (nearest == k)).any()) else free.times[k] for k, t in enumerate(times)]
    moved = plan("ddpm", denoiser, grid=kept)
    sigmas = torch.tensor([path.sigma(t) for t in moved.times], dtype=torch.float64)
    return moved, torch.where(inside, sigmas[(spread[:, None] - sigmas).abs().argmin(1)], spread)


@method(
    "mcgdiff", "particles drawn towards y at every level: the posterior as they grow in number", exact="all", together=True
)
def mcgdiff(
    denoiser: AbstractDenoiser, measurement: Measurement, task: Task, kappa: float = 1e-4, threshold: float = 1.0
) -> Posed:
    """Monte Carlo guided diffusion: sequential Monte Carlo whose every row knows y, for linear operators; no gradient.

    Along a column v_i of A = U S V^T, y is x_0 under noise of size r_i = std/s_i, as the state of level sigma = r_i is. So
    at levels sigma_t >= r_i a state is seen as if that one were z_i = (A^+ y)_i,

        g_t(x) = prod_i N(v_i^T x; a_t z_i, v_t),   v_t = a_t^2 (sigma_t^2 - r_i^2 + kappa r_i^2),

    and particles move by the product of DDPM's row with g_t' and weigh log int g_t' dp(x' | x_t) - log g_t(x_t), over
    the columns that are still seen. At the level r_i, which is on the grid, g is p(y_i | x_0) itself, up to kappa: the
    samples are those of the posterior as their number grows, and the mean weight estimates p(y).

    Args:
        kappa: of the variance of the noise, which it adds to; g would else be no density at the level of the noise.
        threshold: of the effective sample size below which particles are resampled, as a share of them.

    Reference: Cardoso, Janati El Idrissi, Le Corff and Moulines, Monte Carlo guided Diffusion for Bayesian linear inverse
    problems, 2023, arXiv 2308.07983. (Their code weighs by p(y | x_0)/g in the end; of a narrow g these weights have no
    finite variance. It also leaves g out of the first weights; here the start is drawn from it.)
    """
    if not kappa > 0.0:
        raise BadValue(f"kappa={kappa}", "kappa > 0", "kappa=1e-4")
    basis, read, spread = seen_of(measurement)
    path = denoiser.path
    free, levels = _levels(denoiser, spread, task)

    def sight(t: float) -> Sight:
        a, sigma = path.a(t), path.sigma(t)
        width = a * a * (sigma**2 - levels**2 + kappa * levels**2)
        return Sight(a * read, torch.where(levels <= sigma * (1.0 + 1e-9), width, math.inf))

    sights = [sight(t) for t in free.times]
    table, ahead = _table(free, basis, sights, denoiser.shape)
    given = {  # a column that is not seen next keeps what it was given
        t: Sight(here.target, torch.where(there.seen, here.variance, math.inf))
        for t, here, there in zip(free.times, sights, sights[1:], strict=False)
    }
    s = path.s(free.times[0])
    first = float(sights[0].log_density(torch.zeros(1, len(read), dtype=torch.float64), s * s))
    last = torch.tensor([path.a(path.time_of_sigma(float(r))) if r > 0.0 else 1.0 for r in levels], dtype=torch.float64)
    # from the density of a z_i to that of y_i; with a column that is never seen, or y outside the range of A, it is not p(y)
    unit = float((last * levels / max(measurement.std, 1e-300)).log().sum())
    inside = len(read) == measurement.y.numel() and bool(((levels >= path.sigma(free.times[-1])) & sights[0].seen).all())

    def evidence(state: State) -> float:
        return first + unit + float(log_evidence(state, task.n)[0])

    return Posed(
        Filtered(denoiser, basis, ahead, given),
        ask_first(table),
        particles=Weighted(task.n, threshold=threshold),
        start=_start(denoiser, basis, sights[0], s, task),
        log_evidence=evidence if inside else None,
    )


def observed(path: Path, times: Sequence[float], read: Tensor, rows: Sequence[Row], seed: int) -> list[Tensor]:
    """Return y at every level, [r] each: from its noise end drawn down to y by DDPM, with y for the data mean."""
    noise = Noise(seed, [0])

    def draw(t: float) -> Tensor:
        return noise.draw(tuple(read.shape), (t, _STREAM), 0, torch.float64)[0]

    made = [path.a(times[0]) * read + path.s(times[0]) * draw(times[0])]
    for row, t in zip(rows, times[1:], strict=False):
        c_x, c_data, kappa = (float(part[0]) for part in (row.states, row.outputs, row.noises))  # type: ignore[arg-type]
        made.append(c_x * made[-1] + c_data * read + kappa * draw(t))
    return made


@method("fps_smc", "particles that filter a path of noisier measurements, drawn down to y", together=True)
def fps_smc(denoiser: AbstractDenoiser, measurement: Measurement, task: Task, threshold: float = 1.0) -> Posed:
    """Filtering posterior sampling: a particle filter of x_t on measurements y_t at every level, drawn from q(y_t | y).

        p(y_t | x_t) = N(y_t; v_i^T x_t, a_t^2 std^2/s_i^2)  along a column v_i of A = U S V^T

    Particles move by the product of DDPM's row with it, and weigh log int p(y_t' | x') dp(x' | x_t). Without noise in y
    the samples of one seed are, as their number grows, those of the posterior given its path of y too, and those of
    many seeds together the posterior. With noise they are not: the filter takes the noise of each y_t for a new one,
    where it is one noise at all levels, so that y is counted many times and the samples come out too narrow. `mcgdiff`
    counts it once.

    Reference: Dou and Song, Diffusion Posterior Sampling for Linear Inverse Problem Solving: A Filtering Perspective, ICLR
    2024.
    """
    basis, read, spread = seen_of(measurement)
    free = plan("ddpm", denoiser, nfe=task.nfe, grid=task.grid)
    path = denoiser.path
    targets = observed(path, free.times, read, free.rows, task.seed)
    sights = [Sight(y, (path.a(t) * spread) ** 2) for t, y in zip(free.times, targets, strict=True)]
    table, ahead = _table(free, basis, sights, denoiser.shape)
    return Posed(
        Filtered(denoiser, basis, ahead, {}),
        ask_first(table),
        particles=Weighted(task.n, threshold=threshold),
        start=_start(denoiser, basis, sights[0], path.s(free.times[0]), task),
    )


for _title, _authors, _year, _arxiv, _name, _test in (
    (
        "Monte Carlo guided Diffusion for Bayesian linear inverse problems",
        ("Gabriel Cardoso", "Yazid Janati El Idrissi", "Sylvain Le Corff", "Eric Moulines"),
        2023,
        "2308.07983",
        "mcgdiff",
        "test_mcgdiff_has_the_posterior_and_the_evidence",
    ),
    (
        "Diffusion Posterior Sampling for Linear Inverse Problem Solving: A Filtering Perspective",
        ("Zehao Dou", "Yang Song"),
        2024,
        None,
        "fps_smc",
        "test_fps_is_exact_without_noise_and_too_narrow_with_it",
    ),
):
    systems.register(
        systems.System(
            title=_title,
            authors=_authors,
            year=_year,
            arxiv=_arxiv,
            home="inverse",
            call=f"rg.inverse.solve(denoiser, measurement, method={_name!r}, n=256, nfe=100)",
            test=f"tests/inverse/test_filtering.py::{_test}",
        )
    )
