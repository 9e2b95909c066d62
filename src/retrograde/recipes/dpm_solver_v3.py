"""DPM-Solver-v3: the exponential integrator whose linear part is fitted to the model, element by element.

With y = x/a, lam = log(a/s) and statistics l, s, b (see `statistics`), the part g of the prediction f = (1 - l) y - D that
the statistics do not explain is extrapolated by a polynomial in lam. One step from lam to lam', with L = int l,
S = int s, B = int e^-S b counted from lam:

    y' = e^-L' (y - sum_k g^(k) int e^(L + S) (u - lam)^k/k! du - int e^(L + S) B du),   g_i = e^-S_i f_i - B_i.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from retrograde import laws, systems
from retrograde.denoisers import AbstractDenoiser
from retrograde.errors import BadValue, PlanError
from retrograde.paths import Path
from retrograde.plan import Coefficient, Plan, Row
from retrograde.recipes.model_statistics import Statistics, statistics
from retrograde.recipes.recipe import Level, end_row, level, times_below_the_end

__all__ = ["Statistics", "plan", "statistics"]


def plan(
    path: Path | AbstractDenoiser,
    statistics: Statistics,
    nfe: int | None = None,
    grid: str | Sequence[float] = "log_snr",
    *,
    order: int = 3,
    corrector: bool = True,
    pseudo_predictor: bool = False,
    pseudo_corrector: bool = False,
    lower_order_final: bool = True,
    corrected: tuple[float, float] = (0.0, math.inf),
    **options: Any,
) -> Plan:
    """Return the plan of DPM-Solver-v3 with exactly `nfe` evaluations; its coefficients are as large as the statistics.

    Args:
        path: the path, or the denoiser whose times the grid is snapped to.
        statistics: of the model the plan is for; a grid may not leave their levels.
        grid: name of a grid, or explicit path times. Without signal at the noise end, a named grid starts just below it.
        order: 1, 2 or 3; the first steps have orders 1, 2, ...
        corrector: whether a step is done again with the prediction at its end, of the predictor's order (one more with
            `pseudo_corrector`); what the statistics leave of that prediction is kept, the state moves.
        pseudo_predictor, pseudo_corrector: whether derivatives are plain divided differences instead of those of the
            polynomial; the authors use the first at five evaluations, the second on pixels of ImageNet.
        lower_order_final: whether the last steps have orders ..., 2, 1.
        corrected: levels sigma at which the corrector acts. Under strong guidance the authors use it on half of the path
            only: the lower half by their words, the upper half by their code.

    Raises:
        BadValue: an order outside 1..3, or a grid that leaves the levels of the statistics.

    Reference: Zheng, Lu, Chen, Zhu, DPM-Solver-v3: Improved Diffusion ODE Solver with Empirical Model Statistics, 2023,
    arXiv 2310.13268.
    """
    if order not in (1, 2, 3):
        raise BadValue(f"order={order}", "1, 2 or 3", "order=3")
    on, times = times_below_the_end(path, nfe, grid, **options)
    writer = _Writer(statistics, [level(on, t) for t in times], order, corrector, pseudo_predictor, pseudo_corrector)
    rows = writer.rows(lower_order_final, corrected)
    flags = {"corrector": corrector, "pseudo_predictor": pseudo_predictor, "pseudo_corrector": pseudo_corrector}
    settings = {"order": order, **flags, "lower_order_final": lower_order_final, "corrected": list(corrected)}
    fields: dict[str, Any] = {
        "recipe": "dpm_solver_v3@1",
        "start": times[0],
        "provenance": {"recipe": "dpm_solver_v3", "options": settings, "times": list(times)},
    }
    table = (*rows, end_row(on, times[-1], "data"))
    try:
        return Plan(on, table, **fields)
    except PlanError as error:
        if laws.POINT_MASS not in error.given:
            raise
    return Plan(on, table, misses=(laws.POINT_MASS,), **fields)


@dataclasses.dataclass(frozen=True, eq=False)
class _Writer:
    """Writes the rows of one plan; `levels[i]` is asked in the state number `asked[i]`, counted from the first."""

    statistics: Statistics
    levels: list[Level]
    order: int
    corrector: bool
    pseudo_predictor: bool
    pseudo_corrector: bool
    asked: list[int] = dataclasses.field(default_factory=list)

    def rows(self, lower_order_final: bool, corrected: tuple[float, float]) -> list[Row]:
        rows: list[Row] = []
        base = made = used = 0  # the newest corrected state, the newest state, the order of the last prediction
        for i, here in enumerate(self.levels[:-1]):
            self.asked.append(made)
            time: float | None = here.t
            again = used + self.pseudo_corrector if self.corrector and i > 0 else 0
            if again > 1 and corrected[0] <= here.sigma <= corrected[1]:
                nodes = [i - 1, i, *range(i - 2, i - again, -1)][: min(again, i + 1)]
                rows.append(self._step(i - 1, i, nodes, base, made, i, time, self.pseudo_corrector))
                made, time = made + 1, None
            base = made
            used = min(self.order, i + 1)
            if lower_order_final:
                used = min(used, len(self.levels) - 1 - i)
            nodes = [i - k for k in range(used)]
            rows.append(self._step(i, i + 1, nodes, base, made, i, time, self.pseudo_predictor))
            made += 1
        return rows

    def _step(
        self, start: int, end: int, nodes: list[int], base: int, made: int, newest: int, time: float | None, pseudo: bool
    ) -> Row:
        """The row from state number `base` at level `start` to level `end`, with the predictions at `nodes`."""
        here, there = self.levels[start], self.levels[end]
        move = self.statistics.integrals(here.lam, there.lam)
        decay = (-move.L).exp()
        derivatives = _derivatives([self.levels[k].lam - here.lam for k in nodes], pseudo)
        states: dict[int, Tensor] = {made - base: there.a / here.a * decay}
        outputs: dict[int, Tensor] = {}
        shift = -decay * move.C
        for j, node in enumerate(nodes):
            known, past = self.levels[node], self.statistics.integrals(here.lam, self.levels[node].lam)
            weight = -decay * sum(float(derivatives[k, j]) * move.E[k] for k in range(len(nodes)))
            on_f = there.a * weight * (-past.S).exp()
            place = made - self.asked[node]
            states[place] = states.get(place, 0.0) + on_f * (1.0 - self.statistics.at("l", known.lam)) / known.a
            outputs[newest - node] = -on_f
            shift = shift - weight * past.B
        constant = there.a * shift
        return Row(
            time,
            there.t,
            _filled(states),
            _filled(outputs),
            shift=None if not bool(constant.any()) else constant,
        )


def _derivatives(distances: list[float], pseudo: bool) -> np.ndarray:
    """Return the weights [k, j] of g at the nodes, the first at distance 0, in its derivatives of orders k = 0, 1, ...

    Those of the polynomial through all of them; `pseudo` takes k! times the divided difference of the first k + 1 nodes.
    """
    n = len(distances)
    weights = np.zeros((n, n))
    weights[0, 0] = 1.0
    for k in range(1, n):
        if pseudo:
            used = distances[: k + 1]
            for j, d in enumerate(used):
                weights[k, j] = math.factorial(k) / math.prod(d - other for other in used if other != d)
    if not pseudo and n > 1:
        powers = np.array(distances[1:])[:, None] ** np.arange(1, n)
        solved = np.linalg.inv(powers) * np.array([math.factorial(k) for k in range(1, n)])[:, None]
        weights[1:, 1:], weights[1:, 0] = solved, -solved.sum(1)
    return weights


def _filled(values: dict[int, Tensor]) -> tuple[Coefficient, ...]:
    """Return coefficients by place, zeros between; plain numbers where the statistics are."""
    dense: list[Coefficient] = [0.0] * (max(values) + 1)
    for place, value in values.items():
        dense[place] = value if value.ndim else float(value)
    while len(dense) > 1 and isinstance(dense[-1], float) and dense[-1] == 0.0:
        dense.pop()
    return tuple(dense)


systems.register(
    systems.System(
        title="DPM-Solver-v3: Improved Diffusion ODE Solver with Empirical Model Statistics",
        authors=("Kaiwen Zheng", "Cheng Lu", "Jianfei Chen", "Jun Zhu"),
        year=2023,
        arxiv="2310.13268",
        home="solvers",
        number=33,
        call="rg.recipes.dpm_solver_v3.plan(den, rg.recipes.dpm_solver_v3.statistics(den, data), nfe=8)",
        test="tests/recipes/test_dpm_solver_v3.py::test_fitted_statistics_win_at_small_budgets",
    )
)
