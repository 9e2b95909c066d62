"""Two signals seen added up, each with its prior: the joint posterior is known."""

import dataclasses

import pytest
import torch

import retrograde as rg
from retrograde import inverse, operators
from retrograde.denoisers.carried import CARRIED, carried
from retrograde.errors import BadValue
from retrograde.noise import Bulk

D, STD = 4, 0.3
TISSUE = torch.diag(torch.tensor([1.0, 0.5, 1.5, 0.7], dtype=torch.float64))
LINE = torch.tensor([1.0, -1.0, 1.0, 1.0], dtype=torch.float64)
HAZE = 0.05 * torch.eye(D, dtype=torch.float64) + torch.outer(LINE, LINE)


def gaussian(C):
    return rg.oracles.Gaussian(rg.paths.VP(), torch.zeros(D, dtype=torch.float64), C)


@pytest.fixture(scope="module")
def seen():
    """What is measured of a draw of each, and the exact joint posterior, flat."""
    both = inverse.Together((gaussian(TISSUE), gaussian(HAZE)))
    truth = torch.stack([gaussian(TISSUE).sample(1, 1)[0], gaussian(HAZE).sample(1, 2)[0]])
    measurement = operators.measure(inverse.added(both), truth, STD, seed=3)
    joint = rg.oracles.Gaussian(rg.paths.VP(), torch.zeros(2 * D, dtype=torch.float64), torch.block_diag(TISSUE, HAZE))
    A = torch.cat([torch.eye(D, dtype=torch.float64)] * 2, 1)
    return both, measurement, joint.posterior(A, measurement.y, STD)


def law(denoiser, measurement, method, **settings):
    """Mean and covariance of what a method that is linear in its start makes of noise."""
    edges = (2 * D - 0.5) ** 0.5 * torch.eye(2 * D, dtype=torch.float64)
    start = (denoiser.path.s(denoiser.path.t_max) * torch.cat([edges, -edges])).reshape(-1, 2, D)
    task = inverse.Task(80, 0, range(4 * D), Bulk(0, range(4 * D)), dtype=torch.float64)
    posed = inverse.get(method).write(denoiser, measurement, task, **settings)
    *_, last = rg.steps(posed.plan, posed.denoiser, x=start, noise=Bulk)
    made = last.x_t.flatten(1)
    return made.mean(0), torch.cov(made.T)


def test_two_signals_have_their_joint_posterior(seen):
    """Both moments to 5 %; with the priors exchanged, with white noise for the second, or by DPS they are wrong."""
    both, measurement, posterior = seen
    mean, covariance = posterior.moments()
    found = law(both, measurement, "mmps", recipe="dpmpp_2m")
    assert float((found[0] - mean).norm() / covariance.trace().sqrt()) < 0.05
    assert float((found[1] - covariance).norm() / covariance.norm()) < 0.05
    off = float((found[0] - mean)[:D].norm())
    swapped = inverse.Together(both.parts[::-1])
    assert float((law(swapped, measurement, "mmps", recipe="dpmpp_2m")[0] - mean)[:D].norm()) > 5.0 * off
    white = (STD**2 + float(HAZE.diagonal().mean())) ** 0.5
    alone = gaussian(TISSUE).posterior(torch.eye(D, dtype=torch.float64), measurement.y, white)
    assert float((alone.moments()[0] - mean[:D]).norm()) > 5.0 * off
    draws = inverse.solve(both, measurement, "dps", n=300, nfe=40, noise=Bulk, dtype=torch.float64).samples.flatten(1)
    assert float((torch.cov(draws.T) - covariance).norm() / covariance.norm()) > 0.2


def test_it_is_the_denoiser_of_the_product():
    """Of two mixtures it predicts as the mixture of all pairs does, and counts what each was asked."""
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.randn(k, 2, generator=generator, dtype=torch.float64) for k in (2, 3))
    both = inverse.Together(
        (rg.oracles.GaussianMixture(rg.paths.VP(), one, 0.1), rg.oracles.GaussianMixture(rg.paths.VP(), other, 0.1))
    )
    pairs = torch.stack([torch.cat([a, b]) for a in one for b in other])
    joint = rg.oracles.GaussianMixture(rg.paths.VP(), pairs, 0.1)
    x = torch.randn(5, 2, 2, generator=generator, dtype=torch.float64)
    for t in (0.1, 0.6):
        assert torch.allclose(both(x, t).data.flatten(1), joint(x.flatten(1), t).data, atol=1e-10)
    assert both(x, 0.5).evaluations == {"0:mixture": 1, "1:mixture": 1}


@dataclasses.dataclass(frozen=True, eq=False)
class Counting(rg.guide.Transform):
    """A denoiser that adds how often it was asked before in this run."""

    def predict(self, x_t, t, condition=(), knobs=(), network_time=None):
        made, before = self.inner.predict(x_t, t, {}, {}, network_time), carried(knobs).get("asked", x_t.new_zeros(len(x_t)))
        return dataclasses.replace(made, value=made.data + before[:, None], kind="data", carried={"asked": before + 1.0})


def test_each_part_remembers_its_own():
    both = inverse.Together((gaussian(TISSUE), Counting(gaussian(HAZE))))
    x, free = torch.zeros(2, 2, D, dtype=torch.float64), inverse.Together((gaussian(TISSUE), gaussian(HAZE)))
    first = both.predict(x, 0.5)
    second = both.predict(x, 0.5, knobs={CARRIED: first.carried})
    assert torch.equal(first.data, free(x, 0.5).data)
    assert torch.equal(second.data - first.data, torch.tensor([0.0, 1.0], dtype=torch.float64)[:, None].expand(2, 2, D))


def test_parts_have_one_shape_and_path():
    with pytest.raises(BadValue, match="one shape"):
        inverse.Together((gaussian(TISSUE), rg.oracles.Gaussian(rg.paths.EDM(), torch.zeros(D), TISSUE)))
