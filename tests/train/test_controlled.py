"""The bound of variational inference with fractional noise, against the exact likelihood of linear Gaussian models."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import retrograde as rg
from retrograde.errors import BadValue, ShapeError
from retrograde.paths import MarkovFractional

DEVIATION, EVERY = 0.2, 30
# ten observations; steps get shorter before each, where the fastest process (speed 1700) has to be steered
BEFORE = 0.1 * np.append(np.geomspace(1.0, 3e-4, EVERY), 0.0)
TIMES = [0.0, *(float(0.1 * (i + 1) - left) for i in range(10) for left in BEFORE[1:])]
SEEN = np.arange(EVERY, len(TIMES), EVERY)


def drawn(process: MarkovFractional, d: int, seed: int) -> np.ndarray:
    """Observations [times, d] of d coordinates under noise."""
    return np.linalg.cholesky(covariance(process)) @ np.random.default_rng(seed).normal(size=(len(SEEN), d))


def covariance(process: MarkovFractional) -> np.ndarray:
    """Of what is observed of one coordinate."""
    return process.covariance(np.array(TIMES)[SEEN]) + DEVIATION**2 * np.eye(len(SEEN))


def exact(process: MarkovFractional, observed: np.ndarray) -> float:
    """log N(o; 0, covariance), summed over coordinates."""
    log_det = observed.shape[1] * np.linalg.slogdet(2 * math.pi * covariance(process))[1]
    return float(-0.5 * (np.sum(observed * np.linalg.solve(covariance(process), observed)) + log_det))


class Best:
    """The best control that is held over a step: linear and quadratic costs, solved backwards (Riccati)."""

    def __init__(self, process: MarkovFractional, observed: np.ndarray) -> None:
        g, w = process.speeds, process.weights
        square, slope = np.zeros((len(g), len(g))), np.zeros((len(g), observed.shape[1]))
        self.gains: dict[float, tuple[Tensor, Tensor]] = {}
        for i in reversed(range(len(TIMES) - 1)):
            h = TIMES[i + 1] - TIMES[i]
            keep, push = np.exp(-g * h), -np.expm1(-g * h) / g
            if i + 1 in SEEN:
                square = square + np.outer(w, w) / DEVIATION**2
                slope = slope - np.outer(w, observed[(i + 1) // EVERY - 1]) / DEVIATION**2
            norm = h + push @ square @ push
            gain, offset = push @ (square * keep) / norm, push @ slope / norm
            self.gains[TIMES[i]] = torch.from_numpy(gain), torch.from_numpy(offset)
            slope = keep[:, None] * (slope - np.outer(square @ push, offset))
            square = keep[:, None] * square * keep - norm * np.outer(gain, gain)

    def __call__(self, x: Tensor, y: Tensor, t: float) -> Tensor:
        gain, offset = self.gains[t]
        return -(y @ gain) - offset


def bounds(process: MarkovFractional, observed: np.ndarray, n: int, control: Any = None, seed: int = 0) -> Tensor:
    """The bound on each of n paths."""
    start = torch.zeros(n, observed.shape[1], dtype=torch.float64)
    made = rg.train.controlled(process, TIMES, start, control=control, seed=seed)
    off = torch.from_numpy(observed)[:, None] - made.x[torch.from_numpy(SEEN)]
    return made.bound((-0.5 * (off / DEVIATION) ** 2 - 0.5 * math.log(2 * math.pi * DEVIATION**2)).sum((0, 2)))


@pytest.mark.parametrize("hurst", [0.3, 0.7])
def test_the_best_control_reaches_the_likelihood(hurst):
    """Below it, and within 2%; no control, or the one of other observations, is far below."""
    process = MarkovFractional(hurst, 5)
    observed = drawn(process, 1, seed=3)
    wanted, best = exact(process, observed), Best(process, observed)
    values = bounds(process, observed, 2000, best)
    reached, error = float(values.mean()), float(values.std() / math.sqrt(len(values)))
    assert wanted - 0.02 * abs(wanted) - 2 * error < reached < wanted + 2 * error
    assert error < 0.02 * abs(wanted)
    for other in (None, Best(process, -observed)):
        assert bounds(process, observed, 500, other).mean() < wanted - 2.0


@pytest.mark.parametrize("hurst", [0.3, 0.7])
def test_noise_without_memory_explains_fractional_paths_worse(hurst):
    """On thirty paths of index H the bound is above what H = 1/2 reaches, and above even its exact likelihood."""
    processes = MarkovFractional(hurst, 5), MarkovFractional(0.5, 5)
    observed = drawn(processes[0], 30, seed=5)
    reached = [float(bounds(one, observed, 100, Best(one, observed)).mean()) for one in processes]
    assert reached[0] > reached[1] + 5.0
    assert reached[0] > exact(processes[1], observed) > reached[1]


def test_the_simulated_law_is_the_process_pushed():
    """Without control the covariance of the process; a constant control shifts the mean by the integral of the kernel."""
    process, n = MarkovFractional(0.3, 4), 20_000
    times = [0.0, 0.1, 0.3, 1.0]
    start = torch.full((n, 1), 0.5, dtype=torch.float64)

    def twice(x: Tensor, t: float) -> Tensor:
        return torch.full_like(x, 2.0)

    def steady(x: Tensor, t: float) -> Tensor:
        return torch.full_like(x, -1.5)

    def push(x: Tensor, y: Tensor, t: float) -> Tensor:
        return torch.full_like(x, 0.7)

    free = rg.train.controlled(process, times, start, diffusion=twice)
    assert np.abs(np.cov(free.x[1:, :, 0].numpy()) - 4 * process.covariance(np.array(times[1:]))).max() < 0.1
    assert free.cost.abs().max() == 0.0
    pushed = rg.train.controlled(process, times, start, diffusion=twice, control=push, drift=steady)
    for i, t in enumerate(times):
        kernel = float((process.weights * -np.expm1(-process.speeds * t) / process.speeds).sum())
        assert (pushed.x - free.x)[i].mean() == pytest.approx(2 * 0.7 * kernel - 1.5 * t, abs=1e-9)
    assert pushed.cost.tolist() == pytest.approx([0.5 * 0.7**2] * n)


def test_a_control_is_learned_by_gradient(monkeypatch):
    """Two numbers for each gap, affine in x, from no control: most of the way to the likelihood in sixty steps."""
    process = MarkovFractional(0.7, 3)
    monkeypatch.setattr(f"{__name__}.TIMES", [i / 30 for i in range(31)])
    monkeypatch.setattr(f"{__name__}.SEEN", np.arange(3, 31, 3))
    observed = np.linspace(0.2, 1.5, 10)[:, None]
    weights = torch.zeros(10, 2, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([weights], lr=0.3)

    def control(x: Tensor, y: Tensor, t: float) -> Tensor:
        offset, gain = weights[int(10 * t + 1e-9)]
        return offset + gain * x

    before = float(bounds(process, observed, 500, control).mean().detach())
    for seed in range(60):
        optimizer.zero_grad()
        (-bounds(process, observed, 64, control, seed).mean()).backward()
        optimizer.step()
    after, wanted = float(bounds(process, observed, 500, control, 1000).mean().detach()), exact(process, observed)
    assert before < wanted - 20
    assert before + 0.7 * (wanted - before) < after < wanted + 0.5


def test_what_is_no_simulation_is_refused():
    process, start = MarkovFractional(0.3), torch.zeros(2, 1)
    for times in ([0.0], [0.1, 0.5], [0.0, 0.5, 0.4], [0.0, 1.5]):
        with pytest.raises(BadValue, match="rising times"):
            rg.train.controlled(process, times, start)
    with pytest.raises(ShapeError, match=r"\[n, d\]"):
        rg.train.controlled(process, TIMES, start[:, 0])
    with pytest.raises(ShapeError, match="one number for each path"):
        rg.train.controlled(process, TIMES, start).bound(torch.zeros(3))
