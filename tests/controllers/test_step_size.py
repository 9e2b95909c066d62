"""The rule of step sizes against the formulas of its sources, and on errors that follow a power of the step."""

import math

import pytest

from retrograde.controllers import DPM_SOLVER, StepSize
from retrograde.errors import BadValue


def test_the_default_is_the_controller_of_k_diffusion():
    """Its class, with coefficients p, i, d of one run: inverse errors to powers, 1 + arctan of the rest, 0.81 to accept."""
    p, i, d, q, h = 0.3, 0.5, 0.1, 3.0, 0.05
    rule, ours, past = StepSize(p, i, d), 0.05, None
    b1, b2, b3 = (p + i + d) / q, -(p + 2 * d) / q, d / q
    inverses: list[float] = []
    for error in (0.8, 3.0, 0.9, 0.05, 12.0, 1.1, 0.4):
        inverse = 1 / (error + 1e-8)
        inverses = [inverse, *(inverses or [inverse] * 3)[1:]]
        factor = 1 + math.atan(inverses[0] ** b1 * inverses[1] ** b2 * inverses[2] ** b3 - 1)
        accepted = factor >= 0.81
        if accepted:
            inverses = [inverses[0], inverses[0], inverses[1]]
        h *= factor
        past = past or (error, error)
        stands, by = rule.judge(error, past, q)
        ours *= by
        past = (error, past[0]) if stands else past
        assert stands == accepted
        assert ours == pytest.approx(h, rel=1e-12)


def test_the_rule_of_dpm_solver():
    for error, q in ((0.5, 2.0), (3.0, 3.0)):
        stands, factor = DPM_SOLVER.judge(error, (1.0, 1.0), q)
        assert stands == (error <= 1.0)
        assert factor == pytest.approx(0.9 * error ** (-1 / q))


@pytest.mark.parametrize("rule", [StepSize(), StepSize(0.2, 0.7), StepSize(0.4, 0.4, 0.1)])
@pytest.mark.parametrize("q", [1.5, 3.0, 5.0])
def test_errors_that_follow_a_power_are_brought_to_the_tolerance(rule, q):
    h, past = 0.01, None
    for _ in range(60):
        error = (h / 0.3) ** q
        past = past or (error, error)
        stands, factor = rule.judge(error, past, q)
        h, past = h * factor, (error, past[0]) if stands else past
    assert h == pytest.approx(0.3, rel=1e-3)


def test_an_error_that_is_no_number_is_refused_and_the_step_shortened():
    assert StepSize().judge(math.nan, (1.0, 1.0), 3.0) == (False, 0.1)
    assert StepSize().judge(math.inf, (1.0, 1.0), 3.0) == (False, 0.1)


@pytest.mark.parametrize("wrong", [{"i": 0.0}, {"accept": 0.0}, {"accept": 1.2}, {"safety": 0.0}, {"limit": "tanh"}])
def test_a_rule_that_cannot_work_is_refused(wrong):
    with pytest.raises(BadValue):
        StepSize(**wrong)
