"""Ancestral samplers of the residual processes: the posterior of a chain whose steps know the data.

RDDM, ResShift and Resfusion write each step of the forward chain with the residual y - x_0 in it, so that only the noise is
Markov: noise_t = r noise_{t-1} + fresh. Of what is known of the noise at t the step down keeps k = r s'^2/s^2, and the
posterior's variance is s'^2 - (k s)^2: x' = a' D + b' y + k (x - a D - b y) + sqrt(s'^2 - k^2 s^2) eps.
"""

from __future__ import annotations

import math

from retrograde import systems
from retrograde.errors import BadValue
from retrograde.paths import Path
from retrograde.plan import Row
from retrograde.recipes.recipe import Level, level, recipe


def _posterior(here: Level, there: Level, keep: float) -> Row:
    if keep * here.s > there.s * (1.0 + 1e-9):
        raise BadValue(
            f"a step from t={here.t:g} to {there.t:g}, where the noise of the path rises from {here.s:g} to {there.s:g}",
            "a path whose noise grows with time, as in a chain that adds it",
            "take 'ddim' or 'interpolant_sde' on this path",
        )
    fresh = math.sqrt(max(there.s**2 - (keep * here.s) ** 2, 0.0))
    return Row(here.t, there.t, (keep,), (there.a - keep * here.a,), (fresh,) if fresh > 0.0 else ())


def _check_eta(eta: float) -> None:
    if not 0.0 <= eta <= 1.0:
        raise BadValue(f"eta={eta}", "0 <= eta <= 1: from deterministic to ancestral", "eta=1.0")


@recipe(
    "rddm",
    order=1,
    stochastic=True,
    clock="smooth",
    summary="residual and noise removed step by step; at eta = 1 the ancestral sampler of RDDM and ResShift",
)
def rddm(path: Path, times: tuple[float, ...], eta: float = 1.0) -> list[Row]:
    """Fresh noise u with u^2 = eta (s^2 - s'^2) s'^2/s^2, keep = sqrt(s'^2 - u^2)/s: weak order 1, one evaluation per step.

    eta = 0 is DDIM. eta = 1 is the chain with r = 1: the posterior of ResShift, where y cancels because a = 1 - b and s^2 =
    kappa^2 b. Over a variance-preserving path u^2 is a'^2 times that of DDIM (whose eta is squared), so that eta = 1 is not
    DDPM, with which it agrees on paths with a constant a (Liu et al., 2023, arXiv 2308.13712).

    Raises:
        BadValue: eta outside [0, 1].
    """
    _check_eta(eta)
    rows = []
    levels = [level(path, t) for t in times]
    for here, there in zip(levels, levels[1:], strict=False):
        fresh = eta * (1.0 - (there.s / here.s) ** 2)
        rows.append(_posterior(here, there, there.s / here.s * math.sqrt(1.0 - fresh)))
    return rows


def _two(path: Path) -> str:
    return "data+noise"


@recipe(
    "rddm_two",
    order=1,
    stochastic=True,
    basis=_two,
    clock="smooth",
    summary="as rddm, for two networks: each takes off what it predicts, the residual or the noise",
)
def rddm_two(path: Path, times: tuple[float, ...], eta: float = 1.0) -> list[Row]:
    """x' = x - (b - b') R - (s - sqrt(s'^2 - u^2)) E + u eps, R = y - D: weak order 1, one evaluation per step.

    D and E from two networks (`denoisers.TwoNetworks`), which need not agree that x_t = a D + b y + s E; where they do, and
    with any single network, it is "rddm", with its u. On paths with b = 1 - a this is the published step, elsewhere a' - a
    weighs D (Liu et al., 2023, arXiv 2308.13712).

    Raises:
        BadValue: eta outside [0, 1].
    """
    _check_eta(eta)
    rows = []
    levels = [level(path, t) for t in times]
    for here, there in zip(levels, levels[1:], strict=False):
        fresh = eta * max(1.0 - (there.s / here.s) ** 2, 0.0)
        outputs = (there.a - here.a, there.s * math.sqrt(1.0 - fresh) - here.s)
        rows.append(Row(here.t, there.t, (1.0,), outputs, (there.s * math.sqrt(fresh),) if fresh > 0.0 else ()))
    return rows


