"""Guidance by experts, each for a range of noise levels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from retrograde import systems
from retrograde.denoisers import AbstractDenoiser
from retrograde.errors import BadValue
from retrograde.guide.tilt import Tilted, classifier
from retrograde.guide.weight import Weight
from retrograde.paths import Path

Expert = Callable[[Tensor], Tensor]


def unit_variance(path: Path, x_t: Tensor, t: float | Tensor) -> Tensor:
    """Return x_t/sqrt(a^2 + s^2): of unit variance where the data are, and x_t itself where variance is preserved.

    Shapes: x_t [n, *shape], t a path time or [n].
    """
    place: Any = t.reshape(-1, *(1,) * (x_t.ndim - 1)) if isinstance(t, Tensor) else t
    a, s = path.a(place), path.s(place)
    return (x_t / (a * a + s * s) ** 0.5).to(x_t.dtype)


def experts(
    denoiser: AbstractDenoiser,
    networks: Sequence[Expert],
    aim: int | Callable[[Tensor], Tensor],
    weight: Weight = 1.0,
) -> Tilted:
    """Return the denoiser guided by the gradient of the expert whose range of noise levels holds t.

    Expert k of K answers where k <= K t/t_max < k + 1; it sees x_t/sqrt(a^2 + s^2), without the time, as it was taught by
    `train.fit_experts`. One network for all levels is K = 1. The evaluations of experts are not counted.

    Args:
        networks: from low to high noise levels.
        aim: a class, whose log-probability is raised; or a function from an expert's outputs to one number per item that is
            raised, for instance minus a distance from the depth that is wanted.
        weight: of the gradient; the authors use 7.5 for classes of ImageNet in 25 steps of DDIM.

    Raises:
        BadValue: no experts.
        ShapeError: `aim` returned something other than one number for each item.

    Reference: Go et al., Towards Practical Plug-and-Play Diffusion Models, 2022, arXiv 2212.05973.
    """
    count, path = len(networks), denoiser.path
    if count < 1:
        raise BadValue("no experts", "one or more", "networks=rg.train.fit_experts(network, samples, path)")

    def judged(outputs: Tensor) -> Tensor:
        return functional.log_softmax(outputs, 1)[:, aim] if isinstance(aim, int) else aim(outputs)

    def place(t: float) -> int:
        return min(int(count * t / path.t_max), count - 1)

    def gain(x_t: Tensor, t: float | Tensor) -> Tensor:
        if not isinstance(t, Tensor):
            return judged(networks[place(t)](unit_variance(path, x_t, t)))
        return torch.cat([gain(x_t[i : i + 1], float(one)) for i, one in enumerate(t.flatten())])

    return classifier(denoiser, gain, weight)


systems.register(
    systems.System(
        title="Towards Practical Plug-and-Play Diffusion Models",
        authors=(
            "Hyojun Go",
            "Yunsung Lee",
            "Jin-Young Kim",
            "Seunghyun Lee",
            "Myeongho Jeong",
            "Hyun Seung Lee",
            "Seungtaek Choi",
        ),
        year=2022,
        arxiv="2212.05973",
        home="guidance",
        call="rg.guide.experts(denoiser, rg.train.fit_experts(network, samples, denoiser.path), aim=3, weight=7.5)",
        test="tests/guide/test_experts.py::test_experts_come_nearest_to_the_exact_classifier",
    )
)
