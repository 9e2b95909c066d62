"""Which of two quantities a network should predict, decided while it begins to train."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor

from retrograde import systems
from retrograde.denoisers import Denoiser, Prediction
from retrograde.errors import BadValue
from retrograde.train.fit import module_of
from retrograde.train.levels import LevelLaw, Uniform
from retrograde.train.objective import question


@final
@dataclasses.dataclass(frozen=True)
class Selected:
    """The quantity decided for (None: undecided), and the share of the first of the two before every step."""

    predicts: str | None
    shares: tuple[float, ...]


def mixed_loss(
    denoiser: Denoiser,
    x_0: Tensor,
    t: Tensor,
    eps: Tensor,
    share: float | Tensor,
    *,
    kinds: tuple[str, str] = ("residual", "noise"),
    anchor: Tensor | None = None,
    conditions: Mapping[str, Tensor] | None = None,
    clip: float | None = 1.0,
) -> Tensor:
    """Return for every item the loss of a network that is read as two quantities at once, whatever it predicts.

    With F the network's output, R and E the targets, R(F) and E(F) what follows for one where F is the other:

        share |share F + (1 - share) R(F) - R| + (1 - share) |share E(F) + (1 - share) F - E|

    in absolute values, mean over the elements. share = 1 trains the first quantity alone, share = 0 the second alone.

    Shapes: x_0, eps [n, *shape], t [n] path times, anchor [n, *shape] -> [n].

    Args:
        share: lambda, in [0, 1]; a tensor is learned with the network.
        kinds: two parameterizations of the path, R and E.
        clip: bound of the data mean by which E's reading becomes R's; noise predictions give wild ones where there is
            little signal. None: unbounded.

    Raises:
        As `loss`; BadValue for two equal kinds or one that says "edm".

    Reference: Liu et al., Residual Denoising Diffusion Models, 2023, arXiv 2308.13712 (automatic objective selection).
    """
    if len(set(kinds)) != 2 or "edm" in kinds:
        raise BadValue(f"kinds={kinds}", "two different parameterizations of the path", "kinds=('data', 'noise')")
    path = denoiser.path
    first, second = (question(dataclasses.replace(denoiser, predicts=k), x_0, t, eps, anchor=anchor) for k in kinds)
    told = {} if anchor is None or denoiser.anchor is None else {denoiser.anchor: anchor}
    output = denoiser.network(first.network_input, first.network_time, **(conditions or {}), **told).to(first.target.dtype)

    def reading(value: Tensor, kind: str) -> Prediction:
        return Prediction(first.network_input, t, path, value, kind, anchor=anchor)

    data = reading(output, kinds[1]).data
    data = data if clip is None else data.clamp(-clip, clip)
    one = share * output + (1.0 - share) * reading(data, "data").read(kinds[0])
    other = share * reading(output, kinds[0]).read(kinds[1]) + (1.0 - share) * output
    missed, missed_other = ((one - first.target).abs(), (other - second.target).abs())
    return share * missed.flatten(1).mean(1) + (1.0 - share) * missed_other.flatten(1).mean(1)


def select_objective(
    denoiser: Denoiser,
    x_0: Tensor,
    anchor: Tensor | None = None,
    *,
    kinds: tuple[str, str] = ("residual", "noise"),
    law: LevelLaw | None = None,
    steps: int = 2000,
    batch: int = 64,
    rate: float = 8e-5,
    margin: float = 0.01,
    clip: float | None = 1.0,
    seed: int = 0,
) -> Selected:
    """Train a network in place on `mixed_loss` with a learned share, from 1/2, until it is `margin` away from it.

    Above, the first quantity is decided for; below, the second. Go on with it alone (`dataclasses.replace(denoiser,
    predicts=...)`), from new weights as the authors do or from these. Adam moves the share by about `rate` a step, so
    margin/rate steps are about the least: untrained networks decide too. Measured with perceptrons on digits of 8 by 8:
    where blur is to be undone the residual in every trial, whose target is small; where y = 0 and one generates, the noise
    for noise = 0.1 and 0.4, and for noise = 1 the one or the other, after the rate. A rule of thumb, not a judgement.

    Shapes: x_0 [n, *shape], anchor [n, *shape].

    Args:
        law: where levels are drawn; none is uniform in path time.
        rate: of Adam, for weights and share.

    Raises:
        BadType: the network is not a module.
        BadValue: no steps, or a margin outside (0, 1/2).

    Reference: Liu et al., Residual Denoising Diffusion Models, 2023, arXiv 2308.13712.
    """
    if steps < 1 or not 0.0 < margin < 0.5:
        raise BadValue(f"steps={steps}, margin={margin}", "1 step or more, 0 < margin < 1/2", "steps=2000, margin=0.01")
    network = module_of(denoiser)
    share = torch.full((), 0.5, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([*network.parameters(), share], lr=rate)
    generator = torch.Generator().manual_seed(seed)
    law, shares = law or Uniform(), [0.5]
    while len(shares) <= steps and abs(shares[-1] - 0.5) < margin:
        chosen = torch.randint(len(x_0), (batch,), generator=generator)
        t = law.sample(denoiser.path, batch, generator)
        eps = torch.randn((batch, *x_0.shape[1:]), generator=generator, dtype=x_0.dtype)
        beside = None if anchor is None else anchor[chosen]
        value = mixed_loss(denoiser, x_0[chosen], t, eps, share, kinds=kinds, anchor=beside, clip=clip).mean()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        shares.append(float(share.detach()))
    away = shares[-1] - 0.5
    return Selected(None if abs(away) < margin else kinds[away < 0.0], tuple(shares))


systems.register(
    systems.System(
        title="Residual Denoising Diffusion Models",
        authors=("Jiawei Liu", "Qiang Wang", "Huijie Fan", "Yinong Wang", "Yandong Tang", "Liangqiong Qu"),
        year=2023,
        arxiv="2308.13712",
        home="paths",
        call="rg.train.select_objective(den, x_0, y).predicts",
        test="tests/train/test_select.py::test_a_network_that_tells_one_quantity_is_trained_on_it",
    )
)
