"""A plan is a table that is checked where it is made, and its errors name the row and the law."""

import dataclasses
import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import retrograde as rg
from retrograde.errors import BadValue, PlanError, UnknownName
from retrograde.plan import Plan, Row

VP = rg.paths.VP()
GRID = tuple(VP.time_of_sigma(s) for s in (5.0, 2.0, 0.8, 0.3, 0.1))


def table(name: str = "dpmpp_2m") -> Plan:
    return rg.recipes.get(name).compile(VP, GRID)


def mutated(plan: Plan, k: int, **changes: object) -> Plan:
    rows = list(plan.rows)
    rows[k] = dataclasses.replace(rows[k], **changes)
    return Plan(plan.path, tuple(rows), plan.basis, plan.recipe, plan.start)


LAWFUL = [name for name in rg.recipes.names() if not table(name).misses]
CHANGES = [(name, by) for name in LAWFUL for by in (1e-4, -1.0)]
CHANGES += [(name, by) for name in rg.recipes.names() for by in (math.nan, math.inf)]


@pytest.mark.parametrize(("name", "by"), CHANGES)
@pytest.mark.parametrize("part", ["states", "outputs", "noises"])
def test_a_perturbed_coefficient_breaks_a_law_in_its_row(name, part, by):
    plan = table(name)
    for k, row in enumerate(plan.rows):
        for i, value in enumerate(getattr(row, part)):
            values = list(getattr(row, part))
            values[i] = value + by
            law = "point mass" if math.isfinite(by) else "finite"
            with pytest.raises(PlanError, match=rf"row {k} of {plan.recipe} breaks the law '{law}'"):
                mutated(plan, k, **{part: tuple(values)})


@pytest.mark.parametrize("name", rg.recipes.names())
def test_a_perturbed_time_breaks_a_law(name):
    plan = table(name)
    for k, row in enumerate(plan.rows):
        if row.time is not None and k > 0:
            with pytest.raises(PlanError, match=rf"row {k} .* breaks the law 'clock'"):
                mutated(plan, k, time=row.time * 1.01)
        if row.next_time is not None:
            with pytest.raises(PlanError, match=rf"row {k} .* breaks the law '(point mass|clock)'|row {k + 1} .* 'clock'"):
                mutated(plan, k, next_time=row.next_time * 0.99)
            with pytest.raises(PlanError, match=rf"row {k} .* breaks the law 'finite'"):
                mutated(plan, k, next_time=math.nan)


def test_a_row_that_rises_must_say_so():
    lower, higher = VP.time_of_sigma(0.5), VP.time_of_sigma(1.0)
    add = VP.a(higher) * math.sqrt(1.0 - 0.25)
    up = Row(None, higher, (VP.a(higher) / VP.a(lower),), (), (add,))
    end = table()[-1]
    move = rg.recipes.get("ddim").compile(VP, (higher, GRID[-1])).rows[0]
    with pytest.raises(PlanError, match="row 0 .* breaks the law 'order': it rises"):
        Plan(VP, (up, move, end), start=lower)
    plan = Plan(VP, (dataclasses.replace(up, renoise=True), move, end), start=lower)
    assert (plan.nfe, plan.stochastic, len(plan)) == (2, True, 3)


@pytest.mark.parametrize(("part", "had"), [("states", 1), ("outputs", 1), ("noises", 1)])
def test_history_does_not_reach_before_the_first_row(part, had):
    plan = table("ddpm")
    with pytest.raises(PlanError, match=rf"row 0 .* breaks the law 'history': it uses 2 {part}, {had} exist"):
        mutated(plan, 0, **{part: (*getattr(plan[0], part), 0.0)})


def test_only_the_last_row_returns_the_data():
    with pytest.raises(PlanError, match="row 1 .* breaks the law 'end'"):
        mutated(table(), 1, next_time=None)


def test_a_table_that_only_approximates_says_so():
    plan = table()
    rows = (dataclasses.replace(plan[0], outputs=(0.5,)), *plan.rows[1:])
    with pytest.raises(PlanError, match="declare misses="):
        Plan(VP, rows, start=plan.start)
    assert "misses: point mass" in str(Plan(VP, rows, start=plan.start, misses=("point mass",)))


