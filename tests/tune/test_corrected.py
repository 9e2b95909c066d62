import math

from retrograde.tune.corrected import through


def test_a_grid_is_led_through_the_required_levels():
    grid = (80.0, 10.0, 5.0, 1.0, 0.1)
    made = through(grid, (80.0, 4.0, 0.9), lambda t: t)
    assert made == (80.0, 10.0, 4.0, 0.9, 0.1)
    assert through(grid, (80.0, 6.0, 5.5), lambda t: t) == (80.0, 6.0, 5.5, 1.0, 0.1)


def test_a_noise_end_without_signal_stays():
    def sigma(t):
        return math.inf if t == 1.0 else t / (1 - t)

    assert through((1.0, 0.5, 0.1), (1.0, 0.4), sigma) == (1.0, 0.4, 0.1)
