"""Solver schedules of the unified sampling framework: as single solvers, mixed, and as their formulas say."""

import json
from pathlib import Path

import pytest
import torch

import retrograde as rg
from retrograde.errors import BadValue, ShapeError, UnknownName
from retrograde.interop.schedulers import from_solver_schedule
from retrograde.plan import Plan

RECORDED = json.loads((Path(__file__).parents[1] / "files" / "usf.v1.json").read_text(encoding="utf-8"))
PATH = rg.paths.VP()
TIMES = [0.95, 0.8, 0.62, 0.5, 0.31, 0.2, 0.08, 0.01]
NONE = {"type": "no_corrector", "start_point": None, "taylor_order": None, "derivative_type": None}


def difference(points: list[int], relaxation: str | None = None, coefficient: float = 0.0) -> dict[str, object]:
    estimate = f"Difference_{len(points)}"
    return {
        "estimate": estimate,
        "active_points": points,
        "relaxation": relaxation,
        "relaxation_coefficient": coefficient,
    }


def schedule(order: int, kind: str = "data", relaxation: str | None = None, corrected: bool = False) -> dict[str, object]:
    """One multistep solver in every step, started with lower orders."""
    steps = len(TIMES) - 1
    orders = [min(order, i + 1) for i in range(steps)]
    derivatives, correctors = [], []
    for top in orders:
        points = list(range(-2, -1 - top, -1))
        derivatives.append([difference(points, relaxation)] * (top - 1))
        around = [-1, *range(-3, -2 - top, -1)]
        # with one other point the published corrector of UniPC takes half the first weight too
        eased = relaxation if top == 1 else None
        pseudo = {"type": "pseudo", "start_point": -2, "taylor_order": top + 1}
        correctors.append(pseudo | {"derivative_type": [difference(around, eased)] * top} if corrected else NONE)
    correctors[-1] = NONE
    return {
        "timesteps": torch.tensor(TIMES, dtype=torch.float64),
        "orders": orders,
        "prediction_types": [f"{kind}_prediction"] * steps,
        "start_points": [-1] * steps,
        "derivative_types": derivatives,
        "corrector_types": correctors,
        "afs": "no_afs",
        "skip_coefficients": torch.ones(4),
    }


def end_of(plan: Plan, mixture) -> torch.Tensor:
    x = torch.randn((3, 2), generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    *_, last = rg.run(plan, mixture(PATH), x)
    return last.x_t


@pytest.mark.parametrize(
    ("decisions", "recipe", "options"),
    [
        (schedule(1), "ddim", {}),
        (schedule(1, "noise"), "ddim", {}),
        (schedule(2, relaxation="dpmsolver-2"), "dpmpp_2m", {}),
        (schedule(2), "res_2m", {}),
        (schedule(3), "unip_3", {}),
        (schedule(2, "noise"), "dpm_solver_2m", {"form": "heun"}),
        (schedule(2, "noise", "unipc-bh2"), "dpm_solver_2m", {}),
        (schedule(2, relaxation="unipc-bh2", corrected=True), "unipc_2", {"variant": "bh2"}),
        (schedule(2, relaxation="unipc-bh1", corrected=True), "unipc_2", {"variant": "bh1"}),
    ],
)
def test_fixing_all_decisions_to_one_solver_is_that_solver(decisions, recipe, options, mixture):
    """The catalogue's check. The third-order start differs (its second step is relaxed in UniP), so it is not compared."""
    plan = from_solver_schedule(decisions, PATH)
    right = rg.plan(recipe, PATH, grid=TIMES, **options)
    right = right[: len(right) - 1]
    assert plan.nfe == right.nfe
    assert not plan.misses
    if recipe == "unip_3":
        for one, other in zip(plan.rows[2:], right.rows[2:], strict=True):
            assert one.outputs == pytest.approx(other.outputs, rel=1e-9)
            assert one.states == pytest.approx(other.states, rel=1e-12)
    else:
        assert torch.allclose(end_of(plan, mixture), end_of(right, mixture), rtol=0, atol=1e-10)


def test_parameterizations_may_change_from_step_to_step(mixture):
    """At order one both are DDIM, so any mixture of them is; at order two they differ, and keep the point-mass law."""
    mixed = schedule(1) | {"prediction_types": ["data_prediction", "noise_prediction"] * 3 + ["data_prediction"]}
    same = rg.plan("ddim", PATH, grid=TIMES)
    assert torch.allclose(end_of(from_solver_schedule(mixed, PATH), mixture), end_of(same[:-1], mixture), atol=1e-10)
    second = [from_solver_schedule(schedule(2, kind), PATH) for kind in ("data", "noise")]
    other = from_solver_schedule(schedule(2) | {"prediction_types": mixed["prediction_types"]}, PATH)
    assert not other.misses
    assert all(float((end_of(other, mixture) - end_of(plan, mixture)).abs().max()) > 1e-4 for plan in second)


def test_a_first_prediction_of_pure_noise_costs_nothing(mixture):
    """afs "zero_x0": e_0 = x_T. The first step is then DDIM with it, and is no evaluation."""
    free = from_solver_schedule(schedule(1) | {"afs": "zero_x0"}, PATH)
    paid = from_solver_schedule(schedule(1), PATH)
    assert free.nfe == paid.nfe - 1
    t, t_next = TIMES[:2]
    a, s, a_next, s_next = PATH.a(t), PATH.s(t), PATH.a(t_next), PATH.s(t_next)
    assert free.rows[0].states == pytest.approx((a_next * (1 - s) / a + s_next,))
    assert free.rows[0].time is None
    assert free.misses == ("point mass",)
    assert end_of(free, mixture).isfinite().all()


def test_relaxation_scales_the_first_derivative():
    eased = schedule(2)
    eased["derivative_types"][3] = [difference([-2], "linear", 0.25)]
    rows, plain = from_solver_schedule(eased, PATH).rows, from_solver_schedule(schedule(2), PATH).rows
    h = 0.5 * (PATH.log_snr(TIMES[4]) - PATH.log_snr(TIMES[3]))
    assert rows[3].outputs[1] == pytest.approx(plain[3].outputs[1] * (1 + 0.25 * h))
    assert sum(rows[3].outputs) == pytest.approx(sum(plain[3].outputs))
    assert rows[2] == plain[2]


def test_decisions_that_no_table_holds_are_named():
    for change, word in (
        ({"prediction_types": ["dpmsolver_v3_prediction"] * 7}, "dpmsolver_v3"),
        ({"afs": "average_x0"}, "afs"),
        ({"skip_coefficients": torch.tensor([0.9, 1.0])}, "skip_coefficients"),
    ):
        with pytest.raises(BadValue, match=word):
            from_solver_schedule(schedule(2) | change, PATH)
    with pytest.raises(ShapeError, match="orders"):
        from_solver_schedule(schedule(2) | {"orders": [1, 2]}, PATH)
    with pytest.raises(UnknownName, match="relaxation"):
        from_solver_schedule(schedule(2, relaxation="even"), PATH)


@pytest.mark.parametrize("number", [0, 1])
def test_published_schedules_end_where_their_own_code_does(number, mixture):
    """Two schedules of the authors, one with a free first step, against what their sampler returned."""
    run = RECORDED["runs"][number]
    plan = from_solver_schedule(run["decisions"], PATH)
    assert plan.nfe == (9, 3)[number]
    *_, last = rg.run(plan, mixture(PATH), torch.tensor(RECORDED["start"], dtype=torch.float64))
    assert torch.allclose(last.x_t, torch.tensor(run["end"], dtype=torch.float64), rtol=0, atol=1e-12)
