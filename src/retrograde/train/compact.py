"""A few numbers about the clean item, made by a chain of a few steps that is trained as a whole, for a restoring network."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from retrograde import laws, systems
from retrograde.denoisers import AbstractDenoiser
from retrograde.errors import ShapeError
from retrograde.paths import VPDiscrete, from_alphas_cumprod
from retrograde.plan import Plan
from retrograde.recipes import plan as planned
from retrograde.sampling import sample


def compact_path(steps: int = 4, first: float = 0.1, last: float = 0.99) -> VPDiscrete:
    """Return the published chain of few steps: 1 - abar_k/abar_{k-1} = beta_k, even in its root from first to last.

    A chain of one step has the last: it begins at noise, as the others do.
    """
    betas = torch.linspace(last**0.5, first**0.5, steps, dtype=torch.float64).flip(0) ** 2
    return from_alphas_cumprod(torch.cumprod(1.0 - betas, 0).tolist())


def mean_steps(path: VPDiscrete) -> Plan:
    """Return DDPM's plan through all steps of a chain, without its noise: every state is the mean of the posterior.

        x' = (beta sqrt(abar') x_0 + (1 - abar') sqrt(alpha) x)/(1 - abar),   at the end x_0

    It misses the point-mass law, for the noise of its states falls too fast: what is trained in it learns that.

    Reference: Xia et al., DiffIR, 2023, arXiv 2303.09472 (the authors' code draws nothing).
    """
    count = round(path.t_max * len(path.alphas_cumprod))
    table = planned("ddpm", path, grid=[k / len(path.alphas_cumprod) for k in range(count, 0, -1)])
    rows = tuple(dataclasses.replace(row, noises=()) for row in table.rows)
    return dataclasses.replace(table, rows=rows, recipe="mean_steps@1", misses=(laws.POINT_MASS,))


def compact_prior_loss(
    denoiser: AbstractDenoiser,
    restorer: Callable[[Tensor, Tensor], Tensor],
    z: Tensor,
    x_0: Tensor,
    y: Tensor,
    condition: Any = None,
    *,
    plan: Plan | None = None,
    weight: float = 1.0,
    seed: int = 0,
) -> Tensor:
    """Return mean |R(y, z') - x_0| + weight mean |z' - z| for every item, z' what a whole run makes of z under noise.

        z' = run of `plan` from a z + s eps,   by default all steps of the path, as means (`mean_steps`)

    Gradients go through every evaluation of the run, and reach the denoiser, the restorer R and what the condition was made
    by. First train R on the z of a network that sees x_0 too; that network is then the judge of z', and stays as it is. To
    restore, the run starts from noise alone:

        restorer(y, rg.sample(denoiser, plan, n=len(y), condition=...))

    Shapes: z [n, *vector] shaped as the denoiser's items, x_0 and y [n, *shape] -> [n].

    Args:
        restorer: (y, z) to items shaped as x_0.
        condition: what the denoiser is told of y.
        seed: of the noise: another one in every step of a training.

    Raises:
        ShapeError: z that are not the denoiser's items, or restored items that are not shaped as x_0.

    Reference: Xia, Zhang, Wang, Wang, Wu, Tian, Yang and Van Gool, DiffIR: Efficient Diffusion Model for Image
    Restoration, 2023, arXiv 2303.09472.
    """
    if plan is None:
        path = denoiser.path
        plan = mean_steps(path) if isinstance(path, VPDiscrete) else planned("ddim", denoiser, nfe=4)
    if tuple(z.shape[1:]) != tuple(denoiser.shape):
        raise ShapeError(f"z of shape {list(z.shape)}", f"[n, {', '.join(map(str, denoiser.shape))}]", "z.unflatten(...)")
    made = sample(denoiser, plan, seed=seed, signal=z, condition=condition, dtype=z.dtype, gradient="unroll")
    restored = restorer(y, made)
    if restored.shape != x_0.shape:
        raise ShapeError(f"restored items {list(restored.shape)}", f"{list(x_0.shape)}, as x_0", "restorer(y, z) so shaped")
    return (restored - x_0).abs().flatten(1).mean(1) + weight * (made - z).abs().flatten(1).mean(1)


systems.register(
    systems.System(
        title="DiffIR: Efficient Diffusion Model for Image Restoration",
        authors=(
            "Bin Xia",
            "Yulun Zhang",
            "Shiyin Wang",
            "Yitong Wang",
            "Xinglong Wu",
            "Yapeng Tian",
            "Wenming Yang",
            "Luc Van Gool",
        ),
        year=2023,
        arxiv="2303.09472",
        home="restore",
        call="rg.train.compact_prior_loss(denoiser, restorer, z, x_0, y, {'seen': D}).mean()",
        test="tests/train/test_compact.py::test_the_chain_is_the_published_one_and_is_trained_as_a_whole",
    )
)
