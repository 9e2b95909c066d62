"""An anchor y beside the data: for fixed y, x_t - b y is an ordinary path, and nothing else changes."""

import dataclasses
import json

import pytest
import torch

import retrograde as rg
from retrograde.controllers import adaptive
from retrograde.denoisers import on_path
from retrograde.errors import PlanError, ShapeError, UnknownName
from retrograde.linear import LinearMap
from retrograde.plan import Plan, Row

DOUBLE = torch.float64
Y = torch.tensor([[0.4, -1.1], [2.0, 0.3], [-0.7, 0.9], [1.2, 1.6]], dtype=DOUBLE)
BASE = rg.paths.VP()
REVERTING = rg.paths.MeanReverting(BASE, spread=1.0)


@pytest.mark.parametrize("path", [REVERTING, rg.paths.Offset(BASE)], ids=lambda path: path.name)
# the chain of Resfusion asks the anchor's share how much noise to renew; interpolant_heun steps in x/b, not in x
@pytest.mark.parametrize("name", [name for name in rg.recipes.names() if name not in ("resfusion", "interpolant_heun")])
def test_every_recipe_steps_as_on_the_ordinary_path(name, path, mixture):
    """The same noise gives the same samples, and at every level the same state moved by b y."""
    plan = rg.plan(name, path, nfe=9)
    moved = rg.record(mixture(path), plan, seed=3, anchor=Y, signal=torch.zeros_like(Y), dtype=DOUBLE)
    plain = rg.record(mixture(BASE), rg.plan(name, BASE, nfe=9), n=4, seed=3, dtype=DOUBLE)
    assert torch.allclose(moved.samples, plain.samples, rtol=0, atol=1e-9)
    for row, x, other in zip(plan.rows, moved.trajectory[1:], plain.trajectory[1:], strict=True):
        held = 0.0 if row.next_time is None else path.b(row.next_time)
        assert torch.allclose(x - held * Y, other, rtol=0, atol=1e-9)


def test_batches_do_not_matter(mixture):
    den, plan = mixture(REVERTING), rg.plan("dpmpp_2m_sde", REVERTING, nfe=6)
    batch = rg.sample(den, plan, seed=1, anchor=Y)
    assert batch.shape == (4, 2)
    for size in (1, 3):
        assert torch.equal(rg.sample(den, plan, n=4, seed=1, anchor=Y, batch_size=size), batch)
    for i in range(4):
        assert torch.equal(rg.sample(den, plan, seed=1, items=[i], anchor=Y[i : i + 1]), batch[i : i + 1])
    one = rg.sample(den, plan, n=2, seed=1, anchor=Y[0])
    assert torch.equal(one, rg.sample(den, plan, n=2, seed=1, anchor=Y[[0, 0]]))
    assert torch.equal(one, rg.sample(den, plan, n=2, seed=1, anchor=Y[0], batch_size=1))
    assert torch.equal(one, rg.sample(den, plan, n=2, seed=1, condition={"anchor": Y[[0, 0]]}))
    assert not torch.equal(one[1], batch[1])


def test_a_run_begins_where_the_path_says(mixture):
    """At b y + s eps, and where y is degraded data at (a + b) y + s eps = y + s eps; or from given data."""
    for path in (rg.paths.ResidualShift(), rg.paths.OrnsteinUhlenbeck(), rg.paths.Offset(), rg.paths.ResidualNoise()):
        den, plan = mixture(path), rg.plan("dpmpp_2m", path, nfe=4)
        start = rg.record(den, plan, seed=2, anchor=Y, dtype=DOUBLE).trajectory[0]
        signal = torch.ones_like(Y)
        given = rg.record(den, plan, seed=2, anchor=Y, signal=signal).trajectory[0]
        a, b = path.a(plan.start), path.b(plan.start)
        guess = Y if path.name in ("residual_shift", "ornstein_uhlenbeck") else 0.0 * Y
        assert torch.allclose(start - given, a * (guess - signal), atol=1e-12)
        share = 0.5 if path.name == "residual_noise" else 1.0
        assert torch.allclose(start - (b + a * path.guess) * Y, start - share * Y, atol=1e-12)


def test_a_cut_plan_continues_and_survives_its_file(mixture, tmp_path):
    den = mixture(REVERTING)
    for name in ("dpmpp_3m", "heun", "unipc_2", "dpmpp_sde"):
        plan = rg.plan(name, REVERTING, nfe=8)
        plan.save(tmp_path / "plan.json")
        assert Plan.load(tmp_path / "plan.json") == plan
        assert str(Plan.load(tmp_path / "plan.json")) == str(plan)
        whole = rg.sample(den, plan, seed=5, anchor=Y)
        for state in rg.steps(plan, den, seed=5, n=4, anchor=Y):
            if state.index + 1 < len(plan):
                rest = plan[state.index + 1 :]
                assert torch.equal(rg.sample(den, rest, seed=5, state=state, anchor=Y), whole), (name, state.index)


