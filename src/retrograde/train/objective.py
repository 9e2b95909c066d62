"""The denoising objective, for every path and every parameterization."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from retrograde.denoisers import KINDS, Denoiser
from retrograde.denoisers.anchor import ANCHOR, anchor_of, prepare_anchor
from retrograde.denoisers.prediction import combination
from retrograde.errors import ShapeError, UnknownName
from retrograde.paths import Path


@dataclass(frozen=True)
class Question:
    """What a network is asked at (x_t, t), and what a perfect one would answer on this draw.

    Shapes: network_input [n, *shape], network_time [n], target [n, *shape], weight [n, 1, ...].
    """

    network_input: torch.Tensor
    network_time: torch.Tensor
    target: torch.Tensor
    weight: torch.Tensor


def loss(
    denoiser: Denoiser,
    x_0: torch.Tensor,
    t: torch.Tensor,
    eps: torch.Tensor,
    conditions: Mapping[str, torch.Tensor] | None = None,
    measure: str | None = None,
    anchor: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the denoising loss of every item, w(t) mean |F(x_t) - target|^2 with x_t = a x_0 + b y + s eps.

    The target is x_0 ("data"), eps ("noise"), -eps/s ("score"), a eps - s x_0 ("v"), a' x_0 + b' y + s' eps ("velocity"),
    (x_0 - c_skip x)/c_out ("edm") or one of the path's own, whose minimiser is the conditional mean. `measure` names the
    quantity whose squared error is taken; without it the weights are the usual ones: the network's own quantity, noise
    for "score" (w = s^2), and the unit-weighted F of "edm" (w = 1/c_out^2 on the data mean).

    Shapes: x_0, eps [n, *shape], t [n] path times, conditions name -> [n], anchor [n, *shape] -> [n].

    Raises ShapeError where x_0, eps, t and anchor do not belong together, UnknownName for another measure, PlanError for
    an anchor that is missing or that the path does not carry.

    References: Ho, Jain, Abbeel 2020, "Denoising Diffusion Probabilistic Models", arXiv:2006.11239; Salimans, Ho 2022,
    "Progressive Distillation", arXiv:2202.00512 (v); Lipman et al. 2022, "Flow Matching for Generative Modeling",
    arXiv:2210.02747; Karras et al. 2022, arXiv:2206.00364 (edm).
    """
    asked = question(denoiser, x_0, t, eps, measure, anchor)
    told = {} if anchor is None or denoiser.anchor is None else {denoiser.anchor: anchor}
    output = denoiser.network(asked.network_input, asked.network_time, **(conditions or {}), **told)
    squared = (output.to(asked.target.dtype) - asked.target).square() * asked.weight
    return squared.flatten(1).mean(1)


def question(
    denoiser: Denoiser,
    x_0: torch.Tensor,
    t: torch.Tensor,
    eps: torch.Tensor,
    measure: str | None = None,
    anchor: torch.Tensor | None = None,
) -> Question:
    """Return the network's input, its target and the weight of the squared error; shapes as in `loss`."""
    if x_0.shape != eps.shape or t.shape != x_0.shape[:1]:
        raise ShapeError(
            f"x_0 {list(x_0.shape)}, eps {list(eps.shape)}, t {list(t.shape)}",
            "x_0 and eps of one shape, t with one time per item",
            "draw eps = torch.randn_like(x_0) and t of shape (len(x_0),)",
        )
    path = denoiser.path
    if measure is not None and measure not in (*KINDS, *path.targets):
        raise UnknownName("measure", measure, (*KINDS, *path.targets))
    y = anchor_of(path, {} if anchor is None else {ANCHOR: prepare_anchor(denoiser.shape, anchor, len(x_0), x_0.device)})
    times = t.double().reshape(-1, *[1] * (x_0.dim() - 1))
    a_t, s_t = path.a(times), path.s(times)
    centred = a_t * x_0 + s_t * eps
    told = torch.tensor([denoiser.network_time(one) for one in t.tolist()], dtype=torch.float32, device=x_0.device)
    if denoiser.predicts == "edm":
        sigma, d = s_t / a_t, denoiser.sigma_data
        norm = (sigma**2 + d**2).sqrt()
        # (x_0 - c_skip x)/c_out with x = x_0 + sigma eps, without the cancellation at small sigma.
        target = (sigma / d * x_0 - d * eps) / norm
        to_data = sigma * d / norm
        network_input = centred / (a_t * norm)
        measured = measure
    else:
        p, q, r = combination(path, times, denoiser.predicts)
        target = p * x_0 + q * eps if y is None else p * x_0 + q * eps + r * y
        to_data = _data_per_unit(path, denoiser.predicts, times)
        network_input = centred if y is None else centred + path.b(times) * y
        measured = measure or ("noise" if denoiser.predicts == "score" else denoiser.predicts)
    weight = torch.ones_like(times) if measured is None else (to_data / _data_per_unit(path, measured, times)) ** 2
    return Question(network_input.to(x_0.dtype), told, target.to(x_0.dtype), weight.to(x_0.dtype))


def _data_per_unit(path: Path, kind: str, t: torch.Tensor) -> torch.Tensor:
    """Change of the data mean, at fixed x_t, per unit of change of a quantity p x_0 + q eps + r y: s/(p s - q a)."""
    a_t, s_t = path.a(t), path.s(t)
    p, q, _ = combination(path, t, kind)
    return torch.as_tensor(s_t / (p * s_t - q * a_t))
