"""Steered diffusion: loops bring it nearer to the posterior, nothing to follow leaves the sampler alone, losses add up."""

import pytest
import torch

import retrograde as rg
from retrograde import inverse
from retrograde.errors import BadValue, ShapeError, UnknownName
from retrograde.inverse.steered import misfit
from retrograde.noise import Bulk


@pytest.mark.parametrize("gradient", ["x0", "xt"])
def test_the_error_falls_with_the_loops(distance, gradient):
    """A third of the way to y, each of twelve rows once and five times, over three problems; evaluations grow alike."""
    once, often = (
        [distance(seed, "steered", 120, 1 + 12 * n, loops=n, scale=0.3, gradient=gradient) for seed in (1, 6, 9)]
        for n in (1, 5)
    )
    assert sum(often) < 0.85 * sum(once)


def test_without_a_scale_it_is_the_sampler(mixture):
    prior, measurement, _ = mixture(0)
    made = inverse.solve(prior, measurement, "steered", n=3, nfe=12, scale=0.0, loops=1)
    assert torch.equal(made.samples, rg.sample(prior, rg.plan("ddpm", prior, nfe=12), n=3))
    looped = inverse.solve(prior, measurement, "steered", n=3, nfe=13, scale=0.0, loops=3)
    assert looped.ledger.evaluations == {"mixture": 13}
    assert sum(row.time is None for row in looped.plan.rows) == 8


def test_a_whole_step_is_that_of_the_pseudo_inverse():
    """Of an operator whose singular values are of one size, whatever the size: D' = D + A^+ (y - A D), on every row."""
    prior = rg.oracles.Gaussian(rg.paths.VP(), torch.zeros(1, 4, 4), 1.0)
    A = rg.operators.down((1, 4, 4), 2)
    m = rg.operators.measure(A, torch.rand(1, 4, 4, dtype=torch.float64), 0.0)
    posed = inverse.steer(prior, [(misfit(m), 1.0)], inverse.Task(6, 0, range(2), Bulk(0, range(2))), loops=2)
    x, row = torch.randn(2, 1, 4, 4, dtype=torch.float64), posed.plan.rows[0]
    shift = (posed.denoiser.predict(x, row.time, knobs=row.knobs).data - prior(x, row.time).data) * row.outputs[0]
    wanted = prior.path.a(row.next_time) * A.pseudo_inverse(m.residual(prior(x, row.time).data))
    assert torch.allclose(shift, wanted, atol=1e-9)


def test_several_losses_are_met_at_once(mixture):
    """A measurement and a loss that is none: both are near zero; the first alone leaves the second."""
    prior, measurement, _ = mixture(2)

    def off(data):
        return 0.5 * (data[:, 3] - 0.5).square()

    found = []
    for losses in ([(misfit(measurement), 0.6)], [(misfit(measurement), 0.6), (off, 0.6)]):
        task = inverse.Task(61, 0, range(100), Bulk(0, range(100)))
        posed = inverse.steer(prior, losses, task, loops=4)
        *_, last = rg.steps(posed.plan, posed.denoiser, 100, 0, noise=Bulk)
        x = last.x_t.double()
        found.append((float(misfit(measurement)(x).mean()), float(off(x).mean())))
    free = rg.sample(prior, rg.plan("ddpm", prior, nfe=30), n=100).double()
    assert found[1][0] < 0.2 * float(misfit(measurement)(free).mean())
    assert found[1][1] < 0.2 * min(found[0][1], float(off(free).mean()))


def test_mistakes_are_mended(mixture):
    prior, measurement, _ = mixture(0)
    with pytest.raises(UnknownName, match="x0"):
        inverse.solve(prior, measurement, "steered", n=2, gradient="x")
    with pytest.raises(BadValue, match="loops"):
        inverse.solve(prior, measurement, "steered", n=2, loops=0)
    posed = inverse.steer(prior, [(lambda x: x.sum(), 1.0)], inverse.Task(6, 0, range(2), Bulk(0, range(2))))
    with pytest.raises(ShapeError, match="loss"):
        list(rg.steps(posed.plan, posed.denoiser, 2))


@pytest.mark.slow
def test_digits_are_filled_in_and_of_the_class_that_was_asked_for():
    """A mask and a classifier's loss: what is seen is kept to 5 %, and nine of ten are taken for the class by a judge."""
    from retrograde import data, zoo

    den, judge = rg.load("digits"), zoo.classifier()
    images, labels = data.digits("test")
    place = int((labels == 4).nonzero()[0])
    A = rg.operators.make("mask:keep=left", den.shape)
    m = rg.operators.measure(A, images[place].float(), 0.01)

    def as_four(x):
        return torch.nn.functional.cross_entropy(judge(x), torch.full((len(x),), 4), reduction="none")

    task = inverse.Task(121, 0, range(20), rg.noise.Noise(0, range(20)))
    posed = inverse.steer(den, [(misfit(m), 1.0), (as_four, 0.3)], task, loops=4)
    *_, last = rg.steps(posed.plan, posed.denoiser, 20)
    assert float((m.residual(last.x_t).square().sum() / (20 * m.y.square().sum())).sqrt()) < 0.05
    with torch.no_grad():
        assert float((judge(last.x_t).argmax(1) == 4).double().mean()) > 0.9
