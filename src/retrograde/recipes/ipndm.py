"""iPNDM: Adams-Bashforth with constant coefficients on the noise prediction, over sigma."""

from __future__ import annotations

from retrograde.paths import Path
from retrograde.plan import Row
from retrograde.recipes.recipe import level, noise_basis, recipe

ADAMS_BASHFORTH = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)


def _write(path: Path, times: tuple[float, ...], order: int) -> list[Row]:
    levels = [level(path, t) for t in times]
    rows = []
    for i, (here, there) in enumerate(zip(levels, levels[1:], strict=False)):
        step = there.a * (there.sigma - here.sigma)
        outputs = tuple(step * c for c in ADAMS_BASHFORTH[min(order, i + 1) - 1])
        rows.append(Row(here.t, there.t, (there.a / here.a,), outputs))
    return rows


def _register(order: int) -> None:
    @recipe(
        f"ipndm_{order}",
        order=order,
        basis=noise_basis,
        clock="uniform sigma",
        summary=f"improved PNDM: Adams-Bashforth of order {order} with coefficients of an even grid",
        paper={
            "title": "Fast Sampling of Diffusion Models with Exponential Integrator",
            "authors": ("Qinsheng Zhang", "Yongxin Chen"),
            "year": 2022,
            "arxiv": "2204.13902",
            "test": "tests/recipes/test_equivalence.py::test_ipndm_is_adams_bashforth_on_an_even_grid",
        }
        if order == 4
        else None,
    )
    def ipndm(path: Path, times: tuple[float, ...]) -> list[Row]:
        return _write(path, times, order)


for _order in (1, 2, 3, 4):
    _register(_order)
