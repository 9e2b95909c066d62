"""Every grid on every path: n falling times inside the path's range, used exactly as given."""

import inspect
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import retrograde as rg
from retrograde.errors import BadValue, UnknownName

GRIDS = rg.grids.names()
STOPS_EARLY = "karras_in_time"
RANGED = [name for name in GRIDS if name != STOPS_EARLY and "sigma_min" in inspect.signature(rg.grids.get(name)).parameters]


@pytest.mark.parametrize("path_name", rg.paths.names())
@pytest.mark.parametrize("name", GRIDS)
def test_a_grid_falls_inside_the_path(name, path_name, path_called):
    path = path_called(path_name)
    if name == "align_your_steps" and not path.sigma(path.t_min) <= 0.0295 < 14.6145 <= path.sigma(path.t_max):
        with pytest.raises(BadValue, match="a path that covers the table"):
            rg.grids.make(path, 5, name)
        return
    if name == "shifted" and path_name == "residual_shift":  # it begins well above the data
        with pytest.raises(BadValue, match="levels sigma >= 0.202"):
            rg.grids.make(path, 101, name)
        return
    for n in (1, 2, 3, 10, 101):
        grid = rg.grids.make(path, n, name)
        assert len(grid) == n
        assert all(isinstance(t, float) for t in grid)
        assert all(x > y for x, y in zip(grid, grid[1:], strict=False))
        assert grid[-1] >= 0.0
        assert grid[0] <= path.t_max
        if name != "align_your_steps":
            assert grid[0] == path.t_max
    if name in ("cosine", "karras", "log_snr", "sigma"):
        assert rg.grids.make(path, 10, name)[-1] == path.t_min


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(RANGED),
    low=st.floats(0.01, 1.0),
    factor=st.floats(1.5, 50.0),
    n=st.integers(2, 40),
)
def test_the_ends_are_those_asked_for(name, low, factor, n):
    path = rg.paths.VP()
    grid = rg.grids.make(path, n, name, sigma_min=low, sigma_max=low * factor)
    levels = [path.sigma(t) for t in grid]
    assert levels[0] == pytest.approx(low * factor, rel=1e-6)
    assert levels[-1] == pytest.approx(low, rel=1e-6)


def uniform(values: list[float]) -> bool:
    return bool(np.allclose(np.diff(values), np.diff(values).mean(), rtol=1e-6))


def test_each_grid_is_even_in_its_own_variable():
    path = rg.paths.VP()

    def levels(name: str, **options: float) -> list[float]:
        return [path.sigma(t) for t in rg.grids.make(path, 9, name, sigma_min=0.02, sigma_max=30.0, **options)]

    assert uniform([s ** (1 / 7) for s in levels("karras")])
    assert uniform([s ** (1 / 3) for s in levels("karras", rho=3.0)])
    assert uniform([math.log(s) for s in levels("log_snr")])
    assert uniform(levels("sigma"))
    assert uniform([math.atan(s) for s in levels("cosine")])
    assert uniform([path.time_of_sigma(s) for s in levels("uniform")])
    assert uniform([path.time_of_sigma(s) ** 0.5 for s in levels("quadratic")])
    assert rg.grids.uniform(path, 4) == pytest.approx((1.0, 0.75, 0.5, 0.25))
    assert rg.grids.quadratic(path, 4) == pytest.approx((1.0, 0.5625, 0.25, 0.0625))


def test_karras_is_the_published_formula():
    n, rho, low, high = 18, 7.0, 0.002, 80.0
    published = [(high ** (1 / rho) + i / (n - 1) * (low ** (1 / rho) - high ** (1 / rho))) ** rho for i in range(n)]
    assert rg.grids.karras(rg.paths.EDM(), n) == pytest.approx(published, rel=1e-12)


@pytest.mark.parametrize("shift", [0.5, 1.0, 3.0])
def test_the_shift_multiplies_every_noise_level(shift):
    path, n = rg.paths.Flow(), 8
    plain, shifted = (rg.grids.shifted(path, n, shift=s) for s in (1.0, shift))
    assert plain == pytest.approx([1 - i / n for i in range(n)])
    for t, moved in zip(plain[1:], shifted[1:], strict=True):
        assert path.sigma(moved) == pytest.approx(shift * path.sigma(t))
        assert moved == pytest.approx(shift * t / (1 + (shift - 1) * t))


def test_a_path_that_ends_lower_starts_the_shifted_grid_there():
    path = rg.paths.EDM()
    grid = rg.grids.shifted(path, 200)
    assert grid[0] == 80.0
    assert grid[1] < 80.0
    with pytest.raises(BadValue, match="shift > 0"):
        rg.grids.shifted(path, 4, shift=0.0)


def test_align_your_steps_is_its_table():
    path = rg.paths.EDM()
    for model, table in rg.grids.ALIGN_YOUR_STEPS.items():
        if table[0] < 80:
            assert rg.grids.align_your_steps(path, 11, model=model) == pytest.approx(table)
    between = rg.grids.align_your_steps(path, 21)
    assert between[1] == pytest.approx(math.sqrt(14.615 * 6.475))
    with pytest.raises(UnknownName, match="sd15"):
        rg.grids.align_your_steps(path, 11, model="sd1.5")


def test_explicit_times_are_used_exactly_as_given():
    times = (0.9123456789, 0.3, 0.1)
    assert rg.grids.make(rg.paths.VP(), 3, np.array(times)) == times
    assert rg.plan("ddim", rg.paths.VP(), grid=times).times == times
    with pytest.raises(BadValue, match="a grid of 3 times"):
        rg.grids.make(rg.paths.VP(), 4, times)


def test_from_sigmas_drops_the_closing_zero():
    assert rg.grids.from_sigmas(rg.paths.EDM(), [3.0, 1.0, 0.0]) == (3.0, 1.0)
    with pytest.raises(BadValue, match="0 < sigma"):
        rg.grids.from_sigmas(rg.paths.EDM(), [3.0, 0.0, 1.0])


def test_mistakes_are_explained():
    with pytest.raises(UnknownName, match="did you mean 'karras'"):
        rg.grids.make(rg.paths.EDM(), 5, "kerras")
    with pytest.raises(BadValue, match=r"remove \['rho'\]"):
        rg.grids.make(rg.paths.EDM(), 5, "log_snr", rho=7.0)
    with pytest.raises(BadValue, match="sigma_min < sigma_max"):
        rg.grids.karras(rg.paths.EDM(), 5, sigma_min=3.0, sigma_max=1.0)
    with pytest.raises(BadValue, match="n >= 1"):
        rg.grids.karras(rg.paths.EDM(), 0)


def test_start_moves_the_noise_end_of_any_grid():
    for name in GRIDS:
        if name == "align_your_steps":
            continue
        plan = rg.plan("ddim", rg.paths.VP(), nfe=6, grid=name, start=2.5)
        assert rg.paths.VP().sigma(plan.start) == pytest.approx(2.5)


def test_a_mistyped_option_lists_those_of_recipe_and_grid():
    with pytest.raises(BadValue, match=r"\['eta'\] of the recipe, \['rho', .* of the grid"):
        rg.plan("ddim", rg.paths.EDM(), nfe=5, grid="karras", etta=1.0)
