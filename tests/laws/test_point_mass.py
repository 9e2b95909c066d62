"""Data that is a single point is sampled exactly by every recipe, for every budget, and the budget is met exactly."""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any

import pytest
import torch

import retrograde as rg
from retrograde.denoisers import KINDS, Prediction
from retrograde.denoisers.denoiser import NOTHING, AbstractDenoiser
from retrograde.errors import BadValue, PlanError

# these discretize the linear part of the SDE too, as published, and declare that they miss the point on the way to it
# (seeds_1 and mrs_noise_sde solve that part exactly, but hold the mean of the noise while they add noise)
DISCRETIZED = ("euler_maruyama", "mrs_noise_sde", "predictor_corrector", "reverse_diffusion", "seeds_1")
# the latent noise of an interpolant falls again towards its start: no chain that adds noise has it
NO_CHAIN = {("rddm", "interpolant"), ("resfusion", "interpolant")}
POINT = torch.tensor([[0.5, -2.0, 1.25]], dtype=torch.float64)


@dataclasses.dataclass(frozen=True, eq=False)
class PointMass(AbstractDenoiser):
    """Knows the one point of the data; written down apart from the oracles, which it helps to judge."""

    path: rg.paths.Path
    predicts: str = "data"
    shape: tuple[int, ...] = (3,)
    conditions: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    consumes: frozenset[str] = frozenset()
    name: str = "point"

    def network_time(self, t: float) -> float:
        return t

    def snap(self, t: float) -> float:
        return t

    def predict(self, x_t, t, condition=NOTHING, knobs=NOTHING, network_time=None) -> Prediction:
        data = POINT.expand_as(x_t)
        a, s = self.path.a(t), self.path.s(t)
        y = condition.get("anchor", torch.zeros_like(x_t))
        noise = (x_t - a * data - self.path.b(t) * y) / s
        value = {
            "data": lambda: data,
            "noise": lambda: noise,
            "score": lambda: -noise / s,
            "v": lambda: a * noise - s * data,
            "velocity": lambda: self.path.a_dot(t) * data + self.path.b_dot(t) * y + self.path.s_dot(t) * noise,
        }[self.predicts]()
        return Prediction(
            x_t, t, self.path, value, self.predicts, evaluations={self.name: 1}, anchor=condition.get("anchor")
        )


# small budgets on every path, those to 30 on the paths by turns; of those above some, in `make slow` all
@pytest.mark.parametrize("above", [15, pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.parametrize("path_name", ["edm", "flow", "vp"])
@pytest.mark.parametrize("name", rg.recipes.names())
def test_every_budget_from_one_to_a_hundred_is_met_and_exact(name, path_name, above, path_called):
    path = path_called(path_name)
    den = PointMass(path)
    turn = ("edm", "flow", "vp").index(path_name)
    for nfe in (nfe for nfe in range(1, 101) if nfe <= 10 or nfe % (3 if nfe <= 30 else above) == turn):
        plan = rg.plan(name, path, nfe=nfe)
        assert plan.nfe == nfe
        assert not plan.misses or name in DISCRETIZED
        if nfe <= 20 or nfe % 10 == 0:
            sample = rg.sample(den, plan, n=1, seed=nfe, dtype=torch.float64)
            assert (sample - POINT).abs().max() < 1e-9


@pytest.mark.parametrize("path_name", rg.paths.names())
@pytest.mark.parametrize("name", rg.recipes.names())
def test_every_path_is_sampled(name, path_name, path_called, anchor_for):
    path = path_called(path_name)
    den = PointMass(path, predicts="velocity")
    if rg.recipes.get(name).stochastic and "sde" not in path.identities:
        with pytest.raises(PlanError, match="draws Gaussian noise"):
            rg.plan(name, path, nfe=7)
        return
    # what an anchor adds is one coefficient a row; the ordinary paths see every way to deal out a budget
    budgets = (1, 3, 12) if path.anchored else (1, 2, 3, 4, 5, 7, 12)
    if (name, path_name) in NO_CHAIN:
        with pytest.raises(BadValue, match="the noise of the path rises"):
            rg.plan(name, path, nfe=7)
        return
    for nfe, grid in zip(budgets, itertools.cycle(("karras", "log_snr", "uniform"))):
        plan = rg.plan(name, path, nfe=nfe, grid=grid)
        assert plan.nfe == nfe
        sample = rg.sample(den, plan, n=1, dtype=torch.float64, **anchor_for(path, 3))
        # the plan that steps along a curve by its tangent misses the point, and says so; the end row reads it exactly
        assert (sample - POINT).abs().max() < (1e-6 if not plan.misses else 1e-4), (grid, nfe)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", rg.recipes.names())
def test_the_parameterization_of_the_network_does_not_matter(name, kind, path_called):
    path = path_called("vp")
    sample = rg.sample(PointMass(path, predicts=kind), rg.plan(name, path, nfe=11), n=2, dtype=torch.float64)
    assert (sample - POINT).abs().max() < 1e-9


@pytest.mark.parametrize("name", rg.recipes.names())
def test_a_recipe_that_claims_no_miss_has_none(name, path_called):
    """`misses` is earned by failing the law, not by being allowed to."""
    if name in DISCRETIZED:
        assert all(rg.plan(name, path_called(path), nfe=9).misses for path in ("edm", "flow", "vp"))
        return
    straight = rg.plan(name, path_called("flow"), nfe=9)
    assert not straight.misses
    curved = rg.plan(name, path_called("trigonometric"), nfe=9)
    assert bool(curved.misses) == (rg.recipes.get(name).approximate and curved.basis == "velocity")
