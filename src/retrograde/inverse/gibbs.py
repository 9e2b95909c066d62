"""Methods that go to and fro between the prior and y: DAPS, split Gibbs (PnP-DM), RePaint. Written as tables."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor

from retrograde import grids, laws, systems
from retrograde.denoisers import AbstractDenoiser
from retrograde.errors import BadValue
from retrograde.inverse.method import Posed, Task, method
from retrograde.inverse.spectral import seen_of
from retrograde.linear import LinearMap
from retrograde.operators import Measurement
from retrograde.plan import Plan, Row
from retrograde.recipes import plan


@final
@dataclasses.dataclass(frozen=True, eq=False)
class Pull:
    """What y says: along the columns V [d, r] that are seen, x is `read` under noise of size `spread`, [r] both."""

    basis: Tensor
    read: Tensor
    spread: Tensor
    shape: tuple[int, ...]

    def row(self, t: float, t_next: float | None, r: float, a: float, s: float) -> Row:
        """Return the row x' = a z + s eps with z a draw of N(z; D, r^2) p(y | z), normalized; a = 1, s = 0 is z itself.

        Along a column z ~ N(D + w (read - D), r^2 (1 - w)) with w = r^2/(r^2 + spread^2), elsewhere N(D, r^2).
        """
        w = r * r / (r * r + self.spread**2).clamp(min=1e-300)
        kept = a * (1.0 - w)
        drawn = ((a * r) ** 2 * (1.0 - w) + s * s).sqrt()
        return Row(
            t,
            t_next,
            (0.0,),
            (LinearMap(self.basis, kept, a),),
            (LinearMap(self.basis, drawn, math.hypot(a * r, s)),),
            shift=(self.basis @ (a * w * self.read)).reshape(self.shape),
            renoise=True,
        )


def _pull(measurement: Measurement) -> Pull:
    return Pull(*seen_of(measurement), shape=tuple(measurement.operator.shape))


def _shares(nfe: int, each: int) -> list[int]:
    """Return how many evaluations each round has: about `each`, all of them in all."""
    if each < 1:
        raise BadValue(f"inner={each}", "inner >= 1", "inner=5")
    rounds = max(1, nfe // each)
    return [nfe // rounds + (k < nfe % rounds) for k in range(rounds)]


def _down(denoiser: AbstractDenoiser, sigma: float, n: int, recipe: str, **options: Any) -> tuple[Row, ...]:
    """Return the rows of a recipe from a level to the data in n evaluations; the last gives the data mean.

    Levels fall to zero, which is left out, as the cube of an even grid: the last of ten is a thousandth of the first.
    """
    levels = [sigma * (1.0 - j / n) ** 3 for j in range(n)]
    times = dict.fromkeys(denoiser.snap(denoiser.path.time_of_sigma(level)) for level in levels)
    return plan(recipe, denoiser, grid=tuple(times), **options).rows


def _joined(denoiser: AbstractDenoiser, rows: Sequence[Row], name: str, settings: dict[str, Any]) -> Plan:
    start = rows[0].time
    provenance = {"recipe": name, "options": settings}
    return Plan(
        denoiser.path, tuple(rows), "data", start=start, recipe=f"{name}@1", provenance=provenance, misses=(laws.POINT_MASS,)
    )


@method("daps", "from each level to the data, to y by the exact draw, and back to the next level; linear, no gradient")
def daps(
    denoiser: AbstractDenoiser, measurement: Measurement, task: Task, inner: int = 5, spread: float = math.inf
) -> Posed:
    """Decoupled annealing posterior sampling: at each level x_0 is guessed, drawn given y, and noised to the next level.

        D by `inner` evaluations of the probability flow;  z ~ N(z; D, r^2) p(y | z);  x' = a' z + s' eps

    with r = sigma, or r^2 = spread^2 sigma^2/(spread^2 + sigma^2). One state does not depend on the last but through z, so
    that errors made early can be mended. Exact where N(D, r^2) is the law of x_0 given x_t: with inner=1, which takes the
    mean of x_0 for D, for data with covariance spread^2 I. The flow's end is a draw already, and z draws once more: at low
    levels x is pulled to the data by sigma^2/2 times the score under noise of variance 2 sigma^2, where Langevin's step has
    sigma^2, and the samples come out too wide. (y's step is Langevin's in the paper and the exact draw here.)

    Reference: Zhang, Chu, Berner, Meng, Anandkumar and Song, Improving Diffusion Inverse Problem Solving with Decoupled
    Noise Annealing, 2024, arXiv 2407.01521.
    """
    if not spread > 0.0:
        raise BadValue(f"spread={spread}", "spread > 0", "spread=math.inf")
    path, pull, shares = denoiser.path, _pull(measurement), _shares(task.nfe, inner)
    outer = grids.make(path, len(shares), "karras" if task.grid is None else task.grid)
    times = [denoiser.snap(t) for t in outer]
    rows: list[Row] = []
    for k, (t, n) in enumerate(zip(times, shares, strict=False)):
        sigma = path.sigma(t)
        r = sigma if math.isinf(spread) else spread * sigma / math.hypot(spread, sigma)
        *flow, last = _down(denoiser, sigma, n, "ddim", eta=0.0)
        rows += [dataclasses.replace(row, renoise=True) for row in flow]
        at = float(last.time or 0.0)
        ends = k == len(times) - 1
        to = None if ends else times[k + 1]
        rows.append(pull.row(at, to, r, *((1.0, 0.0) if to is None else (path.a(to), path.s(to)))))
    return Posed(denoiser, _joined(denoiser, rows, "daps", {"inner": inner, "spread": spread}))


@method("pnpdm", "split Gibbs: draws given y and draws of the prior by turns, coupled ever tighter; linear, no gradient")
def pnpdm(
    denoiser: AbstractDenoiser,
    measurement: Measurement,
    task: Task,
    inner: int = 10,
    rho: tuple[float, float] = (10.0, 0.1),
) -> Posed:
    """Plug-and-play diffusion models: x and a copy z are drawn by turns, under pi(x, z) ~ p(x) p(y | z) N(z; x, rho^2).

        z ~ p(y | z) N(z; x, rho^2), exactly;   x ~ p(x) N(z; x, rho^2), by DDPM from the level sigma = rho down

    At one rho the chain's x has the law p(x) N(y; A x, std^2 + rho^2 A A^T), whatever the prior: that of y with more noise.
    So it is the posterior as rho goes to 0, in the limits of many rounds at each rho and of many evaluations in each. rho
    falls geometrically from the first to the second number, over rounds of `inner` evaluations.

    Reference: Wu, Sun, Chen, Zhang, Yue and Bouman, Principled Probabilistic Imaging using Diffusion Models as Plug-and-Play
    Priors, 2024, arXiv 2405.18782.
    """
    high, low = (float(one) for one in rho)
    if not high >= low > 0.0:
        raise BadValue(f"rho={rho}", "two numbers, first >= second > 0", "rho=(10.0, 0.1)")
    path, pull, shares = denoiser.path, _pull(measurement), _shares(task.nfe, inner)
    rounds = len(shares)
    levels = [high * (low / high) ** (k / max(1, rounds - 1)) for k in range(rounds)]
    rows: list[Row] = []
    for k, (level, n) in enumerate(zip(levels, shares, strict=True)):
        *down, last = _down(denoiser, level, n, "ddpm")
        rows += down
        if k == rounds - 1:
            rows.append(last)
            break
        to = denoiser.snap(path.time_of_sigma(levels[k + 1]))
        rows.append(pull.row(float(last.time or 0.0), to, levels[k + 1], path.a(to), 0.0))
    return Posed(denoiser, _joined(denoiser, rows, "pnpdm", {"inner": inner, "rho": [high, low]}))


@method("repaint", "what is known is put back after every row, and rows are run again to let the rest agree; linear")
def repaint(denoiser: AbstractDenoiser, measurement: Measurement, task: Task, repeats: int = 5) -> Posed:
    """RePaint: rows of DDPM whose known part is y under the noise of its level, each run `repeats` times.

        x' = (1 - V V^T) (row of DDPM) + V (a' z + s'' eps),   z = V^T A^+ y,   s''^2 = max(0, s'^2 - (a' std/s_i)^2)

    along the columns V of A = U S V^T; for a mask that is the paper's. Between repeats the state is noised back to where it
    was. Once, the known part is not asked at states that the rest made likely: on Gaussian data the rest has too little
    of it. Repeats let both agree, at the price of evaluations; the limit of many rows and repeats is the posterior, for y
    without noise.

    Reference: Lugmayr, Danelljan, Romero, Yu, Timofte and Van Gool, RePaint: Inpainting using Denoising Diffusion
    Probabilistic Models, 2022, arXiv 2201.09865.
    """
    path, pull, shares = denoiser.path, _pull(measurement), _shares(task.nfe - 1, repeats)
    free = plan("ddpm", denoiser, nfe=len(shares) + 1, grid=task.grid)
    rows: list[Row] = []
    for row, n in zip(free.rows[:-1], shares, strict=False):
        t, to = float(row.time or 0.0), float(row.next_time or 0.0)
        (c_x,), (c_data,), (kappa,) = ((float(part[0]),) for part in (row.states, row.outputs, row.noises))  # type: ignore[arg-type]
        a, s = path.a(to), path.s(to)
        none = torch.zeros_like(pull.read)
        known = (s * s - (a * pull.spread) ** 2).clamp(min=0.0).sqrt()
        put = dataclasses.replace(
            row,
            states=(LinearMap(pull.basis, none, c_x),),
            outputs=(LinearMap(pull.basis, none, c_data),),
            noises=(LinearMap(pull.basis, known, kappa),),
            shift=(a * (pull.basis @ pull.read)).reshape(pull.shape),
        )
        r = path.a(t) / a
        back = Row(None, t, (r,), (), (math.sqrt(max(0.0, path.s(t) ** 2 - (r * s) ** 2)),), renoise=True)
        rows += [put, back] * (n - 1) + [put]
    return Posed(denoiser, _joined(denoiser, [*rows, free.rows[-1]], "repaint", {"repeats": repeats}))


for _title, _authors, _year, _arxiv, _name, _test in (
    (
        "Improving Diffusion Inverse Problem Solving with Decoupled Noise Annealing",
        ("Bingliang Zhang", "Wenda Chu", "Julius Berner", "Chenlin Meng", "Anima Anandkumar", "Yang Song"),
        2024,
        "2407.01521",
        "daps",
        "test_daps_is_exact_for_data_of_one_spread_and_too_wide_by_the_flow",
    ),
    (
        "Principled Probabilistic Imaging using Diffusion Models as Plug-and-Play Priors",
        ("Zihui Wu", "Yu Sun", "Yifan Chen", "Bingliang Zhang", "Yisong Yue", "Katherine L. Bouman"),
        2024,
        "2405.18782",
        "pnpdm",
        "test_split_gibbs_has_the_posterior_of_more_noise",
    ),
    (
        "RePaint: Inpainting using Denoising Diffusion Probabilistic Models",
        ("Andreas Lugmayr", "Martin Danelljan", "Andres Romero", "Fisher Yu", "Radu Timofte", "Luc Van Gool"),
        2022,
        "2201.09865",
        "repaint",
        "test_repeats_of_repaint_bring_what_is_not_known_to_agree",
    ),
):
    systems.register(
        systems.System(
            title=_title,
            authors=_authors,
            year=_year,
            arxiv=_arxiv,
            home="inverse",
            call=f"rg.inverse.solve(denoiser, measurement, method={_name!r}, n=16, nfe=100)",
            test=f"tests/inverse/test_gibbs.py::{_test}",
        )
    )
