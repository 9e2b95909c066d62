"""Each law of a plan, broken once: the message names the row and the law."""

import dataclasses

import pytest
import torch

import retrograde as rg
from retrograde.errors import PlanError
from retrograde.laws import POINT_MASS
from retrograde.linear import LinearMap
from retrograde.plan import Plan, Row

PATH = rg.paths.EDM()
GOOD = (Row(80.0, 8.0, (0.1,), (0.9,)), Row(8.0, 2.0, (0.25,), (0.75,)), Row(2.0, None, (0.0,), (1.0,)))


def changed(k, **fields):
    return tuple(dataclasses.replace(row, **fields) if i == k else row for i, row in enumerate(GOOD))


def test_the_good_table_is_a_plan():
    assert Plan(PATH, GOOD).nfe == 3


@pytest.mark.parametrize(
    ("rows", "law", "k"),
    [
        (changed(1, states=(float("nan"),)), "finite", 1),
        (changed(1, states=(LinearMap(torch.eye(2), torch.tensor([1.0, torch.inf]), 1.0),)), "finite", 1),
        (changed(0, shift=torch.tensor([torch.nan])), "finite", 0),
        (changed(1, time=7.0), "clock", 1),
        (changed(1, next_time=9.0), "order", 1),
        (changed(0, states=(0.1, 0.0)), "history", 0),
        (changed(0, outputs=(0.9, 0.0)), "history", 0),
        (changed(1, next_time=None), "end", 1),
        (changed(1, states=(0.26,)), POINT_MASS, 1),
        (changed(1, outputs=(0.74,)), POINT_MASS, 1),
        (changed(1, noises=(0.5,)), POINT_MASS, 1),
        (changed(1, shift=torch.zeros(1)), POINT_MASS, 1),
        (changed(1, states=(LinearMap(torch.eye(2), torch.full((2,), 0.25), 0.25),)), POINT_MASS, 1),
        (changed(1, states=(torch.tensor([0.25, 0.26]),)), POINT_MASS, 1),
    ],
)
def test_a_broken_law_is_named_with_its_row(rows, law, k):
    with pytest.raises(PlanError, match=rf"row {k} of .*'{law}'"):
        Plan(PATH, rows)


def test_a_method_may_declare_what_it_misses_but_nothing_else():
    rows = changed(1, states=(0.26,))
    assert Plan(PATH, rows, misses=(POINT_MASS,)).misses == (POINT_MASS,)
    with pytest.raises(PlanError, match="clock"):
        Plan(PATH, changed(1, time=7.0), misses=(POINT_MASS,))


def test_noise_of_one_draw_counts_once():
    # a draw used again one row later adds to its own coefficient, not to the variance of an independent one
    half = 8.0 * 0.5
    rows = (
        Row(80.0, 8.0, ((64.0 - 16.0) ** 0.5 / 80,), (1 - (64.0 - 16.0) ** 0.5 / 80,), (half,)),
        Row(None, 8.0, (1.0,), (), (0.0, 0.0)),
        Row(8.0, None, (0.0,), (1.0,)),
    )
    assert Plan(PATH, rows).stochastic
    again = (rows[0], dataclasses.replace(rows[1], noises=(0.0, 1.0)), rows[2])
    with pytest.raises(PlanError, match=POINT_MASS):
        Plan(PATH, again)
