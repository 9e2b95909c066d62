"""A figure prints its counts."""

import dataclasses

import pytest

from retrograde.quality import Figure


def test_prints_its_counts():
    assert str(Figure("frechet", 3.2149, 1000, 500)) == "frechet 3.215 (n=1000 vs 500)"
    assert str(Figure("frechet", 3.21, 1000, 1000)) == "frechet 3.21 (n=1000 vs 1000)"


def test_prints_what_else_it_knows():
    figure = Figure("kernel", 0.5, 8, 9, interval=(0.25, 0.75), standard_error=0.125, settings="k=3", warning="few")
    assert str(figure) == "kernel 0.5 ± 0.12 [0.25, 0.75] (n=8 vs 9, k=3); warning: few"


def test_is_a_frozen_number():
    figure = Figure("x", 0.5, 1, 1)
    assert float(figure) == 0.5
    with pytest.raises(dataclasses.FrozenInstanceError):
        figure.value = 1.0
