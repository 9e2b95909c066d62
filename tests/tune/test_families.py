import dataclasses
import math

import pytest
import torch

import retrograde as rg
from retrograde.errors import BadValue, ShapeError
from retrograde.linear import LinearMap
from retrograde.run import run
from retrograde.tune import EFFORTS
from retrograde.tune.families import cosines, per_band
from retrograde.tune.fit import Fitter, ridge_towards
from retrograde.tune.teacher import teach

SHAPE = (2, 8, 8)


@pytest.fixture(scope="module")
def images():
    means = torch.randn(5, *SHAPE, generator=torch.Generator().manual_seed(3))
    return rg.oracles.GaussianMixture(rg.paths.EDM(), means, 0.05)


def test_the_cosine_basis_diagonalizes_what_blurs_alike_everywhere():
    basis, bands = cosines(SHAPE, 3)
    assert torch.allclose(basis.T @ basis, torch.eye(128), atol=1e-5)
    image = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(0))
    padded = torch.nn.functional.pad(image, (1, 1, 1, 1), mode="replicate")
    blurred = torch.nn.functional.avg_pool2d(padded, 3, 1)
    before, after = (z.flatten(1) @ basis for z in (image, blurred))
    factors = after / before
    k = torch.arange(8.0)
    exact = (1 + 2 * torch.cos(math.pi * k / 8)) / 3
    assert torch.allclose(factors.reshape(2, 8, 8), (exact[:, None] * exact).expand(2, 8, 8), atol=1e-3)
    # two of eight frequencies on a side lie below a quarter of the highest, four below a half
    assert torch.bincount(bands).tolist() == [2 * 4, 2 * 12, 2 * 48]


def test_bands_recover_a_factor_for_each_and_are_pulled_towards_none():
    generator = torch.Generator().manual_seed(1)
    regressors = [torch.randn(40, 128, generator=generator) for _ in range(2)]
    basis, bands = cosines(SHAPE, 3)
    factors = torch.tensor([[0.3, -0.2, 0.1], [0.5, 0.7, -0.4]])
    residual = sum(((z @ basis) * f[bands]) @ basis.T for z, f in zip(regressors, factors, strict=True))
    scalar = [1.0, 2.0]
    made = per_band(regressors, residual, SHAPE, 3, 0.0, scalar)
    left = residual + sum(w * z for w, z in zip(scalar, regressors, strict=True))
    assert torch.allclose(sum(one(z) for one, z in zip(made, regressors, strict=True)), left, atol=1e-4)
    held = per_band(regressors, residual, SHAPE, 3, 1e9, scalar)
    assert all(torch.allclose(one(z), w * z, atol=1e-4) for one, z, w in zip(held, regressors, scalar, strict=True))


def test_bands_refuse_what_has_none():
    with pytest.raises(ShapeError, match="bands"):
        cosines((64,), 2)
    with pytest.raises(ShapeError):
        cosines((4, 64, 64), 2)
    with pytest.raises(BadValue, match="2 to 3"):
        cosines(SHAPE, 7)


def test_a_fit_refuses_bands_before_any_work(mixture):
    stages = []
    effort = dataclasses.replace(EFFORTS["seconds"], bands=(2,))
    with pytest.raises(ShapeError, match=r"Effort\(bands=\(\)\)"):
        rg.tune(mixture, 3, effort=effort, progress=lambda stage, part: stages.append(stage))
    assert stages == []


