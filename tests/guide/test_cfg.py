"""Classifier-free guidance: its score is the tilted one, its books are in order, its knob is obeyed row by row."""

import dataclasses

import pytest
import torch

import retrograde as rg
from retrograde.denoisers import KINDS
from retrograde.errors import BadType, BadValue, PlanError, UnknownName

PATH = rg.paths.VP()
MEANS = torch.tensor([[1.5, 0.0], [-0.5, 1.0], [-1.0, -1.0], [0.5, 0.5]])
X = torch.tensor([[0.5, -1.0], [2.0, 0.3], [-0.7, 0.7]], dtype=torch.float64)


def labelled(path: rg.paths.Path = PATH, predicts: str = "data") -> rg.oracles.GaussianMixture:
    variances = torch.tensor([0.3, 0.5, 0.2, 0.4])
    return rg.oracles.GaussianMixture(path, MEANS, variances, labels=[0, 1, 0, 2], predicts=predicts)


@pytest.mark.parametrize("path_name", ["edm", "flow", "vp"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weight", [0.0, 0.5, 2.0, 7.5, -1.0])
def test_guided_score_is_the_tilted_score(weight, kind, path_name, path_called):
    """s_u + w (s_c - s_u) = grad log p(x) (p(c|x))^w, the latter by autograd of two log densities."""
    path = path_called(path_name)
    den = labelled(path, kind)
    t = path.time_of_sigma(0.6)
    only = rg.oracles.GaussianMixture(path, MEANS[[0, 2]], torch.tensor([0.3, 0.2]))
    x = X.clone().requires_grad_(True)
    tilted = den.log_prob(x, t) + weight * (only.log_prob(x, t) - den.log_prob(x, t))
    (gradient,) = torch.autograd.grad(tilted.sum(), x)
    guided = rg.guide.cfg(den, weight)(X, t, label=0)
    assert torch.allclose(guided.score, gradient, rtol=1e-8, atol=1e-8)
    conditional, unconditional = den(X, t, label=0).score, den(X, t).score
    assert torch.allclose(guided.score, unconditional + weight * (conditional - unconditional), rtol=1e-8, atol=1e-8)
    assert torch.allclose(guided.parts["conditional"].score, conditional)
    assert torch.allclose(guided.parts["unconditional"].score, unconditional)


def test_weight_one_is_the_conditional_model_bit_by_bit():
    den = labelled()
    guided = rg.guide.cfg(den, 1.0)
    assert torch.equal(guided(X, 0.4, label=2).value, den(X, 0.4, label=2).value)
    plan = rg.plan("dpmpp_2m", PATH, nfe=6)
    one, other = (rg.record(d, plan, n=3, condition=[0, 1, 2]) for d in (guided, den))
    assert torch.equal(one.samples, other.samples)
    assert dict(one.ledger.evaluations) == {"mixture:conditional": 6}


def test_weight_zero_is_the_unconditional_model():
    den = labelled()
    assert torch.allclose(rg.guide.cfg(den, 0.0)(X, 0.4, label=2).value, den(X, 0.4).value)


def test_both_branches_are_counted_and_asked_in_one_call():
    calls = []

    def network(x, t, label):
        calls.append(label.tolist())
        return x * (1 + 0.1 * label[:, None])

    den = rg.guide.cfg(rg.Denoiser(network, PATH, "data", (2,), {"label": -1}, name="unet"), 3.0)
    rec = rg.record(den, rg.plan("ddim", PATH, nfe=5), n=2, condition=[4, 7])
    assert calls == [[4, 7, -1, -1]] * 5
    assert dict(rec.ledger.evaluations) == {"unet:conditional": 5, "unet:unconditional": 5}
    assert rec.ledger.nfe == 10


def test_the_knob_of_a_row_overrides_the_weight():
    den = rg.guide.cfg(labelled(), 3.0)
    plan = rg.plan("ddim", PATH, nfe=4)
    weights = [1.0, 5.0, 1.0, 0.0]
    rows = [dataclasses.replace(row, knobs={"guidance": w}) for row, w in zip(plan.rows, weights, strict=True)]
    steered = dataclasses.replace(plan, rows=tuple(rows))
    rec = rg.record(den, steered, n=2, condition=0, dtype=torch.float64)
    assert dict(rec.ledger.evaluations) == {"mixture:conditional": 4, "mixture:unconditional": 2}
    for k, (state, w) in enumerate(zip(rg.steps(steered, den, n=2, condition=0, dtype=torch.float64), weights, strict=True)):
        alone = rg.guide.cfg(labelled(), w)(rec.trajectory[k], plan.times[k], label=0)
        assert torch.equal(state.prediction.value, alone.value)


def test_a_knob_nobody_obeys_is_an_error():
    plan = rg.plan("ddim", PATH, nfe=2)
    rows = [dataclasses.replace(row, knobs={"guidance": 2.0}) for row in plan.rows]
    knobs = dataclasses.replace(plan, rows=tuple(rows))
    with pytest.raises(PlanError, match="'guidance' of ddim@1, consumed by 0 parts"):
        rg.sample(labelled(), knobs, condition=0)
    misspelt = dataclasses.replace(plan, rows=tuple(dataclasses.replace(r, knobs={"guidence": 2.0}) for r in plan.rows))
    with pytest.raises(PlanError, match="'guidence'"):
        rg.sample(rg.guide.cfg(labelled(), 2.0), misspelt, condition=0)
    assert rg.sample(rg.guide.cfg(labelled(), 3.0), knobs, condition=0).isfinite().all()


def test_a_negative_condition_takes_the_place_of_the_null_one():
    den = labelled()
    guided = rg.guide.cfg(den, 2.0, negative={"label": 1})
    away, towards = den(X, 0.4, label=1).value, den(X, 0.4, label=0).value
    assert torch.allclose(guided(X, 0.4, label=0).value, away + 2.0 * (towards - away))


def test_guidance_works_on_another_path():
    guided = rg.guide.cfg(labelled(), 2.5)
    plan = rg.plan("dpmpp_2m", rg.paths.EDM(), nfe=8, start=30.0, sigma_min=0.02)
    on_its_own = rg.guide.cfg(labelled(rg.paths.EDM()), 2.5)
    one, other = (rg.sample(d, plan, n=3, condition=[0, 1, 2], dtype=torch.float64) for d in (guided, on_its_own))
    assert torch.allclose(one, other, atol=1e-7)


def test_mistakes_are_explained():
    with pytest.raises(BadType, match="takes no condition"):
        rg.guide.cfg(rg.oracles.Gaussian(PATH, torch.zeros(2), 1.0), 2.0)
    with pytest.raises(BadValue, match="a finite number"):
        rg.guide.cfg(labelled(), float("nan"))
    with pytest.raises(UnknownName, match="did you mean 'label'"):
        rg.guide.cfg(labelled(), 2.0, negative={"lable": 1})
