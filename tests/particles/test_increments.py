"""Weights of rows: Feynman-Kac correctors against laws known by quadrature, kernels against their densities."""

import dataclasses
import math

import pytest
import torch

import retrograde as rg
from retrograde import particles as ps
from retrograde.errors import PlanError
from retrograde.particles import increments
from retrograde.quality import energy_distance

N = 8000
CASES = {
    "annealed": lambda one, other, component: [(one, 3.0)],
    "product": lambda one, other, component: [(one, 1.0), (other, 1.0)],
    "guided": lambda one, other, component: [(component, 3.0), (one, -2.0)],
}


def law(pairs):
    return lambda x: sum(exponent * model.log_prob(x, 1e-9) for model, exponent in pairs)


def led(pairs):
    return rg.guide.product([model for model, _ in pairs], [exponent for _, exponent in pairs])


def last(den, plan, n=N, **options):
    return list(rg.steps(plan, den, n=n, **options))[-1]


@pytest.mark.parametrize("name", CASES)
def test_corrected_particles_have_the_law_and_uncorrected_ones_do_not(
    name, path, one, other, component, quick, distance, monkeypatch
):
    """Total variation of 40 bins with 8000 particles; 8000 independent draws have 0.012, a wrong sign is far worse."""
    pairs = CASES[name](one, other, component)
    den = led(pairs)
    rows = rg.plan("euler_maruyama", path, nfe=100, grid="log_snr")
    plan = ps.start_of(rows, sum(exponent for _, exponent in pairs))

    def away(**options):
        return distance(rg.sample(den, plan, n=N, noise=quick, **options), law(pairs))

    free, corrected = away(), away(particles=ps.Weighted(N))
    variance = increments.variance
    monkeypatch.setattr(increments, "variance", lambda *levels: -variance(*levels))
    wrong = away(particles=ps.Weighted(N))
    assert corrected < 0.5 * free
    assert corrected < 0.06
    assert wrong > 1.2 * free


def test_in_the_plane_they_draw_the_exact_product(path, quick):
    """Against draws of the product itself, twice as far as such draws at most; led alone they are five times as far."""
    models = [
        rg.oracles.GaussianMixture(path, torch.tensor([[-1.0, 0.3], [0.8, 0.1]]), torch.tensor([0.2, 0.4]), [0.3, 0.7]),
        rg.oracles.Gaussian(path, torch.tensor([0.2, -0.6]), 0.1),
    ]
    n, law, den = 2000, rg.oracles.product(models, (1.0, 0.5)), rg.guide.product(models, (1.0, 0.5))
    plan = ps.start_of(rg.plan("euler_maruyama", path, nfe=60, grid="log_snr"), 1.5)
    exact = law.sample(n, seed=1).float()
    floor = max(energy_distance(law.sample(n, seed=2 + k).float(), exact).value for k in range(3))
    free, weighed = (
        energy_distance(rg.sample(den, plan, n=n, noise=quick, **options), exact).value
        for options in ({}, {"particles": ps.Weighted(n)})
    )
    assert weighed < 2.0 * floor < 0.5 * free


def test_the_error_falls_as_one_over_the_root_of_the_number(path, one, other, quick):
    """Of the mean of a geometric average, over independent groups: 16 times the particles, a quarter of the error.

    Its weights are bounded. Those of a product of the sum 2 are not: there 16 times the particles have a half of the error.
    """
    rows = rg.plan("euler_maruyama", path, nfe=60, grid="log_snr")

    def error(exponents, count, groups):
        plan = ps.start_of(rows, sum(exponents))
        den = rg.guide.product([one, other], exponents)
        x = rg.sample(den, plan, n=count * groups, noise=quick, particles=ps.Weighted(count))
        return float(x.double().view(groups, count).mean(1).std())

    assert 3.0 < error((0.5, 0.5), 32, 256) / error((0.5, 0.5), 512, 96) < 5.3
    assert error((1.0, 1.0), 32, 256) / error((1.0, 1.0), 512, 64) < 3.0


def test_the_mean_weight_is_the_ratio_of_the_normalizers(path, one, other, quick):
    pairs = [(one, 1.0), (other, 1.0)]
    line = torch.linspace(-30, 30, 60001, dtype=torch.float64)[:, None]

    def log_normalizer(t):
        return float(torch.logsumexp(sum(w * d.log_prob(line, t) for d, w in pairs), 0) + math.log(0.001))

    plan = ps.start_of(rg.plan("euler_maruyama", path, nfe=200, grid="log_snr"), 2.0)
    groups, count = 16, 250
    state = last(led(pairs), plan, groups * count, noise=quick, particles=ps.Weighted(count))
    found = ps.log_evidence(state, count)
    ratio = log_normalizer(plan[-1].time) - log_normalizer(plan.start)
    assert abs(float(found.mean()) - ratio) < 3 * float(found.std()) / groups**0.5 + 0.02


def test_a_single_law_has_no_weights(path, one, other, quick):
    """Exponents (1, 0) are the first model: its samples bit by bit, all weights exactly alike."""
    plan = rg.plan("euler_maruyama", path, nfe=20)
    state = last(rg.guide.product([one, other], [1.0, 0.0]), plan, 64, noise=quick, particles=ps.Weighted(64, last=False))
    assert ps.log_weights(state).abs().max() == 0.0
    plain = last(one, plan, 64, noise=quick, particles=ps.Weighted(64))
    assert torch.allclose(state.x_t, plain.x_t, atol=1e-6)
    assert torch.equal(plain.x_t, rg.sample(one, plan, n=64, noise=quick))


