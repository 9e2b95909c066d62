"""From the options of a peer's scheduler and its ladder to the rows that do what its `step` does.

Where a peer's formula slips, the rows slip with it; `mended` asks for the right ones.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

from retrograde import recipes
from retrograde.errors import BadValue
from retrograde.interop.ladders import Ladder
from retrograde.plan import Row
from retrograde.recipes.deis import polynomial_rows
from retrograde.recipes.exponential_multistep import multistep_row, weights
from retrograde.recipes.recipe import Level, end_row, level
from retrograde.recipes.sa_solver import sa_rows
from retrograde.recipes.unipc import unipc_rows

Config = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Written:
    """Rows with the basis they are in, and the recipe they come from."""

    rows: list[Row]
    basis: str
    recipe: str


Write = Callable[[Ladder, Config, bool], Written]


def by_recipe(name: str, **fixed: Any) -> Write:
    """Return a writer that compiles a recipe: between the asked levels, then to the end of the ladder."""

    def write(ladder: Ladder, config: Config, mended: bool) -> Written:
        chosen = recipes.get(name)
        options = fixed | {k: config[k] for k in chosen.options if k in config}
        return compiled(ladder, name, **options)

    return write


def compiled(ladder: Ladder, name: str, whole: bool = False, **options: Any) -> Written:
    """Return the rows of a recipe on a ladder.

    Args:
        whole: let the recipe itself step to the data, where it can; else the last row returns the data mean.
    """
    chosen = recipes.get(name)
    path, basis = ladder.path, chosen.basis(ladder.path)
    times = ladder.times if ladder.end is None and not whole else ladder.points
    if chosen.evaluations > 1 or chosen.layout is not None:
        options["stages"] = chosen.stages(len(times) - 1)
    rows = chosen.write(path, times, **options)
    if whole:
        rows = to_data(rows) if ladder.end is None else rows
    elif ladder.end is None:
        rows = [*rows, end_row(path, times[-1], basis)]
    return Written(rows, basis, chosen.title)


def kdpm2_ancestral(ladder: Ladder, config: Config, mended: bool) -> Written:
    """DPM2 ancestral; its inner levels, which may be those of the ladder, are told unrounded."""
    written = compiled(ladder, "dpm_2_ancestral", eta=1.0)
    tell = ladder.tell_between
    rows = [
        dataclasses.replace(row, network_time=tell(row.time)) if tell and row.time and row.states[0] == 0.0 else row
        for row in written.rows
    ]
    return dataclasses.replace(written, rows=rows)


def to_data(rows: list[Row]) -> list[Row]:
    """Return rows whose last lands on path time 0 as rows that return the data."""
    return [*rows[:-1], dataclasses.replace(rows[-1], next_time=None)]


def _before(config: Config) -> int:
    """Return how many steps of the peer's run come before the first of the ladder: it counts its own whole."""
    return int(config.get("_before", 0))


def dpm_multistep(ladder: Ladder, config: Config, mended: bool) -> Written:
    """DPM-Solver and DPM-Solver++, multistep, and their stochastic forms."""
    kind, form, top = config["algorithm_type"], config["solver_type"], int(config["solver_order"])
    form = "midpoint" if form in ("logrho", "bh1", "bh2") else form
    kind = "dpmsolver++" if kind == "deis" else kind
    basis = "data" if kind.endswith("++") else "noise"
    eta = 1.0 if kind.startswith("sde") else 0.0
    _known("algorithm_type", kind, ("dpmsolver", "dpmsolver++", "sde-dpmsolver", "sde-dpmsolver++"))
    _known("solver_type", form, ("midpoint", "heun"))
    _known("solver_order", top, (1, 2, 3))
    if kind == "sde-dpmsolver" and top == 3:
        raise BadValue("algorithm_type='sde-dpmsolver' with solver_order=3", "solver_order 1 or 2", "solver_order=2")
    if kind == "sde-dpmsolver++" and top == 3 and ladder.path.name == "edm" and not mended:
        raise BadValue("algorithm_type='sde-dpmsolver++' with solver_order=3 on EDM levels", "order 1 or 2", "mended=True")
    if basis == "noise" and ladder.end is None:
        raise BadValue(
            f"final_sigmas_type='zero' with algorithm_type={kind!r}", "'sigma_min'", "final_sigmas_type='sigma_min'"
        )
    n, path = len(ladder.times), ladder.path
    orders = [min(top, i + 1) for i in range(n)]
    if config["lower_order_final"] and n + _before(config) < 15:
        orders[-1], orders[max(n - 2, 0)] = 1, min(orders[max(n - 2, 0)], 2)
    if config["euler_at_final"] or ladder.end is None:
        orders[-1] = 1
    levels = [level(path, t) for t in ladder.points]
    rows = []
    for i, order in enumerate(orders):
        if i == n - 1 and ladder.end is None:
            rows.append(end_row(path, levels[i].t, basis))
            continue
        known = [levels[i - j] for j in range(order)]
        rows.append(_dpm_row(known, levels[i + 1], basis, form, eta, mended))
    return Written(rows, basis, _dpm_name(top, basis, form, eta))


