"""CFG++ as a column of the table against the published step, whatever the path, the noise and the basis."""

import dataclasses
import math

import pytest
import torch

import retrograde as rg
from retrograde.errors import BadValue, PlanError


@pytest.mark.parametrize("eta", [0.0, 0.7])
@pytest.mark.parametrize("path_name", ["vp", "edm", "flow"])
def test_it_is_the_published_step(path_name, eta, path_called, labelled):
    """x' = a' (D_u + scale (D_c - D_u)) + sqrt(s'^2 - u^2) E_u + u eps, every row."""
    path = path_called(path_name)
    den, scale = labelled(path), 0.6
    plan = rg.guide.cfgpp(rg.plan("ddim", path, nfe=7, eta=eta), scale)
    guided = rg.guide.cfg(den, 1.0)
    before = rg.record(guided, plan, n=3, condition=[0, 1, 2], dtype=torch.float64).trajectory[0]
    for state in rg.steps(plan, guided, n=3, condition=[0, 1, 2], dtype=torch.float64):
        t, after = state.row.time, state.row.next_time
        conditional, null = den.predict(before, t, {"label": torch.tensor([0, 1, 2])}), den.predict(before, t)
        u = state.row.noises[0] if state.row.noises else 0.0
        a, s = (1.0, 0.0) if after is None else (path.a(after), path.s(after))
        expected = a * torch.lerp(null.data, conditional.data, scale)
        expected = expected + (math.sqrt(max(s * s - u * u, 0.0)) * null.noise if s else 0.0)
        expected = expected + (u * state.memory.noises[0] if u else 0.0)
        assert torch.allclose(state.x_t, expected, rtol=1e-8, atol=1e-8)
        before = state.x_t


def test_no_scale_is_the_unconditional_model(labelled):
    den, plan = labelled(rg.paths.VP()), rg.plan("ddim", rg.paths.VP(), nfe=6)
    steered = rg.guide.cfgpp(plan, 0.0)
    one = rg.sample(rg.guide.cfg(den, 3.0), steered, n=3, condition=0, dtype=torch.float64)
    assert torch.equal(one, rg.sample(rg.guide.cfg(den, 0.0), plan, n=3, condition=0, dtype=torch.float64))


def test_weights_rise_to_the_scale_and_rows_keep_their_coefficients(labelled):
    plan = rg.plan("ddim", rg.paths.VP(), nfe=8)
    steered = rg.guide.cfgpp(plan, 0.5)
    bare = [dataclasses.replace(row, knobs={}) for row in steered.rows]
    assert bare == list(plan.rows)
    assert steered.rows[-1].next_time is None
    assert steered.rows[-1].knobs["guidance"] == pytest.approx(0.5)


def test_mistakes_are_explained():
    first, second = (rg.plan(name, rg.paths.VP(), nfe=5) for name in ("ddim", "dpmpp_2m"))
    with pytest.raises(PlanError, match="dpmpp_2m"):
        rg.guide.cfgpp(second, 0.6)
    with pytest.raises(BadValue, match="scale"):
        rg.guide.cfgpp(first, math.inf)
    plan = rg.guide.cfgpp(first, 0.6)
    with pytest.raises(PlanError, match="consumed by 0 parts"):
        rg.sample(rg.oracles.Gaussian(rg.paths.VP(), torch.zeros(2), 1.0), plan)
