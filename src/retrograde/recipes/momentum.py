"""Momentum for multistep solvers: heavy ball, Nesterov and GHVB, on the noise prediction over sigma.

With y = x/a and d = sigma' - sigma, a step is y' = y + d w_n. The velocity w_n follows a linear recursion, and the last one
need not be kept: it is w_n-1 = (y - y_-1)/d_-1, a difference of states. So every method here is a row of two states and a
few predictions. A smaller beta means a larger region of stability and a less accurate step; beta = 1 is Adams-Bashforth.
The heavy ball works on any solver whose step is x' = c x + g w with a mean w of predictions: on DPM-Solver++(2M) it
averages data means.
"""

from __future__ import annotations

import math
from typing import cast

from retrograde.errors import BadValue
from retrograde.paths import Path
from retrograde.plan import Row
from retrograde.recipes.ipndm import ADAMS_BASHFORTH
from retrograde.recipes.recipe import Level, get, level, noise_basis, recipe
from retrograde.recipes.unipc import unipc_rows

_PAPER = {
    "title": "Diffusion Sampling with Momentum for Mitigating Divergence Artifacts",
    "authors": ("Suttisak Wizadwongsa", "Worameth Chinchuthakun", "Pramook Khungurn", "Amit Raj", "Supasorn Suwajanakorn"),
    "year": 2023,
    "arxiv": "2307.11118",
}


def ghvb_weights(order: int, beta: float) -> tuple[float, ...]:
    """Return beta times the weights that GHVB puts on the smoothed predictions, newest first; they add up to beta."""
    b = beta
    return {
        1: (b,),
        2: ((2 + b) / 2, -(2 - b) / 2),
        3: ((18 + 5 * b) / 12, -(24 - 8 * b) / 12, (6 - b) / 12),
        4: ((46 + 9 * b) / 24, -(78 - 19 * b) / 24, (42 - 5 * b) / 24, -(10 - b) / 24),
    }[order]


def _checked(beta: float) -> float:
    if not 0.0 < beta <= 1.0:
        raise BadValue(f"beta={beta}", "0 < beta <= 1: the share of the new prediction in the velocity", "beta=0.8")
    return beta


def _row(before: Level | None, here: Level, there: Level, keep: float, weights: tuple[float, ...]) -> Row:
    """The step with w_n = keep w_n-1 + sum_j weights_j E_-j."""
    step = there.a * (there.sigma - here.sigma)
    outputs = tuple(step * w for w in weights)
    if before is None or keep == 0.0:
        return Row(here.t, there.t, (there.a / here.a,), outputs)
    ratio = keep * (there.sigma - here.sigma) / (here.sigma - before.sigma)
    return Row(here.t, there.t, ((1.0 + ratio) * there.a / here.a, -ratio * there.a / before.a), outputs)


def _smoothed(order: int, n: int, beta: float) -> tuple[float, ...]:
    """Weights on E_n, ..., E_0 of the combination of v_n, v_n-1, ... where v_n = (1 - beta) v_n-1 + beta E_n, v_0 = E_0."""
    totals = [0.0] * (n + 1)
    for j, weight in enumerate(ghvb_weights(order, beta)):
        for age in range(j, n):
            totals[age] += weight * (1.0 - beta) ** (age - j)
        # v_0 is the first prediction itself, not a share of it
        totals[n] += weight / beta * (1.0 - beta) ** (n - j)
    return tuple(totals)


def averaged(rows: list[Row], beta: float) -> list[Row]:
    """Return the heavy ball on steps x' = c x + g m_n: x' = c x + g v_n, v_n = (1 - beta) v_n-1 + beta m_n, v_0 = m_0."""
    if beta == 1.0 or not rows:
        return rows
    moved = [rows[0]]
    for last, row in zip(rows, rows[1:], strict=False):
        (c, *_), (c_last, *_), outputs, outputs_last = (
            cast(tuple[float, ...], part) for part in (row.states, last.states, row.outputs, last.outputs)
        )
        ratio = (1.0 - beta) * math.fsum(outputs) / math.fsum(outputs_last)
        # the last step moved x_-1 by c_-1 x_-1 + g_-1 v_n-1
        moved.append(Row(row.time, row.next_time, (c + ratio, -ratio * c_last), tuple(beta * weight for weight in outputs)))
    return moved


def _ghvb(path: Path, times: tuple[float, ...], order: int, beta: float) -> list[Row]:
    levels = [level(path, t) for t in times]
    rows = []
    for i, (here, there) in enumerate(zip(levels, levels[1:], strict=False)):
        if i < order:  # a start of orders 1, 2, ...: few enough predictions to write the recursion out
            rows.append(_row(None, here, there, 0.0, _smoothed(min(order, i + 1), i, beta)))
        else:
            rows.append(_row(levels[i - 1], here, there, 1.0 - beta, ghvb_weights(order, beta)))
    return rows