def _dpm_row(known: list[Level], there: Level, basis: str, form: str, eta: float, mended: bool) -> Row:
    row = multistep_row(known, there, basis, form, eta, 2.0 if mended else 1.0)
    if len(known) < 3 or eta == 0.0 or mended:
        return row
    # the published weight of D_2 is -(w_1/k - 1/2); diffusers has -(w_1/k + 1/2)
    h = there.lam - known[0].lam
    r = [(known[j].lam - known[j + 1].lam) / h for j in range(2)]
    extra = -there.a / (r[0] + r[1])
    change = (extra / r[0], -extra / r[0] - extra / r[1], extra / r[1])
    outputs = tuple(float(x) + c for x, c in zip(row.outputs, change, strict=True))  # type: ignore[arg-type]
    return dataclasses.replace(row, outputs=outputs)


def _dpm_name(order: int, basis: str, form: str, eta: float) -> str:
    if order == 1:
        return "ddim@1" if eta == 0.0 else "dpmpp_2m_sde@1"
    name = ("dpmpp" if basis == "data" else "dpm_solver") + f"_{order}m" + ("_sde" if eta else "")
    if form == "heun" and order == 2 and basis == "data":
        name = "dpmpp_2m_sde_heun" if eta else "res_2m"
    return f"{name}@1" if name in recipes.names() else "dpm_solver_2m@1"


def _known(name: str, given: Any, allowed: tuple[Any, ...]) -> None:
    if given not in allowed:
        raise BadValue(f"{name}={given!r}", ", ".join(map(repr, allowed)), f"{name}={allowed[0]!r}")


def dpm_singlestep(ladder: Ladder, config: Config, mended: bool) -> Written:
    """DPM-Solver and DPM-Solver++, single-step: blocks of orders 1, 2, 3 that begin at the state where the block began."""
    kind, form, top = config["algorithm_type"], config["solver_type"], int(config["solver_order"])
    form = "midpoint" if form in ("logrho", "bh1", "bh2") else form
    _known("algorithm_type", kind, ("dpmsolver", "dpmsolver++", "sde-dpmsolver++"))
    _known("solver_type", form, ("midpoint", "heun"))
    basis, eta = ("data" if kind.endswith("++") else "noise"), float(kind.startswith("sde"))
    if basis == "noise" and ladder.end is None:
        raise BadValue(
            f"final_sigmas_type='zero' with algorithm_type={kind!r}", "'sigma_min'", "final_sigmas_type='sigma_min'"
        )
    n, path = len(ladder.times), ladder.path
    lower = config["lower_order_final"] or n % top != 0 or ladder.end is None
    orders = _block_orders(n, top, lower)
    if ladder.end is None:
        orders[-1] = 1
    levels = [level(path, t) for t in ladder.points]
    rows = []
    for i, order in enumerate(orders):
        if i == n - 1 and ladder.end is None:
            rows.append(end_row(path, levels[i].t, basis))
        else:
            known = [levels[i - j] for j in range(order)]
            rows.append(_block_row(known, levels[i + 1], basis, form, eta, mended))
    name = ("dpmpp" if basis == "data" else "dpm_solver") + (f"_{top}s" if basis == "data" else f"_{top}")
    return Written(rows, basis, f"{name}@1" if top > 1 and not eta else "ddim@1" if not eta else "dpmpp_2m_sde@1")


