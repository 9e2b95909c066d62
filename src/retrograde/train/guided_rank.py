"""A frozen network that a low-rank change turns into a restorer of one step, told how its input is degraded."""

from __future__ import annotations

import math
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.func import functional_call

from retrograde import systems
from retrograde.denoisers import Denoiser
from retrograde.errors import BadValue, ShapeError
from retrograde.train.low_rank import LowRank, low_rank
from retrograde.train.objective import loss


@final
class GuidedRank(nn.Module):
    """A network with low-rank changes f(x) + (alpha/rank) B(C A(x)) whose cores C are made of numbers about the item.

        C = I + W [g(sin 2 pi w d, cos 2 pi w d), h(e_k)],   w random frequencies, g and h perceptrons, e_k learned

    d are the numbers, for instance how much blur and how much noise there is, from 0 to 1; e_k belongs to the module k that
    holds a layer, so that layers of one module share a core. B begins at zero, and with it the network as it was; W begins
    at zero, and with it the change that `low_rank` makes.

    Shapes: as the network's, and `degradation` [n, numbers] by keyword, a condition of the denoiser around it.

    Args:
        network: a denoising network; what learns is a copy's changes, A, B and what makes C.
        numbers: how many each item comes with.
        rank, alpha: of the changes.
        waves, width: of the random frequencies, and of g.

    Raises:
        BadType: the network has no linear or convolutional layer.
        BadValue: a rank, or a number of numbers, below 1.
        ShapeError: in a call, other numbers than [n, numbers].

    Reference: Zhang, Yue, Pei, Ren, Cao, Degradation-Guided One-Step Image Super-Resolution with Diffusion Priors, 2024,
    arXiv 2409.17058.
    """

    frequencies: Tensor

    def __init__(
        self, network: nn.Module, numbers: int = 2, rank: int = 16, alpha: float = 8.0, waves: int = 64, width: int = 256
    ) -> None:
        super().__init__()
        if numbers < 1:
            raise BadValue(f"numbers={numbers}", "1 or more", "numbers=2")
        self.inner = low_rank(network, rank, alpha, cored=True)
        self.rank, self.numbers = rank, numbers
        layers = [name for name, one in self.inner.named_modules() if isinstance(one, LowRank)]
        homes = sorted({name.rpartition(".")[0] for name in layers})
        self.places = {f"{name}.core".lstrip("."): homes.index(name.rpartition(".")[0]) for name in layers}
        self.register_buffer("frequencies", torch.randn(waves))
        self.told = nn.Sequential(nn.Linear(2 * numbers * waves, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.placed = nn.Sequential(nn.Embedding(len(homes), 64), nn.Linear(64, 64), nn.SiLU())
        self.makes = nn.Linear(width + 64, rank * rank)
        nn.init.zeros_(self.makes.weight)
        nn.init.zeros_(self.makes.bias)

    def cores(self, degradation: Tensor) -> Tensor:
        """Return the cores for every module that holds layers, [modules, n, rank, rank]."""
        if degradation.ndim != 2 or degradation.shape[1] != self.numbers:
            given = f"numbers about the items of shape {list(degradation.shape)}"
            raise ShapeError(given, f"[n, {self.numbers}]", "degradation=torch.tensor([[blur, noise]])")
        angles = 2.0 * math.pi * degradation.float()[:, :, None] * self.frequencies
        told = self.told(torch.cat([angles.sin(), angles.cos()], -1).flatten(1))
        placed = self.placed(torch.arange(self.placed[0].num_embeddings, device=told.device))  # type: ignore[union-attr, arg-type]
        shape = len(placed), len(told), -1
        both = torch.cat([told[None].expand(shape), placed[:, None].expand(shape)], -1)
        eye = torch.eye(self.rank, device=told.device)
        return eye + self.makes(both).unflatten(-1, (self.rank, self.rank))

    def forward(self, x_t: Tensor, network_time: Tensor, *args: Any, degradation: Tensor, **seen: Any) -> Tensor:
        made = self.cores(degradation).to(x_t.dtype)
        given = {name: made[place] for name, place in self.places.items()}
        return functional_call(self.inner, given, (x_t, network_time, *args), seen)


def one_step_loss(
    denoiser: Denoiser, x_0: Tensor, y: Tensor, t: Tensor, conditions: dict[str, Tensor] | None = None
) -> Tensor:
    """Return w(t) mean |D(a y, t) - x_0|^2 for every item: the degraded item is taken for the clean one, without noise.

    A network trained so restores by one row: rg.sample(denoiser, plan, x=path.a(t) * y), with a plan of one evaluation at t.
    w is that of `loss` for what the network predicts. The published loss also has a distance of features, and a GAN's.

    Shapes: x_0, y [n, *shape], t [n] path times, conditions name -> [n, ...] -> [n].

    Raises:
        ShapeError: items that are not alike, or times that are not one for each.

    Reference: Zhang et al., 2024, arXiv 2409.17058.
    """
    if x_0.shape != y.shape:
        raise ShapeError(f"degraded items {list(y.shape)}", f"{list(x_0.shape)}, as the clean ones", "scale y up first")
    place = t.double().reshape(-1, *(1,) * (x_0.ndim - 1))
    # the noise that makes a y of x_0: the target of every parameterization follows
    eps = (denoiser.path.a(place) / denoiser.path.s(place) * (y - x_0)).to(x_0.dtype)
    return loss(denoiser, x_0, t, eps, conditions)


systems.register(
    systems.System(
        title="Degradation-Guided One-Step Image Super-Resolution with Diffusion Priors",
        authors=("Aiping Zhang", "Zongsheng Yue", "Renjing Pei", "Wenqi Ren", "Xiaochun Cao"),
        year=2024,
        arxiv="2409.17058",
        home="restore",
        call="rg.train.one_step_loss(den, x_0, y, t, {'degradation': d}).mean()",
        test="tests/train/test_guided_rank.py::test_told_how_it_is_degraded_it_restores_better_than_a_plain_change",
    )
)
