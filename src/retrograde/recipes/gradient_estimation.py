"""Gradient estimation: sampling as descent on the distance to the data, with an estimate from two predictions."""

from __future__ import annotations

from retrograde.paths import Path
from retrograde.plan import Row
from retrograde.recipes.recipe import level, noise_basis, recipe


@recipe(
    "gradient_estimation",
    order=1,
    basis=noise_basis,
    clock="smooth",
    summary="DDIM with the direction gamma E + (1 - gamma) E_-1 from two predictions",
    paper={
        "title": "Interpreting and Improving Diffusion Models from an Optimization Perspective",
        "authors": ("Frank Permenter", "Chenyang Yuan"),
        "year": 2023,
        "arxiv": "2306.04848",
        "test": "tests/recipes/test_gradient_estimation.py::test_it_is_algorithm_2",
    },
)
def gradient_estimation(path: Path, times: tuple[float, ...], gamma: float = 2.0) -> list[Row]:
    """x'/a' = x/a + (sigma' - sigma)(gamma E + (1 - gamma) E_-1), the first step DDIM's; arXiv 2306.04848.

    One evaluation per step. Order 1; gamma = 3/2 on a grid even in sigma is Adams-Bashforth of order 2.
    """
    levels = [level(path, t) for t in times]
    rows = []
    for i, (here, there) in enumerate(zip(levels, levels[1:], strict=False)):
        step = there.a * (there.sigma - here.sigma)
        outputs = (step * gamma, step * (1.0 - gamma)) if i else (step,)
        rows.append(Row(here.t, there.t, (there.a / here.a,), outputs))
    return rows