def _block_orders(n: int, top: int, lower: bool) -> list[int]:
    block = list(range(1, top + 1))
    if not lower or top == 1:
        return block * (n // top)
    full, rest = divmod(n, top)
    if rest == 0:
        return block * (full - 1) + (block[:-1] if top == 3 else [1]) + [1]
    return block * full + block[:rest]


def _block_row(known: list[Level], there: Level, basis: str, form: str, eta: float, mended: bool) -> Row:
    """The step of a block from its first level, known[-1], with the predictions since, newest first."""
    base, asked = known[-1], known[0]
    h = there.lam - base.lam
    w_0, w_1, w_2 = weights(h, basis, form if len(known) == 2 else "heun", eta)
    r = [(one.lam - base.lam) / h for one in known]
    if len(known) == 1:
        on = [w_0]
    elif len(known) == 2 or form == "midpoint":
        on = [w_1 / r[0], *(0.0,) * (len(known) - 2), w_0 - w_1 / r[0]]
    else:
        # slopes to the base: u_1 = (m_1 - m_2)/r_1 and u_0 = (m_0 - m_2)/r_0; here D_2 is all of h^2 times the derivative
        if eta and not mended:
            w_2 -= 1.0  # -(w_1/k + 1/2), where the integral has -(w_1/k - 1/2)
        u_0 = (-r[1] * w_1 + 2.0 * w_2) / (r[0] - r[1])
        u_1 = (r[0] * w_1 - 2.0 * w_2) / (r[0] - r[1])
        on = [u_0 / r[0], u_1 / r[1], w_0 - u_0 / r[0] - u_1 / r[1]]
    scale = there.a if basis == "data" else there.s
    keep = (there.s / base.s) * math.exp(-eta * h) if basis == "data" else there.a / base.a
    fresh = (there.s * math.sqrt(-math.expm1(-2.0 * h)),) if eta else ()
    states = (*(0.0,) * (len(known) - 1), keep)
    return Row(asked.t, there.t, states, tuple(scale * w for w in on), fresh)


def unipc(ladder: Ladder, config: Config, mended: bool) -> Written:
    """UniPC with its corrector."""
    top, variant = int(config["solver_order"]), config["solver_type"]
    variant = "bh1" if variant in ("midpoint", "heun", "logrho") else variant
    _known("solver_type", variant, ("bh1", "bh2"))
    if config.get("solver_p") is not None:
        raise BadValue(f"solver_p={config['solver_p']!r}", "None: the predictor of UniPC", "solver_p=None")
    n, basis = len(ladder.times), "data" if config["predict_x0"] else "noise"
    orders = [min(top, i + 1, n - i) if config["lower_order_final"] else min(top, i + 1) for i in range(n)]
    without = {int(i) - _before(config) for i in config["disable_corrector"]}
    corrected = [i not in without for i in range(n)]
    points = ladder.times if ladder.end is None else ladder.points
    if basis == "noise" and ladder.path.a(points[0]) == 0.0:
        raise BadValue("predict_x0=False from a level without signal", "levels below it", "predict_x0=True")
    rows = unipc_rows(ladder.path, points, orders, corrected, variant, basis)
    if ladder.end is None:
        rows.append(end_row(ladder.path, points[-1], basis))
    return Written(rows, basis, f"unipc_{max(top, 2)}@1")


def deis(ladder: Ladder, config: Config, mended: bool) -> Written:
    """DEIS with polynomials in log sigma."""
    top, n = int(config["solver_order"]), len(ladder.times)
    _known("solver_order", top, (1, 2, 3))
    kind = config["solver_type"]
    _known("solver_type", "logrho" if kind in ("midpoint", "heun", "bh1", "bh2") else kind, ("logrho",))
    orders = [min(top, i + 1) for i in range(n)]
    if config["lower_order_final"] and n + _before(config) < 15:
        orders[-1], orders[max(n - 2, 0)] = 1, min(orders[max(n - 2, 0)], 2)
    points = ladder.points
    count = n - (points[-1] == points[-2])  # a last step of no length changes nothing
    by_order = {o: polynomial_rows(ladder.path, points[: count + 1], o - 1, "log_sigma") for o in set(orders)}
    rows = [by_order[order][i] for i, order in enumerate(orders[:count])]
    return Written(rows, "noise", f"deis_logrho{max(top - 1, 1)}@1")


def sa_solver(ladder: Ladder, config: Config, mended: bool) -> Written:
    """SA-Solver with the strength 1 between the trained steps 200 and 800, or as tau_func says."""
    _known("algorithm_type", config["algorithm_type"], ("data_prediction",))
    n, tell = len(ladder.times), ladder.tell
    total = int(config["num_train_timesteps"])
    tau = config["tau_func"] or (lambda t: 1.0 if 200 <= t <= 800 else 0.0)
    strengths = [float(tau(int(tell(t) if tell else t * total))) for t in ladder.times]
    predictor, corrector = int(config["predictor_order"]), int(config["corrector_order"])
    lower = config["lower_order_final"]
    predictors = [min(predictor, i + 1, n - i if lower else n) for i in range(n)]
    correctors = [min(corrector, i + 2, n - i + 1 if lower else n) for i in range(n)]
    rows = sa_rows(ladder.path, ladder.points, predictors, correctors, strengths, simple=True)
    return Written(rows, "data", "sa_solver@1")
