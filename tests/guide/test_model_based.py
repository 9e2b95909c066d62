"""Model-based guidance: the score of the product it names, and what it is at its ends."""

import pytest
import torch

import retrograde as rg
from retrograde import particles as ps
from retrograde.errors import BadType, BadValue, ShapeError, UnknownName
from retrograde.guide import cfg, model_based

PATH = rg.paths.VP()


def tuned(path: rg.paths.Path = PATH) -> rg.oracles.GaussianMixture:
    return rg.oracles.GaussianMixture(path, torch.tensor([[0.4, -0.3], [1.0, 1.0]]), 0.15, labels=[0, 1])


@pytest.mark.parametrize("path_name", ["vp", "edm", "flow"])
@pytest.mark.parametrize("kind", ["data", "noise"])
def test_the_score_is_that_of_the_product(path_name, kind, path_called, labelled, x):
    """grad of (1 - w) log p_u + w ((1 - beta) log p_c + beta log p_s), by autograd of three log densities."""
    path, t, w, beta = path_called(path_name), path_called(path_name).time_of_sigma(0.7), 7.0, 0.4
    den, other = labelled(path, kind), tuned(path)
    of_class = rg.oracles.GaussianMixture(path, den.means[[0, 2]], torch.tensor([0.3, 0.2]))
    source = rg.oracles.Gaussian(path, other.means[1], 0.15)
    at = x.clone().requires_grad_(True)
    log_p = (1 - w) * den.log_prob(at, t) + w * ((1 - beta) * of_class.log_prob(at, t) + beta * source.log_prob(at, t))
    (wanted,) = torch.autograd.grad(log_p.sum(), at)
    made = model_based(den, [other], w, [beta], [{"label": 1}])(x, t, label=0)
    assert torch.allclose(made.score, wanted, rtol=1e-6, atol=1e-6)
    powers = sorted(power for power, _ in ps.factors(made))
    assert powers == pytest.approx(sorted([1 - w, w * (1 - beta), w * beta]))
    assert torch.allclose(ps.target(made).score, wanted, rtol=1e-6, atol=1e-6)


def test_at_its_ends_it_is_guidance(labelled, x):
    den, other, plan = labelled(PATH), tuned(), rg.plan("ddim", PATH, nfe=6)
    none = rg.record(model_based(den, [other], 3.0, [0.0]), plan, n=3, condition=1)
    plain = rg.record(cfg(den, 3.0), plan, n=3, condition=1)
    assert torch.equal(none.samples, plain.samples)
    assert none.ledger.evaluations == plain.ledger.evaluations
    whole = model_based(den, [other], 3.0, [1.0], [{"label": 1}])(x, 0.4, label=0)
    unconditional, source = den(x, 0.4).data, other(x, 0.4, label=1).data
    assert torch.allclose(whole.data, unconditional + 3.0 * (source - unconditional), atol=1e-9)
    # of weight 1 the branch without condition is not asked
    half = model_based(den, [other, other], 1.0, [0.3, 0.2], [{"label": 0}, {"label": 1}])
    made = half(x, 0.4, label=2)
    parts = [den(x, 0.4, label=2).data, other(x, 0.4, label=0).data, other(x, 0.4, label=1).data]
    assert torch.allclose(made.data, 0.5 * parts[0] + 0.3 * parts[1] + 0.2 * parts[2], atol=1e-9)
    assert sum(made.evaluations.values()) == 3
    assert model_based(den, [other], 3.0, [0.4])(x, 0.4, label=0).data.allclose(
        unconditional + 3.0 * (0.6 * den(x, 0.4, label=0).data + 0.4 * other(x, 0.4).data - unconditional), atol=1e-9
    )


def test_at_weight_one_the_books_name_the_branch_as_guidance_does(labelled, x):
    """The other models add theirs; what the branches cost and carry stays as `cfg` has it."""
    den, other = labelled(PATH), tuned()
    plain = cfg(den, 1.0)(x, 0.4, label=0)
    shared = model_based(den, [other], 1.0, [0.3], [{"label": 1}])(x, 0.4, label=0)
    assert plain.evaluations.items() <= shared.evaluations.items()
    assert sum(shared.evaluations.values()) == sum(plain.evaluations.values()) + 1


def test_shares_follow_the_level_and_models_may_live_elsewhere(labelled, x):
    """Above a level the tuned model has its share, below it guidance is plain; its own path does not matter."""
    den, edm = labelled(PATH), tuned(rg.paths.EDM())
    late = model_based(den, [edm], 3.0, [lambda sigma: 0.4 * (sigma > 1.0)], [{"label": 1}])
    for sigma, share in ((0.5, 0.0), (2.0, 0.4)):
        t = PATH.time_of_sigma(sigma)
        wanted = model_based(den, [tuned()], 3.0, [share], [{"label": 1}])(x, t, label=0)
        assert torch.allclose(late(x, t, label=0).data, wanted.data, atol=1e-7)
    times = torch.tensor([PATH.time_of_sigma(sigma) for sigma in (0.5, 2.0, 0.5)], dtype=torch.float64)
    mixed = late(x, times, label=0).data
    assert torch.allclose(mixed[1], late(x, float(times[1]), label=0).data[1], atol=1e-7)
    assert torch.allclose(mixed[0], late(x, float(times[0]), label=0).data[0], atol=1e-7)
    plan = rg.plan("ddim", PATH, nfe=8)
    here = model_based(den, [tuned()], 3.0, [lambda sigma: 0.4 * (sigma > 1.0)], [{"label": 1}])
    ledger = rg.record(here, plan, n=2, condition=0).ledger.evaluations
    above = sum(row.time is not None and PATH.sigma(row.time) > 1.0 for row in plan.rows)
    assert ledger["mixture:tuned 0"] == above < 8


def test_mistakes_are_explained(labelled, mixture):
    den = labelled(PATH)
    with pytest.raises(BadType, match="takes no condition"):
        model_based(mixture(PATH), [tuned()], 3.0, [0.4])
    with pytest.raises(BadValue, match="as many of each"):
        model_based(den, [tuned()], 3.0, [0.4, 0.1])
    with pytest.raises(BadValue, match="share="):
        model_based(den, [tuned()], 3.0, [float("nan")])
    with pytest.raises(ShapeError, match="one shape"):
        model_based(den, [rg.oracles.Gaussian(PATH, torch.zeros(3), 1.0)], 3.0, [0.4])
    with pytest.raises(UnknownName, match="label"):
        model_based(den, [tuned()], 3.0, [0.4], [{"lable": 1}])
