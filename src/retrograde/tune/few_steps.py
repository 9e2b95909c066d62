"""A few steps of an untouched network: published hyper-parameters of the grid, and a search for one's own."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

from retrograde import recipes, systems
from retrograde.denoisers import AbstractDenoiser
from retrograde.errors import BadValue, RetrogradeError
from retrograde.paths import Path
from retrograde.plan import Plan
from retrograde.tune.contest import Reference


@dataclasses.dataclass(frozen=True)
class Settings:
    """Hyper-parameters of the grid `karras_in_time` and the recipe that steps on it.

    Attributes:
        count, rho, stop: the auxiliary Karras levels, and which of them is the last level.
        power: r of the spacing in path time.
        recipe: the recipe.
        closing: whether the data mean is returned at the end (one evaluation), or the last state as it is.
    """

    count: int
    rho: float
    stop: int
    power: float = 1.2
    recipe: str = "dpmpp_2m"
    closing: bool = False

    def plan(self, path: Path | AbstractDenoiser, nfe: int) -> Plan:
        """Return the plan of exactly `nfe` evaluations."""
        points = nfe if self.closing else nfe + 1
        grid = {"count": self.count, "rho": self.rho, "stop": self.stop, "power": self.power}
        whole = recipes.plan(self.recipe, path, nfe=points, grid="karras_in_time", **grid)
        return whole if self.closing else whole[:-1]


FEW_STEPS = {
    4: Settings(8, 5.0, 5, recipe="ddim"),
    5: Settings(8, 5.0, 6, recipe="ddim"),
    6: Settings(8, 5.0, 6, recipe="ddim"),
    8: Settings(12, 7.0, 9),
}
"""The published settings, found for latent diffusion models, whose decoder forgives the noise of the last level: 4 to 6
steps of the first-order step of DPM-Solver++, which is DDIM, 8 of its second-order multistep one (Li, 2025, arXiv
2510.02390 and its code)."""


def few_steps(path: Path | AbstractDenoiser, nfe: int) -> Plan:
    """Return the published plan of 4, 5, 6 or 8 evaluations; its samples keep the noise of the last level.

    Raises:
        BadValue: another number of evaluations.
    """
    if nfe not in FEW_STEPS:
        raise BadValue(f"nfe={nfe}", f"one of {sorted(FEW_STEPS)}", "search_few_steps(reference, nfe) finds other settings")
    return FEW_STEPS[nfe].plan(path, nfe)


def search_few_steps(
    reference: Reference,
    nfe: int,
    *,
    rhos: Sequence[float] = (2.0, 5.0, 7.0, 12.0),
    stops: Sequence[float] = (0.5, 0.6, 0.75, 0.85, 1.0),
    powers: Sequence[float] = (0.8, 1.0, 1.2, 1.5, 2.0, 3.0, 5.0, 7.0),
    recipe: str = "dpmpp_2m",
) -> tuple[Settings, float]:
    """Return the settings whose samples end nearest to the reference's, and their root mean square error per element.

    Every combination is tried, with and without the closing row, on 12 auxiliary levels. stop = 1 is the last of them.

    Raises:
        BadValue: a budget for which no combination fits.
    """
    best: tuple[Settings, float] | None = None
    for rho, share, power, closing in itertools.product(rhos, stops, powers, (True, False)):
        settings = Settings(12, rho, max(1, round(11 * share)), power, recipe, closing)
        try:
            plan = settings.plan(reference.denoiser, nfe)
        except RetrogradeError:
            continue
        error = float(reference.errors(plan).double().mean().sqrt())
        if best is None or error < best[1]:
            best = settings, error
    if best is None:
        raise BadValue(f"nfe={nfe} for {recipe!r}", "a budget that the recipe's steps meet", "nfe=8")
    return best


systems.register(
    systems.System(
        title="Hyperparameters are all you need: Using five-step inference for an original diffusion model to generate "
        "images comparable to the latest distillation model",
        authors=("Zilai Li",),
        year=2025,
        arxiv="2510.02390",
        home="tune",
        call="rg.plan('ddim', path, nfe=6, grid='karras_in_time', count=8, rho=5.0, stop=6)[:-1]",
        test="tests/tune/test_few_steps.py::test_the_published_settings_are_those_of_the_script",
    )
)
