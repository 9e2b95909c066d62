"""ER-SDE-Solver: the family of reverse SDEs given by a noise scale phi(sigma), with Taylor expansions of the data mean."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from retrograde.errors import UnknownName
from retrograde.paths import Path
from retrograde.plan import Row
from retrograde.recipes.recipe import Level, level, recipe

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(32)

SCALES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "ode": lambda sigma: sigma,
    "sde": lambda sigma: sigma**2,
    "exponential": lambda sigma: sigma * (np.exp(np.minimum(sigma**0.3, 700.0)) + 10.0),
}
"""phi(sigma): the probability flow, the reverse SDE, and sigma (e^(sigma^0.3) + 10), the choice of the published code."""

_PAPER = {
    "title": "Elucidating the Solution Space of Extended Reverse-Time SDE for Diffusion Models",
    "authors": ("Qinpeng Cui", "Xinyi Zhang", "Qiqi Bao", "Qingmin Liao"),
    "year": 2023,
    "arxiv": "2309.06169",
    "test": "tests/recipes/test_er_sde.py::test_er_sde_is_the_loop_with_fine_integrals",
}


def _integral(here: Level, there: Level, phi: Callable[[np.ndarray], np.ndarray], power: int, points: int) -> float:
    """phi(sigma') int (u - sigma)^power / phi(u) du from sigma' to sigma, by Gauss-Legendre in log u or a sum of points."""
    if points:
        h = (here.sigma - there.sigma) / points
        u = there.sigma + h * np.arange(points)
        return float(h * np.sum((u - here.sigma) ** power * phi(np.array(there.sigma)) / phi(u)))
    low, high = math.log(there.sigma), math.log(here.sigma)
    u = np.exp(0.5 * (high + low) + 0.5 * (high - low) * _NODES)
    end = phi(np.array(there.sigma))
    return float(0.5 * (high - low) * _WEIGHTS @ (u * (u - here.sigma) ** power * (end / phi(u))))


def _write(path: Path, times: tuple[float, ...], order: int, scale: str, points: int) -> list[Row]:
    """With y = x/a, r = phi(sigma')/phi(sigma): y' = r y + (1 - r) D + c_1 D' + c_2 D'' + sqrt(sigma'^2 - r^2 sigma^2) eps.

    c_1 = (sigma' - sigma) + phi(sigma') int du/phi(u) over the step, c_2 = (sigma' - sigma)^2/2 + phi(sigma') int
    (u - sigma) du/phi(u), exact or (points > 0) by that many rectangles, as ComfyUI takes them; derivatives in sigma by
    divided differences. One evaluation per step; arXiv 2309.06169. The noise caps the weak order at 2, also of the third
    solver.
    """
    if scale not in SCALES:
        raise UnknownName("noise scale", scale, SCALES)
    phi = SCALES[scale]
    levels = [level(path, t) for t in times]
    rows: list[Row] = []
    for i, (here, there) in enumerate(zip(levels, levels[1:], strict=False)):
        past = [levels[i - k] for k in range(1, min(order, i + 1)) if levels[i - k].a > 0.0]
        # y = x/a: y' = ratio y + (1 - ratio) D + noise that completes sigma'
        ratio = float(phi(np.array(there.sigma)) / phi(np.array(here.sigma))) if here.a > 0.0 else 0.0
        outputs = [1.0 - ratio, 0.0, 0.0]
        if past and here.a > 0.0:
            step, d_0 = there.sigma - here.sigma, here.sigma - past[0].sigma
            first, second = step + _integral(here, there, phi, 0, points), 0.0
            # D' is one difference, D'' that of two of them over half the way between the outer knots
            if len(past) == 2:
                second = (0.5 * step**2 + _integral(here, there, phi, 1, points)) / (0.5 * (here.sigma - past[1].sigma))
                d_1 = past[0].sigma - past[1].sigma
                outputs[1] -= second / d_1
                outputs[2] += second / d_1
            outputs[0] += (first + second) / d_0
            outputs[1] -= (first + second) / d_0
        # what stays of the noise; from a level without signal only the flow keeps any
        kept = ratio * here.sigma if here.a > 0.0 else there.sigma * (scale == "ode")
        variance = there.sigma**2 - kept**2
        fresh = (there.a * math.sqrt(variance),) if variance > 1e-14 * there.sigma**2 else ()
        used = tuple(there.a * c for c in outputs[: len(past) + 1])
        rows.append(Row(here.t, there.t, (there.a * kept / here.s,), used, fresh))
    return rows


def _register(order: int) -> None:
    @recipe(
        f"er_sde_{order}",
        order=min(order, 2),
        stochastic=True,
        summary=f"ER-SDE-Solver-{order}: extended reverse-time SDE",
        paper=_PAPER if order == 3 else None,
    )
    def er_sde(path: Path, times: tuple[float, ...], scale: str = "exponential", points: int = 0) -> list[Row]:
        return _write(path, times, order, scale, points)


for _order in (1, 2, 3):
    _register(_order)
