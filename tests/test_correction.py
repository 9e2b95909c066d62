import dataclasses

import pytest
import torch

import retrograde as rg
from retrograde.correction import Correction
from retrograde.errors import BadValue, PlanError, ShapeError
from retrograde.plan import Plan, Row

IMAGE, VECTOR = (2, 32, 16), (5,)


def correction(shape, inputs=2, conditions=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    made = Correction.initial(shape, inputs, conditions or {}, width=6, depth=2, generator=generator)
    weights = {name: torch.randn(value.shape, generator=generator) * 0.2 for name, value in made.weights.items()}
    return dataclasses.replace(made, weights=weights)


@pytest.mark.parametrize("shape", [IMAGE, VECTOR])
def test_it_begins_with_nothing(shape):
    x = torch.randn(3, *shape)
    initial = Correction.initial(shape, 2, {"label": 4}, width=6, depth=2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(initial(x, [x, x], {"label": torch.tensor([0, 1, 3])}), torch.zeros_like(x))


@pytest.mark.parametrize("shape", [IMAGE, VECTOR])
def test_it_sees_the_state_and_its_own_number_of_predictions(shape):
    g = correction(shape)
    x, m, older = torch.randn(3, 4, *shape)
    made = g(x, [m, older], {})
    assert made.shape == x.shape
    assert torch.equal(made, g(x, [m, older + 1], {}))
    assert not torch.allclose(made, g(x, [m + 0.1, older], {}))
    assert not torch.allclose(made, g(x + 0.1, [m, older], {}))


def test_a_dense_one_is_the_formula():
    g = correction(VECTOR, 2, {"label": 3})
    w, x, m = g.weights, torch.randn(4, 5), torch.randn(4, 5)
    label = torch.tensor([2, 0, 1, 1])
    h = torch.cat([x, m], 1) @ w["in"].T + w["in.bias"] + w["condition.label"][label]
    for i in ("0", "1"):
        h = h + (h * torch.sigmoid(h)) @ w[i].T + w[f"{i}.bias"]
    expected = (h * torch.sigmoid(h)) @ w["out"].T + w["out.bias"]
    assert torch.allclose(g(x, [m], {"label": label}), expected, atol=1e-5)


def test_a_vector_condition_is_told_by_a_matrix():
    g = correction(VECTOR, 1, {"text": 6})
    x, text = torch.randn(4, 5), torch.randn(4, 2, 3)
    assert not torch.allclose(g(x, [], {"text": text}), g(x, [], {"text": text * 2}))


def test_an_image_is_folded_to_sixteen_pixels_and_its_cost_counted():
    g = correction(IMAGE)
    assert g.fold == 2
    assert g.weights["place"].shape == (6, 16, 8)
    maps = 9 * (2 * 2 * 4 * 6 + 2 * 6 * 6 + 6 * 2 * 4)
    assert g.multiplications == maps * 16 * 8
    assert g.parameters == maps + 3 * 6 + 8 + 6 * 16 * 8
    assert correction((1, 9, 9)).fold == 1


def plan_with(path, g, coefficients=1):
    rows = (
        Row(path.t_max, 1.0, (0.0,), (1.0,), correction=None),
        Row(1.0, None, (0.0,), (1.0,) + (0.0,) * (coefficients - 1), correction=g),
    )
    return Plan(path, rows, "data", "mine@1", path.t_max, ("point mass",))


@pytest.fixture
def gaussian():
    return rg.oracles.Gaussian(rg.paths.EDM(), torch.zeros(5), torch.eye(5))


def test_a_run_adds_it_to_the_row(gaussian):
    g = correction(VECTOR, 3)
    plan, without = plan_with(gaussian.path, g, 2), plan_with(gaussian.path, None, 2)
    state = list(rg.steps(plan, gaussian, 4, 0))[-1]
    plain = list(rg.steps(without, gaussian, 4, 0))[-1]
    asked = state.memory.outputs
    expected = plain.x_t + g(asked[1], asked, {})  # the first row returned its prediction
    assert torch.allclose(state.x_t, expected, atol=1e-6)
    assert not torch.allclose(state.x_t, plain.x_t, atol=1e-3)
    assert plan.nfe == without.nfe == 2


def test_it_survives_the_file_and_is_printed(gaussian, tmp_path):
    plan = plan_with(gaussian.path, correction(VECTOR))
    plan.save(tmp_path / "plan.json")
    loaded = rg.Plan.load(tmp_path / "plan.json")
    assert loaded == plan
    assert loaded != plan_with(gaussian.path, correction(VECTOR, seed=1))
    assert torch.equal(rg.sample(gaussian, loaded, n=3), rg.sample(gaussian, plan, n=3))
    assert f"{plan.rows[1].correction.parameters} weights" in str(plan)


def test_the_laws_see_it(gaussian):
    with pytest.raises(PlanError, match="2 outputs beside 1"):
        plan_with(gaussian.path, correction(VECTOR, 3))
    bad = correction(VECTOR)
    bad.weights["out"][0, 0] = torch.nan
    with pytest.raises(PlanError, match="finite"):
        plan_with(gaussian.path, bad)
    with pytest.raises(PlanError, match="point mass"):
        dataclasses.replace(plan_with(gaussian.path, correction(VECTOR)), misses=())


def test_a_plan_cut_short_of_history_goes_without_it(gaussian):
    cut = plan_with(gaussian.path, correction(VECTOR, 3), 2).from_noise(1.0)
    assert cut.rows[0].correction is None
    assert plan_with(gaussian.path, correction(VECTOR, 2)).from_noise(1.0).rows[0].correction is not None


def test_mistakes_are_explained(gaussian):
    with pytest.raises(PlanError, match="condition 'label'"):
        rg.sample(gaussian, plan_with(gaussian.path, correction(VECTOR, 1, {"label": 3})), n=2)
    with pytest.raises(BadValue, match="0 to 2"):
        correction(VECTOR, 1, {"label": 3})(torch.zeros(1, 5), [], {"label": torch.tensor([3])})
    with pytest.raises(ShapeError, match="tune a plan"):
        correction(IMAGE)(torch.zeros(1, 2, 16, 16), [torch.zeros(1, 2, 16, 16)], {})
    with pytest.raises(BadValue, match="exit"):
        Correction({"in": torch.zeros(1, 1), "in.bias": torch.zeros(1)}, 1)


def test_one_on_images_is_the_formula_at_every_place():
    g = correction((1, 4, 4), 2, {"label": 3})
    w, x, m, label = g.weights, torch.randn(2, 1, 4, 4), torch.randn(2, 1, 4, 4), torch.tensor([2, 0])

    def at(h, row, column, name):
        padded = torch.nn.functional.pad(h, (1, 1, 1, 1))
        return torch.einsum("nchw,ochw->no", padded[:, :, row : row + 3, column : column + 3], w[name]) + w[f"{name}.bias"]

    def everywhere(h, name):
        return torch.stack([torch.stack([at(h, r, c, name) for c in range(4)], -1) for r in range(4)], -2)

    h = everywhere(torch.cat([x, m], 1), "in") + w["place"] + w["condition.label"][label][:, :, None, None]
    for i in ("0", "1"):
        h = h + everywhere(h * torch.sigmoid(h), i)
    assert torch.allclose(g(x, [m], {"label": label}), everywhere(h * torch.sigmoid(h), "out"), atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 4, 4), VECTOR])
def test_a_null_class_below_zero_adds_nothing(shape):
    g = correction(shape, 1, {"label": 3})
    x = torch.randn(2, *shape)
    without = dataclasses.replace(g, weights={**g.weights, "condition.label": torch.zeros(3, 6)})
    told = [c(x, [], {"label": torch.tensor([-1, 2])}) for c in (g, without)]
    assert torch.equal(told[0][0], told[1][0])
    assert not torch.allclose(told[0][1], told[1][1])
