"""Multistep consistency sampling: jump to the data, then noise again. For networks distilled to make such jumps.

Every jump is as long as the level is high, however fine the grid: with a consistency function each state has the right
law, with the data mean of an ordinary denoiser the samples lose variance and no grid helps (order 0).
"""

from __future__ import annotations

import math

from retrograde.errors import BadValue
from retrograde.paths import Path
from retrograde.plan import Row
from retrograde.recipes.recipe import level, recipe


@recipe(
    "lcm",
    order=0,
    stochastic=True,
    clock="smooth",
    summary="jump to the data, noise it to the next level; for consistency models",
    paper={
        "title": "Latent Consistency Models: Synthesizing High-Resolution Images with Few-Step Inference",
        "authors": ("Simian Luo", "Yiqin Tan", "Longbo Huang", "Jian Li", "Hang Zhao"),
        "year": 2023,
        "arxiv": "2310.04378",
        "test": "tests/recipes/test_consistency.py::test_lcm_forgets_the_state",
    },
)
def lcm(path: Path, times: tuple[float, ...]) -> list[Row]:
    """x' = a' D + s' eps, one evaluation per step; arXiv 2310.04378, and Song et al., 2023, arXiv 2303.01469."""
    levels = [level(path, t) for t in times]
    pairs = zip(levels, levels[1:], strict=False)
    return [Row(here.t, there.t, (0.0,), (there.a,), (there.s,)) for here, there in pairs]


@recipe(
    "tcd",
    order=0,
    stochastic=True,
    clock="smooth",
    summary="jump to a lower level on the trajectory, noise up to the next; for trajectory consistency models",
    paper={
        "title": "Trajectory Consistency Distillation: Improved Latent Consistency Distillation by Semi-Linear Consistency "
        "Function with Trajectory Mapping",
        "authors": (
            "Jianbin Zheng",
            "Minghui Hu",
            "Zhongyi Fan",
            "Chaoyue Wang",
            "Changxing Ding",
            "Dacheng Tao",
            "Tat-Jen Cham",
        ),
        "year": 2024,
        "arxiv": "2402.19159",
        "test": "tests/recipes/test_consistency.py::test_tcd_lies_between_ddim_and_lcm",
    },
)
def tcd(path: Path, times: tuple[float, ...], gamma: float = 0.3) -> list[Row]:
    """Step to time r = (1 - gamma) t', then forward noise: x' = (a'/a_r) x_r + sqrt(s'^2 - (a' s_r/a_r)^2) eps.

    gamma = 0 is DDIM; gamma = 1 jumps to the data, as `lcm` does. One evaluation per step; arXiv 2402.19159.

    Raises:
        BadValue: gamma outside [0, 1].
    """
    if not 0.0 <= gamma <= 1.0:
        raise BadValue(f"gamma={gamma}", "0 <= gamma <= 1: from deterministic to a jump to the data", "gamma=0.3")
    levels = [level(path, t) for t in times]
    rows = []
    for here, there in zip(levels, levels[1:], strict=False):
        low = path.sigma((1.0 - gamma) * there.t) if gamma < 1.0 else 0.0
        keep = there.a * low / here.s
        fresh = (there.a * math.sqrt(there.sigma**2 - low**2),) if gamma > 0.0 else ()
        rows.append(Row(here.t, there.t, (keep,), (there.a - here.a * keep,), fresh))
    return rows
