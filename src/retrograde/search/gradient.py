"""Search along a gradient: the initial noise climbs a verifier that can be differentiated, through the whole run."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from retrograde import systems
from retrograde.errors import BadValue
from retrograde.plan import Plan
from retrograde.run import Gradient
from retrograde.search.trials import Found, Trials, Verifier

GRADIENTS = "gradients"
"""The ledger's label of gradients through evaluations, one for each evaluation that a backward pass went through."""


def ascend(
    denoiser: Any,
    plan: Plan,
    verifier: Verifier,
    n: int = 1,
    seed: int = 0,
    *,
    rounds: int = 10,
    rate: float = 5.0,
    momentum: float = 0.9,
    clip: float | None = 0.1,
    prior: float = 0.01,
    sphere: bool = False,
    gradient: Gradient = "checkpoint",
    **options: Any,
) -> Found:
    """Return the best sample along an ascent of the initial noise eps, by the gradient through the run.

        J(eps) = r(x_0(eps)) + prior ((d - 1) log |eps| - |eps|^2/2)
        v <- momentum v + g,     eps <- eps + rate (g + momentum v)

    with g the gradient of J, shortened to `clip`. The second term of J is the log-density of the length of noise, largest
    at |eps|^2 = d - 1: an ascent without it leaves what the denoiser knows. With `sphere` the noise is put back to its own
    length after each step instead. The best of all rounds is returned, so nothing is lost to a step that was too long.

    "checkpoint" keeps the memory of one evaluation and computes each once more on the way back. The ledger has the
    evaluations forward and, as "gradients", those that a backward pass went through; such a pass takes the time of about
    two evaluations, three with "checkpoint". A stochastic plan draws the same noise in every round.

    Args:
        verifier: one that torch differentiates.
        rounds: steps; each is a run and a gradient through it, and one more run without judges the last.
        rate, momentum, clip, prior: of the ascent; the defaults are those of ReNO, for one-step models.
        gradient: "checkpoint" or "unroll".
        n, **options: see `random`.

    Raises:
        BadValue: rounds below 1, several verifiers, gradient="none", or a verdict that does not depend on the data.

    References: Eyring, Karthik, Roth, Dosovitskiy, Akata, ReNO: Enhancing One-step Text-to-Image Models through
    Reward-based Noise Optimization, 2024, arXiv 2406.04312 (the ascent and its prior); Wallace, Gokul, Ermon, Naik,
    End-to-End Diffusion Latent Optimization Improves Classifier Guidance, 2023, arXiv 2303.13703 (through many steps, on
    the sphere).
    """
    if rounds < 1 or gradient == "none" or not callable(verifier):
        given = f"rounds={rounds}, gradient={gradient!r}, verifier={verifier!r}"
        raise BadValue(given, "rounds >= 1, gradient 'checkpoint' or 'unroll', one verifier", "gradient='checkpoint'")
    trials = Trials(denoiser, plan, verifier, n, seed, **options)
    size = n if trials.batch_size is None else trials.batch_size
    numbers = trials.numbers(torch.arange(n), 0)
    noise = trials.noise(numbers)
    length, velocity = _length(noise), torch.zeros_like(noise)
    samples, starts, verdicts = noise, noise, torch.full((n, 1), -torch.inf, dtype=torch.float64, device=noise.device)
    trace = []
    for k in range(rounds + 1):
        risen = torch.zeros_like(noise)
        made, said = [], []
        for i in range(0, n, size):
            part = torch.arange(i, min(i + size, n))
            eps = noise[part].detach().requires_grad_(k < rounds)
            how: Gradient = gradient if k < rounds else "none"
            x = trials.state(plan, part, [numbers[j] for j in part], x=trials.scale * eps, gradient=how).x_t
            verdict = trials.judge(x, part, graph=k < rounds)
            made.append(x.detach())
            said.append(verdict.detach())
            if k < rounds:
                risen[part] = _gradient(verdict.sum() + prior * _likelihood(eps).sum(), verdict, eps)
                trials.ledger.count({GRADIENTS: plan.nfe * len(part) / n}, 0.0)
        x, found = torch.cat(made), torch.cat(said)
        better = found[:, 0] > verdicts[:, 0]
        samples, starts, verdicts = (
            torch.where(better.view(-1, *(1,) * (old.ndim - 1)), new, old)
            for new, old in ((x, samples), (noise, starts), (found, verdicts))
        )
        trace.append((trials.ledger.nfe, verdicts))
        if clip is not None:
            risen = risen * (clip / _length(risen).clamp(min=1e-30)).clamp(max=1.0)
        velocity = momentum * velocity + risen
        noise = noise + rate * (risen + momentum * velocity)
        if sphere:
            noise = noise * (length / _length(noise))
    return Found(samples, verdicts, trials.scale * starts, tuple(trace), trials.ledger)


def _length(noise: Tensor) -> Tensor:
    """Return |eps| of each item, with the axes of an item."""
    return torch.linalg.vector_norm(noise.flatten(1), dim=1).view(-1, *(1,) * (noise.ndim - 1))


def _likelihood(noise: Tensor) -> Tensor:
    """Return the log-density of the length of noise, up to a constant."""
    square = noise.flatten(1).square().sum(1)
    return 0.5 * (noise[0].numel() - 1) * square.clamp(min=1e-30).log() - 0.5 * square


def _gradient(objective: Tensor, verdict: Tensor, noise: Tensor) -> Tensor:
    if not verdict.requires_grad:
        given = "a verifier whose verdict does not depend on the data by torch's graph"
        raise BadValue(
            given, "one that is differentiable, without no_grad and rounding", "rg.search.zero_order(...) instead"
        )
    return torch.autograd.grad(objective, noise)[0]


for _title, _authors, _year, _arxiv, _call in (
    (
        "ReNO: Enhancing One-step Text-to-Image Models through Reward-based Noise Optimization",
        ("Luca Eyring", "Shyamgopal Karthik", "Karsten Roth", "Alexey Dosovitskiy", "Zeynep Akata"),
        2024,
        "2406.04312",
        "rg.search.ascend(denoiser, plan, verifier, n=4)",
    ),
    (
        "End-to-End Diffusion Latent Optimization Improves Classifier Guidance",
        ("Bram Wallace", "Akash Gokul", "Stefano Ermon", "Nikhil Naik"),
        2023,
        "2303.13703",
        "rg.search.ascend(denoiser, plan, verifier, n=4, sphere=True, prior=0.0)",
    ),
):
    systems.register(
        systems.System(
            title=_title,
            authors=_authors,
            year=_year,
            arxiv=_arxiv,
            home="search",
            call=_call,
            test="tests/search/test_gradient.py::test_of_gaussian_data_each_step_is_the_closed_form",
        )
    )
