"""Learning to sample signals that were never seen, from observations of them: the observation inside the network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import torch
from torch import Tensor, nn

from retrograde import systems
from retrograde.denoisers import Denoiser, prepare_condition
from retrograde.errors import BadType, ShapeError
from retrograde.noise import Noise, Source
from retrograde.paths import Path
from retrograde.plan import Plan
from retrograde.sampling import steps

Observe = Callable[[Tensor, Tensor], Tensor]
"""From signals [n, *signal] and parameters [n, *parameters] to observations [n, *observed]; differentiable."""


@final
class Observed(nn.Module):
    """A network of signals behind the known observation: x_t, t, context -> observe(S, asked), S = network(...).

    Args:
        network: called with (x_t [n, *observed], network_time [n], context, seen, asked), returns signals S [n, *signal]:
            the context is an observation, made with the parameters `seen`; x_t is a noisy one, made with `asked`.
        observe: the observation, in both arguments as `Observe`.
    """

    def __init__(self, network: nn.Module | Callable[..., Tensor], observe: Observe) -> None:
        super().__init__()
        self.network, self.observe = network, observe

    def signal(self, x_t: Tensor, network_time: Tensor, context: Tensor, seen: Tensor, asked: Tensor) -> Tensor:
        """Return the signal that the answer is an observation of, [n, *signal]."""
        return self.network(x_t, network_time, context, seen, asked)

    def forward(self, x_t: Tensor, network_time: Tensor, context: Tensor, seen: Tensor, asked: Tensor) -> Tensor:
        return self.observe(self.signal(x_t, network_time, context, seen, asked), asked)


def observed(
    network: nn.Module | Callable[..., Tensor], observe: Observe, path: Path, context: Tensor, parameters: Tensor
) -> Denoiser:
    """Return the denoiser of observations whose network answers with a signal, seen through the observation.

    Its conditions are "context", "seen" and "asked" (see `Observed`). It is an ordinary denoiser of the data mean: every
    plan runs it; `signals` reads off what it observed in the end.

    Args:
        context, parameters: one observation and its parameters, for their shapes.

    Reference: Tewari et al., Diffusion with Forward Models: Solving Stochastic Inverse Problems Without Direct Supervision,
    2023, arXiv 2306.11719.
    """
    nulls = {"context": torch.zeros_like(context), "seen": torch.zeros_like(parameters)}
    nulls["asked"] = torch.zeros_like(parameters)
    return Denoiser(Observed(network, observe), path, "data", tuple(context.shape), conditions=nulls, name="observed")


def _module(denoiser: Denoiser) -> Observed:
    if not isinstance(denoiser.network, Observed):
        given = type(denoiser.network).__name__
        raise BadType(f"a denoiser with the network {given}", "one whose network is Observed", "observed(network, ...)")
    return denoiser.network


def observed_loss(
    denoiser: Denoiser,
    t: Tensor,
    eps: Tensor,
    context: tuple[Tensor, Tensor],
    target: tuple[Tensor, Tensor],
    novel: tuple[Tensor, Tensor],
    lam: float = 1.0,
) -> Tensor:
    """Return |observe(S, asked) - y|^2 + lam |observe(S, other) - y'|^2 of every item, means over numbers, [n].

        S = network(a(t) y + s(t) eps, t, context, seen, asked)

    The second term has the signal right beyond what was asked: without it S may be anything that looks like y from there.
    Where all observations together determine the signal, the law of S is that of signals given the context.

    Args:
        t: path times [n]; eps: standard normal noise, as the target.
        context, target, novel: pairs of observations [n, *observed] and parameters [n, *parameters], three of one signal.

    Raises:
        ShapeError: noise or times that do not fit the target.
        BadType: a denoiser that `observed` did not make.
    """
    module, (y, asked), path = _module(denoiser), target, denoiser.path
    if eps.shape != y.shape or t.shape != y.shape[:1]:
        raise ShapeError(
            f"eps {list(eps.shape)}, t {list(t.shape)}", f"{list(y.shape)} and [{len(y)}]", "torch.randn_like(O)"
        )
    times = t.double().reshape(-1, *(1,) * (y.ndim - 1))
    x_t = (path.a(times) * y + path.s(times) * eps).to(y)
    told = torch.tensor([denoiser.network_time(float(one)) for one in t], dtype=y.dtype, device=y.device)
    S = module.signal(x_t, told, *context, asked)
    missed = (module.observe(S, asked) - y).square().flatten(1).mean(1)
    if lam == 0.0:
        return missed
    return missed + lam * (module.observe(S, novel[1]) - novel[0]).square().flatten(1).mean(1)


def signals(
    denoiser: Denoiser,
    plan: Plan,
    context: Tensor,
    seen: Tensor,
    asked: Tensor,
    seed: int = 0,
    *,
    noise: Callable[..., Source] = Noise,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Return signals given observations: the plan is run on an observation, and what the network last saw behind it is S.

    Args:
        context, seen, asked: [n, ...], one for each signal; `asked` should tell what `seen` leaves open.

    Raises:
        BadType: a denoiser that `observed` did not make.
    """
    module = _module(denoiser)
    given: dict[str, Any] = {"context": context, "seen": seen, "asked": asked}
    last = None
    for state in steps(plan, denoiser, len(context), seed, condition=given, noise=noise, dtype=dtype):
        last = state.prediction if state.row.time is not None else last
    if last is None:
        raise BadType("a plan that asks nothing", "one evaluation or more", "rg.plan('ddim', denoiser, nfe=50)")
    held = prepare_condition(denoiser, given, len(context), last.x_t.device)
    told = torch.full((len(context),), denoiser.network_time(float(last.t)), dtype=last.x_t.dtype, device=last.x_t.device)
    with torch.no_grad():
        return module.signal(last.x_t, told, held["context"], held["seen"], held["asked"])


systems.register(
    systems.System(
        title="Diffusion with Forward Models: Solving Stochastic Inverse Problems Without Direct Supervision",
        authors=(
            "Ayush Tewari",
            "Tianwei Yin",
            "George Cazenavette",
            "Semon Rezchikov",
            "Joshua B. Tenenbaum",
            "Frédo Durand",
            "William T. Freeman",
            "Vincent Sitzmann",
        ),
        year=2023,
        arxiv="2306.11719",
        home="inverse",
        call="rg.train.signals(rg.train.observed(network, observe, path, y, phi), plan, context, seen, asked)",
        test="tests/train/test_observed.py::test_signals_have_their_exact_posterior",
    )
)
