"""Sampling through several resolutions: each stage begins from the data mean of the one before, resized and noised."""

from __future__ import annotations

import collections
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from retrograde import grids, recipes, systems
from retrograde.denoisers import AbstractDenoiser
from retrograde.errors import BadValue
from retrograde.noise import apart
from retrograde.paths import Path
from retrograde.plan import Plan
from retrograde.sampling import steps
from retrograde.state import State

systems.register(
    systems.System(
        title="FreCaS: Efficient Higher-Resolution Image Generation via Frequency-aware Cascaded Sampling",
        authors=("Zhengqiang Zhang", "Ruihuang Li", "Lei Zhang"),
        year=2024,
        arxiv="2410.18410",
        home="accelerate",
        call="rg.accelerate.cascade(rg.accelerate.stages([small, rg.guide.bands(guided, 27.5, (14, 14))], [40, 10], [0.5]))",
        test="tests/accelerate/test_cascade.py::test_a_field_grows_with_its_spectrum_at_less_than_half_the_cost",
    )
)
systems.register(
    systems.System(
        title="Training-free Diffusion Acceleration with Bottleneck Sampling",
        authors=(
            "Ye Tian",
            "Xin Xia",
            "Yuxi Ren",
            "Shanchuan Lin",
            "Xing Wang",
            "Xuefeng Xiao",
            "Yunhai Tong",
            "Ling Yang",
            "Bin Cui",
        ),
        year=2025,
        arxiv="2503.18940",
        home="accelerate",
        call="rg.accelerate.cascade(rg.accelerate.stages([large, small, large], [2, 8, 4], [8.0, 0.5], [10.0, 1.0]))",
        test="tests/accelerate/test_cascade.py::test_down_and_up_again_keeps_the_high_frequencies",
    )
)

Stage = tuple[AbstractDenoiser, Plan]
"""A denoiser at its resolution, and the plan that it runs."""


def entry(path: Path, sigma: float, ratio: float, gamma: float) -> float:
    """Return the level at which a stage `ratio` times as wide begins, where the one before ended at `sigma`.

        SNR' = SNR ratio^-gamma,   sigma' = sigma ratio^(gamma/2)   (sigma = s/a, SNR = 1/sigma^2)

    With gamma = 2 the mean over ratio x ratio pixels of the larger state is as noisy as the smaller state was. On a flow
    gamma = 1 is t' = r t/(1 + (r - 1) t) with r = sqrt(ratio).
    """
    return min(sigma * ratio ** (gamma / 2.0), grids.levels(path)[1])


def stages(
    denoisers: Sequence[AbstractDenoiser],
    nfe: Sequence[int],
    ends: Sequence[float],
    entries: Sequence[float] | None = None,
    *,
    gamma: float = 1.5,
    recipe: str = "dpmpp_2m",
    grid: str = "karras",
    **options: Any,
) -> list[Stage]:
    """Return the stages of a cascade: for each denoiser the plan from the level where it begins to that where it ends.

    Args:
        denoisers: one for each stage, of images at its size; one that serves several sizes, made for each.
        nfe: evaluations of each stage.
        ends: noise levels sigma = s/a at which the stages end, all but the last; the data mean there goes on.
        entries: noise levels at which the stages after the first begin; None for `entry` by gamma. Higher than the end
            before it, or what is finer than the smaller size is never made.
        gamma: published 1.5 for SDXL, 3 for SD2.1.
        recipe, grid, options: of the plan of every stage; the grid takes sigma_min and sigma_max.

    Raises:
        BadValue: lists that do not fit each other, or a stage that ends no lower than it begins.
    """
    count = len(denoisers)
    if count < 1 or len(nfe) != count or len(ends) != count - 1 or (entries is not None and len(entries) != count - 1):
        given = f"{count} denoisers, {len(nfe)} budgets, {len(ends)} ends"
        raise BadValue(
            given, "one budget for each, ends and entries for all but one", "stages([small, large], [40, 10], [0.5])"
        )
    made: list[Stage] = []
    for k, denoiser in enumerate(denoisers):
        bounds: dict[str, float] = {}
        if k > 0:
            ratio = _picture(denoiser)[-1] / _picture(denoisers[k - 1])[-1]
            begins = entry(denoiser.path, ends[k - 1], ratio, gamma) if entries is None else entries[k - 1]
            bounds["sigma_max"] = begins
        if k < count - 1:
            bounds["sigma_min"] = ends[k]
        made.append((denoiser, recipes.plan(recipe, denoiser, nfe=nfe[k], grid=grid, **bounds, **options)))
    return made


