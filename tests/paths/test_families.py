"""What is particular to each path."""

import math

import pytest
import torch

import retrograde as rg
from retrograde.errors import BadValue


def test_the_discrete_path_equals_its_list_at_the_steps(path_called):
    path = path_called("vp_discrete")
    n = len(path.alphas_cumprod)
    for i in (0, 1, 17, 499, 998, 999):
        t = (i + 1) / n
        assert path.a(t) ** 2 == pytest.approx(path.alphas_cumprod[i], rel=1e-9)
        assert path.s(t) ** 2 == pytest.approx(1 - path.alphas_cumprod[i], rel=1e-9)
    t = torch.arange(1, n + 1, dtype=torch.float64) / n
    assert torch.allclose(path.a(t) ** 2, torch.tensor(path.alphas_cumprod, dtype=torch.float64), rtol=1e-9)
    assert path.a(0.0) == 1.0
    assert path.s(0.0) == 0.0


def test_between_its_steps_the_discrete_path_is_geometric(path_called):
    path = path_called("vp_discrete")
    middle = 0.5 * (math.log(path.alphas_cumprod[100]) + math.log(path.alphas_cumprod[101]))
    assert 2 * math.log(path.a(101.5 / 1000)) == pytest.approx(middle)


def test_from_alphas_cumprod_takes_tensors_arrays_and_lists():
    values = torch.tensor([0.9, 0.5, 0.1])
    assert rg.paths.from_alphas_cumprod(values) == rg.paths.from_alphas_cumprod(values.numpy())
    assert rg.paths.from_alphas_cumprod([0.9, 0.5]).alphas_cumprod == (0.9, 0.5)


@pytest.mark.parametrize("bad", [(), (0.5, 0.6), (0.5, 0.5), (1.0, 0.5), (0.5, 0.0)])
def test_a_list_that_does_not_fall_inside_0_and_1_is_refused(bad):
    with pytest.raises(BadValue, match="alphas_cumprod"):
        rg.paths.VPDiscrete(bad)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (((0.0, 1.0), (1.0, 0.5), (0.0,)), "columns of 2, 2 and 1"),
        (((0.0, 0.0), (1.0, 0.5), (0.0, 1.0)), "times with 0.0 then 0.0"),
        (((0.0, 1.0), (1.0, -0.5), (0.0, 1.0)), "an entry of -0.5"),
        (((0.0, 1.0), (1.0, 0.5), (1.0, 0.0)), "does not rise"),
        (((0.0, 1.0), (0.5, 1.0), (0.5, 1.0)), "does not rise"),
        (((0.0, 1.0), (1.0, 1.0), (0.5, 0.5)), "does not rise"),
    ],
)
def test_a_table_that_is_no_path_is_refused(columns, message):
    with pytest.raises(BadValue, match=message):
        rg.paths.Tabulated(*columns)


def test_a_table_of_a_path_is_that_path_in_the_limit():
    exact = rg.paths.VP()
    times = [i / 4000 for i in range(4001)]
    table = rg.paths.Tabulated(tuple(times), tuple(map(exact.a, times)), tuple(map(exact.s, times)))
    for t in (0.1234, 0.5678, 0.9):
        assert table.a(t) == pytest.approx(exact.a(t), rel=1e-6)
        assert table.s_dot(t) == pytest.approx(exact.s_dot(t), rel=1e-2)
        assert table.time_of_sigma(exact.sigma(t)) == pytest.approx(t, rel=1e-5)


def test_variance_preserving_paths_preserve_variance(path_called):
    for name in ("vp", "vp_cosine", "vp_discrete", "trigonometric"):
        path = path_called(name)
        for t in (0.01, 0.3, 0.77):
            assert path.a(t) ** 2 + path.s(t) ** 2 == pytest.approx(1.0, rel=1e-12)
    sub = path_called("subvp")
    assert sub.s(0.4) == pytest.approx(1 - sub.a(0.4) ** 2)


def test_edm_counts_time_in_noise_levels():
    path = rg.paths.EDM(sigma_min=0.01, sigma_max=10.0)
    assert (path.t_min, path.t_max, path.sigma(3.0), path.a(3.0)) == (0.01, 10.0, 3.0, 1.0)
    assert path != rg.paths.EDM()


def test_flow_and_trigonometric_hold_no_signal_at_the_end():
    for path in (rg.paths.Flow(), rg.paths.Trigonometric()):
        assert path.a(1.0) == 0.0
        assert path.sigma(1.0) == math.inf
        assert path.log_snr(1.0) == -math.inf


def test_the_cosine_path_is_the_published_schedule():
    """alphas_cumprod = f(t)/f(0), f = cos^2(pi/2 (t + 0.008)/1.008)."""
    path = rg.paths.VPCosine()

    def f(t: float) -> float:
        return math.cos(0.5 * math.pi * (t + 0.008) / 1.008) ** 2

    for t in (0.01, 0.3, 0.77, path.t_max):
        assert path.a(t) ** 2 == pytest.approx(f(t) / f(0.0), rel=1e-12)
        assert path.s(t) ** 2 == pytest.approx(1.0 - f(t) / f(0.0), rel=1e-9)