@pytest.mark.parametrize("name", rg.recipes.names())
def test_every_recipe_starts_from_a_lower_level(name, mixture):
    lower = rg.plan(name, REVERTING, nfe=9).from_noise(3.0)  # its laws are checked where it is made
    assert lower.history == 0
    assert rg.sample(mixture(REVERTING), lower, signal=Y, anchor=Y).isfinite().all()


def test_the_table_shows_what_it_adds_of_the_anchor(tmp_path):
    plan = rg.plan("ddim", REVERTING, nfe=3)
    assert "anchor" in str(plan).splitlines()[1]
    ordinary = rg.plan("ddim", BASE, nfe=3)
    assert "anchor" not in str(ordinary)
    ordinary.save(tmp_path / "plan.json")
    assert all("anchor" not in row for row in json.loads((tmp_path / "plan.json").read_text())["rows"])
    b = REVERTING.b
    for row in plan.rows[:-1]:
        assert row.anchor == pytest.approx(b(row.next_time) - row.states[0] * b(row.time), abs=1e-15)


def test_a_wrong_share_of_the_anchor_breaks_the_law():
    plan = rg.plan("dpmpp_2m", REVERTING, nfe=5)
    rows = [dataclasses.replace(row, anchor=1.01 * row.anchor) if i == 2 else row for i, row in enumerate(plan.rows)]
    with pytest.raises(PlanError, match=r"row 2 of custom@1 breaks the law 'point mass': it lands on .* of the anchor"):
        Plan(REVERTING, rows, plan.basis)


def test_an_anchor_out_of_place_is_named(mixture):
    den, plan = mixture(REVERTING), rg.plan("ddim", REVERTING, nfe=3)
    with pytest.raises(PlanError, match="without its anchor y"):
        rg.sample(den, plan)
    with pytest.raises(PlanError, match="without its anchor y"):
        den(Y, 0.5)
    with pytest.raises(PlanError, match="without its anchor y"):
        rg.run(plan, den, Y).send(None)
    for shape in ((2, 2), (4, 3), (3,), (1, 4, 2)):
        with pytest.raises(ShapeError, match="an anchor of shape"):
            rg.sample(den, plan, n=3, anchor=torch.zeros(shape))
    ordinary = mixture(BASE)
    with pytest.raises(PlanError, match="an anchor for a plan on path 'vp', which has none"):
        rg.sample(ordinary, rg.plan("ddim", BASE, nfe=3), anchor=Y)
    with pytest.raises(PlanError, match="an anchor on path 'vp', which has none"):
        ordinary(Y, 0.5, anchor=Y)
    with pytest.raises(PlanError, match="adds an anchor, which its path lacks"):
        Plan(BASE, (Row(0.5, None, (0.0,), (1.0,), anchor=0.1),))
    with pytest.raises(PlanError, match="maps a state which holds the anchor"):
        Plan(REVERTING, (Row(0.5, None, (LinearMap(torch.eye(2), torch.ones(2), 1.0),), (0.0,)),))
    with pytest.raises(UnknownName, match="reverting_v"):
        rg.Denoiser(lambda x, t, anchor: x, REVERTING, "residuals", (2,))
    with pytest.raises(UnknownName, match="residual"):
        rg.Denoiser(lambda x, t: x, BASE, "residual", (2,))


@pytest.mark.parametrize("kind", ["data", "noise", "v", "velocity", "score", "residual", "reverting_v", "edm"])
def test_a_network_is_told_the_anchor_and_may_predict_what_the_path_knows(kind, mixture):
    oracle, plan = mixture(REVERTING), rg.plan("dpmpp_2m", REVERTING, nfe=7)

    def network(x: torch.Tensor, told: torch.Tensor, anchor: torch.Tensor) -> torch.Tensor:
        t = float(told[0].double())
        if kind != "edm":
            return oracle(x, t, anchor=anchor).read(kind)
        sigma = REVERTING.sigma(t)
        y = x * (sigma**2 + 0.25) ** 0.5  # the preconditioned input is that of x_t - b y
        data = oracle(REVERTING.a(t) * y + REVERTING.b(t) * anchor, t, anchor=anchor).data
        return (data - 0.25 / (sigma**2 + 0.25) * y) * (sigma**2 + 0.25) ** 0.5 / (0.5 * sigma)

    den = rg.Denoiser(network, REVERTING, kind, (2,), clock=lambda t: t)
    samples = rg.sample(den, plan, anchor=Y, dtype=DOUBLE)
    assert torch.allclose(samples, rg.sample(oracle, plan, anchor=Y, dtype=DOUBLE), atol=1e-4)  # told in float32

    renamed = dataclasses.replace(den, network=lambda x, t, low: network(x, t, low), anchor="low")
    assert torch.equal(rg.sample(renamed, plan, anchor=Y, dtype=DOUBLE), samples)
    deaf = dataclasses.replace(den, network=lambda x, t: x, predicts="noise", anchor=None)
    assert rg.sample(deaf, plan, anchor=Y).isfinite().all()