def test_a_tensor_coefficient_is_held_to_the_law_everywhere():
    plan = table()
    right = torch.full((2, 2), plan[0].outputs[0], dtype=torch.float64)
    mutated(plan, 0, outputs=(right,))
    wrong = right.clone()
    wrong[1, 1] += 0.01
    with pytest.raises(PlanError, match="row 0 .* 'point mass'"):
        mutated(plan, 0, outputs=(wrong,))


def test_bases_and_emptiness_are_checked():
    with pytest.raises(UnknownName, match="unknown basis 'v'"):
        Plan(VP, table().rows, basis="v")
    with pytest.raises(PlanError, match="a plan without rows"):
        Plan(VP, ())
    with pytest.raises(PlanError, match="has no start"):
        Plan(VP, (Row(None, None),))


def test_a_printed_plan_is_its_specification():
    lines = str(table()).splitlines()
    assert lines[0] == f"dpmpp_2m@1  path {VP.fingerprint}  basis data  nfe 5  deterministic"
    assert lines[1].split() == ["row", "time", "sigma", "next", "states", "outputs"]
    assert len(lines) == 2 + 5
    assert lines[2].split()[:3] == ["0", f"{GRID[0]:.5g}", "5"]
    assert lines[-1].split()[3] == "data"
    assert "needs 1 earlier predictions" in str(table()[2:])
    stochastic = rg.recipes.get("edm_stochastic").compile(VP, GRID)
    assert "stochastic" in str(stochastic).splitlines()[0]
    assert " up " in str(stochastic)


def test_a_bound_plan_shows_what_the_network_is_told(path_called):
    path = path_called("vp_discrete")
    den = rg.Denoiser(lambda x, t: x, path, "noise", (2,))
    plan = rg.plan("ddim", den, nfe=5, grid="uniform")
    bound = plan.bind(den)
    assert [row.network_time for row in bound.rows] == [999.0, 799.0, 599.0, 399.0, 199.0]
    assert "told" in str(bound)
    assert bound != plan
    with pytest.raises(PlanError, match="used with a denoiser of path"):
        table().bind(den)


def test_equality_is_equality_of_tables():
    assert table() == table()
    assert table("ddpm") == rg.recipes.get("ddpm").compile(VP, GRID)
    assert table("ddpm") != table("ddim")
    assert table() != table()[:3]
    assert table() != rg.recipes.get("dpmpp_2m").compile(VP, GRID[1:])
    assert table() != "dpmpp_2m"
    assert dataclasses.replace(table(), report={"score": 1.0}) == table()
    assert table("dpmpp_2m_sde") != rg.recipes.get("dpmpp_2m_sde").compile(VP, GRID, eta=0.5)
    eta_0 = rg.recipes.get("dpmpp_2m_sde").compile(VP, GRID, eta=0.0)
    for one, other in zip(eta_0.rows, table().rows, strict=True):
        assert one.outputs == pytest.approx(other.outputs)


def test_slices_know_what_they_need():
    plan = table("dpmpp_3m")
    assert [plan[k:].history for k in range(5)] == [0, 1, 2, 2, 0]
    assert plan[:3].start == plan.start
    assert plan[2:].start == plan[1].next_time
    assert plan[-1].next_time is None
    with pytest.raises(BadValue, match="a step of 2"):
        plan[::2]
    with pytest.raises(PlanError, match="without rows"):
        plan[5:]


def test_from_noise_folds_the_history_into_what_exists():
    plan = table("dpmpp_3m").from_noise(1.0)
    assert plan.start == GRID[2]
    assert [len(row.outputs) for row in plan.rows] == [1, 2, 1]
    assert plan.nfe == 3
    corrected = table("unipc_3").from_noise(1.0)
    assert (corrected.start, corrected.nfe) == (GRID[2], 3)
    with pytest.raises(BadValue, match=r"from_noise\(0.1\)"):
        table().from_noise(0.05)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "version"),
        ({"format": "something"}, "format"),
        ({"colour": "red"}, "colour: Extra inputs"),
        ({"rows": [{"time": 1.0, "next_time": None, "states": [1.0], "speed": 2}]}, r"rows\.0\.speed: Extra inputs"),
        ({"rows": [{"time": 1.0, "states": [1.0]}]}, r"rows\.0\.next_time: Field required"),
        ({"rows": [{"time": "noon", "next_time": None, "states": [1.0]}]}, r"rows\.0\.time"),
        ({"path": {"name": "vpp"}}, "did you mean 'vp'"),
        ({"path": {"name": "vp", "beta": 1}}, r"path 'vp' with \['beta'\]"),
    ],
)
def test_a_damaged_file_is_refused_and_the_place_is_named(change, message, tmp_path):
    file = tmp_path / "plan.json"
    table().save(file)
    content = json.loads(file.read_text())
    assert (content["format"], content["version"]) == ("retrograde.plan", 1)
    file.write_text(json.dumps(content | change))
    with pytest.raises(ValueError, match=message):
        Plan.load(file)


