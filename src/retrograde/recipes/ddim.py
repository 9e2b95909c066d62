"""DDPM and DDIM: the posterior of the forward process with the data replaced by its mean."""

from __future__ import annotations

import math

from retrograde.errors import BadValue
from retrograde.paths import Path
from retrograde.plan import Row
from retrograde.recipes.recipe import Level, level, recipe


@recipe(
    "ddim",
    order=1,
    stochastic=False,
    clock="smooth",
    summary="deterministic for eta = 0, ancestral for eta = 1",
    paper={
        "title": "Denoising Diffusion Implicit Models",
        "authors": ("Jiaming Song", "Chenlin Meng", "Stefano Ermon"),
        "year": 2020,
        "arxiv": "2010.02502",
        "test": "tests/recipes/test_equivalence.py::test_ddim_with_eta_one_is_ddpm",
    },
)
def ddim(path: Path, times: tuple[float, ...], eta: float = 0.0) -> list[Row]:
    """x' = a' D + sqrt(s'^2 - u^2) E + u eps, with u = eta s' sqrt(1 - sigma'^2/sigma^2); arXiv 2010.02502.

    Order 1, one evaluation per step. eta = 0 is Euler in sigma, eta = 1 the ancestral sampler of DDPM.

    Raises:
        BadValue: eta outside [0, 1].
    """
    if not 0.0 <= eta <= 1.0:
        raise BadValue(f"eta={eta}", "0 <= eta <= 1: from deterministic to ancestral", "eta=1.0")
    rows = []
    for here, there in _pairs(path, times):
        fresh = eta * there.s * math.sqrt(1.0 - (there.sigma / here.sigma) ** 2)
        keep = math.sqrt(there.s**2 - fresh**2) / here.s
        rows.append(Row(here.t, there.t, (keep,), (there.a - keep * here.a,), (fresh,) if eta else ()))
    return rows


@recipe(
    "ddpm",
    order=1,
    stochastic=True,
    clock="smooth",
    summary="ancestral sampling: the exact posterior of the forward chain",
    paper={
        "title": "Denoising Diffusion Probabilistic Models",
        "authors": ("Jonathan Ho", "Ajay Jain", "Pieter Abbeel"),
        "year": 2020,
        "arxiv": "2006.11239",
        "test": "tests/recipes/test_equivalence.py::test_ddim_with_eta_one_is_ddpm",
    },
)
def ddpm(path: Path, times: tuple[float, ...]) -> list[Row]:
    """Draw from q(x' | x, x_0 = D): with r = a/a', beta = s^2 - r^2 s'^2 the mean is (r s'^2 x + a' beta D)/s^2 and the
    variance s'^2 beta/s^2. Weak order 1, one evaluation per step (arXiv 2006.11239).
    """
    rows = []
    for here, there in _pairs(path, times):
        r = here.a / there.a
        beta = here.s**2 - r**2 * there.s**2
        v = here.s**2
        rows.append(Row(here.t, there.t, (r * there.s**2 / v,), (there.a * beta / v,), (there.s * math.sqrt(beta / v),)))
    return rows


def _pairs(path: Path, times: tuple[float, ...]) -> list[tuple[Level, Level]]:
    levels = [level(path, t) for t in times]
    return list(zip(levels, levels[1:], strict=False))
