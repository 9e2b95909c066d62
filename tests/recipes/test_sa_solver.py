"""SA-Solver against a loop that keeps predicted and corrected states apart and integrates numerically."""

import math

import pytest
import torch
from scipy.integrate import quad

import retrograde as rg
from retrograde.errors import BadValue
from retrograde.noise import Noise

EDM = rg.paths.EDM()
LEVELS = list(rg.grids.karras(EDM, 9))


def adams(sigma, following, knots, tau):
    """Weights of the predictions at the knots: the weighted integrals of their Lagrange polynomials."""
    lam, end, k = -math.log(sigma), -math.log(following), 1 + tau**2
    places = [-math.log(knot) for knot in knots]

    def weight(j):
        def lagrange(u):
            return math.prod((u - p) / (places[j] - p) for i, p in enumerate(places) if i != j)

        return quad(lambda u: k * math.exp(-k * (end - u)) * lagrange(u), lam, end, epsabs=1e-13, epsrel=1e-12)[0]

    return [weight(j) for j in range(len(knots))]


@pytest.mark.parametrize(("predictor", "corrector"), [(1, 0), (2, 0), (3, 0), (2, 2), (3, 3), (3, 4), (2, 1)])
@pytest.mark.parametrize("tau", [0.0, 0.6, 1.0])
def test_sa_solver_is_the_loop_with_exact_integrals(predictor, corrector, tau, mixture):
    start = x = 80.0 * Noise.first(3, seed=2).prior((2,), torch.float64)
    den, noise = mixture(EDM), Noise.first(3, seed=4)
    asked = [(LEVELS[0], den.predict(x, LEVELS[0]).data)]
    for sigma, following in zip(LEVELS, LEVELS[1:], strict=False):
        h = math.log(sigma / following)
        draw = noise.draw((2,), (sigma, following), dtype=torch.float64)
        base = following / sigma * math.exp(-(tau**2) * h) * x
        base = base + following * math.sqrt(-math.expm1(-2 * tau**2 * h)) * draw
        used = asked[:predictor]
        weights = adams(sigma, following, [s for s, _ in used], tau)
        x = base + sum(w * d for w, (_, d) in zip(weights, used, strict=True))
        asked = [(following, den.predict(x, following).data), *asked]
        if corrector and following != LEVELS[-1]:
            used = asked[:corrector]
            weights = adams(sigma, following, [s for s, _ in used], tau)
            x = base + sum(w * d for w, (_, d) in zip(weights, used, strict=True))
    options = {"predictor": predictor, "corrector": corrector, "tau": tau}
    made = rg.sample(den, rg.plan("sa_solver", EDM, grid=LEVELS, **options), x=start, seed=4)
    assert torch.allclose(made, asked[0][1], rtol=0, atol=1e-8)


def test_of_order_one_it_is_ddpm_or_ddim():
    path = rg.paths.VP()
    for tau, known in ((1.0, "ddpm"), (0.0, "ddim")):
        plan = rg.plan("sa_solver", path, nfe=8, predictor=1, corrector=0, tau=tau)
        for one, other in zip(plan.rows, rg.plan(known, path, nfe=8).rows, strict=True):
            for part in ("states", "outputs", "noises"):
                assert getattr(one, part) == pytest.approx(getattr(other, part), rel=1e-9, abs=1e-9)


def test_noise_is_added_in_a_range_of_levels_only():
    plan = rg.plan("sa_solver", EDM, grid=LEVELS, tau_min=0.05, tau_max=20.0)
    steps = [row for row in plan.rows[:-1] if row.next_time != row.time]
    starts = dict(zip((row.next_time for row in steps), LEVELS, strict=False))
    assert [bool(row.noises) for row in steps] == [0.05 <= starts[row.next_time] <= 20.0 for row in steps]


@pytest.mark.parametrize("options", [{"predictor": 0}, {"corrector": 5}, {"tau": -1.0}])
def test_what_is_outside_its_range_is_refused(options):
    with pytest.raises(BadValue, match="tau >= 0"):
        rg.plan("sa_solver", EDM, nfe=5, **options)