def test_a_file_that_is_no_plan_is_refused(tmp_path):
    (tmp_path / "plan.json").write_text("not json")
    with pytest.raises(BadValue, match="plan file of version 1"):
        Plan.load(tmp_path / "plan.json")


def test_a_file_is_checked_against_the_laws(tmp_path):
    file = tmp_path / "plan.json"
    table().save(file)
    content = json.loads(file.read_text())
    content["rows"][1]["outputs"][0] += 0.1
    file.write_text(json.dumps(content))
    with pytest.raises(PlanError, match="row 1 of dpmpp_2m@1 breaks the law 'point mass'"):
        Plan.load(file)


def test_knobs_are_saved(tmp_path):
    plan = table()
    rows = [dataclasses.replace(row, knobs={"guidance": 2.5}) for row in plan.rows]
    knobs = Plan(VP, rows, start=plan.start)
    knobs.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == knobs
    assert "guidance=2.5" in str(knobs)
    assert knobs != plan


LEVELS = st.lists(st.floats(-4.0, 4.0), min_size=2, max_size=9, unique_by=lambda x: round(x, 1))


@settings(max_examples=30, deadline=None)
@given(
    logs=LEVELS,
    name=st.sampled_from([n for n in rg.recipes.names() if not n.startswith("deis")]),
    path=st.sampled_from([rg.paths.VP(), rg.paths.Flow(), rg.paths.EDM(sigma_max=100.0)]),
)
def test_every_falling_grid_makes_a_lawful_table(logs, name, path):
    """DEIS is left out: extrapolating a polynomial over a step a hundred times longer than the last loses all digits."""
    grid = [path.time_of_sigma(math.exp(x)) for x in sorted(logs, reverse=True)]
    recipe = rg.recipes.get(name)
    plan = recipe.compile(path, grid)
    assert plan.times[-1] == pytest.approx(grid[-1])
    assert plan.nfe == sum(recipe.stages(len(grid) - 1)) + 1
    assert recipe.points(plan.nfe)[0] == len(grid)


def test_times_that_do_not_fall_are_refused():
    for bad in ([0.2, 0.5], [0.5, 0.5], []):
        with pytest.raises(BadValue, match="falling path times"):
            rg.plan("ddim", VP, grid=bad)


def test_options_are_checked():
    with pytest.raises(UnknownName, match="did you mean .*'dpmpp_2m'"):
        rg.plan("dpm++_2m", VP, nfe=5)
    with pytest.raises(BadValue, match=r"the options \['eta'\]|\['rho', 'sigma_min', 'sigma_max'\]"):
        rg.plan("ddim", VP, nfe=5, etta=1.0)
    with pytest.raises(BadValue, match="0 <= eta <= 1"):
        rg.plan("ddim", VP, nfe=5, eta=1.5)
    with pytest.raises(BadValue, match="a number of network evaluations"):
        rg.plan("ddim", VP)
    with pytest.raises(BadValue, match="nfe >= 1"):
        rg.plan("ddim", VP, nfe=0)
    with pytest.raises(BadValue, match="beside explicit times"):
        rg.plan("ddim", VP, grid=GRID, rho=7.0)
    with pytest.raises(BadValue, match="a grid of 5 times"):
        rg.plan("ddim", VP, grid=GRID, nfe=4)
    with pytest.raises(TypeError, match="a path or a denoiser"):
        rg.plan("ddim", "vp", nfe=4)


def test_a_grid_for_a_discrete_network_is_snapped(path_called):
    path = path_called("vp_discrete")
    den = rg.Denoiser(lambda x, t: x, path, "noise", (2,))
    plan = rg.plan("dpmpp_2m", den, nfe=12)
    assert all(t * 1000 == pytest.approx(round(t * 1000)) for t in plan.times)
    with pytest.raises(BadValue, match="after snapping"):
        rg.plan("dpmpp_2m", den, nfe=900)