@recipe(
    "resfusion",
    order=1,
    stochastic=True,
    clock="smooth",
    summary="the steps of DDPM with the residual inside the noise: the ancestral sampler of Resfusion",
)
def resfusion(path: Path, times: tuple[float, ...]) -> list[Row]:
    """keep = (A/A') s'^2/s^2 with A = a + b, the signal of the base of path "residual_noise": weak order 1.

    One evaluation per step. Its table on the published chain is (x - beta/s resnoise)/sqrt(alpha) with DDPM's variance. On
    paths without anchor it is DDPM, on those with a + b = 1 it is "rddm" (Shi et al., 2023, arXiv 2311.14900).
    """
    rows = []
    levels = [level(path, t) for t in times]
    for here, there in zip(levels, levels[1:], strict=False):
        signal, next_signal = here.a + path.b(here.t), there.a + path.b(there.t)
        rows.append(_posterior(here, there, signal / next_signal * (there.s / here.s) ** 2))
    return rows


for _system in (
    systems.System(
        title="Residual Denoising Diffusion Models",
        authors=("Jiawei Liu", "Qiang Wang", "Huijie Fan", "Yinong Wang", "Yandong Tang", "Liangqiong Qu"),
        year=2023,
        arxiv="2308.13712",
        home="paths",
        call="rg.plan('rddm', rg.paths.ResidualDenoising(), nfe=5, grid='uniform', eta=0.0)",
        test="tests/recipes/test_residual.py::test_rddm_is_the_published_step",
    ),
    systems.System(
        title="Residual Denoising Diffusion Models",
        authors=("Jiawei Liu", "Qiang Wang", "Huijie Fan", "Yinong Wang", "Yandong Tang", "Liangqiong Qu"),
        year=2023,
        arxiv="2308.13712",
        home="paths",
        call="rg.sample(rg.denoisers.TwoNetworks(residual, noise), rg.plan('rddm_two', path, nfe=5, eta=0.0), anchor=y)",
        test="tests/recipes/test_residual.py::test_two_networks_take_off_residual_and_noise_as_published",
    ),
    systems.System(
        title="Efficient Diffusion Model for Image Restoration by Residual Shifting",
        authors=("Zongsheng Yue", "Jianyi Wang", "Chen Change Loy"),
        year=2024,
        arxiv="2403.07319",
        home="restore",
        call="rg.plan('rddm', rg.paths.ResidualShift(), nfe=4, grid='power')",
        test="tests/recipes/test_residual.py::test_resshift_is_the_published_posterior",
    ),
    systems.System(
        title="Resfusion: Denoising Diffusion Probabilistic Models for Image Restoration Based on Prior Residual Noise",
        authors=(
            "Zhenning Shi",
            "Haoshuai Zheng",
            "Chen Xu",
            "Changsheng Dong",
            "Bin Pan",
            "Xueshuo Xie",
            "Along He",
            "Tao Li",
            "Huazhu Fu",
        ),
        year=2023,
        arxiv="2311.14900",
        home="paths",
        call="rg.plan('resfusion', rg.paths.residual_noise_linear(), nfe=5)",
        test="tests/recipes/test_residual.py::test_resfusion_is_ddpm_with_resnoise",
    ),
    systems.System(
        title="DiffuseVAE: Efficient, Controllable and High-Fidelity Generation from Low-Dimensional Latents",
        authors=("Kushagra Pandey", "Avideep Mukherjee", "Piyush Rai", "Abhishek Kumar"),
        year=2022,
        arxiv="2201.00308",
        home="paths",
        call="rg.plan('ddpm', rg.paths.Offset(), nfe=10)",
        test="tests/recipes/test_residual.py::test_diffusevae_is_ddpm_moved_by_the_reconstruction",
    ),
):
    systems.register(_system)
