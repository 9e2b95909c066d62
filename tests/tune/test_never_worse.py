"""On mixtures that the tuner has not seen, its plan is not worse than theory on fresh noise, beyond the interval.

The reference has 40 levels. With 24, five of these fits at 7 and 8 evaluations lost: they had
learned the error of the reference itself, which was as large as theirs. The recipe that is best with hindsight is another
rival: in two of two hundred cases it beat what 48 validation items had chosen, where few items end in another mode.
"""

import pytest
import torch

import retrograde as rg
from retrograde.quality.paired import bootstrap
from retrograde.tune import Effort, Reference, teach

QUICK = Effort(96, 48, 16, 48, 40, 8, 1, 12, 128, ("ddim", "dpmpp_2m", "dpmpp_3m", "ipndm_2"))
PATHS = ("edm", "flow", "subvp", "trigonometric", "ve", "vp", "vp_cosine")
FEW, MANY = range(4), range(4, 204)


def random_mixture(seed: int) -> tuple[rg.oracles.GaussianMixture, int]:
    """Return a mixture of random dimension, number, weights, distance and width of modes, on a random path; and a budget."""
    generator = torch.Generator().manual_seed(seed)

    def whole(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=generator))

    d, modes, path, nfe = whole(1, 12), whole(1, 10), PATHS[whole(0, 6)], whole(1, 8)
    apart, width = 3.0 * torch.rand((), generator=generator), 10.0 ** (2.5 * torch.rand((), generator=generator) - 3.0)
    weights = torch.rand(modes, generator=generator) + 0.05
    means = apart * torch.randn(modes, d, generator=generator)
    return rg.oracles.GaussianMixture(rg.paths.get(path)(), means, float(width), weights=weights / weights.sum()), nfe


@pytest.mark.parametrize("seed", [*FEW, *(pytest.param(seed, marks=pytest.mark.slow) for seed in MANY)])
def test_a_fit_is_not_worse_than_theory_on_a_mixture_it_has_not_seen(seed):
    den, nfe = random_mixture(seed)
    plan = rg.tune(den, nfe, seed=seed, effort=QUICK)
    fresh = Reference(den, range(256), 10**6 + seed, teach(den, 256, 10**6 + seed, levels=96, keep=()).end)
    ours = fresh.errors(plan).double()
    both = torch.stack([ours, fresh.errors(rg.plan("dpmpp_3m", den, nfe=nfe)).double()], 1)
    low, _ = bootstrap(both, lambda pairs: pairs[:, 0].mean() - pairs[:, 1].mean(), seed, level=0.999, resamples=2000)
    assert low <= 1e-12, (plan.report["returned"], both.mean(0).sqrt().tolist())
