"""Residual guidance: guidance itself where the reference is the unconditional mean, and half its cost."""

import pytest
import torch

import retrograde as rg
from retrograde.denoisers.oracles import GaussianMixture
from retrograde.errors import BadType, BadValue

MEANS = torch.tensor([[1.0, 0.0], [-1.0, 0.5], [0.3, -1.0]])


def mixture(path: rg.paths.Path, predicts: str = "data") -> GaussianMixture:
    return GaussianMixture(path, MEANS, 0.1, labels=[0, 1, 1], predicts=predicts)


@pytest.mark.parametrize(
    ("path", "predicts"),
    [(rg.paths.VP(), "data"), (rg.paths.VP(), "noise"), (rg.paths.Flow(), "data"), (rg.paths.Flow(), "velocity")],
)
def test_with_the_unconditional_mean_it_is_classifier_free_guidance(path, predicts):
    model = mixture(path, predicts)
    null = {"label": torch.tensor([-1])}
    exact = rg.guide.residual(model, 2.5, lambda x, t: model.predict(x, t, {"label": null["label"].expand(len(x))}).data)
    plan = rg.plan("dpmpp_2m", path, nfe=6)
    made = rg.record(exact, plan, 16, condition=1, dtype=torch.float64)
    guided = rg.record(rg.guide.cfg(model, 2.5), plan, 16, condition=1, dtype=torch.float64)
    assert torch.allclose(made.samples, guided.samples, atol=1e-9)
    assert made.ledger.nfe == 6
    assert guided.ledger.nfe == 12


def test_the_one_time_negative_costs_one_evaluation_more():
    model = mixture(rg.paths.VP())
    plan = rg.plan("ddim", model.path, nfe=6)
    recorded = rg.record(rg.guide.residual(model, 2.0), plan, 4, condition=0)
    assert dict(recorded.ledger.evaluations) == {"mixture:conditional": 6, "mixture:unconditional": 1}
    first = recorded.trajectory[0]
    known = model.predict(first, plan.start, {"label": torch.full((4,), -1)}).data
    fixed = rg.guide.residual(model, 2.0, known)
    assert torch.allclose(rg.sample(fixed, plan, x=first, condition=0), recorded.samples, atol=1e-6)


@pytest.mark.parametrize("delta", [1.0, 0.6])
def test_the_formula(delta):
    model, x, t = mixture(rg.paths.VP()), torch.randn(5, 2, dtype=torch.float64), 0.4
    reference = torch.tensor([0.2, -0.1], dtype=torch.float64)
    label = {"label": torch.full((5,), 1)}
    a, s = model.path.a(t), model.path.s(t)
    eps = delta * (x - a * reference) / s
    expected = eps + 1.7 * (model.predict(x, t, label).noise - eps)
    made = rg.guide.residual(model, 1.7, reference, delta=delta).predict(x, t, label).noise
    assert torch.allclose(made, expected, atol=1e-12)


def test_mistakes_are_explained():
    with pytest.raises(BadValue, match="twice"):
        rg.guide.residual(mixture(rg.paths.VP()), 2.0, "twice")  # type: ignore[arg-type]
    with pytest.raises(BadType, match="no condition"):
        rg.guide.residual(GaussianMixture(rg.paths.VP(), MEANS, 0.1), 2.0)