def test_a_ridge_over_earlier_states_penalizes_differences():
    """After the state and two predictions come two earlier states, the first of them told from the state."""
    generator = torch.Generator().manual_seed(0)
    z = [torch.randn(50, 3, generator=generator) for _ in range(5)]
    target, prior, ridge = torch.randn(50, 3, generator=generator), [1.0, -2.0, 0.5, 0.0, 0.0], 0.3
    u = torch.stack([one.flatten() for one in (z[0], z[1], z[2] - z[1], z[3] - z[0], z[4] - z[3])], 1).double()
    # w = A v where the sum of w_i z_i is that of v_i u_i
    to_parts = torch.tensor([[1.0, 0, 0, -1, 0], [0, 1, -1, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 1, -1], [0, 0, 0, 0, 1]])
    to_parts = to_parts.double()
    v0 = torch.linalg.solve(to_parts, torch.tensor(prior, dtype=torch.float64))
    held = (ridge * u.square().sum(0)).sqrt()
    columns, goal = torch.cat([u, held.diag()]), torch.cat([target.flatten().double(), held * v0])
    exact = to_parts @ torch.linalg.lstsq(columns, goal[:, None]).solution[:, 0]
    assert torch.allclose(torch.tensor(ridge_towards(prior, z, target, ridge, 2)).double(), exact, atol=1e-6)


@pytest.mark.parametrize(
    "family", [{"bands": 2}, {"past": 2}, {"memory": 1}, {"memory": 6, "past": 1, "element": 0.1}], ids=str
)
def test_a_plan_runs_as_its_fit_did(images, family):
    teacher = teach(images, 24, 0, levels=16)
    fitter = Fitter(images, teacher, {}, **family)
    arrived = fitter.run((2, 6, 9, 13))[1]
    made = list(run(fitter.plan(arrived.rows, {}), images, teacher.states[0].reshape(-1, *SHAPE)))[-1].x_t
    assert torch.allclose(made.flatten(1), arrived.x, atol=1e-4)
    last = arrived.rows[-1]
    assert isinstance(last.states[0], LinearMap) == ("bands" in family)
    assert len(last.states) == 1 + family.get("past", 0)
    assert len(last.outputs) == min(4, family.get("memory", 4))


def test_a_fit_with_one_prediction_held_to_theory_is_exact_on_a_point(images):
    teacher = teach(images, 8, 0, levels=16)
    rows = Fitter(images, teacher, {}, ridge=1e12, memory=1).run((0, 5, 9, 13))[1].rows
    point = rg.oracles.GaussianMixture(rg.paths.EDM(), torch.ones(1, *SHAPE), 0.0)
    plan, noise = Fitter(images, teacher, {}).plan(rows, {}), teacher.states[0].reshape(-1, *SHAPE)
    for state in run(plan, point, noise):
        sigma = 0.0 if state.t is None else state.t
        assert torch.allclose(state.x_t, 1 + sigma / plan.start * (noise - 1), rtol=1e-3, atol=1e-3)


def test_a_network_that_mistakes_the_time_is_told_another(mixture):
    """It takes every level for a half of what it is told; told twice the level, it is exact again."""

    def mistaken(x, sigma, **conditions):
        return mixture(x, 0.5 * float(sigma[0])).data

    denoiser = rg.Denoiser(mistaken, mixture.path, predicts="data", shape=(64,))
    teacher, levels = teach(mixture, 64, 0, levels=24), (4, 8, 11, 14, 18)
    exact = Fitter(mixture, teacher, {}).run(levels)[1]
    fitter = Fitter(denoiser, teacher, {})
    wrong, told = fitter.run(levels)[1], fitter.run_told(levels, (-2 * math.log(2.0), 0.0, 2 * math.log(2.0)))
    error = [float((one.x - teacher.end).square().mean().sqrt()) for one in (exact, wrong, told)]
    assert error[2] < 1.02 * error[0] < 0.8 * error[1]
    first = told.rows[1:4]  # at lower levels it does not matter
    assert [row.network_time for row in first] == [pytest.approx(2 * row.time, rel=1e-6) for row in first]
    plan = fitter.plan(told.rows, {})
    made = list(run(plan, denoiser, teacher.states[0]))[-1].x_t
    assert torch.allclose(made.flatten(1), told.x, atol=1e-4)
    kept = fitter.run_told(levels, (0.0,))
    assert [row.network_time for row in kept.rows] == [None] * len(kept.rows)
    assert torch.equal(kept.x, wrong.x)
