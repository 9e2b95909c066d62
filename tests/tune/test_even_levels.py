import dataclasses

import numpy as np
import pytest
import torch

import retrograde as rg
from retrograde.tune import Effort, Reference, teach
from retrograde.tune.even_levels import EvenLevels, depths_of
from retrograde.tune.fit import Fitter
from retrograde.tune.levels import OnPolicy

EFFORT = Effort(96, 48, 8, 48, 40, 8, 1, 20, 256, ("dpmpp_2m",))


def test_depths_rise_and_begin_a_step_above_where_there_is_no_signal():
    flow = rg.paths.Flow()
    assert np.allclose(depths_of((1.0, 0.5, 0.2), flow.sigma), [-np.log(4), 0, np.log(4)])


def test_three_levels_decide_a_set_that_is_even_in_depth():
    depths = np.linspace(-4.0, 4.0, 41)
    even = EvenLevels(depths, 5, lambda levels: 0.0)
    assert even.between((0, 10, 40)) == (0, 10, 20, 30, 40)
    assert EvenLevels(depths, 3, len).between((1, 5, 30)) == (1, 5, 30)
    assert even((0, 3, 4)) == float("inf"), "no three levels between 3 and 4"


def test_the_best_set_is_found_from_either_beginning():
    depths = np.linspace(-4.0, 4.0, 41)
    for wanted in ((0, 6, 38), (12, 16, 30)):
        even = EvenLevels(
            depths, 5, lambda levels, w=wanted: sum((a - b) ** 2 for a, b in zip(levels, (w[0], *far(w)), strict=True))
        )
        assert even.best() == even.between(wanted)


def far(wanted):
    return np.linspace(wanted[1], wanted[2], 4)


def test_on_policy_it_is_better_than_where_it_began(mixture):
    teacher = teach(mixture, 32, 0, levels=32)
    policy = OnPolicy(Fitter(mixture, teacher, {}))
    even = EvenLevels(depths_of(teacher.times, mixture.path.sigma), 4, policy)
    assert policy(even.best((4, 2))) < 0.9 * min(policy(even.between(ends)) for ends in ((1, 6, 27), (7, 9, 25)))


@pytest.fixture(scope="module")
def smooth():
    """Correlated Gaussian data seen through a network that errs by a tenth where there is much noise."""
    mixing = torch.tensor([[1.0, 0.4, 0.0], [0.0, 0.5, 0.2], [0.0, 0.0, 0.1]], dtype=torch.float64)
    exact = rg.oracles.Gaussian(rg.paths.EDM(), torch.tensor([0.5, -0.5, 0.0]), mixing @ mixing.T)

    def predict(x, t):
        u = 1 + t[:, None]
        return exact.predict(x, t.double()).data + 0.1 * (1 - 1 / u) * torch.sin(x / u)

    return rg.Denoiser(predict, exact.path, "data", (3,))


def test_sets_that_three_levels_decide_and_a_free_last_row_make_the_fit_better(smooth):
    n = 96
    reference = Reference(smooth, range(n), 11, teach(smooth, n, 11, levels=100, keep=()).end)
    effort = dataclasses.replace(EFFORT, even=60, memory=6, last=(3e-4,))
    few, more = (rg.tune(smooth, 6, seed=1, effort=one, compare=False) for one in (EFFORT, effort))
    assert reference.errors(more).mean().sqrt() < 0.7 * reference.errors(few).mean().sqrt()
