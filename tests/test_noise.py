"""Noise is a pure function of (seed, item, interval, occurrence)."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import retrograde as rg
from retrograde.errors import BadValue
from retrograde.noise import Brownian, Noise, apart

INTERVAL = (0.7, 0.3)


def test_an_item_sees_the_same_noise_in_any_batch():
    batch = Noise.first(5, seed=3).draw((2, 4), INTERVAL)
    assert torch.equal(Noise(3, [4, 1]).draw((2, 4), INTERVAL), batch[[4, 1]])
    assert torch.equal(Noise(3, range(2, 3)).draw((2, 4), INTERVAL), batch[2:3])


@settings(max_examples=50, deadline=None)
@given(
    one=st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**40), st.floats(0, 100), st.floats(0, 100), st.integers(0, 3)),
    other=st.tuples(
        st.integers(0, 2**64 - 1), st.integers(0, 2**40), st.floats(0, 100), st.floats(0, 100), st.integers(0, 3)
    ),
)
def test_different_keys_give_different_noise(one, other):
    def draw(key: tuple[int, int, float, float, int]) -> torch.Tensor:
        seed, item, start, end, occurrence = key
        return Noise(seed, [item]).draw((8,), (start + 0.0, end + 0.0), occurrence, torch.float64)

    assert torch.equal(draw(one), draw(one))
    assert torch.equal(draw(one), draw(other)) == (one == other)


def test_each_part_of_the_key_matters():
    draws = [
        Noise(0, [0]).draw((3,), INTERVAL),
        Noise(1, [0]).draw((3,), INTERVAL),
        Noise(0, [1]).draw((3,), INTERVAL),
        Noise(0, [0]).draw((3,), INTERVAL[::-1]),
        Noise(0, [0]).draw((3,), (0.7, 0.30000001)),
        Noise(0, [0]).draw((3,), INTERVAL, occurrence=1),
        Noise(0, [0]).prior((3,)),
    ]
    assert len({tuple(draw.flatten().tolist()) for draw in draws}) == len(draws)


def test_precision_only_rounds():
    double = Noise.first(2).draw((5,), INTERVAL, dtype=torch.float64)
    assert torch.equal(Noise.first(2).draw((5,), INTERVAL), double.float())
    assert torch.equal(Noise.first(2).draw((5,), INTERVAL, dtype=torch.bfloat16), double.bfloat16())


def test_the_noise_is_standard_normal_and_independent():
    n = 40_000
    x = Noise.first(n, seed=5).draw((2,), INTERVAL, dtype=torch.float64)
    y = Noise.first(n, seed=5).draw((2,), (0.3, 0.1), dtype=torch.float64)
    everything = torch.cat([x, y], dim=1)
    assert float(everything.mean(0).abs().max()) < 4.5 / math.sqrt(n)
    assert torch.allclose(everything.T.cov(), torch.eye(4, dtype=torch.float64), atol=4.5 * math.sqrt(2 / n))
    assert float((x**4).mean()) == pytest.approx(3.0, abs=4.5 * math.sqrt(96 / (2 * n)))


def test_the_stream_is_frozen():
    """Samples in papers and bug reports are named by their seed: these numbers must never change."""
    draw = Noise(7, [3]).draw((3,), (0.5, 0.25), 2, torch.float64)
    assert draw.flatten().tolist() == [-0.751909564414194, 0.6136499604540602, 1.2852358693590746]


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_outside_the_key_is_refused(seed):
    with pytest.raises(BadValue, match="0 <= seed < 2"):
        Noise(seed, [0])


# --------------------------------------------------------------------------------------------------------- Brownian paths

TIMES = st.floats(1e-6, 100.0)


@settings(max_examples=40, deadline=None)
@given(times=st.lists(TIMES, min_size=3, max_size=3, unique=True), order=st.permutations(range(3)))
def test_increments_add_up_whatever_is_asked_first(times, order):
    """W(s, u) = W(s, t) + W(t, u): by value, not in distribution, for any order of questions."""
    s, t, u = sorted(times, reverse=True)
    asked, alone = Brownian(3, [5, 0]), Brownian(3, [5, 0])
    values = {at: asked.at(at, (2,)) for at in [(s, t, u)[i] for i in order]}

    def increment(one, other):
        return math.sqrt(one - other) * alone.draw((2,), (one, other), dtype=torch.float64)

    assert torch.allclose(increment(s, u), increment(s, t) + increment(t, u), rtol=0, atol=1e-13 * 100)
    assert torch.allclose(increment(s, u), values[s] - values[u], rtol=0, atol=1e-13 * 100)


def test_a_brownian_path_has_independent_normal_increments():
    """Each interval, down to the shortest and over powers of two, has variance u - s; no two go together."""
    times, n = (0.0, 1e-6, 2e-6, 0.002, 0.0021, 0.5, 0.7, 1.0, 3.0, 80.0, 90.0), 20_000
    path = Brownian(3, [0])
    draws = torch.stack([path.draw((n,), (t, s), dtype=torch.float64)[0] for s, t in zip(times, times[1:], strict=False)])
    # chi-square with n degrees of freedom, as a normal: variance 2n
    assert ((draws.square().sum(1) - n) / math.sqrt(2 * n)).abs().max() < 4.0
    assert (draws.mean(1) * math.sqrt(n)).abs().max() < 4.0
    # and none goes together with a rise over an interval of the tree, which has noise of its own
    bridge = path.at(0.75, (n,)) - 0.5 * (path.at(0.5, (n,)) + path.at(1.0, (n,)))
    draws = torch.cat([draws, path.draw((n,), (0.5, 1.0), dtype=torch.float64)])
    assert abs(float(bridge[0] @ draws[-1]) / bridge.norm() / draws[-1].norm()) < 4.5 / math.sqrt(n)
    together = draws @ draws.T / math.sqrt(n)
    assert (together - together.diag().diag()).abs().max() < 4.5


def test_a_brownian_draw_is_keyed_like_any_other():
    batch = Brownian(3, range(5)).draw((2, 4), INTERVAL)
    assert torch.equal(Brownian(3, [4, 1]).draw((2, 4), INTERVAL), batch[[4, 1]])
    assert not torch.equal(Brownian(4, range(5)).draw((2, 4), INTERVAL), batch)
    assert not torch.equal(Brownian(3, range(5)).draw((2, 4), INTERVAL, 1), batch)
    assert torch.equal(
        Brownian(3, [0]).draw((4,), INTERVAL), Brownian(3, [0]).draw((4,), INTERVAL, dtype=torch.float64).float()
    )
    # the end of the data is time zero; a rise, and a stay, have noise of their own
    assert torch.equal(Brownian(3, [0]).draw((4,), (0.3, -1.0)), Brownian(3, [0]).draw((4,), (0.3, 0.0)))
    for interval in ((0.3, 0.7), (0.3, 0.3), (-1.0, -1.0)):
        assert torch.equal(Brownian(3, [0]).draw((4,), interval), Noise(3, [0]).draw((4,), interval))


def test_solutions_on_one_brownian_path_converge_strongly(mixture):
    """Their distance falls with strong order one, as the noise is additive; on keyed intervals it does not fall at all."""
    den = mixture(rg.paths.VP())
    path, x = den.path, 2.0 * Noise.first(16, seed=2).prior((2,), torch.float64)

    def end(name: str, n: int, noise) -> torch.Tensor:
        grid = [path.time_of_sigma(2.0 * 0.25 ** (i / n)) for i in range(n + 1)]
        *_, last = rg.steps(rg.recipes.get(name).compile(path, grid)[:-1], den, x=x, seed=5, noise=noise)
        return last.x_t

    for name in ("euler_maruyama", "ddpm"):
        exact = end(name, 256, Brownian)
        errors = [float((end(name, n, Brownian) - exact).square().mean().sqrt()) for n in (8, 16, 32)]
        slope = math.log2(errors[0] / errors[2]) / 2
        assert slope == pytest.approx(1.0, abs=0.2), (name, errors)
        apart = [float((end(name, n, Noise) - exact).square().mean().sqrt()) for n in (8, 32)]
        assert min(apart) > 3 * errors[0]


def test_parts_of_a_run_share_no_seed_with_each_other_or_with_near_runs():
    seeds = {apart(seed, part) for seed in range(50) for part in range(50)}
    assert len(seeds) == 2500
    assert all(apart(seed, 0) == seed for seed in (0, 3, 2**64 - 1))
    Noise(apart(2**64 - 1, 7), [0]).draw((1,), INTERVAL)