def test_guidance_is_corrected_as_the_product_it_names(path, quick):
    """Classifier-free guidance, a composition and autoguidance say of themselves which law they name."""
    labelled = rg.oracles.GaussianMixture(
        path, torch.tensor([[-1.0], [0.5], [1.5]]), 0.04, weights=[0.3, 0.4, 0.3], labels=[0, 1, 1]
    )
    x = torch.linspace(-2, 2, 9)[:, None]
    parts = labelled(x, 0.3, label=1), labelled(x, 0.3)
    scores = [part.score.double() for part in parts]
    named = 3.0 * scores[0] - 2.0 * scores[1]
    for guided in (
        rg.guide.cfg(labelled, 3.0),
        rg.guide.compose(labelled, [{}], [3.0]),
        rg.guide.rescale(rg.guide.cfg(labelled, 3.0), 0.7),
        rg.guide.threshold(rg.guide.cfg(labelled, 3.0), None, limit=0.1),
    ):
        answer = guided(x, 0.3, label=1)
        assert torch.allclose(ps.target(answer).score.double(), named, atol=1e-5)
        assert sorted(exponent for exponent, _ in ps.factors(answer)) == [-2.0, 3.0]
    assert ps.factors(rg.guide.cfg(labelled, 1.0)(x, 0.3, label=1))[0][0] == 1.0


def test_nested_laws_multiply(path, one, other):
    nested = rg.guide.product([rg.guide.product([one, other], [2.0, -1.0]), other], [0.5, 0.5])
    x = torch.linspace(-2, 2, 9)[:, None]
    assert sorted(exponent for exponent, _ in ps.factors(nested(x, 0.3))) == [-0.5, 0.5, 1.0]
    assert torch.allclose(nested(x, 0.3).score, ps.target(nested(x, 0.3)).score, atol=1e-5)


def test_a_law_survives_another_path_and_branches(path, one, component):
    """Asked on another path at equal signal-to-noise ratio, and two branches in one call, a product stays a product."""
    edm = rg.paths.EDM()
    den = rg.guide.product([component, one], [2.0, -1.0])
    moved = rg.denoisers.on_path(den, edm)
    t = path.time_of_sigma(0.5)
    x = torch.linspace(-2, 2, 9)[:, None]
    near, far = moved(x, 0.5), den(x * path.a(t), t)
    assert [exponent for exponent, _ in ps.factors(near)] == [2.0, -1.0]
    for (_, here), (_, there) in zip(ps.factors(near), ps.factors(far), strict=True):
        assert torch.allclose(here.data, there.data, atol=1e-5)
    labelled = rg.oracles.GaussianMixture(path, torch.tensor([[-1.0], [0.5]]), 0.04, labels=[0, 1])
    guided = rg.guide.cfg(rg.guide.cfg(labelled, 2.0), 3.0)
    assert sorted(exponent for exponent, _ in ps.factors(guided(x, 0.3, label=1))) == [-4.0, -3.0, 2.0, 6.0]


def test_a_proposal_is_corrected_by_the_ratio_of_its_kernels(path, one, quick):
    """The weight of a row led astray is the ratio of two Gaussian densities of the state it made."""

    def pull(data, t):
        return 3.0 * (data[:, 0] - 1.0).square()

    for recipe in ("euler_maruyama", "ddpm", "euler_ancestral"):
        plan = rg.plan(recipe, path, nfe=8)
        before = None
        for state in rg.steps(plan, rg.guide.loss(one, pull, 1.0), n=32, noise=quick, dtype=torch.float64):
            row = state.row
            if before is not None and row.noises and row.next_time is not None:
                asked = state.prediction
                c = row.noises[0]
                kernels = []
                for which in (asked.parts["free"], asked):
                    mean = row.states[0] * before + row.outputs[0] * which.read(plan.basis)
                    kernels.append(torch.distributions.Normal(mean, c).log_prob(state.x_t).sum(1))
                assert torch.allclose(increments.increment(state), kernels[0] - kernels[1], rtol=1e-6, atol=1e-6)
            before = state.x_t


def test_what_has_no_weight_is_refused(path, one, other, quick):
    pulled = rg.guide.loss(one, lambda data, t: data[:, 0], 1.0)
    with pytest.raises(PlanError, match="stochastic one-step recipe"):
        rg.sample(pulled, rg.plan("ddim", path, nfe=5), n=8, noise=quick, particles=ps.Weighted(8))
    plan = rg.plan("euler_maruyama", path, nfe=5)
    again = dataclasses.replace(plan, rows=tuple(dataclasses.replace(row, renoise=True) for row in plan.rows))
    with pytest.raises(PlanError, match="without churn or restarts"):
        rg.sample(led([(one, 2.0)]), again, n=8, noise=quick, particles=ps.Weighted(8))


def test_guidance_by_a_loss_is_a_proposal(path):
    """It names the free model as the law that weights come back to, and where that is guided the law it names itself."""
    labelled = rg.oracles.GaussianMixture(path, torch.tensor([[-1.0], [0.5]]), 0.04, labels=[0, 1])
    x = torch.linspace(-2, 2, 9)[:, None]
    pulled = rg.guide.loss(rg.guide.cfg(labelled, 3.0), lambda data, t: data[:, 0], 2.0)
    answer = pulled(x, 0.3, label=1)
    assert sorted(exponent for exponent, _ in ps.factors(answer)) == [-2.0, 3.0]
    assert not torch.allclose(ps.target(answer).score, answer.score)
