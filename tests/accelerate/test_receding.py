"""Plans of actions from the last ones, against the exact law of actions given what is observed."""

import math

import pytest
import torch

import retrograde as rg
from retrograde import accelerate
from retrograde.errors import BadValue

PATH, HORIZON, STD = rg.paths.EDM(sigma_min=0.01, sigma_max=20.0), 4, 0.1
PLAN = rg.plan("ddim", PATH, nfe=40)


def policy(modes: tuple[float, ...] = (0.0,), gain: float = 1.0) -> rg.Denoiser:
    """The exact denoiser of actions that all are o + one of the modes, with Gaussian spread; times `gain`."""

    def data_mean(x, sigma_told, o):
        sigma = torch.exp(4 * sigma_told.double()).reshape(-1, 1, 1)
        x = x.double() / gain
        variance, noise = STD**2, (sigma / gain) ** 2
        centres = [o.double().reshape(-1, 1, 1) + mode for mode in modes]
        logs = torch.stack([-((x - c).square() / (2 * (variance + noise))).sum((1, 2)) for c in centres])
        weights = torch.softmax(logs, 0)
        means = [c + variance / (variance + noise) * (x - c) for c in centres]
        return (gain * sum(w.reshape(-1, 1, 1) * m for w, m in zip(weights, means, strict=True))).float()

    clock = lambda sigma: 0.25 * math.log(sigma)  # noqa: E731
    return rg.Denoiser(data_mean, PATH, "data", (HORIZON, 1), {"o": 0.0}, clock=clock)


def w2(samples: torch.Tensor, centre: float) -> float:
    """Distance to N(centre, STD^2) action by action, as if Gaussian."""
    return float(((samples.mean(0) - centre).square() + (samples.std(0) - STD).square()).mean().sqrt())


def tracked(drift: float, sigma: float | None, ticks: int = 12, n: int = 256) -> list[float]:
    targets = [drift * k for k in range(ticks)]
    made = accelerate.receding(policy(), PLAN, [{"o": o} for o in targets], sigma, n=n)
    return [w2(actions, o) for actions, o in zip(made, targets, strict=True)]


def test_slow_drift_is_followed_at_a_fifth_of_the_cost_and_jumps_are_not():
    """Drift of 3% of the spread in a tick; and of five times the spread, which a short start does not bridge."""
    sigma = 0.1
    assert PLAN.from_noise(sigma).nfe == PLAN.nfe / 5
    assert max(tracked(0.003, sigma)) < max(tracked(0.003, None)) + 0.01
    assert max(tracked(0.5, None)) < 0.04
    assert max(tracked(0.5, sigma)) > 1.0
    assert max(tracked(0.5, 1.0)) < 0.1  # a higher level follows it again


@pytest.mark.parametrize("sigma", [0.05, 0.1, 0.3])
def test_the_mean_keeps_within_the_bound_of_the_contraction(sigma):
    """L by finite differences of the rows that are left; the mean lags by at most d L / (1 - L)."""
    model, later, drift, n = policy(), PLAN.from_noise(sigma), 0.1, 512
    x = torch.zeros(1, HORIZON, 1)
    made = [rg.sample(model, later, x=x + move, condition={"o": 0.0}) for move in (0.0, 0.1)]
    contraction = float(((made[1] - made[0]) / 0.1).mean())
    assert 0 < contraction < 1
    targets = [drift * k for k in range(15)]
    runs = accelerate.receding(model, PLAN, [{"o": o} for o in targets], sigma, n=n)
    lag = [abs(float(actions.mean()) - o) for actions, o in zip(runs, targets, strict=True)]
    chance = 4 * (STD + sigma) / (n * HORIZON) ** 0.5 / (1 - contraction)
    assert max(lag) <= drift * contraction / (1 - contraction) + chance
    assert lag[-1] >= 0.8 * drift * contraction / (1 - contraction) - chance  # the bound is met: the map is linear


def test_a_channel_of_two_values_flips_only_where_the_noise_covers_the_gap():
    """The law jumps from one side to both: from a nearly clean start the old side is kept, on a smaller scale it is not."""

    def flips(gain: float, sigma: float | None) -> float:
        first = policy((-1.0,), gain)
        both = policy((-1.0, 1.0), gain)
        later = PLAN if sigma is None else PLAN.from_noise(sigma)
        before = rg.sample(first, PLAN, 256)
        made = rg.sample(both, later, seed=1, n=256, signal=None if sigma is None else before)
        return float((made.mean((1, 2)) > 0).float().mean())

    assert flips(1.0, 0.3) == 0.0
    assert flips(1.0, None) == pytest.approx(0.5, abs=0.1)
    assert flips(0.03, 0.3) == pytest.approx(0.5, abs=0.1)


def test_without_a_level_it_is_the_policy_itself():
    model = policy((-1.0, 1.0))
    made = list(accelerate.receding(model, PLAN, [{"o": 0.0}, {"o": 1.0}], None, n=3, seed=5))
    for tick, o in enumerate((0.0, 1.0)):
        items = [3 * tick, 3 * tick + 1, 3 * tick + 2]
        assert torch.equal(made[tick], rg.sample(model, PLAN, seed=5, items=items, condition={"o": o}))


def test_plans_are_moved_on_and_their_end_repeated():
    actions = torch.arange(6.0).reshape(1, 3, 2)
    assert accelerate.shifted(actions, 0).equal(actions)
    assert accelerate.shifted(actions, 2).tolist() == [[[4, 5], [4, 5], [4, 5]]]
    with pytest.raises(BadValue, match="4 executed"):
        accelerate.shifted(actions, 4)