def test_guidance_keeps_the_anchor_in_both_branches():
    path = REVERTING
    means = torch.tensor([[1.0, 0.5], [-0.8, 0.9]])
    oracle = rg.oracles.GaussianMixture(path, means, 0.3, labels=[0, 1])
    moved = rg.guide.cfg(oracle, weight=2.0)
    plain = rg.guide.cfg(dataclasses.replace(oracle, path=BASE), weight=2.0)
    samples = rg.sample(moved, rg.plan("ddim", path, nfe=6), anchor=Y, condition=1, signal=0 * Y, dtype=DOUBLE)
    assert torch.allclose(samples, rg.sample(plain, rg.plan("ddim", BASE, nfe=6), n=4, condition=1, dtype=DOUBLE), atol=1e-9)

    def network(x: torch.Tensor, told: torch.Tensor, label: torch.Tensor, anchor: torch.Tensor) -> torch.Tensor:
        return torch.stack(
            [oracle(x[i : i + 1], float(told[i]), label=int(label[i]), anchor=anchor[i]).velocity[0] for i in range(len(x))]
        )

    den = rg.guide.cfg(rg.Denoiser(network, path, "velocity", (2,), conditions={"label": -1}), weight=2.0)
    again = rg.sample(den, rg.plan("ddim", path, nfe=6), anchor=Y, condition=1, signal=0 * Y, dtype=DOUBLE)
    assert torch.allclose(again, samples, atol=1e-4)


def test_a_denoiser_of_an_anchored_path_serves_an_ordinary_plan_and_the_other_way_round(mixture):
    plan = rg.plan("dpmpp_2m", rg.paths.EDM(), nfe=8, sigma_min=0.02, sigma_max=50.0)
    den = mixture(REVERTING, "velocity")
    samples = rg.sample(den, plan, n=4, anchor=Y, dtype=DOUBLE)
    wide = mixture(rg.paths.EDM(1e-4, 1e4))
    assert torch.allclose(samples, rg.sample(wide, plan, n=4, dtype=DOUBLE), atol=1e-9)
    with pytest.raises(PlanError, match="without its anchor y"):
        rg.sample(den, plan, n=4)
    t = torch.tensor([0.2, 0.4, 0.6, 0.8], dtype=DOUBLE)
    read = on_path(wide, REVERTING)(Y, t, anchor=Y).velocity
    assert torch.allclose(read, mixture(REVERTING)(Y, t, anchor=Y).velocity, atol=1e-9)


@pytest.mark.parametrize("path", [REVERTING, rg.paths.ResidualNoise()], ids=lambda path: path.name)
def test_a_controller_need_not_know_of_the_anchor(path, mixture):
    den = mixture(path)
    it = adaptive(den, "dpm_23", rtol=0.05)
    start = {"start": path.sigma(0.9 * path.t_max)} if path.a(path.t_max) == 0.0 else {}
    it = adaptive(den, "dpm_23", rtol=0.05, **start)
    rec = rg.record(den, it.plan, n=4, seed=4, anchor=Y, dtype=DOUBLE, controllers=[it])
    assert all(row.anchor is not None for row in rec.plan.rows)
    assert torch.equal(rg.sample(den, rec.plan, n=4, seed=4, anchor=Y, dtype=DOUBLE), rec.samples)


def test_coefficients_may_be_tensors(mixture):
    den, plan = mixture(REVERTING), rg.plan("dpmpp_2m", REVERTING, nfe=5)
    rows = [
        dataclasses.replace(row, states=tuple(torch.full((2,), c, dtype=DOUBLE) for c in row.states), anchor=None)
        for row in plan.rows
    ]
    tensors = Plan(plan.path, rows, plan.basis, plan.recipe)
    assert isinstance(tensors[0].anchor, torch.Tensor)
    one, other = (rg.sample(den, p, anchor=Y, dtype=DOUBLE) for p in (plan, tensors))
    assert torch.allclose(one, other, rtol=1e-12, atol=1e-12)


def test_gradients_reach_the_anchor(mixture):
    den, plan = mixture(REVERTING), rg.plan("ddim", REVERTING, nfe=4)
    gradients = []
    for mode in ("unroll", "checkpoint"):
        y = Y.clone().requires_grad_(True)
        rg.sample(den, plan, anchor=y, signal=Y, gradient=mode, dtype=DOUBLE).sum().backward()
        gradients.append(y.grad)
    # with the start moved along, the samples do not depend on y at all
    assert all(gradient is not None and gradient.abs().max() < 1e-9 for gradient in gradients)


def test_the_loop_with_an_anchor_is_one_graph():
    def network(x: torch.Tensor, told: torch.Tensor, anchor: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x - anchor)

    den, plan = rg.Denoiser(network, REVERTING, "noise", (2,)), rg.plan("dpmpp_2m", REVERTING, nfe=4)
    compiled = torch.compile(lambda x, y: rg.sample(den, plan, x=x, anchor=y), fullgraph=True, backend="eager")
    assert torch.equal(compiled(2.0 * Y, Y), rg.sample(den, plan, x=2.0 * Y, anchor=Y))