def _nesterov(path: Path, times: tuple[float, ...], order: int, beta: float) -> list[Row]:
    """The steps w_n = (1 - b) v_n + b m_n with v_n = (1 - b) v_n-1 + b m_n; v_n-1 follows from w_n-1 and m_n-1."""
    levels = [level(path, t) for t in times]
    rows = []
    for i, (here, there) in enumerate(zip(levels, levels[1:], strict=False)):
        weights, share = ADAMS_BASHFORTH[min(order, i + 1) - 1], 1.0
        if i > 0 and beta < 1.0:
            share = beta * (2.0 - beta)
            last = ADAMS_BASHFORTH[min(order, i) - 1]
            lag = beta * (1.0 - beta)
            fresh = (*weights, 0.0)[: max(len(weights), len(last) + 1)]
            delayed = (0.0, *last, 0.0)[: len(fresh)]
            weights = tuple(w - lag / share * p for w, p in zip(fresh, delayed, strict=True))
        rows.append(_row(levels[i - 1] if i else None, here, there, 1.0 - beta, tuple(share * w for w in weights)))
    return rows


def _register(order: int) -> None:
    @recipe(
        f"ghvb_{order}",
        order=order,
        basis=noise_basis,
        clock="uniform sigma",
        summary=f"GHVB: Adams-Bashforth of order {order} on predictions smoothed by momentum, of the same order",
        paper=_PAPER | {"test": "tests/recipes/test_momentum.py::test_ghvb_is_the_recursion_of_the_paper"}
        if order == 4
        else None,
    )
    def ghvb(path: Path, times: tuple[float, ...], beta: float = 0.8) -> list[Row]:
        return _ghvb(path, times, order, _checked(beta))

    if order == 1:
        return  # the heavy ball on one prediction is ghvb_1

    @recipe(
        f"hb_{order}",
        order=1,
        basis=noise_basis,
        clock="uniform sigma",
        summary=f"heavy-ball (or Nesterov) momentum on Adams-Bashforth of order {order}; order 1 for beta < 1",
    )
    def heavy_ball(path: Path, times: tuple[float, ...], beta: float = 0.8, nesterov: bool = False) -> list[Row]:
        if nesterov:
            return _nesterov(path, times, order, _checked(beta))
        return averaged(get(f"ipndm_{order}").write(path, times), _checked(beta))


for _order in (1, 2, 3, 4):
    _register(_order)


@recipe(
    "hb_2m",
    order=1,
    summary="heavy-ball momentum on DPM-Solver++(2M), on the data prediction; order 1 for beta < 1",
    paper=_PAPER | {"test": "tests/recipes/test_momentum.py::test_heavy_ball_on_data_means_is_its_recursion"},
)
def hb_2m(path: Path, times: tuple[float, ...], beta: float = 0.8) -> list[Row]:
    """x' = (s'/s) x + (a' - a s'/s) v, v the running mean of D + (D - D_-1)/(2r): one evaluation (arXiv 2307.11118).

    The predictor of UniPC of order 2 is the same step, so this is momentum on it too.
    """
    return averaged(get("dpmpp_2m").write(path, times), _checked(beta))


@recipe(
    "hb_unipc",
    order=1,
    approximate=True,
    summary="heavy-ball momentum on the corrector of UniPC, on the data prediction; order 1 for beta < 1",
    paper=_PAPER | {"test": "tests/recipes/test_momentum.py::test_heavy_ball_on_the_corrector_is_its_recursion"},
)
def hb_unipc(
    path: Path,
    times: tuple[float, ...],
    beta: float = 0.8,
    order: int = 3,
    variant: str = "bh2",
    divided: bool = False,
) -> list[Row]:
    """x' = (s'/s) x + g v_n, v_n = (1 - b) v_n-1 + b M_n, M_n the mean of data predictions in UniC: one evaluation.

    The predictor has no momentum: in the authors' code (arXiv 2307.11118) a line puts the newest mean back in place of its
    average. That code also divides each mean by the noise s' of its step before it averages; so does divided=True, which
    misses the point-mass law, for the average of 1/s' is not 1/s'. beta = 1 is UniPC.

    Raises:
        BadValue: beta outside (0, 1], or an order outside 1, 2, 3.
    """
    if order not in (1, 2, 3):
        raise BadValue(f"order={order}", "1, 2 or 3: predictions of the predictor", "order=3")
    steps = len(times) - 1
    rows = unipc_rows(path, times, (order,) * steps, (True,) * steps, variant)
    share, last = 1.0 - _checked(beta), None
    for i, row in enumerate(rows):
        if row.next_time != row.time:  # a predictor
            continue
        kept, outputs = cast(float, row.states[1]), cast(tuple[float, ...], row.outputs)
        scale = math.fsum(outputs) * (path.s(cast(float, row.next_time)) if divided else 1.0)
        if last is not None and share > 0.0:
            # the last corrected step moved states[3] by c_-1 x + scale_-1 v_n-1, and made states[1]
            ratio = share * scale / last[1]
            states = (0.0, kept + ratio, 0.0, -ratio * last[0])
            rows[i] = Row(row.time, row.next_time, states, tuple(beta * weight for weight in outputs))
        last = kept, scale
    return rows
