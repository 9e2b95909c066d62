"""UniPC: a predictor of order p and a corrector that reuses the evaluation of the next step."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from retrograde.errors import BadValue
from retrograde.paths import Path
from retrograde.plan import Row
from retrograde.recipes.recipe import Level, level, recipe

_PAPER = {
    "title": "UniPC: A Unified Predictor-Corrector Framework for Fast Sampling of Diffusion Models",
    "authors": ("Wenliang Zhao", "Lujia Bai", "Yongming Rao", "Jie Zhou", "Jiwen Lu"),
    "year": 2023,
    "arxiv": "2302.04867",
    "test": "tests/recipes/test_equivalence.py::test_unipc_agrees_with_diffusers",
}


def _outputs(here: Level, there: Level, others: list[Level], variant: str, basis: str) -> tuple[float, tuple[float, ...]]:
    """Return the coefficients of D at `here` and at the other levels in the step from here to there.

    x' = (s'/s) x - a'(e^-h - 1) D - a' B(h) sum_k rho_k (D_k - D)/r_k with r_k = (lam_k - lam)/h, where the rho solve
    sum_k r_k^(i-1) rho_k = i! phi_(i+1)(-h)/B(h) for i = 1..: exact for polynomials of that degree in log-SNR. With a single
    other level the published code sets rho = 1/2, the limit of small steps; so does this. With noise predictions s' stands
    for a', and h for -h.
    """
    data = basis == "data"
    gain = there.a - here.a * there.s / here.s if data else there.s - here.s * there.a / here.a
    usable = [other for other in others if other.a > 0.0] if here.a > 0.0 else []
    if not usable:
        return gain, (0.0,) * len(others)
    h = there.lam - here.lam
    hh = -h if data else h
    b_h = hh if variant == "bh1" else math.expm1(hh)
    r = np.array([(other.lam - here.lam) / h for other in usable])
    phi, factorial, b = math.expm1(hh) / hh - 1.0, 1.0, []
    for i in range(1, len(r) + 1):
        b.append(phi * factorial / b_h)
        factorial *= i + 1
        phi = phi / hh - 1.0 / factorial
    rho = np.array([0.5]) if len(r) == 1 else np.linalg.solve(np.vander(r, increasing=True).T, np.array(b))
    weights = iter(-(there.a if data else there.s) * b_h * rho / r)
    differences = tuple(float(next(weights)) if other in usable else 0.0 for other in others)
    return gain - math.fsum(differences), differences


def _kept(here: Level, there: Level, basis: str) -> float:
    return there.s / here.s if basis == "data" else there.a / here.a


def unipc_rows(
    path: Path,
    times: tuple[float, ...],
    orders: Sequence[int],
    corrected: Sequence[bool],
    variant: str = "bh2",
    basis: str = "data",
) -> list[Row]:
    """Return the steps between the times, step i with a predictor of orders[i] and, where corrected[i], its corrector.

    The corrector of a step waits for the evaluation at its end, so that of the last step is left out. A last step of no
    length is its corrector alone.

    Raises:
        BadValue: a variant that is neither "bh1" nor "bh2".
    """
    if variant not in ("bh1", "bh2"):
        raise BadValue(f"variant={variant!r}", "'bh1' or 'bh2'", "variant='bh2'")
    levels = [level(path, t) for t in times]
    rows = []
    for i, (here, there) in enumerate(zip(levels, levels[1:], strict=False)):
        time: float | None = here.t
        if i > 0 and corrected[i - 1]:
            before = levels[i - 1]
            past = [levels[i - 1 - k] for k in range(1, min(orders[i - 1], i))]
            own, others = _outputs(before, here, [*past, here], variant, basis)
            # at `here` the state is the prediction; the corrected state starts again from the one before
            rows.append(Row(here.t, here.t, (0.0, _kept(before, here, basis)), (others[-1], own, *others[:-1])))
            time = None
        if there.t == here.t:
            continue
        past = [levels[i - k] for k in range(1, min(orders[i], i + 1))]
        own, others = _outputs(here, there, past, variant, basis)
        rows.append(Row(time, there.t, (_kept(here, there, basis),), (own, *others)))
    return rows


def _register(order: int, corrector: bool) -> None:
    name = f"uni{'pc' if corrector else 'p'}_{order}"

    @recipe(
        name,
        order=order + 1 if corrector else order,
        summary=f"UniP-{order}" + (" with the corrector UniC" if corrector else ", predictor only"),
        paper=_PAPER if name == "unipc_3" else None,
    )
    def unipc(path: Path, times: tuple[float, ...], variant: str = "bh2") -> list[Row]:
        steps = len(times) - 1
        return unipc_rows(path, times, (order,) * steps, (corrector,) * steps, variant)


for _order in (2, 3):
    for _corrector in (True, False):
        _register(_order, _corrector)
