"""Heun++: slopes at the next two levels of the grid, weighed by those levels."""

from __future__ import annotations

from retrograde.paths import Path
from retrograde.plan import Row
from retrograde.recipes.recipe import level, noise_basis, recipe


def layout(evaluations: int) -> tuple[int, ...]:
    """Three evaluations for every interval but the last one or two, which take what is left: 2, 2 + 2 or 2 + 1."""
    full, rest = divmod(evaluations, 3)
    if evaluations < 2:
        return (1,) * evaluations
    return (3,) * (full - (rest < 2)) + {0: (2, 1), 1: (2, 2), 2: (2,)}[rest]


@recipe(
    "heunpp2",
    order=1,
    evaluations=3,
    basis=noise_basis,
    clock="smooth",
    layout=layout,
    summary='Heun++ ("heunpp2" of ComfyUI): Euler points at the next two levels, slopes weighed by sigma',
)
def heunpp2(path: Path, times: tuple[float, ...], stages: tuple[int, ...] = ()) -> list[Row]:
    """x'/a' = x/a + (sigma' - sigma)(w_1 E + w_2 E' + w_3 E''), w_2 = sigma'/(3 sigma_0), w_3 = sigma''/(3 sigma_0).

    w_1 is the rest to one, E' and E'' are asked at Euler points on the next two levels; the last interval has two slopes,
    with w_2 = sigma'/(2 sigma_0). Three evaluations per step, and order 1: the weights are no quadrature (Cheng, Sampler
    Scheduler for Diffusion Models, 2023, arXiv 2311.06845; as in ComfyUI).
    """
    levels = [level(path, t) for t in times]
    rows: list[Row] = []
    for i, (here, there, count) in enumerate(zip(levels, levels[1:], stages, strict=False)):
        keep, step = there.a / here.a, there.a * (there.sigma - here.sigma)
        rows.append(Row(here.t, there.t, (keep,), (step,)))
        if count == 3:
            after = levels[i + 2]
            w = (there.sigma / (3.0 * levels[0].sigma), after.sigma / (3.0 * levels[0].sigma))
            inner = (after.a / there.a, after.a * (after.sigma - there.sigma))
            weights = (step * w[1], step * w[0], step * (1.0 - w[0] - w[1]))
            rows.append(Row(there.t, after.t, (inner[0],), (inner[1],)))
            rows.append(Row(after.t, there.t, (0.0, 0.0, keep), weights, renoise=True))
        elif count == 2:
            w_2 = there.sigma / (2.0 * levels[0].sigma)
            rows.append(Row(there.t, there.t, (0.0, keep), (step * w_2, step * (1.0 - w_2))))
    return rows