def _picture(denoiser: AbstractDenoiser) -> tuple[int, ...]:
    return denoiser.shape if denoiser.codec is None else denoiser.codec.shape


def resized(x: Tensor, size: Sequence[int]) -> Tensor:
    """Return images [n, c, h, w] at another size: means over areas on the way down, bicubic on the way up.

    Bilinear pictures lack more of what a smaller size just shows: on digits that went from 16 to 28 pixels the coarsest
    quarter of the spectrum had 0.88 of its power with them, 0.98 with bicubic ones.
    """
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    if size[0] <= x.shape[-2]:
        return functional.adaptive_avg_pool2d(x, (size[0], size[1]))
    return functional.interpolate(x, size=tuple(size), mode="bicubic", align_corners=False)


def pixels(stages: Sequence[Stage]) -> int:
    """Return the cost of a cascade: evaluations times elements of a channel, over all stages."""
    return sum(plan.nfe * math.prod(denoiser.shape[1:]) for denoiser, plan in stages)


def cascade(
    stages: Sequence[Stage],
    n: int = 1,
    seed: int = 0,
    *,
    fresh: bool = True,
    resize: Callable[[Tensor, Sequence[int]], Tensor] = resized,
    **options: Any,
) -> Tensor:
    """Sample n items [n, *shape of the last stage] through stages of growing (or falling and growing) resolution.

    A stage's plan ends with the data mean m at its last level. That is resized, and noised to where the next plan starts:

        x = a(t') resize(m) + s(t') eps,   eps fresh,

    a higher level than the last, so that what the smaller size could not show is denoised from noise. Most evaluations are
    then made where they are cheap. One stage is `rg.sample` of its plan, bit by bit. Latents are decoded, resized as
    pictures and encoded again, by the codecs of the denoisers. For guidance by bands see `rg.guide.bands`; averaging the
    maps of cross-attention over stages, which the authors of FreCaS also do, is not done.

    Where a frequency's variance is near sigma^2 of the end the data mean lacks power: what is made has lost up to
    1/(1 + r)^2 of it, r = sigma'/sigma, and resizing takes some more. On a random field that fell to half its size and grew
    again, the coarsest band lost an eighth at r = 3.3 and half at r = 1, while beyond the smaller size it kept within 5%.

    Args:
        stages: denoisers with their plans; from `rg.accelerate.stages`, or any.
        fresh: False noises with the noise that the last evaluation saw in the state, resized, instead. At one size and level
            that goes on as if there had been no stage; at two sizes its high band is missing.
        resize: from images and a size to images of that size.
        **options: what `rg.sample` takes; x and signal are for the first stage.

    Raises:
        BadValue: no stages.

    References: Zhang, Li, Zhang, 2024, arXiv 2410.18410 (growing; the level of entry by gamma); Tian et al., 2025, arXiv
    2503.18940 (high, low, high).
    """
    if not stages:
        raise BadValue("a cascade without stages", "one stage or more", "cascade([(denoiser, plan)])")
    before: AbstractDenoiser | None = None
    state: State | None = None
    for k, (denoiser, plan) in enumerate(stages):
        if state is not None and before is not None:
            options.pop("x", None)
            data = _moved(state.x_t, before, denoiser, resize)
            if fresh or state.prediction is None or plan.start is None:
                options["signal"] = data
            else:
                eps = resize(state.prediction.noise, denoiser.shape[1:])
                options.pop("signal", None)
                options["x"] = denoiser.path.a(plan.start) * data + denoiser.path.s(plan.start) * eps
        run = steps(plan, denoiser, n, apart(seed, k), **options)  # stages at one size share no draw
        state = collections.deque(run, maxlen=1)[0]
        before = denoiser
    return torch.empty(0) if state is None else state.x_t


def _moved(
    data: Tensor, before: AbstractDenoiser, after: AbstractDenoiser, resize: Callable[[Tensor, Sequence[int]], Tensor]
) -> Tensor:
    picture = data if before.codec is None else before.codec.decode(data)
    picture = resize(picture, _picture(after)[1:])
    return picture if after.codec is None else after.codec.encode(picture)
