import math

from retrograde.tune.corrected import on_grid


def test_levels_move_to_the_nearest_of_the_grid():
    grid = (80.0, 10.0, 5.0, 1.0, 0.1)
    assert on_grid((80.0, 4.0, 0.9), grid, lambda t: t) == [80.0, 5.0, 1.0]


def test_two_levels_never_become_one():
    grid = (80.0, 10.0, 5.0, 1.0, 0.1)
    assert on_grid((6.0, 5.5), grid, lambda t: t) == [10.0, 5.0]
    assert on_grid((0.2, 0.15, 0.1), grid, lambda t: t) == [5.0, 1.0, 0.1]
    assert on_grid((90.0, 85.0, 80.0), grid, lambda t: t) == [80.0, 10.0, 5.0]


def test_a_noise_end_without_signal_stays():
    def sigma(t):
        return math.inf if t == 1.0 else t / (1 - t)

    assert on_grid((1.0, 0.4), (1.0, 0.5, 0.1), sigma) == [1.0, 0.5]
