"""A Gaussian of initial noise, learned for one condition: the plan stays, what it starts from moves to what is liked."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, final

import torch
from torch import Tensor

from retrograde import systems
from retrograde.errors import BadValue, PlanError
from retrograde.noise import Noise
from retrograde.plan import Plan
from retrograde.search.trials import Trials, Verifier
from retrograde.state import Ledger


@final
@dataclasses.dataclass(frozen=True, eq=False)
class Policy:
    """The law N(mean, diag(spread^2)) of noise, and starts drawn from it.

    Attributes:
        mean, spread: of the noise, [*shape]; 0 and 1 where nothing was learned.
        scale: s at the plan's start, by which noise becomes a start.
        trace: after each round the evaluations spent so far and the mean verdict of the round's batch.
        ledger: the cost.
    """

    mean: Tensor
    spread: Tensor
    scale: float
    trace: tuple[tuple[float, float], ...]
    ledger: Ledger

    def starts(self, n: int, seed: int = 0) -> Tensor:
        """Return initial states [n, *shape], for `rg.sample(denoiser, plan, x=...)`; keyed as the noise of items is."""
        eps = Noise.first(n, seed).prior(tuple(self.mean.shape), self.mean.dtype, self.mean.device)
        return self.scale * (self.mean + self.spread * eps)

    @property
    def divergence(self) -> float:
        """Kullback and Leibler's of the policy from N(0, I), in nats: how far it left what the denoiser expects."""
        square = self.spread.double().square()
        return float(0.5 * (square + self.mean.double().square() - 1.0 - square.log()).sum())


def learn(
    denoiser: Any,
    plan: Plan,
    verifier: Verifier,
    *,
    rounds: int = 10,
    batch: int = 32,
    updates: int = 4,
    rate: float = 0.3,
    clip: float | None = 0.2,
    reuse: int = 2,
    calibration: float = 0.5,
    seed: int = 0,
    condition: Any = None,
    **options: Any,
) -> Policy:
    """Return the Gaussian of noise whose samples a verifier likes, by policy gradients without a gradient of anything else.

        J = d E[min(rho A, clip(rho, 1 - e, 1 + e) A)],     log rho = (log pi(z) - log pi_old(z))/d,     A = (r - b)/std(r)

    The run is the environment, its start z the one action of an episode. Each round draws a batch z ~ pi, runs and judges
    it, and takes `updates` steps along the gradient of J over this batch and the `reuse` - 1 before it, each with the policy
    that drew it as pi_old. b is the verdict that is expected of the present policy, moved by `calibration` towards each
    batch's mean: while rewards rise, an advantage over those of long ago would reward everything. The ratio is taken per
    dimension, so that e means the same whatever the size of an item.

    Args:
        verifier: any function of data and searches (all of search 0), black or not.
        rounds, batch: the cost is rounds · batch runs.
        rate: of the steps, in standard deviations of the noise.
        clip: e; None for no clipping, which follows old batches out of where they were drawn.
        condition: one; each condition has a policy of its own.
        **options: batch_size, dtype, device.

    Raises:
        BadValue: a number outside its range, or a policy that diverged; otherwise see `Trials`.
        PlanError: a stochastic plan, where the start decides little.

    Reference: Chen et al., FIND: Fine-tuning Initial Noise Distribution with Policy Optimization for Diffusion Models, 2024,
    arXiv 2407.19453. (There b is a network of the prompt; for one condition a network is a number.)
    """
    if min(rounds, updates, reuse) < 1 or batch < 2 or not 0.0 < calibration <= 1.0 or (clip is not None and clip <= 0.0):
        given = f"rounds={rounds}, batch={batch}, updates={updates}, reuse={reuse}, calibration={calibration}, clip={clip}"
        raise BadValue(given, "numbers >= 1, batch >= 2, 0 < calibration <= 1, clip > 0", "learn(..., batch=32, clip=0.2)")
    if plan.stochastic:
        raise PlanError(f"a policy of starts for the stochastic {plan.recipe}", "a deterministic plan", "use 'ddim'")
    trials = Trials(denoiser, plan, verifier, 1, seed, condition=condition, **options)
    eps = trials.noise(range(1))[0].double()
    mean, log_spread = torch.zeros_like(eps, requires_grad=True), torch.zeros_like(eps, requires_grad=True)
    held: list[tuple[Tensor, Tensor, Tensor]] = []
    expected: Tensor | None = None
    trace = []
    for k in range(rounds):
        numbers = list(range(k * batch, (k + 1) * batch))
        with torch.no_grad():
            z = mean + log_spread.exp() * trials.noise(numbers).double()
            old = _log_density(z, mean, log_spread)
        one = torch.zeros(batch, dtype=torch.long)
        samples, _ = trials.run(plan, one, numbers, (trials.scale * z).to(trials.dtype))
        reward = trials.judge(samples, one).mean(1)
        trace.append((trials.ledger.nfe, float(reward.mean())))
        expected = reward.mean() if expected is None else expected + calibration * (reward.mean() - expected)
        held = [*held[-(reuse - 1) :], (z, reward, old)] if reuse > 1 else [(z, reward, old)]
        z, reward, old = (torch.cat(parts) for parts in zip(*held, strict=True))
        advantage = (reward - expected) / reward.std().clamp(min=1e-12)
        for _ in range(updates):
            ratio = ((_log_density(z, mean, log_spread) - old) / eps.numel()).exp()
            gain = ratio * advantage
            if clip is not None:
                gain = torch.minimum(gain, ratio.clamp(1.0 - clip, 1.0 + clip) * advantage)
            rises = torch.autograd.grad(eps.numel() * gain.mean(), (mean, log_spread))
            with torch.no_grad():
                step = rate / updates
                mean += step * log_spread.exp().square() * rises[0]  # the natural gradient: in units of the spread
                log_spread += step * 0.5 * rises[1]
        if not bool(torch.isfinite(mean).all() & torch.isfinite(log_spread).all()):
            raise BadValue(f"a policy that diverged in round {k}", "shorter steps, or clipped ones", "learn(..., clip=0.2)")
    centre, spread = mean.detach().to(trials.dtype), log_spread.detach().exp().to(trials.dtype)
    return Policy(centre, spread, trials.scale, tuple(trace), trials.ledger)


def _log_density(z: Tensor, mean: Tensor, log_spread: Tensor) -> Tensor:
    each = -0.5 * ((z - mean) / log_spread.exp()).square() - log_spread - 0.5 * math.log(2.0 * math.pi)
    return each.flatten(1).sum(1)


systems.register(
    systems.System(
        title="FIND: Fine-tuning Initial Noise Distribution with Policy Optimization for Diffusion Models",
        authors=(
            "Changgu Chen",
            "Libing Yang",
            "Xiaoyan Yang",
            "Lianggangxu Chen",
            "Gaoqi He",
            "Changbo Wang",
            "Yang Li",
        ),
        year=2024,
        arxiv="2407.19453",
        home="align",
        call="rg.search.learn(denoiser, plan, verifier, rounds=10, batch=32)",
        test="tests/search/test_policy.py::test_it_moves_to_what_becomes_the_mode_that_is_liked",
    )
)
